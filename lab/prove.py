"""`make prove`: break a converged lab on purpose, one break at a time, and see that the checks catch each of them.

The breaks are in lab/breaks.yml; `make prove BREAKS='NAS|Redis'` takes those whose name matches.
A host that was broken goes back to its snapshot.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import time

import yaml

from lab import ROOT, SITE, SNAPSHOTS, STATE, ssh
from pipeline import Airflow, run_pipeline, until

CHECKS = [
    "molecule/default/tests/test_site.py",
    "molecule/default/tests/test_by_hand.py",
    "molecule/security/tests/test_security.py",
    "molecule/outages/tests/test_outages.py",
]


def lab(*arguments: str) -> None:
    subprocess.run([sys.executable, ROOT / "lab/lab.py", *arguments], check=True)  # noqa: S603 - arguments are ours


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


def main() -> None:
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    breaks = yaml.safe_load((ROOT / "lab/breaks.yml").read_text())
    chosen = [item for item in breaks if re.search(pattern, item["name"], re.IGNORECASE)]
    if not chosen:
        sys.exit(f"BREAKS={pattern}: no break of lab/breaks.yml has such a name")
    if all((SNAPSHOTS / STATE.name / f"{host}.cow").exists() for host in SITE):
        lab("restore")
    subprocess.run(["ansible-playbook", "site.yml"], cwd=ROOT, check=True)  # noqa: S607
    until(settled, 300)
    run_pipeline(session())
    print("The lab is converged. Running the checks on it as it is.", flush=True)
    # Those that the breaks name; all, when one names none.
    first = {item.get("first", "") for item in chosen}
    code, _, output = check("" if "" in first else " or ".join(sorted(first)))
    if code:
        sys.exit(f"{output}\nThe checks fail by themselves; see above")
    lab("snapshot")

    rows = []
    for number, item in enumerate(chosen, 1):
        settle()
        begin = time.monotonic()
        print(f"{number}/{len(chosen)} {item['name']} ... ", end="", flush=True)
        key = (STATE / "secrets/fernet_key").read_text()
        done = ssh(item["host"], f"FERNET_KEY='{key}'; {item['do']}", timeout=300)
        if done.returncode:
            code, test, output = done.returncode, "nothing, for it could not be done", done.stdout
        else:
            code, test, output = check(*filter(None, [item.get("first")]), "")
        said = re.search(f".*(?:{item['says']}).*", output)
        caught = bool(done.returncode == 0 and code == 1 and said)
        message = said[0].strip() if said else f"it did not say {item['says']!r}"
        rows.append((item["name"], test, message, caught))
        print(f"{'caught' if caught else 'NOT CAUGHT'} by {test} in {time.monotonic() - begin:.0f} s", flush=True)
        if not caught:
            (ROOT / ".cache").mkdir(exist_ok=True)
            (ROOT / f".cache/prove-{number}.log").write_text(output)
            print(f"    what the checks said is in .cache/prove-{number}.log")
        # A worker that says goodbye may come back under its name at once.
        ssh("edge1", "systemctl stop airflow-edge-worker", timeout=20)
        lab("restore", item["host"])
        ssh("edge1", "systemctl start --no-block airflow-edge-worker")

    print(f"\n{'break':58} {'caught by':60} message")
    for name, test, said, _ in rows:
        print(f"{name:58} {test[:60]:60} {said[:140]}")
    missed = [name for name, _, _, caught in rows if not caught]
    print(f"\n{len(rows) - len(missed)} of {len(rows)} breaks were caught.")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
