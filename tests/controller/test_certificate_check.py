"""The role certificate_check, and the controller's timer in docs/operations.md: what their units do and say."""

import re
import shlex
import shutil
import subprocess

import jinja2
import pytest

from docs.variables import ROOT

ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined)  # noqa: S701 - units are no HTML
ENVIRONMENT.filters["comment"] = "# {}".format


def unit(kind, path="/etc/ssl/certs/x.pem", days=30):
    text = (ROOT / f"roles/certificate_check/templates/certificate-check.{kind}.j2").read_text()
    names = {"certificate_check_name": "nginx", "certificate_check_file": path, "certificate_check_days": days}
    return ENVIRONMENT.from_string(text).render(ansible_managed="Ansible", **names) + "\n"


def verify(*paths):
    """Ask systemd; a machine that runs another init has no systemd-analyze."""
    if not shutil.which("systemd-analyze"):
        return
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True)  # noqa: S603, S607
    # systemd also names what is wrong with units of this machine.
    said = [line for line in done.stderr.splitlines() if any(path.name in line for path in paths)]
    assert said == []


@pytest.fixture
def check(tmp_path):
    """Run the command of the service for a certificate that ends in so many days."""

    def check(days):
        path = tmp_path / "a certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", "/CN=x", "-days", str(days), "-keyout", "/dev/null", "-out", str(path)]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        joined = re.sub(r"\\\n", " ", unit("service", path))
        [line] = re.findall(r"^ExecStart=(.+)$", joined, re.MULTILINE)
        done = subprocess.run(shlex.split(line.replace("$$", "$")), capture_output=True, text=True)  # noqa: S603
        return done.returncode, done.stderr, path

    return check


def test_a_certificate_that_is_valid_for_long_passes_without_a_word(check):
    assert check(31)[:2] == (0, "")


@pytest.mark.parametrize("days", [29, 1])
def test_a_certificate_that_ends_soon_fails_with_its_file_its_end_and_the_remedy(check, days):
    code, said, path = check(days)
    assert code == 1
    assert re.match(rf"<3>{re.escape(str(path))} ends at \w{{3}} +\d+ [\d:]+ \d{{4}} GMT\. Run site\.yml, ", said)


def test_a_file_that_is_no_certificate_fails(check, tmp_path):
    _, _, path = check(31)
    path.write_text("no certificate\n")
    joined = re.sub(r"\\\n", " ", unit("service", path)).replace("$$", "$")
    [line] = re.findall(r"^ExecStart=(.+)$", joined, re.MULTILINE)
    done = subprocess.run(shlex.split(line), capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 1
    assert str(path) in done.stderr


def test_systemd_accepts_the_units_of_the_check(tmp_path):
    paths = [tmp_path / f"certificate-check-nginx.{kind}" for kind in ("service", "timer")]
    for path in paths:
        path.write_text(unit(path.suffix[1:]))
    verify(*paths)


def test_systemd_accepts_the_timer_of_the_controller(tmp_path):
    text = (ROOT / "docs/operations.md").read_text()
    units = re.findall(r"```ini\n# (\S+)\n(.*?)```", text, re.DOTALL)
    paths = []
    for name, content in units:
        assert name.startswith("~/.config/systemd/user/")
        paths.append(tmp_path / name.rpartition("/")[2])
        # The example's checkout is not on this machine.
        paths[-1].write_text(content.replace("%h/airflow/.venv/bin/ansible-playbook", "/bin/true"))
    assert [path.name for path in paths] == ["airflow-certificates.service", "airflow-certificates.timer"]
    verify(*paths)
    # The playbooks of the example are there.
    for playbook in re.findall(r"playbooks/[\w-]+\.yml", units[0][1]):
        assert (ROOT / playbook).is_file()
