"""Unit tests run with an Airflow home of their own, and import what a host can: dags/, and the watch of the NAS."""

import os
import sys
import tempfile
from pathlib import Path

DAGS = Path(__file__).resolve().parents[2] / "dags"
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-home-")
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(DAGS)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__EXECUTOR"] = "CeleryExecutor,airflow.providers.edge3.executors.EdgeExecutor"
sys.path[:0] = [str(DAGS), str(DAGS.parent / "roles/airflow_base/files")]
