"""A task on the edge and one on Celery that write to the NAS each second, for as long as the run says."""

from datetime import datetime
from pathlib import Path
from time import sleep

from airflow.sdk import DAG, Param, task
from foreign_helpers.naming import greeting


def slow(name, seconds):
    for second in range(seconds):
        print(f"{name} second {second}", flush=True)
        Path(f"/opt/airflow/filestorage/slow_on_{name}.txt").write_text(f"{second}\n")
        sleep(1)
    return greeting(name)


with DAG(
    "foreign_slow",
    schedule=None,
    start_date=datetime(2025, 1, 1),
    params={"seconds": Param(10, type="integer")},
):

    @task(executor="airflow.providers.edge3.executors.EdgeExecutor", queue="edge_queue")
    def slow_on_edge(params=None):
        return slow("edge", params["seconds"])

    @task
    def slow_on_celery(params=None):
        return slow("celery", params["seconds"])

    slow_on_edge()
    slow_on_celery()
