"""Base images of Debian suites, and the kernel; all labs of this checkout share both.

An image's name has a digest of what the image is made of, which includes the text of this file: an edit rebuilds it.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .machine import ROOT, apt_settings, certificates, debian_mirror, install_packages, python_index, run

IMAGES = ROOT / ".lab" / "images"
# As it was when this process began: images are named and built from the same text.
SOURCE = Path(__file__).read_text()

# What a freshly installed Debian server has and minbase lacks, as far as this project needs it. No udev: there is
# no hardware to find, and the search takes longer than the rest of the boot.
GUEST_PACKAGES = ["ca-certificates", "dbus", "iproute2", "iptables", "kmod", "openssh-server", "procps", "python3"]
GUEST_PACKAGES += ["python3-apt", "sudo", "systemd", "systemd-sysv", "tzdata", "zstd"]
# Testing's own Python is 3.14; stable's is 3.13.
EXTRA_PACKAGES = {"forky": ["python3.13"]}
# Ansible logs in as this user, whose sudo asks for a password: that of the lab, from this file at each boot.
USER = "admin"
ACCOUNT = "etc/lab-account"

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
# Few rounds: each task of Ansible has the password checked.
ExecStart=/usr/bin/sh -c 'chpasswd --crypt-method SHA512 --sha-rounds 1000 </etc/lab-account'
ExecStart=/usr/bin/sh -c 'cat /etc/hostname >/proc/sys/kernel/hostname'
[Install]
WantedBy=sysinit.target
"""

# For each task Ansible sends the same modules in an archive, and Python compiles the archive's modules at each import:
# a quarter of a task's time on a host of the lab. With this cache, root's system Python compiles each text once.
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


def digest(suite: str) -> str:
    """Return a digest of what an image is made of: the text of this file, and what this machine adds."""
    parts = [suite, str(debian_mirror()), apt_settings(), python_index(), SOURCE]
    parts += [path.read_text() for path in certificates()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def image(suite: str) -> Path:
    return IMAGES / f"{suite}-{digest(suite)}.ext4"


def kernel() -> Path:
    return IMAGES / f"kernel-{digest('kernel')}"


def bootstrap(suite: str, target: Path, *options: str) -> None:
    """Unpack a Debian suite into a directory, from the mirror that this machine's apt uses."""
    mirror = debian_mirror()
    # A mirror's copy of testing or unstable can be past its Valid-Until; the signature is still checked.
    stale = '--aptopt=Acquire::Check-Valid-Until "false"'
    shutil.rmtree(target, ignore_errors=True)
    run("mmdebstrap", "--format=directory", stale, *options, suite, target, *([mirror] if mirror else []))


def build_kernel(say: Callable[[str], None]) -> None:
    """Get user-mode Linux from Debian testing, with its C library, which this machine may not have.

    The seccomp mode of testing's version starts a program in a quarter of the time that stable's ptrace mode takes.
    """
    target = kernel()
    if target.exists():
        return
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


def build_image(suite: str, say: Callable[[str], None]) -> None:
    """Build the base image of a Debian suite, unless it exists. Hosts write to copy-on-write files above the image."""
    target = image(suite)
    if target.exists():
        return
    say(f"building the {suite} image")
    packages = GUEST_PACKAGES + EXTRA_PACKAGES.get(suite, [])
    tree, overlay = IMAGES / f"{suite}.tree", IMAGES / f"{suite}.overlay"
    shutil.rmtree(overlay, ignore_errors=True)
    files = {
        "etc/apt/apt.conf.d/80lab": apt_settings(),
        "etc/systemd/system/lab-seed.service": SEED_UNIT,
        "etc/ssh/sshd_config.d/lab.conf": "PermitRootLogin prohibit-password\nUseDNS no\n",
        # As hardened servers do. sudo keeps what a session may not give to others.
        "etc/systemd/system/ssh.service.d/umask.conf": "[Service]\nUMask=0027\n",
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

    # systemd runs its generators at every boot and daemon-reload, which then take twice as long. Those of NFS come
    # with its packages.
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
        f'chroot "$1" useradd --create-home --groups sudo --shell /bin/bash {USER}',
        'chroot "$1" systemctl enable lab-seed.service ssh.service',
        'chroot "$1" systemctl mask getty.target apt-daily.timer apt-daily-upgrade.timer '
        "modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service",
        generators,
        'rm -f "$1"/etc/ssh/ssh_host_* "$1"/var/cache/apt/archives/*.deb',
        # Otherwise the first use of apt on each host reads a hundred megabytes of indexes.
        'chroot "$1" apt-cache gencaches',
        # Roles refresh an apt index that is a day old (cache_valid_time). A new host on an old image has to refresh it
        # much sooner: the packages in the index may be gone.
        'touch --date="22 hours ago" "$1"/var/lib/apt/lists',
    ]
    bootstrap(
        suite, tree, "--variant=minbase", f"--include={','.join(packages)}", "--skip=cleanup/apt",
        # No path-exclude here: mmdebstrap would run each package through a filter in Python.
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


def unused_images(suite: str) -> list[Path]:
    """Return the images that no host's disk and no snapshot is based on."""
    # No deeper: the tree of an image that is being built may vanish meanwhile.
    marks = [*IMAGES.parent.glob("*/*.base"), *IMAGES.parent.glob("snapshots/*/*.base")]
    bases = {Path(mark.read_text().strip()).name for mark in marks}
    return [image for image in IMAGES.glob(f"{suite}-*.ext4") if image.name not in bases]


def build(suites: Iterable[str], say: Callable[[str], None]) -> None:
    """Build the kernel and the images of the suites, as far as they are missing."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (IMAGES / "lock").open("w") as lock:
        # Another lab of this checkout may be building them.
        fcntl.flock(lock, fcntl.LOCK_EX)
        install_packages(say)
        build_kernel(say)
        with ThreadPoolExecutor() as builders:
            # All suites at once: a lab that needs another one would wait for the lock.
            list(builders.map(lambda suite: build_image(suite, say), sorted(set(suites))))
