"""`make prove`: break a converged lab on purpose, one break at a time, and see that the checks catch each of them.

The breaks are in lab/breaks.yml; `make prove BREAKS='NAS|Redis'` takes those whose name matches.
A host that was broken goes back to its snapshot. Where this machine has the CPUs and the memory, further labs begin
with the disks of the first one, and take breaks, too.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import queue
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TextIO

import yaml

from lab import HOSTS, NAME, ROOT, SITE, SNAPSHOTS, STATE, ssh
from pipeline import Airflow, run_pipeline, until

CHECKS = [
    "molecule/default/tests/test_site.py",
    "molecule/default/tests/test_by_hand.py",
    "molecule/security/tests/test_security.py",
    "molecule/outages/tests/test_outages.py",
]


def lab(*arguments: str, name: str = NAME) -> None:
    command = [sys.executable, ROOT / "lab/lab.py", *arguments]
    subprocess.run(command, check=True, env=os.environ | {"LAB": name})  # noqa: S603 - arguments are ours


@functools.cache
def session() -> Airflow:
    """One for all looks: main1 takes ten logins a minute, and the checks need theirs."""
    return Airflow()


def settled() -> bool:
    """Every component of the site is healthy, and the edge worker waits for tasks."""
    try:
        return (
            not session().sick()
            and session().worker("edge1")["state"] == "idle"
            and ssh("edge1", "test -e /run/airflow-edge-worker/worker.pid").returncode == 0
            and len({ssh(host, "readlink /opt/airflow/dags").stdout for host in ("main1", "edge1")}) == 1
        )
    except (OSError, RuntimeError, KeyError):
        return False


def settle() -> None:
    """Wait until the lab is whole; when it does not get so by itself, take all of it back."""
    try:
        until(settled, 300)
    except TimeoutError:
        lab("restore")
        until(settled, 300)


def check(*selections: str) -> tuple[int, str, str]:
    """Run checks up to one that fails: pytest's exit code, the name of that check, and all that it said.

    Each selection is an expression of pytest's -k; an empty one is all checks.
    """
    for selection in selections:
        command = [sys.executable, "-m", "pytest", "--exitfirst", "--quiet", "--tb=short", "-k", selection, *CHECKS]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # noqa: S603 - arguments are ours
        if done.returncode:
            break
    failed = re.search(r"^(?:FAILED|ERROR) \S+::(\S+)", done.stdout, re.MULTILINE)
    return done.returncode, failed[1] if failed else "nothing", done.stdout + done.stderr


def converge(output: TextIO | None = None) -> None:
    """Install the site, wait until it is whole, and run the pipeline; what the playbook says goes to a file, if any."""
    done = subprocess.run(["ansible-playbook", "site.yml"], cwd=ROOT, stdout=output, stderr=output)  # noqa: S607
    if done.returncode:
        where = f"in {output.name}" if output else "above"
        sys.exit(f"ansible-playbook site.yml ended with {done.returncode} on the lab {NAME}; what it said is {where}")
    until(settled, 300)
    run_pipeline(session())


def begin(selection: str) -> None:
    """Make the snapshot to which hosts go back, of a lab on which the checks pass."""
    if all((SNAPSHOTS / NAME / f"{host}.cow").exists() for host in SITE):
        lab("restore")
    converge()
    print("The lab is converged. Running the checks on it as it is.", flush=True)
    code, _, output = check(selection)
    if code:
        sys.exit(f"{output}\nThe checks fail by themselves; see above")
    lab("snapshot")


def join(other: str) -> None:
    """Make a lab that is what another one was at its snapshot, but for the addresses."""
    lab("destroy")
    lab("restore", "--of", other)
    with (ROOT / f".cache/{NAME}.log").open("w") as log:
        converge(log)
    lab("snapshot")


def prove(item: dict) -> dict:
    """Do a break, run the checks, restore the host. Returns the break with what came of it."""
    settle()
    begin = time.monotonic()
    key = (STATE / "secrets/fernet_key").read_text()
    done = ssh(item["host"], f"FERNET_KEY='{key}'; {item['do']}", timeout=300)
    if done.returncode:
        code, test, output = done.returncode, "nothing, for it could not be done", done.stdout
    else:
        code, test, output = check(*filter(None, [item.get("first")]), "")
    said = re.search(f".*(?:{item['says']}).*", output)
    result = item | {
        "caught": bool(done.returncode == 0 and code == 1 and said),
        "test": test,
        "message": said[0].strip() if said else f"it did not say {item['says']!r}",
        "output": output,
        "seconds": time.monotonic() - begin,
    }
    # A worker that says goodbye may come back under its name at once.
    ssh("edge1", "systemctl stop airflow-edge-worker", timeout=20)
    lab("restore", item["host"])
    ssh("edge1", "systemctl start --no-block airflow-edge-worker")
    return result


def process(name: str) -> ProcessPoolExecutor:
    """Return a process for work on a lab: lab.py takes its name from the environment when it is imported."""
    os.environ["LAB"] = name
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    pool.submit(os.getpid).result()
    return pool


def number_of_labs() -> int:
    """One for each CPU, as far as there is memory for the hosts, and 700 MB for what works on them."""
    free = shutil.disk_usage("/dev/shm").free >> 20  # noqa: S108
    return max(1, min(len(os.sched_getaffinity(0)), free // (sum(HOSTS[host].touches for host in SITE) + 700)))


def prove_all(items: list[dict], names: list[str]) -> list[dict]:
    """Prove each break in a lab that is idle: first there is one, the others come when they are made."""
    pools = [process(name) for name in names]
    # The checks that the breaks name; all, when one names none.
    selections = {item.get("first", "") for item in items}
    pools[0].submit(begin, "" if "" in selections else " or ".join(sorted(selections))).result()
    idle = queue.SimpleQueue()
    idle.put(pools[0])
    count = itertools.count(1)

    def bring(pool: ProcessPoolExecutor) -> None:
        pool.submit(join, NAME).result()
        idle.put(pool)

    def take(item: dict) -> dict:
        pool = idle.get()
        try:
            result = pool.submit(prove, item).result()
        finally:
            idle.put(pool)
        how = f"{'caught' if result['caught'] else 'NOT CAUGHT'} by {result['test']} in {result['seconds']:.0f} s"
        print(f"{next(count)}/{len(items)} {item['name']} ... {how}", flush=True)
        if not result["caught"]:
            log = ROOT / ".cache" / f"prove-{re.sub('[^a-z0-9]+', '-', item['name'].lower())}.log"
            log.write_text(result["output"])
            print(f"    what the checks said is in {log.relative_to(ROOT)}", flush=True)
        return result

    with ThreadPoolExecutor() as threads:
        brought = [threads.submit(bring, pool) for pool in pools[1:]]
        with ThreadPoolExecutor(len(pools)) as takers:
            results = list(takers.map(take, items))
        print(f"\n{'break':58} {'caught by':60} message")
        for result in results:
            print(f"{result['name']:58} {result['test'][:60]:60} {result['message'][:140]}")
        # Raises what went wrong with a lab that took no part.
        for lab_made in brought:
            lab_made.result()
    return results


def main() -> None:
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    breaks = yaml.safe_load((ROOT / "lab/breaks.yml").read_text())
    chosen = [item for item in breaks if re.search(pattern, item["name"], re.IGNORECASE)]
    if not chosen:
        sys.exit(f"BREAKS={pattern}: no break of lab/breaks.yml has such a name")
    (ROOT / ".cache").mkdir(exist_ok=True)
    # To make a lab takes as long as some eight breaks.
    labs = [NAME, *(f"{NAME}-{number}" for number in range(2, 1 + min(number_of_labs(), len(chosen) // 8)))]
    try:
        results = prove_all(chosen, labs)
    finally:
        for name in labs[1:]:
            lab("destroy", name=name)

    missed = [result["name"] for result in results if not result["caught"]]
    print(f"\n{len(results) - len(missed)} of {len(results)} breaks were caught.")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
