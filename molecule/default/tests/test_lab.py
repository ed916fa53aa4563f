"""The lab itself."""

import os
import subprocess

import pytest

from lab import ROOT
from support import LAB


def test_a_process_may_have_more_pages_than_mappings_by_default(main1):
    """As the API server has after a while: it died of it, or looped for ever."""
    pages = 70_000
    program = f"import mmap; m = mmap.mmap(-1, {pages} * 8192); m[::8192] = bytes([1]) * {pages}; print(sum(m[::8192]))"
    assert main1.check_output(f"timeout 120 python3 -c '{program}'") == str(pages)


@pytest.mark.parametrize("name", ["nas1", "main1", "edge1"])
def test_a_host_that_was_rebooted_is_found_at_once(request, name):
    """Others remember its hardware address."""
    assert request.getfixturevalue(name).check_output("cat /sys/class/net/vec0/address") == LAB.hosts[name].mac


@pytest.mark.parametrize("name", ["nas1", "main1", "edge1"])
def test_a_host_has_one_cpu_of_this_machine(name):
    """Its programs take it over from its kernel. On two, each of their system calls takes up to eight times as long."""
    assert len(os.sched_getaffinity(LAB.hosts[name].pid)) == 1


def test_playbooks_come_as_an_ordinary_user_whose_sudo_asks_for_a_password():
    """As on most servers; a umask that hides new files from other users, and names with a domain, are as usual."""
    command = "id -un; umask; hostname --fqdn; sudo --non-interactive true 2>&1"
    ask = ["ansible", "edge1", "-m", "shell", "-a", command]
    environment = LAB.environment | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "false"}
    done = subprocess.run(ask, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S603
    assert ">>" in done.stdout, done.stdout + done.stderr
    user, umask, name, refusal, *_ = done.stdout.partition(">>")[2].split("\n")[1:]
    assert (user, umask, name) == ("admin", "0027", "edge1.lab.test")
    assert "password is required" in refusal
