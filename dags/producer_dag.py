"""Every day: a task on the main server, then the day's file is written to the NAS by an edge worker."""

from __future__ import annotations

import socket
from datetime import datetime, timedelta

from airflow.sdk import dag, task

from nas import FILESTORAGE, TIME_ZONE, day_of, nas_filestorage, publish


@dag(
    # Each day at 06:00 in the zone of start_date.
    schedule="0 6 * * *",
    start_date=datetime(2025, 10, 20, tzinfo=TIME_ZONE),
    catchup=False,
    tags=["nas"],
    doc_md=__doc__,
)
def producer_dag():
    @task
    def task_for_celery_worker() -> str:
        """Run on the main server, where everything runs that names no executor."""
        print(f"task_for_celery_worker runs on {socket.gethostname()}")
        return socket.gethostname()

    @task(
        executor="EdgeExecutor",
        queue="edge_queue",
        outlets=[nas_filestorage],
        retries=2,
        retry_delay=timedelta(minutes=1),
    )
    def task_for_edge_worker(dag_run=None, logical_date=None, outlet_events=None) -> str:
        """Write the day's file to the NAS, and say where it is."""
        day = day_of(logical_date, dag_run.run_after)
        path = FILESTORAGE / f"{day:%Y%m%d}.txt"
        # Put the download from your outside service here. A repeated run changes nothing, unless the content changed.
        manifest = publish(path, f"date={day:%Y-%m-%d}\nwritten by={socket.gethostname()}\n".encode())
        print(f"task_for_edge_worker wrote {manifest['path']} on {socket.gethostname()}")
        # The consumer opens this very path and compares the digest: it neither guesses a date nor searches a directory.
        outlet_events[nas_filestorage].extra = manifest
        return manifest["path"]

    task_for_celery_worker() >> task_for_edge_worker()


producer_dag()
