"""No event and no task is left behind: what stops, is killed, silent or away delays work, and loses or doubles none."""

import random
import time
from collections import Counter

import pytest

from support import LAB
from support.pipeline import ENDED, until

EDGE, CELERY = "airflow-edge-worker.service", "airflow-celery-worker.service"
WORKERS = {"edge": EDGE, "celery": CELERY}
STARTS = "/srv/filestorage/delivery_starts.txt"
CONSUMERS = ("one", "any", "both")
# Minutes of the requirements, in seconds.
EVENT, QUEUED, RUNNING, AWAY, SILENT = 120, 300, 1500, 900, 120


@pytest.fixture(scope="module", autouse=True)
def dags(airflow, dags_of_the_tests):
    for name in (*(f"consumer_{name}" for name in CONSUMERS), "producer", "other_producer", "edge", "celery"):
        airflow.unpause(f"delivery_{name}")
    for where in WORKERS:
        airflow.unpause(f"delivery_{where}_again")


@pytest.fixture
def hosts(main1, edge1):
    return {"edge": edge1, "celery": main1}


@pytest.fixture
def sql(main1):
    """Run statements in Airflow's database; rows of strings."""

    def sql(statement):
        answer = main1.check_output("mysql --batch --skip-column-names airflow --execute %s", statement)
        return [tuple(line.split("\t")) for line in answer.splitlines()]

    return sql


@pytest.fixture
def trigger(airflow):
    def trigger(dag, **conf):
        return airflow.call("POST", f"/api/v2/dags/delivery_{dag}/dagRuns", {"logical_date": None, "conf": conf})

    return trigger


def starts(nas1, run):
    """Return how often each task of a run has started."""
    lines = nas1.run(f"cat {STARTS}").stdout.splitlines()
    return Counter(line for line in lines if line.startswith(f"{run['dag_run_id']} "))


def tasks(airflow, run, name="work"):
    """Return the instances of a task; a page of the API has at most 100."""
    path = f"/api/v2/dags/{run['dag_id']}/dagRuns/{run['dag_run_id'].replace('+', '%2B')}/taskInstances?limit=100"
    return [task for task in airflow.call("GET", path)["task_instances"] if task["task_id"] == name]


def events(sql, asset, since):
    found = sql(
        "SELECT e.id FROM asset_event e JOIN asset a ON a.id = e.asset_id"
        f" WHERE a.name = '{asset}' AND e.id > {since} ORDER BY e.id"
    )
    return [number for (number,) in found]


def consumed(sql, dag, since):
    """Return the events that runs of a DAG consumed, each as often as it was."""
    found = sql(
        "SELECT c.event_id FROM dagrun_asset_event c JOIN dag_run r ON r.id = c.dag_run_id"
        f" WHERE r.dag_id = 'delivery_consumer_{dag}' AND c.event_id > {since}"
    )
    return Counter(number for (number,) in found)


def last_event(sql):
    return int(sql("SELECT COALESCE(MAX(id), 0) FROM asset_event")[0][0])


def backfill(airflow, dag, first, last, at_once):
    body = {
        "dag_id": dag,
        "from_date": f"{first}T00:00:00Z",
        "to_date": f"{last}T00:00:00Z",
        "max_active_runs": at_once,
    }
    return airflow.call("POST", "/api/v2/backfills", body)["id"]


def has_ended(airflow, number):
    return airflow.call("GET", f"/api/v2/backfills/{number}")["completed_at"]


def test_every_event_of_a_backfill_is_part_of_one_run_within_two_minutes(airflow, sql, trigger):
    airflow.settle("delivery_producer")
    since = last_event(sql)
    number = backfill(airflow, "delivery_producer", "2026-01-01", "2026-03-01", 16)
    until(lambda: has_ended(airflow, number), 1500, 2)
    wanted = events(sql, "delivery_events", since)
    assert len(wanted) >= 60
    for name in ("one", "any"):
        until(lambda name=name: set(consumed(sql, name, since)) >= set(wanted), EVENT, 2)
        assert set(consumed(sql, name, since).values()) == {1}, name
    # A condition that is not met waits for the other event, and then has all of the first.
    assert not consumed(sql, "both", since)
    airflow.follow(trigger("other_producer"))
    until(lambda: set(consumed(sql, "both", since)) >= set(wanted), EVENT, 2)


def test_a_paused_consumer_gets_no_run(airflow, sql, trigger):
    airflow.call("PATCH", "/api/v2/dags/delivery_consumer_any", {"is_paused": True})
    since = last_event(sql)
    airflow.follow(trigger("other_producer"))
    try:
        until(lambda: events(sql, "delivery_others", since), 60)
        time.sleep(20)
        assert not consumed(sql, "any", since)
    finally:
        airflow.unpause("delivery_consumer_any")


def test_a_claimed_job_is_put_back_and_a_waiting_one_waits_for_six_hours(airflow, sql, trigger, hosts, nas1):
    """Both at once: one was handed out to a worker that died, the other has nobody to take it."""
    hosts["edge"].check_output(f"systemctl stop {EDGE}")
    try:
        claimed, waiting = trigger("edge"), trigger("edge")
        key = "run_id = '{dag_run_id}' AND task_id = 'work'".format
        for run in (claimed, waiting):
            until(lambda run=run: sql(f"SELECT 1 FROM edge_job WHERE {key(**run)} AND state = 'queued'"))
        # What the API does when it hands a job out, and the worker loses the answer.
        claim = "state = 'restarting', edge_worker = 'edge1', last_update = UTC_TIMESTAMP(6)"
        sql(f"UPDATE edge_job SET {claim} WHERE {key(**claimed)}")
        # Six hours ago.
        sql(f"UPDATE edge_job SET queued_dttm = queued_dttm - INTERVAL 6 HOUR WHERE {key(**waiting)}")
        sql(f"UPDATE task_instance SET queued_dttm = queued_dttm - INTERVAL 6 HOUR WHERE {key(**waiting)}")
        begin = time.monotonic()
        until(lambda: sql(f"SELECT 1 FROM edge_job WHERE {key(**claimed)} AND state = 'queued'"), QUEUED)
        assert time.monotonic() - begin > 120, "a worker may take a minute to report a task"
        assert sql(f"SELECT state FROM edge_job WHERE {key(**waiting)}") == [("queued",)]
        assert sql(f"SELECT state FROM task_instance WHERE {key(**waiting)}") == [("queued",)]
    finally:
        hosts["edge"].check_output(f"systemctl start {EDGE}")
    for run in (claimed, waiting):
        assert airflow.follow(run)["state"] == "success"
        assert set(starts(nas1, run).values()) == {1}


def wait_for_work(nas1, run):
    """Wait until the worker has started one more task: after its own start, a worker does nothing for seconds."""
    before = len(starts(nas1, run))
    until(lambda: len(starts(nas1, run)) > before, QUEUED)


@pytest.mark.restarts
@pytest.mark.parametrize(("where", "count"), [("edge", 300), ("celery", 500)])
def test_thirty_restarts_under_load_lose_nothing_and_start_nothing_twice(airflow, trigger, hosts, nas1, where, count):
    run = trigger(where, tasks=count, seconds=3)
    chance = random.Random(30)  # noqa: S311
    for _ in range(30):
        wait_for_work(nas1, run)
        time.sleep(chance.random() * 2)
        hosts[where].check_output(f"systemctl restart {WORKERS[where]}")
    assert len(starts(nas1, run)) < count, "the restarts were not under load"
    # A test has half an hour.
    run = airflow.follow(run, 1200)
    assert run["state"] == "success"
    done = starts(nas1, run)
    assert (len(done), set(done.values())) == (count, {1})


@pytest.mark.restarts
@pytest.mark.parametrize("where", WORKERS)
def test_queued_work_of_a_killed_worker_starts_within_five_minutes(airflow, trigger, hosts, nas1, where):
    """Killed five times under load: what had begun is the next test's, everything else runs once."""
    run = trigger(where, tasks=90, seconds=1)
    chance = random.Random(10)  # noqa: S311
    for _ in range(5):
        wait_for_work(nas1, run)
        time.sleep(chance.random() * 2)
        hosts[where].check_output(f"systemctl kill --signal=KILL --kill-whom=main {WORKERS[where]}")
    until(lambda: not [task for task in tasks(airflow, run) if task["state"] in ("queued", "scheduled")], QUEUED, 5)
    assert set(starts(nas1, run).values()) == {1}
    airflow.call("PATCH", f"/api/v2/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}", {"state": "failed"})


@pytest.mark.away
def test_running_work_of_killed_workers_runs_again_within_25_minutes(airflow, trigger, hosts, nas1):
    runs = {where: trigger(f"{where}_again", seconds=60) for where in WORKERS}
    for run in runs.values():
        until(lambda run=run: starts(nas1, run))
    begin = time.monotonic()
    for where, unit in WORKERS.items():
        hosts[where].check_output(f"systemctl kill --signal=KILL --kill-whom=main {unit}")
    until(lambda: all(set(starts(nas1, run).values()) == {2} for run in runs.values()), RUNNING, 2)
    assert time.monotonic() - begin < RUNNING
    for run in runs.values():
        assert airflow.follow(run)["state"] == "success"


@pytest.mark.away
def test_a_main_server_that_is_away_fails_no_task_of_an_edge(airflow, trigger, nas1, main1):
    """One task ends meanwhile, one goes on afterwards. The lab's MySQL and its power are away with main1."""
    ends, goes_on = trigger("edge", seconds=120), trigger("edge", seconds=AWAY + 400)
    for run in (ends, goes_on):
        until(lambda run=run: starts(nas1, run), 180)
    LAB.as_root("cut", "main1")
    time.sleep(AWAY)
    LAB.as_root("up", "main1")

    def answers():
        try:
            return airflow.call("GET", "/api/v2/version")
        except (OSError, RuntimeError):
            return False

    until(answers, 300, 3)
    for run in (ends, goes_on):
        assert airflow.follow(run, 600)["state"] == "success"
        assert [task["try_number"] for task in tasks(airflow, run)] == [1]
        assert set(starts(nas1, run).values()) == {1}


def test_a_silent_broker_is_noticed_within_two_minutes(airflow, trigger, main1):
    """Redis stops, as a machine that hangs does: connections stay open, and nobody answers."""
    process = main1.check_output("systemctl show --property=MainPID --value redis-server.service")
    begin = main1.check_output("date +%s")
    main1.check_output(f"kill -STOP {process}")
    try:
        journal = f"journalctl --unit {CELERY} --since @{begin} --output cat"
        words = ("dropping stale connection", "Connection to broker lost", "Timeout reading from")
        until(lambda: any(word in main1.check_output(journal) for word in words), SILENT, 2)
    finally:
        main1.check_output(f"kill -CONT {process}")
    assert airflow.follow(trigger("celery"), 180)["state"] == "success"


def test_a_lost_celery_message_is_sent_again(airflow, trigger, hosts, nas1):
    """As when a worker's host loses its power while the message is on its way."""
    password = (LAB.secrets / "redis_password").read_text()
    redis = f"REDISCLI_AUTH={password} redis-cli"
    hosts["celery"].check_output(f"systemctl stop {CELERY}")
    try:
        run = trigger("celery")
        until(lambda: hosts["celery"].check_output(f"{redis} llen default") != "0")
        hosts["celery"].check_output(f"{redis} del default")
    finally:
        hosts["celery"].check_output(f"systemctl start {CELERY}")
    # Two tasks, each at most five minutes; only the first has lost its message.
    assert airflow.follow(run, QUEUED + 60)["state"] == "success"
    assert set(starts(nas1, run).values()) == {1}


def test_a_backfill_proceeds_while_28_feeds_wait(airflow):
    airflow.unpause("delivery_late")
    late = [
        airflow.call("POST", "/api/v2/dags/delivery_late/dagRuns", {"logical_date": f"2025-02-{day:02}T00:00:00Z"})
        for day in range(1, 29)
    ]
    try:
        until(lambda: all(airflow.task(run, "wait")["state"] == "up_for_reschedule" for run in late), 600, 5)
        number = backfill(airflow, "delivery_producer", "2026-04-01", "2026-04-04", 2)
        until(lambda: has_ended(airflow, number), 300, 3)
    finally:
        for run in late:
            path = f"/api/v2/dags/delivery_late/dagRuns/{run['dag_run_id'].replace('+', '%2B')}"
            airflow.call("PATCH", path, {"state": "failed"})
        airflow.call("PATCH", "/api/v2/dags/delivery_late", {"is_paused": True})
    assert airflow.states("delivery_producer") <= set(ENDED)
