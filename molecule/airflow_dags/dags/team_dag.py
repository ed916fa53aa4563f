"""A DAG of a team's own repository, beside the project's."""

from datetime import datetime

from airflow.sdk import dag, task
from helpers.naming import greet

from nas import TIME_ZONE


@dag(schedule=None, start_date=datetime(2025, 10, 20, tzinfo=TIME_ZONE))
def team_dag():
    task(greet)()


team_dag()
