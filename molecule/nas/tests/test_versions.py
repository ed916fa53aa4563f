"""Every version of NFS, against a NAS that speaks no other one; the last one is the role's own, after NFS 3.

When a version fails: /proc/fs/nfsd/versions and `rpcinfo -p` on nas1 say what is served, the journals of rpc-statd and
rpcbind on both hosts whether locks of NFS 3 have their services, and `lsmod` whether nfsv3 and lockd are loaded.
"""

import base64
import contextlib
import json

import pytest

from lab import ROOT
from support.attack import play

PATH = "/opt/airflow/filestorage"
AS_AIRFLOW = "setpriv --reuid=50000 --regid=50000 --clear-groups"
# Takes a lock, says so in the file, and keeps the lock.
HOLD = """
import fcntl, os, sys, time
with open(sys.argv[1], "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("locked", file=file, flush=True)
    os.fsync(file.fileno())
    time.sleep(600)
"""
# Succeeds if nobody has a lock.
ASK = """
import fcntl, sys
fcntl.lockf(open(sys.argv[1], "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
TRY = (ROOT / "roles/preflight/files/try_nas.sh").read_text()


def install(host, name, text):
    """Write a program below /run, which the service user can read."""
    host.check_output(
        f"echo {base64.b64encode(text.encode()).decode()} | base64 --decode | install --mode=644 /dev/stdin /run/{name}"
    )


def attempt(host, version):
    """Return code and answer of the attempt that preflight makes."""
    install(host, "try_nas.sh", TRY)
    arguments = f"nas1:/srv/filestorage 50000 50000 {version} .nas look"
    done = host.run(f"timeout 150 unshare --mount sh /run/try_nas.sh {arguments}")
    return done.rc, done.stdout.splitlines()


@contextlib.contextmanager
def locked(edge1, path):
    """Let the service user of edge1 hold a lock on a file."""
    install(edge1, "hold.py", HOLD)
    edge1.check_output(f"systemd-run --quiet --collect --unit=holder {AS_AIRFLOW} python3 /run/hold.py {path}")
    try:
        edge1.check_output(f"timeout 120 sh -c 'until {AS_AIRFLOW} grep -q locked {path}; do sleep 0.5; done'")
        yield
    finally:
        edge1.check_output(f"systemctl stop holder; {AS_AIRFLOW} rm --force {path}")


# Numbers, as YAML reads them, and texts.
@pytest.mark.parametrize("version", [4.1, 4.0, 3, "4.2"], ids=str)
def test_a_version_is_mounted_written_to_and_locked(nas1, edge1, version):
    play("version.yml", "-e", json.dumps({"nas_mount_version": version}), directory="molecule/nas")
    mount = edge1.mount_point(PATH)
    assert mount.filesystem == ("nfs" if version == 3 else "nfs4")
    options = {f"vers={version}", "rw", "hard", "lookupcache=pos", "nosuid", "nodev", "noexec", "noatime"}
    options |= {"local_lock=none"}
    assert options <= set(mount.options)
    assert ("nconnect=4" in mount.options) == (version != 4.0)
    path, local = f"{PATH}/version", "/srv/filestorage/version"
    install(nas1, "ask.py", ASK)
    with locked(edge1, path):
        assert nas1.file(local).content_string == "locked\n"
        assert nas1.run(f"python3 /run/ask.py {local}").rc == 1, "the NAS does not know of the lock"
        edge1.check_output("systemctl stop holder")
        nas1.check_output(f"timeout 60 sh -c 'until python3 /run/ask.py {local} 2>/dev/null; do sleep 0.5; done'")
    assert attempt(edge1, version) == (0, ["identity "])
    if version != "4.2":
        assert attempt(edge1, "4.2") == (13, [f"accepts {version}"])


def test_after_nfs_3_nothing_of_it_stays(nas1, edge1):
    assert not edge1.service("rpcbind.socket").is_running
    assert not edge1.service("rpcbind.socket").is_enabled
    for name, host, ports in (("edge1", edge1, {"22"}), ("nas1", nas1, {"22", "2049"})):
        listens = host.check_output("ss --listening --tcp --numeric --no-header").splitlines()
        assert {line.split()[3].rpartition(":")[2] for line in listens} == ports, f"{name} still has ports of NFS 3"
