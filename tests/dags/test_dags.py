"""DAGs and nas, apart from the hosts: the day of a run, whole files, and that every file imports on an edge host."""

import hashlib
import json
import runpy
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction

import nas

DAGS = Path(__file__).resolve().parents[2] / "dags"
# What a site says, in the environment of Airflow's units.
SITES = ("NAS_PATH", "NAS_GUARD", "AIRFLOW__CORE__DEFAULT_TIMEZONE")


@pytest.fixture
def filestorage(tmp_path, monkeypatch):
    """A directory that stands for the NAS."""
    monkeypatch.setattr(nas, "FILESTORAGE", tmp_path)
    (tmp_path / nas.GUARD).touch()
    return tmp_path


@pytest.fixture(scope="module")
def dagbag():
    return DagBag(DAGS)


def test_every_dag_file_imports_where_neither_celery_nor_mysql_is_installed(dagbag):
    assert dagbag.import_errors == {}
    assert {"producer_dag", "consumer_dag"} <= set(dagbag.dags)


def test_the_edge_task_goes_to_the_edge_queue(dagbag):
    task = dagbag.dags["producer_dag"].get_task("task_for_edge_worker")
    assert (task.executor, task.queue) == ("EdgeExecutor", "edge_queue")
    assert [asset.name for asset in task.outlets] == ["nas_filestorage"]
    assert task.upstream_task_ids == {"task_for_celery_worker"}


@pytest.mark.parametrize(
    ("logical_date", "run_after", "day"),
    [
        # 06:00 in Seoul is 21:00 UTC of the day before.
        (datetime(2025, 10, 19, 21, 0, tzinfo=UTC), datetime(2025, 10, 19, 21, 0, tzinfo=UTC), date(2025, 10, 20)),
        # A run that starts late, or is a backfill, means its own day.
        (datetime(2025, 10, 19, 21, 0, tzinfo=UTC), datetime(2025, 11, 3, 1, 0, tzinfo=UTC), date(2025, 10, 20)),
        # The last second of a day in Seoul, and the first of the next one.
        (datetime(2025, 10, 20, 14, 59, 59, tzinfo=UTC), datetime(2025, 10, 20, 15, 0, tzinfo=UTC), date(2025, 10, 20)),
        (datetime(2025, 10, 20, 15, 0, 0, tzinfo=UTC), datetime(2025, 10, 20, 15, 0, tzinfo=UTC), date(2025, 10, 21)),
        # Month and year ends, and a leap day.
        (datetime(2025, 12, 31, 15, 0, tzinfo=UTC), datetime(2025, 12, 31, 15, 0, tzinfo=UTC), date(2026, 1, 1)),
        (datetime(2028, 2, 28, 15, 0, tzinfo=UTC), datetime(2028, 2, 28, 15, 0, tzinfo=UTC), date(2028, 2, 29)),
        # Triggered by hand without a logical date.
        (None, datetime(2025, 10, 20, 15, 30, tzinfo=UTC), date(2025, 10, 21)),
    ],
)
def test_day_of_a_run(logical_date, run_after, day):
    assert nas.day_of(logical_date, run_after) == day


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "/opt/airflow/filestorage .nas Asia/Seoul"),
        (dict.fromkeys(SITES, ""), "/opt/airflow/filestorage .nas Asia/Seoul"),
        (dict(zip(SITES, ("/mnt/nas", ".share", "Europe/Berlin"), strict=True)), "/mnt/nas .share Europe/Berlin"),
        ({SITES[2]: "utc"}, "/opt/airflow/filestorage .nas UTC"),
        ({SITES[2]: "UTC"}, "/opt/airflow/filestorage .nas UTC"),
    ],
)
def test_what_a_site_has_set_reaches_tasks_through_the_environment(monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    module = runpy.run_path(nas.__file__)
    assert f"{module['FILESTORAGE']} {module['GUARD']} {module['TIME_ZONE']}" == expected


def names(directory):
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


def hidden(directory):
    return sorted(path.name for path in directory.iterdir() if path.name.startswith(".") and path.name != nas.GUARD)


def test_what_was_published_is_read_back(filestorage):
    path = filestorage / "20251020.txt"
    manifest = nas.publish(path, b"one\n", source="https://example.com/one", rows=1)
    assert nas.read(manifest) == b"one\n"
    assert manifest | {"fetched_at": ""} == {
        "path": str(path),
        "version": 1,
        "sha256": hashlib.sha256(b"one\n").hexdigest(),
        "bytes": 4,
        "rows": 1,
        "source": "https://example.com/one",
        "day": None,
        "fetched_at": "",
    }
    assert json.loads((filestorage / ".20251020.txt.json").read_text()) == manifest
    assert path.stat().st_mode & 0o777 == 0o660


def test_the_same_content_again_changes_nothing_and_other_content_is_a_new_version(filestorage):
    path = filestorage / "20251020.csv.gz"
    first = nas.publish(path, b"one\n")
    before = path.stat()
    assert nas.publish(path, iter([b"on", b"e\n"]), source="again") == first
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    second = nas.publish(path, b"two\n")
    third = nas.publish(path, b"one\n")
    assert names(filestorage) == ["20251020.csv.gz", "20251020.v2.csv.gz", "20251020.v3.csv.gz"]
    assert [nas.read(manifest) for manifest in (first, second, third)] == [b"one\n", b"two\n", b"one\n"]
    assert nas.publish(path, b"one\n") == third
    assert len(hidden(filestorage)) == 3, "a temporary file was left"


def test_a_version_that_was_removed_does_not_come_back(filestorage):
    path = filestorage / "20251020.txt"
    nas.publish(path, b"one\n")
    second = nas.publish(path, b"two\n")
    path.unlink()
    assert nas.publish(path, b"two\n") == second
    assert nas.read(nas.publish(path, b"one\n")) == b"one\n"
    assert names(filestorage) == ["20251020.v2.txt", "20251020.v3.txt"]


@pytest.mark.parametrize("name", ["20251020.txt", "number_20251020.txt"])
def test_a_version_that_was_removed_and_left_its_manifest_is_not_given_to_other_content(filestorage, name):
    path = filestorage / name
    first = nas.publish(path, b"one\n")
    path.unlink()
    second = nas.publish(path, b"two\n")
    assert (second["path"], second["version"]) == (str(path.with_suffix(".v2.txt")), 2)
    # The same content as before gets its name again.
    Path(second["path"]).unlink()
    assert nas.publish(path, b"two\n")["path"] == second["path"]
    assert nas.publish(path, b"one\n")["version"] == 3
    assert nas.manifest_of(path) == first
    # The newest counts, when all of them were removed, too.
    for number in (2, 3):
        nas.version_of(path, number).unlink()
    assert nas.publish(path, b"two\n")["version"] == 4


def test_an_empty_file_is_not_published(filestorage):
    for content in (b"", iter([])):
        with pytest.raises(ValueError, match="would be empty"):
            nas.publish(filestorage / "20251020.txt", content)
    assert names(filestorage) == hidden(filestorage) == []


def test_writers_at_the_same_time_lose_nothing(filestorage):
    path = filestorage / "20251020.txt"
    contents = [f"{number}\n".encode() * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        manifests = list(pool.map(lambda content: nas.publish(path, content), contents))
    assert [nas.read(manifest) for manifest in manifests] == contents
    assert len(names(filestorage)) == 8


def test_a_link_whose_answer_got_lost_is_not_another_version(filestorage, monkeypatch):
    link = Path.hardlink_to

    def twice(self, target):
        link(self, target)
        link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", twice)
    nas.publish(filestorage / "20251020.txt", b"one\n")
    assert names(filestorage) == ["20251020.txt"]


def test_a_file_whose_manifest_got_lost_gets_another(filestorage):
    manifest = nas.publish(filestorage / "20251020.txt", b"one\n")
    (filestorage / ".20251020.txt.json").unlink()
    assert nas.publish(filestorage / "20251020.txt", b"one\n")["sha256"] == manifest["sha256"]
    assert names(filestorage) == ["20251020.txt"]
    assert hidden(filestorage) == [".20251020.txt.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(filestorage, monkeypatch):
    path = filestorage / "20251020.txt"
    manifest = nas.publish(path, b"old\n")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nas.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        nas.publish(path, b"new\n")
    assert nas.read(manifest) == b"old\n"
    assert names(filestorage) == ["20251020.txt"]
    assert hidden(filestorage) == [".20251020.txt.json"]


def test_a_source_that_breaks_off_leaves_nothing(filestorage):
    def source():
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        nas.publish(filestorage / "20251020.txt", source())
    assert names(filestorage) == hidden(filestorage) == []


def test_a_writer_that_is_killed_half_way_leaves_the_old_file(filestorage):
    path = filestorage / "20251020.txt"
    manifest = nas.publish(path, b"old\n")
    # It dies when the content is written but not on the disk, before the file has its name.
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import nas; from pathlib import Path;"
        "nas.FILESTORAGE = Path(sys.argv[2]).parent;"
        "nas.os.fsync = lambda _: os.kill(os.getpid(), 9); nas.publish(Path(sys.argv[2]), b'half')"
    )
    done = subprocess.run([sys.executable, "-c", program, Path(nas.__file__).parent, path], check=False)  # noqa: S603
    assert done.returncode == -9
    assert nas.read(manifest) == b"old\n"
    assert names(filestorage) == ["20251020.txt"]


def test_a_missing_an_empty_a_changed_and_a_foreign_file_are_errors(filestorage, monkeypatch):
    monkeypatch.setattr(nas, "PATIENCE", 0)
    path = filestorage / "20251020.txt"
    with pytest.raises(FileNotFoundError):
        nas.read({"path": str(path)})
    path.touch()
    with pytest.raises(ValueError, match="is empty"):
        nas.read({"path": str(path)})
    path.unlink()
    manifest = nas.publish(path, b"one\n")
    path.write_bytes(b"On")
    with pytest.raises(ValueError, match=f"2 bytes with the SHA-256 .* and not {manifest['sha256']}"):
        nas.read(manifest)
    for use in (lambda path: nas.read({"path": str(path)}), lambda path: nas.publish(path, b"")):
        with pytest.raises(ValueError, match="not on the NAS"):
            use(filestorage / "../../etc/passwd")


def test_nothing_is_written_or_read_where_the_nas_is_not(filestorage):
    path = filestorage / "20251020.txt"
    manifest = nas.publish(path, b"one\n")
    (filestorage / nas.GUARD).unlink()
    for use in (lambda: nas.publish(path, b"two\n"), lambda: nas.read(manifest)):
        with pytest.raises(OSError, match=r"\.nas is missing: the NAS is not mounted there"):
            use()
    assert names(filestorage) == ["20251020.txt"]


def test_a_reader_waits_for_a_file_that_its_host_does_not_see_yet(filestorage):
    path = filestorage / "20251020.txt"
    timer = threading.Timer(0.5, lambda: nas.publish(path, b"late\n"))
    timer.start()
    assert nas.read({"path": str(path)}) == b"late\n"
    timer.join()


@pytest.fixture
def produce(dagbag, filestorage, monkeypatch):
    """Return a function that runs the edge task, and returns what it told its asset event."""
    function = dagbag.dags["producer_dag"].get_task("task_for_edge_worker").python_callable
    monkeypatch.setitem(function.__globals__, "FILESTORAGE", filestorage)

    def produce(logical_date, run_after):
        events = {nas.nas_filestorage: SimpleNamespace(extra=None)}
        function(dag_run=SimpleNamespace(run_after=run_after), logical_date=logical_date, outlet_events=events)
        return events[nas.nas_filestorage].extra

    return produce


def test_a_backfill_writes_a_file_for_each_of_its_days(dagbag, produce):
    """All of its runs start now; each means the day of its logical date."""
    now = datetime(2026, 3, 1, tzinfo=UTC)
    days = [datetime(2025, 12, 29, 21, 0, tzinfo=UTC) + timedelta(days=number) for number in range(5)]
    extras = [produce(day, now) for day in days]
    names = ["20251230.txt", "20251231.txt", "20260101.txt", "20260102.txt", "20260103.txt"]
    assert [Path(extra["path"]).name for extra in extras] == names
    assert [item["lines"][0] for item in consume(dagbag, [SimpleNamespace(extra=extra) for extra in extras])] == [
        f"date={name[:4]}-{name[4:6]}-{name[6:8]}" for name in names
    ]


def test_a_run_that_is_repeated_on_another_day_writes_the_same_file_again(produce, filestorage):
    day = datetime(2025, 10, 19, 21, 0, tzinfo=UTC)
    assert produce(day, day) == produce(day, day + timedelta(days=3))
    assert names(filestorage) == ["20251020.txt"]


def test_the_producer_runs_at_six_in_the_morning_of_its_zone(dagbag):
    # As the scheduler sees it.
    timetable = DagSerialization.from_dict(DagSerialization.to_dict(dagbag.dags["producer_dag"])).timetable
    run = timetable.next_dagrun_info(
        last_automated_data_interval=None,
        restriction=TimeRestriction(earliest=datetime(2025, 10, 20, tzinfo=nas.TIME_ZONE), latest=None, catchup=True),
    )
    assert run.logical_date.astimezone(UTC) == datetime(2025, 10, 19, 21, 0, tzinfo=UTC)


def consume(dagbag, events):
    function = dagbag.dags["consumer_dag"].get_task("process_file_from_nas").python_callable
    return function(triggering_asset_events={nas.nas_filestorage: events} if events else {})


def event(manifest):
    return SimpleNamespace(extra=manifest)


def test_the_consumer_reads_every_file_of_merged_events_once(dagbag, filestorage):
    first, second = (nas.publish(filestorage / name, name.encode()) for name in ("20251020.txt", "20251021.txt"))
    events = [event(manifest) for manifest in (first, second, first)]
    assert [Path(item["path"]).name for item in consume(dagbag, events)] == ["20251020.txt", "20251021.txt"]


def test_the_consumer_fails_without_a_file(dagbag, filestorage, monkeypatch):
    monkeypatch.setattr(nas, "PATIENCE", 0)
    with pytest.raises(FileNotFoundError):
        consume(dagbag, [event({"path": str(filestorage / "20251020.txt")})])


def test_the_consumer_fails_without_an_event(dagbag):
    with pytest.raises(Exception, match="trigger producer_dag"):
        consume(dagbag, [])
