"""The role airflow_dags alone, after two other versions of the DAG code had been released."""

import hashlib

import pytest

from lab import ROOT

DAGS = "/opt/airflow/dags"


@pytest.fixture(params=["nas1", "edge1"])
def host(request):
    return request.getfixturevalue(request.param)


def test_every_file_is_the_controllers(host):
    expected = {
        str(path.relative_to(ROOT / "dags")): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (ROOT / "dags").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    stub = hashlib.sha256((ROOT / "roles/airflow_dags/files/feed.py").read_bytes()).hexdigest()
    expected |= {f"{name.removesuffix('.yml')}.py": stub for name in expected if name.startswith("feeds/")}
    lines = host.check_output(f"cd {DAGS}/ && find . -type f -printf '%P\\n' | xargs sha256sum").splitlines()
    assert {name: digest for digest, name in map(str.split, lines)} == expected


def test_a_file_that_was_taken_out_is_gone(host):
    assert not host.file(f"{DAGS}/old_dag.py").exists


def test_the_release_before_is_kept_and_older_ones_are_not(host):
    releases = host.check_output("ls /opt/airflow/dags-releases").split()
    assert len(releases) == 2
    assert host.file(DAGS).linked_to.rpartition("/")[2] in releases


def test_the_dag_processor_sees_that_they_are_others(host):
    """It parses what is newer than its last look, which was before the release was switched."""
    switched = float(host.check_output(f"stat --format=%.Y {DAGS}"))
    times = host.check_output(f"find {DAGS}/ -type f -printf '%T@\n'").split()
    assert min(map(float, times)) >= switched


def test_the_airflow_user_reads_and_does_not_write(host):
    as_airflow = "setpriv --reuid=50000 --regid=50000 --clear-groups"
    assert host.run(f"{as_airflow} cat {DAGS}/producer_dag.py").rc == 0
    assert host.run(f"{as_airflow} touch {DAGS}/producer_dag.py").rc != 0
