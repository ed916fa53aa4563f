"""Operators of the standard provider, with the executor as an operator's argument."""

from datetime import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG

PATH = "/opt/airflow/filestorage/foreign/{{ run_id }}.txt"


def read(path):
    with open(path) as file:  # noqa: PTH123 - as many DAGs do it
        return file.read().strip()


with DAG("foreign_classic", schedule=None, start_date=datetime(2025, 1, 1)):
    fetch = BashOperator(
        task_id="fetch",
        bash_command=f"mkdir -p $(dirname '{PATH}') && hostname >'{PATH}' && id -un >>'{PATH}'",
        executor="EdgeExecutor",
        queue="edge_queue",
    )
    load = PythonOperator(task_id="load", python_callable=read, op_args=[PATH])
    fetch >> load
