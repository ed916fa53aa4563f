"""A second Celery host: its tasks run, and what it says to the database and to the broker is encrypted."""

import json
import re

import pytest

from support import address
from support.attack import play, secrets
from support.pipeline import run_pipeline

INVENTORIES = ("-i", "inventories/lab", "-i", "molecule/celery/inventory/hosts.yml")

# Each of the clients that Airflow's components have, with the address of the server replaced.
CONNECT = """
import asyncio, json, os, sys
for name in ("CELERY__BROKER_URL", "DATABASE__SQL_ALCHEMY_CONN", "DATABASE__SQL_ALCHEMY_CONN_ASYNC"):
    os.environ["AIRFLOW__" + name] = os.environ["AIRFLOW__" + name].replace("@main1:", f"@{sys.argv[1]}:")
from airflow import settings
from kombu import Connection
from sqlalchemy import text
def sync():
    with settings.engine.connect() as connection:
        return connection.execute(text("SHOW STATUS LIKE 'Ssl_version'")).fetchone()[1]
async def ask():
    try:
        async with settings.async_engine.connect() as connection:
            return (await connection.execute(text("SHOW STATUS LIKE 'Ssl_version'"))).fetchone()[1]
    finally:
        await settings.async_engine.dispose()
def broker():
    with Connection(os.environ["AIRFLOW__CELERY__BROKER_URL"]) as connection:
        connection.ensure_connection(max_retries=1, timeout=10)
        return connection.default_channel.client.connection_pool.get_connection()._sock.version()
def why(error):
    return f"{error} <- {why(error.__context__)}" if error.__context__ else str(error)
said = {}
for name, client in {"database": sync, "async database": lambda: asyncio.run(ask()), "broker": broker}.items():
    try:
        said[name] = client()
    except Exception as error:
        said[name] = why(error)
print(json.dumps(said))
"""


@pytest.fixture
def clients():
    """What a host's clients say of a server: the version of TLS, or why they do not talk to it."""

    def clients(host, server):
        run = "systemd-run --quiet --wait --collect --pipe --uid=airflow"
        python = "--property=EnvironmentFile=/etc/airflow/airflow.env /opt/airflow/venv/bin/python"
        lines = host.check_output(f"{run} {python} -c %s %s", CONNECT, server).splitlines()
        return json.loads(next(line for line in lines if line.startswith("{")))

    return clients


@pytest.fixture
def elsewhere(main1):
    """Main's own worker is away, so that the second host gets all tasks."""
    main1.check_output("systemctl stop airflow-celery-worker.service")
    yield
    main1.check_output("systemctl start airflow-celery-worker.service")


@pytest.fixture
def unknown(main1, out1):
    """The second host calls itself by a name that main cannot resolve, and that means 127.0.1.1 on the host itself."""
    for host in (main1, out1):
        host.check_output("cp --preserve /etc/hosts /root/hosts; sed '/ out1$/d' /root/hosts >/etc/hosts")
    out1.check_output("echo '127.0.1.1 celery2.invalid celery2' >>/etc/hosts; hostname celery2")
    out1.check_output("systemctl restart airflow-celery-worker.service")
    yield
    out1.check_output("hostname out1.lab.test")
    for host in (main1, out1):
        host.check_output("mv /root/hosts /etc/hosts")
    out1.check_output("systemctl restart airflow-celery-worker.service")


def test_the_pipeline_runs_on_the_second_host_and_main_shows_its_logs(airflow, elsewhere, unknown, main1, out1):
    assert out1.check_output("hostname --fqdn") == "celery2.invalid"
    assert main1.run("getent hosts out1 celery2 celery2.invalid").rc != 0
    done = run_pipeline(airflow)
    assert done["consumer"]["state"] == "success"
    assert airflow.task(done["consumer"], "process_file_from_nas")["hostname"] == address("out1")
    log = airflow.log(done["consumer"], "process_file_from_nas")
    # Where the log is from, and what the task printed.
    assert f"http://{address('out1')}:8793/log/dag_id=consumer_dag" in log
    assert re.search("process_file_from_nas read .* on celery2", log)


@pytest.mark.parametrize("host", ["main1", "out1"])
def test_what_is_said_to_the_database_and_the_broker_is_encrypted(request, clients, host):
    said = clients(request.getfixturevalue(host), "main1")
    assert said == dict.fromkeys(["database", "async database", "broker"], "TLSv1.3")


@pytest.mark.parametrize("host", ["main1", "out1"])
def test_a_server_with_another_name_is_not_talked_to(request, clients, host, another_name):
    said = clients(request.getfixturevalue(host), another_name)
    assert len(said) == 3
    for client, why in said.items():
        # The last is what MariaDB's library says.
        assert re.search("(?i)certificate verify failed|hostname verification failed", why), f"{client}: {why}"


@pytest.fixture
def another_name(main1, out1):
    """Main, by a name that its certificate does not have."""
    for host in (main1, out1):
        host.check_output(
            "cp --preserve /etc/hosts /root/hosts; sed 's/ main1$/ impostor/;t;d' /root/hosts >>/etc/hosts"
        )
    yield "impostor"
    for host in (main1, out1):
        host.check_output("mv /root/hosts /etc/hosts")


def hosts_of_the_account(main1):
    query = "mysql --batch --skip-column-names --execute=\"SELECT host FROM mysql.user WHERE user = 'airflow'\""
    return set(main1.check_output(query).split())


def test_the_account_is_for_these_two_hosts_alone(main1):
    assert hosts_of_the_account(main1) == {"127.0.0.1", address("main1"), address("out1")}


def test_nobody_is_served_in_the_clear(main1, out1):
    password = secrets("mysql_password")["mysql_password"]
    options = "--ssl-mode=DISABLED --get-server-public-key --execute='SELECT 1'"
    login = f"MYSQL_PWD={password} mysql --host=main1 --user=airflow {options}"
    assert "insecure transport are prohibited" in main1.run(login).stderr
    program = (
        "import socket; s = socket.create_connection(('main1', 6379)); s.sendall(b'PING\\r\\n'); s.settimeout(20);"
        "print(s.recv(100))"
    )
    said = out1.run("python3 -c %s", program)
    # It listens, and does not answer.
    assert "ConnectionRefusedError" not in said.stderr
    assert "PONG" not in said.stdout
    assert "NOAUTH" not in said.stdout


@pytest.mark.parametrize(("port", "options"), [(3306, "-starttls mysql"), (6379, "")], ids=["database", "broker"])
def test_suites_without_authenticated_encryption_are_refused(out1, port, options):
    """TLS 1.2 has such suites (CBC), TLS 1.3 has none."""
    client = f"echo | timeout 20 openssl s_client -connect main1:{port} {options} -tls1_2 -cipher"
    assert re.search("Cipher is ECDHE-ECDSA-AES.*-GCM-", out1.run(f"{client} ECDHE+AESGCM").stdout)
    assert "Cipher is (NONE)" in out1.run(f"{client} ECDHE+AES:!AESGCM:!AESCCM:@SECLEVEL=0").stdout


@pytest.mark.parametrize("name", ["mysql", "nginx", "redis"])
def test_certificates_are_checked_every_day(main1, name):
    unit = f"certificate-check-{name}"
    assert main1.service(f"{unit}.timer").is_running
    assert main1.service(f"{unit}.timer").is_enabled
    main1.check_output(f"systemctl start {unit}.service")
    assert main1.check_output(f"systemctl show --property=ConditionResult --value {unit}.service") == "yes"


def test_a_renewed_certificate_is_served_at_once(main1, out1):
    program = (
        "import socket, ssl; s = socket.create_connection(('main1', 6379)); c = ssl.create_default_context();"
        "print(c.wrap_socket(s, server_hostname='main1').getpeercert()['serialNumber'])"
    )
    query = "mysql --batch --skip-column-names --execute=\"SHOW STATUS LIKE 'Ssl_server_not_before'\""
    show = "systemctl show --property=ActiveEnterTimestamp mysql.service redis-server.service"
    started = main1.check_output(show)
    before = out1.check_output("python3 -c %s", program), main1.check_output(query)
    play("certificates.yml", *INVENTORIES, "-e", "certificates_renew_days=400")
    play("services.yml", *INVENTORIES, "--limit", "localhost,main1")
    after = out1.check_output("python3 -c %s", program), main1.check_output(query)
    assert before[0] != after[0]
    assert before[1] != after[1]
    # Connections stayed open.
    assert main1.check_output(show) == started


def test_security_updates_are_installed_every_day(out1):
    """As apt's timers would, if the lab's images had not masked them."""
    said = out1.check_output("unattended-upgrade --dry-run --verbose 2>&1; apt-config dump APT::Periodic")
    assert "Debian-Security" in said
    assert re.search("(Initial|Packages) blacklist: redis", said)
    assert 'APT::Periodic::Unattended-Upgrade "1"' in said


def test_a_host_that_is_removed_leaves_nothing_open(airflow, main1, out1):
    """As README.md says; the last one here. The database and the broker are the main server's alone again."""
    out1.check_output("systemctl disable --now airflow.target")
    play("site.yml", directory=".")
    assert not re.search("changed=[1-9]", play("site.yml", directory="."))
    local = {line.split()[3] for line in main1.check_output("ss --no-header --listening --numeric --tcp").splitlines()}
    assert {name for name in local if name.endswith((":3306", ":6379"))} == {"127.0.0.1:3306", "127.0.0.1:6379"}
    assert hosts_of_the_account(main1) == {"127.0.0.1"}
    done = run_pipeline(airflow)
    assert done["consumer"]["state"] == "success"
    assert airflow.task(done["consumer"], "process_file_from_nas")["hostname"].startswith("main1")
