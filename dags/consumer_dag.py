"""Whenever a file arrived on the NAS: read it on the main server."""

from __future__ import annotations

import socket

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowFailException

from nas import nas_filestorage, read


@dag(schedule=[nas_filestorage], catchup=False, tags=["nas"], doc_md=__doc__)
def consumer_dag():
    @task
    def process_file_from_nas(triggering_asset_events=None) -> list[dict]:
        """Read every file that the run was started for: the scheduler merges events that come close together."""
        # In the order of arrival, each path once.
        files = {event.extra["path"]: event.extra for event in triggering_asset_events.get(nas_filestorage, [])}
        if not files:
            raise AirflowFailException(
                "This run was not started by a file: trigger producer_dag, and the scheduler starts consumer_dag."
            )
        results = []
        for path, manifest in files.items():
            lines = read(manifest).decode().splitlines()
            print(f"process_file_from_nas read {path} on {socket.gethostname()}: {len(lines)} lines: {lines}")
            # Put the parsing and the loading into your database here.
            results.append({"path": path, "lines": lines})
        return results

    process_file_from_nas()


consumer_dag()
