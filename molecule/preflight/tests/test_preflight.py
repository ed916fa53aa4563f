"""What cannot work is refused before a host is changed, with the variable, its value and the remedy.

What the controller finds by itself is tested in tests/controller/test_preflight_play.py.
"""

import json
import os
import re
import socket
import subprocess
import threading

import pytest
import yaml

from lab import ROOT
from support import LAB, NETWORK, address
from support.attack import play as succeed
from support.attack import sign

LAB_INVENTORY = ROOT / "inventories/lab"


def play(playbook, *arguments, inventory=LAB_INVENTORY):
    """Run a playbook that has to fail, and return what it said, with line breaks folded; its table cell by cell."""
    command = ["ansible-playbook", "-i", str(inventory), str(ROOT / "playbooks" / playbook), *arguments]
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S603
    assert done.returncode != 0, done.stdout
    recap = done.stdout.rpartition("PLAY RECAP")[2]
    assert "changed=0" in recap
    assert not any(f"changed={n}" in recap for n in range(1, 10)), recap
    # YAML writes a quote twice, sometimes.
    return " ".join([*cells(done.stdout), *done.stdout.split()]).replace("''", "'")


def cells(output):
    """Yield the cells of the table of findings, each as one line."""
    table = re.search(r"(?s)what is wrong +\| what to do\n[^\n]+\n(.*?)\n\S", output)
    for rows in re.split(r"\n *\n", table[1]) if table else ():
        columns = zip(*(line.split("|", 2) for line in rows.splitlines() if "|" in line), strict=True)
        yield from (" ".join(" ".join(column).split()) for column in columns)


@pytest.fixture
def inventory(tmp_path):
    """Return a function that writes the lab's inventory with some groups replaced."""

    def write(**groups):
        hosts = yaml.safe_load((LAB_INVENTORY / "hosts.yml").read_text()) | groups
        directory = tmp_path / "inventories" / "lab"
        directory.mkdir(parents=True)
        (directory / "hosts.yml").write_text(yaml.safe_dump(hosts))
        (directory / "group_vars").symlink_to(LAB_INVENTORY / "group_vars")
        for name in (".lab", "secrets"):
            (tmp_path / name).symlink_to(ROOT / name)
        return directory / "hosts.yml"

    return write


def test_a_certificate_of_your_own_that_would_not_work(tmp_path):
    def said(certificate, key):
        return play("preflight.yml", "-e", f"api_certificate={certificate}", "-e", f"api_private_key={key}")

    right, key = sign(tmp_path, "right")
    other, other_key = sign(tmp_path, "other", names="DNS:*.example.com")
    ended, ended_key = sign(tmp_path, "ended", days=-1)
    assert f"api_private_key is '{key}.old', which is not a file on this machine" in said(right, f"{key}.old")
    assert f"'{other_key}', which is not the key of api_certificate, '{right}'." in said(right, other_key)
    assert f"api_certificate is '{ended}', which expired at" in said(ended, ended_key)
    text = said(other, other_key)
    assert f"but api_certificate, '{other}', is for DNS:*.example.com." in text
    assert "Write one of these names into airflow_url" in text


def test_everything_that_is_wrong_is_said_at_once(inventory):
    """On several hosts, and by several plays."""
    arguments = ("-e", "airflow_base_python=/usr/bin/python3.9", "-e", f"airflow_database_host={NETWORK}.1")
    port = ("-e", "airflow_database_port=1")
    said = play("preflight.yml", *arguments, *port, inventory=inventory(mysql={"hosts": {}}))
    for host in ("main1", "edge1"):
        assert f"airflow_base_python is /usr/bin/python3.9, which is missing on {host}." in said
    assert f"airflow_database_host is {NETWORK}.1, and main1 gets no MySQL greeting from its port 1" in said
    assert "Findings: 3." in said


# What other people have on hosts: how to make that, and how to remove it.
FOREIGN = {
    "main1": (
        "systemd-run --quiet --unit foreign python3 -m http.server 443",
        "until ss -Hltn | grep -q :443; do sleep 0.2; done",
        "mkdir -p /var/lib/mysql/shop",
        "apt-get update --quiet",
        "apt-get install --quiet --yes --no-install-recommends redis-server",
        "until redis-cli set a b; do sleep 0.2; done",
    ),
    "edge1": (
        "mount -t tmpfs -o size=100m tmpfs /opt",
        "mkdir -p /opt/airflow/dags /etc/airflow",
        "touch /opt/airflow/dags/old.py /etc/airflow/airflow.cfg",
        "groupadd --gid 50000 kim",
        "useradd --uid 50000 --gid 50000 kim",
        f"ip route add unreachable {address('main1')}",
    ),
    "nas1": ("mkdir /srv/foreign", "touch /srv/foreign/file"),
}
REMOVE = {
    "main1": (
        "systemctl stop foreign",
        "rm -r /var/lib/mysql",
        "apt-get purge --quiet --yes redis-server redis-tools",
        "rm -rf /var/lib/redis",
    ),
    "edge1": (
        f"ip route delete unreachable {address('main1')}",
        "userdel kim",
        "groupdel kim",
        "umount /opt",
        "rm -r /etc/airflow",
    ),
    "nas1": ("rm -r /srv/foreign",),
}


@pytest.fixture
def foreign(main1, edge1, nas1):
    hosts = {"main1": main1, "edge1": edge1, "nas1": nas1}
    try:
        for name, commands in FOREIGN.items():
            hosts[name].check_output(" && ".join(commands))
        yield
    finally:
        for name, commands in REMOVE.items():
            # All, also when one fails.
            hosts[name].run("; ".join(commands))


def test_hosts_with_services_data_and_accounts_of_somebody_else(foreign):
    said = play("preflight.yml", "-e", "nas_server_path=/srv/foreign")
    for what in (
        "reverse_proxy_port is 443, where",
        "(foreign.service) listens already.",
        "MySQL has the schemas shop there, and this project has not installed MySQL",
        "Redis is in use there (1 keys, 0 clients), and this project has not installed Redis",
        "would use or replace /etc/airflow/airflow.cfg, /opt/airflow/dags.",
        "The file system of /opt/airflow has",
        "airflow_base_uid is 50000, the uid of the account kim there",
        "airflow_base_gid is 50000, the gid of the group kim there",
        "The host cannot connect to TCP port 443 of main1.lab.test (airflow_url, https://main1.lab.test):",
        "nas_server_path is /srv/foreign, which has files there and belongs to uid 0 and gid 0.",
    ):
        assert what in said, what
    assert "Findings: 9." in said
    # What is accepted is no finding, and changes nothing, either.
    accepted = ["accounts", "airflow", "disk", "mysql", "nas", "network", "ports", "redis"]
    said = succeed(
        "preflight.yml", "-e", json.dumps({"preflight_accepted": accepted, "nas_server_path": "/srv/foreign"})
    )
    assert not re.search("changed=[1-9]", said)


def test_an_operating_system_that_is_too_old(edge1):
    release = 'ID=debian\\nNAME="Debian GNU/Linux"\\nVERSION_ID="11"\\nPRETTY_NAME="Debian GNU/Linux 11 (bullseye)"\\n'
    edge1.check_output(f"printf '{release}' >/run/os-release; echo 11.11 >/run/debian_version")
    for name in ("os-release", "debian_version"):
        edge1.check_output(f"mount --bind /run/{name} /etc/{name}")
    try:
        said = play("preflight.yml")
        assert "edge1 runs Debian 11.11 with systemd." in said
        assert "Use a host with systemd and Debian 12" in said
    finally:
        edge1.check_output("umount /etc/os-release /etc/debian_version")


def test_a_clock_that_is_off(edge1):
    edge1.check_output("date --set '+30 seconds'")
    try:
        assert "The clock of edge1 differs from that of main1 by" in play("preflight.yml")
    finally:
        edge1.check_output("date --set '-30 seconds'")


def test_a_mariadb_server(inventory):
    """The greeting alone decides, so a listener that sends MariaDB's is enough for this branch."""
    greeting = b"\x0a5.5.5-10.11.6-MariaDB-0+deb12u1\0" + bytes(40)
    with socket.create_server((f"{NETWORK}.1", 0)) as server:

        def greet():
            connection, _ = server.accept()
            with connection:
                connection.sendall(len(greeting).to_bytes(3, "little") + b"\0" + greeting)

        threading.Thread(target=greet, daemon=True).start()
        said = play(
            "preflight.yml",
            "-e",
            f"airflow_database_host={NETWORK}.1",
            "-e",
            f"airflow_database_port={server.getsockname()[1]}",
            inventory=inventory(mysql={"hosts": {}}),
        )
    assert f"airflow_database_host is {NETWORK}.1, and MariaDB is there" in said


@pytest.mark.parametrize("playbook", ["preflight.yml", "services.yml", "airflow.yml"])
def test_a_rotation_that_was_interrupted(playbook):
    previous = LAB.secrets / "jwt_secret.previous"
    previous.parent.mkdir(exist_ok=True)
    previous.touch()
    try:
        said = play(playbook)
    finally:
        previous.unlink()
    assert "rotate-secrets.yml was interrupted: there is jwt_secret.previous in" in said
    assert f"-i {LAB_INVENTORY} playbooks/rotate-secrets.yml -e rotate=jwt_secret" in said


@pytest.mark.parametrize("playbook", ["preflight.yml", "airflow.yml"])
def test_a_fernet_key_that_cannot_read_what_is_there(main1, playbook):
    """The secrets were lost, and others made."""
    line = f'AIRFLOW__CORE__FERNET_KEY="{"k" * 43}=,{"o" * 43}="'
    main1.check_output(f"mkdir -p /etc/airflow && echo '{line}' >/etc/airflow/airflow.env")
    try:
        said = play(playbook)
    finally:
        main1.check_output("rm /etc/airflow/airflow.env")
    assert "/fernet_key is not the key with which main1 encrypts connections and variables" in said
    assert "kkk" not in said


def test_an_inventory_that_sets_become_does_not_mean_this_machine(inventory, tmp_path):
    """Nobody could not make the secrets."""
    variables = {"ansible_become": True, "ansible_become_user": "nobody"}
    path = inventory(all={"vars": variables})
    succeed("secrets.yml", "-i", str(path), "-e", f"secrets_directory={tmp_path}/secrets")
    assert (tmp_path / "secrets/jwks.json").exists()


def test_a_rotation_that_leaves_hosts_out():
    assert "--limit is main1; every host needs the new secrets" in play("rotate-secrets.yml", "--limit", "main1")


def test_a_rotation_with_a_host_that_is_not_installed():
    assert "edge1 is in the inventory, and Airflow is not installed there. Run site.yml first" in play(
        "rotate-secrets.yml"
    )


@pytest.mark.parametrize("name", ["feeds/rates.yaml", "feeds/bank/rates.yml"])
def test_a_feed_that_nobody_would_look_for(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    said = play("dags.yml", "-e", json.dumps({"airflow_dags_src": [str(tmp_path)]}))
    assert f"{name}: a feed's file ends in .yml, and is in {tmp_path}/feeds itself" in said


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "/srv/dags",
            """Write airflow_dags_src: [/srv/dags], or, on a command line, -e '{"airflow_dags_src": ["/srv/""",
        ),
        ([], "airflow_dags_src is empty: write at least one directory"),
        (["/nowhere"], "airflow_dags_src: /nowhere is not a directory on this machine"),
    ],
)
def test_directories_of_dag_code_that_cannot_be(value, message):
    assert message in play("dags.yml", "-e", json.dumps({"airflow_dags_src": value}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nas_mount_src=nowhere:/srv"], "the name nowhere is not known there"),
        (["nas_mount_src=edge1:/srv"], "edge1 does not answer on TCP port 2049"),
        (["nas_mount_src=nas1:/nothing"], "the server refuses the mount."),
        (
            ["airflow_base_uid=12345", "airflow_base_gid=12345"],
            "uid 12345 (airflow_base_uid) cannot write there",
        ),
    ],
)
def test_a_nas_that_cannot_be_used(arguments, message):
    extra = [word for argument in arguments for word in ("-e", argument)]
    assert message in play("nas.yml", "--limit", "main1,edge1", *extra)


@pytest.fixture
def other_share(nas1):
    """A second share of nas1, with a copy of what the first one says of itself."""
    nas1.check_output(
        "install --directory --owner=50000 --group=50000 /srv/other; "
        "echo a-copy | tee /srv/other/.nas >/srv/filestorage/.nas; chmod 0444 /srv/*/.nas; "
        "exportfs -o rw,no_subtree_check edge1:/srv/other"
    )
    yield "nas1:/srv/other"
    nas1.check_output("exportfs -u edge1:/srv/other; rm -r /srv/other /srv/filestorage/.nas")


def test_a_host_with_another_share(inventory, other_share, nas1):
    """A copy of the main server's."""
    said = play("nas.yml", inventory=inventory(airflow_edge={"hosts": {"edge1": {"nas_mount_src": other_share}}}))
    assert f"is {other_share} on edge1 and nas1.lab.test:/srv/filestorage on main1, and these are two shares" in said
    assert ".nas is a-copy on both, so one is a copy of the other." in said
    assert nas1.check_output("find /srv -name '.airflow-probe-*'") == ""


def test_a_host_that_knows_the_share_by_another_address(inventory, nas1):
    """And that speaks another version of NFS."""
    edge = {"nas_mount_src": f"{address('nas1')}:/srv/filestorage", "nas_mount_version": 4.1}
    path = inventory(nas={"hosts": {}}, airflow_edge={"hosts": {"edge1": edge}})
    succeed("preflight.yml", "-i", str(path))
    assert nas1.check_output("find /srv/filestorage -mindepth 1 -name '.*'") == ""
