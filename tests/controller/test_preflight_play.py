"""The checks of the controller, as a person runs them: a playbook ends before it contacts a host, with one table."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ALL_ON_MAIN = {group: {"children": {"airflow_main": None}} for group in ("airflow_celery", "mysql", "redis")}
HOSTS = {"airflow_main": {"hosts": {"main1": None}}, "airflow_edge": {"hosts": {"edge1": None}}, **ALL_ON_MAIN}
VARIABLES = {
    "airflow_url": "https://main1",
    "nas_mount_src": "nas1:/srv",
    "secrets_directory": "{{ inventory_dir }}/../../secrets/production",
    "firewall_ssh_sources": ["198.51.100.0/24"],
    # Nobody answers there; a play that gets so far fails.
    "ansible_host": "192.0.2.1",
    "ansible_ssh_common_args": "-o ConnectTimeout=1",
}


@pytest.fixture
def site(tmp_path):
    """Return a function that writes an inventory, and returns its directory."""

    def write(**variables):
        directory = tmp_path / "inventories/production"
        (directory / "group_vars").mkdir(parents=True)
        (directory / "hosts.yml").write_text(yaml.safe_dump(HOSTS))
        (directory / "group_vars/all.yml").write_text(yaml.safe_dump(VARIABLES | variables))
        return directory

    return write


def refuse(inventory, playbook="preflight.yml", *arguments):
    """Run a playbook, which has to fail, and return its findings: host, what, remedy."""
    command = ["ansible-playbook", "-i", str(inventory), f"playbooks/{playbook}", *arguments]
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 2, done.stdout + done.stderr
    assert "unreachable=1" not in done.stdout, done.stdout
    table = re.search(r"(?s)what is wrong +\| what to do\n[^\n]+\n(.*?)\n\S", done.stdout)
    assert table, done.stdout + done.stderr
    findings = []
    for rows in re.split(r"\n *\n", table[1]):
        cells = zip(*(line.split("|", 2) for line in rows.splitlines() if "|" in line), strict=True)
        findings.append(tuple(" ".join(" ".join(cell).split()) for cell in cells))
    assert f"Findings: {len(findings)}." in done.stdout
    return findings


def test_everything_that_is_wrong_is_said_at_once(site):
    wrong = {"airflow_edge_queues": "a_queue", "nas_mount_src": "/srv", "airflow_database_name": "other"}
    found = refuse(site(**wrong, firewall_ssh_sources=[]))
    assert [what for _, what, _ in found] == [
        "nas_mount_src is '/srv'; it has to be a share, as server:/path.",
        "airflow_edge_queues is the text 'a_queue', and has to be a list.",
        "airflow_database_name is 'other', but Airflow uses the MySQL server on main1, of the group mysql.",
        "firewall_ssh_sources is empty: SSH would be admitted from the address of this run alone.",
    ]
    assert {host for host, _, _ in found} == {"main1 and 1 more"}


def test_an_inventory_with_old_names(site):
    old = {"airflow_edge_api_url": "https://main1/edge_worker/v1/rpcapi", "airflow_runtime_uid": 1000}
    old |= {"airflow_main_celery_concurrency": 3, "redis_password": "hidden"}
    found = refuse(site(**old))
    assert ("main1 and 1 more", "airflow_runtime_uid is now airflow_base_uid.") in {row[:2] for row in found}
    remedies = [remedy for _, _, remedy in found]
    assert "Write airflow_url: https://main1" in remedies
    assert "Rename airflow_main_celery_concurrency to airflow_celery_concurrency in your inventory." in remedies
    assert "Remove redis_password from your inventory." in remedies
    assert "hidden" not in str(found)


def test_a_variable_that_is_not_defined(site):
    [(host, what, _)] = refuse(site(airflow_base_settings={"core.parallelism": "{{ nowhere }}"}))
    assert host == "main1"
    assert what == "airflow_base_settings cannot be evaluated: 'nowhere' is undefined"


def test_inputs_that_are_missing(site):
    found = refuse(site(airflow_url="", secrets_directory=""))
    assert [what for _, what, _ in found] == ["airflow_url is not set.", "secrets_directory is not set."]


@pytest.mark.parametrize("playbook", ["preflight.yml", "secrets.yml"])
def test_secrets_in_the_inventory_are_refused_and_stay_as_they_are(site, playbook):
    directory = site(secrets_directory="{{ inventory_dir }}/secrets")
    (directory / "secrets").mkdir()
    (directory / "secrets/fernet_key").write_text("key")
    [(host, what, remedy)] = refuse(directory, playbook)
    assert host == "site"
    assert f"secrets_directory is {directory}/secrets, in the inventory directory {directory}" in what
    new = ROOT / "secrets/production"
    assert f"mkdir -p {new.parent} && mv {directory}/secrets {new} and set this" in remedy
    assert remedy.endswith(f"secrets_directory: {new}")
    assert [path.name for path in (directory / "secrets").iterdir()] == ["fernet_key"]


def test_secrets_that_were_left_in_the_inventory_are_not_made_anew(site):
    directory = site()
    (directory / "secrets").mkdir()
    (directory / "secrets/fernet_key").write_text("key")
    new = directory.parent.parent / "secrets/production"
    [(_, what, remedy)] = refuse(directory, "secrets.yml")
    assert f"the secrets of this site are in {directory}/secrets." in what
    assert remedy.endswith(f"mkdir -p {new.parent} && mv {directory}/secrets {new}")
    assert not new.exists()


@pytest.mark.parametrize(
    ("playbook", "limit", "right"),
    [
        ("../site.yml", "edge1", "edge1,localhost"),
        ("preflight.yml", "edge1:main1", "edge1,main1,localhost"),
        ("secrets.yml", "airflow_main", "airflow_main,localhost"),
        ("certificates.yml", "!main1", "edge1,localhost"),
    ],
)
def test_a_limit_that_leaves_out_this_machine(site, playbook, limit, right):
    [(_, what, remedy)] = refuse(site(), playbook, "--limit", limit)
    assert what.startswith(f"--limit is {limit}, which leaves out this machine (localhost).")
    assert remedy == f"Run the playbook with --limit {right}"


def test_a_limit_that_keeps_this_machine(site):
    directory = site(secrets_directory="{{ inventory_dir }}/secrets")
    [(_, what, _)] = refuse(directory, "secrets.yml", "--limit", "edge1,localhost")
    assert what.startswith("secrets_directory is ")


def test_a_rotation_of_some_hosts(site):
    [(_, what, remedy)] = refuse(site(), "rotate-secrets.yml", "--limit", "edge1,localhost")
    assert what.startswith("--limit is edge1,localhost; every host needs the new secrets")
    assert remedy == "Run the playbook without --limit."


def test_a_rotation_that_was_interrupted(site):
    directory = site()
    previous = directory.parent.parent / "secrets/production/jwt_secret.previous"
    previous.parent.mkdir(parents=True)
    previous.touch()
    [(_, what, remedy)] = refuse(directory)
    assert "rotate-secrets.yml was interrupted: there is jwt_secret.previous in" in what
    assert remedy.endswith(f"ansible-playbook -i {directory} playbooks/rotate-secrets.yml -e rotate=jwt_secret")


def test_site_yml_without_an_inventory_boots_no_lab():
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "LAB": "not-there"}
    command = ["ansible-playbook", "site.yml"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S603
    said = " ".join(done.stdout.split())
    assert done.returncode == 2, said
    assert "that of the lab not-there, none of whose hosts runs. `make demo` boots a lab on this machine." in said
    assert "-i inventories/NAME site.yml. Inventories of servers here: " in said
    assert not (ROOT / ".lab/not-there").exists()
