"""What somebody may have changed by hand since site.yml ran: each failure names it."""

import hashlib
import re

import pytest

from attack import play
from lab import STATE, certificates
from pipeline import until

# Files in directories of which programs read all. Of no package are those of Debian's scripts and of the lab,
DEBIANS = {
    *(f"/etc/pam.d/common-{name}" for name in ("account", "auth", "password", "session", "session-noninteractive")),
    "/etc/apparmor.d/local/usr.sbin.mysqld",
    "/etc/apt/apt.conf.d/80lab",
    "/etc/apt/apt.conf.d/99mmdebstrap",
    "/etc/apt/preferences.d/unstable",
    "/etc/apt/sources.list.d/unstable.list",
    "/etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "/etc/dpkg/dpkg.cfg.d/lab",
    "/etc/ssh/sshd_config.d/lab.conf",
    "/etc/systemd/system/lab-seed.service",
    *map(str, certificates()),
}
# and these, of site.yml.
WITH_AIRFLOW = {
    "/etc/systemd/system/airflow-.service.d/sandbox.conf",
    "/etc/systemd/system/airflow.target",
    "/etc/systemd/system/nas-mount-again@.service",
    "/etc/systemd/system/opt-airflow-filestorage.mount",
    "/usr/local/sbin/airflow",
    "/usr/local/share/ca-certificates/airflow-1.crt",
}
COMPONENTS = ("api-server", "celery-worker", "dag-processor", "migrations", "scheduler", "triggerer")
OURS = {
    "nas1": {"/etc/exports.d/airflow.exports", "/etc/nfs.conf.d/airflow.conf"},
    "main1": {
        *WITH_AIRFLOW,
        *(f"/etc/systemd/system/airflow-{name}.service" for name in COMPONENTS),
        "/etc/mysql/mysql.conf.d/zz-airflow.cnf",
        "/etc/nginx/conf.d/airflow.conf",
        "/etc/systemd/system/nginx.service.d/airflow.conf",
    },
    "edge1": {*WITH_AIRFLOW, "/etc/systemd/system/airflow-edge-worker.service"},
}


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


@pytest.mark.parametrize("name", OURS)
def test_no_configuration_is_of_somebody_else(request, name):
    """A file beside ours can win over it now, or after the next restart; a timer can remove what is on the NAS."""
    host = request.getfixturevalue(name)
    packages = "dpkg-query --show --showformat '${Conffiles}\\n' | awk 'NF == 2 {print $2 \"  \" $1}'"
    changed = host.run(f"({packages}; cat /var/lib/ucf/hashfile) | md5sum --check --quiet").stdout.splitlines()
    changed = {line.split(":")[0] for line in changed}
    # What site.yml writes to that of Redis is the next test's.
    others = changed ^ ({"/etc/redis/redis.conf"} if name == "main1" else set())
    assert others == set(), f"changed by hand on {name}: {others}"
    places = "/etc/*.d /etc/*/*.d /etc/systemd /etc/nginx/sites-enabled/* /etc/cron* /var/spool/cron /usr/local"
    # A file of a package is there twice at least.
    owned = "cat /var/lib/dpkg/info/*.list /var/lib/dpkg/info/*.list"
    found = host.run(f"(find -H {places} -type f; {owned}) | sort | uniq --unique").stdout.splitlines()
    assert set(found) - DEBIANS == OURS[name]
    mounted = host.check_output("sed 's/#.*//' /etc/fstab").split()
    assert mounted == [], f"/etc/fstab of {name} mounts {mounted}"
    given = host.check_output("systemctl show-environment | cut -d = -f 1").split()
    assert set(given) <= {"LANG", "PATH"}, f"systemd of {name} gives units more of an environment: {given}"


def test_redis_reads_our_directives_last(main1):
    *others, last = main1.file("/etc/redis/redis.conf").content_string.splitlines(keepends=True)
    assert last == "include /etc/redis/airflow.conf\n", f"/etc/redis/redis.conf ends with {last}"
    digest = main1.check_output(
        "dpkg-query --show --showformat '${Conffiles}' redis-server | grep /redis.conf"
    ).split()[1]
    assert hashlib.md5("".join(others).encode()).hexdigest() == digest, "changed by hand: /etc/redis/redis.conf"  # noqa: S324


def test_airflow_has_no_plugins_or_policies_of_somebody(main1, edge1):
    for name, host in (("main1", main1), ("edge1", edge1)):
        # An edge worker makes a database that it does not use.
        found = host.check_output("ls /opt/airflow | grep -v ^airflow.db").split()
        assert set(found) <= {"config", "dags", "dags-releases", "filestorage", "logs", "venv", "venvs"}, (
            f"{name}: {found}"
        )
        assert host.check_output("ls -A /opt/airflow/config").split() == ["nas_watch.py"], (
            f"/opt/airflow/config of {name}"
        )


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
    exported = nas1.check_output("sed 's/#.*//' /etc/exports").split()
    assert exported == [], f"after a reboot the NAS exports {exported}, too"
    for name, host in (("nas1", nas1), ("main1", main1), ("edge1", edge1)):
        assert host.check_output("systemctl get-default") in ("multi-user.target", "graphical.target")
        assert host.service("ssh").is_enabled, f"after a reboot nobody gets into {name}: ssh.service is not enabled"
        # 255, which it ends with, is what ssh says of itself.
        done = host.run("sshd -t || exit 1")
        assert done.rc == 0, f"after a reboot nobody gets into {name}: {done.stderr}"


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


def test_the_database_does_nothing_by_itself(main1):
    """Nothing changes what Airflow has written, no password ends, and no log grows with each query."""
    for table in ("event", "trigger", "routine"):
        where = f"information_schema.{table}s WHERE {table}_schema NOT IN ('sys', 'mysql')"
        found = mysql(main1, f"SELECT {table}_schema, {table}_name FROM {where}")
        assert found == [], f"{table}s in MySQL: {found}"
    expiring = mysql(main1, "SELECT user, password_lifetime FROM mysql.user WHERE password_lifetime IS NOT NULL")
    assert expiring == [], f"passwords of MySQL that end: {expiring}"
    names = "@@GLOBAL.default_password_lifetime, @@GLOBAL.general_log"
    assert mysql(main1, f"SELECT {names}") == [("0", "0")], names


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
    roles = {
        role["name"]: [(item["action"]["name"], item["resource"]["name"]) for item in role["actions"]]
        for role in airflow.call("GET", "/auth/fab/v1/roles?limit=100")["roles"]
    }
    assert roles["Public"] == [], f"without a login Airflow allows {roles['Public']}"
    readers = {name for name, allowed in roles.items() if ("can_read", "Connections") in allowed}
    assert readers == {"Admin", "Op"}, f"roles of Airflow that read connections: {readers}"
    accounts = set(mysql(main1, "SELECT user, host FROM mysql.user WHERE user NOT LIKE 'mysql.%'"))
    # Debian's own, for its maintenance.
    accounts.discard(("debian-sys-maint", "localhost"))
    assert accounts == {("airflow", "127.0.0.1"), ("root", "localhost")}, f"accounts of MySQL: {accounts}"
    [(plugin,)] = mysql(main1, "SELECT plugin FROM mysql.user WHERE user = 'root'")
    assert plugin == "auth_socket", f"MySQL knows root by {plugin}"
    words = redis(main1, "acl list")
    passwords = [word for word in words if word.startswith(("#", "nopass"))]
    assert (words.count("user"), len(passwords)) == (1, 1), f"users of Redis and hashes of their passwords: {words}"
    for name, host in (("main1", main1), ("edge1", edge1)):
        # Who is in the group reads the settings, and with them secrets.
        listed = host.check_output("getent group airflow").split(":")[3]
        primary = host.check_output("awk -F : '$4 == 50000 || $3 == 50000 {print $1}' /etc/passwd")
        assert (listed, primary) == ("", "airflow"), f"in the group airflow of {name}: {listed} {primary}"
        groups = host.user("airflow").groups
        assert groups == ["airflow"], f"the user airflow of {name} is in the groups {groups}"


def test_nobody_else_gets_into_a_host(nas1, main1, edge1):
    for name, host in (("nas1", nas1), ("main1", main1), ("edge1", edge1)):
        users = host.check_output("awk -F : '$3 == 0 || $3 >= 1000 {print $1}' /etc/passwd").split()
        assert set(users) - {"nobody", "airflow"} == {"root"}, f"users of {name}: {users}"
        passwords = host.check_output("awk -F : '$2 !~ /^[*!]/ {print $1}' /etc/shadow").split()
        assert passwords == [], f"on {name} there is a password for {passwords}"
        keys = host.check_output("cat /root/.ssh/authorized_keys*").splitlines()
        assert keys == (STATE / "id_ed25519.pub").read_text().splitlines(), f"keys that {name} takes: {keys}"


def test_the_edge_finds_its_way_out(edge1):
    """To the services that it fetches from."""
    done = edge1.run("ip route get 192.0.2.1")
    assert done.rc == 0, f"edge1 has no route to other networks: {done.stderr}"
    seeded = (STATE / "seed/edge1/etc/resolv.conf").read_text()
    assert edge1.file("/etc/resolv.conf").content_string == seeded, "changed by hand: /etc/resolv.conf of edge1"


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
        for line in host.check_output("df --output=target,pcent,ipcent / /tmp /run | tail -n +2").splitlines():
            place, *used = line.split()
            space, inodes = (int(word.rstrip("%")) for word in used)
            assert max(space, inodes) < 90, (
                f"the disk of {name} is full: {space} % of the space of {place}, {inodes} % of its inodes"
            )
    for name, host in (("main1", main1), ("edge1", edge1)):
        done = host.run("setpriv --reuid=airflow --regid=airflow --clear-groups test -w /opt/airflow/logs")
        assert done.rc == 0, f"tasks of {name} cannot write their logs to /opt/airflow/logs"
