"""`airflow edge worker` whose stop loses no task, and which never has more tasks than it may (for edge3 5.1.0).

The worker of edge3 asks for a task every few seconds, in the background, and repeats each request while the API is
away. It ends without the answers that are still to come, although the main server has handed out the tasks; and after
an outage all answers come at once. This worker has one request under way at most; a stop waits for the answer, and
gives the task back.
"""

import asyncio
import logging
import sys

from airflow.providers.edge3.cli import api_client, worker
from airflow.utils.state import TaskInstanceState

# Seconds that a request for a task, and a heartbeat, may take with its retries. The main server hands out a task again
# whose worker has not reported it for 150 s (requeue.py): an answer as old as that must not start the task.
PATIENCE = 30

log = logging.getLogger(__name__)


class Worker(worker.EdgeWorker):
    """The worker of edge3, which calls the API through the methods below."""

    is_asking = False
    is_signing_off = False

    async def start(self) -> None:
        worker.jobs_fetch = self.ask
        worker.jobs_set_state = self.report
        worker.worker_set_state = self.tell
        await super().start()

    async def loop(self) -> None:
        await super().loop()
        while self.is_asking:
            await asyncio.sleep(0.1)
        self.is_signing_off = True

    async def heartbeat(self, new_maintenance_comments: str | None = None) -> bool:
        """Send a heartbeat; unlike in edge3, an outage neither ends the worker nor keeps it from its running tasks."""
        try:
            return await super().heartbeat(new_maintenance_comments)
        except TimeoutError:
            log.warning("No answer to a heartbeat within %s s", PATIENCE)
            return True

    async def ask(self, *arguments, **options):
        """Ask for a task, unless a request is under way or the worker takes no tasks."""
        if self.is_asking or self.drain or self.maintenance_mode:
            return None
        self.is_asking = True
        try:
            async with asyncio.timeout(PATIENCE):
                job = await api_client.jobs_fetch(*arguments, **options)
            if job and self.drain:
                await self.give_back(job)
                return None
            if job and (same := self.find(job.key)) and same.is_running:
                log.warning("%s runs here already", job.identifier)
                return None
            return job
        except TimeoutError:
            log.warning("No answer to a request for a task within %s s", PATIENCE)
            return None
        finally:
            self.is_asking = False

    async def give_back(self, job) -> None:
        log.info("Stopping; giving back %s", job.identifier)
        async with asyncio.timeout(PATIENCE):
            await api_client.jobs_set_state(job.key, TaskInstanceState.QUEUED, task_instance_id=job.task_instance_id)

    async def report(self, key, state, **options) -> None:
        """Report the state of a task, unless the task did not start because it runs elsewhere."""
        job = self.find(key)
        if state == TaskInstanceState.FAILED and job and "TaskAlreadyRunningError" in job.failure_details():
            log.warning("%s runs elsewhere", job.edge_job.identifier)
            return
        await api_client.jobs_set_state(key, state, **options)

    async def tell(self, *arguments, **options):
        """Tell the state of this worker; raises TimeoutError except at the end, when nobody needs the answer."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await api_client.worker_set_state(*arguments, **options)
        except TimeoutError:
            if not self.is_signing_off:
                raise
            log.warning("The main server does not answer; it marks this worker as lost after 5 heartbeats")
            return None

    def find(self, key):
        return next((job for job in self.jobs if job.edge_job.key == key), None)


def main() -> None:
    from airflow.__main__ import main as airflow

    worker.EdgeWorker = Worker
    sys.argv = ["airflow", "edge", "worker", *sys.argv[1:]]
    airflow()


if __name__ == "__main__":
    main()
