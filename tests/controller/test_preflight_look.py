"""What preflight asks a host before the first change, and what it says of the answer: files/look.py and its filters."""

import ast
import http.server
import json
import os
import runpy
import socket
import subprocess
import sys
import threading

import pytest

from docs.variables import ROOT, options_of

PROGRAM = ROOT / "roles/preflight/files/look.py"
PLUGIN = runpy.run_path(str(ROOT / "plugins/filter/preflight_look.py"))
GROUPS = {group: ["main1"] for group in ("airflow_main", "airflow_celery", "mysql", "redis", "reverse_proxy")}
GROUPS |= {"airflow_edge": ["edge1"], "nas": ["nas1"]}
COMMON = {"site_uid": 50000, "site_gid": 50000, "site_home": "/opt/airflow", "site_nas_path": "/opt/airflow/files"}
COMMON |= {"site_api_port": 8080, "site_mysql_port": 3306, "site_redis_port": 6379, "nas_mount_src": "nas1:/srv/files"}
COMMON |= {"airflow_url": "https://main1"}
UNITS = {443: "nginx.service", 8080: "airflow-api-server.service", 3306: "mysql.service", 6379: "redis-server.service"}


def question(host="main1", groups=None, release="trixie", suites=None, absent="", **variables):
    groups = GROUPS | (groups or {})
    hosts = {name for members in groups.values() for name in members}
    hostvars = {name: COMMON | {"site_address": f"{name}.example.com"} | variables for name in hosts}
    source = {"suites": suites} if suites else {}
    return PLUGIN["host_question"](groups, hostvars, host, "airflow", 443, True, source, release, hosts - {absent})


def findings(seen=None, asked=None, accepted=()):
    """Return what is found on a host that is fine but for these answers, as pairs of what and remedy."""
    asked = asked or question()
    space = [{"free": 50000, "paths": asked["paths"]}]
    answer = {"marks": [], "listeners": [], "firewalls": [], "space": space, "errors": []} | (seen or {})
    found = PLUGIN["look_findings"]({"stdout": json.dumps(answer)}, "main1", asked, accepted)
    assert all(item["host"] == "main1" for item in found)
    return [(item["what"], item["remedy"]) for item in found]


def the_only(found):
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def host(tmp_path):
    """Return the functions of look.py, for which the root of the file system is an empty directory."""
    functions = runpy.run_path(str(PROGRAM), run_name="look")
    functions["look"].__globals__["ROOT"] = tmp_path
    return functions


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# The question -----------------------------------------------------------------------------------------------------


def test_what_each_host_is_asked():
    main, edge, nas = question(), question("edge1"), question("nas1")
    assert main["components"] == ["airflow", "mysql", "redis", "reverse_proxy"]
    assert {int(port): unit for port, (_, unit) in main["ports"].items()} == {
        port: "airflow-" if port == 8080 else unit for port, unit in UNITS.items()
    }
    assert main["connect"] == []
    assert edge["components"] == ["airflow"]
    assert edge["ports"] == {}
    assert edge["connect"] == [["main1", 443, "airflow_url, https://main1"]]
    assert nas["components"] == ["nas"]
    assert nas["export"] == "/srv/files"
    assert "/opt/airflow" not in nas["paths"]


def test_what_hosts_have_to_reach():
    two = {"airflow_celery": ["main1", "celery2"]}
    assert question(groups=two)["connect"] == [["celery2.example.com", 8793, "the logs of celery2"]]
    assert question(groups=two, absent="celery2")["connect"] == []
    assert [to[:2] for to in question("celery2", groups=two)["connect"]] == [
        ["main1", 443],
        ["main1.example.com", 3306],
        ["main1.example.com", 6379],
    ]
    assert list(question("celery2", groups=two)["ports"]) == ["8793"]
    external = question("celery2", groups=two | {"mysql": []}, airflow_database_host="db.example.com")
    assert ["db.example.com", 3306, "airflow_database_host"] in external["connect"]
    other = question("edge1", airflow_url="https://[2001:db8::1]:8443")["connect"]
    assert [to[:2] for to in other] == [["2001:db8::1", 8443]]


def test_numbers_may_be_texts_from_a_command_line():
    asked = question("nas1", site_uid="1000", nas_server_gid="33", nas_server_vers3="yes", nas_server_path="/data")
    assert (asked["export"], asked["export_uid"], asked["export_gid"], asked["has_nfs3"]) == ("/data", 1000, 33, True)


# What is wrong with an answer -------------------------------------------------------------------------------------


def test_an_empty_host_and_a_converged_host():
    assert findings() == []
    listening = [{"port": port, "program": "x", "unit": unit} for port, unit in UNITS.items()]
    assert findings({"marks": [*GROUPS, "airflow"], "listeners": listening, "users": ["airflow"]}) == []
    kernel = [{"port": 2049, "program": "", "unit": ""}]
    assert findings({"marks": ["nas"], "listeners": kernel}, question("nas1")) == []


@pytest.mark.parametrize(
    ("port", "unit", "says"),
    [
        (443, "apache2.service", "reverse_proxy_port is 443, where program (apache2.service) listens already."),
        (8080, "tomcat10.service", "airflow_main_api_port is 8080, where program (tomcat10.service) listens already."),
        (3306, "mariadb.service", "mysql_port is 3306, where program (mariadb.service) listens already."),
        (6379, "", "redis_port is 6379, where program listens already."),
    ],
)
def test_a_port_that_another_program_has(port, unit, says):
    what, remedy = the_only(findings({"listeners": [{"port": port, "program": "program", "unit": unit}]}))
    assert what == says
    assert "Stop that program, or use another host, or set" in remedy
    assert "preflight_accepted: [ports]" in remedy


def test_a_port_without_a_variable():
    listening = [{"port": 2049, "program": "ganesha.nfsd", "unit": "nfs-ganesha.service"}]
    what, _ = the_only(findings({"listeners": listening}, question("nas1")))
    assert what.startswith("The site needs port 2049, where ganesha.nfsd")


def test_an_nginx_with_sites_of_its_own():
    listening = [{"port": 443, "program": "nginx", "unit": "nginx.service"}]
    what, remedy = the_only(findings({"listeners": listening}))
    assert what.startswith("nginx serves sites of its own there, on port 443 (reverse_proxy_port)")
    assert "empty the group reverse_proxy" in remedy
    assert findings({"listeners": listening, "marks": ["reverse_proxy"]}) == []


@pytest.mark.parametrize(
    ("seen", "name", "says"),
    [
        ({"mysql": ["shop", "wiki"]}, "mysql", "MySQL has the schemas shop, wiki there"),
        ({"redis": "12 keys, 0 clients"}, "redis", "Redis is in use there (12 keys, 0 clients)"),
        ({"airflow": [f"/{n}" for n in range(6)]}, "airflow", "would use or replace /0, /1, /2, /3 and 2 more."),
        ({"users": ["airflow", "kim"]}, "accounts", "airflow_base_uid is 50000, the uid of the account kim there"),
        ({"groups": ["staff"]}, "accounts", "airflow_base_gid is 50000, the gid of the group staff there"),
        ({"firewalls": ["ufw"]}, "firewall", "firewall_enabled is true, and ufw filters there, too"),
        ({"errors": [["apt", "http://a/InRelease", "404"]]}, "index", "apt cannot fetch http://a/InRelease: 404"),
        ({"errors": [["index", "https://i/", "timed out"]]}, "index", "https://i/, does not answer: timed out"),
    ],
)
def test_what_is_said_unless_it_is_accepted(seen, name, says):
    what, remedy = the_only(findings(seen))
    assert says in what
    assert remedy.endswith(f" To go on all the same: preflight_accepted: [{name}], for this host.")
    assert findings(seen, accepted=[name]) == []
    others = [other for other in PLUGIN["CHECKS"] if other != name]
    assert len(findings(seen, accepted=others)) == 1


def test_every_check_can_be_accepted():
    assert options_of("preflight")["preflight_accepted"]["choices"] == sorted(PLUGIN["CHECKS"])


def test_another_firewall_names_the_ports():
    _, remedy = the_only(findings({"firewalls": ["ufw"]}))
    assert "set firewall_enabled to false for this host, and open the TCP ports 443, 3306, 6379, 8080 in ufw" in remedy


def test_a_directory_that_would_be_taken():
    nas = question("nas1")
    what, remedy = the_only(findings({"nas": {"owner": "1000:100", "exports": []}}, nas))
    assert what == "nas_server_path is /srv/files, which has files there and belongs to uid 1000 and gid 100."
    assert "give all of them to uid 50000 and gid 50000" in remedy


def test_exports_of_the_host():
    seen = {"nas": {"owner": "", "exports": ["/home"]}}
    what, remedy = the_only(findings(seen, question("nas1")))
    assert "exports /home already, and nas_server_vers3 is false" in what
    assert remedy.startswith("Set nas_server_vers3 to true")
    assert findings(seen, question("nas1", nas_server_vers3=True)) == []
    assert findings(seen | {"marks": ["nas"]}, question("nas1")) == []


def test_too_little_room():
    def room(free, marks=(), host="main1"):
        asked = question(host)
        return findings({"space": [{"free": free, "paths": asked["paths"]}], "marks": list(marks)}, asked)

    what, _ = the_only(room(1500))
    assert what.startswith(
        "The file system of /opt/airflow, /usr, /var, /var/lib/mysql has 1500 MB free, and a run needs "
    )
    assert room(3000) == []
    everything = ["airflow", "mysql", "redis", "reverse_proxy"]
    assert room(400, everything) == []
    assert "has 200 MB free, and a run needs 300 MB" in the_only(room(200, everything))[0]
    assert room(800, host="edge1") == []
    assert len(room(600, host="edge1")) == 1
    # Each file system for itself.
    apart = [{"free": 100, "paths": ["/opt/airflow"]}, {"free": 9000, "paths": ["/usr", "/var", "/var/lib/mysql"]}]
    assert the_only(findings({"space": apart}))[0].startswith("The file system of /opt/airflow has 100 MB free")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("the name is not known (Name or service not known)", "Add the name to DNS or /etc/hosts"),
        ("192.0.2.1: timed out", "Open the port in the firewalls"),
    ],
)
def test_a_main_server_that_an_edge_host_does_not_reach(error, remedy):
    found = the_only(findings({"errors": [["connect", "main1", 443, error]]}, question("edge1")))
    assert found[0] == f"The host cannot connect to TCP port 443 of main1 (airflow_url, https://main1): {error}"
    assert found[1].startswith(remedy)


def test_an_edge_host_that_has_only_a_proxy_is_told_that_its_worker_uses_none():
    asked = question("edge1", airflow_base_environment={"HTTPS_PROXY": "http://user:secret@proxy:3128"})
    found = the_only(findings({"errors": [["connect", "main1", 443, "timed out"]]}, asked))
    assert "Workers do not use the proxy in HTTPS_PROXY" in found[1]
    assert "secret" not in found[1]


@pytest.mark.parametrize(
    ("suites", "release", "is_good"),
    [
        ("bookworm", "bookworm", True),
        ("bookworm", "trixie", False),
        (["noble", "noble-updates"], "jammy", False),
        # The lab's, and what this list does not know yet.
        ("unstable", "forky", True),
        ("zurg", "trixie", True),
        # Debian testing does not always say its name.
        ("bookworm", "", True),
    ],
)
def test_the_suite_of_mysql(suites, release, is_good):
    found = findings(asked=question(suites=suites, release=release))
    assert bool(found) != is_good
    assert is_good or f"Set suites in mysql_apt_source to {release}." in found[0][1]
    # What is installed works.
    assert findings({"marks": ["mysql"]}, question(suites=suites, release=release)) == []


def test_a_host_that_cannot_be_looked_at():
    result = {"stdout": "", "stderr": "Traceback\nNameError: x", "rc": 1}
    [found] = PLUGIN["look_findings"](result, "main1", question())
    assert found["what"] == "/usr/bin/python3 cannot look at the host: NameError: x"


# The program ------------------------------------------------------------------------------------------------------

SS = """\
LISTEN 0 511        0.0.0.0:443   0.0.0.0:* users:(("nginx",pid=7,fd=6),("nginx",pid=6,fd=6))
LISTEN 0 64               *:2049        *:*
LISTEN 0 128     [::1%lo]:6379       [::]:* users:(("redis-server",pid=8,fd=6))
"""


def test_who_listens(host, tmp_path):
    write(tmp_path / "proc/7/cgroup", "0::/system.slice/nginx.service\n")
    write(tmp_path / "proc/8/cgroup", "12:cpu:/\n1:name=systemd:/user.slice/user-0.slice/session-3.scope\n")
    assert host["listeners"](SS) == [
        {"port": 443, "program": "nginx", "unit": "nginx.service"},
        {"port": 2049, "program": "", "unit": ""},
        {"port": 6379, "program": "redis-server", "unit": "session-3.scope"},
    ]


TABLE = "table {} {{\n\tset s {{\n\t\ttype ipv4_addr\n\t}}\n\n\tchain input {{\n\t\t{}\n\t}}\n}}\n"
HOOK = "type filter hook {} priority filter; policy {};"


@pytest.mark.parametrize(
    ("nft", "iptables", "closed"),
    [
        ("", "", []),
        # As Debian's own /etc/nftables.conf has it, and fail2ban.
        (TABLE.format("inet filter", HOOK.format("input", "accept")), "-P INPUT ACCEPT\n", []),
        (TABLE.format("inet f2b", HOOK.format("input", "accept") + "\n\t\tip saddr @s reject"), "", []),
        (TABLE.format("ip filter", HOOK.format("forward", "drop")), "", []),
        (TABLE.format("inet airflow", HOOK.format("input", "accept") + "\n\t\treject"), "", []),
        (TABLE.format("inet filter", HOOK.format("input", "drop")), "", ["the nftables table inet filter"]),
        (
            TABLE.format("inet mine", HOOK.format("input", "accept") + "\n\t\tcounter packets 1 bytes 2 drop"),
            "",
            ["the nftables table inet mine"],
        ),
        (
            TABLE.format("inet x", HOOK.format("input", "accept") + "\n\t\treject with icmpx admin-prohibited"),
            "",
            ["the nftables table inet x"],
        ),
        ("", "-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n", ["iptables"]),
        ("", "-P INPUT ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n", ["iptables"]),
        ("", "-P INPUT ACCEPT\n-A INPUT -s 192.0.2.1/32 -j DROP\n", []),
    ],
)
def test_rule_sets_of_others(host, nft, iptables, closed):
    assert host["closed_by"](nft, iptables) == closed


@pytest.mark.parametrize(("enabled", "found"), [("yes", ["ufw"]), ("no", [])])
def test_ufw_is_a_firewall_only_while_it_is_on(host, tmp_path, enabled, found):
    """Its unit is active on every Ubuntu."""
    write(tmp_path / "etc/ufw/ufw.conf", f"# on boot\nENABLED={enabled}\n")
    answers = {"systemctl": "active\ninactive\n"}
    host["look"].__globals__["run"] = lambda *command: answers.get(command[0], "")
    assert host["firewalls"]() == found
    answers["systemctl"] = "inactive\nactive\n"
    assert host["firewalls"]() == ["firewalld"]


def test_accounts_with_the_same_number(host, tmp_path):
    write(tmp_path / "etc/passwd", "root:x:0:0::/:/bin/sh\nkim:x:70007:100::/:/bin/sh\nlee:x:70007:100::/:/bin/sh\n")

    def nobody(number):
        raise KeyError(number)

    assert host["names_of"](70007, "etc/passwd", nobody) == ["kim", "lee"]
    # Of a directory service.
    assert host["names_of"](70008, "etc/passwd", lambda number: ("kay", "x", number)) == ["kay"]


def test_the_room_of_a_directory_that_is_not_there_yet(host, tmp_path):
    [system] = host["space"]([f"{tmp_path}/a/b", str(tmp_path)])
    assert system["paths"] == [f"{tmp_path}/a/b", str(tmp_path)]
    assert system["free"] > 0


def test_parts_of_an_interrupted_installation_are_ours(host, tmp_path):
    home = tmp_path / "opt/airflow"
    for name in ("dags-releases/1", "venvs/1", "config", "logs", "files", "lost+found/x"):
        (home / name).mkdir(parents=True)
    write(home / "files/mounted")
    (home / "dags").symlink_to(home / "dags-releases/1")
    (home / "venv").symlink_to(home / "venvs/1")
    assert host["airflow_there"](str(home), str(home / "files")) == []


def test_an_airflow_of_somebody_else(host, tmp_path):
    home = tmp_path / "opt/airflow"
    written = ["etc/airflow/airflow.cfg", "etc/systemd/system/airflow-scheduler.service", "opt/airflow/airflow.db"]
    written += ["opt/airflow/config/airflow_local_settings.py", "opt/airflow/dags/old.py", "opt/airflow/logs/log"]
    for name in written:
        write(tmp_path / name)
    (home / "venv").symlink_to("/srv/venv")
    found = host["airflow_there"](str(home), str(home / "files"))
    names = ["etc/airflow/airflow.cfg", "etc/systemd/system/airflow-scheduler.service"]
    names += [f"opt/airflow/{name}" for name in ("airflow.db", "config", "dags", "logs", "venv")]
    assert found == [f"{tmp_path}/{name}" for name in names]


def test_a_host_without_any_directory(host, tmp_path):
    assert host["airflow_there"](f"{tmp_path}/opt/airflow", "/srv/nas") == []
    assert host["schemas"]() == []
    assert host["redis_use"](0) == ""
    assert host["nas_there"](f"{tmp_path}/srv", 1, 1) == {"owner": "", "exports": []}
    assert host["marks"]() == []


def test_schemas_of_a_mysql_server(host, tmp_path):
    for name in ("mysql", "sys", "performance_schema", "#innodb_redo", "airflow", "shop"):
        (tmp_path / "var/lib/mysql" / name).mkdir(parents=True)
    write(tmp_path / "var/lib/mysql/ibdata1")
    assert host["schemas"]() == ["airflow", "shop"]
    (tmp_path / "data/wiki").mkdir(parents=True)
    write(tmp_path / "etc/mysql/mysql.conf.d/mysqld.cnf", f"[mysqld]\n# datadir = /x\ndatadir = {tmp_path}/data\n")
    assert host["schemas"]() == ["wiki"]


@pytest.mark.parametrize(
    ("answer", "use"),
    [
        ("$20\r\n# Clients\r\nconnected_clients:1\r\n\r\n$12\r\n# Keyspace\r\n\r\n+OK\r\n", ""),
        (
            "# Clients\r\nconnected_clients:3\r\n# Keyspace\r\ndb0:keys=4,expires=0\r\ndb1:keys=2,expires=0\r\n",
            "6 keys, 2 clients",
        ),
        ("-NOAUTH Authentication required.\r\n", "with a password or a certificate on port"),
        ("", "with a password or a certificate on port"),
    ],
)
def test_how_a_redis_server_is_used(host, answer, use):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer.encode())

        thread = threading.Thread(target=serve)
        thread.start()
        found = host["redis_use"](server.getsockname()[1])
        thread.join()
    assert found.startswith(use)
    assert bool(found) == bool(use)


def test_data_of_a_redis_server_that_does_not_run(host, tmp_path):
    write(tmp_path / "var/lib/redis/dump.rdb", "x" * 100)
    assert host["redis_use"](0) == ""
    write(tmp_path / "var/lib/redis/appendonlydir/appendonly.aof.1.incr.aof", "x" * 1000)
    assert host["redis_use"](0).startswith(f"data in {tmp_path}/var/lib/redis")


def test_what_a_host_exports(host, tmp_path):
    share, uid, gid = tmp_path / "srv/files", os.getuid(), os.getgid()
    write(tmp_path / "etc/exports", "# none\n/home 192.0.2.0/24(rw)\n")
    (share / "lost+found").mkdir(parents=True)
    assert host["nas_there"](str(share), uid + 1, gid) == {"owner": "", "exports": ["/home"]}
    write(share / "file")
    assert host["nas_there"](str(share), uid + 1, gid)["owner"] == f"{uid}:{gid}"
    assert host["nas_there"](str(share), uid, gid)["owner"] == ""
    # This project has exported the directory, with other numbers.
    write(tmp_path / "etc/exports.d/airflow.exports", f"# Ansible managed\n{share} edge1(rw)\n")
    assert host["nas_there"](str(share), uid + 1, gid) == {"owner": "", "exports": ["/home"]}
    assert host["marks"]() == ["nas"]


def test_connections(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert host["unreachable"]("127.0.0.1", port) == ""
    # Nothing listens there any more: the host answers.
    assert host["unreachable"]("127.0.0.1", port) == ""
    assert host["unreachable"]("nowhere.invalid", 443).startswith("the name is not known (")


def test_the_indexes_that_pip_and_uv_are_set_to(host, tmp_path, monkeypatch):
    for name in ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    assert (host["index_of_pip"]("https://d"), host["index_of_uv"]("https://d")) == ("https://d", "https://d")
    write(tmp_path / "etc/pip.conf", "[global]\nindex-url = https://a:b@pip.example.com/simple\n")
    write(tmp_path / "etc/uv/uv.toml", '[[index]]\nurl = "https://uv.example.com/simple"\ndefault = true\n')
    assert host["without_password"](host["index_of_pip"]("")) == "https://pip.example.com/simple"
    assert host["index_of_uv"]("") == "https://uv.example.com/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://env")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://env")
    assert (host["index_of_pip"](""), host["index_of_uv"]("")) == ("https://env", "https://env")
    write(tmp_path / "root/.config/pip/pip.conf", "[global]\nno-index = true\n")
    assert host["index_of_pip"]("https://d") == ""


@pytest.mark.parametrize(
    ("status", "error"), [(200, ""), (401, ""), (404, "HTTP status 404"), (502, "HTTP status 502")]
)
def test_an_index_that_answers(host, monkeypatch, status, error):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    paths = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert host["index_error"](f"http://127.0.0.1:{server.server_port}/simple/") == error
        thread.join()
    assert paths == ["/simple/uv/"]


def test_an_index_that_does_not_answer(host, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert "Connection refused" in host["index_error"]("http://127.0.0.1:1/simple")


def test_a_call_that_hangs_is_not_waited_for(host):
    host["look"].__globals__["SECONDS_IN_ALL"] = 0.1
    end = threading.Event()
    assert host["side_by_side"]({"quick": lambda: "wrong", "slow": end.wait}) == {
        "quick": "wrong",
        "slow": "no answer within 0.1 s",
    }
    end.set()


def test_the_program_as_the_role_runs_it(tmp_path):
    """Without what an empty host is asked of the network."""
    asked = question("nas1", groups={"nas": [], "nobody": ["nas1"]})
    command = [sys.executable, "-", json.dumps(asked)]
    done = subprocess.run(command, input=PROGRAM.read_text(), capture_output=True, text=True, check=True)  # noqa: S603
    seen = json.loads(done.stdout)
    assert seen["errors"] == []
    assert findings(seen, asked | {"firewall": False}, accepted=["disk", "firewall"]) == []


def test_the_program_needs_no_newer_python_than_the_oldest_host_has():
    """Ubuntu 22.04 has 3.10."""
    ast.parse(PROGRAM.read_text(), feature_version=(3, 10))
