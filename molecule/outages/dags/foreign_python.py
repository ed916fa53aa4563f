"""Tasks that start python and airflow from PATH, and tasks with another Python, each on both executors."""

from datetime import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import ExternalPythonOperator
from airflow.sdk import DAG, task

# Airflow bars tasks from the database by a value of these variables with which no command of Airflow starts.
VERSION = "env -u AIRFLOW__DATABASE__SQL_ALCHEMY_CONN -u AIRFLOW__CORE__SQL_ALCHEMY_CONN airflow version"
PREFIX = 'python -c "import sys; print(sys.prefix)"'


def prefix():
    import sys

    return sys.prefix


def command():
    return PREFIX


with DAG("foreign_python", schedule=None, start_date=datetime(2025, 1, 1)):
    for name, where in {"celery": {}, "edge": {"executor": "EdgeExecutor", "queue": "edge_queue"}}.items():
        BashOperator(task_id=f"python_on_{name}", bash_command=PREFIX, **where)
        BashOperator(task_id=f"airflow_on_{name}", bash_command=VERSION, **where)
        ExternalPythonOperator(
            task_id=f"external_on_{name}",
            python="/usr/bin/python3",
            python_callable=prefix,
            expect_airflow=False,
            **where,
        )
        task.bash(command, task_id=f"bash_on_{name}", **where)()
        task.virtualenv(prefix, task_id=f"virtualenv_on_{name}", **where)()
