"""What somebody may have changed by hand since site.yml ran: each failure names it."""

import re

import pytest

from attack import play
from lab import STATE
from pipeline import until


def mysql(main1, query):
    # A server that hangs would be waited for without an end.
    lines = main1.check_output(
        "mysql --connect-timeout=10 --batch --skip-column-names --execute %s", query
    ).splitlines()
    return [tuple(line.split("\t")) for line in lines]


def redis(main1, words):
    password = (STATE / "secrets/redis_password").read_text()
    return main1.check_output(f"REDISCLI_AUTH={password} timeout 10 redis-cli {words}").split()


def test_nothing_on_any_host_is_other_than_site_yml_would_have_it():
    """Every file, unit, account, export and certificate of the roles."""
    said = play("site.yml", "--check", "--diff", directory=".")
    task, other = "", []
    for line in said.splitlines():
        if line.startswith(("TASK ", "RUNNING HANDLER ")):
            task = line.rstrip("* ")
        elif line.startswith("changed: "):
            other.append(f"{task} {line}")
        elif re.match(r"[-+][^-+]", line):
            other.append(line)
    assert not re.search(r"changed=[1-9]", said), "\n".join(other)


def test_units_run_as_their_files_say(nas1, main1, edge1):
    """A drop-in of somebody's own would win over them, and a changed file waits for daemon-reload."""
    ours = {"airflow-.service.d/sandbox.conf", "nginx.service.d/airflow.conf"}
    for host, units in (
        (nas1, "nfs-server.service"),
        (main1, "'airflow-*' mysql.service redis-server.service nginx.service opt-airflow-filestorage.mount"),
        (edge1, "'airflow-*' opt-airflow-filestorage.mount"),
    ):
        names = "Id,FragmentPath,DropInPaths,NeedDaemonReload,FreezerState"
        for unit in host.check_output(f"systemctl show --property={names} {units}").split("\n\n"):
            has = dict(line.split("=", 1) for line in unit.splitlines())
            paths = [path.removeprefix("/etc/systemd/system/") for path in has["DropInPaths"].split()]
            # The distribution's are its own business.
            others = {path for path in paths if not path.startswith(("/usr/lib/", "/run/systemd/generator"))} - ours
            assert others == set(), f"{has['Id']} has a drop-in: {others}"
            where = "/etc/" if "airflow" in has["Id"] else "/usr/lib/"
            assert has["FragmentPath"].startswith(where), f"{has['Id']} is {has['FragmentPath']}"
            assert has["NeedDaemonReload"] == "no", f"{has['Id']} was changed, without `systemctl daemon-reload`"
            assert has.get("FreezerState", "running") == "running", f"{has['Id']} is {has['FreezerState']}"


def test_no_process_is_stopped(nas1, main1, edge1):
    """Its unit is active all the same."""
    for name, host in (("nas1", nas1), ("main1", main1), ("edge1", edge1)):
        lines = host.check_output("ps -eo state=,unit:40=,args=").splitlines()
        stopped = [line for line in lines if line.startswith("T")]
        assert stopped == [], f"stopped by a signal on {name}: {stopped}"


def test_what_was_killed_would_come_back(main1):
    for unit in ("mysql", "redis-server", "nginx"):
        restart = main1.check_output(f"systemctl show --property=Restart --value {unit}")
        assert restart != "no", f"{unit}.service has Restart={restart}: killed, it stays dead"


def test_what_runs_would_start_again(nas1, main1, edge1):
    """With the files that are there now."""
    for command in ("nginx -q -t", "mysqld --validate-config --user=mysql"):
        done = main1.run(command)
        assert done.rc == 0, f"{command}: {done.stdout}{done.stderr}"
    exported = nas1.check_output(
        "cat /etc/exports /etc/exports.d/* | grep -v '^ *#' | cut -d ' ' -f 1 | sort -u"
    ).split()
    assert exported == ["/srv/filestorage"], f"after a reboot the NAS exports {exported}"
    for host in (nas1, main1, edge1):
        assert host.check_output("systemctl get-default") in ("multi-user.target", "graphical.target")


@pytest.mark.parametrize("name", ["main1", "edge1"])
def test_airflows_code_is_as_it_was_installed(request, name):
    """Each wheel has the digests of its files; nothing was written to the virtualenv afterwards, nor put beside it."""
    host = request.getfixturevalue(name)
    program = (
        "import base64, hashlib, importlib.metadata as m\n"
        "for item in m.distributions():\n"
        "    for file in item.files if item.name.startswith(('apache-airflow', 'celery')) else []:\n"
        "        if file.hash and file.suffix == '.py':\n"
        "            digest = hashlib.new(file.hash.mode, file.read_binary()).digest()\n"
        "            if base64.urlsafe_b64encode(digest).decode().rstrip('=') != file.hash.value: print(file)\n"
    )
    changed = host.check_output("/opt/airflow/venv/bin/python -c %s", program)
    assert changed == "", f"changed by hand on {name}: {changed}"
    newer = host.check_output("find /opt/airflow/venv/ -newer /opt/airflow/venv/.complete -type f ! -name '*.pyc'")
    assert newer == "", f"written on {name} after the installation: {newer}"


def test_the_database_keeps_what_it_has_confirmed(main1):
    """After a power cut, too, whatever somebody has set at runtime or in another file."""
    names = "@@GLOBAL.innodb_flush_log_at_trx_commit, @@GLOBAL.sync_binlog, @@GLOBAL.innodb_doublewrite"
    assert mysql(main1, f"SELECT {names}") == [("1", "1", "ON")], names
    name = "Innodb_redo_log_enabled"
    assert mysql(main1, f"SHOW GLOBAL STATUS LIKE '{name}'") == [(name, "ON")]
    persisted = mysql(main1, "SELECT * FROM performance_schema.persisted_variables")
    assert persisted == [], f"set by SET PERSIST, and in no file of the site: {persisted}"


def test_the_broker_keeps_its_queue(main1):
    """In a restart, and for want of memory; whatever somebody has set at runtime or behind the site's directives."""
    words = redis(main1, "config get appendonly appendfsync maxmemory maxmemory-policy")
    assert dict(zip(words[::2], words[1::2], strict=True)) == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
    }


def test_nobody_has_an_account_that_site_yml_did_not_make(airflow, main1, edge1):
    found = airflow.call("GET", "/auth/fab/v1/users")["users"]
    users = {user["username"]: [role["name"] for role in user["roles"]] for user in found}
    assert users == {"admin": ["Admin"]}, f"users of Airflow: {users}"
    public = airflow.call("GET", "/auth/fab/v1/roles/Public")["actions"]
    assert public == [], f"without a login Airflow allows {public}"
    accounts = set(mysql(main1, "SELECT user, host FROM mysql.user WHERE user NOT LIKE 'mysql.%'"))
    # Debian's own, for its maintenance.
    accounts.discard(("debian-sys-maint", "localhost"))
    assert accounts == {("airflow", "127.0.0.1"), ("root", "localhost")}, f"accounts of MySQL: {accounts}"
    [(plugin,)] = mysql(main1, "SELECT plugin FROM mysql.user WHERE user = 'root'")
    assert plugin == "auth_socket", f"MySQL knows root by {plugin}"
    users = redis(main1, "acl users")
    assert users == ["default"], f"users of Redis: {users}"
    for name, host in (("main1", main1), ("edge1", edge1)):
        # Who is in the group reads the settings, and with them secrets.
        listed = host.check_output("getent group airflow").split(":")[3]
        primary = host.check_output("awk -F : '$4 == 50000 || $3 == 50000 {print $1}' /etc/passwd")
        assert (listed, primary) == ("", "airflow"), f"in the group airflow of {name}: {listed} {primary}"
        groups = host.user("airflow").groups
        assert groups == ["airflow"], f"the user airflow of {name} is in the groups {groups}"


def test_the_nas_says_that_it_is_this_one(nas1):
    """Workers leave another one alone."""
    assert nas1.check_output("cat /srv/filestorage/.nas") == "nas1:/srv/filestorage"


def test_every_component_tells_that_it_lives(airflow):
    """One that hangs is active, for systemd."""
    try:
        until(lambda: not airflow.sick(), 60)
    except TimeoutError:
        assert airflow.sick() == {}


def test_tasks_find_a_slot(airflow):
    slots = airflow.call("GET", "/api/v2/pools/default_pool")["slots"]
    assert slots == 128, f"default_pool has {slots} slots, and tasks wait for one"


def test_there_is_room_on_every_disk(nas1, main1, edge1):
    for name, host in (("nas1", nas1), ("main1", main1), ("edge1", edge1)):
        space, inodes = (
            int(word.rstrip("%")) for word in host.check_output("df --output=pcent,ipcent / | tail -1").split()
        )
        assert max(space, inodes) < 90, f"the disk of {name} is full: {space} % of its space, {inodes} % of its inodes"
    for name, host in (("main1", main1), ("edge1", edge1)):
        done = host.run("setpriv --reuid=airflow --regid=airflow --clear-groups test -w /opt/airflow/logs")
        assert done.rc == 0, f"tasks of {name} cannot write their logs to /opt/airflow/logs"
