"""What Ansible makes of the inventories: hosts, and nothing else that lies beside them."""

import json
import os
import shutil
import subprocess

from lab import ROOT


def hosts_of(inventory):
    """Return the hosts of an inventory, as ansible-inventory lists them with the project's settings."""
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    command = ["ansible-inventory", "-i", str(inventory), "--list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    listed = json.loads(done.stdout)
    return {host for group in listed.values() for host in group.get("hosts", [])} | set(listed["_meta"]["hostvars"])


def test_secrets_and_certificates_beside_an_inventory_do_not_become_hosts(tmp_path):
    directory = tmp_path / "production"
    shutil.copytree(ROOT / "inventories/production.example", directory)
    for name in ("secrets/fernet_key", "secrets/user_kim", "files/airflow.pem", "airflow.key", "authority.crt"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("not-a-host\n")
    assert hosts_of(directory) == {"main1", "edge1"}


def test_no_playbook_runs_on_all_hosts():
    """A text beside the inventory that became a host would be connected to, and printed."""
    for path in [ROOT / "site.yml", *(ROOT / "playbooks").glob("*.yml"), *(ROOT / "molecule").glob("*/*.yml")]:
        assert "hosts: all\n" not in path.read_text(), path
