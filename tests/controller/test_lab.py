"""The lab's program, as far as it needs no hosts."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab import SITE, Lab, __main__, hosts, images, machine, snapshots


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A lab whose files are in a directory of the test."""
    monkeypatch.setattr("lab.ROOT", tmp_path)
    return Lab("test")


def test_labs_of_one_process_share_nothing_but_the_images(lab):
    other = Lab("demo")
    assert lab.state != other.state
    assert {lab.address(name) for name in lab.hosts}.isdisjoint(other.address(name) for name in other.hosts)
    assert lab.environment["LAB"] == "test"
    assert other.environment["LAB"] == "demo"


def test_a_lab_has_the_name_that_the_environment_gives(monkeypatch):
    monkeypatch.setenv("LAB", "other")
    assert Lab().name == "other"
    monkeypatch.delenv("LAB")
    assert Lab().name == "demo"


def test_a_scenario_may_choose_the_suite_of_a_host_that_has_no_disk_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_SUITES", "out1=forky")
    monkeypatch.setattr(images, "image", Path)
    monkeypatch.setattr("lab.ROOT", tmp_path)
    lab = Lab("test")
    assert (str(lab.hosts["out1"].image()), str(lab.hosts["edge1"].image())) == ("forky", "bookworm")
    lab.state.mkdir(parents=True)
    lab.hosts["out1"].disk.touch()
    lab.hosts["out1"].base.write_text("trixie\n")
    assert str(lab.hosts["out1"].image()) == "trixie"


def test_an_image_has_another_name_when_its_recipe_changes(monkeypatch):
    for name in ("debian_mirror", "apt_settings", "python_index"):
        monkeypatch.setattr(images, name, str)
    monkeypatch.setattr(images, "certificates", list)
    before = images.image("trixie")
    assert images.image("trixie") == before
    assert images.image("forky") != before
    monkeypatch.setattr(images, "SOURCE", images.SOURCE.replace("UseDNS no", "UseDNS yes"))
    assert images.image("trixie") != before


def test_an_image_stays_as_long_as_a_disk_or_a_snapshot_stands_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "IMAGES", tmp_path / "images")
    for name in ("trixie-1", "trixie-2", "trixie-3", "forky-1"):
        (tmp_path / f"images/{name}.ext4").parent.mkdir(exist_ok=True)
        (tmp_path / f"images/{name}.ext4").touch()
    for number, directory in ((1, "demo"), (2, "snapshots/default")):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "edge1.base").write_text(f"{tmp_path}/images/trixie-{number}.ext4\n")
    # As large as a guest's disk: the file must not be read.
    with (tmp_path / "demo/edge1.cow").open("wb") as disk:
        disk.truncate(16 << 30)
    # The tree of an image that is being built meanwhile: its files come and go.
    (tmp_path / "images/forky.tree/etc").mkdir(parents=True)
    (tmp_path / "images/forky.tree/etc/gone.base").symlink_to("nothing")
    assert [image.name for image in images.unused_images("trixie")] == ["trixie-3.ext4"]


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("up", ["nas1", "main1", "edge1"]),
        ("stop", ["nas1", "main1", "edge1", "out1", "edge2"]),
        ("status", ["nas1", "main1", "edge1", "out1", "edge2"]),
    ],
)
@pytest.mark.parametrize("scenario", [[], ["out1"]])
def test_out1_and_edge2_are_no_part_of_the_site_and_are_not_left_running(monkeypatch, command, meant, scenario):
    called = []
    monkeypatch.setattr(Lab, command, lambda lab, names: called.extend(names))
    # The command line prints the commands' descriptions.
    getattr(Lab, command).__doc__ = "Do nothing."
    monkeypatch.setattr(__main__, "require_rights", lambda: None)
    monkeypatch.setattr("sys.argv", ["lab", command])
    monkeypatch.setenv("LAB_HOSTS", " ".join(scenario))
    __main__.main()
    assert called == (scenario if scenario and command == "up" else meant)


def test_root_runs_the_same_command_of_this_checkout_from_any_directory(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("os.execvp", lambda program, words: ran.extend([Path.cwd(), *words]))
    monkeypatch.setattr("sys.argv", ["lab", "up", "edge1"])
    monkeypatch.chdir(tmp_path)
    machine.require_rights()
    assert ran[:2] == [machine.ROOT, "sudo"]
    assert ran[-4:] == ["-m", "lab", "up", "edge1"]


def test_hosts_that_run_are_not_booted_when_one_is_too_busy_to_answer_at_once(lab, monkeypatch, capsys):
    answers = {name: [True] for name in SITE} | {"main1": [True, False]}
    monkeypatch.setattr(hosts.Host, "pid", 1)
    monkeypatch.setattr(lab, "power_on", pytest.fail)
    monkeypatch.setattr(hosts.Host, "is_ready", lambda host: answers[host.name].pop())
    lab.up(SITE)
    assert not any(answers.values()), "all have answered"
    # The playbook takes any output for a change.
    assert capsys.readouterr().out == ""


def test_a_lab_whose_network_another_one_has_takes_nothing_of_it(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(lab.network, "namespace", "airflow-nothing")
    monkeypatch.setattr(lab.network, "owner", tmp_path / "owner")
    # An interface that there is.
    monkeypatch.setattr(lab.network, "veth", "lo")
    with pytest.raises(SystemExit, match=r"the network 10\..* is that of another lab: choose another name with LAB="):
        lab.network.make(lab.hosts)
    # `destroy` removes the network of the owner.
    assert not lab.network.owner.exists()


def test_a_snapshot_has_what_was_written_just_now_and_its_disks_fit_each_other(lab, monkeypatch):
    order = []
    kernels = {name: subprocess.Popen(["sleep", "60"]) for name in SITE}  # noqa: S607
    monkeypatch.setattr(hosts.Host, "pid", property(lambda host: kernels[host.name].pid))

    def ssh(host, *command, **_):
        order.append((host.name, *command))
        return SimpleNamespace(returncode=0)

    def stand_still():
        return all(Path(f"/proc/{kernel.pid}/stat").read_text().split()[2] == "T" for kernel in kernels.values())

    monkeypatch.setattr(hosts.Host, "ssh", ssh)
    monkeypatch.setattr(snapshots, "copy_disks", lambda *_: order.append(machine.wait_until(stand_still, 5)))
    try:
        lab.snapshot(SITE)
    finally:
        for kernel in kernels.values():
            kernel.kill()
            kernel.wait()
    assert order == [*((name, "sync") for name in SITE), True]


@pytest.fixture
def on_two_cpus(tmp_path, monkeypatch):
    """Boot hosts of labs in an order, and return the CPU of each."""

    def on_two_cpus(order):
        cpus = {}
        monkeypatch.setattr(hosts, "pid_of", lambda host, state: f"{state.name}/{host}")
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: {cpus[pid]} if pid else {0, 1})
        for name in order:
            cpu = hosts.least_busy_cpu(name.split("/")[1], tmp_path)
            (tmp_path / f"{name}.pid").parent.mkdir(exist_ok=True)
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


def test_what_starts_a_host_is_whole_while_the_next_one_is_booted(lab, tmp_path, monkeypatch):
    read = []
    lab.state.mkdir(parents=True)
    for name in ("image", "kernel"):
        monkeypatch.setattr(images, name, lambda *_: tmp_path)
    monkeypatch.setattr(hosts.Host, "write_seed", lambda host: tmp_path)
    monkeypatch.setattr(hosts, "least_busy_cpu", lambda *_: 0)
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)

    def start(command, **_):
        read.append(os.open(command[4], os.O_RDONLY))
        return SimpleNamespace(pid=0)

    monkeypatch.setattr("subprocess.Popen", start)
    lab.hosts["nas1"].boot()
    lab.hosts["main1"].boot()
    # A file that was written over would be empty for a moment.
    assert os.fstat(read[0]).st_nlink == 0
    assert all(b"exec -a" in os.read(file, 4096) for file in read)
