"""Operators of the standard provider, the executor as an operator's argument; a connection; a deferred task."""

from datetime import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
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
    wait = DateTimeSensorAsync(
        task_id="wait", target_time="{{ (macros.datetime.utcnow() + macros.timedelta(seconds=3)).isoformat() }}"
    )
    on_edge = BashOperator(
        task_id="on_edge", bash_command="echo {{ conn.foreign.password }}", executor="EdgeExecutor", queue="edge_queue"
    )
    on_celery = BashOperator(task_id="on_celery", bash_command="echo {{ conn.foreign.password }}")
    fetch >> load
    wait >> [on_edge, on_celery]
