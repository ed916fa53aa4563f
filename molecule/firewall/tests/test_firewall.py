"""The role firewall on a host with a stand-in for nft, which cuts new SSH connections."""

import json
import socket
import subprocess
import threading
import time

import pytest

from lab import ROOT
from support import LAB, address

RULES = "/etc/nftables-airflow.nft"
UNIT = "/etc/systemd/system/nftables-airflow.service"


def converge(*arguments, **variables):
    """Run converge.yml, and return whether it succeeded, and its output with single spaces."""
    command = ["ansible-playbook", "molecule/firewall/converge.yml", "-e", json.dumps(variables), *arguments]
    environment = LAB.environment | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S603
    return done.returncode == 0, " ".join(done.stdout.split())


def answers():
    try:
        socket.create_connection((address("edge2"), 22), timeout=2).close()
    except OSError:
        return False
    return True


@pytest.fixture
def attempts():
    """Try SSH all the time: a list of whether the host answered."""
    made, end = [], threading.Event()

    def work():
        while not end.is_set():
            made.append(answers())
            time.sleep(0.5)

    thread = threading.Thread(target=work)
    thread.start()
    yield made
    end.set()
    thread.join()


@pytest.fixture
def no_rules(edge2):
    """A host before the first load of its rules."""
    edge2.check_output(
        f"systemctl disable --now nftables-airflow.service && rm {UNIT} {RULES} && systemctl daemon-reload"
    )


@pytest.fixture
def controller_is_cut(edge2):
    """Make the stand-in ignore the address of this machine, which the rules admit."""
    edge2.check_output("echo ${SSH_CONNECTION%% *} >/run/nft-stand-in.ignored")
    yield
    edge2.check_output("rm /run/nft-stand-in.ignored")


def test_rules_that_were_confirmed_are_in_force_after_a_reboot(edge2):
    assert edge2.service("nftables-airflow.service").is_enabled
    assert edge2.service("nftables-airflow.service").is_running
    assert "10.113.0.0/16 } tcp dport 22 accept" in edge2.check_output("nft list table inet airflow")
    assert edge2.run("tc filter show dev vec0 ingress | grep drop").rc == 0, "the stand-in cuts nothing"
    assert answers()


def test_a_table_that_is_gone_is_loaded_by_the_next_run(edge2):
    edge2.check_output("nft flush ruleset")
    succeeded, said = converge("--check")
    assert succeeded, said
    assert "changed=1 " in said
    assert edge2.run("nft list table inet airflow").rc == 1
    succeeded, said = converge()
    assert succeeded, said
    assert "tcp dport 22 accept" in edge2.check_output("nft list table inet airflow")
    assert edge2.run("systemctl is-active nftables-airflow-undo.timer").rc != 0
    assert not edge2.file("/run/nftables-airflow.undo").exists


def test_a_first_load_that_locks_ansible_out_is_undone(edge2, no_rules, controller_is_cut, attempts):
    """Ansible has a connection that the rules do not cut, and must not be misled by it."""
    succeeded, said = converge(firewall_ssh_sources=["192.0.2.1"])
    assert not succeeded, said
    assert "accepted no new SSH connection from this machine within 30 s" in said
    assert 'firewall_ssh_sources is ["192.0.2.1"]' in said
    assert False in attempts, "SSH was never cut"
    assert answers()
    assert edge2.run("nft list table inet airflow").rc == 1
    assert not edge2.file(RULES).exists
    assert not edge2.file(UNIT).exists


def test_what_a_first_load_would_cut_off_is_listed_before(edge2):
    """The test before left a host without rules."""
    edge2.check_output("systemd-run --unit=listener python3 -m http.server 9100")
    edge2.check_output("timeout 60 sh -c 'until ss -Hltn | grep :9100; do sleep 0.2; done'")
    try:
        succeeded, said = converge()
    finally:
        edge2.check_output("systemctl stop listener")
    assert not succeeded, said
    # The table folds lines.
    assert all(word in said for word in ("9100", "(python3)", "firewall_cut_listeners", "Findings: 1.")), said
    assert "changed=0 " in said
    assert not edge2.file(RULES).exists
