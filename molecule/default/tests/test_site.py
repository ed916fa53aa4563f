"""What a user would notice of the installation."""

import hashlib
import socket

import pytest

from lab import STATE, address

MAIN_UNITS = ["api-server", "scheduler", "dag-processor", "triggerer", "celery-worker"]
FILESTORAGE = "/opt/airflow/filestorage"


def show(host, unit, name):
    return host.check_output(f"systemctl show --property={name} --value {unit}")


@pytest.mark.parametrize("unit", [*(f"airflow-{name}.service" for name in MAIN_UNITS), "airflow.target"])
def test_main_runs_every_component_now_and_at_boot(main1, unit):
    assert main1.service(unit).is_running
    assert main1.service(unit).is_enabled
    assert show(main1, unit, "NRestarts") in ("0", "")


@pytest.mark.parametrize("unit", ["airflow-edge-worker.service", "airflow.target"])
def test_edge_runs_the_worker_now_and_at_boot(edge1, unit):
    assert edge1.service(unit).is_running
    assert edge1.service(unit).is_enabled


def test_nothing_failed_on_any_host(nas1, main1, edge1):
    for host in (nas1, main1, edge1):
        assert host.check_output("systemctl --failed --no-legend --plain") == ""


def test_the_database_is_mysql(main1):
    assert "MariaDB" not in main1.check_output(
        "mysql --batch --skip-column-names --execute 'SELECT VERSION(), @@version_comment'"
    )
    assert main1.socket("tcp://127.0.0.1:3306").is_listening


@pytest.mark.parametrize("port", [3306, 33060, 6379])
def test_strangers_reach_neither_database_nor_broker(port):
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address("main1"), port), timeout=5)


def test_redis_wants_its_password(main1):
    assert "NOAUTH" in main1.run("redis-cli ping").stdout
    password = (STATE / "secrets/redis_password").read_text()
    assert main1.run(f"REDISCLI_AUTH={password} redis-cli ping").stdout.strip() == "PONG"


def test_the_nas_is_mounted_on_both_as_nfs_4_2(main1, edge1):
    for host in (main1, edge1):
        mount = host.mount_point(FILESTORAGE)
        assert mount.exists
        assert mount.device == "nas1:/srv/filestorage"
        assert mount.filesystem == "nfs4"
        assert {"vers=4.2", "hard", "lookupcache=pos", "nosuid", "nodev", "noexec"} <= set(mount.options)


def test_what_one_host_writes_the_other_reads_at_once(main1, edge1):
    path = f"{FILESTORAGE}/.written-by-edge1"
    assert main1.run(f"test -e {path}").rc == 1
    edge1.check_output(f"setpriv --reuid=airflow --regid=airflow --clear-groups sh -c 'echo hello >{path}'")
    try:
        read = f"setpriv --reuid=airflow --regid=airflow --clear-groups cat {path}"
        assert main1.check_output(read) == "hello"
    finally:
        edge1.check_output(f"setpriv --reuid=airflow --regid=airflow --clear-groups rm {path}")


def test_the_airflow_user_has_the_same_numbers_everywhere(main1, edge1):
    for host in (main1, edge1):
        user = host.user("airflow")
        assert (user.uid, user.gid, user.shell) == (50000, 50000, "/usr/sbin/nologin")


def test_dags_are_the_same_release_on_both(main1, edge1):
    assert main1.file("/opt/airflow/dags").linked_to == edge1.file("/opt/airflow/dags").linked_to
    command = "cd /opt/airflow/dags/ && find . -type f | sort | xargs sha256sum"
    assert main1.check_output(command) == edge1.check_output(command)


def test_an_edge_host_knows_one_secret(edge1):
    environment = edge1.file("/etc/airflow/airflow.env")
    assert (environment.user, environment.group, environment.mode) == ("root", "airflow", 0o640)
    for name in ("admin_password", "api_secret_key", "fernet_key", "mysql_password", "redis_password"):
        assert (STATE / "secrets" / name).read_text() not in environment.content_string
    assert (STATE / "secrets/jwt_secret").read_text() in environment.content_string


def test_an_edge_host_has_neither_celery_nor_a_mysql_driver_nor_a_compiler(edge1):
    packages = edge1.check_output("/opt/airflow/uv/bin/uv pip list --python /opt/airflow/venv --format freeze").lower()
    names = {line.partition("==")[0] for line in packages.splitlines()}
    assert "apache-airflow-providers-edge3" in names
    assert not names & {"celery", "mysqlclient", "pymysql", "redis", "apache-airflow-providers-celery"}
    assert edge1.run("command -v gcc cc").rc != 0


def test_airflow_starts_from_bytecode(main1, edge1):
    for host in (main1, edge1):
        pattern = "/opt/airflow/venv/lib/python3*/site-packages/airflow/__pycache__/settings.*.pyc"
        assert host.run(f"ls {pattern}").rc == 0


def test_the_edge_worker_is_healthy_in_the_ui(airflow):
    workers = airflow.call("GET", "/edge_worker/ui/worker")["workers"]
    assert [(worker["worker_name"], worker["queues"]) for worker in workers] == [("edge1", ["edge_queue"])]
    assert workers[0]["state"] in ("idle", "running")


def test_no_dag_has_an_import_error(airflow):
    assert airflow.call("GET", "/api/v2/importErrors")["import_errors"] == []


def test_the_pipeline_runs_from_trigger_to_consumer(outcome):
    tasks = outcome["tasks"]
    assert {name: task["state"] for name, task in tasks.items()} == dict.fromkeys(tasks, "success")
    assert tasks["task_for_celery_worker"]["hostname"].startswith("main1")
    assert tasks["task_for_edge_worker"]["hostname"] == "edge1"
    assert tasks["task_for_edge_worker"]["queue"] == "edge_queue"
    assert tasks["process_file_from_nas"]["hostname"].startswith("main1")


def test_the_file_is_on_the_nas_and_the_consumer_read_it(outcome, nas1):
    path = outcome["event"]["extra"]["path"]
    content = nas1.file(path.replace(FILESTORAGE, "/srv/filestorage"))
    assert (content.uid, content.gid) == (50000, 50000)
    read = [item for item in outcome["read"] if item["path"] == path]
    text = "".join(f"{line}\n" for line in read[0]["lines"])
    assert hashlib.sha256(text.encode()).hexdigest() == content.sha256sum


def test_the_ui_shows_the_log_of_the_edge_task(airflow, outcome):
    log = airflow.log(outcome["producer"], "task_for_edge_worker")
    assert "task_for_edge_worker wrote /opt/airflow/filestorage/" in log
