"""Boot the lab: hosts with kernels of their own (user-mode Linux), in a network namespace of their own.

Needs root and Debian's package tools; no container engine, KVM or kernel NFS. Everything that a lab makes is below
.lab/ in this checkout, in the namespace `airflow-NAME` and in the nftables table `airflow-NAME`; `destroy` removes all
three. NAME is $LAB (default "demo"), so that the tests' lab never touches the demo's.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import images, snapshots
from .hosts import HOSTS, SITE, Host
from .machine import ROOT, die, run
from .network import Network

__all__ = ["HOSTS", "ROOT", "SITE", "Lab"]


class Lab:
    """A lab of this checkout. Several labs can be used in one process, each by one thread at a time."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name or os.environ.get("LAB") or "demo"
        self.state = ROOT / ".lab" / self.name
        self.secrets = ROOT / "secrets/lab" / self.name
        self.ssh_config = self.state / "ssh_config"
        self.network = Network(self.name)
        self.hosts = {host: Host(host, self.state, self.network) for host in HOSTS}

    @property
    def environment(self) -> dict[str, str]:
        """The environment for a program that uses this lab, such as ansible-playbook: the inventory reads $LAB."""
        return os.environ | {"LAB": self.name}

    def say(self, message: str) -> None:
        print(f"lab {self.name}: {message}", flush=True)

    # -- Commands -------------------------------------------------------------------------------------------------

    def up(self, names: Iterable[str] = SITE) -> None:
        """Boot the hosts (building images and network first) and wait until they answer on SSH."""
        hosts = self._chosen(names)
        off = [host for host in hosts if not host.pid]
        if off:
            self.power_on(off)
        with ThreadPoolExecutor() as waiting:
            list(waiting.map(Host.wait, hosts))

    def stop(self, names: Iterable[str] = HOSTS) -> None:
        """Shut hosts down, workers before what they need; cut off a host that does not end within 90 s."""
        for host in reversed(self._chosen(names)):
            if not host.power_off():
                self.say(f"{host.name} does not power off: cutting it off")
                host.kill()

    def cut(self, names: Iterable[str]) -> None:
        """Cut the power of hosts."""
        for host in self._chosen(names):
            host.kill()

    def snapshot(self, names: Iterable[str] = SITE) -> None:
        """Keep the hosts' disks as they are at this moment, as after a power cut, for `restore`."""
        snapshots.take(self._chosen(names), self.state, self.secrets, self._snapshot_of(self.name))

    def restore(self, names: Iterable[str] = SITE, of: str | None = None) -> None:
        """Cut the power, take the disks back to the last snapshot, boot."""
        hosts = self._chosen(names)
        snapshots.give_back(hosts, self.state, self.secrets, self._snapshot_of(of or self.name))
        self.up(host.name for host in hosts)

    def destroy(self, _: Iterable[str] = ()) -> None:
        """End the hosts, and remove their disks, the network namespace and the NAT rule. Other labs stay."""
        for host in self.hosts.values():
            host.kill()
        self.network.remove()
        for directory in (self.state, self.secrets):
            shutil.rmtree(directory, ignore_errors=True)

    def status(self, names: Iterable[str] = HOSTS) -> None:
        """Print as JSON which hosts run, and where."""
        found = {host.name: {"address": host.address, "pid": host.pid} for host in self._chosen(names)}
        print(json.dumps(found, indent=2))

    # -- Hosts ----------------------------------------------------------------------------------------------------

    def address(self, name: str) -> str:
        return self.hosts[name].address

    def ssh(self, name: str, *command: str, timeout: int = 30) -> subprocess.CompletedProcess:
        """Run a command on a host; the caller looks at the exit code."""
        return self.hosts[name].ssh(*command, timeout=timeout)

    def has_snapshot(self, names: Iterable[str] = SITE) -> bool:
        return all((self._snapshot_of(self.name) / host.disk.name).exists() for host in self._chosen(names))

    def as_root(self, *arguments: str) -> None:
        """Run a command of the lab in a process of its own, which becomes root by sudo."""
        command = [sys.executable, "-m", "lab", *arguments]
        subprocess.run(command, cwd=ROOT, check=True, env=self.environment)  # noqa: S603 - arguments are ours

    def _chosen(self, names: Iterable[str]) -> list[Host]:
        return [self.hosts[name] for name in names]

    def _snapshot_of(self, lab: str) -> Path:
        return self.state.parent / "snapshots" / lab

    # -- What hosts need ------------------------------------------------------------------------------------------

    def power_on(self, hosts: list[Host]) -> None:
        """Make what is missing of all that the hosts need, and start their kernels."""
        free = shutil.disk_usage("/dev/shm").free >> 20  # noqa: S108
        needed = sum(host.spec.touches for host in hosts)
        if free < needed:
            die(
                f"the hosts' memory is in /dev/shm, which has {free} MB free, and they need {needed}: remount it larger"
            )
        self.state.mkdir(parents=True, exist_ok=True)
        images.build((host.suite for host in self.hosts.values()), self.say)
        self.write_ssh_config()
        self.network.make(HOSTS)
        self.say(f"booting {' '.join(host.name for host in hosts)}")
        for host in hosts:
            host.boot()

    def write_ssh_config(self) -> None:
        """Write keys and a configuration for `ssh -F`, owned by the person who called sudo."""
        keys = {user: self.state / f"{name}_ed25519" for user, name in (("root", "root"), (images.USER, "id"))}
        for user, key in keys.items():
            if not key.exists():
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{user} of the lab {self.name}", "-f", key)
        password = self.state / "sudo_password"
        if not password.exists():
            password.touch(0o600)
            password.write_text(secrets.token_urlsafe(12))
        blocks = "".join(f"Host {host.name}\n  HostName {host.address}\n" for host in self.hosts.values())
        # Renamed, not written over: tests of another scenario may be reading the file.
        partial = self.ssh_config.with_suffix(".partial")
        partial.write_text(
            f"{blocks}Host {' '.join(HOSTS)}\n  User root\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.state}/known_hosts\n  StrictHostKeyChecking accept-new\n  LogLevel ERROR\n"
            # An open connection to a host that has gone must not be waited for; a busy host may be slow.
            "  ServerAliveInterval 5\n  ServerAliveCountMax 6\n"
            + "".join(f"Match user {user}\n  IdentityFile {key}\n" for user, key in keys.items())
        )
        partial.rename(self.ssh_config)
        if "SUDO_UID" in os.environ:
            files = [file for key in keys.values() for file in (key, key.with_suffix(".pub"))]
            for path in (self.state.parent, self.state, *files, password, self.ssh_config):
                os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))
