"""Connections to the lab's hosts, a session with Airflow's API, and journals when a test fails."""

import pytest
import testinfra

from lab import HOSTS, SSH_CONFIG, STATE, address, pid_of
from pipeline import Airflow, run_pipeline


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
def airflow():
    return Airflow(f"http://{address('main1')}:8080", "admin", (STATE / "secrets/admin_password").read_text())


@pytest.fixture(scope="session")
def outcome(airflow):
    """One run of the pipeline, from the trigger of producer_dag to the end of consumer_dag."""
    return run_pipeline(airflow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Append what failed on the hosts to the report of a failed test."""
    report = yield
    if report.failed:
        for name in filter(pid_of, HOSTS):
            command = "systemctl --failed --no-legend --plain; journalctl --priority warning --lines 15 --no-pager"
            report.sections.append((f"journal of {name}", connect(name).run(command).stdout))
    return report
