"""Two DAGs from the feed of this name, the .yml beside: Airflow 3.3 finds DAGs in Python files only."""

from feed import dags

fetch_dag, load_dag = dags(__file__)
