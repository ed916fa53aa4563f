"""The machine on which labs run: its rights, packages, kernel settings, mirror, package index and certificates."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = ["mmdebstrap", "patchelf", "e2fsprogs", "iproute2", "nftables", "openssh-client"]

# Where the caller's environment may name a package index, and what `sudo` has to leave of that environment.
INDEXES = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"]
ENVIRONMENT = ["LAB", "LAB_HOSTS", "LAB_SUITES", *INDEXES]

# The least that a lab needs of this machine's kernel settings. The last lab to go restores what the first one found.
SYSCTLS = {
    "net/ipv4/ip_forward": 1,
    # Each page of a guest's process can be a mapping on this machine. When the limit is reached, user-mode Linux 7.2
    # takes the page fault for a system call: a register is wrong, or the process faults there for ever.
    "vm/max_map_count": 1 << 20,
}
SYSCTLS_BEFORE = Path("/run/airflow-lab-sysctl.json")


def die(message: str) -> None:
    sys.exit(f"lab: {message}")


def run(*command: str | Path, **options) -> subprocess.CompletedProcess:
    """Run a command; when it fails, print its output and exit."""
    options = {"check": True, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
    try:
        return subprocess.run([str(word) for word in command], **options)  # noqa: S603 - arguments are ours
    except subprocess.CalledProcessError as error:
        print(error.stdout or "", file=sys.stderr)
        die(f"`{' '.join(map(str, command))}` failed with exit code {error.returncode}; its output is above")
    except FileNotFoundError:
        die(f"{command[0]} is missing: `make demo` installs it, or `apt-get install {' '.join(PACKAGES)}`")


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.2) -> bool:
    """Return whether a condition holds before the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(interval)
    return condition()


def require_rights() -> None:
    """Run this command again as root, unless root runs it already."""
    if os.geteuid() == 0:
        return
    if not shutil.which("sudo"):
        die("making a network namespace and booting hosts needs root: run it as root, or install sudo")
    # Python finds the package in the working directory, which sudo keeps.
    os.chdir(ROOT)
    # -B: the caller could not remove bytecode that root has written.
    again = [sys.executable, "-B", "-m", "lab", *sys.argv[1:]]
    os.execvp("sudo", ["sudo", f"--preserve-env={','.join(ENVIRONMENT)}", *again])  # noqa: S606, S607


def install_packages(say: Callable[[str], None]) -> None:
    """Install the Debian packages that labs need."""
    missing = [
        package
        for package in PACKAGES
        if "install ok installed" not in run("dpkg-query", "-Wf", "${Status}", package, check=False).stdout
    ]
    if missing:
        say(f"installing {' '.join(missing)}")
        run("apt-get", "update", "--quiet")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        options = ["--option=DPkg::Lock::Timeout=600", "--yes", "--quiet", "--no-install-recommends"]
        run("apt-get", "install", *options, *missing, env=environment)


def set_sysctls() -> None:
    """Raise the kernel settings that are too low, and remember what they were."""
    before = {name: int(Path("/proc/sys", name).read_text()) for name in SYSCTLS}
    if not SYSCTLS_BEFORE.exists():
        SYSCTLS_BEFORE.write_text(json.dumps(before))
    for name, value in SYSCTLS.items():
        if before[name] < value:
            Path("/proc/sys", name).write_text(f"{value}\n")


def restore_sysctls() -> None:
    """Set the kernel settings to what they were before the first lab."""
    if SYSCTLS_BEFORE.exists():
        for name, value in json.loads(SYSCTLS_BEFORE.read_text()).items():
            Path("/proc/sys", name).write_text(f"{value}\n")
        SYSCTLS_BEFORE.unlink()


@functools.cache
def debian_mirror() -> str | None:
    """URI of the archive that this machine's own apt uses, or None for the default of mmdebstrap."""
    fields = "$(LABEL)|$(COMPONENT)|$(REPO_URI)"
    for line in run("apt-get", "indextargets", "--format", fields, "Created-By: Packages").stdout.splitlines():
        label, component, uri = line.split("|")
        if label == "Debian" and component == "main":
            return uri
    return None


def apt_settings() -> str:
    """Proxies and TLS settings of this machine's apt, in the form of an apt.conf."""
    dump = run("apt-config", "dump").stdout.splitlines()
    return "".join(f"{line}\n" for line in dump if line.startswith(("Acquire::http", "Acquire::https")))


def certificates() -> list[Path]:
    """Files of the certificate authorities that were added to this machine."""
    return sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt"))


@functools.cache
def python_index() -> str:
    """The package index that this machine's pip or uv is set to; empty for the default of pip and uv."""
    for variable in INDEXES:
        if os.environ.get(variable):
            return os.environ[variable]
    answer = run(
        sys.executable, "-m", "pip", "config", "get", "global.index-url", check=False, stderr=subprocess.DEVNULL
    )
    return answer.stdout.strip() if answer.returncode == 0 else ""
