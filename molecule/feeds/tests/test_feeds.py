"""Feeds from an outside service: rows agree at every stage, each version of a file is loaded once, whatever fails."""

import contextlib
from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import pytest

from support.pipeline import ENDED, until

TODAY = datetime.now(UTC).date()
WWW = "/srv/outside/www"


@pytest.fixture(scope="module", autouse=True)
def feeds(airflow, dags_of_the_tests, put):
    """The project's feeds and those of the tests."""
    # Unpausing fetches the file of 02:30 in Berlin, and the schedule the next file. The DAG would ask
    # for a missing file every five seconds.
    day = (datetime.now(ZoneInfo("Europe/Berlin")) - timedelta(hours=2, minutes=30)).date()
    for each in (day, day + timedelta(days=1)):
        put(each, "id,name\\n0,zero\\n")
    for name in ("debian_packages", "installed_packages", "lab_csv"):
        airflow.unpause(f"{name}_load")
        airflow.unpause(f"{name}_fetch")


def rows(query, day):
    return query(f"SELECT id, name FROM lab_csv WHERE feed_day = '{day}' ORDER BY id")


def test_only_the_edge_reaches_the_service(main1, nas1, edge1):
    probe = "timeout 10 bash -c 'exec 3<>/dev/tcp/out1/443' 2>&1"
    address = edge1.check_output("getent hosts out1").split()[0]
    until(lambda: edge1.run(probe).rc == 0)
    for host in (main1, nas1):
        answer = host.run(probe.replace("out1", address))
        assert answer.rc == 1
        # At once: nobody waits for a packet that was dropped.
        assert "No route to host" in answer.stdout


def test_a_broken_feed_is_one_import_error(airflow):
    def errors():
        return airflow.call("GET", "/api/v2/importErrors")["import_errors"]

    # A file that takes too long on a busy host is read again.
    with contextlib.suppress(TimeoutError):
        until(lambda: [error["filename"][-14:] for error in errors()] == ["/lab_broken.py"], 120)
    [error] = errors()
    message = "feeds/lab_broken.yml: timezone: 'Seoul': no such time zone: write a name such as Asia/Seoul"
    assert message in error["stack_trace"]


def test_a_real_index_has_as_many_records_at_every_stage(airflow, loaded, query, out1, nas1):
    # Unpausing has started the run of the last schedule.
    newest = "/api/v2/dags/debian_packages_fetch/dagRuns?order_by=-run_after&limit=1"
    [run] = until(lambda: airflow.call("GET", newest)["dag_runs"], 120)
    run = airflow.follow(run)
    assert run["state"] == "success"
    manifest = airflow.result(run, "fetch")
    day = manifest["day"]
    at_source = int(out1.check_output("xzcat /srv/outside/debian/Packages.xz | grep -c ^Package:"))
    assert at_source > 50_000
    digest = out1.check_output("sha256sum /srv/outside/debian/Packages.xz").split()[0]
    assert digest == manifest["sha256"]
    on_nas = manifest["path"].replace("/opt/airflow/filestorage", "/srv/filestorage")
    assert nas1.check_output(f"sha256sum {on_nas}").split()[0] == digest
    # Whoever writes: the group stays, and others see nothing.
    assert nas1.check_output(f"stat --format='%a %u:%g' {on_nas}") == "660 50000:50000"
    assert nas1.check_output(f"stat --format='%a %u:%g' {on_nas.rpartition('/')[0]}") == "2770 50000:50000"
    [(_, state, records, rows_loaded, rejected)] = loaded("debian_packages", day)
    assert (state, rejected) == ("loaded", "0")
    in_table = query(f"SELECT COUNT(*) FROM debian_packages WHERE feed_day = '{day}'")[0][0]
    assert manifest["rows"] == int(records) == int(rows_loaded) == int(in_table) == at_source
    assert query(f"SELECT COUNT(*) FROM debian_packages WHERE feed_day = '{day}' AND package = 'bash'") == [("1",)]


def test_a_csv_over_sftp_keeps_the_newest_row_of_each_key(airflow, fetch, loaded, query, out1):
    # The day that unpausing has fetched: its file is there at 06:00 in Seoul, which is the evening before in UTC.
    day = (datetime.now(ZoneInfo("Asia/Seoul")) - timedelta(hours=6)).date()
    yesterday = day - timedelta(days=1)
    fetch = partial(fetch, at="06:00:01+09:00")
    assert fetch("installed_packages", yesterday)["state"] == "success"
    [(_, state, records, _, _)] = loaded("installed_packages", yesterday)
    assert state == "loaded"
    installed = out1.check_output("tail --lines=+2 /srv/outside/sftp/installed/%s.csv | wc --lines", f"{day:%Y%m%d}")
    assert records == installed
    assert query("SELECT COUNT(*) FROM installed_packages") == [(installed,)]
    # The schedule may fetch the next day's, at 06:00 in Seoul: it is not there.
    out1.check_output("rm --force /srv/outside/sftp/installed/%s.csv", f"{day + timedelta(days=1):%Y%m%d}")
    # The same list again: skipped, as the feed says.
    run = fetch("installed_packages", day)
    assert airflow.task(run, "fetch")["state"] == "skipped"
    # A change of today replaces rows, and an older day that comes later does not.
    path = f"/srv/outside/sftp/installed/{day:%Y%m%d}.csv"
    out1.check_output(f"sed --in-place 's/^bash,[^,]*,/bash,newer,/' {path}")
    assert fetch("installed_packages", day)["state"] == "success"
    loaded("installed_packages", day)
    before = yesterday - timedelta(days=1)
    assert fetch("installed_packages", before)["state"] == "success"
    loaded("installed_packages", before)
    assert query("SELECT version, feed_day FROM installed_packages WHERE package = 'bash'") == [("newer", str(day))]
    assert query("SELECT COUNT(*) FROM installed_packages") == [(installed,)]


def test_other_content_on_the_same_day_replaces_that_days_rows_and_no_others(fetch, loaded, query, put):
    day, other = TODAY - timedelta(days=2), TODAY - timedelta(days=3)
    put(day, "id,name\\n1,one\\n2,two\\n3,three\\n")
    put(other, "id,name\\n1,eins\\n")
    for each in (day, other):
        assert fetch("lab_csv", each)["state"] == "success"
        loaded("lab_csv", each)
    # The same again changes nothing.
    assert fetch("lab_csv", day)["state"] == "success"
    put(day, "id,name\\n2,zwei\\n")
    assert fetch("lab_csv", day)["state"] == "success"
    assert [line[:3] for line in loaded("lab_csv", day, 2)] == [
        (f"{day:%Y%m%d}.csv", "loaded", "3"),
        (f"{day:%Y%m%d}.v2.csv", "loaded", "1"),
    ]
    assert rows(query, day) == [("2", "zwei")]
    assert rows(query, other) == [("1", "eins")]


def test_a_day_can_be_reviewed_and_loaded_again(airflow, main1, fetch, loaded, query, put):
    day = TODAY - timedelta(days=7)
    put(day, "id,name\\n1,one\\nx,bad\\n")
    assert fetch("lab_csv", day)["state"] == "success"
    before = loaded("lab_csv", day)
    until(lambda: airflow.states("lab_csv_load") <= set(ENDED), 120)
    query(f"UPDATE lab_csv SET name = 'wrong' WHERE feed_day = '{day}'")
    review = main1.run(f"/usr/local/sbin/airflow-feed review lab_csv {day}")
    assert review.rc == 1, review
    assert "record 1: name: wrong becomes one" in review.stdout
    # A review changes nothing.
    assert rows(query, day) == [("1", "wrong")]
    assert loaded("lab_csv", day, seconds=5) == before
    print(main1.check_output(f"/usr/local/sbin/airflow-feed reload lab_csv {day}"))
    until(lambda: rows(query, day) == [("1", "one")], 120)
    assert loaded("lab_csv", day) == before
    assert "1 of them would give the same rows" in main1.check_output(f"airflow-feed review lab_csv {day}")


def test_bad_records_are_set_aside_up_to_the_limit_and_then_nothing_is_loaded(airflow, fetch, loaded, query, put):
    day = TODAY - timedelta(days=4)
    put(day, "id,name\\n1,one\\nx,two\\n1,again\\n4,a name that is much too long for it\\n5,five\\n")
    assert fetch("lab_csv", day)["state"] == "success"
    assert loaded("lab_csv", day)[0][1:] == ("loaded", "5", "2", "3")
    assert rows(query, day) == [("1", "one"), ("5", "five")]
    reasons = query(f"SELECT feed_row, reason FROM feed_rejects WHERE path LIKE '%{day:%Y%m%d}.csv' ORDER BY feed_row")
    assert [row for row, _ in reasons] == ["2", "3", "4"]
    for (_, reason), words in zip(
        reasons, ("is not an integer", "Duplicate entry", "and varchar(20) takes 20"), strict=True
    ):
        assert words in reason
    put(day, "id,name\\n7,seven\\nx,\\ny,\\nz,\\nw,\\n")
    assert fetch("lab_csv", day)["state"] == "success"

    def refused():
        listed = airflow.call("GET", "/api/v2/dags/lab_csv_load/dagRuns?order_by=-run_after&limit=1")["dag_runs"]
        return listed[0] if listed[0]["state"] == "failed" else None

    run = until(refused, 120)
    assert airflow.task(run, "load")["try_number"] == 1, "another attempt cannot help"
    assert "more than 3 bad records (load.reject_limit)" in airflow.log(run, "load")
    assert rows(query, day) == [("1", "one"), ("5", "five")]
    # Corrected by the service.
    put(day, "id,name\\n7,seven\\n")
    assert fetch("lab_csv", day)["state"] == "success"
    assert [line[1] for line in loaded("lab_csv", day, 3)] == ["loaded", "superseded", "loaded"]
    assert rows(query, day) == [("7", "seven")]


@pytest.fixture(scope="module")
def put_values(airflow, feeds, out1):
    """Put a day's file of the feed lab_values on the outside service."""

    def put_values(day, text):
        out1.check_output(f"printf %s > {WWW}/values-{day:%Y%m%d}.csv", f"id;amount;seen_at;on_day\\n{text}")

    # Unpausing fetches the file of 02:30 in Berlin, and the schedule the next one.
    day = (datetime.now(ZoneInfo("Europe/Berlin")) - timedelta(hours=2, minutes=30)).date()
    for each in (day, day + timedelta(days=1)):
        put_values(each, "0;0;2025-10-20T00:00:00Z;2025-10-20\\n")
    for part in ("load", "fetch"):
        airflow.unpause(f"lab_values_{part}")
    return put_values


def test_each_value_in_the_table_is_the_one_of_the_file(fetch, loaded, query, put_values):
    day = TODAY - timedelta(days=8)
    put_values(
        day,
        "1;-1.234,56;2025-10-20T00:30:00Z;2025-10-20 00:30:00+09:00\\n"
        "2;N/A;2025-07-01 02:30:00;2025-12-31 23:59:59.999999\\n"
        # An amount of three places, and a time that comes twice in Berlin.
        "3;1,234;2025-07-01 02:30:00;2025-10-20\\n"
        "4;1,23;2025-10-26 02:30:00;2025-10-20\\n",
    )
    assert fetch("lab_values", day)["state"] == "success"
    assert loaded("lab_values", day)[0][1:] == ("loaded", "4", "2", "2")
    columns = "id, amount, UNIX_TIMESTAMP(seen_at), on_day"
    found = query(f"SELECT {columns} FROM lab_values WHERE feed_day = '{day}' ORDER BY id")
    assert found == [("1", "-1234.56", "1760920200", "2025-10-19"), ("2", "NULL", "1751329800", "2025-12-31")]
    reasons = query(
        f"SELECT reason FROM feed_rejects WHERE path LIKE '%/lab_values/{day:%Y%m%d}.csv' ORDER BY feed_row"
    )
    for (reason,), words in zip(reasons, ("amount: '1,234' has 3 decimal places", "comes twice"), strict=True):
        assert words in reason


def test_a_table_that_would_round_is_refused_with_the_statement_that_helps(airflow, fetch, loaded, query, put_values):
    day = TODAY - timedelta(days=9)
    # The table of an earlier feed, with fewer places.
    until(lambda: airflow.states("lab_values_load") <= set(ENDED), 120)
    query("ALTER TABLE lab_values MODIFY COLUMN amount decimal(12,1) NULL")
    put_values(day, "1;1,25;2025-10-20T00:30:00Z;2025-10-20\\n")
    assert fetch("lab_values", day)["state"] == "success"

    def refused():
        listed = airflow.call("GET", "/api/v2/dags/lab_values_load/dagRuns?order_by=-run_after&limit=1")["dag_runs"]
        return listed[0] if listed and listed[0]["state"] == "failed" else None

    run = until(refused, 120)
    assert airflow.task(run, "load")["try_number"] == 1, "another attempt cannot help"
    statement = "ALTER TABLE `lab_values` MODIFY COLUMN `amount` decimal(13,2) NULL"
    assert statement in airflow.log(run, "load")
    query(statement)
    airflow.call("POST", "/api/v2/dags/lab_values_load/dagRuns", {"logical_date": None})
    assert loaded("lab_values", day)[0][1] == "loaded"
    assert query(f"SELECT amount FROM lab_values WHERE feed_day = '{day}'") == [("1.25",)]


def test_a_feed_without_a_key_is_loaded_where_each_table_needs_a_primary_key(query):
    """What the load of such a feed creates: the server accepts it."""
    columns = "id int NULL, feed_day DATE NOT NULL, feed_row BIGINT NOT NULL, PRIMARY KEY (`feed_day`, `feed_row`)"
    query(f"SET SESSION sql_require_primary_key = ON; CREATE TABLE lab_no_key ({columns}); DROP TABLE lab_no_key")


def test_a_file_that_comes_late_and_whose_event_is_lost_is_loaded(airflow, fetch, loaded, query, put):
    day = TODAY - timedelta(days=5)
    run = fetch("lab_csv", day, wait=False)
    until(lambda: airflow.task(run, "fetch")["state"] == "up_for_reschedule", 60)
    # An event starts no run of a paused DAG. A load that has begun, such as that of the schedule, goes on.
    airflow.call("PATCH", "/api/v2/dags/lab_csv_load", {"is_paused": True})
    until(lambda: "running" not in airflow.states("lab_csv_load"), 120)
    put(day, "id,name\\n1,late\\n")
    run = airflow.follow(run)
    assert run["state"] == "success"
    assert airflow.task(run, "fetch")["try_number"] == 1
    airflow.call("PATCH", "/api/v2/dags/lab_csv_load", {"is_paused": False})
    assert rows(query, day) == []
    airflow.call("POST", "/api/v2/dags/lab_csv_load/dagRuns", {"logical_date": None})
    assert loaded("lab_csv", day)[0][1] == "loaded"
    assert rows(query, day) == [("1", "late")]


def test_a_load_that_is_killed_half_way_leaves_nothing_and_is_repeated(airflow, fetch, loaded, query, out1, main1):
    day, many = TODAY - timedelta(days=6), 300_000
    script = f"print('id,name'); [print(f'{{n}},name {{n}}') for n in range({many})]"
    out1.check_output(f'python3 -c "{script}" > {WWW}/{day:%Y%m%d}.csv')
    assert fetch("lab_csv", day)["state"] == "success"

    def loading():
        found = query("SELECT IS_USED_LOCK('feed lab_csv')")[0][0]
        busy = query("SELECT COUNT(*) FROM performance_schema.data_locks WHERE OBJECT_NAME = 'lab_csv'")[0][0]
        return found if found != "NULL" and int(busy) > 0 else None

    query(f"KILL {until(loading, 120, 0.2)}")
    [(_, state, records, _, _)] = loaded("lab_csv", day)
    assert (state, int(records)) == ("loaded", many)
    counted = query(f"SELECT COUNT(*), COUNT(DISTINCT id), SUM(id) FROM lab_csv WHERE feed_day = '{day}'")
    assert counted == [(str(many), str(many), str(many * (many - 1) // 2))]


def test_a_backfill_loads_each_of_its_days_once_and_old_files_are_removed(airflow, loaded, query, put, nas1):
    # Two weeks ago the clocks in Berlin may have changed; 40 days ago is beyond `keep`.
    days = [TODAY - timedelta(days=number) for number in (40, 41, 42, 43, 44)]
    for day in days:
        put(day, f"id,name\\n{day:%d},{day}\\n")
    body = {
        "dag_id": "lab_csv_fetch",
        "from_date": f"{days[-1]}T00:00:00+02:00",
        "to_date": f"{days[0]}T12:00:00+02:00",
        "max_active_runs": 5,
    }
    backfill = airflow.call("POST", "/api/v2/backfills", body)
    until(lambda: airflow.call("GET", f"/api/v2/backfills/{backfill['id']}")["completed_at"], 240)
    for day in days:
        assert [line[1] for line in loaded("lab_csv", day)] == ["loaded"]
        assert rows(query, day) == [(str(day.day), str(day))]
    # It removes what is loaded when it begins: not what is loaded beside it.
    until(lambda: airflow.states("lab_csv_load") <= set(ENDED), 120)
    airflow.follow(airflow.call("POST", "/api/v2/dags/lab_csv_load/dagRuns", {"logical_date": None}))
    names = nas1.check_output("ls /srv/filestorage/lab_csv").split()
    assert not {f"{day:%Y%m%d}.csv" for day in days} & set(names)
    assert f"{TODAY - timedelta(days=2):%Y%m%d}.csv" in names
