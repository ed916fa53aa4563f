"""The role airflow_dags alone, after two other versions of the DAG code had been released."""

import hashlib
from pathlib import Path

from lab import ROOT

DAGS = "/opt/airflow/dags"


def test_every_file_is_the_controllers(edge1):
    """Of each source, with the project's modules beside; none has another's .airflowignore."""
    expected = {
        str(path.relative_to(source)): hashlib.sha256(path.read_bytes()).hexdigest()
        for source in (Path(__file__).parents[1] / "dags", ROOT / "dags", ROOT / "dag_modules")
        for path in source.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.name != ".airflowignore"
    }
    assert {"team_dag.py", "producer_dag.py", "nas.py", "feed/load.py"} <= set(expected)
    stub = hashlib.sha256((ROOT / "roles/airflow_dags/files/feed.py").read_bytes()).hexdigest()
    expected |= {f"{name.removesuffix('.yml')}.py": stub for name in expected if name.startswith("feeds/")}
    lines = edge1.check_output(f"cd {DAGS}/ && find . -type f -printf '%P\\n' | xargs sha256sum").splitlines()
    found = {name: digest for digest, name in map(str.split, lines)}
    del found[".airflowignore"]
    assert found == expected
    ignored = edge1.file(f"{DAGS}/.airflowignore").content_string.splitlines()
    assert [line for line in ignored if not line.startswith("#")] == ["/helpers/", "/nas.py", "/feed/"]


def test_a_file_that_was_taken_out_is_gone(edge1):
    assert not edge1.file(f"{DAGS}/old_dag.py").exists


def test_the_release_before_is_kept_and_older_ones_are_not(edge1):
    releases = edge1.check_output("ls /opt/airflow/dags-releases").split()
    assert len(releases) == 2
    assert edge1.file(DAGS).linked_to.rpartition("/")[2] in releases


def test_the_dag_processor_sees_that_they_are_others(edge1):
    """It parses what is newer than its last look, which was before the release was switched."""
    switched = float(edge1.check_output(f"stat --format=%.Y {DAGS}"))
    times = edge1.check_output(f"find {DAGS}/ -type f -printf '%T@\n'").split()
    assert min(map(float, times)) >= switched


def test_the_airflow_user_reads_and_does_not_write(edge1):
    as_airflow = "setpriv --reuid=50000 --regid=50000 --clear-groups"
    assert edge1.run(f"{as_airflow} cat {DAGS}/producer_dag.py").rc == 0
    assert edge1.run(f"{as_airflow} touch {DAGS}/producer_dag.py").rc != 0
