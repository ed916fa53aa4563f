#!/usr/bin/env python3
"""Boot the lab: hosts with kernels of their own (user-mode Linux), in a network namespace of their own.

Needs root and Debian's package tools; no container engine, KVM or kernel NFS. Everything it
makes is below .lab/ in this checkout, in the namespace `airflow-NAME` and in the nftables table `airflow-NAME`;
`destroy` removes all three. NAME is $LAB (default "demo"), so that the tests' lab never touches the demo's.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).read_text()
ROOT = Path(__file__).resolve().parent.parent
NAME = os.environ.get("LAB") or "demo"
STATE = ROOT / ".lab" / NAME
IMAGES = ROOT / ".lab" / "images"
SNAPSHOTS = ROOT / ".lab" / "snapshots"
NAMESPACE = f"airflow-{NAME}"
OWNER = Path(f"/run/{NAMESPACE}.owner")
# Settings of this machine's kernel that a lab needs, at least. The last lab leaves them as the first one found them.
SYSCTLS = {
    "net/ipv4/ip_forward": 1,
    # Each page of a guest's process can be a mapping on this machine. When there may be no more of them, user-mode
    # Linux 7.2 takes the page fault for a system call: a register is wrong, or the process faults there for ever.
    "vm/max_map_count": 1 << 20,
}
SYSCTLS_BEFORE = Path("/run/airflow-lab-sysctl.json")
SSH_CONFIG = STATE / "ssh_config"

# A /24 for each lab; .1 is this machine, which routes and masquerades for the hosts.
NETWORK = "10.113.{}".format({"demo": 0, "test": 1}.get(NAME, 2 + zlib.crc32(NAME.encode()) % 250))
# An interface name has 15 bytes at most: the lab's number, not its name.
VETH = f"aflab{NETWORK.rsplit('.', 1)[1]}"

# Where the caller's environment may name a package index, and what `sudo` has to leave of it.
INDEXES = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"]
ENVIRONMENT = ["LAB", "LAB_HOSTS", *INDEXES]

PACKAGES = ["mmdebstrap", "patchelf", "e2fsprogs", "iproute2", "nftables", "openssh-client"]


@dataclass(frozen=True)
class Host:
    """One host of the lab."""

    number: int  # last byte of its address
    suite: str  # Debian suite, hence its base image
    memory: str  # upper limit; only the pages that it touches are taken
    touches: int  # MB of them, with all that this project installs


# Debian stable on both sides of the NAS; main1 is on testing because real MySQL is in Debian unstable only, and
# unstable's packages fit testing.
HOSTS = {
    "nas1": Host(11, "trixie", "1G", 300),
    "main1": Host(12, "forky", "8G", 4500),
    "edge1": Host(13, "trixie", "4G", 1500),
    "out1": Host(14, "trixie", "2G", 500),
    "edge2": Host(15, "trixie", "4G", 1500),
}
# What a command means that names no host. out1 is the world outside (lab/outside.yml), edge2 a new host of the scenario
# airflow_edge; they are for those who ask for them.
SITE = ["nas1", "main1", "edge1"]

# What a freshly installed Debian server has and minbase lacks, as far as this project needs it. No udev: there is
# no hardware to find, and looking for it takes longer than the rest of the boot.
GUEST_PACKAGES = ["ca-certificates", "dbus", "iproute2", "iptables", "kmod", "openssh-server", "procps", "python3"]
GUEST_PACKAGES += ["python3-apt", "systemd", "systemd-sysv", "tzdata", "zstd"]
# Testing's own Python is 3.14; stable's is 3.13.
EXTRA_PACKAGES = {"forky": ["python3.13"]}

SEED_UNIT = """\
[Unit]
Description=Take this host's name, address and keys from the lab
DefaultDependencies=no
After=systemd-remount-fs.service systemd-tmpfiles-setup.service
Before=sysinit.target network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
[Service]
Type=oneshot
ExecStart=/usr/bin/mount -t hostfs none /mnt
ExecStart=/usr/bin/cp --recursive --no-preserve=ownership /mnt/. /
ExecStart=/usr/bin/umount /mnt
ExecStart=/usr/bin/ip -batch /etc/lab-network
ExecStart=/usr/bin/ssh-keygen -A
ExecStart=/usr/bin/sh -c 'cat /etc/hostname >/proc/sys/kernel/hostname'
[Install]
WantedBy=sysinit.target
"""

# For each task Ansible sends the same modules in an archive, and Python compiles what is in an archive at each import:
# a quarter of a task's time on a host of the lab. Here the system's Python, as root, compiles each text once.
ZIPIMPORT_CACHE = """\
import marshal, os, sys, zipimport

CACHE = f"/var/cache/lab-zipimport/{sys.implementation.cache_tag}"
compile_source = zipimport._compile_source


def compiled(path, source):
    import hashlib
    name = f"{CACHE}/{hashlib.sha256(source).hexdigest()}"
    try:
        with open(name, "rb") as file:
            return marshal.load(file)
    except (OSError, EOFError, TypeError, ValueError):
        # Not there, or not whole after a power cut.
        code = compile_source(path, source)
    os.makedirs(CACHE, 0o700, exist_ok=True)
    partial = f"{name}.{os.getpid()}"
    with open(partial, "wb") as file:
        marshal.dump(code, file)
    os.rename(partial, name)
    return code


if os.geteuid() == 0:
    zipimport._compile_source = compiled
"""

# User-mode Linux reboots by running its argv[0] again, with every file still open; its network device would be busy.
START = """\
#!/bin/bash
for fd in /proc/$$/fd/*; do
    fd=${{fd##*/}}
    if ((fd > 2 && fd != 255)); then exec {{fd}}>&-; fi
done
exec -a "$0" {kernel} "$@"
"""


def die(message: str) -> None:
    sys.exit(f"lab: {message}")


def say(message: str) -> None:
    print(f"lab {NAME}: {message}", flush=True)


def run(*command: str | Path, **options) -> subprocess.CompletedProcess:
    """Run a command; on failure say what it printed."""
    options = {"check": True, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
    try:
        return subprocess.run([str(word) for word in command], **options)  # noqa: S603 - arguments are ours
    except subprocess.CalledProcessError as error:
        print(error.stdout or "", file=sys.stderr)
        die(f"`{' '.join(map(str, command))}` failed with exit code {error.returncode}; its output is above")
    except FileNotFoundError:
        die(f"{command[0]} is missing: `make demo` installs it, or `apt-get install {' '.join(PACKAGES)}`")


# -- What the machine has ---------------------------------------------------------------------------------------


def require_rights() -> None:
    """Go on as root."""
    if os.geteuid() == 0:
        return
    if not shutil.which("sudo"):
        die("making a network namespace and booting hosts needs root: run it as root, or install sudo")
    os.execvp("sudo", ["sudo", f"--preserve-env={','.join(ENVIRONMENT)}", sys.executable, *sys.argv])  # noqa: S606, S607


def install_packages() -> None:
    missing = [
        p
        for p in PACKAGES
        if "install ok installed" not in run("dpkg-query", "-Wf", "${Status}", p, check=False).stdout
    ]
    if missing:
        say(f"installing {' '.join(missing)}")
        run("apt-get", "update", "--quiet")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        options = ["--option=DPkg::Lock::Timeout=600", "--yes", "--quiet", "--no-install-recommends"]
        run("apt-get", "install", *options, *missing, env=environment)


@functools.cache
def debian_mirror() -> str | None:
    """URI of the archive that this machine's own apt uses, or None for the tools' default."""
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
    return sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt"))


@functools.cache
def python_index() -> str:
    """The package index that this machine's pip or uv is set to; empty for their default."""
    for variable in INDEXES:
        if os.environ.get(variable):
            return os.environ[variable]
    answer = run(
        sys.executable, "-m", "pip", "config", "get", "global.index-url", check=False, stderr=subprocess.DEVNULL
    )
    return answer.stdout.strip() if answer.returncode == 0 else ""


# -- Base images ------------------------------------------------------------------------------------------------


def digest(suite: str) -> str:
    """Names what an image is made of: when any of it changes, the image is built anew."""
    recipe = SOURCE.split("\n# -- Base images", 1)[1].split("\n# -- Network", 1)[0]
    parts = [
        suite,
        str(debian_mirror()),
        apt_settings(),
        python_index(),
        SEED_UNIT,
        ZIPIMPORT_CACHE,
        *GUEST_PACKAGES,
        str(EXTRA_PACKAGES),
        recipe,
    ]
    parts += [path.read_text() for path in certificates()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def image(suite: str) -> Path:
    return IMAGES / f"{suite}-{digest(suite)}.ext4"


def kernel() -> Path:
    return IMAGES / f"kernel-{digest('kernel')}"


def bootstrap(suite: str, target: Path, *options: str) -> None:
    """Make a directory tree of a Debian suite, from the mirror that this machine's apt uses."""
    mirror = debian_mirror()
    # A mirror's copy of testing or unstable can be older than its Valid-Until; the signature is still checked.
    stale = '--aptopt=Acquire::Check-Valid-Until "false"'
    shutil.rmtree(target, ignore_errors=True)
    run("mmdebstrap", "--format=directory", stale, *options, suite, target, *([mirror] if mirror else []))


def build_kernel() -> Path:
    """Get user-mode Linux from Debian testing, with the C library that it needs, whatever this machine has.

    Its seccomp mode starts a program in a quarter of the time that stable's ptrace mode takes.
    """
    target = kernel()
    if target.exists():
        return target
    say("getting the kernel")
    tree, partial = IMAGES / "kernel.tree", target.with_suffix(".partial")
    bootstrap("forky", tree, "--variant=extract", "--include=user-mode-linux,libc6")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    library = tree / "usr/lib/x86_64-linux-gnu"
    for source in (library / "ld-linux-x86-64.so.2", library / "libc.so.6", tree / "usr/bin/linux.uml"):
        shutil.copy(source, partial)
    shutil.copytree(tree / "usr/lib/uml/modules", partial / "modules")
    shutil.rmtree(tree)
    interpreter = target / "ld-linux-x86-64.so.2"
    run("patchelf", "--set-interpreter", interpreter, "--set-rpath", target, partial / "linux.uml")
    partial.rename(target)
    return target


def build_image(suite: str) -> Path:
    """Make the base image of a Debian suite, or find it made. Hosts write to copy-on-write files above it."""
    target = image(suite)
    if target.exists():
        return target
    say(f"building the {suite} image")
    packages = GUEST_PACKAGES + EXTRA_PACKAGES.get(suite, [])
    tree, overlay = IMAGES / f"{suite}.tree", IMAGES / f"{suite}.overlay"
    shutil.rmtree(overlay, ignore_errors=True)
    files = {
        "etc/apt/apt.conf.d/80lab": apt_settings(),
        "etc/systemd/system/lab-seed.service": SEED_UNIT,
        "etc/ssh/sshd_config.d/lab.conf": "PermitRootLogin prohibit-password\nUseDNS no\n",
        "usr/lib/python3/dist-packages/lab_zipimport.py": ZIPIMPORT_CACHE,
        "usr/lib/python3/dist-packages/lab_zipimport.pth": "import lab_zipimport\n",
        # Disks here are sparse files on a busy machine: no fsync for each unpacked file, no manual pages.
        "etc/dpkg/dpkg.cfg.d/lab": "force-unsafe-io\npath-exclude /usr/share/man/*\npath-exclude /usr/share/doc/*\n",
    }
    if python_index():
        files["etc/pip.conf"] = f"[global]\nindex-url = {python_index()}\n"
        files["etc/uv/uv.toml"] = f'[[index]]\nurl = "{python_index()}"\ndefault = true\n'
    if suite == "forky":
        files["etc/apt/preferences.d/unstable"] = "Package: *\nPin: release a=unstable\nPin-Priority: 50\n"
    for name, text in files.items():
        (overlay / name).parent.mkdir(parents=True, exist_ok=True)
        (overlay / name).write_text(text)
    for path in certificates():
        destination = overlay / path.relative_to("/")
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination)
    modules = next((kernel() / "modules").iterdir())
    shutil.copytree(modules, overlay / "usr/lib/modules" / modules.name)

    # systemd runs each at every boot and daemon-reload, which they make twice as long. NFS's come with its packages.
    generators = (
        'masks="$1/etc/systemd/system-generators"; mkdir -p "$masks"; cd "$1/usr/lib/systemd/system-generators"; '
        'for name in *; do [ "$name" = systemd-fstab-generator ] || ln -s /dev/null "$masks/$name"; done'
    )
    unstable = 'sed "s/ forky / unstable /" "$1/etc/apt/sources.list" >"$1/etc/apt/sources.list.d/unstable.list"'
    hooks = [
        f"copy-in {overlay}/etc {overlay}/usr /",
        'chroot "$1" update-ca-certificates',
        f'chroot "$1" depmod {modules.name}',
        *([unstable] if suite == "forky" else []),
        'chroot "$1" apt-get update --quiet',
        'chroot "$1" systemctl enable lab-seed.service ssh.service',
        'chroot "$1" systemctl mask getty.target apt-daily.timer apt-daily-upgrade.timer '
        "modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service",
        generators,
        'rm -f "$1"/etc/ssh/ssh_host_* "$1"/var/cache/apt/archives/*.deb',
        # Else the first use of apt on each host reads a hundred megabytes of indexes.
        'chroot "$1" apt-cache gencaches',
        # A day after its update apt's index counts as old (cache_valid_time): for a new host on an old image it is old
        # much sooner, for the packages that it names may be gone.
        'touch --date="22 hours ago" "$1"/var/lib/apt/lists',
    ]
    bootstrap(
        suite, tree, "--variant=minbase", f"--include={','.join(packages)}", "--skip=cleanup/apt",
        # No path-exclude here: for that, mmdebstrap runs each package through a filter in Python.
        "--dpkgopt=force-unsafe-io", *[f"--customize-hook={hook}" for hook in hooks],
    )  # fmt: skip
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,assume_storage_prezeroed=1", "-d", tree, partial, "16G")
    shutil.rmtree(tree)
    shutil.rmtree(overlay)
    for old in unused_images(suite):
        old.unlink()
    partial.rename(target)
    return target


def unused_images(suite: str) -> list[Path]:
    """Return the images on which no host's disk and no snapshot stands."""
    # No deeper: the tree of another image may be there, and vanish meanwhile.
    marks = [*IMAGES.parent.glob("*/*.base"), *IMAGES.parent.glob("snapshots/*/*.base")]
    bases = {Path(mark.read_text().strip()).name for mark in marks}
    return [image for image in IMAGES.glob(f"{suite}-*.ext4") if image.name not in bases]


# -- Network ----------------------------------------------------------------------------------------------------


def address(host: str) -> str:
    return f"{NETWORK}.{HOSTS[host].number}"


def mac(host: str) -> str:
    """Return the same for each boot: others go on for most of a minute with the one that they know."""
    return ":".join(["02", "00", *(f"{int(byte):02x}" for byte in address(host).split("."))])


def network_is_up() -> bool:
    return Path(f"/run/netns/{NAMESPACE}").exists()


def make_network() -> None:
    if network_is_up():
        owner = OWNER.read_text().strip() if OWNER.exists() else "an unknown checkout"
        if owner != str(ROOT):
            die(f"lab {NAME!r} already belongs to {owner}: `make clean` there, or choose another name with LAB=NAME")
        return
    if Path("/sys/class/net", VETH).exists():
        die(f"the network {NETWORK}.0/24 of lab {NAME!r} is that of another lab: choose another name with LAB=NAME")
    OWNER.write_text(f"{ROOT}\n")
    run("ip", "netns", "add", NAMESPACE)
    run("ip", "link", "add", VETH, "type", "veth", "peer", "name", "uplink", "netns", NAMESPACE)
    run("ip", "address", "add", f"{NETWORK}.1/24", "dev", VETH)
    run("ip", "link", "set", VETH, "up")
    inside = ("ip", "-n", NAMESPACE)
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "link", "add", "bridge", "type", "bridge")
    for link in ("uplink", "bridge"):
        run(*inside, "link", "set", link, "up")
    run(*inside, "link", "set", "uplink", "master", "bridge")
    for host in HOSTS:
        run(*inside, "tuntap", "add", host, "mode", "tap")
        run(*inside, "link", "set", host, "master", "bridge")
        run(*inside, "link", "set", host, "up")
    rules = f"""
        table ip {NAMESPACE} {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ip saddr {NETWORK}.0/24 ip daddr != {NETWORK}.0/24 masquerade
            }}
        }}
    """
    run("nft", "-f", "-", input=rules)


def set_sysctls() -> None:
    before = {name: int(Path("/proc/sys", name).read_text()) for name in SYSCTLS}
    if not SYSCTLS_BEFORE.exists():
        SYSCTLS_BEFORE.write_text(json.dumps(before))
    for name, value in SYSCTLS.items():
        if before[name] < value:
            Path("/proc/sys", name).write_text(f"{value}\n")


def remove_network() -> None:
    if not network_is_up() or not OWNER.exists() or OWNER.read_text().strip() != str(ROOT):
        return
    run("nft", "delete", "table", "ip", NAMESPACE, check=False)
    run("ip", "link", "delete", VETH, check=False)
    run("ip", "netns", "delete", NAMESPACE)
    OWNER.unlink()
    if SYSCTLS_BEFORE.exists() and not list(Path("/run").glob("airflow-*.owner")):
        for name, value in json.loads(SYSCTLS_BEFORE.read_text()).items():
            Path("/proc/sys", name).write_text(f"{value}\n")
        SYSCTLS_BEFORE.unlink()


# -- Hosts ------------------------------------------------------------------------------------------------------


def pid_of(host: str, state: Path = STATE) -> int | None:
    """Process of a running host, or None. A number that another program has meanwhile does not count."""
    try:
        pid = int((state / f"{host}.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return pid if f"uml_dir={state}/" in command and f"umid={host}" in command else None


def least_busy_cpu(host: str) -> int:
    """Return the CPU that has the least of the running hosts, by the memory that they need.

    A host has one CPU: its kernel and its programs take turns. On two of this machine's CPUs, each turn wakes one that
    sleeps, and a system call takes eight times as long.
    """
    load = dict.fromkeys(os.sched_getaffinity(0), 0)
    for path in STATE.parent.glob("*/*.pid"):
        # That of another lab may end at this moment.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if pid := pid_of(path.stem, path.parent):
                for cpu in os.sched_getaffinity(pid) & set(load):
                    # Those of the same name count twice: they are busy at the same time, such as main servers.
                    load[cpu] += HOSTS[path.stem].touches * (2 if path.stem == host else 1)
    return min(load, key=load.get)


def members(group: int) -> list[int]:
    """Processes of a process group: a host's kernel and those that run its programs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def wait_until(condition, seconds: float, interval: float = 0.2) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(interval)
    return condition()


def write_seed(host: str) -> Path:
    """Files that the host copies over its own at every boot."""
    seed = STATE / "seed" / host
    names = "".join(f"{address(name)} {name}\n" for name in HOSTS)
    files = {
        "etc/hostname": f"{host}\n",
        "etc/hosts": f"127.0.0.1 localhost\n::1 localhost\n{names}",
        "etc/resolv.conf": Path("/etc/resolv.conf").read_text(),
        "etc/lab-network": (
            f"address add {address(host)}/24 dev vec0\nlink set vec0 up\nroute add default via {NETWORK}.1\n"
        ),
        "root/.ssh/authorized_keys": (STATE / "id_ed25519.pub").read_text(),
    }
    for name, text in files.items():
        (seed / name).parent.mkdir(parents=True, exist_ok=True)
        (seed / name).write_text(text)
    (seed / "root").chmod(0o700)
    (seed / "root/.ssh").chmod(0o700)
    (seed / "root/.ssh/authorized_keys").chmod(0o600)
    return seed


def write_ssh_config() -> None:
    """Keys and a configuration for `ssh -F`, owned by the person who called sudo."""
    key = STATE / "id_ed25519"
    if not key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {NAME}", "-f", key)
    blocks = "".join(f"Host {host}\n  HostName {address(host)}\n" for host in HOSTS)
    # In one go: tests of another scenario may be using it.
    partial = SSH_CONFIG.with_suffix(".partial")
    partial.write_text(
        f"{blocks}Host {' '.join(HOSTS)}\n  User root\n  IdentityFile {key}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {STATE}/known_hosts\n  StrictHostKeyChecking accept-new\n  LogLevel ERROR\n"
        # A connection that is kept open to a host that has gone must not be waited for; a busy one may be slow.
        "  ServerAliveInterval 5\n  ServerAliveCountMax 6\n"
    )
    partial.rename(SSH_CONFIG)
    if "SUDO_UID" in os.environ:
        for path in (STATE.parent, STATE, key, key.with_suffix(".pub"), SSH_CONFIG):
            os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))


def ssh(host: str, *command: str, timeout: int = 30) -> subprocess.CompletedProcess:
    options = ("-F", str(SSH_CONFIG), "-o", "ConnectTimeout=2", "-o", "BatchMode=yes")
    return run("timeout", str(timeout), "ssh", *options, host, *command, check=False)


def boot(host: str) -> None:
    if pid_of(host):
        return
    base, disk = image(HOSTS[host].suite), STATE / f"{host}.cow"
    if disk.exists() and (STATE / f"{host}.base").exists():
        # A disk goes on with the image that it began with, even when a newer one has been built.
        base = Path((STATE / f"{host}.base").read_text().strip())
    (STATE / f"{host}.base").write_text(f"{base}\n")
    start = STATE / "linux.uml"
    # In one go: another host may be about to read it.
    partial = STATE / f"{host}.partial"
    partial.write_text(START.format(kernel=build_kernel() / "linux.uml"))
    partial.chmod(0o755)
    partial.rename(start)
    command = [
        "ip", "netns", "exec", NAMESPACE, start, "seccomp=on", f"mem={HOSTS[host].memory}",
        f"ubda={disk},{base}", "root=/dev/ubda", "rw", f"vec0:transport=tap,ifname={host},gro=1,mac={mac(host)}",
        f"hostfs={write_seed(host)}", "con=null", "con0=null,fd:1", "ssl=null", "quiet",
        f"uml_dir={STATE}/uml/", f"umid={host}",
    ]  # fmt: skip
    shutil.rmtree(STATE / "uml" / host, ignore_errors=True)
    with (STATE / f"{host}.console").open("ab") as console:
        process = subprocess.Popen(  # noqa: S603 - arguments are ours
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            cwd=STATE, env=os.environ | {"TMPDIR": "/dev/shm"},  # noqa: S108 - UML wants its memory on a tmpfs
        )  # fmt: skip
    os.sched_setaffinity(process.pid, {least_busy_cpu(host)})
    (STATE / f"{host}.pid").write_text(f"{process.pid}\n")


def is_ready(host: str) -> bool:
    """SSH answers, and systemd has finished booting (even if a unit failed: that is the tests' business)."""
    answer = ssh(host, "systemctl is-system-running --wait", timeout=60)
    return answer.stdout.strip() in ("running", "degraded")


def wait_for(hosts: list[str]) -> None:
    def come_up(host: str) -> None:
        if not wait_until(lambda: is_ready(host) or not pid_of(host), 180, interval=0.5) or not pid_of(host):
            print("".join((STATE / f"{host}.console").open(errors="replace").readlines()[-30:]), file=sys.stderr)
            die(f"{host} did not come up; the end of its console is above, all of it in {STATE}/{host}.console")

    with ThreadPoolExecutor() as waiting:
        list(waiting.map(come_up, hosts))


def kill(host: str) -> None:
    """Power cut: the host's processes end at once, and are gone when this returns."""
    pid = pid_of(host)
    if pid is None:
        return
    for process in {pid, *members(pid)}:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if not wait_until(lambda: not members(pid), 120):
        die(f"{host} (process {pid}) does not end")


def power_off(hosts: list[str]) -> None:
    """Orderly shutdown, workers before what they need; a host that does not end within 90 s is cut off."""
    for host in reversed(hosts):
        if pid_of(host):
            ssh(host, "systemctl poweroff", timeout=10)
            if not wait_until(lambda host=host: not pid_of(host), 90):
                say(f"{host} does not power off: cutting it off")
                kill(host)


# -- Commands ---------------------------------------------------------------------------------------------------


def up(hosts: list[str]) -> None:
    """Boot the hosts (building images and network first) and wait until they answer on SSH."""
    off = [host for host in hosts if not pid_of(host)]
    if off:
        power_on(off)
    wait_for(hosts)


def power_on(hosts: list[str]) -> None:
    """Make what hosts need that is not there, and start their kernels."""
    free = shutil.disk_usage("/dev/shm").free >> 20  # noqa: S108
    needed = sum(HOSTS[host].touches for host in hosts)
    if free < needed:
        die(f"the hosts' memory is in /dev/shm, which has {free} MB free, and they need {needed}: remount it larger")
    for path in (STATE, IMAGES):
        path.mkdir(parents=True, exist_ok=True)
    with (IMAGES / "lock").open("w") as lock:
        # Another lab of this checkout may be making them.
        fcntl.flock(lock, fcntl.LOCK_EX)
        install_packages()
        build_kernel()
        with ThreadPoolExecutor() as builders:
            # All at once: a lab that needs the other one would wait for the lock.
            list(builders.map(build_image, sorted({host.suite for host in HOSTS.values()})))
    write_ssh_config()
    make_network()
    set_sysctls()
    say(f"booting {' '.join(hosts)}")
    for host in hosts:
        boot(host)


def destroy(_: list[str]) -> None:
    """End the hosts, and remove their disks, the network namespace and the NAT rule. Other labs stay."""
    for host in HOSTS:
        kill(host)
    remove_network()
    shutil.rmtree(STATE, ignore_errors=True)


def cut(hosts: list[str]) -> None:
    """Cut the power of hosts."""
    for host in hosts:
        kill(host)


def copy_disks(hosts: list[str], source: Path, destination: Path) -> None:
    for host in hosts:
        for name in (f"{host}.cow", f"{host}.base"):
            run("cp", "--sparse=always", "--reflink=auto", source / name, destination / name)


def snapshot(hosts: list[str]) -> None:
    """Keep the hosts' disks as they are at this moment, as after a power cut, for `restore`."""
    destination = SNAPSHOTS / NAME
    destination.mkdir(parents=True, exist_ok=True)
    running = [host for host in hosts if pid_of(host)]
    for host in running:
        # What was written in the last half minute may be in the host's memory only.
        if ssh(host, "sync", timeout=120).returncode:
            die(f"{host} does not answer on SSH: what it has written is not all on its disk")
    # Their kernels stand still meanwhile, all at once, so that the disks fit each other.
    kernels = [pid for host in running if (pid := pid_of(host))]
    for pid in kernels:
        os.kill(pid, signal.SIGSTOP)
    try:
        copy_disks(hosts, STATE, destination)
    finally:
        for pid in kernels:
            os.kill(pid, signal.SIGCONT)
    if (STATE / "secrets").exists():
        run("cp", "--archive", STATE / "secrets", destination)


def restore(hosts: list[str], of: str = NAME) -> None:
    """Cut the power, take the disks back to the last snapshot, boot."""
    source = SNAPSHOTS / of
    for host in hosts:
        if not (source / f"{host}.cow").exists():
            die(f"{host} has no snapshot in {source}")
    cut(hosts)
    STATE.mkdir(parents=True, exist_ok=True)
    copy_disks(hosts, source, STATE)
    if (source / "secrets").exists():
        run("cp", "--archive", source / "secrets", STATE)
    up(hosts)


def status(hosts: list[str]) -> None:
    """Print as JSON which hosts run, and where."""
    print(json.dumps({host: {"address": address(host), "pid": pid_of(host)} for host in hosts}, indent=2))


COMMANDS = {
    "up": up,
    "stop": power_off,
    "cut": cut,
    "snapshot": snapshot,
    "restore": restore,
    "destroy": destroy,
    "status": status,
}


def main() -> None:
    summary = "commands:\n" + "\n".join(f"  {n:10} {f.__doc__.splitlines()[0]}" for n, f in COMMANDS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=summary, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("hosts", nargs="*", metavar="host", help=f"default: $LAB_HOSTS, or {', '.join(SITE)}")
    parser.add_argument("--of", metavar="LAB", help="restore: take the snapshot of this lab; default: $LAB")
    arguments = parser.parse_args()
    if arguments.of and arguments.command != "restore":
        parser.error("--of belongs to restore")
    for host in arguments.hosts:
        if host not in HOSTS:
            die(f"there is no host {host!r}; there are {', '.join(HOSTS)}")
    if arguments.command != "status":
        require_rights()
    # `stop` leaves nothing running, and `status` leaves nothing out.
    default = list(HOSTS) if arguments.command in ("stop", "status") else SITE
    hosts = arguments.hosts or os.environ.get("LAB_HOSTS", "").split() or default
    COMMANDS[arguments.command](hosts, **({"of": arguments.of} if arguments.of else {}))


if __name__ == "__main__":
    main()
