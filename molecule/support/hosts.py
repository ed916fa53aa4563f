"""Connections to the lab's hosts, and their journals when a test fails."""

import signal

import pytest
import testinfra

from support import LAB


@pytest.fixture(autouse=True)
def limit():
    """End a test that hangs, so that it does not hold up the others."""

    def give_up(*_):
        raise TimeoutError("no end after half an hour: a host, the database or the NAS does not answer")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(1800)
    yield
    signal.alarm(0)


def connect(name):
    return testinfra.get_host(f"ssh://{name}", ssh_config=str(LAB.ssh_config))


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
def edge2():
    return connect("edge2")


@pytest.fixture(scope="session")
def out1():
    return connect("out1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Append the hosts' journals to the report of a failed test."""
    report = yield
    if report.failed:
        units = "--unit 'airflow-*' --unit mysql --unit redis-server --unit nfs-server --unit '*.mount'"
        command = f"systemctl --failed --no-legend --plain; journalctl --no-pager --lines 60 --output short {units}"
        for host in LAB.hosts.values():
            if host.pid:
                report.sections.append((f"journal of {host.name}", host.ssh(command).stdout))
    return report
