"""Tasks that count their starts in a file on the NAS, and consumers of users, which know nothing of feeds."""

from datetime import datetime, timedelta
from pathlib import Path
from time import sleep

from airflow.sdk import DAG, Asset, Param, task

EVENTS = Asset("delivery_events")
OTHERS = Asset("delivery_others")
EDGE = {"executor": "EdgeExecutor", "queue": "edge_queue"}


def start(params, dag_run, ti):
    """Record that this task starts, and work for as long as the run says."""
    name = f"{dag_run.run_id} {ti.task_id} {ti.map_index}".replace("/", "_")
    with Path("/opt/airflow/filestorage/delivery_starts.txt").open("a") as file:
        file.write(f"{name}\n")
    sleep(params["seconds"])
    return name


options = {
    "schedule": None,
    "start_date": datetime(2025, 1, 1),
    "params": {"seconds": Param(0, type="integer"), "tasks": Param(1, type="integer")},
    "max_active_tasks": 512,
    # A second start has to be a fault, and not a retry.
    "default_args": {"retries": 0},
}

for where, place in {"edge": EDGE, "celery": {}}.items():
    with DAG(f"delivery_{where}", **options):

        @task(**place)
        def work(number, params=None, dag_run=None, ti=None):
            return start(params, dag_run, ti)

        @task
        def numbers(params=None):
            return list(range(params["tasks"]))

        work.expand(number=numbers())

    with DAG(
        f"delivery_{where}_again", **options | {"default_args": {"retries": 1, "retry_delay": timedelta(minutes=5)}}
    ):

        @task(**place)
        def work_again(params=None, dag_run=None, ti=None):
            return start(params, dag_run, ti)

        work_again()

with DAG("delivery_producer", schedule="@daily", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=16):

    @task(outlets=[EVENTS], **EDGE)
    def produce():
        pass

    produce()

with DAG("delivery_other_producer", schedule=None):

    @task(outlets=[OTHERS])
    def produce_other():
        pass

    produce_other()

CONSUMERS = {"one": [EVENTS], "any": EVENTS | OTHERS, "both": EVENTS & OTHERS}
for name, schedule in CONSUMERS.items():
    with DAG(f"delivery_consumer_{name}", schedule=schedule, max_active_runs=2):

        @task
        def consume(triggering_asset_events=None):
            return sum(len(events) for events in triggering_asset_events.values())

        consume()

with DAG(
    "delivery_late",
    schedule="@daily",
    start_date=datetime(2025, 1, 1),
    catchup=False,
    max_active_runs=40,
):

    @task.sensor(mode="reschedule", poke_interval=600, timeout=7200)
    def wait():
        return False

    wait()
