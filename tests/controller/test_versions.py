"""plugins/vars/supported.py: versions of ansible-core that are not supported are refused before a playbook is read."""

import os
import re
import runpy
import subprocess

import pytest
import yaml

from lab import ROOT

SUPPORTED = runpy.run_path(str(ROOT / "plugins/vars/supported.py"))
OLDEST, NEWEST = ("{}.{}".format(*SUPPORTED[name]) for name in ("OLDEST", "NEWEST"))
PLAYBOOKS = [str(path.relative_to(ROOT)) for path in [ROOT / "site.yml", *sorted((ROOT / "playbooks").glob("*.yml"))]]
INVENTORY = {"airflow_main": {"hosts": {"main1": None}}}


@pytest.mark.parametrize("version", ["2.19.0", "2.19.14", "2.20.0b1", "2.21.5"])
def test_versions_from_the_oldest_to_the_newest_are_accepted(version):
    assert SUPPORTED["refusal"](version) == ""


@pytest.mark.parametrize("version", ["2.9.27", "2.14.18", "2.18.19", "2.22.0rc1", "3.0.0"])
def test_other_versions_are_refused_with_what_is_supported(version):
    said = SUPPORTED["refusal"](version)
    assert said.startswith(f"This is ansible-core {version}, in ")
    assert "these playbooks need ansible-core 2.19 to 2.21." in said
    assert "python3 -m pip install 'ansible-core>=2.19,<2.22'" in said


def test_the_readmes_and_the_lock_name_versions_that_are_supported():
    assert f"(ansible-core {OLDEST} to {NEWEST})" in (ROOT / "README.md").read_text()
    assert f"(ansible-core {OLDEST}~{NEWEST})" in (ROOT / "README.ko.md").read_text()
    [locked] = re.findall(r"(?m)^ansible-core==(\S+)", (ROOT / "requirements/controller.txt").read_text())
    assert SUPPORTED["refusal"](locked) == ""


def test_every_playbook_is_refused_by_one_message(tmp_path):
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(INVENTORY))
    # Python imports this module when it starts.
    (tmp_path / "sitecustomize.py").write_text("import ansible.release\nansible.release.__version__ = '2.18.3'\n")
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PYTHONPATH": str(tmp_path)}
    command = ["ansible-playbook", "-i", str(tmp_path / "hosts.yml")]
    runs = {
        playbook: subprocess.Popen(  # noqa: S603
            [*command, playbook], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for playbook in PLAYBOOKS
    }
    for playbook, run in runs.items():
        stdout, stderr = run.communicate()
        assert run.returncode == 1, f"{playbook}: {stdout}{stderr}"
        assert stdout == "", playbook
        [said] = [line for line in stderr.splitlines() if line and "WARNING" not in line]
        assert "This is ansible-core 2.18.3, in " in said
