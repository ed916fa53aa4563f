"""Run scenarios on labs. The table below says which job runs on which lab, with which commands and after which jobs.

    python molecule/run.py test         what CI runs
    python molecule/run.py test-more    what CI leaves out for time
    python molecule/run.py JOB...       single jobs, and the jobs that they continue
    molecule test -s SCENARIO           one scenario on a lab of its own, without this program

JOBS=N runs at most N jobs at once. A failed job leaves its output in .cache/molecule-JOB.log.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"


@dataclass(frozen=True)
class Job:
    name: str
    suite: str
    lab: str | None
    commands: tuple[str, ...]
    # Jobs that have to pass before; choosing this job chooses these jobs, too.
    after: tuple[str, ...] = ()
    # Jobs that have to pass before, but only if they are chosen anyway.
    also_after: tuple[str, ...] = ()


def molecule(scenario: str, *commands: str) -> tuple[str, ...]:
    return tuple(f"molecule {command} --scenario-name {scenario}" for command in commands or ("test",))


DESTROY_LAB = ("python -m lab destroy",)
ON_LAB = "test --destroy never"
SITE = DESTROY_LAB + molecule("default", "check", "converge", "idempotence", "side-effect")

# Of the jobs that are ready, the first in the table starts: one at a time, a lab is removed before the next one boots.
TABLE = [
    # Installing a site takes minutes, so the jobs on the lab `default` share one. `site` is the scenario default
    # without its tests. The first job on a lab destroys what an earlier run left, the last job removes the lab.
    Job("site", "test", "default", SITE),
    Job("lint", "test", None, ("make lint",)),
    Job("units", "test", None, ("make test-units",)),
    # Not at the start: the lab `default` installs packages on this machine then, and apt's lists are locked.
    Job("browser", "test", None, ("make /usr/bin/chromedriver",), also_after=("lint", "units")),
    Job("default", "test", "default", molecule("default", "verify"), after=("site", "browser")),
    Job("airflow_edge", "test", "default", molecule("airflow_edge", ON_LAB), after=("site",)),
    Job("outages", "test", "default", molecule("outages", "verify"), after=("default", "airflow_edge")),
    Job("security", "test", "default", molecule("security", "verify") + DESTROY_LAB, after=("outages",)),
    # These roles share a lab, too, each on hosts that do not have the role yet.
    Job("nas", "test", "roles", DESTROY_LAB + molecule("nas", ON_LAB)),
    Job("airflow_dags", "test", "roles", molecule("airflow_dags", ON_LAB), after=("nas",)),
    Job("redis", "test", "roles", molecule("redis", ON_LAB), after=("airflow_dags",)),
    Job("firewall", "test", "roles", molecule("firewall", ON_LAB), after=("redis",)),
    # On a host without MySQL.
    Job("preflight", "test", "roles", molecule("preflight", ON_LAB), after=("redis",), also_after=("firewall",)),
    # Beside outages, which waits most of the time.
    Job(
        "mysql",
        "test",
        "roles",
        molecule("mysql", ON_LAB) + DESTROY_LAB,
        after=("redis",),
        also_after=("firewall", "preflight", "default", "airflow_edge"),
    ),
    *(
        Job(name, "test-more", name, molecule(name))
        for name in (
            *("feeds", "long", "rotation", "celery", "external", "proxy", "variables", "endurance"),
            *("delivery", "restarts", "away"),
        )
    ),
]

# Three jobs of `test` (a site, an edge host beside it, the hosts of the roles) keep two CPUs busy, given enough memory.
AT_ONCE, GIGABYTES = 3, 15
# Lines that say why a job failed. They are repeated at the end, where the jobs' lines are no longer mixed.
FAILURE = re.compile(r"\w+ \| (?:.*(?:fatal: |FAILED! |Traceback |lab: |dpkg: error )|E  |FAILED |ERROR )")
LINES_AFTER, LINES_REPEATED = 20, 150
PYTEST_SUMMARY = re.compile(r"=+ (.*(?:passed|failed|error|no tests ran).*) =+$")
# Ansible prints a large difference as one line.
LONGEST_LINE = 1 << 26
SECONDS_TO_END = 20


def choose(names: list[str]) -> list[Job]:
    """Return the jobs of suites, and single jobs with those they continue, in the table's order."""
    chosen: set[str] = set()
    for job in reversed(TABLE):
        if {job.name, job.suite} & {*names, *chosen}:
            chosen |= {job.name, *job.after}
    return [job for job in TABLE if job.name in chosen]


def limit(names: list[str]) -> int:
    """Return how many jobs may run at once: one, except for `test` on a machine with enough memory."""
    fits = shutil.disk_usage("/dev/shm").free >> 30 >= GIGABYTES  # noqa: S108 - the memory of the labs' hosts is there
    return int(os.environ.get("JOBS") or (AT_ONCE if "test" in names and fits else 1))


async def schedule(jobs: list[Job], at_once: int, execute: Callable[[Job], Awaitable[bool]]) -> dict[str, bool]:
    """Start each job when the jobs before it have passed. After a failure no job starts, and running jobs finish."""
    passed: dict[str, bool] = {}
    running: dict[asyncio.Task, Job] = {}
    waiting = list(jobs)
    try:
        while True:
            unfinished = {job.name for job in jobs} - passed.keys()
            for job in waiting[:]:
                ready = unfinished.isdisjoint(job.after + job.also_after)
                if ready and len(running) < at_once and all(passed.values()):
                    waiting.remove(job)
                    running[asyncio.create_task(execute(job))] = job
            if not running:
                return passed
            finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                passed[running.pop(task).name] = task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def environment(name: str, lab: str | None) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # Colours would add frames; options of the make that started this program are not for other makes.
    ours = {"PATH": path, "NO_COLOR": "1", "MAKEFLAGS": "", "MAKELEVEL": "0"}
    state = {"MOLECULE_EPHEMERAL_DIRECTORY": f"{CACHE}/molecule/{name}"}
    return os.environ | ours | state | ({"LAB": lab} if lab else {})


async def end(group: int) -> None:
    """Ask a command and its children to end, and kill what is left after a while."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        for _ in range(SECONDS_TO_END * 10):
            await asyncio.sleep(0.1)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)


async def run_command(command: str, env: dict[str, str], take: Callable[[str], None]) -> int:
    """Run a command, hand over each line of its output, and return its exit code."""
    starting = asyncio.create_subprocess_exec(
        *shlex.split(command),
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        limit=LONGEST_LINE,
        start_new_session=True,
    )
    # Interrupting the start itself would leave the command's children.
    start = asyncio.create_task(starting)
    try:
        process = await asyncio.shield(start)
        async for line in process.stdout:
            take(line.decode(errors="replace").rstrip())
        return await process.wait()
    except asyncio.CancelledError:
        await end((await start).pid)
        raise


def excerpt(log: list[str]) -> list[str]:
    """Return the lines that say what failed with those that follow, or the end of the log."""
    kept, more = [], 0
    for line in log:
        more = LINES_AFTER if FAILURE.match(line) else more - 1
        kept += [line] if more >= 0 else []
    return (kept or log[-LINES_AFTER:])[-LINES_REPEATED:]


async def run(jobs: list[Job], at_once: int) -> bool:
    """Run jobs, and print at the end what failed and how each job ended. The first signal ends the jobs."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: task.cancelling() or task.cancel())
    results = {job.name: "not started" for job in jobs}
    excerpts: list[str] = []

    async def execute(job: Job) -> bool:
        # Molecule remembers the steps of an interrupted run, and would skip them.
        shutil.rmtree(CACHE / "molecule" / job.name, ignore_errors=True)
        log, path, begin, code = [], CACHE / f"molecule-{job.name}.log", time.monotonic(), 0
        with path.open("w", buffering=1) as file:

            def take(line: str) -> None:
                log.append(f"{job.name} | {line}")
                print(log[-1], flush=True)
                print(log[-1], file=file)

            for command in job.commands:
                if code := await run_command(command, environment(job.name, job.lab), take):
                    excerpts.extend(excerpt(log))
                    break
            else:
                path.unlink()
        summaries = [found[1] for line in log if (found := PYTEST_SUMMARY.search(line))]
        minutes = (time.monotonic() - begin) / 60
        results[job.name] = f"{'FAILED' if code else 'passed'} {minutes:6.1f} min  {'; '.join(summaries)}"
        return not code

    passed = await schedule(jobs, at_once, execute)
    print(*excerpts, *(f"{name:14}{result}" for name, result in results.items()), sep="\n", flush=True)
    return len(passed) == len(jobs) and all(passed.values())


def destroy_labs(jobs: list[Job]) -> None:
    for lab in dict.fromkeys(job.lab for job in jobs if job.lab):
        subprocess.run(shlex.split(*DESTROY_LAB), cwd=ROOT, env=environment(lab, lab), check=True)  # noqa: S603


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = dict.fromkeys([job.suite for job in TABLE] + [job.name for job in TABLE])
    parser.add_argument("names", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--dry-run", action="store_true", help="print the jobs in the table's order, and run nothing")
    options = parser.parse_args(arguments)
    jobs = choose(options.names)
    if options.dry_run:
        print(f"at most {limit(options.names)} at once")
        for job in jobs:
            before = ", ".join(other.name for other in jobs if other.name in job.after + job.also_after)
            print(f"{job.name}: lab {job.lab}, after {before or 'nothing'}", *job.commands, sep="\n    ")
        return 0
    CACHE.mkdir(exist_ok=True)
    # Hosts that an interrupted run left would take the memory of `test`. Single jobs keep the lab that they share.
    labs = jobs if "test" in options.names else []
    try:
        destroy_labs(labs)
        return 0 if asyncio.run(run(jobs, limit(options.names))) else 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        destroy_labs(labs)


if __name__ == "__main__":
    sys.exit(main())
