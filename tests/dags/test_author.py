"""What helps the author of a feed: the check without Airflow, review and reload of days, and messages of failures."""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from airflow.sdk.exceptions import AirflowSkipException

import nas
from feed import days, tell
from feed.__main__ import main
from feed.model import Feed

ROOT = Path(__file__).resolve().parents[2]
RATES = {
    "schedule": "30 6 * * *",
    "timezone": "Asia/Seoul",
    "source": {"connection": "bank", "path": "/{day:%Y%m%d}.csv"},
    "format": "csv",
    "load": {
        "connection": "warehouse",
        "table": "rates",
        "key": ["currency"],
        "columns": {"currency": "char(3)", "rate": "int"},
    },
}


@pytest.fixture
def written(tmp_path):
    def written(name="rates", sample=None, **changes):
        path = tmp_path / "feeds" / f"{name}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(RATES | changes, sort_keys=False))
        if sample is not None:
            (tmp_path / "sample").write_text(sample)
        return path

    return written


def load(**changes):
    return RATES["load"] | changes


# -- The check --------------------------------------------------------------------------------------------------


def test_the_check_shows_rows_and_each_rejected_record_with_its_reason(written, tmp_path, capsys):
    path = written(sample="currency,rate\nUSD,1400\n원화,2\nUSD,3\nEUR,1.5\nJPY\nGBP,\n", load=load(reject_limit=3))
    assert main(["check", str(path), str(tmp_path / "sample")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1:] == [
        "record  currency  rate",
        "        char(3)   int",
        "------  --------  ----",
        "1       USD       1400",
        "2       원화      2",
        "6       GBP       NULL",
        *said[7:10],
        "3 of 6 records would be loaded, 3 rejected (load.reject_limit: 3)",
    ]
    for line, (number, words) in zip(
        said[7:10],
        [(3, "record 1 has the key USD, too"), (4, "rate: '1.5' is not an integer"), (5, "1 fields, and not 2")],
        strict=True,
    ):
        assert line.startswith(f"record {number}: ")
        assert words in line


@pytest.mark.parametrize(
    ("sample", "changes", "words"),
    [
        ("currency,rate\nUSD,x\n", {}, "Nothing would be loaded: 1 of 1 records are bad (load.reject_limit: 0)"),
        ("currency,rate\n", {}, "no records (empty: fail)"),
        ("currency,price\nUSD,1\n", {}, "its header has no rate; it has currency, price"),
        ("currency,rate\nUSD,1\n", {"timezone": "Seoul"}, "rates.yml: timezone: 'Seoul': no such time zone"),
    ],
)
def test_what_would_not_be_loaded_ends_with_an_error(written, tmp_path, capsys, sample, changes, words):
    assert main(["check", str(written(sample=sample, **changes)), str(tmp_path / "sample")]) == 1
    said = capsys.readouterr()
    assert words in said.out + said.err


def test_the_check_shows_numbers_as_the_table_has_them(written, tmp_path, capsys):
    columns = {"currency": "char(3)", "rate": "decimal(12,2)"}
    path = written(sample="currency,rate\nUSD,1e3\n", load=load(columns=columns))
    assert main(["check", str(path), str(tmp_path / "sample")]) == 0
    assert "1       USD       1000\n" in capsys.readouterr().out


def test_a_type_that_yaml_cuts_at_its_comma_is_named(written, tmp_path, capsys):
    path = written()
    path.write_text(path.read_text().replace("rate: int", "rate: {from: Rate, type: decimal(12,6)}"))
    assert main(["check", str(path)]) == 1
    assert 'rate: in braces write the type in quotes, such as {type: "decimal(12,6)"}' in capsys.readouterr().out


def test_with_upsert_the_last_record_of_a_key_counts(written, tmp_path, capsys):
    path = written(sample="currency,rate\nUSD,1\nUSD,2\n", load=load(mode="upsert"))
    assert main(["check", str(path), str(tmp_path / "sample")]) == 0
    assert "2 of 2 records would be loaded" in capsys.readouterr().out


def test_a_directory_is_checked_without_samples(written, tmp_path, capsys):
    written()
    written("other", load=load(table="RATES"))
    written("wrong", schedule="daily")
    assert main(["check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "other.yml: right" in said
    assert "rates.yml: load.table: 'rates': " in said
    assert "wrong.yml: schedule: 'daily'" in said
    (tmp_path / "none").mkdir()
    assert main(["check", str(tmp_path / "none")]) == 1
    assert "no feeds/NAME.yml below this directory" in capsys.readouterr().err


def test_the_check_needs_neither_airflow_nor_a_driver_nor_the_nas(written, tmp_path):
    path = written(sample="currency,rate\nUSD,1\n")
    code = (
        "import sys\n"
        "for name in ('airflow', 'MySQLdb', 'requests', 'paramiko'): sys.modules[name] = None\n"
        "from feed.__main__ import main\n"
        f"sys.exit(main(['check', {str(path)!r}, {str(tmp_path / 'sample')!r}]))"
    )
    environment = {"PYTHONPATH": str(ROOT / "dag_modules"), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert "1 of 1 records would be loaded" in done.stdout


# -- Days that are loaded ---------------------------------------------------------------------------------------


class Database:
    """A ledger; a line that is deleted without a commit is there again."""

    def __init__(self, lines):
        self.lines, self.kept = list(lines), list(lines)

    @contextmanager
    def __call__(self, feed):
        yield self
        self.lines = list(self.kept)

    def cursor(self):
        return SimpleNamespace(execute=self.execute, fetchall=lambda: self.found, close=lambda: None)

    def execute(self, statement, values):
        if statement.startswith("SELECT"):
            _, first, last = values
            self.found = [line for line in self.lines if str(first) <= line[2] <= str(last)]
        else:
            self.lines = [line for line in self.lines if line[0] != values[1]]

    def commit(self):
        self.kept = list(self.lines)


@pytest.fixture
def loaded(written, tmp_path, monkeypatch):
    """Two days of a feed that are loaded; the file of a third is not on the NAS any more."""
    monkeypatch.setattr(nas, "FILESTORAGE", tmp_path)
    (tmp_path / nas.GUARD).touch()
    feed = Feed.of(written())
    lines = []
    for day in (date(2025, 10, 18), date(2025, 10, 19), date(2025, 10, 20)):
        manifest = nas.publish(feed.path_of(day), f"currency,rate\nUSD,{day.day}\n".encode(), day=day)
        lines.append((manifest["path"], manifest["sha256"], str(day), 1, "loaded"))
    Path(lines[0][0]).unlink()
    database = Database(lines)
    monkeypatch.setattr(days, "database", database)
    monkeypatch.setattr(days, "feed_of", lambda name: feed)
    triggered = []
    monkeypatch.setattr(
        days.subprocess, "run", lambda words, **_: triggered.append(words) or SimpleNamespace(returncode=0)
    )
    return SimpleNamespace(database=database, triggered=triggered)


def test_days_are_loaded_again_by_one_command(loaded, capsys):
    assert main(["reload", "rates", "2025-10-18", "2025-10-19"]) == 0
    # What the NAS has no more stays as it is.
    assert [line[2] for line in loaded.database.kept] == ["2025-10-18", "2025-10-20"]
    assert loaded.triggered == [["airflow", "dags", "trigger", "rates_load"]]
    said = capsys.readouterr().out
    assert "20251019.csv: will be loaded again" in said
    assert "20251018.csv: stays as it is loaded" in said


def test_a_day_that_cannot_be_loaded_again_says_what_helps(loaded, capsys):
    assert main(["reload", "rates", "2025-10-18"]) == 1
    assert len(loaded.database.kept) == 3
    assert not loaded.triggered
    assert "trigger rates_fetch" in capsys.readouterr().out


def test_no_line_is_lost_when_the_nas_goes_away_in_between(loaded, monkeypatch):
    check = nas.check

    def away(line, patience):
        if "20251020" in line["path"]:
            raise OSError("the NAS does not answer")
        return check(line, patience)

    monkeypatch.setattr(nas, "check", away)
    assert main(["reload", "rates", "2025-10-19", "2025-10-20"]) == 1
    assert len(loaded.database.kept) == 3


def test_a_day_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["reload", "rates", "20.10.2025"])
    assert "'20.10.2025' is not a day such as 2025-10-20" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("now", "earlier", "told"),
    [
        ([((1,), (9, "a"))], [((1,), (9, "a"))], []),
        ([((1,), (9, "a"))], [((1,), (8, None))], ["record 1: t: 8 becomes 9; name: NULL becomes a"]),
        ([((1,), (9, "a"))], [], ["record 1: would be added"]),
        ([], [((2,), (9, "a"))], ["record 2: would be removed"]),
        (
            [((1,), (1, "a")), ((3,), (3, "c"))],
            [((2,), (2, "b")), ((3,), (3, "c"))],
            ["record 1: would be added", "record 2: would be removed"],
        ),
    ],
)
def test_a_review_says_which_rows_would_change(now, earlier, told):
    assert list(days._changed(iter(now), iter(earlier), ["t", "name"])) == told


# -- Who is told ------------------------------------------------------------------------------------------------


@pytest.fixture
def webhook(monkeypatch):
    """A service that a connection named team leads to; its address ends with a secret."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.status, server.got = 200, got
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/services/"
    monkeypatch.setenv("AIRFLOW_CONN_TEAM", f'{{"conn_type": "http", "host": "{address}", "password": "T0/s3cret"}}')
    yield server
    server.shutdown()
    server.server_close()


def failed(feed):
    dag = SimpleNamespace(dag_id=f"{feed.name}_fetch", task_ids=["fetch"])
    tell.on_failure(feed)({"dag": dag, "run_id": "manual__2025-10-20T00:00:00+00:00"})


def test_a_webhook_gets_the_reason_of_a_failed_run(written, webhook, monkeypatch):
    monkeypatch.setattr(tell, "_reason", lambda *_: "bank:/20251020.csv is not there, 6:00:00 after the run's time")
    failed(Feed.of(written(tell="team")))
    ((path, body),) = webhook.got
    assert path == "/services/T0/s3cret"
    assert "Feed rates: rates_fetch failed" in body
    assert "is not there, 6:00:00 after" in body
    assert "/dags/rates_fetch/runs/manual__2025-10-20T00%3A00%3A00%2B00%3A00" in body


def test_a_partly_rejected_file_is_told_and_a_whole_one_is_not(written, webhook):
    feed = Feed.of(written(tell="team"))
    tell.tell_rejected(feed, {"path": "/nas/20251020.csv", "records": 10, "rows_rejected": 0})
    assert not webhook.got
    tell.tell_rejected(feed, {"path": "/nas/20251020.csv", "records": 10, "rows_rejected": 2})
    assert "2 of 10 records of /nas/20251020.csv are rejected" in webhook.got[0][1]


@pytest.mark.parametrize("case", ["refused", "away", "no such connection", "another type"])
def test_a_message_that_fails_raises_nothing_and_shows_no_secret(written, webhook, monkeypatch, capsys, caplog, case):
    if case == "refused":
        webhook.status = 404
    elif case == "away":
        address = '"host": "http://127.0.0.1:9/services/", "password": "T0/s3cret"'
        monkeypatch.setenv("AIRFLOW_CONN_TEAM", f'{{"conn_type": "http", {address}}}')
    elif case == "no such connection":
        monkeypatch.delenv("AIRFLOW_CONN_TEAM")
    else:
        monkeypatch.setenv("AIRFLOW_CONN_TEAM", "ftp://127.0.0.1/")
    failed(Feed.of(written(tell="team")))
    said = capsys.readouterr().out
    assert "tell: " in said
    assert "s3cret" not in said + caplog.text


def test_a_mail_goes_to_whom_the_connection_names(written, monkeypatch):
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    sent = []
    monkeypatch.setattr(SmtpHook, "__enter__", lambda self: self)
    monkeypatch.setattr(SmtpHook, "__exit__", lambda *_: None)
    monkeypatch.setattr(SmtpHook, "send_email_smtp", lambda self, **mail: sent.append(mail))
    extra = '{"from_email": "airflow@example.com", "to": "ops@example.com"}'
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", f'{{"conn_type": "smtp", "host": "mail", "extra": {extra}}}')
    feed = Feed.of(written(tell="mail"))
    tell.tell_rejected(feed, {"path": "/nas/<x>.csv", "records": 10, "rows_rejected": 2})
    ((mail),) = sent
    assert (mail["to"], mail["subject"]) == ("ops@example.com", "Feed rates: 2 records are rejected")
    assert "&lt;x&gt;" in mail["html_content"]


def test_a_site_has_a_connection_for_all_feeds_and_a_feed_can_do_without(written, monkeypatch):
    monkeypatch.setenv("FEED_TELL", "team")
    assert Feed.of(written()).tell == "team"
    assert Feed.of(written(tell=None)).tell is None
    monkeypatch.delenv("FEED_TELL")
    assert tell.on_failure(Feed.of(written())) is None


def test_the_reason_of_a_failed_task_is_kept_without_secrets(written):
    from airflow.sdk.log import mask_secret

    mask_secret("hunter2hunter2")
    feed, kept = Feed.of(written(tell="team")), {}
    ti = SimpleNamespace(xcom_push=kept.__setitem__)
    with pytest.raises(ValueError, match="broken"), tell.reason_kept(feed, ti):
        raise ValueError("broken: key=hunter2hunter2")
    assert kept[tell.REASON] == "broken: key=***"
    kept.clear()
    with pytest.raises(AirflowSkipException), tell.reason_kept(feed, ti):
        raise AirflowSkipException("late")
    assert not kept
    # The task's error is not replaced by that of the note.
    with pytest.raises(ValueError, match="broken"), tell.reason_kept(feed, None):
        raise ValueError("broken")
