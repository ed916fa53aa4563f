"""The integration test of the edge provider, an Airflow DAG in its wheel, once for each executor."""

import runpy


def integration_test(name, **where):
    # A module is imported once only, and has one DAG.
    dag = runpy.run_module("airflow.providers.edge3.example_dags.integration_test")["dag"]
    dag.dag_id = f"foreign_integration_on_{name}"
    for task in dag.tasks:
        arguments = task.partial_kwargs if task.is_mapped else vars(task)
        arguments.update(where)
    return dag


on_celery = integration_test("celery")
on_edge = integration_test("edge", executor="EdgeExecutor", queue="edge_queue")
