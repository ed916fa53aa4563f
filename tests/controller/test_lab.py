"""The lab's program, as far as it needs no hosts."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import lab


def test_an_image_stays_as_long_as_a_disk_or_a_snapshot_stands_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "IMAGES", tmp_path / "images")
    for name in ("trixie-1", "trixie-2", "trixie-3", "forky-1"):
        (tmp_path / f"images/{name}.ext4").parent.mkdir(exist_ok=True)
        (tmp_path / f"images/{name}.ext4").touch()
    for number, directory in ((1, "demo"), (2, "snapshots/default")):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "edge1.base").write_text(f"{tmp_path}/images/trixie-{number}.ext4\n")
    # As large as a guest's disk: it must not be read.
    with (tmp_path / "demo/edge1.cow").open("wb") as disk:
        disk.truncate(16 << 30)
    # Of an image that is being made beside this one: what it holds comes and goes.
    (tmp_path / "images/forky.tree/etc").mkdir(parents=True)
    (tmp_path / "images/forky.tree/etc/gone.base").symlink_to("nothing")
    assert [image.name for image in lab.unused_images("trixie")] == ["trixie-3.ext4"]


@pytest.mark.parametrize(
    ("command", "hosts"),
    [("up", ["nas1", "main1", "edge1"]), ("stop", ["nas1", "main1", "edge1", "out1", "edge2"])],
)
def test_out1_and_edge2_are_no_part_of_the_site_and_are_not_left_running(monkeypatch, command, hosts):
    meant = []
    monkeypatch.setitem(lab.COMMANDS, command, meant.extend)
    monkeypatch.setattr(lab, "require_rights", lambda: None)
    monkeypatch.setattr("sys.argv", ["lab.py", command])
    monkeypatch.delenv("LAB_HOSTS", raising=False)
    lab.main()
    assert meant == hosts


def test_hosts_that_run_are_not_booted_when_one_is_too_busy_to_answer_at_once(monkeypatch, capsys):
    answers = {host: [True] for host in lab.SITE} | {"main1": [True, False]}
    monkeypatch.setattr(lab, "pid_of", lambda host: 1)
    monkeypatch.setattr(lab, "power_on", pytest.fail)
    monkeypatch.setattr(lab, "is_ready", lambda host: answers[host].pop())
    lab.up(lab.SITE)
    assert not any(answers.values()), "all have answered"
    # The playbook takes what is printed for a change.
    assert capsys.readouterr().out == ""


def test_a_lab_whose_network_another_one_has_takes_nothing_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "NAMESPACE", "airflow-nothing")
    monkeypatch.setattr(lab, "OWNER", tmp_path / "owner")
    # An interface that there is.
    monkeypatch.setattr(lab, "VETH", "lo")
    with pytest.raises(SystemExit, match=r"the network 10\..* is that of another lab: choose another name with LAB="):
        lab.make_network()
    # What `destroy` goes by.
    assert not lab.OWNER.exists()


def test_a_snapshot_has_what_was_written_just_now_and_its_disks_fit_each_other(tmp_path, monkeypatch):
    order = []
    kernels = {host: subprocess.Popen(["sleep", "60"]) for host in lab.SITE}  # noqa: S607
    monkeypatch.setattr(lab, "SNAPSHOTS", tmp_path / "snapshots")
    monkeypatch.setattr(lab, "STATE", tmp_path / "lab")
    monkeypatch.setattr(lab, "pid_of", lambda host: kernels[host].pid)
    monkeypatch.setattr(
        lab, "ssh", lambda host, *command, **_: order.append((host, *command)) or SimpleNamespace(returncode=0)
    )

    def stand_still():
        return all(Path(f"/proc/{kernel.pid}/stat").read_text().split()[2] == "T" for kernel in kernels.values())

    monkeypatch.setattr(lab, "copy_disks", lambda *_: order.append(lab.wait_until(stand_still, 5)))
    try:
        lab.snapshot(lab.SITE)
    finally:
        for kernel in kernels.values():
            kernel.kill()
            kernel.wait()
    assert order == [*((host, "sync") for host in lab.SITE), True]


@pytest.fixture
def on_two_cpus(tmp_path, monkeypatch):
    """Boot hosts of labs in an order, and return the CPU of each."""

    def on_two_cpus(order):
        cpus = {}
        monkeypatch.setattr(lab, "pid_of", lambda host, state: f"{state.name}/{host}")
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: {cpus[pid]} if pid else {0, 1})
        for name in order:
            monkeypatch.setattr(lab, "STATE", (tmp_path / name).parent)
            cpu = lab.least_busy_cpu(name.split("/")[1])
            lab.STATE.mkdir(exist_ok=True)
            (tmp_path / f"{name}.pid").touch()
            cpus[name] = cpu
        return cpus

    return on_two_cpus


@pytest.mark.parametrize(
    "order",
    [
        "site/nas1 site/main1 site/edge1 roles/nas1 roles/edge1 site/edge2 roles/main1",
        "roles/nas1 roles/edge1 site/nas1 site/main1 site/edge1 site/edge2 roles/main1",
        "site/nas1 roles/nas1 site/main1 roles/edge1 site/edge1 site/edge2 roles/main1",
    ],
)
def test_the_sites_main_server_shares_its_cpu_with_none_that_is_busy(on_two_cpus, order):
    cpus = on_two_cpus(order.split())
    beside = {name for name, cpu in cpus.items() if cpu == cpus["site/main1"]} - {"site/main1"}
    assert beside <= {"site/nas1", "roles/nas1"}


def test_the_main_servers_of_two_sites_have_a_cpu_each(on_two_cpus):
    hosts = ("nas1", "main1", "edge1")
    cpus = on_two_cpus([f"{name}/{host}" for name in ("first", "second") for host in hosts])
    assert cpus["first/main1"] not in (cpus["first/edge1"], cpus["second/main1"])
    assert cpus["second/main1"] != cpus["second/edge1"]


def test_what_starts_a_host_is_whole_while_the_next_one_is_booted(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(lab, "STATE", tmp_path)
    monkeypatch.setattr(lab, "write_seed", lambda host: tmp_path)
    monkeypatch.setattr(lab, "build_kernel", lambda: tmp_path)
    monkeypatch.setattr(lab, "image", lambda suite: tmp_path)
    monkeypatch.setattr(lab, "least_busy_cpu", lambda host: 0)
    monkeypatch.setattr(lab.os, "sched_setaffinity", lambda *_: None)

    def start(command, **_):
        read.append(os.open(command[4], os.O_RDONLY))
        return SimpleNamespace(pid=0)

    monkeypatch.setattr(lab.subprocess, "Popen", start)
    lab.boot("nas1")
    lab.boot("main1")
    # A file that was written over would be empty for a moment.
    assert os.fstat(read[0]).st_nlink == 0
    assert all(b"exec -a" in os.read(file, 4096) for file in read)
