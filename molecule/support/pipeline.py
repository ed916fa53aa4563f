"""Run the pipeline and feeds through Airflow's REST API, from the trigger of a DAG to the end of what it starts."""

from __future__ import annotations

import http.client
import inspect
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path

from lab import Lab
from support import LAB

ENDED = ("success", "failed")


def until(condition, seconds: float = 180, interval: float = 1):
    """Wait until a condition holds, and return its value; raises TimeoutError when it does not hold in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            name = getattr(condition, "__name__", str(condition))
            told = inspect.getsource(condition).strip() if name == "<lambda>" else name
            raise TimeoutError(f"not so after {seconds:.0f} s: {told}")
        time.sleep(interval)
    return value


class Connection(http.client.HTTPSConnection):
    """A connection to a host of a lab by its name, which this machine does not resolve."""

    def __init__(self, *arguments, lab: Lab = LAB, **options):
        super().__init__(*arguments, **options)
        self.lab = lab

    def connect(self):
        plain = socket.create_connection((self.lab.address(self.host), self.port), self.timeout)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)


class Handler(urllib.request.HTTPSHandler):
    """Opens URLs whose host is one of a lab."""

    def __init__(self, lab: Lab, context: ssl.SSLContext):
        super().__init__(context=context)
        self.lab = lab

    def https_open(self, request):
        return self.do_open(Connection, request, context=self._context, lab=self.lab)


class Airflow:
    """A user's session with a lab's API server; raises what call() raises."""

    def __init__(
        self,
        username: str = "admin",
        password: str | None = None,
        url: str = "https://main1",
        authority: Path | None = None,
        lab: Lab = LAB,
    ):
        self.url = url
        self.tls = ssl.create_default_context(cafile=authority or lab.secrets / "authority.pem")
        self.opener = urllib.request.build_opener(Handler(lab, self.tls))
        self.password = password or (lab.secrets / "admin_password").read_text()
        self.token = None
        self.token = self.call("POST", "/auth/token", {"username": username, "password": self.password})["access_token"]

    def call(self, method: str, path: str, body: dict | None = None) -> dict:
        """Send a request and return the JSON of the answer.

        Raises RuntimeError with the server's words when it refuses, OSError when it does not answer.
        """
        request = urllib.request.Request(self.url + path, method=method)  # noqa: S310 - the URL is the lab's
        request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        data = None if body is None else json.dumps(body).encode()
        try:
            with self.opener.open(request, data, timeout=60) as answer:
                text = answer.read()
                # The answer to a DELETE is empty.
                return json.loads(text) if text else {}
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode()[:500]}") from error

    def unpause(self, dag: str, seconds: float = 120) -> None:
        """Wait until a DAG has been parsed, and unpause it."""

        def is_parsed() -> bool:
            try:
                # A stale DAG is one of an earlier version of the DAG code, whose file has not been parsed again.
                return not self.call("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})["is_stale"]
            except (RuntimeError, OSError):
                return False

        is_parsed.__name__ = f"{dag} is parsed"
        until(is_parsed, seconds)

    def settle(self, dag: str, seconds: float = 300) -> None:
        """Wait until the scheduler has started every run that is due, such as the last one of a DAG just unpaused."""

        def has_started_all() -> bool:
            due = self.call("GET", f"/api/v2/dags/{dag}")["next_dagrun_run_after"]
            return due is None or datetime.fromisoformat(due).timestamp() > time.time()

        has_started_all.__name__ = f"{dag} has no run that is due"
        until(has_started_all, seconds)

    def states(self, dag: str) -> set[str]:
        """Return the states of a DAG's latest runs."""
        runs = self.call("GET", f"/api/v2/dags/{dag}/dagRuns?order_by=-run_after&limit=20")["dag_runs"]
        return {run["state"] for run in runs}

    def follow(self, run: dict, seconds: float = 300) -> dict:
        """Wait until a DAG run has ended, and return the run; a TimeoutError says how far the run has come."""
        path = f"/api/v2/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}"
        deadline = time.monotonic() + seconds
        while run["state"] not in ENDED:
            if time.monotonic() > deadline:
                tasks = self.call("GET", f"{path}/taskInstances")["task_instances"]
                states = ", ".join(f"{task['task_id']} is {task['state']}" for task in tasks)
                raise TimeoutError(
                    f"{run['dag_id']} {run['dag_run_id']} is {run['state']} after {seconds:.0f} s: {states}"
                )
            time.sleep(1)
            run = self.call("GET", path)
        return run

    def task(self, run: dict, task: str) -> dict:
        """Return the instance of a task in a run."""
        return self.call("GET", f"/api/v2/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances/{task}")

    def sick(self) -> dict:
        """Return the components of the main server that are not healthy, each with what the API knows of it."""
        health = self.call("GET", "/api/v2/monitor/health")
        parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return {part: health[part] for part in parts if health[part]["status"] != "healthy"}

    def worker(self, name: str) -> dict:
        """Return an edge worker as on the Edge page; raises KeyError when there is none of this name."""
        workers = {worker["worker_name"]: worker for worker in self.call("GET", "/edge_worker/ui/worker")["workers"]}
        if name not in workers:
            raise KeyError(f"there is no edge worker {name}, but {sorted(workers)}")
        return workers[name]

    def result(self, run: dict, task: str):
        """Return what a task returned."""
        path = f"/api/v2/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances/{task}/xcomEntries/return_value"
        return self.call("GET", f"{path}?deserialize=true")["value"]

    def log(self, run: dict, task: str, attempt: int = 1) -> str:
        """Return the log of a task as the UI shows it."""
        path = f"/api/v2/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances/{task}/logs/{attempt}"
        return json.dumps(self.call("GET", path)["content"], ensure_ascii=False)


def run_pipeline(airflow: Airflow) -> dict:
    """Trigger producer_dag and wait for the end of the consumer_dag that its file starts.

    Returns both runs, their tasks by name, the asset event, and what the consumer returned.
    """
    # The consumer first: an event that comes while the consumer is paused never starts it, not even later.
    airflow.unpause("consumer_dag")
    airflow.unpause("producer_dag")
    run = airflow.call("POST", "/api/v2/dags/producer_dag/dagRuns", {"logical_date": None})
    producer = airflow.follow(run)
    names = ("task_for_celery_worker", "task_for_edge_worker")
    tasks = {name: airflow.task(producer, name) for name in names}
    if producer["state"] != "success":
        for name in names:
            print(airflow.log(producer, name, max(tasks[name]["try_number"], 1)))
        raise RuntimeError(f"producer_dag {producer['dag_run_id']} ended as {producer['state']}; its log is above")

    event, consumer = started_by(airflow, producer)
    consumer = airflow.follow(consumer)
    tasks["process_file_from_nas"] = airflow.task(consumer, "process_file_from_nas")
    if consumer["state"] != "success":
        print(airflow.log(consumer, "process_file_from_nas", max(tasks["process_file_from_nas"]["try_number"], 1)))
        raise RuntimeError(f"consumer_dag {consumer['dag_run_id']} ended as {consumer['state']}; its log is above")
    return {
        "producer": producer,
        "consumer": consumer,
        "tasks": tasks,
        "event": event,
        "read": airflow.result(consumer, "process_file_from_nas"),
    }


def started_by(airflow: Airflow, run: dict) -> tuple[dict, dict]:
    """Wait for the asset event of a run, and for the run that the event started; return both."""
    deadline = time.monotonic() + 120
    query = f"/api/v2/assets/events?source_dag_id={run['dag_id']}&source_run_id={run['dag_run_id']}"
    while True:
        try:
            events = airflow.call("GET", query.replace("+", "%2B"))["asset_events"]
        except RuntimeError as error:
            # Airflow 3.3.2 answers 500 until the run that an event created has begun.
            events = str(error)
        else:
            if events and events[0]["created_dagruns"]:
                break
        if time.monotonic() > deadline:
            raise TimeoutError(f"no run was started by the events {events} of {run['dag_id']}")
        time.sleep(0.5)
    started = events[0]["created_dagruns"][0]
    path = f"/api/v2/dags/{started['dag_id']}/dagRuns/{started['run_id'].replace('+', '%2B')}"
    return events[0], airflow.call("GET", path)


def run_feed(airflow: Airflow, feed: str) -> dict:
    """Fetch a feed's file of today, and wait until it is loaded; return its manifest and the runs of both DAGs."""
    airflow.unpause(f"{feed}_load")
    airflow.unpause(f"{feed}_fetch")
    # Unpausing starts the last scheduled run, which may be of the same day.
    airflow.settle(f"{feed}_fetch")
    until(lambda: airflow.states(f"{feed}_fetch") | airflow.states(f"{feed}_load") <= set(ENDED), 300)
    fetching = airflow.follow(airflow.call("POST", f"/api/v2/dags/{feed}_fetch/dagRuns", {"logical_date": None}))
    if fetching["state"] != "success":
        print(airflow.log(fetching, "fetch", airflow.task(fetching, "fetch")["try_number"]))
        raise RuntimeError(f"{feed}_fetch {fetching['dag_run_id']} ended as {fetching['state']}; its log is above")
    _, loading = started_by(airflow, fetching)
    loading = airflow.follow(loading)
    if loading["state"] != "success":
        print(airflow.log(loading, "load", airflow.task(loading, "load")["try_number"]))
        raise RuntimeError(f"{feed}_load {loading['dag_run_id']} ended as {loading['state']}; its log is above")
    return {"manifest": airflow.result(fetching, "fetch"), "fetch": fetching, "load": loading}


def seconds(begin: str, end: str) -> float:
    """Return the time between two timestamps of the API."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
