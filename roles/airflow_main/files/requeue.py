"""Put tasks back that were handed out and never began; else they wait for [scheduler] task_queued_timeout, a day.

The API hands out an edge job (`restarting`), which begins when its worker reports it. A Celery message is in a list of
Redis, and after its delivery among the unacknowledged messages until the task ends. Airflow 3.3.2 and edge3 5.1.0
notice neither a job or message whose worker died in between, nor a message that was lost, nor a job that the scheduler
has purged after an hour. A job that no worker has asked for is left alone: it waits for its edge host.
"""

import json
import logging
import os
import time

import kombu
from redis.exceptions import RedisError
from sqlalchemy import bindparam, create_engine, text
from sqlalchemy.exc import DBAPIError

# Seconds between two looks, and seconds after which a task counts as lost that was handed out. An edge worker takes no
# answer that is older than 30 s, and a task needs some seconds to its first call of the API, under load a minute.
INTERVAL, LOST_AFTER = 30, 150
TRANSPORT_OPTION = "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__"

log = logging.getLogger("requeue")

# Times are in UTC, whatever the time zone of the database server. Jobs that no worker has reported as running: if the
# first worker is late, the Execution API lets one of both begin.
EDGE = text("""
    SELECT j.dag_id, j.task_id, j.run_id, j.map_index, j.try_number
    FROM edge_job j JOIN task_instance t ON t.dag_id = j.dag_id AND t.task_id = j.task_id AND t.run_id = j.run_id
        AND t.map_index = j.map_index AND t.try_number = j.try_number
    WHERE j.state = 'restarting' AND t.state = 'queued'
        AND j.last_update < UTC_TIMESTAMP() - INTERVAL :seconds SECOND
""")
AGAIN = text("""
    UPDATE edge_job SET state = 'queued'
    WHERE dag_id = :dag_id AND task_id = :task_id AND run_id = :run_id AND map_index = :map_index
        AND try_number = :try_number AND state = 'restarting'
        AND last_update < UTC_TIMESTAMP() - INTERVAL :seconds SECOND
""")
# The scheduler writes task and job in one transaction.
WITHOUT_JOB = text("""
    SELECT t.id FROM task_instance t LEFT JOIN edge_job j ON j.dag_id = t.dag_id AND j.task_id = t.task_id
        AND j.run_id = t.run_id AND j.map_index = t.map_index AND j.try_number = t.try_number
    WHERE t.state = 'queued' AND t.executor LIKE '%EdgeExecutor' AND j.dag_id IS NULL
        AND t.queued_dttm < UTC_TIMESTAMP() - INTERVAL :seconds SECOND
""")
CELERY = text("""
    SELECT external_executor_id AS message, id, queue FROM task_instance
    WHERE state = 'queued' AND external_executor_id IS NOT NULL
        AND queued_dttm < UTC_TIMESTAMP() - INTERVAL :seconds SECOND
        AND COALESCE(executor, 'CeleryExecutor') LIKE '%CeleryExecutor'
""")
# The scheduler takes a task back that has been queued for longer than task_queued_timeout, and queues it again.
STUCK = text("""
    UPDATE task_instance SET queued_dttm = queued_dttm - INTERVAL :timeout SECOND
    WHERE state = 'queued' AND id IN :lost AND queued_dttm < UTC_TIMESTAMP() - INTERVAL :seconds SECOND
        AND queued_dttm > UTC_TIMESTAMP() - INTERVAL :timeout SECOND
""").bindparams(bindparam("lost", expanding=True))


def options() -> dict:
    """Return [celery_broker_transport_options] as Airflow gives them to Celery."""

    def value(text: str):
        try:
            return json.loads(text)
        except ValueError:
            return text

    found = {name: text for name, text in os.environ.items() if name.startswith(TRANSPORT_OPTION)}
    return {name.removeprefix(TRANSPORT_OPTION).lower(): value(text) for name, text in found.items()}


def task(message: dict) -> str | None:
    return message.get("headers", {}).get("id")


def waiting(channel, queues: set[str]) -> set[str | None]:
    """Return the tasks whose messages no worker has taken."""
    # Celery's lists of one queue, one for each priority, begin with the queue's name.
    names = [f"{channel.global_keyprefix}{queue}" for queue in queues]
    lists = {key for name in names for key in [name.encode(), *channel.client.scan_iter(f"{name}\x06\x16*")]}
    return {task(json.loads(text)) for key in lists for text in channel.client.lrange(key, 0, -1)}


def delivered(channel) -> dict[str, str | None]:
    """Return the tasks whose messages are with a worker, by the tags of the deliveries."""
    found = channel.client.hgetall(f"{channel.global_keyprefix}{channel.unacked_key}")
    return {tag.decode(): task(json.loads(text)[0]) for tag, text in found.items()}


def restore(channel, queued: dict[str, dict]) -> None:
    """Deliver messages again whose worker has not begun the task."""
    index = f"{channel.global_keyprefix}{channel.unacked_index_key}"
    overdue = {tag.decode() for tag in channel.client.zrangebyscore(index, 0, time.time() - LOST_AFTER)}
    for tag, message in delivered(channel).items():
        if tag in overdue and message in queued:
            channel.qos.restore_by_tag(tag)
            log.warning("Delivered again, since the task has not begun: %s", message)


def look_at_celery(queued: dict[str, dict]) -> list:
    """Restore the messages of queued tasks, and return the ids of tasks that have none."""
    url = os.environ["AIRFLOW__CELERY__BROKER_URL"]
    with kombu.Connection(url, transport_options=options()) as connection, connection.channel() as channel:
        restore(channel, queued)
        lost = set(queued)
        # A message between the list and the unacknowledged is in neither; so a task is lost without one at two moments.
        for pause in (0, 5):
            if lost:
                time.sleep(pause)
                lost -= {*delivered(channel).values(), *waiting(channel, {queued[name]["queue"] for name in lost})}
    return [queued[message]["id"] for message in sorted(lost)]


def look(database, timeout: float) -> None:
    times = {"seconds": LOST_AFTER}
    with database.begin() as connection:
        for job in connection.execute(EDGE, times).mappings().all():
            if connection.execute(AGAIN, {**job, **times}).rowcount:
                log.warning("Queued again, since no worker has reported that it runs: %s", dict(job))
        lost = list(connection.execute(WITHOUT_JOB, times).scalars())
        queued = {row["message"]: dict(row) for row in connection.execute(CELERY, times).mappings()}
    try:
        if queued:
            lost += look_at_celery(queued)
    finally:
        if lost:
            with database.begin() as connection:
                count = connection.execute(STUCK, {**times, "timeout": timeout, "lost": lost}).rowcount
            if count:
                log.warning("Handed to the scheduler, since they have no message and no job: %s", ", ".join(lost))


def main() -> None:
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    database = create_engine(
        os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], pool_pre_ping=True, isolation_level="READ COMMITTED"
    )
    timeout = float(os.environ["AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT"])
    while True:
        # The first pause is for workers that report what they did while the main server was away.
        time.sleep(INTERVAL)
        try:
            look(database, timeout)
        # What is away comes back.
        except DBAPIError as error:
            log.warning("Retrying in %s s, since the database does not answer: %s", INTERVAL, error.orig)
        except (RedisError, OSError) as error:
            log.warning("Retrying in %s s, since the broker does not answer: %s", INTERVAL, error)
        except Exception:
            log.exception("Retrying in %s s", INTERVAL)


if __name__ == "__main__":
    main()
