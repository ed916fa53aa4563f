"""Feeds: files of the outside service, fetched and loaded."""

import contextlib
from datetime import UTC, datetime

import pytest

from support.pipeline import until


@pytest.fixture(scope="session")
def query(main1):
    """Query the team's database; rows of strings."""

    def query(statement):
        answer = main1.check_output("mysql --batch --skip-column-names warehouse --execute %s", statement)
        return [tuple(line.split("\t")) for line in answer.splitlines()]

    return query


@pytest.fixture(scope="session")
def put(out1):
    """Put a day's CSV file on the outside service."""

    def put(day, text):
        out1.check_output(f"printf %s > /srv/outside/www/{day:%Y%m%d}.csv", text)

    return put


@pytest.fixture(scope="session")
def fetch(airflow):
    """Fetch a day's file of a feed, and return the ended run.

    The run's logical date has to be of that day in the feed's time zone, and not in the future: both hold for the
    day's first second in UTC.
    """

    def fetch(feed, day, wait=True, at="00:00:01+00:00"):
        logical = f"{datetime.fromisoformat(f'{day}T{at}').astimezone(UTC):%Y-%m-%dT%H:%M:%S}"
        body = {"logical_date": f"{logical}Z", "dag_run_id": f"{day}_{datetime.now(UTC).timestamp()}"}
        try:
            run = airflow.call("POST", f"/api/v2/dags/{feed}_fetch/dagRuns", body)
        except RuntimeError as error:
            # There is one run per logical date: run it again.
            if ": 409 " not in str(error):
                raise
            listed = airflow.call("GET", f"/api/v2/dags/{feed}_fetch/dagRuns?logical_date_gte={logical}Z")
            [run] = [run for run in listed["dag_runs"] if run["logical_date"].startswith(logical)]
            airflow.call("POST", f"/api/v2/dags/{feed}_fetch/dagRuns/{run['dag_run_id']}/clear", {"dry_run": False})
            run["state"] = "queued"
        return airflow.follow(run) if wait else run

    return fetch


@pytest.fixture(scope="session")
def loaded(airflow, query):
    """Wait until the ledger has enough lines for a feed's day, and return them."""

    # A failed attempt is retried after two minutes.
    def loaded(feed, day, lines=1, seconds=300):
        statement = (
            "SELECT SUBSTRING_INDEX(path, '/', -1), state, records, rows_loaded, rows_rejected FROM feed_files"
            f" WHERE feed = '{feed}' AND day = '{day}' ORDER BY fetched_at"
        )
        until(lambda: "feed_files" in str(query("SHOW TABLES")), seconds)
        with contextlib.suppress(TimeoutError):
            until(lambda: len(query(statement)) >= lines, seconds)
        found = query(statement)
        assert len(found) >= lines, f"{found} after {seconds} s; the last loads: {airflow.states(f'{feed}_load')}"
        return found

    return loaded
