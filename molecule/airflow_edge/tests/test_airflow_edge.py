"""The role airflow_edge on a new host without a NAS, after it had been run with another name and another queue."""

from support.pipeline import until

UNIT = "airflow-edge-worker.service"


def test_it_runs_now_and_at_boot(edge2):
    # Where its name was taken it waits for five heartbeats, and starts again.
    assert until(lambda: edge2.service(UNIT).is_running)
    assert edge2.service(UNIT).is_enabled


def test_the_main_server_knows_it_by_its_new_name_and_queues(airflow):
    worker = until(lambda: (w := airflow.worker("alone"))["state"] == "idle" and w)
    assert sorted(worker["queues"]) == ["alone_queue", "another_queue"]
    assert worker["sysinfo"]["concurrency"] == 2


def test_its_old_name_does_not_work_any_more(airflow):
    assert until(lambda: airflow.worker("before")["state"] in ("offline", "unknown"))


# A task's client looks for a proxy as httpx does.
CLIENT = """
import httpx, os, ssl
print(os.environ["TEXT"])
print(os.environ["HTTPS_PROXY"])
# A CPU that other hosts use, too, can need longer than the five seconds that httpx waits unless told otherwise.
print(httpx.get("https://main1.lab.test/execution/health", verify=ssl.create_default_context(), timeout=60).status_code)
"""


def test_its_environment_has_a_proxy_which_is_not_asked_for_the_main_server(edge2):
    told = edge2.check_output(f"systemctl show --property=EnvironmentFiles --value {UNIT}")
    assert told.startswith("/etc/airflow/airflow.env ")
    run = "systemd-run -q --wait --collect --pipe --uid=airflow --property=EnvironmentFile=/etc/airflow/airflow.env"
    said = edge2.check_output(f"{run} /opt/airflow/venv/bin/python -c %s", CLIENT).splitlines()
    assert said == ['a "b" \\c $d `e` %f #g', "http://192.0.2.1:3128", "200"]


def test_a_setting_that_is_no_longer_set_is_gone(edge2):
    since = edge2.check_output(f"systemctl show --property=ActiveEnterTimestamp --value {UNIT}")
    assert "DEBUG" not in edge2.check_output(f"journalctl --unit {UNIT} --since '{since}'")


def test_what_was_changed_by_hand_is_put_right(edge2):
    units = {f"/etc/systemd/system/{name}": 0o644 for name in (UNIT, "airflow.target")}
    for path, mode in (units | {"/usr/local/sbin/airflow": 0o755}).items():
        file = edge2.file(path)
        assert (file.user, file.mode) == ("root", mode), path
        assert "changed by hand" not in file.content_string


def test_it_comes_back_after_a_crash(airflow, edge2):
    """Its name is taken for five heartbeats; until then the main server refuses it, and it tries again."""

    def process():
        return edge2.check_output(f"systemctl show --property=MainPID --value {UNIT}")

    before = process()
    edge2.check_output(f"systemctl kill --signal=KILL --kill-whom=all {UNIT}")
    # It writes its number when it is registered.
    until(lambda: process() not in (before, "0"))
    until(lambda: edge2.run("cat /run/airflow-edge-worker/worker.pid").stdout.strip() == process())
    assert until(lambda: airflow.worker("alone")["state"] == "idle")


def test_a_stop_tells_the_main_server(airflow, edge2):
    edge2.check_output(f"systemctl stop {UNIT}")
    try:
        assert until(lambda: airflow.worker("alone")["state"] == "offline")
        # A crash would look different: exit code 0 is an orderly end.
        assert edge2.check_output(f"systemctl show --property=Result --value {UNIT}") == "success"
    finally:
        edge2.check_output(f"systemctl start {UNIT}")
    assert until(lambda: airflow.worker("alone")["state"] == "idle")


def test_logs_are_given_to_the_user_and_not_what_a_task_has_put_a_link_to(edge2):
    assert edge2.file("/opt/airflow/logs").uid == 50000
    assert edge2.file("/root").uid == 0


def test_needrestart_lets_running_tasks_be(edge2):
    """Ubuntu runs it after every upgrade of a library, at night, too; what it restarts loses its tasks."""
    install = "DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends needrestart"
    edge2.check_output(f"apt-get update --quiet && {install}")
    # Another unit with the same library shows that needrestart does restart.
    beside = "[Service]\nExecStart=/usr/bin/python3 -c 'import time; time.sleep(3600)'\n"
    file = "/run/systemd/system/beside.service"
    edge2.check_output(f"printf %s >{file}", beside)
    edge2.check_output("systemctl daemon-reload && systemctl start beside.service")

    def starts():
        names = f"beside.service {UNIT}"
        return edge2.check_output(f"systemctl show --property=InvocationID --value {names}").split()

    try:
        before = starts()
        library = edge2.check_output("readlink -f $(ldd /usr/bin/python3 | awk '/libexpat/ {print $3}')")
        edge2.check_output(f"cp --preserve {library} {library}.new && mv {library}.new {library}")
        said = edge2.check_output("needrestart -l -m a -r a 2>&1")
        after = starts()
    finally:
        edge2.check_output(f"systemctl stop beside.service; rm {file}; systemctl daemon-reload")
    assert before[0] != after[0], f"needrestart did not notice that {library} is another file: {said}"
    assert before[1] == after[1], f"needrestart restarted {UNIT}: {said}"
