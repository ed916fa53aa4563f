"""A feed, from a file on a service to the rows in a table; the scenario feeds has all the rest."""

from datetime import UTC, datetime, timedelta

import pytest

from support.pipeline import ENDED, until

PASSWORD = "of the tests' database"  # noqa: S105


@pytest.fixture(scope="module")
def put(nas1, edge1, main1, airflow, dags_of_the_tests):
    """Put a day's file on the service, from which the feed brings it to the database of the tests."""
    edge1.check_output(
        "mkdir -p /srv/service && systemd-run --unit=foreign-service --collect"
        " python3 -m http.server --bind 127.0.0.1 --directory /srv/service 8000"
    )
    account = "'loader'@'127.0.0.1'"
    for statement in (
        "CREATE DATABASE warehouse",
        f'CREATE USER {account} IDENTIFIED BY "{PASSWORD}"',
        f"GRANT ALL ON warehouse.* TO {account}",
    ):
        main1.check_output("mysql --execute %s", statement)
    database = {"host": "127.0.0.1", "port": 3306, "schema": "warehouse", "login": "loader", "password": PASSWORD}
    connections = {
        "foreign_service": {"conn_type": "http", "host": "127.0.0.1", "port": 8000},
        "foreign_database": {"conn_type": "mysql", "extra": '{"charset": "utf8mb4"}', **database},
    }
    for name, connection in connections.items():
        airflow.call("POST", "/api/v2/connections", {"connection_id": name, **connection})

    def put(day, text):
        edge1.check_output(f"printf %s > /srv/service/{day:%Y%m%d}.csv", text)

    yield put
    # So that the same day can be fetched again, and no run of it disturbs other tests.
    for dag in ("foreign_rates_fetch", "foreign_rates_load"):
        until(lambda dag=dag: airflow.states(dag) <= set(ENDED))
        airflow.call("PATCH", f"/api/v2/dags/{dag}", {"is_paused": True})
        airflow.call("DELETE", f"/api/v2/dags/{dag}")
    nas1.check_output("rm -r /srv/filestorage/foreign_rates")
    for name in connections:
        airflow.call("DELETE", f"/api/v2/connections/{name}")
    main1.check_output("mysql --execute %s", f"DROP DATABASE warehouse; DROP USER {account}")
    edge1.check_output("systemctl stop foreign-service.service")


def test_each_version_of_a_days_file_is_in_the_table_once(airflow, fetch, loaded, query, put, nas1):
    day = datetime.now(UTC).date()
    # Unpausing starts the run of the last midnight; the next one may come meanwhile.
    for each in (day, day + timedelta(days=1)):
        put(each, "id,name\\n1,one\\n2,two\\nx,bad\\n")
    airflow.unpause("foreign_rates_load")
    airflow.unpause("foreign_rates_fetch")
    oldest = "/api/v2/dags/foreign_rates_fetch/dagRuns?order_by=run_after&limit=1"
    [run] = until(lambda: airflow.call("GET", oldest)["dag_runs"])
    day = datetime.fromisoformat(run["run_after"]).date()
    run = airflow.follow(run)
    assert run["state"] == "success"
    first = (f"{day:%Y%m%d}.csv", "loaded", "3", "2", "1")
    assert loaded("foreign_rates", day) == [first]
    rows = f"SELECT id, name FROM foreign_rates WHERE feed_day = '{day}' ORDER BY id"
    assert query(rows) == [("1", "one"), ("2", "two")]
    [(reason,)] = query(f"SELECT reason FROM feed_rejects WHERE path LIKE '%{day:%Y%m%d}.csv'")
    assert "id: 'x' is not an integer" in reason
    manifest = airflow.result(run, "fetch")
    on_nas = manifest["path"].replace("/opt/airflow/filestorage", "/srv/filestorage")
    assert nas1.check_output(f"sha256sum {on_nas}").split()[0] == manifest["sha256"]
    # The service has corrected its file.
    put(day, "id,name\\n2,zwei\\n")
    assert fetch("foreign_rates", day)["state"] == "success"
    assert loaded("foreign_rates", day, 2) == [first, (f"{day:%Y%m%d}.v2.csv", "loaded", "1", "1", "0")]
    assert query(rows) == [("2", "zwei")]
