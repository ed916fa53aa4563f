"""The edge worker under load, with a stand-in for the API: no stop loses a task or starts one twice."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The scenario `delivery` restarts the worker 200 times.
ROUNDS = int(os.environ.get("EDGE_ROUNDS", "20"))


class Main(ThreadingHTTPServer):
    """What an edge worker sees of the main server: a queue of jobs, and the state of each."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.states: dict[str, str] = {}
        self.claims: Counter[str] = Counter()
        self.delay = 0.0
        self.asking = self.most_asking = 0
        self.away = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def queue(self, *runs: str) -> None:
        with self.lock:
            self.states |= dict.fromkeys(runs, "queued")

    def fetch(self) -> dict | None:
        with self.lock:
            run = next((run for run, state in self.states.items() if state == "queued"), None)
            if not run:
                return None
            self.states[run] = "restarting"
            self.claims[run] += 1
        names = {"dag_id": "dag", "task_id": "task", "run_id": run, "map_index": -1, "try_number": 1}
        task = names | {
            "id": str(uuid.uuid4()),
            "dag_version_id": str(uuid.uuid4()),
            "pool_slots": 1,
            "queue": "edge",
            "priority_weight": 1,
        }
        command = {
            "type": "ExecuteTask",
            "token": "",
            "ti": task,
            "dag_rel_path": "dag.py",
            "bundle_info": {"name": "dags-folder", "version": None},
            "log_path": "none.log",
        }
        return names | {"command": command, "concurrency_slots": 1}


class Handler(BaseHTTPRequestHandler):
    server: Main

    def answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.away:
            self.send_error(502)
            return
        parts = self.path.removeprefix("/edge_worker/v1/").split("/")
        answer = None
        if parts[0] == "worker":
            state = json.loads(body)["state"]
            now = "2026-01-01T00:00:00Z"
            answer = {
                "state": state,
                "queues": ["edge"],
                "versions_match": True,
                "last_update": now,
                "concurrency": None,
            }
        elif parts[:2] == ["jobs", "fetch"]:
            with self.server.lock:
                self.server.asking += 1
                self.server.most_asking = max(self.server.most_asking, self.server.asking)
            # Half of the time before main hands a task out, half of it while the answer is on its way.
            time.sleep(self.server.delay * random.random())  # noqa: S311
            answer = self.server.fetch()
            time.sleep(self.server.delay * random.random())  # noqa: S311
            with self.server.lock:
                self.server.asking -= 1
        elif parts[:2] == ["jobs", "state"]:
            with self.server.lock:
                self.server.states[parts[4]] = parts[-1]
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        self.answer("POST")

    def do_PATCH(self):
        self.answer("PATCH")

    def log_message(self, *_):
        pass


class Edge:
    """Edge workers, one after the other, in a process of their own."""

    def __init__(self, home: Path, main: Main):
        environment = os.environ | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__EDGE__API_URL": f"http://127.0.0.1:{main.server_port}/edge_worker/v1/rpcapi",
            "AIRFLOW__EDGE__JOB_POLL_INTERVAL": "1",
            "AIRFLOW__EDGE__API_RETRIES": "240",
            "AIRFLOW__EDGE__API_RETRY_WAIT_MAX": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests " * 4,
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home),
            "PYTHONPATH": str(ROOT / "roles/airflow_edge/files"),
        }
        self.ran, self.log, self.worker = home / "ran", home / "log", None
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, Path(__file__).with_name("edge_rounds.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
        )

    def start(self, concurrency: int = 4) -> int:
        print(concurrency, file=self.process.stdin, flush=True)
        self.worker = int(self.process.stdout.readline())
        return self.worker

    def end(self) -> int:
        self.worker = None
        return int(self.process.stdout.readline())

    def kill(self) -> None:
        if self.worker:
            # The worker and its tasks, which would ask for work for minutes.
            os.killpg(self.worker, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def runs(self) -> Counter[str]:
        return Counter(self.ran.read_text().split("\n")[:-1] if self.ran.exists() else [])


@pytest.fixture
def main():
    with Main() as server:
        yield server
        server.shutdown()


@pytest.fixture
def edge(tmp_path, main):
    edge = Edge(tmp_path, main)
    yield edge
    edge.kill()


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def test_a_stop_under_load_loses_no_task_and_starts_none_twice(edge, main):
    main.delay = 0.3
    chance = random.Random(24)  # noqa: S311
    for number in range(ROUNDS):
        main.queue(*(f"{number}-{task}" for task in range(6)))
        pid = edge.start()
        until((edge.ran.parent / "pid").exists)
        time.sleep(0.1 + chance.random() * 0.8)
        os.kill(pid, signal.SIGINT)
        assert edge.end() == 0
        lost = {run: state for run, state in main.states.items() if state not in ("queued", "success")}
        assert not lost, f"round {number}: {lost}"
    runs = edge.runs()
    assert {run for run, state in main.states.items() if state == "success"} == set(runs)
    assert set(runs.values()) == {1}
    assert len(runs) > ROUNDS / 4


def test_after_an_outage_a_worker_has_no_more_tasks_than_it_may(edge, main):
    main.queue(*map(str, range(12)))
    edge.start(2)
    until(lambda: len(edge.runs()) > 1)
    main.away = True
    # Each second of an outage is one more request of the worker of edge3.
    time.sleep(6)
    main.queue(*map(str, range(100, 112)))
    main.away, main.delay = False, 0.2
    most = 0
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        with main.lock:
            most = max(most, sum(state in ("restarting", "running") for state in main.states.values()))
        time.sleep(0.02)
    assert main.most_asking == 1
    assert most <= 3


def test_an_outage_ends_no_worker_and_no_task(edge, main):
    main.queue("before")
    pid = edge.start()
    until(lambda: main.states["before"] != "queued")
    # The task ends meanwhile.
    main.away = True
    time.sleep(5)
    main.away = False
    until(lambda: main.states["before"] == "success")
    main.queue("after")
    until(lambda: main.states["after"] == "success")
    os.kill(pid, signal.SIGINT)
    assert edge.end() == 0


def test_a_task_that_runs_elsewhere_is_not_reported_as_failed(edge, main):
    main.queue("elsewhere", "another")
    edge.start()
    until(lambda: main.states["another"] == "success" and "elsewhere [edge_worker]" in edge.log.read_text())
    assert main.states["elsewhere"] == "running"
