"""The role mysql alone, after it had been run with another port, address, password and privileges."""

import json
import os
import shlex
import socket
import subprocess

import pytest

from lab import ROOT
from support import address

PASSWORD = 'it\'s "new" $x %s'  # noqa: S105 - of a host that lives for minutes


@pytest.fixture
def ask(main1):
    """Ask as the account airflow, as Airflow would: over TCP, with its password."""

    def ask(query, password=PASSWORD):
        arguments = "--host=127.0.0.1 --user=airflow --batch --skip-column-names"
        return main1.run(f"MYSQL_PWD={shlex.quote(password)} mysql {arguments} --execute={shlex.quote(query)}")

    return ask


def test_it_is_mysql_not_mariadb(ask):
    version = ask("SELECT VERSION(), @@version_comment").stdout
    assert int(version.split(".")[0]) >= 8
    assert "MariaDB" not in version


def test_its_package_has_failed_twice_and_its_data_are_of_another_attempt(main1):
    attempts = main1.check_output("cat /var/log/mysql/error.log").split("initializing of server in progress")[1:]
    assert len(attempts) > 2
    assert all("is unusable" in attempt for attempt in attempts[:2])
    assert "is unusable" not in attempts[-1]


def test_it_runs_now_and_at_boot(main1):
    assert main1.service("mysql.service").is_running
    assert main1.service("mysql.service").is_enabled


@pytest.mark.parametrize("port", [3306, 3307, 33060])
def test_strangers_do_not_reach_it(port):
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address("main1"), port), timeout=5)


def test_the_new_password_counts_and_the_old_does_not(ask):
    assert ask("SELECT 1").rc == 0
    assert "Access denied" in ask("SELECT 1", "the old one").stderr


def test_it_counts_for_its_hosts_alone(main1):
    query = "SELECT CONCAT(user, '@', host) FROM mysql.user WHERE user IN ('airflow', 'former') ORDER BY host"
    has = main1.check_output(f'mysql --batch --skip-column-names --execute="{query}"').split()
    assert has == ["airflow@127.0.0.1", "airflow@main1.example"]


def test_the_certificate_that_it_had_is_gone_with_its_key(main1, ask):
    assert [name for name in main1.check_output("ls /etc/mysql").split() if name.startswith("airflow")] == []
    assert ask("SELECT @@require_secure_transport").stdout.strip() == "0"


def test_the_account_has_its_schema_and_no_other(ask):
    assert ask("CREATE TABLE airflow.t (a INT); DROP TABLE airflow.t").rc == 0
    assert "denied" in ask("CREATE TABLE feeds.t (a INT)").stderr
    assert "denied" in ask("SELECT * FROM mysql.user").stderr


def test_schemas_keep_every_character(ask):
    query = "SELECT default_character_set_name, default_collation_name FROM information_schema.schemata"
    assert ask(f"{query} WHERE schema_name = 'airflow'").stdout.split() == ["utf8mb4", "utf8mb4_unicode_ci"]


def test_settings_that_are_no_longer_set_are_gone(ask):
    assert ask("SELECT @@max_connections").stdout.strip() == "151"


def test_an_option_that_it_does_not_know_is_refused_before_it_is_written(main1):
    settings = json.dumps({"mysql_settings": {"max_connections": 20, "no_such_option": 1}})
    command = ["ansible", "main1", "--become", "-m", "include_role", "-a", "name=mysql", "-e", settings]
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 2
    assert "unknown variable 'no_such_option=1'" in done.stdout
    assert main1.run("mysqld --validate-config --user=mysql").rc == 0


def test_nobody_logs_in_without_a_password(main1):
    for user in ("root", "airflow", "nobody"):
        done = main1.run(
            f"setpriv --reuid=nobody --clear-groups mysql --host=127.0.0.1 --user={user} --execute='SELECT 1'"
        )
        assert "denied" in done.stderr
