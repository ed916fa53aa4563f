"""Feeds while a host loses its power, over sixty days, and with a gigabyte: no row is missing, and none is twice."""

import threading
from datetime import UTC, date, datetime, timedelta

import pytest

from support import LAB
from support.pipeline import until

TODAY = datetime.now(UTC).date()
ROWS = 300_000
# Seconds until Airflow gives a task to another worker whose worker does not answer any more
# ([scheduler] task_instance_heartbeat_timeout, 1140), and what the rest takes.
PATIENCE = 1700


@pytest.fixture(scope="module", autouse=True)
def feeds(airflow, dags_of_the_tests, put, make):
    make(TODAY)
    make(TODAY - timedelta(days=1))
    for name in ("lab_slow", "lab_large"):
        airflow.unpause(f"{name}_load")
    airflow.unpause("lab_slow_fetch")
    airflow.settle("lab_slow_fetch")


@pytest.fixture(scope="module")
def make(out1):
    """Put a day's file on the service, with so many rows."""

    def make(day, rows=10, text="name {n}", name=""):
        script = f"print('id,name'); [print(f'{{n}},{text}') for n in range({rows})]"
        out1.check_output(f'python3 -c "{script}" > /srv/outside/www/{name}{day:%Y%m%d}.csv')

    return make


@pytest.fixture
def middle(airflow, fetch, make, nas1):
    """Begin to fetch a large file, and return when a part of it is on the NAS."""

    def middle(day):
        make(day, ROWS)
        run = fetch("lab_slow", day, wait=False)
        find = f"find /srv/filestorage/lab_slow -name '.{day:%Y%m%d}.csv.*' ! -name '*.json'"
        until(lambda: nas1.run(find).stdout, 120)
        return run

    return middle


def is_whole(query, day, rows=ROWS, table="lab_slow"):
    counted = query(f"SELECT COUNT(*), COUNT(DISTINCT id), SUM(id) FROM {table} WHERE feed_day = '{day}'")
    return counted == [(str(rows), str(rows), str(rows * (rows - 1) // 2))]


def test_the_edge_loses_its_power_while_it_fetches(airflow, middle, loaded, query, nas1):
    day = TODAY - timedelta(days=2)
    run = middle(day)
    LAB.as_root("cut", "edge1")
    try:
        assert not nas1.file(f"/srv/filestorage/lab_slow/{day:%Y%m%d}.csv").exists
    finally:
        LAB.as_root("up", "edge1")
    assert airflow.follow(run, PATIENCE)["state"] == "success"
    [(name, state, records, _, _)] = loaded("lab_slow", day)
    assert (name, state, int(records)) == (f"{day:%Y%m%d}.csv", "loaded", ROWS)
    assert is_whole(query, day)


def test_the_nas_loses_its_power_while_it_is_written_to(airflow, middle, loaded, query):
    day = TODAY - timedelta(days=3)
    run = middle(day)
    LAB.as_root("cut", "nas1")
    LAB.as_root("up", "nas1")
    assert airflow.follow(run, PATIENCE)["state"] == "success"
    assert airflow.task(run, "fetch")["try_number"] == 1
    loaded("lab_slow", day)
    assert is_whole(query, day)


def test_the_main_server_loses_its_power_while_it_loads(airflow, make, fetch, loaded, query):
    day = TODAY - timedelta(days=4)
    make(day, ROWS)
    fetch("lab_slow", day)

    def is_loading():
        rows = query("SELECT COUNT(*) FROM performance_schema.data_locks WHERE OBJECT_NAME = 'lab_slow'")
        return int(rows[0][0]) > 0

    until(is_loading, 120, 0.2)
    LAB.as_root("cut", "main1")
    LAB.as_root("up", "main1")
    # In the lab its tables are asked over SSH, so it is there; of the load nothing is.
    assert query(f"SELECT COUNT(*) FROM lab_slow WHERE feed_day = '{day}'") == [("0",)]
    assert len(loaded("lab_slow", day, seconds=PATIENCE)) == 1
    assert is_whole(query, day)


def test_sixty_days_across_a_change_of_the_clock_are_loaded_once_each(airflow, out1, query):
    days = [date(2026, 3, 1) + timedelta(days=number) for number in range(60)]
    names = " ".join(f"{day:%Y%m%d}" for day in days)
    out1.check_output(f"cd /srv/outside/www; for day in {names}; do printf 'id,name\\n1,%s\\n' $day >$day.csv; done")
    body = {
        "dag_id": "lab_slow_fetch",
        "from_date": f"{days[0]}T00:00:00+01:00",
        "to_date": f"{days[-1]}T12:00:00+02:00",
        "max_active_runs": 16,
    }
    backfill = airflow.call("POST", "/api/v2/backfills", body)
    until(lambda: airflow.call("GET", f"/api/v2/backfills/{backfill['id']}")["completed_at"], PATIENCE, 5)
    span = f"BETWEEN '{days[0]}' AND '{days[-1]}'"
    until(lambda: query(f"SELECT COUNT(*) FROM feed_files WHERE feed = 'lab_slow' AND day {span}") == [("60",)], 120)
    found = query(f"SELECT feed_day, name FROM lab_slow WHERE feed_day {span} ORDER BY feed_day")
    assert found == [(str(day), f"{day:%Y%m%d}") for day in days]


class Peak(threading.Thread):
    """The most memory that a process has had which has the feed's file open."""

    LOOK = (
        "for process in /proc/[0-9]*; do ls -l $process/fd 2>/dev/null | grep -q /filestorage/lab_large/"
        " && grep VmHWM $process/status; done"
    )

    def __init__(self, host):
        super().__init__(daemon=True)
        self.host, self.kilobytes, self.ended = host, 0, threading.Event()
        self.start()

    def run(self):
        while not self.ended.wait(2):
            found = [int(line.split()[1]) for line in self.host.run(self.LOOK).stdout.splitlines()]
            self.kilobytes = max([self.kilobytes, *found])

    def end(self):
        self.ended.set()
        self.join()
        return self.kilobytes // 1024


def test_a_gigabyte_takes_no_more_memory_than_a_small_file(airflow, make, fetch, loaded, query, out1, main1, edge1):
    day, rows = TODAY - timedelta(days=1), 600_000
    make(day, rows, text="{str(n) * 300:.1700}", name="large")
    assert int(out1.check_output(f"stat --format=%s /srv/outside/www/large{day:%Y%m%d}.csv")) > 1_000_000_000
    airflow.call("PATCH", "/api/v2/dags/lab_large_fetch", {"is_paused": False})
    on_edge, on_main = Peak(edge1), Peak(main1)
    assert fetch("lab_large", day)["state"] == "success"
    [(_, state, records, _, _)] = loaded("lab_large", day, seconds=2 * PATIENCE)
    peaks = {"edge1": on_edge.end(), "main1": on_main.end()}
    print(f"The most that a task's process had, in MB: {peaks}")
    assert (state, int(records)) == ("loaded", rows)
    assert is_whole(query, day, rows, "lab_large")
    assert all(0 < peak < 300 for peak in peaks.values()), peaks
