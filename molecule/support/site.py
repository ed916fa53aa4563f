"""The site of the lab: its DAG code, a session with its API, and one run of the pipeline."""

import contextlib
import json
import subprocess

import pytest

from lab import ROOT
from support import LAB
from support.pipeline import Airflow, run_pipeline, until


@pytest.fixture(scope="session")
def sync():
    """Put the DAG code of directories on every host, with this exit code of the playbook; return its output."""

    def sync(*sources, code=0):
        variables = json.dumps({"airflow_dags_src": [str(source) for source in sources]})
        command = ["ansible-playbook", "playbooks/dags.yml", "-e", variables]
        environment = LAB.environment | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S603
        assert done.returncode == code, done.stdout
        return done.stdout

    return sync


@pytest.fixture(scope="session")
def dags_of_the_tests(request, sync):
    """Put the project's DAG code and that of the tests' scenarios on every host, until all tests have ended."""
    directories = {item.path.parents[1] / "dags" for item in request.session.items}
    sources = (ROOT / "dags", *sorted(directory for directory in directories if directory.is_dir()))
    sync(*sources)
    yield sources
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
