"""The watch of the role airflow_base, in the environment of an edge host, where it finds no Celery."""

import asyncio
import itertools
import logging
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from airflow.providers.edge3.cli import worker
from airflow.providers.edge3.models.edge_worker import EdgeWorkerState
from airflow.providers.edge3.worker_api.routes.worker import redefine_maintenance_comments, redefine_state

import nas_watch

ROLES = Path(__file__).resolve().parents[2] / "roles"


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """What counts as a mount point; a test takes out of it."""
    mounted = {"/", str(tmp_path)}
    monkeypatch.setattr(nas_watch.os.path, "ismount", lambda path: path in mounted)
    return mounted


@pytest.fixture
def watch(tmp_path, mounted, monkeypatch):
    """Return a function that asks as an edge worker does that is no longer new."""
    monkeypatch.setattr(nas_watch, "INTERVAL", 0.02)
    monkeypatch.setattr(nas_watch, "PATIENCE", 2)
    monkeypatch.setattr(nas_watch, "_questions", itertools.count(4))
    monkeypatch.setattr(nas_watch, "_watches", [])
    monkeypatch.setenv("NAS_WATCH", str(tmp_path))
    return lambda: asyncio.run(nas_watch.system_info())


WELL = {"status": logging.INFO}


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_mount_that_answers_is_no_problem(watch):
    assert watch() == WELL
    time.sleep(nas_watch.PATIENCE + 0.3)
    assert watch() == WELL


def test_another_share_in_its_place_is_a_problem_as_long_as_it_is_there(watch, tmp_path):
    guard = tmp_path / nas_watch.GUARD
    guard.touch()
    assert watch() == WELL
    until(lambda: nas_watch._watches[0].guard)
    guard.unlink()
    until(lambda: "is another share" in watch().get("status_text", ""))
    guard.touch()
    until(lambda: watch() == WELL)


def test_a_new_worker_neither_enters_nor_leaves_maintenance(watch, monkeypatch):
    monkeypatch.setattr(nas_watch, "_questions", itertools.count(1))
    assert [watch()["status"] for _ in range(4)] == [logging.WARNING] * 3 + [logging.INFO]


def test_nothing_to_watch_is_no_problem(watch, monkeypatch):
    monkeypatch.setenv("NAS_WATCH", "")
    assert watch() == WELL


@pytest.mark.parametrize("below", ["", "/incoming"])
def test_a_directory_whose_mount_goes_is_an_error_and_its_return_is_none(below, watch, mounted, tmp_path, monkeypatch):
    path = Path(f"{tmp_path}{below}")
    path.mkdir(exist_ok=True)
    monkeypatch.setenv("NAS_WATCH", f"{tmp_path}:{path}")
    assert watch() == WELL
    until(lambda: all(watch.mount for watch in nas_watch._watches))
    mounted.remove(str(tmp_path))
    until(lambda: watch()["status"] == logging.ERROR)
    assert f"{tmp_path} is not mounted any more" in watch()["status_text"]
    mounted.add(str(tmp_path))
    until(lambda: watch() == WELL)


def test_a_directory_that_is_gone_is_an_error(watch, monkeypatch):
    monkeypatch.setenv("NAS_WATCH", "/nowhere")
    until(lambda: watch()["status"] == logging.ERROR)
    assert "/nowhere" in watch()["status_text"]


def test_a_mount_that_hangs_is_an_error_and_hangs_nobody(watch, tmp_path, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(nas_watch, "PATIENCE", 0.2)
    monkeypatch.setattr(nas_watch.os, "statvfs", lambda path: answer.wait(60))
    assert watch() == WELL
    begin = time.monotonic()
    until(lambda: watch()["status"] == logging.ERROR)
    assert f"{tmp_path} has not answered for" in watch()["status_text"]
    assert time.monotonic() - begin < 30
    answer.set()
    until(lambda: watch() == WELL)


def test_a_celery_worker_is_told_until_it_does_what_it_shall(watch, monkeypatch):
    """A broadcast can get lost, a broker can be away, and a worker that lost its broker forgets queues."""
    problem, serves, lost = [""], {"default", "big"}, ["refused", "lost"]

    def change(name):
        def call(queue, destination):
            assert destination == ["celery@main"]
            if lost and lost.pop() == "refused":
                raise ConnectionError
            if not lost:
                getattr(serves, name)(queue)

        return call

    consumer = SimpleNamespace(
        app=SimpleNamespace(control=SimpleNamespace(cancel_consumer=change("discard"), add_consumer=change("add"))),
        hostname="celery@main",
        task_consumer=SimpleNamespace(consuming_from=lambda queue: queue in serves),
    )
    monkeypatch.setattr(nas_watch, "problems", lambda: problem[0])
    threading.Thread(target=nas_watch._follow, args=(consumer, ["default", "big"]), daemon=True).start()
    problem[0] = "away"
    until(lambda: serves == set())
    lost += ["refused", "lost"]
    problem[0] = ""
    until(lambda: serves == {"default", "big"})
    serves.clear()
    until(lambda: serves == {"default", "big"})


@pytest.fixture
def main(monkeypatch):
    """What the main server keeps of an edge worker, changed by its own rules; a stand-in for its database."""
    row = SimpleNamespace(state=None, comments=None)

    async def set_state(name, state, jobs, queues, sysinfo, comments=None, team_name=None):
        row.state = redefine_state(row.state, state)
        row.comments = redefine_maintenance_comments(row.state, row.comments, comments)
        answer = {"versions_match": True, "queues": queues, "concurrency": None}
        return SimpleNamespace(state=row.state, maintenance_comments=row.comments, **answer)

    monkeypatch.setattr(worker, "worker_set_state", set_state)
    return row


@pytest.fixture
def edge_worker(main, tmp_path, monkeypatch):
    """Return a function that starts an edge worker, as far as its state goes."""
    for name, value in nas_settings().items():
        monkeypatch.setenv(f"AIRFLOW__EDGE__{name.upper()}", value)
    monkeypatch.setenv("AIRFLOW__EDGE__API_URL", "http://main/edge_worker/v1/rpcapi")

    def start():
        monkeypatch.setattr(nas_watch, "_questions", itertools.count(1))
        edge = worker.EdgeWorker(str(tmp_path / "pid"), "edge1", ["edge_queue"], 4)
        # As it registers.
        asyncio.run(edge._get_sysinfo())
        main.state = redefine_state(main.state, EdgeWorkerState.STARTING)
        return edge

    return start


def nas_settings():
    """The role's options for the watch, as section.option: value without the section."""
    settings = yaml.safe_load((ROLES / "airflow_edge/vars/main.yml").read_text())["__airflow_edge_settings"]
    chosen = {name.removeprefix("edge."): str(value) for name, value in settings.items()}
    return {name: chosen[name] for name in chosen if name.startswith(("automatic_", "extended_"))}


def beat(edge, times=4):
    for _ in range(times):
        asyncio.run(edge.heartbeat())


@pytest.mark.parametrize("end", [EdgeWorkerState.OFFLINE_MAINTENANCE, EdgeWorkerState.UNKNOWN])
def test_an_edge_worker_that_ended_in_maintenance_serves_again(end, edge_worker, main, monkeypatch):
    """It was stopped, or it died and the scheduler noticed."""
    problem = [""]
    monkeypatch.setattr(nas_watch, "problems", lambda: problem[0])
    edge = edge_worker()
    beat(edge)
    assert main.state == EdgeWorkerState.IDLE
    problem[0] = "away"
    beat(edge)
    assert main.state == EdgeWorkerState.MAINTENANCE_MODE
    main.state = end
    problem[0] = ""
    edge = edge_worker()
    beat(edge)
    assert main.state == EdgeWorkerState.IDLE


def test_maintenance_that_somebody_asked_for_lasts(edge_worker, main, monkeypatch):
    monkeypatch.setattr(nas_watch, "problems", lambda: "")
    edge = edge_worker()
    beat(edge)
    main.state, main.comments = EdgeWorkerState.MAINTENANCE_REQUEST, "hands off"
    beat(edge)
    main.state = EdgeWorkerState.OFFLINE_MAINTENANCE
    edge = edge_worker()
    beat(edge)
    assert main.state == EdgeWorkerState.MAINTENANCE_MODE
