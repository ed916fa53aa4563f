"""Feeds as data: each feeds/NAME.yml becomes NAME_fetch, which runs on the edge, and NAME_load, which runs on Celery.

docs/feeds.md says how to write one. The modules: model, with source, file, column, fields and times (what may stand
there); fetch, with http, session, pages, sftp and resume (from the outside service to the NAS); parse (from a file to
records); values (from a value to what a column gets); load (from records to MySQL); tell (by mail or webhook). The
command airflow-feed: check (without Airflow) and days (on the main server).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from feed.model import Feed

if TYPE_CHECKING:
    from airflow.sdk import DAG


def dags(stub: str) -> tuple[DAG, DAG]:
    """Make the two DAGs of the feed whose .yml lies beside a Python file.

    :raises ValueError: the .yml is wrong; says where, and what would be right.
    """
    feed = Feed.of(Path(stub).with_suffix(".yml"))
    return _fetch_dag(feed), _load_dag(feed)


def _attempts(feed: Feed) -> dict:
    """Return how often, and for how long, a task of a feed is tried."""
    return {
        "retries": feed.retries,
        "retry_delay": feed.retry_delay,
        "retry_exponential_backoff": 2,
        "max_retry_delay": feed.max_retry_delay,
        "execution_timeout": feed.execution_timeout,
    }


# Airflow is imported where DAGs are made: a controller checks feeds without Airflow.
def _fetch_dag(feed: Feed) -> DAG:
    from airflow.sdk import Asset, CronTriggerTimetable, PokeReturnValue, dag, task

    from feed.tell import on_failure, reason_kept

    arrival = Asset(feed.name)

    @dag(
        f"{feed.name}_fetch",
        schedule=CronTriggerTimetable(feed.schedule, timezone=feed.timezone),
        start_date=datetime(feed.start_date.year, feed.start_date.month, feed.start_date.day, tzinfo=feed.zone),
        catchup=feed.catchup,
        tags=["feed"],
        description=feed.description,
        doc_md=feed.text,
        on_failure_callback=on_failure(feed),
    )
    def fetch_dag():
        # A sensor gives its slot back while the file is not there yet.
        @task.sensor(
            mode="reschedule",
            poke_interval=feed.look_again,
            timeout=feed.give_up_after,
            executor="EdgeExecutor",
            queue=feed.queue,
            outlets=[arrival],
            **_attempts(feed),
        )
        def fetch(dag_run=None, logical_date=None, outlet_events=None, ti=None):
            """Bring the run's file from the outside service to the NAS."""
            from feed.fetch import NotThereYet, fetch_file

            with reason_kept(feed, ti):
                try:
                    manifest = fetch_file(feed, *feed.when(logical_date or dag_run.run_after))
                except NotThereYet as late:
                    feed.too_late(late, dag_run.run_after)
                    print(f"{late}; looking again in {feed.look_again}")
                    return PokeReturnValue(is_done=False)
            print(f"{manifest['path']}: {manifest['bytes']} bytes, {manifest['rows']} records")
            outlet_events[arrival].extra = manifest
            return PokeReturnValue(is_done=True, xcom_value=manifest)

        fetch()

    return fetch_dag()


def _load_dag(feed: Feed) -> DAG:
    from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable, dag, task

    from feed.tell import on_failure, reason_kept

    arrival = Asset(feed.name)

    @dag(
        f"{feed.name}_load",
        # With each file that arrives; and by the clock, for events can get lost: one for a DAG that is paused does.
        schedule=AssetOrTimeSchedule(
            assets=arrival, timetable=CronTriggerTimetable(feed.load.sweep, timezone=feed.timezone)
        ),
        catchup=False,
        max_active_runs=1,
        tags=["feed"],
        description=feed.description,
        doc_md=feed.text,
        on_failure_callback=on_failure(feed),
    )
    def load_dag():
        @task(**_attempts(feed))
        def load(triggering_asset_events=None, ti=None) -> list[dict]:
            """Load every file that is not in the ledger yet: those of the events, and any other."""
            from feed.load import load_files

            with reason_kept(feed, ti):
                return load_files(feed, [event.extra for event in triggering_asset_events.get(arrival, [])])

        # Beside the load, not after it: the run is as good as its last tasks.
        @task(**_attempts(feed))
        def clean_up(ti=None) -> list[str]:
            """Remove files that are loaded and older than `keep`, and what a power cut left unfinished."""
            from feed.load import remove_old_files

            with reason_kept(feed, ti):
                return remove_old_files(feed)

        load()
        clean_up()

    return load_dag()
