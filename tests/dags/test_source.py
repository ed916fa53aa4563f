"""The fields of `source`, `late` and times of day, with services that speak HTTP and SFTP on this machine."""

import contextlib
import errno
import gzip
import json
import os
import threading
import time
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock
from urllib.parse import parse_qs, urlsplit

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction
from pendulum import DateTime

# Fixtures: a feed of a few fields, the NAS, an SFTP server.
from test_feed import CSV, DAY, feed, filestorage, on_nas, sftp_server  # noqa: F401

import nas
from feed import _fetch_dag, fetch, load, parse, sftp
from feed.schema import make_table

HOURLY = {"schedule": "0 * * * *", "source.path": "/{time:%Y%m%d%H}.csv"}
HALF_HOURLY = {"schedule": "20,50 * * * *", "source.path": "/{time:%H%M}"}
OFTEN = {"schedule": "*/5 * * * *", "source.path": "/{time:%H%M}"}
JSON = {"format": "json", "source.path": "/list", "load.key": None, "load.columns": {"id": "int"}}


def answer(content=b"", status=200, **headers):
    return SimpleNamespace(content=content, status=status, headers=headers)


def page(content, **headers):
    return answer(json.dumps(content).encode(), **headers)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.server.requests.append((self.path, dict(self.headers), self.rfile.read(length).decode()))
        said = self.server.answers.get(self.path, answer(b"no such file", 404))
        said = said(self) if callable(said) else said
        if said is None:
            # It has answered itself.
            return
        self.send_response(said.status)
        for name, value in {"Content-Length": str(len(said.content)), **said.headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(said.content)

    do_POST = do_GET


@pytest.fixture
def serve():
    """Start HTTP servers whose answers a test sets, by path."""
    servers = []

    def serve():
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads, server.answers, server.requests = True, {}, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def service(serve, monkeypatch, filestorage):
    server = serve()
    server.url = f"http://127.0.0.1:{server.server_port}"

    def connect(**fields):
        own = {"conn_type": "http", "host": "127.0.0.1", "schema": "http", "port": server.server_port}
        monkeypatch.setenv("AIRFLOW_CONN_SERVICE", json.dumps(own | fields))

    server.connect = connect
    connect()
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return server


def content_of(manifest):
    return Path(manifest["path"]).read_bytes()


# -- Times of day -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source.path": "/x/{day:%Y%m%d%H}.csv", "schedule": "0 * * * *"}, r"source.path: .*{day:%Y%m%d%H}.*: a day "
         r"has no hours \(it would be 00 in each run\): write {time:%Y%m%d%H}"),
        ({"source.path": "/{day:%-H}.csv"}, r"a day has no hours"),
        ({"source.path": "/p{{ ds }}.csv"}, r"source.path: '/p{{ ds }}.csv': templates such as {{ ds }} are not"),
        ({"source.path": "/{% if x %}.csv"}, r"templates such as"),
        ({"source.path": "/%Y%m%d.csv"}, r"%Y would stay as it is: write {day:%Y%m%d}"),
        ({"source.path": "/${DATE}.csv"}, r"only day and time can be filled in"),
        ({"source.path": "/{time}.csv"}, r"say how the time is written, such as {time:%Y%m%dT%H%M}"),
        ({"source.path": "https://x/a.csv"}, r"source.path: 'https://x/a.csv': the address stands in the connection"),
        ({"source.path": "/a/*.csv"}, r"a name to look for stands in source.find"),
        ({"source.query": {"date": "{{ ds }}"}}, r"source.query.date: '{{ ds }}': templates"),
        ({"source.checksum": "/{day:%H}"}, r"source.checksum: .*a day has no hours"),
        ({"schedule": "0 * * * *"}, r"schedule: '0 \* \* \* \*' has several runs a day, and nothing in source says"),
        ({"schedule": "0 6,18 * * *"}, r"several runs a day"),
        ({"schedule": "*/15 * * * *", "source.path": "/{time:%H}"}, r"source: two times of the schedule would ask for"),
        (HOURLY | {"file": "{day:%Y%m%d}.csv"}, r"file: two times of the schedule would share one name"),
        (HOURLY | {"file": "{time:%H}.csv"}, r"file: two (days|times of the schedule) would share one name"),
        (HOURLY | {"day_offset": -1}, r"day_offset: for {time:...} write time_offset, such as -1h"),
        ({"time_offset": "1"}, r"time_offset: '1': write a number and a unit, such as -1h"),
        (HOURLY | {"load.columns.feed_time": "datetime"}, r"feed_time is added to each row by itself"),
        ({"schedule": "*/5 * * * *", "source.path": "/{time:%H%M}", "late": {"give_up_after": "6h"}},
         r"late.give_up_after: 6:00:00 is longer than 12 runs take to begin.*: write at most 60m"),
        ({"source.largest": "2"}, r"source.largest: '2': write a number and a unit: 500KB, 20MB or 2GB"),
        ({"source.auth": "basic"}, r"source.auth: 'basic': write bearer, oauth2, header:NAME or query:NAME"),
        ({"source.pages": {"next": "a"}}, r"source.pages: for format json"),
        (JSON | {"source.pages": {}}, r"source.pages: write one of next .*link: true.*number"),
        (JSON | {"source.pages": {"next": "a", "number": "page"}}, r"write one of next .*, not next and number"),
        (JSON | {"source.pages": {"next": "a", "until": "b"}}, r"until is for number"),
        (JSON | {"source.pages": {"nxt": "a"}}, r"source.pages.nxt: not a field: did you mean next\?"),
        (JSON | {"source.pages": {"number": "page"}, "records": "data"}, r"records in an array"),
        ({"source.several": "last"}, r"source: several is for find"),
        ({"source.find": "a/*.csv"}, r"source.find: 'a/\*.csv': a name has no /"),
        ({"source.query": {"a": True}}, r"source.query.a: True: write a text, in quotes"),
        ({"source.headers": {"X-Day": "{day}"}}, r"nothing is filled in in headers: X-Day"),
        ({"late": {"status": [200]}}, r"late.status.0: 200"),
    ],
)  # fmt: skip
def test_what_would_ask_for_something_else_is_refused(feed, changes, message):
    with pytest.raises(ValueError, match=message):
        feed(changes)


def runs(feed, first, last):
    """The days and times that Airflow's own timetable has between two moments."""
    timetable = DagSerialization.from_dict(DagSerialization.to_dict(_fetch_dag(feed))).timetable
    first, last = (DateTime.fromtimestamp(moment.timestamp(), UTC) for moment in (first, last))
    restriction, interval = TimeRestriction(earliest=first, latest=last, catchup=True), None
    while run := timetable.next_dagrun_info(last_automated_data_interval=interval, restriction=restriction):
        yield feed.when(run.logical_date)
        interval = run.data_interval


BACK, FORWARD = date(2026, 10, 25), date(2026, 3, 29)


@pytest.mark.parametrize(
    ("schedule", "day", "expected"),
    [
        ("0 * * * *", DAY, [f"{hour:02}" for hour in range(24)]),
        # 02:00 comes twice, and there is no 02:00.
        ("0 * * * *", BACK, ["00", "01", "02", "02", *(f"{hour:02}" for hour in range(3, 24))]),
        ("0 * * * *", FORWARD, ["00", "01", *(f"{hour:02}" for hour in range(3, 24))]),
        ("0 0,6,12,18 * * *", DAY, ["00", "06", "12", "18"]),
        ("0 0,6,12,18 * * *", BACK, ["00", "06", "12", "18"]),
        ("0 0,6,12,18 * * *", FORWARD, ["00", "06", "12", "18"]),
        ("0 2,14 * * *", BACK, ["02", "14"]),
        ("0 2,14 * * *", FORWARD, ["02", "14"]),
    ],
)
def test_each_time_of_a_day_is_there_once(feed, schedule, day, expected):
    hourly = feed(HOURLY | {"schedule": schedule})
    midnight = datetime(day.year, day.month, day.day, tzinfo=hourly.zone)
    found = list(runs(hourly, midnight, hourly.midnight(day + timedelta(days=1)) - timedelta(seconds=1)))
    assert [f"{time:%H}" for _, time in found] == expected
    assert {day for day, _ in found} == {day}
    # Each has a name, and a slot in the table, of its own.
    assert len({hourly.file_name(day, time) for day, time in found}) == len(expected)
    slots = [hourly.slot({"time": time.isoformat()}) for _, time in found]
    assert sorted(set(slots)) == slots
    # The second 02:00 would ask for the same address.
    assert sum(hourly.is_asked_for_twice(day, time) for day, time in found) == len(expected) - len(set(expected))
    told_apart = feed(HOURLY | {"schedule": schedule, "source.path": "/{time:%Y%m%d%H%z}.csv"})
    assert not any(told_apart.is_asked_for_twice(day, time) for day, time in found)


@pytest.mark.parametrize(
    ("changes", "moment", "expected"),
    [
        # Somebody starts a run between two times.
        (HOURLY, "2025-10-20T09:37:12", ("2025-10-20", "0900")),
        (HALF_HOURLY, "2025-10-20T00:05", ("2025-10-19", "2350")),
        (HOURLY | {"schedule": "0 9,17 * * *"}, "2025-10-20T16:59", ("2025-10-20", "0900")),
        (HOURLY | {"schedule": "0 9,17 * * *"}, "2025-10-20T03:00", ("2025-10-19", "1700")),
        (HOURLY | {"time_offset": "-1h"}, "2025-10-20T00:00", ("2025-10-19", "2300")),
        # A daily feed means the day, whenever it is started.
        ({"source.path": "/{time:%H}"}, "2025-10-20T03:00", ("2025-10-20", "0530")),
        ({"day_offset": -1}, "2025-10-20T05:30", ("2025-10-19", "0530")),
    ],
)  # fmt: skip
def test_the_day_and_time_that_a_run_is_for(feed, changes, moment, expected):
    small = feed(changes)
    day, time = small.when(datetime.fromisoformat(moment).replace(tzinfo=small.zone).astimezone(UTC))
    assert (day.isoformat(), f"{time:%H%M}") == expected


def test_files_of_several_times_lie_side_by_side_and_have_versions_of_their_own(service, feed):
    hourly = feed(HOURLY)
    service.answers = {"/2025102009.csv": answer(CSV), "/2025102010.csv": answer(CSV)}
    nine, ten = (datetime(2025, 10, 20, hour, tzinfo=hourly.zone) for hour in (9, 10))
    manifests = [fetch.fetch_file(hourly, DAY, time) for time in (nine, ten)]
    service.answers["/2025102009.csv"] = answer(CSV + b"3,three\n")
    manifests.append(fetch.fetch_file(hourly, DAY, nine))
    assert [Path(manifest["path"]).name for manifest in manifests] == [
        "20251020T0900.csv",
        "20251020T1000.csv",
        "20251020T0900.v2.csv",
    ]
    assert [manifest["time"] for manifest in manifests[:2]] == [
        "2025-10-20T09:00:00+02:00",
        "2025-10-20T10:00:00+02:00",
    ]
    assert [hourly.slot(manifest) for manifest in manifests[:2]] == ["2025-10-20 07:00:00", "2025-10-20 08:00:00"]
    assert [fetch.order(manifest) for manifest in manifests] == sorted(
        map(fetch.order, manifests), key=lambda order: (order[2], order)
    )
    with pytest.raises(ValueError, match="the feed has one file a day now: remove it from the NAS"):
        feed().slot(manifests[0])


def test_the_second_of_two_equal_hours_is_left_out_when_its_address_is_the_same(service, feed):
    hourly = feed(HOURLY)
    second = datetime(2026, 10, 25, 2, tzinfo=hourly.zone, fold=1)
    with pytest.raises(
        AirflowSkipException, match=r"2026-10-25 02:00 comes twice.*Write %z into them, or timezone: UTC"
    ):
        fetch.fetch_file(hourly, BACK, second)
    assert service.requests == []
    newest = feed({"schedule": "0 * * * *", "source.path": "/now.csv", "file": "{time:%Y%m%dT%H%M%z}.csv"})
    service.answers["/now.csv"] = answer(CSV)
    names = [Path(fetch.fetch_file(newest, BACK, second.replace(fold=fold))["path"]).name for fold in (0, 1)]
    assert names == ["20261025T0200+0200.csv", "20261025T0200+0100.csv"]


def test_a_file_of_a_day_that_is_fetched_anew_at_each_run_stays_a_days_file(service, feed):
    again = feed({"schedule": "0 * * * *", "file": "{day:%Y%m%d}.csv"})
    service.answers["/20251020.csv"] = answer(CSV)
    day, time = again.when(datetime(2025, 10, 20, 9, tzinfo=UTC))
    assert "time" not in fetch.fetch_file(again, day, time)
    assert list(again.own_columns) == ["feed_day", "feed_row"]


def test_an_unchanged_file_is_compared_with_the_time_before(service, feed):
    hourly = feed(HOURLY | {"unchanged": "skip"})
    service.answers = {f"/20251020{hour:02}.csv": answer(CSV) for hour in (9, 10)}
    fetch.fetch_file(hourly, DAY, datetime(2025, 10, 20, 9, tzinfo=hourly.zone))
    with pytest.raises(AirflowSkipException, match=r"is what .*20251020T0900.csv is"):
        fetch.fetch_file(hourly, DAY, datetime(2025, 10, 20, 10, tzinfo=hourly.zone))


@pytest.mark.parametrize(
    ("changes", "every", "after"),
    [
        ({}, 600, 6 * 3600),
        (HOURLY, 600, 6 * 3600),
        (OFTEN, 150, 3600),
        (OFTEN | {"late": {"every": "5m", "give_up_after": "30m"}}, 300, 1800),
    ],
)  # fmt: skip
def test_runs_that_wait_for_late_files_leave_room_for_new_ones(feed, changes, every, after):
    small = feed(changes)
    assert (small.look_again.total_seconds(), small.give_up_after.total_seconds()) == (every, after)
    task = _fetch_dag(small).get_task("fetch")
    assert (task.poke_interval, task.timeout) == (every, after)


class Database:
    """Of MySQL, what loading asks for: a table that is there, and the ledger's lines of a day."""

    def __init__(self, ledger, columns):
        self.ledger, self.columns, self.said, self.last = ledger, columns, [], ""

    def execute(self, statement, values=()):
        self.said.append((statement, list(values)))
        self.last = statement

    def fetchone(self):
        return None if "table_name" in self.last else [1]

    def fetchall(self):
        if "COLUMNS" in self.last:
            return [(name, kind, None, "YES", "", None, "", "", "") for name, kind in self.columns.items()]
        return self.ledger if self.last.startswith("SELECT path") else []

    def close(self):
        pass


def test_a_file_replaces_the_records_of_its_own_time_only(service, feed):
    hourly = feed(HOURLY | {"load.key": None})
    service.answers["/2025102009.csv"] = answer(CSV)
    manifest = fetch.fetch_file(hourly, DAY, datetime(2025, 10, 20, 9, tzinfo=hourly.zone))
    other = str(hourly.directory / "20251020T1000.v3.csv")
    columns = {"id": "int", "name": "varchar(20)", "feed_day": "date", "feed_time": "datetime", "feed_row": "int"}
    database = Database([(other, "0" * 64, 3)], columns)
    connection = MagicMock(cursor=lambda: database)
    result = load.load_file(connection, hourly, manifest, Path(manifest["path"]))
    # A newer version of another time does not supersede it.
    assert (result["state"], result["rows_loaded"]) == ("loaded", 2)
    deleted = next(said for said in database.said if said[0].startswith("DELETE FROM `t`"))
    assert deleted == ("DELETE FROM `t` WHERE feed_day = %s AND feed_time = %s", ["2025-10-20", "2025-10-20 07:00:00"])
    inserted = next(said for said in database.said if said[0].startswith("INSERT INTO `t`"))
    assert "(`id`, `name`, `feed_day`, `feed_time`, `feed_row`)" in inserted[0]
    assert inserted[1][2:5] == ["2025-10-20", "2025-10-20 07:00:00", 1]
    newer = Database([(str(hourly.directory / "20251020T0900.v2.csv"), "0" * 64, 2)], columns)
    result = load.load_file(MagicMock(cursor=lambda: newer), hourly, manifest, Path(manifest["path"]))
    assert result["state"] == "superseded"


def test_the_table_of_a_feed_with_several_times_has_the_time_in_its_key(feed):
    database = Database([], {})
    with pytest.raises(ValueError, match=r"ADD COLUMN feed_time DATETIME NOT NULL"):
        make_table(database, feed(HOURLY))
    database.fetchone = lambda: None
    assert make_table(database, feed(HOURLY)) == []
    created = next(statement for statement, _ in database.said if statement.startswith("CREATE"))
    assert "feed_time DATETIME NOT NULL" in created
    assert "PRIMARY KEY (`feed_day`, `feed_time`, `id`)" in created


# -- HTTP: addresses, keys, answers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "path", "asked"),
    [
        ("{url}/v1/", "/rates", "/v1/rates"),
        ("{url}/v1/", "rates", "/v1/rates"),
        ("{url}/v1", "/rates", "/v1/rates"),
        ("{url}", "rates", "/rates"),
        ("{url}/", "/rates", "/rates"),
        ("127.0.0.1", "/rates?day={day:%Y-%m-%d}", "/rates?day=2025-10-20"),
        ("127.0.0.1/v1/", "/rates", "/v1/rates"),
    ],
)
def test_one_slash_stands_between_host_and_path(service, feed, host, path, asked):
    is_address = "{" in host
    service.connect(host=host.format(url=service.url), **({"port": None} if is_address else {}))
    service.answers[asked] = answer(CSV)
    fetch.fetch_file(feed({"source.path": path}), DAY)
    assert [request[0] for request in service.requests] == [asked]


def test_a_query_is_filled_in_and_coded(service, feed):
    asked = "/rates?base=EUR&date=2025-10-20&limit=100&symbols=KRW%2CUSD"
    service.answers[asked] = answer(CSV)
    query = {"date": "{day:%Y-%m-%d}", "symbols": "KRW,USD", "limit": 100}
    manifest = fetch.fetch_file(feed({"source.path": "/rates?base=EUR", "source.query": query}), DAY)
    assert manifest["source"] == f"service:{asked}"
    assert Path(manifest["path"]).name == "20251020"


SECRET = "s3cret/+ü="  # noqa: S105


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [("bearer", "Authorization", "Bearer s3cret"), ("header:X-Api-Key", "X-Api-Key", "s3cret")],
)
def test_a_key_of_the_connection_is_sent_in_a_header(service, feed, serve, auth, header, value):
    service.connect(password="s3cret\n")  # noqa: S106
    service.answers["/20251020.csv"] = answer(CSV)
    assert fetch.fetch_file(feed({"source.auth": auth}), DAY)["rows"] == 2
    assert service.requests[0][1][header] == value
    # Another host does not get it.
    other = serve()
    other.answers["/x"] = answer(CSV)
    service.answers["/20251020.csv"] = answer(status=302, Location=f"http://localhost:{other.server_port}/x")
    fetch.fetch_file(feed({"source.auth": auth}), DAY)
    assert value not in other.requests[0][1].values()


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (answer(b"wrong key: s3cret/+\xc3\xbc=", 500), OSError),
        (answer(b"wrong key", 401), AirflowFailException),
        (answer(b"?apikey=s3cret%2F%2B%C3%BC%3D", 403), OSError),
        (answer(b"<html>s3cret/+\xc3\xbc=", Content_Type="text/html"), ValueError),
        (answer(b"", 302, Location="/20251020.csv?apikey=s3cret%2F%2B%C3%BC%3D"), OSError),
        (answer(CSV, Link='</2?apikey=s3cret%2F%2B%C3%BC%3D>; rel="next"'), ValueError),
        (answer(CSV, Content_Length="99"), OSError),
        ("closed", OSError),
    ],
)
def test_a_key_in_the_query_is_sent_and_never_said(service, feed, filestorage, capsys, trouble, error):
    service.connect(password=SECRET)
    asked = "/20251020.csv?apikey=s3cret%2F%2B%C3%BC%3D"
    keyed = feed({"source.auth": "query:apikey"})
    service.answers[asked] = answer(CSV)
    manifest = fetch.fetch_file(keyed, DAY)
    assert "s3cret" not in (filestorage / "small/.20251020.csv.json").read_text()
    assert manifest["source"] == "service:/20251020.csv"
    service.answers[asked] = trouble
    if trouble == "closed":
        service.connect(password=SECRET, port=1)
    with pytest.raises(error) as caught:
        fetch.fetch_file(keyed, DAY)
    said, shown = str(caught.value), caught.value
    while shown := shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__):
        said += str(shown)
    assert "s3cret" not in said + capsys.readouterr().out
    assert "20251020.csv" in said


def test_a_key_that_is_not_there_is_asked_for(service, feed):
    for auth in ("bearer", "query:key", "oauth2"):
        with pytest.raises(AirflowFailException, match=r"source.auth: the connection service has no password"):
            fetch.fetch_file(feed({"source.auth": auth}), DAY)
    service.connect(password="x")  # noqa: S106
    with pytest.raises(AirflowFailException, match=r"needs the client id as its login.*token_url"):
        fetch.fetch_file(feed({"source.auth": "oauth2"}), DAY)


@pytest.mark.parametrize("in_body", [False, True])
def test_a_token_is_fetched_with_client_credentials(service, feed, in_body):
    extra = {"token_url": f"{service.url}/token", "scope": "rates", **({"token_auth": "body"} if in_body else {})}
    service.connect(login="client", password="s3cret", extra=extra)  # noqa: S106
    service.answers |= {
        "/token": page({"access_token": "t0ken", "expires_in": 3600, "token_type": "Bearer"}),
        "/20251020.csv": answer(CSV),
    }
    assert fetch.fetch_file(feed({"source.auth": "oauth2"}), DAY)["rows"] == 2
    token, file = service.requests
    form = parse_qs(token[2])
    assert (form["grant_type"], form["scope"]) == (["client_credentials"], ["rates"])
    assert form.get("client_secret") == (["s3cret"] if in_body else None)
    assert token[1].get("Authorization", "").startswith("Basic ") is not in_body
    assert file[1]["Authorization"] == "Bearer t0ken"
    assert "token_url" not in {name.lower() for name in file[1]}
    service.answers["/token"] = answer(b'{"error": "invalid_client"}', 401)
    with pytest.raises(AirflowFailException, match=r"invalid_client.*correct its login and password"):
        fetch.fetch_file(feed({"source.auth": "oauth2"}), DAY)


def test_a_login_that_is_refused_is_not_tried_again(service, feed):
    service.connect(login="team", password="s3cret")  # noqa: S106
    service.answers["/20251020.csv"] = answer(b"who are you", 401)
    with pytest.raises(
        AirflowFailException, match=r"401 Unauthorized: who are you\. The service refuses what the connect"
    ):
        fetch.fetch_file(feed(), DAY)
    assert len(service.requests) == 1


def test_403_is_an_error_or_says_late_as_the_feed_says(service, feed):
    service.answers["/20251020.csv"] = answer(b"AccessDenied", 403)
    with pytest.raises(OSError, match=r"403 Forbidden: AccessDenied.*write late: {status: \[403, 404\]}"):
        fetch.fetch_file(feed(), DAY)
    with pytest.raises(fetch.NotThereYet, match="403"):
        fetch.fetch_file(feed({"late": {"status": [403, 404]}}), DAY)


def test_a_busy_service_is_asked_again_when_it_says(service, feed, monkeypatch):
    answers, slept = [answer(b"slow down", 429, Retry_After="7"), answer(CSV)], []
    service.answers["/20251020.csv"] = lambda _: answers.pop(0)
    monkeypatch.setattr(time, "sleep", slept.append)
    assert fetch.fetch_file(feed(), DAY)["rows"] == 2
    assert slept == [7]


@pytest.mark.parametrize(
    ("changes", "kind", "content", "refused"),
    [
        ({"header": False, "load.columns": {"id": {"from": 1}}}, "text/html", b"Service temporarily unavailable",
         r"is an HTML page \(Content-Type: text/html\), and not the file: 'Service temporarily unavailable'"),
        ({}, "text/html; charset=utf-8", CSV, "is an HTML page"),
        ({}, "application/xhtml+xml", CSV, "is an HTML page"),
        ({}, "application/problem+json", b'{"title": "down"}', "an answer of the kind application/problem\\+json"),
        ({}, "text/xml", b"<Error/>", "an answer of the kind text/xml"),
        ({"format": "jsonl"}, "text/html", b'{"id": 1, "name": "x"}', "is an HTML page"),
        ({"source.content_type": "text/html"}, "text/html; charset=utf-8", CSV, ""),
        ({"source.content_type": "text/csv"}, "text/plain", CSV, "an answer of the kind text/plain"),
        ({}, "text/csv", CSV, ""),
        ({}, "text/plain", CSV, ""),
        ({}, "application/octet-stream", CSV, ""),
        ({}, "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", CSV, ""),
        ({}, None, CSV, ""),
    ],
)  # fmt: skip
def test_an_answer_that_says_that_it_is_something_else_is_refused(
    service, feed, filestorage, changes, kind, content, refused
):  # fmt: skip
    service.answers["/20251020.csv"] = answer(content, Content_Type=kind)
    if refused:
        with pytest.raises(ValueError, match=refused):
            fetch.fetch_file(feed({"load.key": None} | changes), DAY)
        assert on_nas(filestorage) == []
    else:
        assert fetch.fetch_file(feed(changes), DAY)["rows"] == 2


def test_a_file_that_is_too_large_is_refused_when_it_is_announced_and_when_it_comes(service, feed, filestorage):
    content = b"id,name\n" + b"1,one\n" * 3000
    small = feed({"source.largest": "10KB"})
    service.answers["/20251020.csv"] = answer(content)
    with pytest.raises(ValueError, match=r"has 18008 bytes or more, and source.largest is 10000: raise it"):
        fetch.fetch_file(small, DAY)
    service.answers["/20251020.csv"] = answer(gzip.compress(content), Content_Encoding="gzip")
    with pytest.raises(ValueError, match=r"source.largest is 10000"):
        fetch.fetch_file(small, DAY)
    assert on_nas(filestorage) == []


def endless(handler):
    """Send until nobody listens, at most 64 MB."""
    handler.server.sent = 0
    with contextlib.suppress(OSError):
        while handler.server.sent < 64 << 20:
            handler.wfile.write(bytes(1 << 16))
            handler.server.sent += 1 << 16
    handler.close_connection = True


def test_what_comes_with_a_redirect_is_not_read(service, feed):
    def redirect(handler):
        handler.send_response(302)
        handler.send_header("Location", "/moved.csv")
        handler.end_headers()
        endless(handler)

    service.answers = {"/20251020.csv": redirect, "/moved.csv": answer(CSV)}
    assert content_of(fetch.fetch_file(feed(), DAY)) == CSV
    # What fits into the buffers of two sockets.
    assert service.sent < 32 << 20


@pytest.mark.parametrize(("length", "is_fetched"), [("abc", True), ("-5", True), (str(len(CSV) + 5), False)])
def test_a_length_that_is_wrong_is_no_trouble_or_refused(service, feed, filestorage, length, is_fetched):
    def close(handler):
        handler.close_connection = True
        return answer(CSV, **{"Content-Length": length})

    service.answers = {"/20251020.csv": close}
    if is_fetched:
        assert content_of(fetch.fetch_file(feed(), DAY)) == CSV
    else:
        with pytest.raises(OSError, match="broke off after"):
            fetch.fetch_file(feed(), DAY)
        assert on_nas(filestorage) == []


def test_what_grows_on_the_way_is_refused_when_it_is_too_large(service, feed, filestorage):
    bomb = gzip.compress(b"id,name\n" + bytes(8 << 20))
    assert len(bomb) < 20_000
    service.answers = {"/20251020.csv": answer(bomb, Content_Encoding="gzip")}
    with pytest.raises(ValueError, match=r"has .* bytes or more, and source.largest is 1000000"):
        fetch.fetch_file(feed({"source.largest": "1MB"}), DAY)
    assert on_nas(filestorage) == []


def test_fields_of_another_kind_of_service_are_refused(service, feed, monkeypatch):
    with pytest.raises(
        AirflowFailException, match=r"source.at_rest is for sftp, and the connection service has the type http"
    ):
        fetch.fetch_file(feed({"source.at_rest": "1m"}), DAY)
    monkeypatch.setenv("AIRFLOW_CONN_SERVICE", "sftp://127.0.0.1:1")
    with pytest.raises(
        AirflowFailException, match=r"source.query is for http, and the connection service has the type sftp"
    ):
        fetch.fetch_file(feed({"source.query": {"a": "b"}}), DAY)


@pytest.mark.parametrize("extra", [{"verify": "/no/such.pem"}, {"cert": ["/no/such.pem", "/no/such.key"]}])
def test_a_certificate_that_is_not_there_is_named(service, feed, extra):
    service.connect(extra=extra)
    with pytest.raises(AirflowFailException, match=r"in its extra is /no/such.pem, which is not on this host"):
        fetch.fetch_file(feed(), DAY)


# -- HTTP: names to look for, pages -----------------------------------------------------------------------------

INDEX = b"""<html><a href="../">up</a> <a href="export_20251020_0712.csv">a</a>
<a href='/in/export_20251020_0712.csv'>b</a>
<A HREF="export_20251019_0711.csv">c</A></html>"""


def test_a_name_is_looked_for_among_the_links_of_a_page(service, feed):
    looking = {"source.path": "/in/", "source.find": "export_{day:%Y%m%d}_*.csv"}
    service.answers = {
        "/in/": answer(INDEX, Content_Type="text/html"),
        "/in/export_20251020_0712.csv": answer(CSV),
    }
    manifest = fetch.fetch_file(feed(looking), DAY)
    assert (Path(manifest["path"]).name, manifest["source"]) == ("20251020.csv", "service:/in/export_20251020_0712.csv")
    with pytest.raises(
        fetch.NotThereYet, match=r"service:/in/ has no name like export_20251021_\*.csv \(source.find\)"
    ):
        fetch.fetch_file(feed(looking), DAY + timedelta(days=1))
    service.answers["/in/"] = answer(INDEX + b'<a href="export_20251020_0915.csv">', Content_Type="text/html")
    with pytest.raises(ValueError, match=r"has 2 names like .*: export_20251020_0712.csv, export_20251020_0915.csv"):
        fetch.fetch_file(feed(looking), DAY)
    service.answers["/in/export_20251020_0915.csv"] = answer(CSV + b"3,three\n")
    assert fetch.fetch_file(feed(looking | {"source.several": "last"}), DAY)["rows"] == 3
    service.answers["/in/"] = answer(
        b'<a href="https://other.example/export_20251020_1.csv">', Content_Type="text/html"
    )
    with pytest.raises(ValueError, match=r"leads to another host, https://other.example"):
        fetch.fetch_file(feed(looking), DAY)


def test_a_marker_says_that_the_file_is_finished(service, feed):
    marked = feed({"source.marker": "/{day:%Y%m%d}.done"})
    service.answers["/20251020.csv"] = answer(CSV)
    with pytest.raises(fetch.NotThereYet, match=r"service:/20251020.done \(source.marker\) is not there"):
        fetch.fetch_file(marked, DAY)
    service.answers["/20251020.done"] = answer(b"")
    assert fetch.fetch_file(marked, DAY)["rows"] == 2


CURSOR = {"source.pages": {"next": "meta.cursor", "cursor": "after"}}


def ids(manifest, feed):
    return [record["id"] for record in parse.records(feed, Path(manifest["path"]))]


@pytest.mark.parametrize(
    ("changes", "answers"),
    [
        (
            {"source.pages": {"next": "links.next"}, "records": "data.item"},
            {
                "/list": page({"data": [{"id": 1}, {"id": 2}], "links": {"next": "/list?page=2"}}),
                "/list?page=2": page({"data": [], "links": {"next": "http://127.0.0.1:PORT/list?page=3"}}),
                "/list?page=3": page({"data": [{"id": 3}], "links": {"next": None}}),
            },
        ),
        (
            CURSOR | {"source.query": {"limit": 2}, "records": "a.b.item"},
            {
                "/list?limit=2": page({"a": {"b": [{"id": 1}, {"id": 2}]}, "meta": {"cursor": "x y"}}),
                "/list?limit=2&after=x+y": page({"a": {"b": [{"id": 3}]}, "meta": {}}),
            },
        ),
        (
            {"source.pages": {"link": True}},
            {
                "/list": page([{"id": 1}, {"id": 2}], Link='</list?page=2>; rel="next", </list?page=9>; rel="last"'),
                "/list?page=2": page([{"id": 3}]),
            },
        ),
        (
            {"source.pages": {"number": "page"}},
            {
                "/list?page=1": page([{"id": 1}, {"id": 2}]),
                "/list?page=2": page([{"id": 3}]),
                "/list?page=3": page([]),
            },
        ),
        (
            {"source.pages": {"number": "page", "until": "pages"}, "records": "data.item"},
            {
                "/list?page=1": page({"pages": 2, "page": 1, "data": [{"id": 1}, {"id": 2}]}),
                "/list?page=2": page({"pages": 2, "page": 2, "data": [{"id": 3}]}),
            },
        ),
        (
            {"source.pages": {"number": "offset", "first": 0, "step": 2, "until": "total"}, "records": "data.item"},
            {
                "/list?offset=0": page({"total": 3, "data": [{"id": 1}, {"id": 2}]}),
                "/list?offset=2": page({"total": 3, "data": [{"id": 3}]}),
            },
        ),
        # The records can lie deeper, and be empty on the first page.
        (
            {"source.pages": {"number": "page"}, "records": "sets.item.rows.item"},
            {
                "/list?page=1": page({"sets": [{"rows": [{"id": 1}]}, {"rows": [{"id": 2}, {"id": 3}]}]}),
                "/list?page=2": page({"sets": [{"rows": []}]}),
            },
        ),
    ],
)  # fmt: skip
def test_all_pages_become_one_file(service, feed, changes, answers):
    service.answers = {
        path: answer(said.content.replace(b"PORT", str(service.server_port).encode()), **said.headers)
        for path, said in answers.items()
    }
    paged = feed(JSON | changes)
    manifest = fetch.fetch_file(paged, DAY)
    assert ids(manifest, paged) == [1, 2, 3]
    assert manifest["rows"] == 3
    assert [request[0] for request in service.requests] == list(answers)


def test_the_digits_of_a_number_stay_as_they_are_in_merged_pages(service, feed):
    service.answers = {
        "/list?page=1": answer(
            b'[{"id": 1, "x": 12345678901234567.8901000, "y": ["\\ud55c", 1E-7, null, true, {"z": 1.10}]}]'
        ),
        "/list?page=2": answer(b"[]"),
    }
    paged = feed(JSON | {"source.pages": {"number": "page"}, "load.columns": {"id": "int", "x": "decimal(30,10)"}})
    content = content_of(fetch.fetch_file(paged, DAY)).decode()
    assert content == '[{"id": 1, "x": 12345678901234567.8901000, "y": ["\\ud55c", 1E-7, null, true, {"z": 1.10}]}]'


def test_a_key_in_the_query_goes_to_each_page_once_and_into_no_manifest(service, feed, filestorage):
    service.connect(password="s3cret")  # noqa: S106
    service.answers = {
        "/list?key=s3cret": page({"data": [{"id": 1}], "next": "/list?page=2&key=s3cret"}),
        "/list?page=2&key=s3cret": page({"data": [{"id": 2}], "next": None}),
    }
    paged = feed(JSON | {"source.pages": {"next": "next"}, "records": "data.item", "source.auth": "query:key"})
    assert ids(fetch.fetch_file(paged, DAY), paged) == [1, 2]
    assert not any("s3cret" in path.read_text() for path in (filestorage / "small").iterdir())


NEXT = {"source.pages": {"next": "next"}, "records": "data.item"}


@pytest.mark.parametrize(
    ("changes", "answers", "error", "message"),
    [
        (NEXT, {"/list": page({"data": [{"id": 1}], "next": "http://a.b/x"})}, ValueError, "leads to another host"),
        (NEXT, {"/list": page({"data": [{"id": 1}], "next": "/list"})}, ValueError, r"was there already: .*circle"),
        (NEXT | {"source.pages": {"next": "next", "most": 1}},
         {"/list": page({"data": [{"id": 1}], "next": "/2"})}, ValueError, r"more than 1 pages: raise source.pages"),
        (NEXT, {"/list": page({"data": [{"id": 1}], "next": "/2"})}, OSError, r"\(page 2\) is not there"),
        (NEXT, {"/list": page({"data": [{"id": 1}], "next": "/2"}), "/2": page({"error": "limit"})},
         ValueError, r"\(page 2\) has no array where 'data.item' \(records\)"),
        (NEXT, {"/list": page({"data": [{"id": 1}], "next": "/2"}), "/2": answer(b'{"data": [{"id"')},
         ValueError, r"\(page 2\): its JSON is broken"),
        # A wrong name would get the first page alone.
        ({"source.pages": {"next": "link.next"}, "records": "data.item"},
         {"/list": page({"data": [{"id": 1}], "links": {"next": "/2"}})}, ValueError, r"there are more \(links.next"),
        ({"source.pages": {"link": True}, "records": "data.item"},
         {"/list": page({"data": [{"id": 1}], "page": 1, "pages": 3})}, ValueError, r"there are more \(pages: 3\)"),
        ({"source.pages": {"number": "pge"}}, {"/list?pge=1": page([{"id": 1}]), "/list?pge=2": page([{"id": 1}])},
         ValueError, r"\(page 2\) is what the page before it is: does the service know"),
        ({"source.pages": {"number": "page", "until": "pags"}, "records": "data.item"},
         {"/list?page=1": page({"pages": 2, "data": [{"id": 1}]})}, ValueError, r"has no number at pags"),
        # Nothing said about pages.
        ({"records": "data.item"}, {"/list": page({"page": 1, "pages": 3, "next": "...", "data": [{"id": 1}]})},
         ValueError, r"is one page of several: beside the records is pages: 3"),
        ({"records": "data.item"}, {"/list": page({"data": [{"id": 1}], "links": {"next": "/list?page=2"}})},
         ValueError, r"one page of several: beside the records is links.next: /list\?page=2"),
        ({"records": "value.item"}, {"/list": page({"value": [{"id": 1}], "@odata.nextLink": "https://x/y?$skip=1"})},
         ValueError, r"one page of several: beside the records is @odata.nextLink"),
        ({"records": "data.item"}, {"/list": page({"has_more": True, "data": [{"id": 1}]})}, ValueError, "has_more"),
        ({"records": "data.item"}, {"/list": page({"meta": {"next_cursor": "abc"}, "data": [{"id": 1}]})},
         ValueError, "meta.next_cursor"),
        ({}, {"/list": page([{"id": 1}], Link='</list?page=2>; rel="next"')}, ValueError, "header Link has a next one"),
    ],
)  # fmt: skip
def test_one_page_of_several_is_not_taken_for_all(service, feed, filestorage, changes, answers, error, message):
    service.answers = answers
    with pytest.raises(error, match=message):
        fetch.fetch_file(feed(JSON | changes), DAY)
    assert on_nas(filestorage) == []


@pytest.mark.parametrize(
    ("changes", "content"),
    [
        ({"records": "data.item"}, {"next": None, "has_more": False, "page": 3, "pages": 3, "data": [{"id": 1}]}),
        ({"records": "data.item"}, {"next": "2025-10-21", "data": [{"id": 1}]}),
        ({"records": "item"}, [{"id": 1, "next": "/x/y", "pages": 3, "page": 1}]),
        ({"records": "data.item"}, {"data": [{"id": 1, "links": {"next": "/x"}, "has_more": True}]}),
        ({"records": "data.item", "source.pages": {"ignore": True}}, {"next": "/list?page=2", "data": [{"id": 1}]}),
    ],
)
def test_an_answer_that_is_whole_is_not_taken_for_a_page(service, feed, changes, content):
    service.answers["/list"] = page(content)
    assert fetch.fetch_file(feed(JSON | changes), DAY)["rows"] == 1


# -- SFTP -------------------------------------------------------------------------------------------------------


@pytest.fixture
def inbox(sftp_server):
    """A directory of an SFTP server; files in it are two hours old unless a test says otherwise."""

    def put(name, content, age=7200):
        path = sftp_server.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (time.time() - age,) * 2)
        return path

    return put


def test_a_file_that_the_server_removes_once_it_was_read_is_published(inbox, feed, monkeypatch):
    path = inbox("20251020.csv", CSV)
    original = sftp.Sftp._open

    def removing(self, where, *others):
        for piece in original(self, where, *others):
            yield piece
            path.unlink()

    monkeypatch.setattr(sftp.Sftp, "_open", removing)
    assert content_of(fetch.fetch_file(feed(), DAY)) == CSV


def test_a_file_that_is_still_written_to_is_late(inbox, feed, filestorage, monkeypatch):
    path = inbox("20251020.csv", CSV, age=10)
    slept = []

    def goes_on(seconds):
        slept.append(seconds)
        with path.open("ab") as file:
            file.write(b"3,three\n")

    monkeypatch.setattr(time, "sleep", goes_on)
    with pytest.raises(
        fetch.NotThereYet, match=r"is still written to: 20 bytes, and then 28 \(source.at_rest: 0:01:00\)"
    ):
        fetch.fetch_file(feed(), DAY)
    assert on_nas(filestorage) == []
    assert 45 < slept[0] <= 60
    monkeypatch.setattr(time, "sleep", slept.append)
    assert fetch.fetch_file(feed(), DAY)["rows"] == 3
    # What is older is looked at twice all the same, for clocks differ; what is a day old is not.
    for age, seconds in ((3600, 5), (2 * 86400, None)):
        slept.clear()
        inbox("20251020.csv", CSV, age=age)
        fetch.fetch_file(feed(), DAY)
        assert slept == ([seconds] if seconds else [])


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [
        ({}, False),
        ({"format": "jsonl"}, False),
        ({"source.at_rest": "10m"}, True),
        ({"source.marker": "{day:%Y%m%d}.done"}, True),
        ({"encoding": "utf-16-le"}, False),
    ],
)
def test_a_record_without_its_end_is_not_taken_for_a_whole_one(inbox, feed, filestorage, changes, is_taken):
    content = b'{"id": 1, "name": "x"}' if "format" in changes else b"id,name\n1,amount\n2,amo"
    inbox("20251020.csv", content.decode().encode(changes.get("encoding", "utf-8")))
    inbox("20251020.done", b"")
    if is_taken:
        assert fetch.fetch_file(feed(changes), DAY)["rows"] == 2
    else:
        with pytest.raises(fetch.NotThereYet, match=r"ends within a line: .*source.at_rest .*source.marker or"):
            fetch.fetch_file(feed(changes), DAY)
        assert on_nas(filestorage) == []


def test_a_file_over_sftp_waits_for_its_marker(inbox, feed):
    inbox("20251020.csv", CSV)
    marked = feed({"source.marker": "done/{day:%Y%m%d}"})
    with pytest.raises(fetch.NotThereYet, match=r"service:done/20251020 \(source.marker\) is not there"):
        fetch.fetch_file(marked, DAY)
    inbox("done/20251020", b"")
    assert fetch.fetch_file(marked, DAY)["rows"] == 2


def test_a_name_is_looked_for_in_a_directory(inbox, feed):
    looking = {"source.path": "in", "source.find": "rates_{day:%Y%m%d}_*.csv"}
    with pytest.raises(fetch.NotThereYet, match="service:in: no such directory"):
        fetch.fetch_file(feed(looking), DAY)
    inbox("in/rates_20251019_1.csv", b"-")
    with pytest.raises(fetch.NotThereYet, match=r"service:in has no name like rates_20251020_\*.csv"):
        fetch.fetch_file(feed(looking), DAY)
    inbox("in/rates_20251020_2.csv", CSV, age=100_000)
    assert fetch.fetch_file(feed(looking), DAY)["source"] == "service:in/rates_20251020_2.csv"
    inbox("in/rates_20251020_1.csv", CSV + b"3,three\n", age=90_000)
    with pytest.raises(
        ValueError, match=r"has 2 names .*: rates_20251020_1.csv, rates_20251020_2.csv. Write it so that"
    ):
        fetch.fetch_file(feed(looking), DAY)
    assert fetch.fetch_file(feed(looking | {"source.several": "newest"}), DAY)["rows"] == 3
    assert fetch.fetch_file(feed(looking | {"source.several": "last"}), DAY)["rows"] == 2


def test_a_wrong_sftp_password_is_tried_once(sftp_server, feed, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SERVICE", json.dumps(sftp_server.connection | {"password": "wrong"}))
    sftp_server.logins.clear()
    with pytest.raises(AirflowFailException, match=r"service: Authentication failed.*Correct its login and password"):
        fetch.fetch_file(feed(), DAY)
    assert sftp_server.logins == ["wrong"]


def test_a_host_key_that_is_none_is_named(sftp_server, feed, monkeypatch):
    wrong = sftp_server.connection | {"extra": {"host_key": "ecdsa-sha2-nistp256 AAAA"}}
    monkeypatch.setenv("AIRFLOW_CONN_SERVICE", json.dumps(wrong))
    with pytest.raises(AirflowFailException, match=r"source.connection: service cannot be used"):
        fetch.fetch_file(feed(), DAY)


def test_a_file_over_sftp_that_is_too_large_is_refused_before_it_is_read(inbox, feed):
    inbox("20251020.csv", b"id,name\n" + b"1,one\n" * 3000)
    with pytest.raises(ValueError, match=r"has 18008 bytes or more, and source.largest is 10000"):
        fetch.fetch_file(feed({"source.largest": "10KB"}), DAY)


# -- The NAS ----------------------------------------------------------------------------------------------------


def test_a_directory_of_others_is_named_and_left_alone(feed, filestorage, monkeypatch, capsys):
    small = feed({"file": "{day:%Y}/{day:%m%d}.csv"})
    manifest = nas.publish(small.path_of(DAY), CSV, day=DAY)
    foreign = small.directory / "2025/@eaDir"
    foreign.mkdir()
    (foreign / ".1020.csv.json").write_text("{}")
    original = nas.tempfile.mkstemp

    def refusing(*, dir, prefix):  # noqa: A002
        # The tests may run as root, for whom no directory is forbidden.
        if Path(dir) in refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))
        return original(dir=dir, prefix=prefix)

    monkeypatch.setattr(nas.tempfile, "mkstemp", refusing)
    refused = {foreign}
    assert fetch.manifests(small) == [manifest]
    assert f"{foreign} is not ours to read and write: left alone (Permission denied)" in capsys.readouterr().out
    assert load.remove_old_files(small) == []
    # The feed's own directory is another matter.
    refused = {small.directory}
    with pytest.raises(PermissionError):
        fetch.manifests(small)


def test_asked_addresses_have_no_fragments(service, feed):
    service.answers["/in/"] = answer(b'<a href="20251020.csv#top">', Content_Type="text/html")
    service.answers["/in/20251020.csv"] = answer(CSV)
    fetch.fetch_file(feed({"source.path": "/in/", "source.find": "{day:%Y%m%d}.csv"}), DAY)
    assert urlsplit(service.requests[-1][0]).path == "/in/20251020.csv"
