"""Start edge workers for test_edge_worker.py: for each line of standard input, fork one, and print its process id.

The workers are real except for their tasks: the supervisor of a task writes the name of its run into a file.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

# Airflow logs to standard output, which is for the process ids here.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import edge_worker  # noqa: E402
from airflow.providers.edge3.cli import worker  # noqa: E402

RAN = Path(os.environ["AIRFLOW_HOME"]) / "ran"


class Worker(edge_worker.Worker):
    def _run_job_via_supervisor(self, workload, error_file_path):
        with RAN.open("a") as file:
            file.write(f"{workload.ti.run_id}\n")
        time.sleep(0.2)
        if workload.ti.run_id == "elsewhere":
            error_file_path.write_text(
                "airflow.sdk.exceptions.TaskAlreadyRunningError: Task instance is already running"
            )
            os._exit(1)
        os._exit(0)


def run(concurrency: int) -> None:
    asyncio.run(Worker(f"{os.environ['AIRFLOW_HOME']}/pid", "edge1", ["edge"], concurrency).start())


# What a first worker imports and reads, the others have.
Worker("", "", [], 1).conf.get("core", "executor")
worker.jobs_fetch.__globals__["jwt_generator"]().generate({"method": "warm"})
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        os.setpgrp()
        run(int(line))
        os._exit(0)
    print(pid, file=answers, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
