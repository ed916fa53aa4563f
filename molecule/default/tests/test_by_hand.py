"""What somebody may have changed by hand since site.yml ran: each failure names it."""

import hashlib
import re

import pytest

from lab import HOSTS
from lab.machine import certificates
from support import LAB, STATE, address
from support.attack import play
from support.pipeline import until

# Files in directories of which programs read every file. Those of Debian's scripts and of the lab belong to no package;
DEBIANS = {
    *(f"/etc/pam.d/common-{name}" for name in ("account", "auth", "password", "session", "session-noninteractive")),
    "/etc/alternatives/my.cnf -> /etc/mysql/mysql.cnf",
    "/etc/apparmor.d/local/usr.sbin.mysqld",
    "/etc/apt/apt.conf.d/80lab",
    "/etc/apt/apt.conf.d/99mmdebstrap",
    "/etc/apt/preferences.d/unstable",
    "/etc/apt/sources.list.d/unstable.list",
    "/etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "/etc/dpkg/dpkg.cfg.d/lab",
    "/etc/mysql/debian.cnf",
    "/etc/mysql/my.cnf -> /etc/alternatives/my.cnf",
    "/etc/ssh/sshd_config.d/lab.conf",
    "/etc/systemd/system/autovt@.service -> /usr/lib/systemd/system/getty@.service",
    "/etc/systemd/system/lab-seed.service",
    "/etc/systemd/system/redis.service -> /usr/lib/systemd/system/redis-server.service",
    "/etc/systemd/system/ssh.service.d/umask.conf",
    *(f"/etc/systemd/system/sshd.service -> {lib}/systemd/system/ssh.service" for lib in ("/lib", "/usr/lib")),
    "/run/tmpfiles.d/static-nodes.conf",
    "/usr/local/man -> share/man",
    *map(str, certificates()),
}
# neither do these files, which site.yml writes.
WITH_AIRFLOW = {
    "/etc/needrestart/conf.d/airflow.conf",
    "/etc/systemd/system/airflow-.service.d/sandbox.conf",
    "/etc/systemd/system/airflow.target",
    "/etc/systemd/system/nas-mount-again@.service",
    "/etc/systemd/system/opt-airflow-filestorage.mount",
    "/usr/local/sbin/airflow",
    "/usr/local/share/ca-certificates/airflow-1.crt",
}
COMPONENTS = ("api-server", "celery-worker", "dag-processor", "migrations", "requeue", "scheduler", "triggerer")
OURS = {
    "nas1": {"/etc/exports.d/airflow.exports", "/etc/nfs.conf.d/airflow.conf"},
    "main1": {
        *WITH_AIRFLOW,
        *(f"/etc/systemd/system/airflow-{name}.service" for name in COMPONENTS),
        "/etc/mysql/mysql.conf.d/zz-airflow.cnf",
        "/etc/nginx/conf.d/airflow.conf",
        "/etc/systemd/system/certificate-check-nginx.service",
        "/etc/systemd/system/certificate-check-nginx.timer",
        "/etc/systemd/system/nginx.service.d/airflow.conf",
        "/usr/local/sbin/airflow-feed",
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
    password = (LAB.secrets / "redis_password").read_text()
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
    """A drop-in of somebody's own would win over them; a changed file waits for daemon-reload, or for a restart."""
    reads = {
        "nfs-server.service": "/etc/nfs.conf /etc/nfs.conf.d",
        "mysql.service": "/etc/mysql",
        "redis-server.service": "/etc/redis",
        "nginx.service": "/etc/nginx",
    }
    # That of nginx is its oldest worker that takes connections: it is reloaded, not started again.
    nginx = "$(date +%s) - $(ps -C nginx -o etimes=,args= | awk '/worker process$/ {print $1}' | sort -n | tail -1)"
    ours = {f"/etc/systemd/system/{name}.conf" for name in ("airflow-.service.d/sandbox", "nginx.service.d/airflow")}
    for host, units in (
        (nas1, "nfs-server.service"),
        (main1, "'airflow-*' mysql.service redis-server.service nginx.service opt-airflow-filestorage.mount"),
        (edge1, "'airflow-*' opt-airflow-filestorage.mount"),
    ):
        names = "Id,FragmentPath,DropInPaths,NeedDaemonReload,FreezerState,ExecMainStartTimestamp"
        looks = []
        for unit in host.check_output(f"systemctl show --timestamp=unix --property={names} {units}").split("\n\n"):
            has = dict(line.split("=", 1) for line in unit.splitlines())
            drop_ins = set(has["DropInPaths"].split())
            # The distribution's are its own business.
            others = {path for path in drop_ins - ours if not path.startswith(("/usr/lib/", "/run/systemd/generator"))}
            assert others == set(), f"{has['Id']} has a drop-in: {others}"
            where = "/etc/" if "airflow" in has["Id"] else "/usr/lib/"
            assert has["FragmentPath"].startswith(where), f"{has['Id']} is {has['FragmentPath']}"
            assert has["NeedDaemonReload"] == "no", f"{has['Id']} was changed, without `systemctl daemon-reload`"
            assert has.get("FreezerState", "running") == "running", f"{has['Id']} is {has['FreezerState']}"
            files = reads.get(has["Id"], "")
            if has["Id"].startswith("airflow-"):
                files = " ".join([has["FragmentPath"], *(ours & drop_ins), "/etc/airflow/airflow.env"])
            if files:
                started = nginx if has["Id"] == "nginx.service" else has["ExecMainStartTimestamp"].removeprefix("@")
                # Which came first within a second is not known.
                look = f"find {files} -type f -newerct @$(({started} + 1))"
                looks.append(f"{look} -printf '%p was changed after {has['Id']} had started\\n'")
        # Whoever puts a file back leaves the process with what the file said in between.
        stale = host.check_output("; ".join(looks))
        assert stale == "", stale


@pytest.mark.parametrize("name", OURS)
def test_no_configuration_is_of_somebody_else(request, name):
    """A file beside ours can win over it now, or after the next restart; a timer can remove what is on the NAS."""
    host = request.getfixturevalue(name)
    packages = "dpkg-query --show --showformat '${Conffiles}\\n' | awk 'NF == 2 {print $2 \"  \" $1}'"
    # Packages of Debian 12 have files in /lib, which is a link to /usr/lib.
    units = "sed -nE 's,  (usr/)?lib/systemd/,  /usr/lib/systemd/,p' /var/lib/dpkg/info/*.md5sums"
    changed = host.run(f"({packages}; {units}; cat /var/lib/ucf/hashfile) | md5sum --check --quiet").stdout.splitlines()
    changed = {line.split(":")[0] for line in changed}
    # site.yml edits redis.conf, which the next test reads.
    others = changed ^ ({"/etc/redis/redis.conf"} if name == "main1" else set())
    assert others == set(), f"changed by hand on {name}: {others}"
    places = "/etc/*.d /etc/*/*.d /etc/systemd /etc/mysql /etc/my.cnf /etc/nginx /etc/cron* /var/spool/cron /usr/local"
    places += " /usr/lib/systemd /usr/lib/*.d /run/*.d /run/systemd/system"
    places += " /run/systemd/transient/*.timer /run/systemd/transient/*.service"
    places += " /etc/alternatives/my.cnf /etc/ld.so.preload /usr/share/ca-certificates"
    # What is enabled or masked is for other tests.
    links = "-type l ! -lname /dev/null ! -path '*.wants/*' ! -path '*.requires/*' ! -path '/etc/rc?.d/*'"
    # Lines of packages come twice at least, the others once, even where places overlap.
    owned = "sed 's,^/lib/,/usr/lib/,' /var/lib/dpkg/info/*.list /var/lib/dpkg/info/*.list"
    found = host.run(
        f"(find -H {places} -type f -o {links} | sort --unique; {owned}) | sort | uniq --unique"
        " | tr '\\n' '\\0' | find -files0-from - -maxdepth 0 -printf '%p -> %l\\n'"
    ).stdout.splitlines()
    assert {line.removesuffix(" -> ") for line in found} - DEBIANS == OURS[name]
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
    ours = {"main1": ["asset_delivery.py", "requeue.py"], "edge1": ["edge_worker.py"]}
    for name, host in (("main1", main1), ("edge1", edge1)):
        # An edge worker makes a database that it does not use.
        found = host.check_output("ls /opt/airflow | grep -v ^airflow.db").split()
        assert set(found) <= {"config", "dags", "dags-releases", "filestorage", "logs", "venv", "venvs"}, (
            f"{name}: {found}"
        )
        assert host.check_output("ls -A /opt/airflow/config").split() == sorted(["nas_watch.py", *ours[name]]), (
            f"/opt/airflow/config of {name}"
        )


def test_no_process_is_stopped_or_somebody_elses(nas1, main1, edge1):
    """The unit of one that is stopped is active all the same; a second scheduler takes tasks; a loop removes files."""
    for name, host in (("nas1", nas1), ("main1", main1), ("edge1", edge1)):
        lines = host.check_output("ps -eo state=,user=,unit:40=,ppid=,args=").splitlines()
        stopped = [line for line in lines if line.startswith("T")]
        assert stopped == [], f"stopped by a signal on {name}: {stopped}"
        # One that root has started signs with another key, and has its tasks refused.
        others = [
            line
            for line in lines
            if (line.split()[1] == "airflow" or "/opt/airflow/venv/" in line)
            and not line.split()[2].startswith("airflow-")
        ]
        assert others == [], f"processes of Airflow in no unit of the site on {name}: {others}"
        shells = re.compile(r"\S+ +\S+ +(ssh\.service|session-\S+\.scope) +1 (?!sshd)")
        left = [line for line in lines if shells.match(line)]
        assert left == [], f"left by somebody's shell on {name}: {left}"


def test_what_was_killed_would_come_back(main1):
    for unit in ("mysql", "redis-server", "nginx"):
        restart = main1.check_output(f"systemctl show --property=Restart --value {unit}")
        assert restart != "no", f"{unit}.service has Restart={restart}: killed, it stays dead"


def test_what_runs_would_start_again(nas1, main1, edge1):
    """With the files that are there now."""
    for command in ("nginx -q -t", "mysqld --validate-config --user=mysql"):
        done = main1.run(command)
        assert done.rc == 0, f"{command}: {done.stdout}{done.stderr}"
    for user, needs in (
        ("mysql", "-w /var/lib/mysql -a -w /var/log/mysql"),
        ("redis", "-r /etc/redis/redis.conf -a -r /etc/redis/airflow.conf -a -w /var/lib/redis -a -w /var/log/redis"),
    ):
        done = main1.run(f"setpriv --reuid={user} --regid={user} --init-groups test {needs}")
        assert done.rc == 0, f"{user} would not start again: as that user `test {needs}` fails"
        others = main1.check_output(f"find /var/lib/{user} -ignore_readdir_race ! -user {user} ! -name 'debian-*.flag'")
        assert others == "", f"{user} would not start again: of somebody else is {others}"
    gone = main1.run("find /proc/[0-9]*/fd -lname '/var/lib/*(deleted)' -printf '%l\\n'").stdout
    assert gone == "", f"removed while a server writes to it, which would miss it at its next start: {gone}"
    assert nas1.service("nfs-mountd").is_running, (
        "nfs-mountd.service of the NAS is not active: soon it refuses its clients"
    )
    exported = nas1.check_output("sed 's/#.*//' /etc/exports").split()
    assert exported == [], f"after a reboot the NAS exports {exported}, too"
    for name, host in (("nas1", nas1), ("main1", main1), ("edge1", edge1)):
        enabled = host.run("systemctl is-enabled rpcbind.socket rpcbind.service").stdout.split()
        assert "enabled" not in enabled, f"after a reboot port 111 of {name} is open: rpcbind is enabled"
        assert host.check_output("systemctl get-default") in ("multi-user.target", "graphical.target")
        assert host.service("ssh").is_enabled, f"after a reboot nobody gets into {name}: ssh.service is not enabled"
        # 255, which it ends with, is what ssh says of itself.
        done = host.run("sshd -t || exit 1")
        assert done.rc == 0, f"after a reboot nobody gets into {name}: {done.stderr}"
        done = host.run("systemd-analyze condition --unit=ssh.service")
        assert done.rc == 0, f"after a reboot nobody gets into {name}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("name", ["main1", "edge1"])
def test_airflows_code_is_as_it_was_installed(request, name):
    """Each wheel has the digests of its files; nothing was written to the virtualenv afterwards, nor put beside it."""
    host = request.getfixturevalue(name)
    program = (
        "import base64, hashlib, importlib.metadata as m\n"
        "for item in m.distributions():\n"
        "    for file in item.files:\n"
        "        if file.hash and file.suffix == '.py':\n"
        "            digest = hashlib.new(file.hash.mode, file.read_binary()).digest()\n"
        "            if base64.urlsafe_b64encode(digest).decode().rstrip('=') != file.hash.value: print(file)\n"
    )
    changed = host.check_output("/opt/airflow/venv/bin/python -c %s", program)
    assert changed == "", f"changed by hand on {name}: {changed}"
    newer = host.check_output("find /opt/airflow/venv/ -newer /opt/airflow/venv/.complete ! -type d ! -name '*.pyc'")
    assert newer == "", f"written on {name} after the installation: {newer}"


def test_the_database_keeps_what_it_has_confirmed(main1):
    """After a power cut, too, whatever somebody has set at runtime or in another file."""
    names = "@@GLOBAL.innodb_flush_log_at_trx_commit, @@GLOBAL.sync_binlog, @@GLOBAL.innodb_doublewrite"
    assert mysql(main1, f"SELECT {names}") == [("1", "1", "ON")], names
    name = "Innodb_redo_log_enabled"
    assert mysql(main1, f"SHOW GLOBAL STATUS LIKE '{name}'") == [(name, "ON")]
    persisted = mysql(main1, "SELECT * FROM performance_schema.persisted_variables")
    assert persisted == [], f"set by SET PERSIST, and in no file of the site: {persisted}"


def test_the_database_does_nothing_by_itself_and_refuses_nobody(main1):
    """Nobody changes what Airflow has written, no password ends, no log grows with each query, no limit is lower."""
    for table in ("event", "trigger", "routine"):
        where = f"information_schema.{table}s WHERE {table}_schema NOT IN ('sys', 'mysql')"
        found = mysql(main1, f"SELECT {table}_schema, {table}_name FROM {where}")
        assert found == [], f"{table}s in MySQL: {found}"
    components = mysql(main1, "SELECT component_urn FROM mysql.component")
    assert components == [], f"components of MySQL, which may refuse a new password: {components}"
    expiring = mysql(main1, "SELECT user, password_lifetime FROM mysql.user WHERE password_lifetime IS NOT NULL")
    assert expiring == [], f"passwords of MySQL that end: {expiring}"
    limited = "max_questions + max_updates + max_connections + max_user_connections > 0"
    assert mysql(main1, f"SELECT user FROM mysql.user WHERE {limited}") == [], "users of MySQL with limits"
    values = {
        "autocommit": "ON",
        "binlog_expire_logs_auto_purge": "ON",
        "binlog_expire_logs_seconds": "2592000",
        "default_password_lifetime": "0",
        "foreign_key_checks": "ON",
        "general_log": "OFF",
        "init_connect": "",
        "innodb_lock_wait_timeout": "50",
        "max_allowed_packet": "67108864",
        "max_connections": "151",
        "max_execution_time": "0",
        "slow_query_log": "OFF",
        # What does not fit is refused, and not cut off.
        "sql_mode": "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,"
        "NO_ENGINE_SUBSTITUTION",
        "sql_select_limit": "18446744073709551615",
        "time_zone": "SYSTEM",
        "transaction_isolation": "REPEATABLE-READ",
        "wait_timeout": "28800",
    }
    names = ", ".join(f"'{name}'" for name in values)
    assert dict(mysql(main1, f"SHOW GLOBAL VARIABLES WHERE variable_name IN ({names})")) == values


def test_the_broker_keeps_its_queue(main1):
    """In a restart, and for want of memory; whatever somebody has set at runtime or behind the site's directives."""
    words = redis(main1, "config get appendonly appendfsync maxclients maxmemory maxmemory-policy")
    assert dict(zip(words[::2], words[1::2], strict=True)) == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxclients": "10000",
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
    }
    # When it cannot write, it takes nothing more.
    assert {"rdb_last_bgsave_status:ok", "aof_last_write_status:ok"} <= set(redis(main1, "info persistence"))


def test_nobody_has_an_account_that_site_yml_did_not_make(airflow, main1, edge1):
    found = airflow.call("GET", "/auth/fab/v1/users")["users"]
    users = {user["username"]: [role["name"] for role in user["roles"]] for user in found}
    assert users == {"admin": ["Admin"]}, f"users of Airflow: {users}"
    roles = {
        role["name"]: [(item["action"]["name"], item["resource"]["name"]) for item in role["actions"]]
        for role in airflow.call("GET", "/auth/fab/v1/roles?limit=100")["roles"]
    }
    assert roles["Public"] == [], f"without a login Airflow allows {roles['Public']}"
    own = {"My Password", "My Profile"}
    user = own | {"Assets", "DAG Runs", "DAGs", "HITL Detail", "Task Instances"}
    op = user | {"Backfills", "Connections", "Pools", "Variables", "XComs"}
    for name, changes in (("Viewer", own), ("User", user), ("Op", op)):
        more = {resource for action, resource in roles[name] if action not in ("can_read", "menu_access")} - changes
        assert more == set(), f"the role {name} of Airflow changes {more}"
    for resource in ("Connections", "Variables"):
        readers = {name for name, allowed in roles.items() if ("can_read", resource) in allowed}
        assert readers == {"Admin", "Op"}, f"roles of Airflow that read {resource}: {readers}"
    accounts = set(mysql(main1, "SELECT user, host FROM mysql.user WHERE user NOT LIKE 'mysql.%'"))
    # Debian's own, for its maintenance.
    accounts.discard(("debian-sys-maint", "localhost"))
    assert accounts == {("airflow", "127.0.0.1"), ("root", "localhost")}, f"accounts of MySQL: {accounts}"
    second = mysql(main1, "SELECT user FROM mysql.user WHERE user_attributes->'$.additional_password' IS NOT NULL")
    assert second == [], f"users of MySQL with a second password: {second}"
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
        # The operator's account, by which Ansible comes, has a password for sudo.
        assert set(users) - {"nobody", "airflow"} == {"root", "admin"}, f"users of {name}: {users}"
        shells = host.check_output("awk -F : '$7 !~ /(nologin|false|sync)$/ {print $1}' /etc/passwd").split()
        assert shells == ["root", "admin"], f"users of {name} with a shell: {shells}"
        passwords = host.check_output("awk -F : '$2 !~ /^[*!]/ {print $1}' /etc/shadow").split()
        assert passwords == ["admin"], f"on {name} there is a password for {passwords}"
        # A key lets in without a password, and through to other ports without a shell.
        keys = host.run("cat $(cut -d : -f 6 /etc/passwd | sort -u | sed 's,$,/.ssh/authorized_keys*,')").stdout
        known = {(STATE / f"{file}_ed25519.pub").read_text().strip() for file in ("root", "id")}
        assert set(keys.splitlines()) == known, f"keys that {name} takes: {keys.splitlines()}"
        ssh = {
            "authorizedkeyscommand none",
            "authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2",
            "permitemptypasswords no",
            "permitrootlogin without-password",
            "trustedusercakeys none",
        }
        # Newer ones write AuthorizedKeysFile, and prohibit-password.
        has = host.run("sshd -T || exit 1").stdout.lower().replace("prohibit-", "without-").splitlines()
        others = ssh - set(has)
        assert others == set(), f"sshd of {name} does not have {others}"
        ends = host.check_output("awk -F : '$5 < 99999 && $5 || $8 > 1 {print $1}' /etc/shadow").split()
        assert ends == [], f"accounts of {name} that end, or whose password does: {ends}"


def test_hosts_find_each_other_and_the_way_out(nas1, main1, edge1):
    """Addresses are asked for at the next mount only; the way out is to the services that edge1 fetches from."""
    for name, host in (("nas1", nas1), ("main1", main1), ("edge1", edge1)):
        seed = STATE / f"seed/{name}/etc"
        gateway = re.search(r"route add (default via \S+)", (seed / "lab-network").read_text())[1]
        look = "getent ahostsv4 {0} | head -1 | grep --only-matching '^[0-9.]*'"
        commands = ["cat /etc/hosts", "cat /etc/resolv.conf", "grep ^hosts: /etc/nsswitch.conf"]
        # Two routes, each to a half of the world, win over the default one.
        commands += ["ip route show default", "ip route get 1.1.1.1; ip route get 198.51.100.1"]
        commands += map(look.format, OURS)
        # One connection for all.
        texts = host.run("; echo --; ".join(commands)).stdout.split("--\n")
        has_hosts, has_resolver, switch, route, far, *found = (text.strip() for text in texts)
        for path, has in (("hosts", has_hosts), ("resolv.conf", has_resolver)):
            assert has == (seed / path).read_text().strip(), f"changed by hand: /etc/{path} of {name}"
        assert switch.split() == ["hosts:", "files", "dns"], f"{name} asks for names by {switch!r}"
        assert route.startswith(f"{gateway} "), f"{name} has no route to other networks by its gateway: {route!r}"
        assert far.count(gateway.removeprefix("default ")) == 2, f"{name} has another route to some of them: {far}"
        assert found == list(map(address, OURS)), f"{name} finds {', '.join(OURS)} at {found}"


@pytest.mark.parametrize("name", ["main1", "edge1"])
def test_a_host_believes_the_authorities_of_debian_and_of_the_site(request, name):
    """Those of the services outside; with one more, somebody else is taken for them and for main1."""
    host = request.getfixturevalue(name)
    store = "/etc/ssl/certs"
    known = int(host.check_output(f"grep --count BEGIN {store}/ca-certificates.crt"))
    assert known > 100, f"{name} knows {known} authorities"
    files = "/usr/share/ca-certificates/*/*.crt /usr/local/share/ca-certificates/*.crt"
    others = host.run(f"cat {files} | grep --invert-match -xFf - {store}/ca-certificates.crt").stdout
    assert others == "", f"{name} believes what is in none of its authorities' files: {others}"
    found = host.check_output(f"find {store} ! -type d -exec readlink --canonicalize {{}} +").splitlines()
    others = {path for path in found if not path.startswith("/usr/")}
    others -= {f"{store}/ca-certificates.crt", f"{store}/airflow-api.pem"}
    assert others == set(), f"{name} believes authorities that no package and no role brought: {others}"


def test_the_nas_says_that_it_is_this_one(nas1):
    """Workers leave another one alone. Its identity was made once, and is no address: hosts may know several."""
    identity = nas1.check_output("cat /srv/filestorage/.nas")
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", identity), f"the NAS says {identity}"


def test_every_component_tells_that_it_lives(airflow):
    """One that hangs is active, for systemd."""
    try:
        until(lambda: not airflow.sick(), 60)
    except TimeoutError:
        assert airflow.sick() == {}


def test_no_other_edge_worker_takes_tasks(airflow):
    """One that somebody has started elsewhere, with the secret of an edge host."""
    workers = airflow.call("GET", "/edge_worker/ui/worker")["workers"]
    # edge2 has these names one after the other: the scenario airflow_edge goes on beside this one.
    known = {*HOSTS, "before", "alone"}
    others = {worker["worker_name"]: worker["state"] for worker in workers if worker["worker_name"] not in known}
    # One that could not say goodbye is unknown.
    assert set(others.values()) <= {"offline", "unknown"}, f"edge workers of no host of the site: {others}"


def test_tasks_find_a_slot_and_a_process(airflow, main1):
    slots = airflow.call("GET", "/api/v2/pools/default_pool")["slots"]
    assert slots == 128, f"default_pool has {slots} slots, and tasks wait for one"
    # The edge worker's are told by the API; one more removes old DAG bundles.
    command = "pgrep --count --parent $(systemctl show --property=MainPID --value airflow-celery-worker)"
    processes = int(main1.check_output(command)) - 1
    assert processes == 8, f"the Celery worker has {processes} processes for tasks, and not 8"
    run = "systemd-run --quiet --wait --collect --pipe --property=EnvironmentFile=/etc/airflow/airflow.env"
    celery = "CELERY_BROKER_URL=$AIRFLOW__CELERY__BROKER_URL exec /opt/airflow/venv/bin/celery --no-color"
    limits = "rate_limit time_limit soft_time_limit"
    ask = f"{celery} inspect --timeout=20 --destination=celery@main1.lab.test registered {limits}"
    limits = re.findall(r"\S+ \[.*", main1.check_output(f"{run} sh -c %s", ask))
    assert limits == [], f"the Celery worker was told to limit tasks: {limits}"


def test_there_is_room_on_every_disk(nas1, main1, edge1):
    for name, host in (("nas1", nas1), ("main1", main1), ("edge1", edge1)):
        for line in host.check_output("df --local --output=target,pcent,ipcent | tail -n +2").splitlines():
            place, *used = line.split()
            space, inodes = (int(word.rstrip("%").replace("-", "0")) for word in used)
            assert max(space, inodes) < 90, (
                f"the disk of {name} is full: {space} % of the space of {place}, {inodes} % of its inodes"
            )
    find = "find /srv/filestorage -ignore_readdir_race"
    others = nas1.check_output(f"{find} ! -uid 50000 -o -type d ! -perm -700 -o -type f ! -perm -400")
    assert others == "", f"tasks cannot write to what is somebody else's on the NAS, or closed to them: {others}"
    as_airflow = "setpriv --reuid=airflow --regid=airflow --clear-groups"
    for name, host, unit in (("main1", main1, "airflow-celery-worker"), ("edge1", edge1, "airflow-edge-worker")):
        closed = host.run(
            f"cd / && {as_airflow} find /opt/airflow/venv/ /opt/airflow/dags/ ! -readable -o -type d ! -executable"
        ).stdout
        assert closed == "", f"tasks of {name} cannot read {closed}"
        done = host.run(f"{as_airflow} test -w /opt/airflow/logs")
        assert done.rc == 0, f"tasks of {name} cannot write their logs to /opt/airflow/logs"
        others = host.check_output("find /opt/airflow/logs -ignore_readdir_race ! -user airflow")
        assert others == "", f"tasks cannot write to what is somebody else's on {name}: {others}"
        # The worker's own /tmp, which somebody who cleans up /tmp takes from it.
        worker = f"nsenter --mount --target=$(systemctl show --property=MainPID --value {unit})"
        done = host.run(f"{worker} {as_airflow} sh -c 'rm $(mktemp --tmpdir=/tmp)'")
        assert done.rc == 0, f"tasks of {name} cannot write to /tmp: {done.stderr}"
