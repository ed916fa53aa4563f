"""Several operators: two runs at once, secrets in ansible-vault, an inventory outside of the checkout."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

import new_file
from lab import ROOT

ALL_ON_MAIN = {
    group: {"children": {"airflow_main": None}} for group in ("airflow_celery", "mysql", "redis", "reverse_proxy")
}
HOSTS = {"airflow_main": {"hosts": {"main1": None}}, "airflow_edge": {"hosts": {"edge1": None}}, **ALL_ON_MAIN}
# As in inventories/production.example.
SECRETS = "{{ inventory_dir | dirname | dirname }}/secrets/{{ inventory_dir | basename }}"
VARIABLES = {
    "airflow_url": "https://main1",
    "firewall_ssh_sources": ["192.0.2.0/24"],
    "airflow_main_users": [{"username": "kim", "email": "kim@example.com", "roles": ["Op"]}],
    "nas_mount_src": "nas1:/srv",
    "secrets_directory": SECRETS,
    # Nobody answers there.
    "ansible_host": "127.0.0.1",
    "ansible_port": 1,
}
LOCAL = ["playbooks/secrets.yml", "playbooks/certificates.yml"]


class Site:
    """A site whose inventory and secrets are beside the checkout, not in it."""

    def __init__(self, directory):
        self.directory = directory
        self.secrets = directory / "secrets/production"
        inventory = directory / "inventories/production"
        (inventory / "group_vars").mkdir(parents=True, exist_ok=True)
        (inventory / "hosts.yml").write_text(yaml.safe_dump(HOSTS))
        (inventory / "group_vars/all.yml").write_text(yaml.safe_dump(VARIABLES))
        self.environment = os.environ | {"ANSIBLE_HOME": str(directory / "home"), "ANSIBLE_SSH_RETRIES": "0"}
        self.environment |= {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        self.command = ["ansible-playbook", "-i", str(inventory)]

    def begin(self, *arguments):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*self.command, *arguments], cwd=ROOT, env=self.environment, **pipes)  # noqa: S603

    def play(self, *arguments, code=0):
        return end(self.begin(*arguments), code)

    def files(self):
        return {path.name: path.read_text() for path in self.secrets.iterdir()}


def end(run, code=0):
    said, _ = run.communicate()
    assert run.returncode == code, said
    return said


def changed(said):
    """Return how many tasks have changed something, of each host."""
    return {host: int(number) for host, number in re.findall(r"(?m)^(\S+) +: ok=\d+ +changed=(\d+)", said)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site whose secrets and certificates two runs have created at once."""
    site = Site(tmp_path_factory.mktemp("operators") / "site")
    for run in [site.begin(*LOCAL), site.begin(*LOCAL)]:
        end(run)
    return site


def test_of_many_that_create_a_file_at_once_one_succeeds(tmp_path):
    number, path = 8, tmp_path / "secret"
    barrier = Barrier(number)

    def create(content):
        barrier.wait()
        return new_file.create(path, content)

    with ThreadPoolExecutor(number) as pool:
        created = list(pool.map(create, map(str, range(number))))
    assert [str(index) for index, is_new in enumerate(created) if is_new] == [path.read_text()]
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert not new_file.create(path, "other")


def test_two_first_runs_at_once_end_with_secrets_and_certificates_that_fit(site):
    files = site.files()
    assert not [name for name in files if name.startswith(".")]
    certificates = {name: load_pem_x509_certificate(files[f"{name}.pem"].encode()) for name in ("authority", "main1")}
    for name, certificate in certificates.items():
        key = load_pem_private_key(files[f"{name}.key"].encode(), None)
        assert key.public_key() == certificate.public_key(), name
        certificate.verify_directly_issued_by(certificates["authority"])
    assert len(json.loads(files["jwks.json"])["keys"]) == 1


def test_two_releases_at_once_have_their_own_files_each(tmp_path):
    """Of two sites, from one checkout."""
    runs = {}
    for name in ("first", "second"):
        site = Site(tmp_path / name)
        for number in range(100):
            path = tmp_path / name / f"dags/{number}/{name}.py"
            path.parent.mkdir(parents=True)
            path.write_text(name * 1000)
        answer = {"content": "{{ __airflow_dags_built | to_json }}", "dest": f"{tmp_path}/{name}.json", "mode": "0600"}
        tasks = [
            {"ansible.builtin.import_role": {"name": "airflow_dags", "tasks_from": "build"}},
            {"ansible.builtin.copy": answer, "delegate_to": "localhost", "run_once": True},
        ]
        play = {"hosts": "airflow_main", "gather_facts": False, "tasks": tasks}
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump([play]))
        # Both sites belong to one user.
        site.environment["ANSIBLE_HOME"] = str(tmp_path / "home")
        source = json.dumps({"airflow_dags_src": [str(tmp_path / name / "dags")]})
        runs[name] = site.begin(str(tmp_path / f"{name}.yml"), "-e", source)
    for name, run in runs.items():
        end(run)
        built = json.loads((tmp_path / f"{name}.json").read_text())
        with tarfile.open(built["path"]) as archive:
            names = {path.rpartition("/")[2] for path in archive.getnames() if re.match(r"\./\d+/", path)}
        assert names == {f"{name}.py"}
    assert len(list((tmp_path / "home/tmp/airflow-dags").iterdir())) == 2


def documented(site):
    """Return the command of docs/operations.md that encrypts what is not encrypted yet."""
    lines = (ROOT / "docs/operations.md").read_text().splitlines()
    [command] = [line for line in lines if "| xargs" in line and "ansible-vault encrypt" in line]
    return command.replace("../site", shlex.quote(str(site.directory)))


@pytest.fixture
def encrypted(site, tmp_path):
    """A copy of the site, with its secrets in ansible-vault; what they were before."""
    shutil.copytree(site.directory, tmp_path / "site")
    site = Site(tmp_path / "site")
    plain = site.files()
    for extension in ("pem", "key"):
        (site.secrets / f"own.{extension}").write_text(plain[f"main1.{extension}"])
    (site.directory / "password").write_text("of the vault\n")
    site.environment["ANSIBLE_VAULT_PASSWORD_FILE"] = str(site.directory / "password")
    encrypt(site)
    return site, plain


def encrypt(site):
    subprocess.run(documented(site), shell=True, check=True, env=site.environment, capture_output=True)  # noqa: S602
    assert {text.partition(";")[0] for text in site.files().values()} == {"$ANSIBLE_VAULT"}


def test_secrets_in_ansible_vault_are_read_and_stay_as_they_are(encrypted):
    site, plain = encrypted
    files = site.files()
    own = {
        f"api_{name}": f"{site.secrets}/own.{kind}" for name, kind in (("certificate", "pem"), ("private_key", "key"))
    }
    # The plays that follow find no host.
    said = site.play(*LOCAL, "playbooks/preflight.yml", "-e", json.dumps(own), code=2)
    assert changed(said)["localhost"] == 0
    assert "what is wrong" not in said
    # With nothing to encrypt, the command does nothing.
    encrypt(site)
    assert site.files() == files

    wanted = {name: plain[name] for name in ("admin_password", "fernet_key", "jwt_secret", "redis_password")}
    wanted |= {"jwt_private_key": plain["jwt_private_key"].strip(), "jwks": plain["jwks.json"]}
    expressions = {name: f"{{{{ site_secrets.{name} }}}}" for name in wanted}
    expressions["authorities"] = "{{ site_authorities }}"
    expressions["key"] = "{{ site_https.private_key }}"
    answer = {"content": "{{ answer | to_json }}", "dest": str(site.directory / "answer.json"), "mode": "0600"}
    play = {"hosts": "main1", "connection": "local", "gather_facts": False}
    play["tasks"] = [{"ansible.builtin.copy": answer, "vars": {"answer": expressions}}]
    for name in ("group_vars", "host_vars"):
        (site.directory / name).symlink_to(ROOT / "playbooks" / name)
    (site.directory / "play.yml").write_text(yaml.safe_dump([play]))
    site.play(str(site.directory / "play.yml"))
    said = json.loads((site.directory / "answer.json").read_text())
    assert said == wanted | {"authorities": plain["authority.pem"], "key": plain["main1.key"]}


def test_a_rotation_renews_secrets_that_are_in_ansible_vault(encrypted):
    site, plain = encrypted
    old = site.files()
    # What comes before this task, and what comes after the new secrets, needs hosts.
    rotate = [
        "playbooks/rotate-secrets.yml",
        "--start-at-task",
        "Validate `rotate`",
        "-e",
        "rotate=jwt_secret,fernet_key",
    ]
    site.play(*rotate, code=2)
    files = site.files()
    for name in ("jwt_secret", "fernet_key"):
        assert files[f"{name}.previous"] == old[name]
        assert len(files[name]) == len(plain[name])
        assert files[name] != plain[name]
    # The next run keeps what the interrupted run has created.
    site.play(*rotate, code=2)
    assert site.files() == files
    encrypt(site)
