"""try_nas.sh of the role preflight, with stand-ins for the programs that mount: a share is a directory."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from lab import ROOT

SCRIPT = ROOT / "roles/preflight/files/try_nas.sh"
STAND_INS = {
    "getent": 'echo "192.0.2.5 STREAM nas1"',
    # Which ports answer.
    "python3": 'case " $PORTS " in *" $4 "*) ;; *) exit 1 ;; esac',
    # mount -i -t TYPE -o vers=VERSION,... nas1:SHARE DIRECTORY: the share takes the place of the directory.
    "mount": """
        echo "$3 $5" >>"$LOG"
        version=${5%%,*}
        case " $VERSIONS " in *" ${version#vers=} "*) ;; *) echo "mount: refused" >&2; exit 32 ;; esac
        rmdir "$7" && ln -s "/${6#*:/}" "$7"
    """,
    "umount": 'rm "$1" && mkdir "$1"',
    "setpriv": 'shift 5; exec "$@"',
}


@pytest.fixture
def attempt(tmp_path):
    """Return a function that runs the script for a share, and returns its code and its output as {name: text}."""
    for name, text in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def attempt(share, *step, version="4.2", versions="4.2 4.1", ports="2049"):
        environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
        environment |= {"LOG": str(tmp_path / "log"), "VERSIONS": versions, "PORTS": ports}
        command = ["sh", str(SCRIPT), f"nas1:{share}", "1", "2", version, ".guard", *step]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
        lines = (line.partition(" ") for line in done.stdout.splitlines())
        return done.returncode, {name: text for name, _, text in lines}

    return attempt


@pytest.fixture
def shares(tmp_path):
    paths = [tmp_path / name for name in ("share", "other")]
    for path in paths:
        path.mkdir()
    return paths


def names(share):
    return sorted(path.name for path in share.iterdir())


def test_hosts_that_see_the_same_share_make_its_identity_once(attempt, shares):
    share, _ = shares
    code, main = attempt(share, "leave")
    assert (code, main["identity"]) == (0, "")
    assert names(share) == [main["mark"]]
    assert attempt(share, "look", main["mark"]) == (0, {"identity": ""})
    code, made = attempt(share, "make", main["mark"])
    assert code == 0
    assert "made" in made
    assert names(share) == [".guard"]
    assert (share / ".guard").stat().st_mode & 0o777 == 0o440
    identity = (share / ".guard").read_text().strip()
    assert made["identity"] == identity
    assert len(identity) == 36
    # Again: nothing changes.
    _, main = attempt(share, "leave")
    assert attempt(share, "make", main["mark"]) == (0, {"identity": identity})
    assert names(share) == [".guard"]


def test_a_guard_of_an_earlier_version_stays(attempt, shares):
    share, _ = shares
    (share / ".guard").write_text("nas1:/srv/filestorage\n")
    _, main = attempt(share, "leave")
    assert attempt(share, "make", main["mark"]) == (0, {"identity": "nas1:/srv/filestorage"})
    assert (share / ".guard").read_text() == "nas1:/srv/filestorage\n"


def test_another_share_is_told_from_the_right_one_even_if_it_is_a_copy(attempt, shares):
    share, other = shares
    for each in shares:
        (each / ".guard").write_text("the same\n")
    _, main = attempt(share, "leave")
    assert attempt(other, "look", main["mark"]) == (16, {"identity": "the same"})
    assert attempt(share, "remove", main["mark"]) == (0, {"identity": "the same"})
    assert names(share) == names(other) == [".guard"]


def test_without_an_answer_of_the_main_server_nothing_is_compared(attempt, shares):
    assert attempt(shares[1], "look", "") == (0, {"identity": ""})
    assert names(shares[1]) == []


def test_marks_of_interrupted_attempts_are_removed(attempt, shares):
    share, _ = shares
    (share / ".airflow-probe-old").touch()
    os.utime(share / ".airflow-probe-old", (0, 0))
    (share / ".airflow-probe-new").touch()
    _, main = attempt(share, "leave")
    assert names(share) == sorted([".airflow-probe-new", main["mark"]])


def test_a_version_that_the_server_refuses_is_answered_with_one_that_it_accepts(attempt, shares, tmp_path):
    share, _ = shares
    assert attempt(share, "leave", versions="4.0 3", ports="2049 111") == (13, {"accepts": "4.0"})
    assert attempt(share, "leave", version="4.1", versions="3", ports="2049 111") == (13, {"accepts": "3"})
    assert "nfs vers=3,addr=192.0.2.5,soft,timeo=50,retrans=2,noexec,nosuid,nolock,proto=tcp" in (
        (tmp_path / "log").read_text()
    )
    # Without rpcbind, NFS 3 is not worth an attempt.
    assert attempt(share, "leave", versions="3") == (13, {})
    assert names(share) == []
    assert not any(path.name.startswith("tmp.") for path in tmp_path.iterdir())


def test_ports_that_do_not_answer_are_named(attempt, shares):
    assert attempt(shares[0], "leave", ports="") == (12, {"port": "2049"})
    assert attempt(shares[0], "leave", version="3") == (12, {"port": "111"})


# The tasks of the role -------------------------------------------------------------------------------------------


@pytest.fixture
def play(attempt, tmp_path):
    """Return a function that runs the NAS's part of the role on main1 and edge1, both of which are this machine."""
    (tmp_path / "bin/unshare").write_text('#!/bin/sh\nshift; exec "$@"\n')
    (tmp_path / "bin/unshare").chmod(0o755)
    (tmp_path / "group_vars").symlink_to(ROOT / "playbooks/group_vars")
    uses = [{"name": "preflight", "tasks_from": name} for name in ("nas", "report")]
    tasks = [{"ansible.builtin.import_role": use, "vars": {"preflight_nas_guard": "make"}} for use in uses]
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))

    def play(main, edge, *arguments, **variables):
        hosts = {"main1": main, "edge1": edge}
        groups = {
            group: {"hosts": {name: {"nas_mount_src": hosts[name]}}}
            for group, name in (("airflow_main", "main1"), ("airflow_edge", "edge1"))
        }
        groups["all"] = {"vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
        groups["all"]["vars"] |= variables
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(groups))
        environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        environment |= {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
        environment |= {"LOG": str(tmp_path / "log"), "VERSIONS": "4.2 4.1", "PORTS": "2049"}
        command = ["ansible-playbook", "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
        said = re.sub(r"\s+", " ", done.stdout)
        return done.returncode, dict(re.findall(r"(\w+) : ok=\d+ changed=(\d+)", said)), said

    return play


def test_hosts_may_know_the_share_by_different_addresses(play, shares):
    share, _ = shares
    here, there = f"nas1:{share}", f"[2001:db8::5]:{share}"
    code, changed, said = play(here, there, "--check")
    assert (code, sum(map(int, changed.values()))) == (0, 0), said
    assert names(share) == []
    code, changed, said = play(here, there)
    assert (code, sum(map(int, changed.values()))) == (0, 1), said
    assert names(share) == [".nas"]
    # Again, and on one host: the main server is asked, too.
    code, changed, said = play(here, there, "--limit", "edge1")
    assert (code, changed) == (0, {"edge1": "0"}), said


def test_two_shares_are_refused_and_neither_gets_a_guard(play, shares):
    code, changed, said = play(f"nas1:{shares[0]}", f"nas2:{shares[1]}")
    assert (code, sum(map(int, changed.values()))) == (2, 0), said
    assert "Findings: 1." in said
    assert names(shares[0]) == names(shares[1]) == []
