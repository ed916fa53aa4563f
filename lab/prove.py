"""`make prove`: break a converged lab on purpose, one break at a time, and see that the checks catch each break.

Each file of lab/breaks/ has the breaks of one theme. Without BREAKS, the first break of each theme is done;
`BREAKS=all` does every break, and `BREAKS='NAS|Redis'` the breaks whose name matches. A host that was broken goes back
to its snapshot. Where this machine has the CPUs and the memory, further labs begin with the disks of the first lab,
and take breaks, too.
"""

from __future__ import annotations

import functools
import itertools
import os
import queue
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TextIO

import yaml

from lab import HOSTS, ROOT, SITE, Lab

# What tests share is below molecule/, where pytest finds it by pyproject.toml.
sys.path.append(str(ROOT / "molecule"))
from support.pipeline import Airflow, run_pipeline, until

BREAKS = ROOT / "lab/breaks"
CHECKS = [
    "molecule/default/tests/test_site.py",
    "molecule/default/tests/test_by_hand.py",
    "molecule/security/tests/test_security.py",
    "molecule/outages/tests/test_outages.py",
]


def themes() -> dict[str, list[dict]]:
    """Read the breaks of each theme."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(BREAKS.glob("*.yml"))}


def choose(pattern: str) -> list[dict]:
    """Return the breaks that BREAKS selects."""
    if not pattern:
        return [breaks[0] for breaks in themes().values()]
    every = list(itertools.chain(*themes().values()))
    return [item for item in every if pattern == "all" or re.search(pattern, item["name"], re.IGNORECASE)]


class Site:
    """A lab with the whole site, to be broken and restored."""

    def __init__(self, name: str | None = None) -> None:
        self.lab = Lab(name)

    @functools.cached_property
    def airflow(self) -> Airflow:
        """One session for all looks: main1 takes ten logins a minute, and the checks need theirs."""
        return Airflow(lab=self.lab)

    def is_settled(self) -> bool:
        """Every component of the site is healthy, and the edge worker waits for tasks."""
        try:
            return (
                not self.airflow.sick()
                and self.airflow.worker("edge1")["state"] == "idle"
                and self.lab.ssh("edge1", "test -e /run/airflow-edge-worker/worker.pid").returncode == 0
                and len({self.lab.ssh(name, "readlink /opt/airflow/dags").stdout for name in ("main1", "edge1")}) == 1
            )
        except (OSError, RuntimeError, KeyError):
            return False

    def settle(self) -> None:
        """Wait until the site is whole; when it does not recover by itself, restore all hosts."""
        try:
            until(self.is_settled, 300)
        except TimeoutError:
            self.lab.as_root("restore")
            until(self.is_settled, 300)

    def check(self, *selections: str) -> tuple[int, str, str]:
        """Run checks up to the first failure: pytest's exit code, the failed check's name, and all output.

        Each selection is an expression of pytest's -k; an empty selection is all checks.
        """
        for selection in selections:
            command = [sys.executable, "-m", "pytest", "--exitfirst", "--quiet", "--tb=short", "-k", selection, *CHECKS]
            done = subprocess.run(  # noqa: S603 - arguments are ours
                command, cwd=ROOT, env=self.lab.environment, capture_output=True, text=True
            )
            if done.returncode:
                break
        failed = re.search(r"^(?:FAILED|ERROR) \S+::(\S+)", done.stdout, re.MULTILINE)
        return done.returncode, failed[1] if failed else "nothing", done.stdout + done.stderr

    def converge(self, output: TextIO | None = None) -> None:
        """Install the site, wait until it is whole, and run the pipeline; Ansible's output goes to a file, if any."""
        command = ["ansible-playbook", "site.yml"]
        done = subprocess.run(command, cwd=ROOT, env=self.lab.environment, stdout=output, stderr=output)  # noqa: S603
        if done.returncode:
            where = f"in {output.name}" if output else "above"
            sys.exit(f"ansible-playbook site.yml ended with {done.returncode} on the lab {self.lab.name}; see {where}")
        until(self.is_settled, 300)
        run_pipeline(self.airflow)

    def begin(self, selection: str) -> None:
        """Converge the lab, run the checks, and make the snapshot to which hosts go back."""
        self.lab.as_root("restore" if self.lab.has_snapshot() else "up")
        self.converge()
        print("The lab is converged. Running the checks before anything is broken.", flush=True)
        code, _, output = self.check(selection)
        if code:
            sys.exit(f"{output}\nThe checks fail although nothing is broken; see above")
        self.lab.as_root("snapshot")

    def join(self, first: Site) -> None:
        """Begin with the snapshot of the first lab; the addresses differ, so the site is converged again."""
        self.lab.as_root("destroy")
        self.lab.as_root("restore", "--of", first.lab.name)
        with (ROOT / f".cache/{self.lab.name}.log").open("w") as log:
            self.converge(log)
        self.lab.as_root("snapshot")

    def prove(self, item: dict) -> dict:
        """Do a break, run the checks, restore the host. Returns the break with its outcome."""
        self.settle()
        begin = time.monotonic()
        key = (self.lab.secrets / "fernet_key").read_text()
        done = self.lab.ssh(item["host"], f"FERNET_KEY='{key}'; {item['do']}", timeout=300)
        if done.returncode:
            code, test, output = done.returncode, "nothing, for the break could not be done", done.stdout
        else:
            code, test, output = self.check(*filter(None, [item.get("first")]), "")
        said = re.search(f".*(?:{item['says']}).*", output)
        result = item | {
            "caught": bool(done.returncode == 0 and code == 1 and said),
            "test": test,
            "message": said[0].strip() if said else f"the output lacks {item['says']!r}",
            "output": output,
            "seconds": time.monotonic() - begin,
        }
        # An edge worker that was stopped in order may register under its name again at once.
        self.lab.ssh("edge1", "systemctl stop airflow-edge-worker", timeout=20)
        self.lab.as_root("restore", item["host"])
        self.lab.ssh("edge1", "systemctl start --no-block airflow-edge-worker")
        return result


def number_of_labs() -> int:
    """One for each CPU, as far as there is memory for the hosts, and 700 MB for the programs that work on them."""
    free = shutil.disk_usage("/dev/shm").free >> 20  # noqa: S108
    return max(1, min(len(os.sched_getaffinity(0)), free // (sum(HOSTS[host].touches for host in SITE) + 700)))


def prove_all(items: list[dict], sites: list[Site]) -> list[dict]:
    """Prove each break on a lab that is idle: at first there is one lab, the others come when they are made."""
    first, *others = sites
    # The checks that the breaks name; all checks, when a break names none.
    selections = {item.get("first", "") for item in items}
    first.begin("" if "" in selections else " or ".join(sorted(selections)))
    idle = queue.SimpleQueue()
    idle.put(first)
    count = itertools.count(1)

    def bring(site: Site) -> None:
        site.join(first)
        idle.put(site)

    def take(item: dict) -> dict:
        site = idle.get()
        try:
            result = site.prove(item)
        finally:
            idle.put(site)
        how = f"{'caught' if result['caught'] else 'NOT CAUGHT'} by {result['test']} in {result['seconds']:.0f} s"
        print(f"{next(count)}/{len(items)} {item['name']} ... {how}", flush=True)
        if not result["caught"]:
            log = ROOT / ".cache" / f"prove-{re.sub('[^a-z0-9]+', '-', item['name'].lower())}.log"
            log.write_text(result["output"])
            print(f"    the output of the checks is in {log.relative_to(ROOT)}", flush=True)
        return result

    with ThreadPoolExecutor() as threads:
        brought = [threads.submit(bring, site) for site in others]
        with ThreadPoolExecutor(len(sites)) as takers:
            results = list(takers.map(take, items))
        print(f"\n{'break':58} {'caught by':60} message")
        for result in results:
            print(f"{result['name']:58} {result['test'][:60]:60} {result['message'][:140]}")
        # Raises the exception of a lab that could not be made.
        for made in brought:
            made.result()
    return results


def main() -> None:
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = choose(pattern)
    if not chosen:
        sys.exit(f"BREAKS={pattern}: no break in lab/breaks/ has such a name")
    (ROOT / ".cache").mkdir(exist_ok=True)
    first = Site()
    # A further lab takes as long to make as some eight breaks.
    names = [f"{first.lab.name}-{number}" for number in range(2, 1 + min(number_of_labs(), len(chosen) // 8))]
    others = [Site(name) for name in names]
    try:
        results = prove_all(chosen, [first, *others])
    finally:
        for site in others:
            site.lab.as_root("destroy")

    missed = [result["name"] for result in results if not result["caught"]]
    print(f"\n{len(results) - len(missed)} of {len(results)} breaks were caught.")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
