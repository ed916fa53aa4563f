"""Feeds, apart from the hosts: what a feed's file may say, fetching from services that misbehave, and parsing."""

import asyncio
import bz2
import errno
import gzip
import hashlib
import json
import lzma
import os
import resource
import shutil
import ssl
import sys
import threading
import time
import zipfile
import zlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import asyncssh
import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import nas
from feed import _fetch_dag, fetch, http, load, parse, resume, sftp
from feed.model import Feed

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"
DAY = date(2025, 10, 20)
SMALL = {
    "schedule": "30 5 * * *",
    "timezone": "Europe/Berlin",
    "source": {"connection": "service", "path": "/{day:%Y%m%d}.csv"},
    "format": "csv",
    "load": {"connection": "warehouse", "table": "t", "key": ["id"], "columns": {"id": "int", "name": "varchar(20)"}},
}
CSV = b"id,name\n1,one\n2,two\n"
MANY = b"id,name\n" + b"".join(f"{number},name {number}\n".encode() for number in range(3000))


@pytest.fixture
def filestorage(tmp_path, monkeypatch):
    monkeypatch.setattr(nas, "FILESTORAGE", tmp_path)
    (tmp_path / nas.GUARD).touch()
    return tmp_path


def changed(changes):
    """Return the small feed with fields changed, by dotted name; None removes one."""
    content = json.loads(json.dumps(SMALL))
    for name, value in changes.items():
        *where, last = name.split(".")
        target = content
        for part in where:
            target = target.setdefault(part, {})
        if value is None:
            del target[last]
        else:
            target[last] = value
    return content


@pytest.fixture
def feed(tmp_path):
    def feed(changes=None, name="small"):
        path = tmp_path / "feeds" / f"{name}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(changed(changes or {})))
        return Feed.of(path)

    return feed


# -- What a file may say ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": None}, r"feeds/small.yml: schedule: missing"),
        ({"schedule": "daily"}, r"schedule: 'daily': write five cron fields"),
        ({"timezone": "Seoul"}, r"timezone: 'Seoul': no such time zone: write a name such as Asia/Seoul"),
        ({"time_zone": "Asia/Seoul"}, r"time_zone: not a field: did you mean timezone\?"),
        ({"source.pth": "/x"}, r"source.pth: not a field: did you mean path\?"),
        ({"source.path": "/{date}.csv"}, r"source.path: '/\{date\}.csv': only day and time can be filled in"),
        ({"load.columns.id": "integre"}, r"load.columns.id.type: 'integre': write one of MySQL's types"),
        ({"load.columns.id": {"typ": "int"}}, r"load.columns.id.typ: not a field: did you mean type\?"),
        ({"load.columns.id": "int) ENGINE=MyISAM; --"}, r"load.columns.id.type"),
        ({"load.table": "t; DROP TABLE u"}, r"load.table: 't; DROP TABLE u'"),
        ({"load.key": ["ident"]}, r"load: key names 'ident', which is not one of the columns id, name"),
        ({"load.columns.feed_day": "date"}, r"feed_day is added to each row by itself"),
        ({"load.mode": "upsert", "load.key": []}, r"load: upsert needs a key"),
        ({"load.reject_limit": -1}, r"load.reject_limit: -1: .*greater than or equal to 0"),
        ({"late": {"every": "10"}}, r"late.every: '10': write a number and a unit"),
        ({"keep": "for ever"}, r"keep: 'for ever': write a number and a unit"),
        ({"format": "ods"}, r"format: 'ods': .*'csv'"),
        ({"format": None}, r"name either a format .* or a parser"),
        ({"format": None, "parser": "nowhere:rows"}, r"parser: 'nowhere:rows': there is no module nowhere"),
        ({"encoding": "klingon"}, r"encoding: 'klingon': no such encoding"),
        ({"file": "../../etc/{day:%Y%m%d}"}, r"file: leaves the directory of the feed"),
        ({"file": "/etc/{day:%Y%m%d}"}, r"file: leaves the directory of the feed"),
        ({"file": "day.csv"}, r"file: two days would share one name"),
        ({"header": False}, r"load.columns.id.from: without a header write the field's number"),
        ({"format": "fixed"}, r"load.columns.id.from: write the first and the last byte, such as 3-10"),
        ({"file": "{day:%d}.csv"}, r"file: two days would share one name"),
        ({"file": "{day:%m%d}.csv"}, r"file: two days would share one name"),
        ({"name": "other"}, r"name: not a field: remove it"),
        ({"schedule": "0 0 30 2 *"}, r"schedule: '0 0 30 2 \*': there is no such day"),
        ({"day_offset": 10**9}, r"day_offset: 1000000000: .*less than or equal to 366"),
        ({"late": {"every": "0s"}}, r"late.every: '0s': write more than 0"),
        ({"delimiter": "'", "quote": "'"}, r"delimiter and quote are the same"),
        ({"load.columns": {"id": "int", "ID": "int"}}, r"two columns have the same name"),
        ({"load.columns": {"id": "int", False: "int"}}, r"column for False: write it in quotes"),
        ({"load.key": ["id", "id"]}, r"key names a column twice"),
        ({"keep": "99999999999d"}, r"keep: '99999999999d': write a number and a unit: .*; at most 36500d"),
        ({"delimiter": "\n"}, r"delimiter: a line's end separates records"),
        ({"catchup": True}, r"catchup needs a start_date"),
        ({"load.table": "feed_files"}, r"feed_files is a table of feeds"),
        (
            {"format": "fixed", "load.columns": {"id": {"from": "14-5", "type": "int"}}},
            r"load.columns.id.from: write the first and the last byte",
        ),
    ],
)
def test_a_wrong_feed_names_file_field_value_and_remedy(feed, changes, message):
    with pytest.raises(ValueError, match=message):
        feed(changes)


def test_an_asset_of_the_same_name_and_a_file_that_is_not_utf8_are_refused(feed, tmp_path):
    with pytest.raises(ValueError, match="an Asset has this name already"):
        feed(name="nas_filestorage")
    path = tmp_path / "korean.yml"
    path.write_bytes("description: 환율".encode("cp949"))
    with pytest.raises(ValueError, match=r"korean\.yml: not UTF-8"):
        Feed.of(path)


def test_what_is_written_short(feed):
    small = feed({"load.key": "id", "delimiter": "\t", "quote": "none"})
    assert (small.load.key, small.delimiter) == (["id"], "\t")


def test_a_name_that_cannot_be_a_dags_is_refused(feed):
    with pytest.raises(ValueError, match=r"feeds/Daily-1.yml: name: 'Daily-1': name the file with small letters"):
        feed(name="Daily-1")


def test_a_field_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yml"
    path.write_text('schedule: "30 5 * * *"\nload:\n  key: [id]\n  table: t\n  key: [name]\n')
    with pytest.raises(ValueError, match=r"twice.yml: not YAML: key stands there twice, .*line 3.*: remove one"):
        Feed.of(path)


@pytest.mark.parametrize("text", ["schedule: [", "- a list", "", "just words"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path, text):
    path = tmp_path / "broken.yml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"broken.yml: "):
        Feed.of(path)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "20251020.csv"),
        ({"source.path": "/{day:%Y}/data"}, "20251020"),
        ({"source.path": "/a.b/{day:%Y%m%d}/Packages.tar.xz"}, "20251020.tar.xz"),
        ({"source.path": "/get?day={day}"}, "20251020"),
        ({"source.path": "/rates/{day:%Y.%m.%d}.csv"}, "20251020.csv"),
        ({"source.path": "/export_v1.2_{day:%Y%m%d}.csv.gz"}, "20251020.csv.gz"),
        ({"file": "{day:%Y/%m}/{day:%d}.csv"}, "2025/10/20.csv"),
    ],
)
def test_the_name_on_the_nas(feed, filestorage, changes, name):
    assert feed(changes).path_of(DAY) == filestorage / "small" / name


@pytest.fixture(scope="module")
def dagbag(tmp_path_factory):
    """The DAGs as a release has them: with a Python file for each feed; one feed is broken."""
    folder = tmp_path_factory.mktemp("release")
    for source in (DAGS, ROOT / "dag_modules"):
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "feeds/broken.yml").write_text(yaml.safe_dump(changed({"timezone": "Seoul"})))
    stub = (ROOT / "roles/airflow_dags/files/feed.py").read_text()
    for path in (folder / "feeds").glob("*.yml"):
        path.with_suffix(".py").write_text(stub)
    return DagBag(folder)


def test_each_feed_has_two_dags_and_a_broken_one_disturbs_no_other(dagbag):
    assert [Path(path).name for path in dagbag.import_errors] == ["broken.py"]
    assert "feeds/broken.yml: timezone: 'Seoul': no such time zone" in next(iter(dagbag.import_errors.values()))
    names = [path.stem for path in (DAGS / "feeds").glob("*.yml")]
    assert set(dagbag.dags) >= {f"{name}_{part}" for name in names for part in ("fetch", "load")}
    assert "broken_fetch" not in dagbag.dags
    for dag in dagbag.dags.values():
        DagSerialization.to_dict(dag)


def test_fetching_is_for_the_edge_and_its_asset_starts_loading_elsewhere(dagbag):
    fetching = dagbag.dags["debian_packages_fetch"].get_task("fetch")
    assert (fetching.executor, fetching.queue, fetching.reschedule) == ("EdgeExecutor", "edge_queue", True)
    loading = dagbag.dags["debian_packages_load"]
    assert [asset.name for asset in fetching.outlets] == [loading.timetable.asset_condition.name] == ["debian_packages"]
    assert loading.max_active_runs == 1
    # The run is as good as its last tasks: a load that fails must be one of them.
    assert {task.task_id for task in loading.leaves} >= {"load"}
    assert {task.executor for task in loading.tasks} == {None}


@pytest.mark.parametrize(
    ("first", "last"), [(date(2026, 3, 1), date(2026, 4, 29)), (date(2026, 10, 1), date(2026, 11, 29))]
)
def test_sixty_days_across_a_change_of_the_clock_are_each_there_once(feed, first, last):
    """At 02:30, an hour that is missing on one day in Berlin and comes twice on another."""
    small = feed({"schedule": "30 2 * * *"})
    timetable = DagSerialization.from_dict(DagSerialization.to_dict(_fetch_dag(small))).timetable
    earliest = datetime(first.year, first.month, first.day, tzinfo=small.zone)
    restriction = TimeRestriction(earliest=earliest, latest=earliest + timedelta(days=59, hours=23), catchup=True)
    days, interval = [], None
    while run := timetable.next_dagrun_info(last_automated_data_interval=interval, restriction=restriction):
        days.append(nas.day_of(run.logical_date, run.run_after, small.zone))
        interval = run.data_interval
    assert days == [first + timedelta(days=number) for number in range(60)]
    assert days[-1] == last


def test_a_file_that_is_not_there_in_time_fails_or_is_skipped_as_the_feed_says(feed):
    now = datetime.now(UTC)
    small = feed({"late": {"give_up_after": "2h"}})
    small.too_late(fetch.NotThereYet("404"), now - timedelta(hours=1))
    with pytest.raises(AirflowFailException, match=r"404, 2:00:00 after the run's time"):
        small.too_late(fetch.NotThereYet("404"), now - timedelta(hours=3))
    with pytest.raises(AirflowSkipException):
        feed({"late": {"then": "skip"}}).too_late(fetch.NotThereYet("404"), now - timedelta(days=1))


# -- Fetching ---------------------------------------------------------------------------------------------------


class Service(ThreadingHTTPServer):
    """An HTTP server that misbehaves as a test says, once or for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, dict]] = []
        # Called with the handler and the content; an answer of its own, unless it returns False.
        self.trouble = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        content = self.server.files.get(self.path)
        if content is None:
            self.answer(404, b"no such file")
            return
        if self.server.trouble and self.server.trouble.pop(0)(self, content) is not False:
            self.close_connection = True
            return
        self.file(content)

    def file(self, content, cut=None, **headers):
        """Answer with a file, or what was asked of it; cut: break off after so many bytes."""
        etag, start = f'"{hashlib.md5(content).hexdigest()}"', 0  # noqa: S324
        if self.headers.get("If-Range") == etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(206 if start else 200, content[start:], cut, ETag=etag, **headers)

    def answer(self, status, content, cut=None, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content[:cut])
        self.wfile.flush()


@pytest.fixture
def service(monkeypatch, filestorage):
    server = Service()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AIRFLOW_CONN_SERVICE", f"http://team:secret@127.0.0.1:{server.server_port}")
    # What a test does not want to wait for.
    monkeypatch.setattr(time, "sleep", lambda _: None)
    yield server
    server.shutdown()
    server.server_close()


def on_nas(filestorage):
    return sorted(str(path.relative_to(filestorage)) for path in (filestorage / "small").rglob("*") if path.is_file())


def test_a_file_is_fetched_with_its_manifest_and_again_without_a_change(service, feed, filestorage):
    service.files["/20251020.csv"] = CSV
    small = feed({"source.headers": {"X-Team": "files"}})
    manifest = fetch.fetch_file(small, DAY)
    assert Path(manifest["path"]).read_bytes() == CSV
    assert manifest["sha256"] == hashlib.sha256(CSV).hexdigest()
    assert (manifest["rows"], manifest["day"], manifest["source"]) == (2, "2025-10-20", "service:/20251020.csv")
    headers = service.requests[0][1]
    assert headers["Authorization"].startswith("Basic ")
    assert headers["X-Team"] == "files"
    assert fetch.fetch_file(small, DAY) == manifest
    assert on_nas(filestorage) == ["small/.20251020.csv.json", "small/20251020.csv"]


def test_content_that_changed_on_the_same_day_is_another_version(service, feed):
    service.files["/20251020.csv"] = CSV
    first = fetch.fetch_file(feed(), DAY)
    service.files["/20251020.csv"] = CSV + b"3,three\n"
    second = fetch.fetch_file(feed(), DAY)
    assert Path(second["path"]).name == "20251020.v2.csv"
    assert Path(first["path"]).read_bytes() == CSV
    assert second["fetched_at"] > first["fetched_at"]


def test_a_file_that_is_not_there_is_late(service, feed, filestorage):
    with pytest.raises(fetch.NotThereYet, match="404"):
        fetch.fetch_file(feed(), DAY)
    assert on_nas(filestorage) == []


def test_a_transfer_that_breaks_off_is_resumed_where_it_broke(service, feed):
    content = b"id,name\n" + b"".join(f"{number},name {number}\n".encode() for number in range(500_000))
    service.files["/20251020.csv"] = content

    def cut(handler, content):
        handler.file(content, cut=3_000_000)

    service.trouble = [cut, cut]
    manifest = fetch.fetch_file(feed(), DAY)
    assert Path(manifest["path"]).read_bytes() == content
    assert manifest["rows"] == 500_000
    ranges = [headers.get("Range") for _, headers in service.requests]
    assert ranges[0] is None
    assert all(found.startswith("bytes=") for found in ranges[1:])
    assert len(ranges) == 3


def test_what_has_arrived_counts_however_little_it_is(service, feed):
    content = service.files["/20251020.csv"] = CSV + b"3,three\n" * 2000
    service.trouble = [lambda handler, content: handler.file(content, cut=2000)] * 7
    assert Path(fetch.fetch_file(feed(), DAY)["path"]).read_bytes() == content
    begins = [int(headers["Range"][6:-1]) for _, headers in service.requests[1:]]
    assert begins == [2000 * number for number in range(1, 8)]


@pytest.mark.parametrize("cut", [-3, None])
def test_without_a_length_a_line_that_is_cut_off_is_refused(service, feed, filestorage, cut):
    def nameless(handler, content):
        handler.answer(200, content, cut, **{"Content-Length": None, "Connection": "close"})

    service.files["/20251020.csv"] = CSV
    service.trouble = [nameless]
    if cut is None:
        assert fetch.fetch_file(feed(), DAY)["rows"] == 2
        return
    with pytest.raises(OSError, match="ends within a line, and has no Content-Length"):
        fetch.fetch_file(feed(), DAY)
    assert on_nas(filestorage) == []


def test_a_service_that_stalls_is_asked_again(service, feed, monkeypatch):
    monkeypatch.setattr(http, "SILENCE", 2)
    content = b"id,name\n" + b"1,one\n" * 300_000
    service.files["/20251020.csv"] = content
    done = threading.Event()

    def stall(handler, content):
        handler.file(content, cut=1_500_000)
        done.wait(120)

    service.trouble = [stall]
    begin = time.monotonic()
    assert Path(fetch.fetch_file(feed(), DAY)["path"]).read_bytes() == content
    assert time.monotonic() - begin < 100
    done.set()


def test_a_file_that_changes_between_two_parts_is_refused(service, feed, filestorage):
    service.files["/20251020.csv"] = b"id,name\n" + b"1,one\n" * 300_000

    def cut_and_change(handler, content):
        handler.server.files["/20251020.csv"] = content + b"2,two\n"
        handler.file(content, cut=1_500_000)

    service.trouble = [cut_and_change]
    with pytest.raises(OSError, match="changed while it was read"):
        fetch.fetch_file(feed(), DAY)
    assert on_nas(filestorage) == []


def test_a_service_that_always_breaks_off_is_given_up(service, feed, filestorage):
    service.files["/20251020.csv"] = b"id,name\n" + b"1,one\n" * 300_000
    service.trouble = [lambda handler, content: handler.answer(500, b"oops")] * 20
    with pytest.raises(OSError, match="500 Internal Server Error: oops"):
        fetch.fetch_file(feed(), DAY)

    def nothing_more(handler, content):
        handler.file(content, cut=1_000_000 if "Range" not in handler.headers else 0)

    service.trouble = [nothing_more] * 20
    with pytest.raises(OSError, match=r"broke off after \d+ bytes"):
        fetch.fetch_file(feed(), DAY)
    assert on_nas(filestorage) == []


def test_a_redirect_is_followed_without_the_password_to_another_host(service, feed):
    other = Service()
    other.files["/moved.csv"] = CSV
    threading.Thread(target=other.serve_forever, daemon=True).start()
    service.files["/20251020.csv"] = b"moved"
    target = f"http://localhost:{other.server_port}/moved.csv"
    service.trouble = [lambda handler, content: handler.answer(302, b"", Location=target)]
    keyed = feed({"source.headers": {"X-Api-Key": "secret"}})
    assert Path(fetch.fetch_file(keyed, DAY)["path"]).read_bytes() == CSV
    assert service.requests[0][1]["X-Api-Key"] == "secret"
    assert "Authorization" not in other.requests[0][1]
    assert "X-Api-Key" not in other.requests[0][1]
    other.shutdown()
    other.server_close()


@pytest.fixture
def secure_service(service, monkeypatch, tmp_path):
    """The service over TLS with an authority of its own; returns the authority's file, and what a connection says."""
    authority = self_signed(tmp_path / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    service.socket = context.wrap_socket(service.socket, server_side=True)
    service.files["/20251020.csv"] = CSV
    # What a host trusts, as its units have it.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(self_signed(tmp_path / "another.pem")))

    def connect(**extra):
        connection = {"conn_type": "http", "schema": "https", "host": "127.0.0.1", "port": service.server_port}
        monkeypatch.setenv("AIRFLOW_CONN_SERVICE", json.dumps(connection | {"extra": extra}))

    return SimpleNamespace(authority=authority, connect=connect)


def self_signed(path):
    """Write a certificate of 127.0.0.1 that is its own authority, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pkcs8, unlocked = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    encoded = key.private_bytes(serialization.Encoding.PEM, pkcs8, unlocked)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + encoded)
    return path


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("verify", ["its authority", False, "false"])
def test_what_a_connection_says_about_tls_outranks_the_environment(secure_service, feed, verify):
    secure_service.connect(verify=str(secure_service.authority) if verify == "its authority" else verify)
    assert Path(fetch.fetch_file(feed(), DAY)["path"]).read_bytes() == CSV


@pytest.mark.parametrize("extra", [{}, {"verify": True}])
def test_a_connection_that_says_nothing_about_tls_trusts_what_the_host_trusts(
    secure_service, feed, filestorage, monkeypatch, extra
):
    secure_service.connect(**extra)
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch.fetch_file(feed(), DAY)
    assert on_nas(filestorage) == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(secure_service.authority))
    assert Path(fetch.fetch_file(feed(), DAY)["path"]).read_bytes() == CSV


@pytest.mark.parametrize(
    ("changes", "content", "message"),
    [
        ({}, b"<!DOCTYPE html><html>Please log in</html>", "HTML page: <!DOCTYPE html><html>Please log in"),
        ({}, b"Service temporarily unavailable\n", "header has no id, name"),
        ({}, b"", "is empty"),
        ({}, b"id,name\n", "has no records"),
        ({"compression": "gzip"}, gzip.compress(CSV * 1000)[:-9], "gzip compression is broken"),
        ({"compression": "xz"}, lzma.compress(CSV * 1000)[:-20], "xz compression is broken"),
        ({"compression": "bzip2"}, bz2.compress(CSV * 1000)[:-5], "bzip2 compression is broken"),
        ({"compression": "zip"}, CSV, "zip compression is broken"),
        ({"format": "json"}, b'[{"id": 1}, {"id": 2', "JSON is broken"),
        ({"format": "jsonl"}, b"oops\nagain\n", "no record of 2 can be read; the first: not JSON"),
        ({"format": "rfc822"}, b"oops\n\nagain\n", "no record"),
        (
            {"format": "json", "records": "data.item", "empty": "skip"},
            b'\xef\xbb\xbf{"error": "maintenance"}',
            "has no array where 'data.item'",
        ),
        ({"format": "json", "empty": "skip"}, b'{"error": "maintenance"}', "has no array where 'item'"),
    ],
)
def test_what_is_not_the_file_is_refused_and_leaves_nothing(service, feed, filestorage, changes, content, message):
    service.files["/20251020.csv"] = content
    with pytest.raises(ValueError, match=message):
        fetch.fetch_file(feed(changes), DAY)
    assert on_nas(filestorage) == []


@pytest.mark.parametrize(
    ("changes", "content"),
    [
        ({}, b""),
        ({}, b"id,name\n"),
        ({"format": "json"}, b"[]"),
        ({"format": "json", "records": "data.item"}, b'{"data": []}'),
    ],
)
def test_an_empty_file_can_be_skipped(service, feed, filestorage, changes, content):
    service.files["/20251020.csv"] = content
    with pytest.raises(AirflowSkipException):
        fetch.fetch_file(feed({"empty": "skip"} | changes), DAY)
    assert on_nas(filestorage) == []


def test_an_unchanged_file_can_be_skipped_or_refused(service, feed):
    service.files |= {"/20251020.csv": CSV, "/20251021.csv": CSV, "/20251022.csv": CSV + b"3,three\n"}
    small = feed({"unchanged": "skip"})
    fetch.fetch_file(small, DAY)
    # A repeated run of the same day is not "unchanged".
    fetch.fetch_file(small, DAY)
    with pytest.raises(AirflowSkipException, match=r"is what .*20251020\.csv is"):
        fetch.fetch_file(small, DAY + timedelta(days=1))
    with pytest.raises(ValueError, match="refused by the feed's policy"):
        fetch.fetch_file(feed({"unchanged": "fail"}), DAY + timedelta(days=1))
    assert fetch.fetch_file(small, DAY + timedelta(days=2))["rows"] == 3


DIGEST = hashlib.sha256(CSV).hexdigest()


@pytest.mark.parametrize(
    ("listed", "refused"),
    [
        (f"{DIGEST}  20251020.csv\n", ""),
        (f"{'0' * 64}  20251019.csv\n{DIGEST} *./20251020.csv\n", ""),
        (f"SHA256 (20251020.csv) = {DIGEST.upper()}\n", ""),
        (f"{DIGEST}\n", ""),
        (hashlib.md5(CSV).hexdigest(), ""),  # noqa: S324
        (f"{'0' * 64}  20251020.csv\n", "has the sha256 .*, and its service says 0000"),
        (f"{DIGEST}  20251019.csv\n", "has no digest of 20251020.csv"),
    ],
)
def test_the_digest_that_the_service_publishes_counts(service, feed, filestorage, listed, refused):
    service.files |= {"/20251020.csv": CSV, "/20251020.sha": listed.encode()}
    small = feed({"source.checksum": "/{day:%Y%m%d}.sha"})
    if refused:
        with pytest.raises(ValueError, match=refused):
            fetch.fetch_file(small, DAY)
        assert on_nas(filestorage) == []
    else:
        assert fetch.fetch_file(small, DAY)["sha256"] == DIGEST


@pytest.mark.parametrize("total", ["3488898", "1500000", "*"])
def test_a_part_that_is_not_the_rest_is_refused(service, feed, filestorage, total):
    content = b"id,name\n" + b"1,one\n" * 300_000
    service.files["/20251020.csv"] = content

    def another_part(handler, content):
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        part = content[start : start + 1000]
        handler.answer(206, part, Content_Range=f"bytes {start}-{start + 999}/{total}")

    service.trouble = [lambda handler, content: handler.file(content, cut=1_500_000), another_part]
    with pytest.raises(OSError, match="changed while it was read"):
        fetch.fetch_file(feed(), DAY)
    assert on_nas(filestorage) == []


def test_a_part_that_ends_early_is_followed_by_the_next(service, feed):
    content = b"id,name\n" + b"1,one\n" * 300_000
    service.files["/20251020.csv"] = content

    def short_part(handler, content):
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        end = start + 999
        handler.answer(206, content[start : end + 1], Content_Range=f"bytes {start}-{end}/{len(content)}", ETag='"x"')

    def cut(handler, content):
        handler.answer(200, content, 1_500_000, ETag='"x"')

    def rest(handler, content):
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        end = len(content) - 1
        handler.answer(206, content[start:], Content_Range=f"bytes {start}-{end}/{len(content)}", ETag='"x"')

    service.trouble = [cut, short_part, rest]
    assert Path(fetch.fetch_file(feed(), DAY)["path"]).read_bytes() == content


def test_what_a_web_server_compresses_on_the_way_is_not_the_files_own_compression(service, feed):
    packed = gzip.compress(CSV)

    def encoded(handler, content):
        handler.answer(200, packed, Content_Encoding="gzip")

    service.files["/20251020.csv"] = b"-"
    service.trouble = [encoded]
    assert Path(fetch.fetch_file(feed(), DAY)["path"]).read_bytes() == CSV
    service.files["/20251020.csv.gz"] = b"-"
    service.trouble = [encoded]
    gzipped = feed({"source.path": "/{day:%Y%m%d}.csv.gz"})
    assert Path(fetch.fetch_file(gzipped, DAY)["path"]).read_bytes() == packed


@pytest.mark.parametrize("packed", [gzip.compress(CSV), gzip.compress(CSV[:9]) + gzip.compress(CSV[9:]) + b"\0" * 99])
def test_each_part_of_what_a_web_server_compresses_is_read(service, feed, packed):
    service.files["/20251020.csv"] = b"-"
    service.trouble = [lambda handler, content: handler.answer(200, packed, Content_Encoding="gzip")]
    assert Path(fetch.fetch_file(feed(), DAY)["path"]).read_bytes() == CSV


@pytest.mark.parametrize(
    ("encoding", "packed", "message"),
    [
        ("gzip", gzip.compress(MANY)[: len(gzip.compress(MANY)) * 2 // 3], "ends early: part of it is missing"),
        ("gzip", gzip.compress(MANY)[:-1], "ends early"),
        ("gzip", gzip.compress(MANY)[:-8] + bytes(8), "is broken: .*incorrect data check"),
        ("deflate", zlib.compress(MANY)[:-5], "ends early"),
        ("gzip", b"", "ends early"),
        ("gzip", CSV, "is broken: .*incorrect header"),
        ("br", CSV, "comes with Content-Encoding: br, which was not asked for"),
    ],
)
def test_what_a_web_server_compresses_and_does_not_send_whole_is_refused(
    service, feed, filestorage, encoding, packed, message
):
    """Its Content-Length is that of what it sends: nothing but the stream's own end tells."""
    service.files["/20251020.csv"] = b"-"
    service.trouble = [lambda handler, content: handler.answer(200, packed, Content_Encoding=encoding)]
    with pytest.raises(OSError, match=message):
        fetch.fetch_file(feed(), DAY)
    assert on_nas(filestorage) == []


def test_a_connection_of_another_type_is_named(service, feed, monkeypatch):
    with pytest.raises(AirflowFailException, match=r"source\.connection: elsewhere is not there"):
        fetch.fetch_file(feed({"source.connection": "elsewhere"}), DAY)
    monkeypatch.setenv("AIRFLOW_CONN_SERVICE", "mysql://h")
    with pytest.raises(
        AirflowFailException, match=r"source\.connection: service has the type mysql: make it http or sftp"
    ):
        fetch.fetch_file(feed(), DAY)


@pytest.fixture
def sftp_server(tmp_path, monkeypatch, filestorage):
    """A real SFTP server whose root is a directory; returns it."""
    root = tmp_path / "sftp"
    root.mkdir()
    ready, loop = threading.Event(), asyncio.new_event_loop()
    host_key, ports, logins = asyncssh.generate_private_key("ssh-ed25519"), [], []

    class Server(asyncssh.SSHServer):
        def password_auth_supported(self):
            return True

        def validate_password(self, username, password):
            logins.append(password)
            return (username, password) == ("team", "secret")

    async def serve():
        listener = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Server,
            server_host_keys=[host_key],
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(root)),
        )
        ports.append(listener.get_port())
        ready.set()

    threading.Thread(target=lambda: (loop.run_until_complete(serve()), loop.run_forever()), daemon=True).start()
    assert ready.wait(10)
    extra = {"no_host_key_check": "false", "host_key": host_key.export_public_key().decode().strip()}
    connection = {
        "conn_type": "sftp",
        "host": "127.0.0.1",
        "port": ports[0],
        "login": "team",
        "password": "secret",
        "extra": extra,
    }
    monkeypatch.setenv("AIRFLOW_CONN_SERVICE", json.dumps(connection))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    yield SimpleNamespace(root=root, connection=connection, logins=logins)
    loop.call_soon_threadsafe(loop.stop)


def test_a_file_is_fetched_over_sftp(sftp_server, feed):
    content = b"id,name\n" + b"".join(f"{number},name {number}\n".encode() for number in range(200_000))
    (sftp_server.root / "20251020.csv").write_bytes(content)
    manifest = fetch.fetch_file(feed(), DAY)
    assert Path(manifest["path"]).read_bytes() == content
    with pytest.raises(fetch.NotThereYet, match=r"20251021\.csv: no such file"):
        fetch.fetch_file(feed(), DAY + timedelta(days=1))


def test_an_sftp_server_with_another_key_or_password_is_refused(sftp_server, feed, monkeypatch):
    (sftp_server.root / "20251020.csv").write_bytes(CSV)
    for wrong in (
        {"password": "wrong"},
        {"extra": {"host_key": asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()}},
    ):
        monkeypatch.setenv("AIRFLOW_CONN_SERVICE", json.dumps(sftp_server.connection | wrong))
        with pytest.raises(AirflowFailException, match="service: "):
            fetch.fetch_file(feed(), DAY)


def test_a_transfer_over_sftp_is_resumed(sftp_server, feed, monkeypatch):
    content = b"id,name\n" + b"1,one\n" * 500_000
    (sftp_server.root / "20251020.csv").write_bytes(content)
    original, starts = sftp.Sftp._open, []

    def breaks(self, where, is_file, position, seen):
        starts.append(position)
        for piece in original(self, where, is_file, position, seen):
            yield piece
            if len(starts) < 3:
                raise resume.Broken("gone")

    monkeypatch.setattr(sftp.Sftp, "_open", breaks)
    assert Path(fetch.fetch_file(feed(), DAY)["path"]).read_bytes() == content
    assert starts[0] == 0 < starts[1] < starts[2]


# -- Parsing ----------------------------------------------------------------------------------------------------


def parsed(feed, tmp_path, content, packing=""):
    path = tmp_path / f"file{packing}"
    path.write_bytes(content)
    return list(parse.records(feed, path))


@pytest.mark.parametrize(
    ("changes", "content", "expected"),
    [
        ({}, CSV, [{"id": "1", "name": "one"}, {"id": "2", "name": "two"}]),
        ({}, b'\xef\xbb\xbfid,name\r\n1,"a, ""b""\nc"\r\n\r\n', [{"id": "1", "name": 'a, "b"\nc'}]),
        (
            {"delimiter": ";", "quote": "'", "skip_lines": 2, "encoding": "cp949"},
            "report\n\nid;name\n1;'서울'\n".encode("cp949"),
            [{"id": "1", "name": "서울"}],
        ),
        (
            {"header": False, "load.columns": {"id": {"from": 2, "type": "int"}, "name": {"from": 1}}},
            b"one,1,x\n",
            [{1: "one", 2: "1", 3: "x"}],
        ),
        ({"format": "jsonl"}, b'{"id": 1}\n\n{"id": 2, "name": "\\ud55c"}\n', [{"id": 1}, {"id": 2, "name": "한"}]),
        ({"format": "jsonl"}, b'{"id": 12345678901234567.8901}', [{"id": Decimal("12345678901234567.8901")}]),
        ({"format": "json"}, b'[{"id": 1}, {"id": 2, "name": null}]', [{"id": 1}, {"id": 2, "name": None}]),
        ({"format": "json", "records": "data.item"}, b'{"n": 1, "data": [{"id": 1}]}', [{"id": 1}]),
        (
            {
                "format": "fixed",
                "short_lines": "accept",
                "load.columns": {"id": {"from": "1-3", "type": "int"}, "name": {"from": "4-8"}},
            },
            b"  1one  \n 22two\n\n  3\n",
            [{"1-3": "1", "4-8": "one"}, {"1-3": "22", "4-8": "two"}, {"1-3": "3", "4-8": ""}],
        ),
        (
            # Bytes, as such formats count.
            {
                "format": "fixed",
                "encoding": "cp949",
                "load.columns": {"id": {"from": "1-4"}, "name": {"from": "5-14"}, "rate": {"from": "15-20"}},
                "load.key": ["id"],
                "load.columns.id": {"from": "1-4", "type": "int"},
            },
            "0002서울      123.45\n".encode("cp949"),
            [{"1-4": "0002", "5-14": "서울", "15-20": "123.45"}],
        ),
        ({"format": "json"}, b'\xef\xbb\xbf[{"id": 1, "name": "x"}]', [{"id": 1, "name": "x"}]),
        ({"delimiter": "\t", "quote": "none"}, b'id\tname\n1\t"one\n', [{"id": "1", "name": '"one'}]),
        ({}, b"\n\nid,name\n1,one\n", [{"id": "1", "name": "one"}]),
        (
            {"format": "rfc822"},
            b"id: 1\nname: one\n more\n\nid: 2\n",
            [{"id": "1", "name": "one\n more"}, {"id": "2"}],
        ),
    ],
)
def test_each_format(feed, tmp_path, changes, content, expected):
    assert parsed(feed(changes), tmp_path, content) == expected


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zip"])
def test_each_compression(feed, tmp_path, name):
    path = tmp_path / "packed"
    if name == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("folder/inside.csv", CSV)
            archive.writestr("__MACOSX/folder/._inside.csv", b"-")
    else:
        path.write_bytes({"gzip": gzip, "bzip2": bz2, "xz": lzma}[name].compress(CSV))
    assert [record["name"] for record in parse.records(feed({"compression": name}), path)] == ["one", "two"]


def test_the_ending_of_the_name_says_the_compression(feed):
    assert feed({"source.path": "/x.csv.gz"}).packing == "gzip"
    assert feed({"source.path": "/x.csv.gz", "file": "{day}.csv"}).packing == "none"
    assert feed({"source.path": "/x", "compression": "xz"}).packing == "xz"


def batches(feed, tmp_path, content):
    """The rows that would be inserted, and the bad records."""
    path = tmp_path / "file"
    path.write_bytes(content)
    rows, bad = [], []
    for some_rows, some_bad in load._batches(feed, path, "2025-10-20"):
        rows += some_rows
        bad += some_bad
    return rows, bad


def test_bad_records_are_told_apart_and_the_good_ones_stay(feed, tmp_path):
    content = b"id,name\n1,one\n2\n3,three,3\n4,\xff\xfe\n5,five\n"
    rows, bad = batches(feed(), tmp_path, content)
    assert rows == [(1, "one", "2025-10-20", 1), (5, "five", "2025-10-20", 5)]
    assert [(number, reason) for number, reason, _ in bad] == [
        (2, "1 fields, and not 2; when those at the end may be missing, write short_lines: accept"),
        (3, "3 fields, and not 2; when what is behind them may be left out, write long_lines: accept"),
        (4, "name: '\\udcff\\udcfe' is not utf-8"),
    ]


def test_values_that_mysql_would_take_for_something_else_are_bad(feed, tmp_path):
    dated = feed({"load.columns": {"id": "int", "on_day": "date"}})
    rows, bad = batches(
        dated, tmp_path, b"id,on_day\n1,2025-10-20\n2,20.10.25\n3,201025\n4,20251020\n5,\n6,2025/10/20\n"
    )
    assert [row[1] for row in rows] == ["2025-10-20", "2025-10-20", None, "2025-10-20"]
    assert [number for number, _, _ in bad] == [2, 3]
    numbers = feed({"format": "jsonl", "load.columns": {"id": "int", "on_day": "date"}})
    rows, bad = batches(numbers, tmp_path, b'{"id": 1, "on_day": 201025}\n{"id": 2, "on_day": "2025-10-20"}\n')
    assert [row[:2] for row in rows] == [(2, "2025-10-20")]
    assert bad[0][0] == 1
    assert bad[0][1].startswith("on_day: 201025 is not a date such as 2025-10-20, with a time such as")
    strange = feed({"format": "jsonl", "load.columns": {"id": "int", "more": "json"}})
    lines = b'{"id": NaN, "more": 1}\n{"id": 2, "more": "a"}\n{"id": 3, "more": {"x": "\\ud83d"}}\n'
    rows, bad = batches(strange, tmp_path, lines)
    assert [row[:2] for row in rows] == [(2, '"a"')]
    assert [number for number, _, _ in bad] == [1, 3]
    assert bad[0][:2] == (1, "id: nan is no number")
    nested = feed({"format": "json", "load.columns": {"id": "int", "more": "json"}})
    rows, _ = batches(nested, tmp_path, b'[{"id": 1, "more": {"a": 1.5, "b": [2.25, 3]}}]')
    assert json.loads(rows[0][1]) == {"a": 1.5, "b": [2.25, 3]}


def test_no_statement_is_larger_than_mysql_takes(feed, tmp_path):
    wide = feed({"format": "jsonl", "load.columns": {"id": "int", "more": "json"}})
    path = tmp_path / "file"
    path.write_text("".join(json.dumps({"id": n, "more": ["x" * 100] * 500}) + "\n" for n in range(200)))
    sizes = [sum(len(row[1]) for row in rows) for rows, _ in load._batches(wide, path, "2025-10-20")]
    assert len(sizes) > 5
    assert max(sizes) <= load.BATCH_SIZE


def test_a_quote_that_is_not_closed_costs_the_file_and_not_what_follows_in_silence(feed, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b'id,name\n1,one\n2,"two\n' + b"3,three\n" * 1000 + b'4,"four" and\n5,five\n')
    with pytest.raises(ValueError, match=r"lines 3 to 1004: a quote is not closed"):
        parse.count(feed({"load.reject_limit": 100}), path)


@pytest.mark.parametrize(
    ("changes", "content", "message"),
    [
        ({}, b"id,name,id\n1,one,2\n", "header has id more than once"),
        ({"format": "jsonl"}, b'{"id": 1, "Name": "one"}\n', "no record has name; what may be missing is `optional"),
        ({}, b"id,name\n1," + b"x" * (17 << 20), "longer than"),
        ({"format": "jsonl"}, b'{"id": "' + b"x" * (17 << 20), "ends at line 1, or later, is longer than"),
        ({"format": "rfc822"}, b"id: 1\nname:\n" + b" and so on\n" * 500_000, "is longer than"),
        ({}, b'id,name\n1,"' + b"\n" * (5 << 20), "is longer than"),
        ({"format": "json"}, b'[{"id": "' + b"x" * (17 << 20) + b'"}]', "no record ends within"),
        ({"format": "json", "records": "data.item"}, b'[{"id": 1}]' + b" " * (20 << 20), "no record ends within"),
    ],
)
def test_a_file_that_is_another_than_the_feed_says_is_refused(feed, tmp_path, changes, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        parse.count(feed(changes), path)


def test_a_column_may_be_missing_when_the_feed_says_so(feed, tmp_path):
    columns = {"id": "int", "name": {"type": "text", "optional": True}}
    for changes, content in (({}, b"id\n1\n"), ({"format": "jsonl"}, b'{"id": 1}\n')):
        rows, bad = batches(feed({"load.columns": columns, **changes}), tmp_path, content)
        assert [row[1:] for row in rows] == [(None, "2025-10-20", 1)]
        assert bad == []
        assert parse.count(feed({"load.columns": columns, **changes}), tmp_path / "file") == 1


def test_a_line_that_is_no_field_makes_its_stanza_bad(feed, tmp_path):
    records = parsed(feed({"format": "rfc822"}), tmp_path, b"id: 1\nname: one\noops\n\nid: 2\nname: two\n")
    assert records == [parse.Bad("a line without a name and a colon", "oops\n"), {"id": "2", "name": "two"}]


def test_a_parser_of_the_users_own(feed, tmp_path, monkeypatch):
    (tmp_path / "our_parsers.py").write_text(
        "from feed.parse import Bad\n"
        "def rows(file, feed):\n"
        "    for line in file:\n"
        "        yield {'id': int(line)} if line.strip().isdigit() else Bad('no number', line.decode())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = feed({"format": None, "parser": "our_parsers:rows", "compression": "gzip"})
    assert parsed(own, tmp_path, gzip.compress(b"1\nx\n")) == [{"id": 1}, parse.Bad("no number", "x\n")]
    path = tmp_path / "file"
    assert parse.count(own, path) is None
    path.write_bytes(gzip.compress(b"1\n" * 1000)[:-4])
    with pytest.raises(ValueError, match="gzip compression is broken"):
        parse.count(own, path)


def test_a_large_file_is_read_in_bounded_memory(feed, tmp_path):
    path = tmp_path / "large.csv"
    with path.open("wb") as file:
        file.write(b"id,name\n")
        for _ in range(30):
            file.write(b"1,something that is somewhat longer\n" * 30_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    small = feed({"load.columns": {"id": "int", "name": "varchar(60)"}})
    assert sum(len(rows) for rows, _ in load._batches(small, path, "2025-10-20")) == 900_000
    # KiB, of a file of 30 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


def test_unfinished_files_are_removed_after_two_days_and_no_others(feed, filestorage, monkeypatch):
    small = feed()
    small.directory.mkdir()
    manifest = nas.publish(small.path_of(DAY), CSV)
    unfinished = [small.directory / name for name in (".20251020.csv.abcd1234", ".20251019.csv.efgh5678")]
    for path in unfinished:
        path.write_bytes(b"half")
    assert load.remove_old_files(small) == []
    old = time.time() - 3 * 86400
    os.utime(unfinished[1], (old, old))
    assert load.remove_old_files(small) == [str(unfinished[1])]
    assert unfinished[0].exists()
    assert nas.read(manifest) == CSV


def test_what_is_no_manifest_is_said_and_left_out(feed, filestorage, capsys):
    small = feed()
    manifests = [nas.publish(small.path_of(DAY + timedelta(days=n)), CSV, day=DAY) for n in range(3)]
    (small.directory / ".20251021.csv.json").write_text("{")
    assert fetch.manifests(small, but={manifests[2]["path"]}) == manifests[:1]
    assert ".20251021.csv.json is no manifest of a feed: left out" in capsys.readouterr().out


def test_a_nas_that_does_not_answer_is_not_an_empty_one(feed, filestorage, monkeypatch):
    small = feed()
    assert fetch.manifests(small) == []
    manifest = nas.publish(small.path_of(DAY), CSV, day=DAY)
    assert fetch.manifests(small) == [manifest]

    def stale(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    monkeypatch.setattr(os, "scandir", stale)
    for use in (fetch.manifests, load.remove_old_files):
        with pytest.raises(OSError, match="Stale file handle"):
            use(small)


@pytest.mark.parametrize("number", [1044, 2013])
def test_a_database_that_refuses_is_not_left_connected(feed, monkeypatch, number):
    connection = MagicMock()
    connection.cursor.return_value.execute.side_effect = Exception(number, "no")
    hook = SimpleNamespace(MySqlHook=lambda **_: SimpleNamespace(get_conn=lambda: connection))
    monkeypatch.setitem(sys.modules, "airflow.providers.mysql.hooks.mysql", hook)
    with pytest.raises(Exception, match="no"), load.database(feed()):
        pass
    connection.close.assert_called_once_with()
