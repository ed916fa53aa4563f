"""The hosts of a lab: which there are, and how one is booted, reached and killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import images
from .machine import die, run, wait_until
from .network import Network


@dataclass(frozen=True)
class Spec:
    """What a host is made of."""

    number: int  # last byte of its address
    suite: str  # Debian suite, hence its base image
    memory: str  # upper limit; only the pages that the host touches are taken
    touches: int  # MB that the host touches, with all that this project installs


# Debian stable, and the release before on edge1, whose Python 3.11 is the oldest that is supported; main1 is on testing
# because real MySQL is in Debian unstable only, and unstable's packages fit testing.
HOSTS = {
    "nas1": Spec(11, "trixie", "1G", 300),
    "main1": Spec(12, "forky", "8G", 4500),
    "edge1": Spec(13, "bookworm", "4G", 1500),
    "out1": Spec(14, "trixie", "2G", 500),
    "edge2": Spec(15, "trixie", "4G", 1500),
}
# The default of a command that names no host. out1 is the world outside (lab/outside.yml), edge2 a new host of the
# scenarios airflow_edge and firewall; whoever needs out1 or edge2 names them.
SITE = ["nas1", "main1", "edge1"]
# The hosts' own names are fully qualified.
DOMAIN = "lab.test"

# User-mode Linux reboots by running its argv[0] again, with every file still open: its network device would be busy.
START = """\
#!/bin/bash
for fd in /proc/$$/fd/*; do
    fd=${{fd##*/}}
    if ((fd > 2 && fd != 255)); then exec {{fd}}>&-; fi
done
exec -a "$0" {kernel} "$@"
"""


def pid_of(name: str, state: Path) -> int | None:
    """Process of a running host, or None. Another program that has got the number meanwhile does not count."""
    try:
        pid = int((state / f"{name}.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return pid if f"uml_dir={state}/" in command and f"umid={name}" in command else None


def least_busy_cpu(name: str, labs: Path) -> int:
    """Return the CPU that has the least of the running hosts of all labs, by the memory that they need.

    A host has one CPU: its kernel and its programs take turns. With two CPUs, each turn would wake the one that
    sleeps, and a system call would take eight times as long.
    """
    load = dict.fromkeys(os.sched_getaffinity(0), 0)
    for path in labs.glob("*/*.pid"):
        # A host of another lab may end at this moment.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if pid := pid_of(path.stem, path.parent):
                for cpu in os.sched_getaffinity(pid) & set(load):
                    # Hosts of the same name count twice: they are busy at the same time, such as main servers.
                    load[cpu] += HOSTS[path.stem].touches * (2 if path.stem == name else 1)
    return min(load, key=load.get)


def members(group: int) -> list[int]:
    """Processes of a process group: a host's kernel and the processes that run its programs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


class Host:
    """A host of one lab, whose files are in the lab's directory `state`."""

    def __init__(self, name: str, state: Path, network: Network) -> None:
        self.name = name
        self.spec = HOSTS[name]
        # A scenario may need another suite on a host: LAB_SUITES="out1=forky".
        suites = dict(pair.split("=") for pair in os.environ.get("LAB_SUITES", "").split())
        self.suite = suites.get(name, self.spec.suite)
        self.state = state
        self.network = network
        self.address = network.address(self.spec.number)
        self.mac = network.mac(self.spec.number)
        self.disk = state / f"{name}.cow"
        # Names the image on which the disk stands.
        self.base = state / f"{name}.base"
        self.console = state / f"{name}.console"

    @property
    def pid(self) -> int | None:
        return pid_of(self.name, self.state)

    def image(self) -> Path:
        """Return the image below the disk, also when a newer image has been built since the disk was made."""
        if self.disk.exists() and self.base.exists():
            return Path(self.base.read_text().strip())
        return images.image(self.suite)

    def write_seed(self) -> Path:
        """Write the files that the host copies over its own at every boot."""
        seed = self.state / "seed" / self.name
        names = "".join(f"{self.network.address(spec.number)} {name}.{DOMAIN} {name}\n" for name, spec in HOSTS.items())
        gateway = self.network.address(1)
        files = {
            "etc/hostname": f"{self.name}.{DOMAIN}\n",
            "etc/hosts": f"127.0.0.1 localhost\n::1 localhost\n{names}",
            "etc/resolv.conf": Path("/etc/resolv.conf").read_text(),
            "etc/lab-network": (
                f"address add {self.address}/24 dev vec0\nlink set vec0 up\nroute add default via {gateway}\n"
            ),
            # Of the lab's own commands and of the tests' looks. Playbooks log in as an ordinary user.
            "root/.ssh/authorized_keys": (self.state / "root_ed25519.pub").read_text(),
            f"home/{images.USER}/.ssh/authorized_keys": (self.state / "id_ed25519.pub").read_text(),
            images.ACCOUNT: f"{images.USER}:{(self.state / 'sudo_password').read_text()}\n",
        }
        for name, text in files.items():
            (seed / name).parent.mkdir(parents=True, exist_ok=True)
            (seed / name).write_text(text)
        for name in ("root", "root/.ssh"):
            (seed / name).chmod(0o700)
        for name in ("root/.ssh/authorized_keys", images.ACCOUNT):
            (seed / name).chmod(0o600)
        return seed

    def write_start(self) -> Path:
        """Write the program that starts the host's kernel."""
        start, partial = self.state / "linux.uml", self.state / f"{self.name}.partial"
        partial.write_text(START.format(kernel=images.kernel() / "linux.uml"))
        partial.chmod(0o755)
        # Renamed, not written over: another host may be about to read the file.
        partial.rename(start)
        return start

    def boot(self) -> None:
        """Start the host's kernel, unless it runs."""
        if self.pid:
            return
        base = self.image()
        self.base.write_text(f"{base}\n")
        command = [
            "ip", "netns", "exec", self.network.namespace, self.write_start(), "seccomp=on", f"mem={self.spec.memory}",
            f"ubda={self.disk},{base}", "root=/dev/ubda", "rw",
            f"vec0:transport=tap,ifname={self.name},gro=1,mac={self.mac}",
            f"hostfs={self.write_seed()}", "con=null", "con0=null,fd:1", "ssl=null", "quiet",
            f"uml_dir={self.state}/uml/", f"umid={self.name}",
        ]  # fmt: skip
        shutil.rmtree(self.state / "uml" / self.name, ignore_errors=True)
        with self.console.open("ab") as console:
            process = subprocess.Popen(  # noqa: S603 - arguments are ours
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                cwd=self.state, env=os.environ | {"TMPDIR": "/dev/shm"},  # noqa: S108 - UML wants its memory on a tmpfs
            )  # fmt: skip
        os.sched_setaffinity(process.pid, {least_busy_cpu(self.name, self.state.parent)})
        (self.state / f"{self.name}.pid").write_text(f"{process.pid}\n")

    def ssh(self, *command: str, timeout: int = 30) -> subprocess.CompletedProcess:
        options = ("-F", str(self.state / "ssh_config"), "-o", "ConnectTimeout=2", "-o", "BatchMode=yes")
        return run("timeout", str(timeout), "ssh", *options, self.name, *command, check=False)

    def is_ready(self) -> bool:
        """SSH answers, and systemd has finished booting (even if a unit failed: that is the tests' business)."""
        answer = self.ssh("systemctl is-system-running --wait", timeout=60)
        return answer.stdout.strip() in ("running", "degraded")

    def wait(self) -> None:
        """Wait until the host is ready; when it is not in time, print the end of its console and exit."""
        if not wait_until(lambda: self.is_ready() or not self.pid, 180, interval=0.5) or not self.pid:
            print("".join(self.console.open(errors="replace").readlines()[-30:]), file=sys.stderr)
            die(f"{self.name} did not come up; the end of its console is above, all of it in {self.console}")

    def kill(self) -> None:
        """Power cut: the host's processes end at once, and are gone when this returns."""
        pid = self.pid
        if pid is None:
            return
        for process in {pid, *members(pid)}:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not wait_until(lambda: not members(pid), 120):
            die(f"{self.name} (process {pid}) does not end")

    def power_off(self) -> bool:
        """Shut down in order; return whether the host has ended within 90 s."""
        if not self.pid:
            return True
        self.ssh("systemctl poweroff", timeout=10)
        return wait_until(lambda: not self.pid, 90)
