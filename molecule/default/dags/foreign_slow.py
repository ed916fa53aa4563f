"""A task on the edge and one on Celery that take as long as the run says."""

from datetime import datetime
from time import sleep

from airflow.sdk import DAG, Param, task
from foreign_helpers.naming import greeting

with DAG(
    "foreign_slow",
    schedule=None,
    start_date=datetime(2025, 1, 1),
    params={"seconds": Param(10, type="integer")},
):

    @task(executor="airflow.providers.edge3.executors.EdgeExecutor", queue="edge_queue")
    def slow_on_edge(params=None):
        for second in range(params["seconds"]):
            print(f"edge second {second}", flush=True)
            sleep(1)
        return greeting("edge")

    @task
    def slow_on_celery(params=None):
        for second in range(params["seconds"]):
            print(f"celery second {second}", flush=True)
            sleep(1)
        return greeting("celery")

    slow_on_edge()
    slow_on_celery()
