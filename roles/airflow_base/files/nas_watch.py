"""Workers take themselves out of service while a mounted directory is away, and come back with it.

NAS_WATCH in the environment names the directories, separated by colons. The edge worker asks system_info() with each
heartbeat ([edge] extended_system_info_function); a Celery worker loads CELERY_CONFIG ([celery] celery_config_options).
Meanwhile queued tasks stay in their queue, and running tasks wait for the mount, if the mount is hard.
"""

import itertools
import logging
import os
import threading
import time
from pathlib import Path

# Seconds between two checks, and seconds without an answer after which a directory counts as away.
INTERVAL = 5
PATIENCE = 15
# The file on the share that proves the mount; playbooks/nas.yml creates the file.
GUARD = os.environ.get("NAS_GUARD", ".nas")

log = logging.getLogger(__name__)


def mount_of(path: str) -> str:
    return next(name for name in map(str, (path, *Path(path).parents)) if os.path.ismount(name))


class Watch(threading.Thread):
    """Watches one directory, in a thread of its own: a call to an NFS server that hangs does not return."""

    def __init__(self, path: str):
        super().__init__(name=f"watch {path}", daemon=True)
        self.path = path
        # The mount point. systemd starts a worker after its mounts, so the first check finds the right mount.
        self.mount, self.guard = "", False
        self.answered = time.monotonic()
        self.failure = ""
        self.start()

    def run(self) -> None:
        while True:
            self.look()
            self.answered = time.monotonic()
            time.sleep(INTERVAL)

    def look(self) -> None:
        try:
            # Asks the server, not the client's cache.
            os.statvfs(self.path)
            guard = (Path(self.path) / GUARD).exists()
            if not self.mount:
                self.mount, self.guard = mount_of(self.path), guard
            if not os.path.ismount(self.mount):
                self.failure = f"{self.mount} is not mounted any more"
            elif self.guard and not guard:
                self.failure = f"{self.path}/{GUARD} is gone: it is another share"
            else:
                self.failure = ""
        except OSError as error:
            self.failure = str(error)

    def problem(self) -> str:
        """Return what is wrong, or an empty text. Never waits."""
        silent = time.monotonic() - self.answered
        if silent > INTERVAL + PATIENCE:
            return f"{self.path} has not answered for {silent:.0f} s"
        return self.failure


# Created at a worker's first call: other processes import the module, too.
_watches: list[Watch] = []


def problems() -> str:
    """Return what is wrong with the directories, or an empty text."""
    if not _watches:
        _watches.extend(Watch(path) for path in os.environ.get("NAS_WATCH", "").split(":") if path)
    return "; ".join(problem for problem in (watch.problem() for watch in _watches) if problem)


_questions = itertools.count(1)


async def system_info() -> dict:
    """Answer the edge worker: an error puts the worker into maintenance, with the reason on its page in the UI."""
    question = next(_questions)
    if problem := problems():
        return {"status": logging.ERROR, "status_text": problem}
    # A worker that ended in maintenance is asked into maintenance again with its first heartbeat after a start, and has
    # to obey with the second, or the request stays for ever. A warning neither begins nor ends maintenance.
    if question <= 3:
        return {"status": logging.WARNING, "status_text": "Just started"}
    return {"status": logging.INFO}


def _follow(consumer, queues: list[str]) -> None:
    """Let a Celery worker serve its queues only while there is no problem."""
    while True:
        problem = problems()
        try:
            for queue in queues:
                # Compare with the real state: a broadcast can get lost, and a worker that lost its broker starts
                # without the queues that it had left.
                if consumer.task_consumer.consuming_from(queue) == bool(problem):
                    log.warning("%s %s: %s", "Leaving" if problem else "Serving", queue, problem or "all is well")
                    change = consumer.app.control.cancel_consumer if problem else consumer.app.control.add_consumer
                    change(queue, destination=[consumer.hostname])
        except Exception:
            log.exception("The broker did not take it; trying again")
        time.sleep(INTERVAL)


def _watch_celery(sender, **_) -> None:
    # The signal comes again after each loss of the broker; one thread is enough.
    worker_ready.disconnect(_watch_celery)
    queues = [queue.name for queue in sender.task_consumer.queues]
    threading.Thread(target=_follow, args=(sender, queues), daemon=True).start()


try:
    from airflow.providers.celery.executors.default_celery import DEFAULT_CELERY_CONFIG as CELERY_CONFIG  # noqa: F401
    from celery.signals import worker_ready
except ImportError:
    # An edge host has no Celery.
    pass
else:
    worker_ready.connect(_watch_celery)
