"""A worker that is off is left out of a run; without any other host, and after a failure, a run ends."""

import os
import re
import subprocess

import pytest
import yaml

from lab import ROOT

PLAYS = [
    pytest.param(play, id=f"{path.stem}: {play['name']}")
    for path in sorted((ROOT / "playbooks").glob("*.yml"))
    for play in yaml.safe_load(path.read_text())
    if "hosts" in play
]
# services.yml has a play of workers, too, which connects to no host.
CONNECTING = ("airflow", "dags", "hosts", "nas", "preflight", "rotate-secrets")
HERE = {"ansible_connection": "local", "ansible_become": False}
# Nobody listens there.
OFF = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_retries": 0}
VARIABLES = {
    "airflow_url": "https://main1",
    "airflow_dags_src": ["{{ inventory_dir }}"],
    "airflow_dags_archive": "{{ inventory_dir }}/dags.tar",
    "airflow_dags_path": "{{ inventory_dir }}/{{ inventory_hostname }}/dags",
    "nas_mount_src": "nas1:/srv",
    "secrets_directory": "{{ inventory_dir | dirname }}/secrets",
}
# A playbook like ours, of which one host can fail.
SHORT = """
- hosts: airflow_main:airflow_edge
  gather_facts: false
  max_fail_percentage: 0
  tasks:
    - import_tasks: {root}/playbooks/tasks/reach.yml
- hosts: airflow_main:airflow_edge
  gather_facts: false
  {ending}
  tasks:
    - fail: {{msg: broken}}
      when: inventory_hostname == failing
- hosts: airflow_main:airflow_edge
  gather_facts: false
  max_fail_percentage: 0
  tasks:
    - import_tasks: {root}/playbooks/tasks/none_failed.yml
- hosts: localhost
  gather_facts: false
  tasks:
    - debug: {{msg: the end}}
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a playbook with main1, edge1 and edge2, and returns exit code and output."""

    def run(playbook, *arguments, **hosts):
        hosts = {"main1": HERE, "edge1": OFF, "edge2": HERE} | hosts
        edges = {host: hosts[host] for host in ("edge1", "edge2")}
        groups = {"airflow_main": {"hosts": {"main1": hosts["main1"]}}, "airflow_edge": {"hosts": edges}}
        groups |= {name: {"children": {"airflow_main": None}} for name in ("airflow_celery", "mysql", "redis")}
        # Not beside the playbook, where group_vars would be read twice.
        directory = tmp_path / "inventory"
        (directory / "group_vars").mkdir(parents=True)
        (directory / "hosts.yml").write_text(yaml.safe_dump(groups))
        (directory / "group_vars/all.yml").write_text(yaml.safe_dump(VARIABLES))
        command = ["ansible-playbook", "-i", str(directory / "hosts.yml"), str(playbook), *arguments]
        environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S603
        return done.returncode, done.stdout

    return run


@pytest.fixture
def short(tmp_path, run):
    """Run SHORT, of which one host fails or none."""
    (tmp_path / "group_vars").symlink_to(ROOT / "playbooks/group_vars")

    def short(failing, ending):
        (tmp_path / "short.yml").write_text(SHORT.format(root=ROOT, ending=ending))
        return run(tmp_path / "short.yml", "-e", f"failing='{failing}'")

    return short


def recap(output):
    """Return what the recap says of each host, and the line below the recap."""
    text = output.partition("PLAY RECAP")[2]
    hosts = {name: dict(re.findall(r"(\w+)=(\d+)", rest)) for name, rest in re.findall(r"(?m)^(\S+) +: (ok=.+)", text)}
    named = re.findall(r"(?m)^Hosts that could not be reached: .*", text)
    return hosts, named


@pytest.mark.parametrize("play", PLAYS)
def test_each_play_says_how_a_failure_ends(play):
    """With a host that is off in the play, any_errors_fatal alone would let plays on localhost follow a failure."""
    assert play.get("any_errors_fatal") is False or play.get("max_fail_percentage") == 0


@pytest.mark.parametrize("name", CONNECTING)
def test_the_first_play_of_workers_leaves_out_workers_that_are_off(name):
    plays = yaml.safe_load((ROOT / f"playbooks/{name}.yml").read_text())
    first = next(play for play in plays if re.match(r"airflow_main:.*airflow_edge", play.get("hosts", "")))
    task = (first.get("pre_tasks") or first["tasks"])[0]
    assert task["ansible.builtin.import_tasks"] == "tasks/reach.yml"
    assert not first.get("gather_facts")


def test_a_release_without_an_edge_that_is_off(run):
    code, output = run("playbooks/dags.yml", "--check")
    hosts, named = recap(output)
    assert code == 4, output
    assert named == ["Hosts that could not be reached: edge1. Run site.yml again when these hosts answer."]
    assert {name for name, count in hosts.items() if count["unreachable"] == "1"} == {"edge1"}
    assert hosts["main1"]["changed"] == hosts["edge2"]["changed"] != "0"


def test_a_release_without_the_main_server_ends(run):
    code, output = run("playbooks/dags.yml", "--check", main1=OFF)
    hosts, named = recap(output)
    assert code == 2, output
    assert named == ["Hosts that could not be reached: edge1, main1. Run site.yml again when these hosts answer."]
    assert hosts["edge2"]["changed"] == "0"


def test_a_rotation_that_is_refused_on_a_host_sets_no_secret_aside(run, tmp_path):
    """Airflow is not installed on this machine."""
    secret = tmp_path / "secrets/jwt_secret"
    secret.parent.mkdir(parents=True)
    secret.touch()
    code, output = run("playbooks/rotate-secrets.yml")
    assert code == 2, output
    assert "main1 is in the inventory, and Airflow is not installed there" in output
    assert [path.name for path in secret.parent.iterdir()] == ["jwt_secret"]


@pytest.mark.parametrize(
    ("failing", "ending", "code"),
    [
        ("", "any_errors_fatal: false", 4),
        ("edge2", "any_errors_fatal: false", 2),
        ("edge2", "max_fail_percentage: 0", 2),
        ("main1", "max_fail_percentage: 0", 2),
    ],
)
def test_a_run_goes_on_after_a_host_that_is_off_and_ends_after_a_failure(short, failing, ending, code):
    found, output = short(failing, ending)
    assert found == code, output
    assert ("the end" in output) == (code == 4)
    assert ("edge2 failed; see above." in output) == (failing == "edge2" and ending == "any_errors_fatal: false")
