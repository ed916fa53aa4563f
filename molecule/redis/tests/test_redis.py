"""The role redis alone, after it had been run with another port, address, password and directives."""

import socket

import pytest

from support import address


@pytest.fixture
def ask(edge1):
    def ask(command, password="the-new-one"):  # noqa: S107 - of a host that lives for minutes
        return edge1.run(f"REDISCLI_AUTH={password} redis-cli {command}").stdout.strip()

    return ask


def test_it_runs_now_and_at_boot(edge1):
    assert edge1.service("redis-server.service").is_running
    assert edge1.service("redis-server.service").is_enabled


def test_it_wants_its_password(edge1, ask):
    assert "NOAUTH" in edge1.run("redis-cli ping").stdout
    assert ask("ping") == "PONG"
    assert ask("ping", "the-old-one") != "PONG"


@pytest.mark.parametrize("port", [6379, 6380])
def test_strangers_do_not_reach_it(port):
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address("edge1"), port), timeout=5)


def test_directives_that_are_no_longer_set_are_gone(ask):
    assert ask("config get maxmemory").split() == ["maxmemory", "0"]


def test_what_was_queued_while_it_had_no_append_only_file_is_kept(ask):
    assert ask("llen kept") == "1"


def test_the_certificate_that_it_had_is_gone_with_its_key(edge1):
    assert edge1.check_output("ls /etc/redis").split() == ["airflow.conf", "redis.conf"]


def test_it_never_throws_a_message_away(ask):
    assert ask("config get maxmemory-policy").split() == ["maxmemory-policy", "noeviction"]


def test_the_queue_survives_a_crash(edge1, ask):
    """Not only an orderly stop, which would write it anyway."""
    assert ask("rpush celery one two").endswith("2")
    edge1.check_output(
        "sleep 1.5; systemctl kill --signal=KILL redis-server.service; systemctl restart redis-server.service"
    )
    try:
        assert ask("llen celery") == "2"
    finally:
        ask("del celery")


def test_others_cannot_read_its_password(edge1):
    assert edge1.run("setpriv --reuid=nobody --clear-groups cat /etc/redis/airflow.conf").rc != 0
