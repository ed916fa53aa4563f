"""Connections to the lab's hosts, a session with Airflow's API, and journals when a test fails."""

import contextlib
import os
import shutil
import subprocess

import pytest
import testinfra

from lab import HOSTS, ROOT, SSH_CONFIG, pid_of, ssh
from pipeline import Airflow, run_pipeline, until


def connect(name):
    return testinfra.get_host(f"ssh://{name}", ssh_config=str(SSH_CONFIG))


@pytest.fixture(scope="session")
def nas1():
    return connect("nas1")


@pytest.fixture(scope="session")
def main1():
    return connect("main1")


@pytest.fixture(scope="session")
def edge1():
    return connect("edge1")


@pytest.fixture(scope="session")
def out1():
    return connect("out1")


@pytest.fixture(scope="session")
def sync():
    """Put the DAG code of a directory on every host."""

    def sync(source):
        command = ["ansible-playbook", "playbooks/dags.yml", "-e", f"airflow_dags_src={source}"]
        environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)  # noqa: S603

    return sync


@pytest.fixture(scope="module")
def dags_of_the_tests(request, sync, tmp_path_factory):
    """The project's DAG code with that of the scenario, on every host until the module's tests have ended."""
    directory = tmp_path_factory.mktemp("site") / "dags"
    shutil.copytree(ROOT / "dags", directory)
    shutil.copytree(request.path.parents[1] / "dags", directory, dirs_exist_ok=True)
    sync(directory)
    yield
    sync(ROOT / "dags")


@pytest.fixture(scope="session")
def airflow():
    """A session with the API, which may have been rebooted just now."""

    def log_in():
        with contextlib.suppress(OSError, RuntimeError):
            return Airflow()

    try:
        return until(log_in, 180)
    except TimeoutError:
        return Airflow()  # It says why.


@pytest.fixture(scope="session")
def outcome(airflow):
    """One run of the pipeline, from the trigger of producer_dag to the end of consumer_dag."""
    return run_pipeline(airflow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Append to the report of a failed test what the hosts' journals say."""
    report = yield
    if report.failed:
        units = "--unit 'airflow-*' --unit mysql --unit redis-server --unit nfs-server --unit '*.mount'"
        command = f"systemctl --failed --no-legend --plain; journalctl --no-pager --lines 60 --output short {units}"
        for name in filter(pid_of, HOSTS):
            report.sections.append((f"journal of {name}", ssh(name, command).stdout))
    return report
