"""The site of the lab: its DAG code, a session with its API, and one run of the pipeline."""

import contextlib
import shutil
import subprocess

import pytest

from lab import ROOT
from support import LAB
from support.pipeline import Airflow, run_pipeline, until


@pytest.fixture(scope="session")
def sync():
    """Put the DAG code of a directory on every host."""

    def sync(source):
        command = ["ansible-playbook", "playbooks/dags.yml", "-e", f"airflow_dags_src={source}"]
        environment = LAB.environment | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)  # noqa: S603

    return sync


@pytest.fixture(scope="session")
def dags_of_the_tests(request, sync, tmp_path_factory):
    """Put the project's DAG code and that of the tests' scenarios on every host, until all tests have ended."""
    directory = tmp_path_factory.mktemp("site") / "dags"
    for source in (ROOT / "dags", *{item.path.parents[1] / "dags" for item in request.session.items}):
        if source.is_dir():
            shutil.copytree(source, directory, dirs_exist_ok=True)
    sync(directory)
    yield
    sync(ROOT / "dags")


@pytest.fixture(scope="session")
def airflow():
    """Log in to the API; main1 may have been rebooted just now."""

    def log_in():
        with contextlib.suppress(OSError, RuntimeError):
            return Airflow()

    try:
        return until(log_in, 180)
    except TimeoutError:
        return Airflow()  # The exception of the last attempt says why.


@pytest.fixture(scope="session")
def outcome(airflow):
    """One run of the pipeline, from the trigger of producer_dag to the end of consumer_dag."""
    return run_pipeline(airflow)
