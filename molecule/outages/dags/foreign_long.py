"""Names as long as Airflow and a file system allow: with what goes before it, a name has 255 characters at most."""

from datetime import datetime

from airflow.sdk import DAG, task

with DAG(f"foreign_{'long' * 58}", schedule=None, start_date=datetime(2025, 1, 1)):

    @task(task_id="long" * 60, executor="EdgeExecutor", queue="edge_queue")
    def on_edge():
        print("It has a long name")

    on_edge()
