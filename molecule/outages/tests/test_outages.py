"""DAGs of other people, and what becomes of their tasks when something stops, restarts or is away."""

import re
import time
from datetime import UTC, datetime

import pytest

from lab import ROOT
from support import LAB
from support.pipeline import ENDED, until

EDGE = "airflow-edge-worker.service"
CELERY = "airflow-celery-worker.service"
MOUNT = "opt-airflow-filestorage.mount"
HOSTS_OF_TASKS = {"celery": "main1", "edge": "edge1"}
LONG = f"foreign_{'long' * 58}"


@pytest.fixture(scope="module", autouse=True)
def foreign_dags(airflow, dags_of_the_tests):
    """The project's DAGs with those of other people dropped into the same directory, and synced."""
    for dag in ("foreign_slow", "foreign_classic"):
        airflow.unpause(dag)


@pytest.fixture
def slow(airflow):
    """Start a run of two slow tasks, and return it when both are running."""

    def slow(seconds):
        body = {"logical_date": None, "conf": {"seconds": seconds}}
        run = airflow.call("POST", "/api/v2/dags/foreign_slow/dagRuns", body)
        for name in ("slow_on_edge", "slow_on_celery"):
            until(lambda name=name: airflow.task(run, name)["state"] in ("running", "success"))
        return run

    return slow


def state(host, unit):
    return host.run(f"systemctl is-active {unit}").stdout.strip()


def invocation(host, unit):
    """Return what systemd calls this start of a unit; another one after the next."""
    return host.check_output(f"systemctl show --property=InvocationID --value {unit}")


def answers(airflow):
    try:
        return airflow.call("GET", "/api/v2/version")
    except (OSError, RuntimeError):
        return False


def worker(airflow):
    return airflow.worker("edge1")


def first_tries(airflow, run):
    """States of both tasks, which had no second try."""
    tasks = [airflow.task(run, name) for name in ("slow_on_edge", "slow_on_celery")]
    assert [task["try_number"] for task in tasks] == [1, 1]
    return [task["state"] for task in tasks]


def test_operators_connections_a_deferred_task_and_a_directory_of_their_own_on_the_nas(airflow):
    connection = {"connection_id": "foreign", "conn_type": "http", "host": "nowhere", "password": "only tasks know"}
    airflow.call("POST", "/api/v2/connections", connection)
    try:
        run = airflow.follow(airflow.call("POST", "/api/v2/dags/foreign_classic/dagRuns", {"logical_date": None}))
    finally:
        airflow.call("DELETE", "/api/v2/connections/foreign")
    assert run["state"] == "success"
    assert airflow.result(run, "load") == "edge1.lab.test\nairflow"
    # The UI hides a password, in a result, too; that it is hidden shows that the task had it.
    assert {airflow.result(run, name) for name in ("on_edge", "on_celery")} <= {"***", "only tasks know"}


def test_modules_beside_a_dag_and_the_executor_by_its_full_name(airflow, slow):
    run = airflow.follow(slow(1))
    assert airflow.result(run, "slow_on_edge") == "hello from edge"
    assert airflow.task(run, "slow_on_edge")["hostname"].startswith("edge1")
    assert airflow.result(run, "slow_on_celery") == "hello from celery"


def test_python_and_airflow_from_path_and_virtualenvs_of_tasks(airflow):
    """As in an activated virtualenv, on both executors."""
    airflow.unpause("foreign_python")
    run = airflow.follow(airflow.call("POST", "/api/v2/dags/foreign_python/dagRuns", {"logical_date": None}))
    assert run["state"] == "success"
    (version,) = re.findall(r"^apache-airflow==(\S+)", (ROOT / "requirements/edge.txt").read_text(), re.MULTILINE)
    for name, host in HOSTS_OF_TASKS.items():
        names = ("python", "bash", "airflow", "external", "virtualenv")
        assert {airflow.task(run, f"{task}_on_{name}")["hostname"].split(".")[0] for task in names} == {host}
        *shared, external, virtualenv = (airflow.result(run, f"{task}_on_{name}") for task in names)
        assert shared == ["/opt/airflow/venv", "/opt/airflow/venv", version], host
        assert external == "/usr"
        assert virtualenv not in (external, *shared), f"@task.virtualenv made no virtualenv on {host}"


@pytest.mark.long
def test_the_integration_test_of_the_edge_provider(airflow):
    """On both executors; one of its tasks is there to fail, and one to be skipped."""
    runs = {}
    for name in HOSTS_OF_TASKS:
        dag = f"foreign_integration_on_{name}"
        airflow.unpause(dag)
        body = {"logical_date": None, "conf": {"minutes_to_run": 1}}
        runs[name] = run = airflow.call("POST", f"/api/v2/dags/{dag}/dagRuns", body)
        # The task of the other run uses the same Variable.
        until(lambda run=run: airflow.task(run, "variable")["state"] in ENDED, 300)
    for name, host in HOSTS_OF_TASKS.items():
        run = airflow.follow(runs[name], 600)
        path = f"/api/v2/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances"
        tasks = airflow.call("GET", path)["task_instances"]
        others = {task["task_id"]: task["state"] for task in tasks if task["state"] != "success"}
        assert others == {"plan_to_fail": "failed", "not_executed": "skipped"}, name
        assert {task["hostname"].split(".")[0] for task in tasks if task["state"] == "success"} == {host}
        assert run["state"] == "success"


def test_names_as_long_as_airflow_allows(airflow, main1):
    """The edge queue's column for a task's command is too short for them by default, and the scheduler dies."""
    airflow.unpause(LONG)
    body = {"logical_date": None, "dag_run_id": "n" * 240}
    run = airflow.call("POST", f"/api/v2/dags/{LONG}/dagRuns", body)
    try:
        assert airflow.follow(run, 120)["state"] == "success"
    finally:
        airflow.call("DELETE", f"/api/v2/dags/{LONG}/dagRuns/{run['dag_run_id']}")
    restarts = main1.check_output("systemctl show --property=NRestarts --value airflow-scheduler.service")
    assert restarts == "0", f"the scheduler died {restarts} times"


def test_a_worker_leaves_another_share_in_the_place_of_the_nas(airflow, edge1):
    """The file .nas says which share it is; nothing is written without it."""
    # What a worker finds when it starts is right, for it: it has to have looked. Before the tests that restart it:
    # where it was stopped while it started, its name is taken for five heartbeats.
    until(lambda: worker(airflow)["state"] == "idle" and "status_text" not in worker(airflow)["sysinfo"], 180)
    edge1.check_output("mkdir --parents --mode=755 /run/other && mount --bind /run/other /opt/airflow/filestorage")
    try:
        until(lambda: worker(airflow)["state"].startswith("maintenance"))
        assert ".nas is gone: it is another share" in worker(airflow)["sysinfo"]["status_text"]
    finally:
        # Its watch may be looking at this moment.
        edge1.check_output("umount --lazy /opt/airflow/filestorage")
    until(lambda: worker(airflow)["state"] == "idle")


def test_a_stop_lets_running_tasks_end(airflow, slow, main1, edge1):
    run = slow(15)
    edge1.check_output(f"systemctl stop --no-block {EDGE}")
    main1.check_output(f"systemctl stop --no-block {CELERY}")
    try:
        assert first_tries(airflow, airflow.follow(run)) == ["success", "success"]
    finally:
        edge1.check_output(f"systemctl start {EDGE}")
        main1.check_output(f"systemctl start {CELERY}")
    until(lambda: worker(airflow)["state"] == "idle")


@pytest.mark.long
def test_tasks_outlive_a_restart_of_the_api_server(airflow, slow, main1):
    run = slow(45)
    main1.check_output("systemctl restart airflow-api-server.service")
    until(lambda: answers(airflow), 120)
    # An edge worker that has waited does not wait for long; with its own settings it would, for 90 s.
    back = datetime.now(UTC)
    until(lambda: datetime.fromisoformat(worker(airflow)["last_heartbeat"]) > back, 45)
    assert first_tries(airflow, airflow.follow(run)) == ["success", "success"]
    log = airflow.log(run, "slow_on_edge")
    assert {int(second) for second in re.findall(r"edge second (\d+)", log)} >= set(range(45))


def test_workers_do_not_run_without_the_nas_and_come_back_with_it(nas1, main1, edge1):
    hosts = [(main1, CELERY), (edge1, EDGE)]
    for host, unit in hosts:
        host.check_output(f"systemctl stop {unit} {MOUNT}")
        # What is under the mount takes nothing.
        written = host.run("setpriv --reuid=50000 --regid=50000 --clear-groups touch /opt/airflow/filestorage/lost")
        assert "Permission denied" in written.stderr
    nas1.check_output("systemctl stop nfs-server.service")
    try:
        # As at boot: the share is not there, and systemd starts the worker.
        for host, unit in hosts:
            host.check_output(f"systemctl start --no-block {unit}")
        for host, unit in hosts:
            until(lambda host=host, unit=unit: state(host, MOUNT) == "activating" or state(host, unit) == "active")
            assert state(host, unit) == "inactive", f"without the NAS {unit} is {state(host, unit)}"
    finally:
        nas1.check_output("systemctl start nfs-server.service")
    for host, unit in hosts:
        until(lambda host=host, unit=unit: host.service(unit).is_running, 180)
        assert host.mount_point("/opt/airflow/filestorage").exists


def test_a_mount_that_failed_is_tried_again_and_the_worker_starts_with_it(nas1, edge1):
    """mount.nfs gives up at once where an export or a name is missing, as when all hosts come up after a power cut."""
    edge1.check_output(f"systemctl stop {EDGE} {MOUNT}")
    nas1.check_output("exportfs -ua")
    begin = edge1.check_output("date +%s")

    def attempts():
        journal = edge1.check_output(f"journalctl --unit {MOUNT} --since @{begin} --output cat")
        return journal.count("Failed with result")

    try:
        assert edge1.run(f"systemctl start {EDGE}").rc != 0
        assert state(edge1, MOUNT) == "failed"
        until(lambda: attempts() > 2)
    finally:
        nas1.check_output("exportfs -ra")
    until(lambda: edge1.service(EDGE).is_running)
    assert edge1.mount_point("/opt/airflow/filestorage").exists


@pytest.mark.long
def test_a_nas_that_hangs_fails_no_task_and_gets_no_more(airflow, slow, nas1, main1):
    running = slow(20)
    since = main1.check_output("date '+%Y-%m-%d %H:%M:%S'")
    celery_says = f"journalctl --unit {CELERY} --since '{since}'"
    nas1.check_output("systemctl stop nfs-server.service")
    try:
        until(lambda: worker(airflow)["state"].startswith("maintenance"), 120)
        until(lambda: "Leaving default" in main1.check_output(celery_says), 120)
        body = {"logical_date": None, "conf": {"seconds": 1}}
        waiting = airflow.call("POST", "/api/v2/dags/foreign_slow/dagRuns", body)
        # Celery's queue is a list in Redis; a worker that serves it would take the task at once.
        password = (LAB.secrets / "redis_password").read_text()
        until(lambda: main1.check_output(f"REDISCLI_AUTH={password} redis-cli llen default") == "1")
        until(lambda: airflow.task(waiting, "slow_on_edge")["state"] == "queued")
        # An edge worker that served would fetch it in a few seconds.
        time.sleep(10)
        assert airflow.task(waiting, "slow_on_edge")["state"] == "queued"
    finally:
        nas1.check_output("systemctl start nfs-server.service")
    for run in (running, waiting):
        assert first_tries(airflow, airflow.follow(run)) == ["success", "success"]
    until(lambda: worker(airflow)["state"] == "idle")
    # A Celery worker that loses its broker begins with the queues that it remembers.
    main1.check_output("systemctl restart redis-server.service")
    assert first_tries(airflow, airflow.follow(slow(1))) == ["success", "success"]


@pytest.mark.long
def test_what_was_killed_comes_back(airflow, main1, edge1):
    main = [f"airflow-{name}.service" for name in ("api-server", "scheduler", "dag-processor", "triggerer")] + [CELERY]
    killed = [(main1, unit) for unit in main] + [(edge1, EDGE)]
    try:
        before = [invocation(host, unit) for host, unit in killed]
        for host, unit in killed:
            host.check_output(f"systemctl kill --signal=KILL --kill-whom=all {unit}")
        for (host, unit), was in zip(killed, before, strict=True):
            until(lambda host=host, unit=unit, was=was: invocation(host, unit) != was and state(host, unit) == "active")
    finally:
        # Other tests see by the number of restarts that nothing died.
        main1.check_output(f"systemctl reset-failed {' '.join(main)}")
    until(lambda: answers(airflow), 180)
    # The main server gives its name back after five heartbeats.
    until(lambda: edge1.file("/run/airflow-edge-worker/worker.pid").exists, 180)
    until(lambda: worker(airflow)["state"] in ("idle", "running"))


def test_a_release_goes_on_without_an_edge_that_is_off(airflow, dags_of_the_tests, sync, tmp_path, main1, edge1):
    (tmp_path / "late.py").write_text("LATE = True\n")
    sources, late = (*dags_of_the_tests, tmp_path), "/opt/airflow/dags/late.py"
    LAB.as_root("cut", "edge1")
    try:
        said = sync(*sources, code=4)
    finally:
        LAB.as_root("up", "edge1")
    assert "Hosts that could not be reached: edge1." in said
    assert main1.file(late).exists
    assert not edge1.file(late).exists
    sync(*sources)
    assert edge1.file(late).exists
    until(lambda: worker(airflow)["state"] == "idle")
