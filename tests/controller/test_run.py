"""The table of molecule/run.py, and its scheduler with commands that need no lab."""

import asyncio
import contextlib
import importlib.util
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

PROGRAM = Path(__file__).parents[2] / "molecule/run.py"
spec = importlib.util.spec_from_file_location("molecule_run", PROGRAM)
run = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)

JOBS = {job.name: job for job in run.TABLE}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CACHE", tmp_path)
    monkeypatch.delenv("JOBS", raising=False)


def job(name, *commands, after=(), also_after=()):
    return run.Job(name, "test", None, commands or ("true",), after, also_after)


def start(names, at_once, fails=()):
    """Schedule jobs of the table that do nothing. Returns the events in their order, and what passed."""
    events = []

    async def execute(job):
        events.append(f"+{job.name}")
        await asyncio.sleep(0.01)
        events.append(f"-{job.name}")
        return job.name not in fails

    return events, asyncio.run(run.schedule(run.choose(names), at_once, execute))


def test_every_scenario_is_in_the_table_once_and_no_job_comes_before_those_it_follows():
    scenarios = {path.parent.name for path in PROGRAM.parent.glob("*/molecule.yml")}
    commands = " ".join(command for job in run.TABLE for command in job.commands)
    assert set(re.findall(r"--scenario-name (\w+)", commands)) == scenarios
    assert len(JOBS) == len(run.TABLE)
    for number, job in enumerate(run.TABLE):
        assert {*job.after, *job.also_after} <= {earlier.name for earlier in run.TABLE[:number]}, job.name


def test_the_first_job_of_a_shared_lab_makes_it_new_and_the_last_removes_it():
    for lab in ("default", "roles"):
        first, *others, last = (job for job in run.TABLE if job.lab == lab)
        assert first.commands[:1] == last.commands[-1:] == run.DESTROY_LAB
        for job in (first, *others, last):
            kept = [command for command in job.commands if command.startswith("molecule")]
            assert all(" test " not in command or "--destroy never" in command for command in kept), job.name
            if job is not first:
                assert any(JOBS[name].lab == lab for name in job.after), f"{job.name} needs what is on its lab"


def test_site_and_default_do_what_molecule_test_does():
    steps = yaml.safe_load((PROGRAM.parent / "default/molecule.yml").read_text())["scenario"]["test_sequence"]
    commands = [*JOBS["site"].commands[1:], *JOBS["default"].commands]
    assert [re.split("[ -]", command.removeprefix("molecule "))[0] for command in commands] == [
        step.split("_")[0] for step in steps if step not in ("dependency", "destroy", "create")
    ]


def test_a_job_brings_those_it_continues_and_no_others():
    assert [job.name for job in run.choose(["outages"])] == ["site", "browser", "default", "airflow_edge", "outages"]
    assert [job.name for job in run.choose(["mysql"])] == ["nas", "airflow_dags", "redis", "mysql"]
    assert "feeds" not in [job.name for job in run.choose(["test"])]
    assert {job.suite for job in run.choose(["test-more"])} == {"test-more"}


@pytest.mark.parametrize("at_once", [1, 2, 3, 20])
def test_jobs_start_in_order_and_not_too_many_at_once(at_once):
    events, passed = start(["test"], at_once)
    assert passed == {job.name: True for job in run.choose(["test"])}
    running = 0
    for number, event in enumerate(events):
        running += 1 if event[0] == "+" else -1
        assert running <= at_once
        if event[0] == "+":
            before = JOBS[event[1:]].after + JOBS[event[1:]].also_after
            assert {f"-{name}" for name in before} <= set(events[:number])
    assert events[0] == "+site"


def test_one_by_one_a_lab_is_removed_before_the_next_one_boots():
    events, _ = start(["test"], 1)
    assert [event[1:] for event in events[::2]] == [job.name for job in run.choose(["test"])]


def test_also_after_does_not_choose_the_other_job():
    events, _ = start(["mysql", "default"], 20)
    assert events.index("-default") < events.index("+mysql")
    events, passed = start(["mysql"], 20)
    assert passed["mysql"]
    assert "+default" not in events


def test_after_a_failure_no_job_starts_and_running_jobs_finish():
    events, passed = start(["test"], 3, fails=["lint"])
    assert not passed["lint"]
    assert sorted(events) == ["+lint", "+site", "+units", "-lint", "-site", "-units"]


def test_the_number_of_jobs_at_once(monkeypatch):
    for free, names, jobs, expected in [
        (15, ["test"], "", 3),
        (14.9, ["test"], "", 1),
        (100, ["test-more"], "", 1),
        (100, ["outages"], "", 1),
        (1, ["test-more"], "2", 2),
    ]:
        monkeypatch.setattr(run.shutil, "disk_usage", lambda _, free=free: type("", (), {"free": int(free * 2**30)}))
        monkeypatch.setenv("JOBS", jobs)
        assert run.limit(names) == expected, (free, names, jobs)


def test_output_has_the_name_of_its_job_and_a_failure_is_said_again_at_the_end(tmp_path, capsys):
    jobs = [
        job("good", """sh -c 'echo "fatal: of no importance"; echo "==== 3 passed in 0.10s ===="'"""),
        job("bad", "echo first", """sh -c 'echo "E   assert 1 == 2" >&2; exit 3'""", "echo never", after=("good",)),
        job("last", "echo never", after=("bad",)),
    ]
    assert not asyncio.run(run.run(jobs, 3))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "good | fatal: of no importance",
        "good | ==== 3 passed in 0.10s ====",
        "bad | first",
        "bad | E   assert 1 == 2",
    ]
    assert lines[4] == lines[3]
    assert [line.split() for line in lines[5:]] == [
        ["good", "passed", "0.0", "min", "3", "passed", "in", "0.10s"],
        ["bad", "FAILED", "0.0", "min"],
        ["last", "not", "started"],
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["molecule-bad.log"]
    assert (tmp_path / "molecule-bad.log").read_text().splitlines() == lines[2:4]


def test_a_failure_that_nothing_names_shows_the_last_lines():
    log = [f"lint | {number}" for number in range(100)]
    assert run.excerpt(log) == log[-20:]
    log[3] = "lint | main1: fatal: no route"
    assert run.excerpt(log) == log[3:24]


def test_a_command_that_is_run_anew_has_forgotten_the_last_time(tmp_path):
    remembered = tmp_path / "molecule/again/state.yml"
    remembered.parent.mkdir(parents=True)
    remembered.touch()
    assert asyncio.run(run.run([job("again", f"test ! -e {remembered}")], 1))


def test_a_command_has_its_lab_and_no_options_of_make(monkeypatch):
    monkeypatch.setenv("MAKEFLAGS", " -j8 --jobserver-auth=3,4")
    one = run.Job("one", "test", "roles", ("""sh -c 'test "$LAB,$MAKEFLAGS,$NO_COLOR" = roles,,1'""",))
    assert asyncio.run(run.run([one], 1))


def test_labs_are_removed_before_and_after_test_also_when_a_job_failed(tmp_path, monkeypatch):
    told = tmp_path / "told"
    monkeypatch.setattr(run, "DESTROY_LAB", (f"sh -c 'echo $LAB >> {told}'",))
    site = run.Job("site", "test", "default", (f"sh -c 'echo site >> {told}; false'",))
    monkeypatch.setattr(run, "TABLE", [site, run.Job("nas", "test", "roles", ("true",))])
    assert run.main(["test"]) == 1
    assert told.read_text().split() == ["default", "roles", "site", "default", "roles"]
    told.unlink()
    # The lab of a single job stays, for the next one and to look at.
    assert run.main(["site"]) == 1
    assert told.read_text().split() == ["site"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_commands_with_their_children_and_removes_the_labs(tmp_path, number):
    # The second child does not listen to SIGTERM.
    (tmp_path / "work.sh").write_text(
        f"""sleep 300 & echo $! > {tmp_path}/one
        sh -c 'trap "" TERM; echo $$ > {tmp_path}/two; while :; do sleep 0.1; done' & wait"""
    )
    (tmp_path / "driver.py").write_text(
        f"""import pathlib, sys
sys.path.insert(0, {str(PROGRAM.parent)!r})
import run
run.CACHE, run.SECONDS_TO_END = pathlib.Path({str(tmp_path)!r}), 1
run.DESTROY_LAB = ("sh -c 'echo removed'",)
run.TABLE = [run.Job("work", "test", "default", ("sh {tmp_path}/work.sh",))]
sys.exit(run.main(["test"]))
"""
    )
    driver = subprocess.Popen([sys.executable, tmp_path / "driver.py"], stdout=subprocess.PIPE, text=True)  # noqa: S603
    children = [tmp_path / "one", tmp_path / "two"]
    deadline = time.monotonic() + 30
    while not all(child.exists() and child.read_text().strip() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(number)
    time.sleep(0.3)
    # A second one leaves nothing behind either.
    driver.send_signal(number)
    out, _ = driver.communicate(timeout=30)
    assert driver.returncode == 130
    assert out.split() == ["removed", "removed"]
    for child in children:
        # A killed process is still there for a moment, and as a zombie until its new parent has noticed.
        deadline = time.monotonic() + 10
        with contextlib.suppress(FileNotFoundError):
            while Path(f"/proc/{int(child.read_text())}/stat").read_text().split()[2] != "Z":
                assert time.monotonic() < deadline
                time.sleep(0.05)
