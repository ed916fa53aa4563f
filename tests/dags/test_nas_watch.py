"""The watch of the role airflow_runtime, in the environment of an edge host, where it finds no Celery."""

import asyncio
import logging
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "roles/airflow_runtime/files"))
import nas_watch


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """Return a function that starts the watch of a directory that is taken for a mount."""
    monkeypatch.setattr(nas_watch, "INTERVAL", 0.02)
    monkeypatch.setattr(nas_watch, "PATIENCE", 0.2)
    monkeypatch.setattr(nas_watch.os.path, "ismount", lambda path: path == str(tmp_path))
    monkeypatch.setattr(nas_watch, "_watches", [])
    monkeypatch.setenv("NAS_WATCH", str(tmp_path))
    return lambda: asyncio.run(nas_watch.system_info())


def until(condition):
    deadline = time.monotonic() + 5
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def test_a_mount_that_answers_is_no_problem(watch):
    assert watch() == {}
    time.sleep(0.3)
    assert watch() == {}


def test_nothing_to_watch_is_no_problem(watch, monkeypatch):
    monkeypatch.setenv("NAS_WATCH", "")
    assert watch() == {}


def test_a_directory_that_is_not_mounted_is_an_error(watch, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("NAS_WATCH", f"{tmp_path}:{tmp_path}/other")
    assert until(watch) == {"status": logging.ERROR, "status_text": f"{tmp_path}/other is not mounted"}


def test_a_directory_that_is_gone_is_an_error(watch, monkeypatch):
    monkeypatch.setenv("NAS_WATCH", "/nowhere")
    assert "/nowhere" in until(watch)["status_text"]


def test_a_mount_that_hangs_is_an_error_and_hangs_nobody(watch, tmp_path, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(nas_watch.os, "statvfs", lambda path: answer.wait(30))
    assert watch() == {}
    begin = time.monotonic()
    assert f"{tmp_path} has not answered for" in until(watch)["status_text"]
    assert time.monotonic() - begin < 3
    answer.set()
    until(lambda: watch() == {})


def test_a_celery_worker_leaves_its_queues_and_comes_back_though_its_broker_was_away(watch, monkeypatch):
    state, calls = {"problem": "away", "broker": False}, []

    def change(name):
        def call(queue, destination):
            if not state["broker"]:
                raise ConnectionError
            calls.append((name, queue, destination))

        return call

    control = SimpleNamespace(cancel_consumer=change("cancel"), add_consumer=change("add"))
    monkeypatch.setattr(nas_watch, "problems", lambda: state["problem"])
    arguments = (SimpleNamespace(control=control), "celery@main", ["default", "big"])
    threading.Thread(target=nas_watch._follow, args=arguments, daemon=True).start()
    time.sleep(0.1)
    state["broker"] = True
    until(lambda: len(calls) == 2)
    state["problem"] = ""
    until(lambda: len(calls) == 4)
    time.sleep(0.1)
    assert calls == [(name, queue, ["celery@main"]) for name in ("cancel", "add") for queue in ("default", "big")]
