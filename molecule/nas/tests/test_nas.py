"""The roles nas_server and nas_mount alone, after they had been run with another owner, other options and clients."""

import pytest

PATH = "/opt/airflow/filestorage"
UNIT = "opt-airflow-filestorage.mount"
AS_AIRFLOW = "setpriv --reuid=50000 --regid=50000 --clear-groups"


@pytest.fixture
def nas_is_away(nas1):
    nas1.check_output("systemctl stop nfs-server.service")
    yield
    nas1.check_output("systemctl start nfs-server.service")


def test_the_share_is_mounted_now_and_at_boot(edge1):
    assert edge1.mount_point(PATH).device == "nas1:/srv/filestorage"
    assert edge1.service(UNIT).is_enabled


def test_the_path_before_is_not_mounted(edge1):
    assert not edge1.mount_point("/srv/nas-before").exists
    assert "nas-before" not in edge1.check_output("systemctl list-unit-files --no-legend '*.mount'")


def test_options_are_the_new_ones(edge1):
    options = edge1.mount_point(PATH).options
    assert {"rw", "vers=4.2", "hard", "lookupcache=pos", "nconnect=4", "nosuid", "nodev", "noexec", "noatime"} <= set(
        options
    )


def test_what_the_airflow_user_writes_arrives(nas1, edge1):
    edge1.check_output(f"head -c 5000000 /dev/urandom | {AS_AIRFLOW} tee {PATH}/big >/dev/null")
    try:
        digest = nas1.file("/srv/filestorage/big").sha256sum
        # Root may not even look: it is nobody there.
        assert edge1.check_output(f"{AS_AIRFLOW} sha256sum {PATH}/big").split()[0] == digest
        assert nas1.check_output("stat --format=%u:%g /srv/filestorage/big") == "50000:50000"
    finally:
        edge1.check_output(f"{AS_AIRFLOW} rm --force {PATH}/big")


def test_what_was_there_under_another_owner_is_the_airflow_users(nas1):
    owner = nas1.check_output("stat --format=%u:%g:%a /srv/filestorage/before")
    assert owner in ("50000:50000:770", "50000:50000:2770")


def test_root_of_a_client_is_nobody_there(edge1):
    done = edge1.run(f"touch {PATH}/by-root")
    assert "Permission denied" in done.stderr


def test_programs_on_the_share_do_not_run(edge1):
    edge1.check_output(f"{AS_AIRFLOW} sh -c 'echo \"#!/bin/sh\" >{PATH}/program; chmod 755 {PATH}/program'")
    try:
        assert edge1.run(f"{AS_AIRFLOW} {PATH}/program").rc == 126
    finally:
        edge1.check_output(f"{AS_AIRFLOW} rm {PATH}/program")


def test_strangers_cannot_mount_it(nas1):
    """The NAS itself is not among the clients."""
    done = nas1.run("timeout 60 mount -t nfs4 nas1:/srv/filestorage /mnt")
    nas1.run("umount /mnt")
    assert done.rc == 32
    assert "access denied" in done.stderr or "No such file" in done.stderr


def test_of_nfs_one_port_is_open(nas1):
    """With NFS 3, which it served before, there are five more."""
    listens = nas1.check_output("ss --listening --tcp --numeric --no-header").splitlines()
    assert {line.split()[3].rpartition(":")[2] for line in listens} == {"22", "2049"}


def test_a_write_waits_for_a_nas_that_is_away(edge1, nas1, nas_is_away):
    edge1.check_output(f"systemd-run --unit=writer {AS_AIRFLOW} sh -c 'echo late >{PATH}/late; sync {PATH}/late'")
    assert edge1.service("writer").is_running
    nas1.check_output("systemctl start nfs-server.service")
    edge1.check_output("timeout 120 sh -c 'while systemctl is-active --quiet writer; do sleep 0.5; done'")
    assert nas1.file("/srv/filestorage/late").content_string == "late\n"
    edge1.check_output(f"{AS_AIRFLOW} rm {PATH}/late")
