"""`make demo`: boot the lab, install everything, run the pipeline, show the results."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time

from lab import ROOT, Lab

# What tests share is below molecule/, where pytest finds it by pyproject.toml.
sys.path.append(str(ROOT / "molecule"))
from support.pipeline import Airflow, run_feed, run_pipeline, seconds

FEED = "debian_packages"


def main() -> None:
    lab = Lab()
    parts: list[tuple[str, float]] = []

    def part(title: str, *command: str) -> None:
        print(f"\n== {title}", flush=True)
        begin = time.monotonic()
        code = subprocess.run(command, cwd=ROOT).returncode  # noqa: S603 - commands are ours
        if code:
            sys.exit(f"`{' '.join(command)}` ended with exit code {code}; its output is above")
        parts.append((title, time.monotonic() - begin))

    part("Booting nas1, main1 and edge1", sys.executable, "-m", "lab", "up")
    part("Installing everything: ansible-playbook site.yml", "ansible-playbook", "site.yml")
    part("Adding an outside service, out1: lab/outside.yml", "ansible-playbook", "lab/outside.yml")

    print("\n== Running the pipeline", flush=True)
    begin = time.monotonic()
    airflow = Airflow(lab=lab)
    outcome = run_pipeline(airflow)
    parts.append(("Running the pipeline", time.monotonic() - begin))

    print(f"== Running the feed {FEED}", flush=True)
    begin = time.monotonic()
    feed = run_feed(airflow, FEED)
    parts.append((f"Running the feed {FEED}", time.monotonic() - begin))

    producer, consumer, tasks = outcome["producer"], outcome["consumer"], outcome["tasks"]
    celery, edge, process = (
        tasks[n] for n in ("task_for_celery_worker", "task_for_edge_worker", "process_file_from_nas")
    )
    path = outcome["event"]["extra"]["path"]
    on_nas = path.replace("/opt/airflow/filestorage", "/srv/filestorage")
    size = lab.ssh("nas1", f"stat --format=%s {on_nas}").stdout.strip()

    def duration(task: dict) -> float:
        return seconds(task["start_date"], task["end_date"])

    def wait(task: dict) -> float:
        return seconds(task["queued_when"], task["start_date"])

    def host(task: dict) -> str:
        return task["hostname"].split(".")[0]

    steps = [
        ("producer_dag runs", "main1", "scheduler", producer["state"], duration(producer)),
        ("task_for_celery_worker", host(celery), "Celery worker", celery["state"], duration(celery)),
        ("task_for_edge_worker is sent to", edge["queue"], edge["executor"], "queued", None),
        ("the edge worker fetches it", host(edge), "edge API, HTTPS", "fetched", wait(edge)),
        ("task_for_edge_worker runs", host(edge), "edge worker", edge["state"], duration(edge)),
        (f"{path.rpartition('/')[2]} is on the NAS", "nas1", "NFS", f"{size} bytes", None),
        ("the asset nas_filestorage is updated", host(edge), "asset event", "updated", None),
        ("the scheduler starts consumer_dag", "main1", "scheduler", consumer["state"],
         seconds(outcome["event"]["timestamp"], consumer["start_date"])),
        ("process_file_from_nas reads it", host(process), "Celery worker", process["state"], duration(process)),
    ]  # fmt: skip
    print(f"\n   {'step':38} {'host':11} {'component':15} {'state':10} seconds")
    for number, (step, where, component, state, took) in enumerate(steps, 1):
        print(f"{number:2} {step:38} {where:11} {component:15} {state:10} {'' if took is None else f'{took:7.1f}'}")

    print(f"\nThe file on the NAS, nas1:{on_nas}:")
    print(lab.ssh("nas1", f"cat {on_nas}").stdout.rstrip())
    print("\nWhat the consumer read on main1:")
    for item in outcome["read"]:
        print(f"{item['path']}: {item['lines']}")

    manifest = feed["manifest"]
    on_nas = manifest["path"].replace("/opt/airflow/filestorage", "/srv/filestorage")
    count = "import lzma, sys; print(len([line for line in lzma.open(sys.argv[1]) if line.startswith(b'Package:')]))"

    def ask(host: str, *command: str) -> str:
        return lab.ssh(host, shlex.join(command)).stdout.strip()

    def query(statement: str) -> list[str]:
        return ask("main1", "mysql", "--batch", "--skip-column-names", "warehouse", "-e", statement).split()

    state, records = query(f"SELECT state, records FROM feed_files WHERE path = '{manifest['path']}'")  # noqa: S608
    [rows] = query(f"SELECT COUNT(*) FROM {FEED} WHERE feed_day = '{manifest['day']}'")  # noqa: S608
    stages = [
        ("in the index that the service publishes", "out1", "HTTPS",
         ask("out1", "python3", "-c", count, "/srv/outside/debian/Packages.xz")),
        (f"fetched by {FEED}_fetch", "edge1", "edge worker", manifest["rows"]),
        (f"kept as {on_nas.rpartition('/')[2]}, {manifest['bytes']} bytes", "nas1", "NFS",
         ask("nas1", "python3", "-c", count, on_nas)),
        (f"{state} by {FEED}_load", "main1", "Celery worker", records),
        (f"in the table warehouse.{FEED}", "main1", "MySQL", rows),
    ]  # fmt: skip
    print(f"\nThe feed {FEED}, of {manifest['day']}, from a service that only edge1 reaches:")
    print(f"   {'stage':50} {'host':7} {'component':14} records")
    for stage, where, component, number in stages:
        print(f"   {stage:50} {where:7} {component:14} {number:>7}")

    print("\nHow long each part took:")
    for title, took in parts:
        print(f"{int(took) // 60:3}:{int(took) % 60:02} {title}")
    config = os.path.relpath(lab.ssh_config)
    print(f"""
Look further:
  UI                 https://{lab.address("main1")}  (admin / {airflow.password})
  on a host          ssh -F {config} edge1        (or main1, nas1, out1)
  the edge worker    ssh -F {config} edge1 systemctl status airflow-edge-worker
  Airflow's CLI      ssh -F {config} main1 airflow edge list-workers
  install again      ansible-playbook site.yml    (first: source .venv/bin/activate)
  stop, remove       make stop, make clean""")


if __name__ == "__main__":
    main()
