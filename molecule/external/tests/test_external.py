"""MySQL and Redis of somebody else: Airflow runs with both, verifies both, and main has none of its own."""

import json
import re

import pytest

from lab import ROOT
from support.attack import SECRETS, play

INVENTORY = ("-i", "molecule/external/inventory/hosts.yml")
AUTHORITY = "/etc/airflow/database_authority.pem"

# The version of TLS between Airflow's clients and the database, or why there is no connection.
CONNECT = """
import asyncio, json
from airflow import settings
from sqlalchemy import text
QUERY = text("SHOW STATUS LIKE 'Ssl_version'")
def sync():
    with settings.engine.connect() as connection:
        return connection.execute(QUERY).fetchone()[1]
async def ask():
    try:
        async with settings.async_engine.connect() as connection:
            return (await connection.execute(QUERY)).fetchone()[1]
    finally:
        await settings.async_engine.dispose()
def why(error):
    return f"{error} <- {why(error.__context__)}" if error.__context__ else str(error)
said = {}
for name, client in {"database": sync, "async database": lambda: asyncio.run(ask())}.items():
    try:
        said[name] = client()
    except Exception as error:
        said[name] = why(error)
print(json.dumps(said))
"""


def connect(main1):
    run = "systemd-run --quiet --wait --collect --pipe --uid=airflow --working-directory=/opt/airflow"
    python = "--property=EnvironmentFile=/etc/airflow/airflow.env /opt/airflow/venv/bin/python"
    lines = main1.check_output(f"{run} {python} -c %s", CONNECT).splitlines()
    return json.loads(next(line for line in lines if line.startswith("{")))


def refused(playbook, *arguments):
    """Run a playbook that has to fail, and return what it said, with line breaks folded."""
    with pytest.raises(RuntimeError):
        play(playbook, *INVENTORY, *arguments)
    return " ".join((ROOT / ".cache/play.log").read_text().split())


def test_the_pipeline_runs(outcome):
    assert outcome["consumer"]["state"] == "success"


def test_the_main_server_has_neither_mysql_nor_redis(main1):
    packages = main1.check_output("dpkg-query --show --showformat '${Package} ${db:Status-Status}\\n'")
    assert not re.search(r"(?m)^(mysql-server|redis-server)\S* installed$", packages)
    listening = main1.check_output("ss --no-header --listening --numeric --tcp")
    assert not re.search(r":(3306|6379)\s", listening)


def test_the_database_is_verified_by_its_authority_alone(main1):
    assert connect(main1) == dict.fromkeys(["database", "async database"], "TLSv1.3")
    main1.check_output(f"cp --preserve {AUTHORITY} /root/authority.pem")
    try:
        # An authority that the host trusts, too: that of this installation.
        authority = (SECRETS / "authority.pem").read_text()
        main1.check_output(f"printf %s > {AUTHORITY}", authority)
        for client, why in connect(main1).items():
            assert "CERTIFICATE_VERIFY_FAILED" in why, f"{client}: {why}"
    finally:
        main1.check_output(f"cp --preserve /root/authority.pem {AUTHORITY}; rm /root/authority.pem")


def test_a_server_that_cannot_be_used_is_refused_before_anything_changes(main1):
    state = "systemctl show --property=ActiveEnterTimestamp airflow.target airflow-scheduler.service"
    before = main1.check_output(state)
    assert "WRONGPASS" in refused("preflight.yml", "-e", "airflow_broker_username=nobody")
    # The remedy for a certificate that has another name.
    said = refused("preflight.yml", "-e", "airflow_database_ssl_verify_identity=true")
    assert "airflow_database_ssl_verify_identity" in said
    # Preflight knows no password of the database; the login comes before Airflow stops.
    said = refused("airflow.yml", "-e", "airflow_database_username=nobody")
    assert "does not let the account" in said
    assert main1.check_output(state) == before


@pytest.mark.parametrize("name", ["redis_password", "mysql_password"])
def test_the_passwords_are_not_rotated(name):
    before = (SECRETS / name).read_text()
    assert f"{name} cannot be renewed" in refused("rotate-secrets.yml", "-e", f"rotate={name}")
    assert (SECRETS / name).read_text() == before
    assert not (SECRETS / f"{name}.previous").exists()
