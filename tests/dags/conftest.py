"""Unit tests run with an Airflow home of their own, and import what a host can: DAGs, modules, the watch of the NAS."""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-home-")
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(DAGS)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__EXECUTOR"] = "CeleryExecutor,airflow.providers.edge3.executors.EdgeExecutor"
# What a site sets is not what these tests are about.
for name in ("NAS_PATH", "NAS_GUARD", "AIRFLOW__CORE__DEFAULT_TIMEZONE"):
    os.environ.pop(name, None)
FILES = [str(ROOT / f"roles/{role}/files") for role in ("airflow_base", "airflow_main", "airflow_edge")]
sys.path[:0] = [str(ROOT / "dag_modules"), str(DAGS), *FILES]
