"""Snapshots of hosts: their disks, and the secrets of the site that is on them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

from .hosts import Host
from .machine import die, run


def copy_disks(hosts: Iterable[Host], source: Path, destination: Path) -> None:
    """Copy each host's disk, and the name of its image."""
    for host in hosts:
        for name in (host.disk.name, host.base.name):
            run("cp", "--sparse=always", "--reflink=auto", source / name, destination / name)


def copy_secrets(source: Path, destination: Path) -> None:
    if source.exists():
        destination.mkdir(parents=True, exist_ok=True)
        run("cp", "--archive", f"{source}/.", destination)


def take(hosts: list[Host], state: Path, secrets: Path, snapshot: Path) -> None:
    """Copy the hosts' disks as they are at this moment, as after a power cut."""
    snapshot.mkdir(parents=True, exist_ok=True)
    running = [host for host in hosts if host.pid]
    for host in running:
        # Writes of the last half minute may be in the host's memory only.
        if host.ssh("sync", timeout=120).returncode:
            die(f"{host.name} does not answer on SSH: its last writes may not be on its disk")
    # All kernels stand still meanwhile, so that the disks fit each other.
    kernels = [pid for host in running if (pid := host.pid)]
    for pid in kernels:
        os.kill(pid, signal.SIGSTOP)
    try:
        copy_disks(hosts, state, snapshot)
    finally:
        for pid in kernels:
            os.kill(pid, signal.SIGCONT)
    copy_secrets(secrets, snapshot / "secrets")


def give_back(hosts: list[Host], state: Path, secrets: Path, snapshot: Path) -> None:
    """Cut the hosts' power, and copy their disks back from a snapshot."""
    for host in hosts:
        if not (snapshot / host.disk.name).exists():
            die(f"{host.name} has no snapshot in {snapshot}")
    for host in hosts:
        host.kill()
    state.mkdir(parents=True, exist_ok=True)
    copy_disks(hosts, snapshot, state)
    copy_secrets(snapshot / "secrets", secrets)
