"""What a user would notice of the installation."""

import contextlib
import copy
import hashlib
import json
import os
import re
import socket
import time
from datetime import datetime

import pytest

from lab import ROOT
from support import LAB, address
from support.attack import claims, secrets, token
from support.pipeline import until

MAIN_UNITS = ["api-server", "scheduler", "dag-processor", "triggerer", "celery-worker", "requeue"]
FILESTORAGE = "/opt/airflow/filestorage"
# A NAS that does not answer would be waited for without an end.
AS_AIRFLOW = "timeout --signal=KILL 60 setpriv --reuid=airflow --regid=airflow --clear-groups"


def settings(host):
    lines = host.check_output("grep ^AIRFLOW__ /etc/airflow/airflow.env").splitlines()
    return dict(line.split("=", 1) for line in lines)


def normal(name):
    """Return the name of a package as the lock spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def show(host, unit, name):
    return host.check_output(f"systemctl show --property={name} --value {unit}")


@pytest.mark.parametrize(("name", "unit"), [("main1", "airflow-celery-worker"), ("edge1", "airflow-edge-worker")])
def test_tasks_find_python_and_airflow_in_the_virtualenv(request, name, unit):
    """As in an activated virtualenv: @task.virtualenv, BashOperator("python ..."), BashOperator("airflow ...")."""
    host = request.getfixturevalue(name)
    assert show(host, unit, "EnvironmentFiles").startswith("/etc/airflow/airflow.env ")
    # Not /proc/PID/environ, which Airflow's processes overwrite with their titles.
    run = "systemd-run -q --wait --collect --pipe --uid=airflow --property=EnvironmentFile=/etc/airflow/airflow.env"
    found = host.check_output(f"{run} /bin/sh -c 'command -v python; command -v airflow'").split()
    assert found == ["/opt/airflow/venv/bin/python", "/opt/airflow/venv/bin/airflow"]


@pytest.mark.parametrize(("name", "lock"), [("main1", "main"), ("edge1", "edge")])
def test_the_virtualenv_has_the_locked_versions(request, name, lock):
    program = "from importlib.metadata import distributions; [print(i.name, i.version) for i in distributions()]"
    lines = request.getfixturevalue(name).check_output(f"/opt/airflow/venv/bin/python -c '{program}'").splitlines()
    has = {normal(package): version for package, version in map(str.split, lines)}
    assert {"apache-airflow", "apache-airflow-providers-edge3"} <= has.keys()
    # A package can be there in several versions, for several versions of Python.
    pins = set(re.findall(r"^([\w.-]+)==([^ ;]+)", (ROOT / f"requirements/{lock}.txt").read_text(), re.MULTILINE))
    # Those that no marker leaves out are all there.
    wanted = set(re.findall(r"^([\w.-]+)==[^ ;]+ \\$", (ROOT / f"requirements/{lock}.txt").read_text(), re.MULTILINE))
    assert wanted - has.keys() == set(), f"{name} lacks packages of requirements/{lock}.txt"
    for package, version in has.items():
        assert (package, version) in pins, f"{package} is {version} on {name}, and not so in requirements/{lock}.txt"


def test_main_and_edge_agree_on_every_option_that_both_have(main1, edge1):
    main, edge = (settings(host) for host in (main1, edge1))
    for name in sorted(main.keys() & edge.keys() - {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL"}):
        # The values are not shown, for some are secrets.
        assert main[name] == edge[name], f"{name} differs between main1 and edge1"
    # Tasks wait for an edge host that is away.
    assert main["AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT"] == '"86400"'
    assert edge["AIRFLOW__CORE__EXECUTOR"] == '"CeleryExecutor,airflow.providers.edge3.executors.EdgeExecutor"'


def test_others_cannot_read_the_settings(main1, edge1):
    for host, path, group, mode in (
        (main1, "/etc/airflow/airflow.env", "airflow", 0o640),
        (edge1, "/etc/airflow/airflow.env", "airflow", 0o640),
        (main1, "/etc/airflow/jwt_private_key.pem", "root", 0o600),
        (main1, "/etc/ssl/private/airflow-api.key", "root", 0o600),
    ):
        file = host.file(path)
        assert file.user == "root"
        assert file.group == group
        assert file.mode == mode, f"{path} has mode {file.mode:o}"
        assert host.run(f"setpriv --reuid=nobody --clear-groups cat {path}").rc != 0


@pytest.mark.parametrize("unit", [*(f"airflow-{name}.service" for name in MAIN_UNITS), "airflow.target"])
def test_main_runs_every_component_now_and_at_boot(main1, unit):
    assert main1.service(unit).is_running
    assert main1.service(unit).is_enabled
    assert unit == "airflow.target" or "airflow.target" in show(main1, unit, "PartOf").split()
    assert show(main1, unit, "NRestarts") in ("0", "")


@pytest.mark.parametrize("unit", ["airflow-edge-worker.service", "airflow.target"])
def test_edge_runs_the_worker_now_and_at_boot(edge1, unit):
    assert edge1.service(unit).is_running
    assert edge1.service(unit).is_enabled


@pytest.mark.parametrize(
    ("host", "unit"),
    [
        ("nas1", "nfs-server.service"),
        ("main1", "mysql.service"),
        ("main1", "redis-server.service"),
        ("main1", "nginx.service"),
        ("main1", "opt-airflow-filestorage.mount"),
        ("edge1", "opt-airflow-filestorage.mount"),
    ],
)
def test_what_they_need_runs_now_and_at_boot(request, host, unit):
    service = request.getfixturevalue(host).service(unit)
    assert service.is_enabled
    assert service.is_running


def test_https_says_nothing_about_other_ports_of_the_name(airflow):
    """HSTS is off by default; `variables` turns it on first."""
    with airflow.opener.open(f"{airflow.url}/api/v2/version") as answer:
        assert "Strict-Transport-Security" not in answer.headers


def test_certificates_are_checked_every_day(main1):
    """From 30 days before the end of one, the check fails."""
    timer = main1.service("certificate-check-nginx.timer")
    assert timer.is_enabled, "certificate-check-nginx.timer is not enabled: nobody is told that the certificate ends"
    assert timer.is_running, "certificate-check-nginx.timer does not run"
    main1.check_output("systemctl start certificate-check-nginx.service")
    # The file is there, and its certificate is valid for long.
    assert show(main1, "certificate-check-nginx.service", "ConditionResult") == "yes"


def test_a_stop_waits_for_tasks_for_minutes_and_a_mount_for_its_server_for_ever(main1, edge1):
    """What takes too long to be waited for here."""
    assert show(main1, "airflow-celery-worker.service", "TimeoutStopUSec") == "10min"
    assert show(edge1, "airflow-edge-worker.service", "TimeoutStopUSec") == "13min"
    for host, unit in ((main1, "airflow-celery-worker.service"), (edge1, "airflow-edge-worker.service")):
        # A task that takes all memory ends, and its worker goes on.
        assert sorted(show(host, unit, "OOMPolicy,LimitNOFILE").split()) == ["65536", "continue"], unit
        assert show(host, "opt-airflow-filestorage.mount", "TimeoutUSec") == "infinity"
        assert "retry=100000" in host.check_output("systemctl cat opt-airflow-filestorage.mount")


def test_the_command_airflow_works(main1, edge1):
    assert "edge1" in main1.check_output("airflow edge list-workers")
    (version,) = re.findall(r"^apache-airflow==(\S+)", (ROOT / "requirements/edge.txt").read_text(), re.MULTILINE)
    assert edge1.check_output("airflow version").splitlines()[-1] == version


def test_the_password_of_a_connection_is_kept_and_read(airflow, main1):
    """Airflow runs without a usable Fernet key, too, until it needs it."""
    connection = {"connection_id": "kept", "conn_type": "http", "password": "only tasks know"}
    airflow.call("POST", "/api/v2/connections", connection)
    try:
        [kept] = json.loads(main1.check_output("airflow connections get kept --output json"))
    finally:
        airflow.call("DELETE", "/api/v2/connections/kept")
    assert kept["password"] == connection["password"]


def test_nothing_failed_on_any_host(nas1, main1, edge1):
    for host in (nas1, main1, edge1):
        assert host.check_output("systemctl --failed --no-legend --plain") == ""


def test_the_database_is_mysql(main1):
    assert "MariaDB" not in main1.check_output(
        "mysql --batch --skip-column-names --execute 'SELECT VERSION(), @@version_comment'"
    )


def test_the_database_takes_every_character(main1):
    query = "SELECT default_character_set_name FROM information_schema.schemata WHERE schema_name = 'airflow'"
    assert main1.check_output(f'mysql --batch --skip-column-names --execute "{query}"') == "utf8mb4"


@pytest.mark.parametrize("port", [3306, 33060, 6379])
def test_strangers_reach_neither_database_nor_broker(port):
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection((address("main1"), port), timeout=5):
        pytest.fail(f"main1:{port} answers strangers")


def test_redis_wants_its_password(main1):
    assert "NOAUTH" in main1.run("redis-cli ping").stdout
    password = (LAB.secrets / "redis_password").read_text()
    client = f"REDISCLI_AUTH={password} redis-cli"
    assert main1.check_output(f"{client} ping") == "PONG"
    # No task is lost in a restart, or for want of memory.
    options = main1.check_output(f"{client} config get appendonly maxmemory-policy").splitlines()
    assert {"yes", "noeviction"} <= set(options), options


def test_the_nas_is_mounted_on_both_as_nfs_4_2(main1, edge1):
    for name, host in (("main1", main1), ("edge1", edge1)):
        mount = host.mount_point(FILESTORAGE)
        assert mount.exists, f"{name} has no NAS at {FILESTORAGE}"
        assert mount.device == "nas1.lab.test:/srv/filestorage"
        assert mount.filesystem == "nfs4"
        assert {"vers=4.2", "hard", "lookupcache=pos", "nosuid", "nodev", "noexec"} <= set(mount.options)
        late = [option for option in mount.options if option.startswith(("ac", "nocto"))]
        assert late == [], f"{name} sees late what others write: {late}"


def test_what_one_host_writes_the_other_reads_at_once(main1, edge1):
    path = f"{FILESTORAGE}/.written-by-edge1"
    # The client may remember that it is not there.
    assert main1.run(f"{AS_AIRFLOW} test -e {path}").rc == 1
    edge1.check_output(f"{AS_AIRFLOW} sh -c 'echo hello >{path}'")
    try:
        assert main1.check_output(f"{AS_AIRFLOW} cat {path}") == "hello"
    finally:
        edge1.check_output(f"{AS_AIRFLOW} rm {path}")


def test_the_nas_is_exported_to_these_hosts_alone(nas1):
    exports = [line.split() for line in nas1.check_output("exportfs -s").splitlines()]
    assert {path for path, _ in exports} == {"/srv/filestorage"}
    clients = {name: set(options) for name, *options in (re.split("[(,)]", client) for _, client in exports)}
    assert clients.keys() == {"main1.lab.test", "edge1.lab.test"}, f"the NAS is exported to {sorted(clients)}"
    for name, options in clients.items():
        assert {"sync", "rw", "root_squash"} <= options, f"the NAS is exported to {name} with {sorted(options)}"


def test_strangers_cannot_mount_the_nas(nas1):
    """The NAS itself is not among the clients."""
    done = nas1.run("timeout 60 mount -t nfs4 nas1:/srv/filestorage /mnt")
    nas1.run("umount /mnt")
    assert done.rc == 32, f"the NAS is mounted by a stranger: {done}"


def test_root_of_a_client_is_nobody_on_the_nas(main1, edge1):
    for name, host in (("main1", main1), ("edge1", edge1)):
        done = host.run(f"timeout --signal=KILL 60 sh -c 'touch {FILESTORAGE}/by-root && rm {FILESTORAGE}/by-root'")
        assert done.rc != 0, f"root of {name} wrote to the NAS"


def test_the_clocks_agree(nas1, main1, edge1):
    for name, host in (("main1", main1), ("edge1", edge1), ("nas1", nas1)):
        before = time.time()
        ahead = float(host.check_output("date +%s.%N")) - (before + time.time()) / 2
        assert abs(ahead) < 5, f"the clock of {name} is {ahead:.0f} s ahead"


def test_the_airflow_user_has_the_same_numbers_everywhere(main1, edge1):
    for host in (main1, edge1):
        user = host.user("airflow")
        assert (user.uid, user.gid, user.shell) == (50000, 50000, "/usr/sbin/nologin")


def test_dags_are_the_same_release_on_both(main1, edge1):
    assert main1.file("/opt/airflow/dags").linked_to == edge1.file("/opt/airflow/dags").linked_to
    command = "cd /opt/airflow/dags/ && find . -type f | sort | xargs sha256sum"
    assert main1.check_output(command) == edge1.check_output(command)


def test_nobody_else_reads_the_secrets_on_the_controller():
    modes = {path.name: path.stat().st_mode & 0o777 for path in LAB.secrets.iterdir()}
    assert len(modes) >= 6
    assert set(modes.values()) == {0o600}, modes
    assert LAB.secrets.stat().st_mode & 0o777 == 0o700
    owners = {path.stat().st_uid for path in (LAB.secrets, *LAB.secrets.iterdir())}
    assert owners == {os.getuid()}, f"the secrets are of the users {owners}"


def test_an_edge_host_knows_one_secret(edge1):
    content = edge1.file("/etc/airflow/airflow.env").content_string
    for name in ("admin_password", "api_secret_key", "fernet_key", "mysql_password", "redis_password"):
        knows = (LAB.secrets / name).read_text() in content
        assert not knows, f"edge1 knows {name}"
    assert (LAB.secrets / "jwt_secret").read_text() in content
    # `files` lists the paths of what is installed.
    assert edge1.check_output("ls -A /etc/airflow").split() == ["airflow.cfg", "airflow.env", "files"]


def test_that_secret_opens_the_edge_api_alone(airflow):
    """With it an edge host can make a token for any user; main must not take it."""
    edge = copy.copy(airflow)
    edge.token = token(claims("apache-airflow"), secrets("jwt_secret")["jwt_secret"])
    with pytest.raises(RuntimeError, match=r": 40[13] "):
        pytest.fail(f"an edge host reads every connection: {edge.call('GET', '/api/v2/connections')}")


def test_an_edge_host_has_neither_celery_nor_a_mysql_driver_nor_a_compiler(edge1):
    program = "from importlib.metadata import distributions; print(*(item.name for item in distributions()))"
    names = set(edge1.check_output(f"/opt/airflow/venv/bin/python -c '{program}'").lower().split())
    assert "apache-airflow-providers-edge3" in names
    assert not names & {"celery", "mysqlclient", "pymysql", "redis", "apache-airflow-providers-celery"}
    assert not [name for name in ("gcc", "cc", "g++", "clang") if edge1.exists(name)]


def test_airflow_starts_from_bytecode(main1, edge1):
    """The service user cannot store it."""
    for name, host in (("main1", main1), ("edge1", edge1)):
        find = "find /opt/airflow/venv/lib/*/site-packages/airflow -name '*.{}' | wc -l"
        sources, compiled = (int(host.check_output(find.format(kind))) for kind in ("py", "pyc"))
        assert 0 < sources <= compiled, f"{name} compiles {sources - compiled} files of Airflow at every start"


def test_a_consumer_is_not_paused_while_its_producer_runs(airflow):
    """An event starts no run of a paused DAG. Both are paused until somebody unpauses them."""
    producer, consumer = (airflow.call("GET", f"/api/v2/dags/{name}_dag") for name in ("producer", "consumer"))
    assert producer["is_paused"] or not consumer["is_paused"], "consumer_dag is paused: it misses the producer's files"
    forgotten = producer["is_paused"] and airflow.states("producer_dag")
    assert not forgotten, "producer_dag is paused, and has run before: there are no more files"
    paused = {dag["dag_id"]: dag["is_paused"] for dag in airflow.call("GET", "/api/v2/dags?limit=100")["dags"]}
    fetched = [
        name.removesuffix("_fetch") for name, is_paused in paused.items() if name.endswith("_fetch") and not is_paused
    ]
    lost = [name for name in fetched if paused.get(f"{name}_load")]
    assert lost == [], f"files of these feeds are fetched and not loaded, for NAME_load is paused: {lost}"


def test_the_producer_is_due_within_a_day(airflow):
    """A run that a wrong clock has made lies in the future, and is waited for."""
    due = airflow.call("GET", "/api/v2/dags/producer_dag")["next_dagrun_run_after"]
    ahead = datetime.fromisoformat(due).timestamp() - time.time()
    assert ahead < 25 * 3600, f"producer_dag runs next at {due}"


def test_the_edge_worker_is_healthy_in_the_ui(airflow):
    """Even when the main server was rebooted just now."""

    def worker():
        return airflow.worker("edge1")

    assert worker()["queues"] == ["edge_queue"]
    try:
        until(lambda: worker()["state"] in ("idle", "running"), 120)
    except TimeoutError:
        has = worker()
        pytest.fail(f"edge1 is {has['state']}: {has['maintenance_comments']}; {has['sysinfo'].get('status_text')}")
    assert worker()["sysinfo"]["concurrency"] == 4, "set by hand: `airflow edge set-worker-concurrency`"


def test_airflows_example_dags_are_not_there(airflow):
    dags = airflow.call("GET", "/api/v2/dags?limit=100")["dags"]
    assert {"producer_dag", "consumer_dag"} <= {dag["dag_id"] for dag in dags}
    assert not [dag["dag_id"] for dag in dags if "example_dags" in dag["fileloc"]]


def test_no_dag_has_an_import_error(airflow):
    assert airflow.call("GET", "/api/v2/importErrors")["import_errors"] == []


def test_the_pipeline_runs_from_trigger_to_consumer(outcome):
    tasks = outcome["tasks"]
    assert {name: task["state"] for name, task in tasks.items()} == dict.fromkeys(tasks, "success")
    assert tasks["task_for_celery_worker"]["hostname"].startswith("main1")
    assert tasks["task_for_edge_worker"]["hostname"].startswith("edge1")
    assert tasks["task_for_edge_worker"]["queue"] == "edge_queue"
    assert tasks["process_file_from_nas"]["hostname"].startswith("main1")


def test_the_file_is_on_the_nas_and_the_consumer_read_it(outcome, nas1):
    path = outcome["event"]["extra"]["path"]
    content = nas1.file(path.replace(FILESTORAGE, "/srv/filestorage"))
    assert (content.uid, content.gid) == (50000, 50000)
    read = [item for item in outcome["read"] if item["path"] == path]
    text = "".join(f"{line}\n" for line in read[0]["lines"])
    assert hashlib.sha256(text.encode()).hexdigest() == content.sha256sum


def test_the_consumer_has_read_every_file(outcome, main1):
    """A later run does not read what one that failed should have read."""
    query = (
        "SELECT event.extra->>'$.path' AS path FROM asset_event AS event"
        " LEFT JOIN dagrun_asset_event AS seen ON seen.event_id = event.id"
        " LEFT JOIN dag_run ON dag_run.id = seen.dag_run_id WHERE event.source_dag_id = 'producer_dag'"
        " GROUP BY path HAVING SUM(IFNULL(dag_run.state = 'success', FALSE)) = 0"
    )

    def unread():
        return main1.check_output("mysql --batch --skip-column-names airflow --execute %s", query)

    # A run may be on its way.
    with contextlib.suppress(TimeoutError):
        until(lambda: not unread(), 60)
    assert unread() == "", f"published, and not read by a run of consumer_dag: {unread()}"


def test_every_file_on_the_nas_is_as_it_was_published(outcome, main1, nas1):
    """Each of which an asset event tells."""
    query = "SELECT extra->>'$.sha256', extra->>'$.path' FROM asset_event WHERE extra->>'$.sha256' <> '' ORDER BY id"
    lines = main1.check_output("mysql --batch --skip-column-names airflow --execute %s", query).splitlines()
    published = dict(reversed(line.split("\t")) for line in lines)
    assert outcome["event"]["extra"]["path"] in published
    digests = "".join(f"{digest}  {path}\n" for path, digest in published.items())
    checked = nas1.run("printf %s | sha256sum --check --quiet", digests.replace(FILESTORAGE, "/srv/filestorage"))
    assert checked.rc == 0, f"changed after it was published, or gone: {checked.stdout}{checked.stderr}"
    # Without it the name may be given to other content, when the file has been removed.
    lines = nas1.check_output("find /srv/filestorage -name '.*.json' -exec grep --no-filename . {} +").splitlines()
    manifests = {manifest["path"]: manifest["sha256"] for manifest in map(json.loads, lines)}
    without = {path for path, digest in published.items() if manifests.get(path) != digest}
    assert without == set(), f"without the manifest that they were published with: {without}"


def test_the_ui_shows_the_log_of_the_edge_task(airflow, outcome):
    log = airflow.log(outcome["producer"], "task_for_edge_worker")
    assert "task_for_edge_worker wrote /opt/airflow/filestorage/" in log
