"""What somebody can do who has root on edge1, writes DAGs for it, or has a place on the network."""

import contextlib
import http.client
import json
import re
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from lab import ROOT
from support import NETWORK, address
from support.attack import SECRETS, claims, secrets, sign, status, token

# What each of the services listens on is in the picture of docs/security.md.
OPEN = {"main1": {22, 443}, "edge1": {22}, "nas1": {22, 2049}}


def door(host, port):
    """Try a port: it opens, or it refuses, or it is silent."""
    try:
        socket.create_connection((address(host), port), timeout=30).close()
    except TimeoutError:
        return "silent"
    except OSError:
        return "refuses"
    return "opens"


@pytest.mark.parametrize("host", OPEN)
def test_what_is_open_to_the_network(request, host):
    """Seen from this machine, which is a stranger to the site; what is not open refuses at once."""
    with ThreadPoolExecutor(64) as pool:
        answers = dict(zip(range(1, 65536), pool.map(partial(door, host), range(1, 65536)), strict=True))
    assert {port for port, answer in answers.items() if answer == "opens"} == OPEN[host]
    # Nobody has to wait for what is refused.
    assert {port for port, answer in answers.items() if answer == "silent"} == set()


@pytest.mark.parametrize("host", OPEN)
def test_what_listens_to_the_network(request, host):
    """By IPv6 and UDP, too, which a stranger to the lab cannot try."""
    sockets = request.getfixturevalue(host).check_output("ss --no-header --listening --numeric --tcp --udp")
    local = {line.split()[4] for line in sockets.splitlines()}
    open_ = {int(name.rpartition(":")[2]) for name in local if not name.startswith(("127.", "[::1]"))}
    assert open_ == OPEN[host], f"{host} listens on {sorted(local)}"


@pytest.mark.parametrize("host", ["main1", "edge1"])
def test_what_is_open_to_the_nas(nas1, host):
    program = (
        "import socket, sys\n"
        "for port in [*range(1, 1025), 2049, 3306, 6379, 8080, 8793, 8794, 8974, 9000, 33060]:\n"
        f"    with socket.socket() as s: s.connect_ex(('{host}', port)) or print(port)"
    )
    assert {int(port) for port in nas1.check_output("python3 -c %s", program).split()} == OPEN[host]


@pytest.mark.parametrize("port", [80, 8080])
def test_there_is_no_plain_http(port):
    assert door("main1", port) == "refuses"


def test_plain_http_at_the_port_of_https_is_refused():
    connection = http.client.HTTPConnection(address("main1"), 443, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/edge_worker/v1/health")
        assert connection.getresponse().status == 400


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_versions_of_tls_are_refused(version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(SECRETS / "authority.pem")
    # This machine's OpenSSL would not even ask.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    with (
        socket.create_connection((address("main1"), 443)) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)version|protocol"),
    ):
        context.wrap_socket(plain, server_hostname="main1")


def test_suites_without_authenticated_encryption_are_refused():
    """TLS 1.2 has such suites (CBC), TLS 1.3 has none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(SECRETS / "authority.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def suite(ciphers):
        context.set_ciphers(ciphers)
        with socket.create_connection((address("main1"), 443)) as plain:
            return context.wrap_socket(plain, server_hostname="main1").cipher()[0]

    assert suite("ECDHE+AESGCM").endswith(("-GCM-SHA256", "-GCM-SHA384"))
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake failure"):
        suite("ECDHE+AES:!AESGCM:!AESCCM:@SECLEVEL=0")


class Impostor:
    """Somebody on the bridge who answers for main1: a TLS server that keeps what it is sent."""

    def __init__(self, certificate, key):
        self.heard = b""
        self.handshakes = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = socket.create_server((f"{NETWORK}.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, args=[context])
        self.thread.start()

    def close(self):
        # Closing it would not wake the thread that waits.
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.socket.close()

    def serve(self, context):
        while True:
            try:
                plain, _ = self.socket.accept()
            except OSError:
                return
            self.handshakes += 1
            with contextlib.suppress(OSError), plain, context.wrap_socket(plain, server_side=True) as secure:
                secure.settimeout(3)
                self.heard += secure.recv(65536)


# Sends a request of the edge worker's client and one of a task's client to each port, and prints the results.
CLIENTS = """
import asyncio, json, os, sys, traceback
from airflow.providers.edge3.cli.api_client import jobs_fetch
from airflow.sdk.api.client import Client

def worker(url):
    os.environ["AIRFLOW__EDGE__API_URL"] = f"{url}/edge_worker/v1/rpcapi"
    asyncio.run(jobs_fetch("edge1", ["edge_queue"], 1))

def task(url):
    Client(base_url=f"{url}/execution/", token="its-token").variables.get("x")

said = {}
for port in sys.argv[1:]:
    for client in (worker, task):
        try:
            client(f"https://main1:{port}")
        except Exception:
            said[f"{client.__name__} {port}"] = traceback.format_exc()
print(json.dumps(said))
"""


def test_a_man_in_the_middle_learns_nothing(edge1, tmp_path):
    authority = SECRETS / "authority"
    certificates = {
        "foreign": sign(tmp_path, "foreign"),
        "wrong name": sign(tmp_path, "other", ca=authority, names="DNS:edge1"),
        "expired": sign(tmp_path, "expired", ca=authority, days=-1),
        # That this test would notice.
        "right": sign(tmp_path, "right", ca=authority),
    }
    # The worker itself goes on with the connections that it has.
    edge1.check_output(
        "umask 077; grep ^A /etc/airflow/airflow.env | sed 's/^/export /' >/run/environment;"
        " echo export AIRFLOW__EDGE__API_RETRIES=1 AIRFLOW__WORKERS__EXECUTION_API_RETRIES=1 >>/run/environment;"
        f" sed 's/^.* main1$/{NETWORK}.1 main1/' /etc/hosts >/run/hosts; printf %s >/run/clients.py",
        CLIENTS,
    )
    with contextlib.ExitStack() as stack:
        impostors = {
            kind: stack.enter_context(contextlib.closing(Impostor(*certificate)))
            for kind, certificate in certificates.items()
        }
        ports = " ".join(str(impostor.port) for impostor in impostors.values())
        said = edge1.check_output(
            "unshare --mount sh -c 'mount --bind /run/hosts /etc/hosts && . /run/environment &&"
            f" timeout 120 /opt/airflow/venv/bin/python /run/clients.py {ports}'"
        )
    edge1.check_output("rm /run/environment /run/hosts /run/clients.py")
    said = json.loads(said.splitlines()[-1])
    for kind, impostor in impostors.items():
        for client in ("worker", "task"):
            message = said[f"{client} {impostor.port}"]
            assert ("certificate verify failed" in message) is (kind != "right"), f"{client}, {kind}: {message}"
        assert impostor.handshakes >= 2
        assert impostor.heard.count(b"uthorization:") == (2 if kind == "right" else 0), f"{kind}: {impostor.heard}"


@pytest.mark.parametrize("name", ["jwt_secret", "fernet_key", "api_secret_key", "none"])
@pytest.mark.parametrize(
    ("audience", "path"),
    [
        ("apache-airflow", "/api/v2/connections"),
        ("apache-airflow", "/api/v2/config"),
        ("apache-airflow", "/auth/fab/v1/users"),
        ("apache-airflow", "/edge_worker/ui/worker"),
        ("urn:airflow.apache.org:task", "/execution/connections/warehouse"),
        ("urn:airflow.apache.org:task", "/execution/variables/x"),
    ],
)
def test_a_forged_token_opens_nothing(airflow, name, audience, path):
    kid = json.loads((SECRETS / "jwks.json").read_text())["keys"][0]["kid"]
    key = "" if name == "none" else secrets(name)[name]
    for header in ({}, {"kid": kid}):
        forged = token(claims(audience, scope="execution"), key, "none" if name == "none" else "HS512", **header)
        assert status(airflow, "GET", path, f"Bearer {forged}") in (401, 403)


@pytest.mark.parametrize(
    ("method", "begin", "seconds", "expected"),
    [
        ("worker/edge1", 0, 60, None),
        # A token for another request, an expired token, and tokens of a host whose clock is wrong.
        ("jobs/fetch/edge1", 0, 60, 403),
        ("worker/edge1", -600, 60, 403),
        ("worker/edge1", 600, 60, 403),
    ],
)
def test_a_token_of_the_edge_api_is_for_one_request_of_now(airflow, method, begin, seconds, expected):
    made = token(claims("api", begin, seconds, method=method), secrets("jwt_secret")["jwt_secret"])
    got = status(airflow, "PATCH", "/edge_worker/v1/worker/edge1", made, {"state": "unknown-to-it"})
    # The right one gets as far as to its body, which is wrong.
    assert got == (expected or 422)


def test_strangers_get_no_answer_without_a_token(airflow):
    paths = ["/api/v2/dags", "/api/v2/connections", "/execution/variables/x", "/edge_worker/v1/jobs/fetch/edge1"]
    for path in (*paths, "/auth/fab/v1/users", "/edge_worker/ui/worker"):
        method = "POST" if "fetch" in path else "GET"
        assert status(airflow, method, path, "", {} if method == "POST" else None) in (400, 401, 403, 422), path


def test_what_edge1_knows_opens_nothing_else(airflow, edge1):
    """Every word of its files is tried as a password, on every door of main1 that is open."""
    words = set(re.findall(r'="(.+)"', edge1.file("/etc/airflow/airflow.env").content_string))
    assert secrets("jwt_secret")["jwt_secret"] in words
    known = {name for name, value in secrets().items() if value in words}
    assert known == {"jwt_secret"}
    ssh = "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o ConnectTimeout=5 main1 true"
    assert "Permission denied" in edge1.check_output(f"{ssh} 2>&1 || true")
    for path in ("/api/v2/connections", "/execution/variables/x"):
        assert status(airflow, "GET", path, f"Bearer {secrets('jwt_secret')['jwt_secret']}") in (401, 403)


def test_a_hostile_dag_on_the_edge_finds_no_secret_of_main(airflow, edge1, dags_of_the_tests):
    airflow.unpause("hostile")
    run = airflow.follow(airflow.call("POST", "/api/v2/dags/hostile/dagRuns", {"logical_date": None}))
    assert run["state"] == "success", airflow.log(run, "look")
    told = airflow.result(run, "look")
    # SSH is refused by the role firewall alone.
    assert told["opened"] == [22, 443]
    assert told["database"] != "opened"
    found = edge1.file("/opt/airflow/logs/found").content_string
    edge1.check_output("rm /opt/airflow/logs/found")
    assert {name for name, value in secrets().items() if value in found} == {"jwt_secret"}


@pytest.mark.parametrize("host", ["main1", "edge1"])
def test_tasks_cannot_change_what_root_runs_or_other_tasks_load(request, host):
    connection = request.getfixturevalue(host)
    assert connection.check_output("ls /opt/airflow/venvs/uv-*/bin/uv")
    # But an empty file of uv's, which says that it works there.
    writable = (
        "setpriv --reuid=airflow --regid=airflow --clear-groups find /opt/airflow/venvs /opt/airflow/config"
        " /opt/airflow/dags-releases /opt/airflow/venv /opt/airflow/dags /etc/airflow /etc/systemd"
        " ! -type l ! -name .lock -writable"
    )
    assert connection.run(writable).stdout == ""


@contextlib.contextmanager
def file_of(values, host):
    """Secrets for grep to look for, one a line, in /run/secrets-test of the host."""
    host.check_output("umask 077; printf %s >/run/secrets-test", "\n".join(values.values()) + "\n")
    try:
        yield
    finally:
        host.check_output("rm /run/secrets-test")


@pytest.mark.parametrize("host", ["main1", "edge1", "nas1"])
def test_secrets_are_not_where_others_look(request, host):
    """Not in the journal, a command line, or a file that everybody can read."""
    connection = request.getfixturevalue(host)
    values = secrets()
    script = (
        "journalctl --no-pager --output cat | grep -F -f /run/secrets-test | sed 's/^/journal: /' | head -3;"
        " cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -oF -f /run/secrets-test;"
        " chmod 644 /run/secrets-test;"
        # What packages brought is left out.
        # find goes back to where it began, which has to be open to nobody.
        " cd /; timeout 300 setpriv --reuid=nobody --regid=nogroup --clear-groups"
        " find $(ls -d /* | grep -vE '^/(bin|boot|dev|lib.*|proc|sbin|sys|usr)$') /usr/local -xdev"
        " '(' -name airflow-uv -o -name venvs -o -name secrets-test ')' -prune -o -type f -readable"
        " -exec grep -lF -f /run/secrets-test {} + 2>/dev/null; true"
    )
    with file_of(values, connection):
        assert connection.check_output(script) == ""


@pytest.mark.parametrize("host", ["edge1", "nas1"])
def test_main_keeps_its_secrets_to_itself(request, host):
    """Root of another host does not find them, nor does a task on the NAS."""
    connection = request.getfixturevalue(host)
    values = {name: value for name, value in secrets().items() if (host, name) != ("edge1", "jwt_secret")}
    places = "/etc /home /opt/airflow/logs /root /srv /tmp /var/backups /var/tmp"
    with file_of(values, connection):
        found = connection.run(f"timeout 300 grep -rlF -f /run/secrets-test {places}").stdout
    assert found == "", f"secrets of main1 on {host}: {found}"


def test_git_does_not_take_secrets():
    done = subprocess.run(
        ["git", "check-ignore", "secrets/production/fernet_key", "secrets/lab/demo/fernet_key"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert len(done.stdout.split()) == 2


@pytest.mark.parametrize(
    ("host", "units"),
    [
        ("main1", ["api-server", "scheduler", "dag-processor", "triggerer", "celery-worker", "migrations", "requeue"]),
        ("edge1", ["edge-worker"]),
    ],
)
def test_units_are_sandboxed(request, host, units):
    for unit in units:
        said = request.getfixturevalue(host).check_output(f"systemd-analyze security --no-pager airflow-{unit}.service")
        exposure = float(re.search(r"Overall exposure level.*: ([0-9.]+)", said)[1])
        assert exposure <= 3.0, f"airflow-{unit}.service of {host} is at {exposure}"
