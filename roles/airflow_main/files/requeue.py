"""Put tasks back that were handed out and never began; else they wait for [scheduler] task_queued_timeout, a day.

The API hands out an edge job (`restarting`), which begins when its worker reports it. A Celery message is in a list of
Redis, and after its delivery among the unacknowledged messages until the task ends. Airflow 3.3.2 and edge3 5.1.0
notice neither a job whose worker died in between, nor a message that was lost. A job that no worker has asked for is
left alone: it waits for its edge host.
"""

import json
import logging
import os
import time

import redis
from sqlalchemy import bindparam, create_engine, text

# Seconds between two looks, and seconds after which a task counts as lost that was handed out. An edge worker takes no
# answer that is older than 30 s, and a task needs some seconds to its first call of the API, under load a minute.
INTERVAL, LOST_AFTER = 30, 150

log = logging.getLogger("requeue")

# Jobs that no worker has reported as running. If the first worker is late, the Execution API lets one of both begin.
EDGE = text("""
    SELECT j.dag_id, j.task_id, j.run_id, j.map_index, j.try_number
    FROM edge_job j JOIN task_instance t ON t.dag_id = j.dag_id AND t.task_id = j.task_id AND t.run_id = j.run_id
        AND t.map_index = j.map_index AND t.try_number = j.try_number
    WHERE j.state = 'restarting' AND t.state = 'queued' AND j.last_update < NOW() - INTERVAL :seconds SECOND
""")
AGAIN = text("""
    UPDATE edge_job SET state = 'queued'
    WHERE dag_id = :dag_id AND task_id = :task_id AND run_id = :run_id AND map_index = :map_index
        AND try_number = :try_number AND state = 'restarting' AND last_update < NOW() - INTERVAL :seconds SECOND
""")
CELERY = text("""
    SELECT external_executor_id, queue FROM task_instance
    WHERE state = 'queued' AND external_executor_id IS NOT NULL AND queued_dttm < NOW() - INTERVAL :seconds SECOND
        AND COALESCE(executor, 'CeleryExecutor') LIKE '%CeleryExecutor'
""")
# The scheduler takes a task back that has been queued for longer than task_queued_timeout, and queues it again.
STUCK = text("""
    UPDATE task_instance SET queued_dttm = queued_dttm - INTERVAL :timeout SECOND
    WHERE state = 'queued' AND external_executor_id IN :lost AND queued_dttm < NOW() - INTERVAL :seconds SECOND
""").bindparams(bindparam("lost", expanding=True))


def messages(broker: redis.Redis, queues: set[str]) -> set[str]:
    """Return the ids of the tasks that have a message in Redis: waiting, or delivered and not acknowledged."""
    # Celery's lists of one queue, one for each priority, begin with the queue's name.
    lists = {key for queue in queues for key in [queue.encode(), *broker.scan_iter(f"{queue}\x06\x16*")]}
    waiting = [json.loads(text) for key in lists for text in broker.lrange(key, 0, -1)]
    delivered = [json.loads(text)[0] for text in broker.hvals("unacked")]
    return {message["headers"]["id"] for message in waiting + delivered}


def look(database, broker: redis.Redis, timeout: int) -> None:
    with database.begin() as connection:
        for job in connection.execute(EDGE, {"seconds": LOST_AFTER}).mappings().all():
            if connection.execute(AGAIN, {**job, "seconds": LOST_AFTER}).rowcount:
                log.warning("Queued again, since no worker has reported that it runs: %s", dict(job))
        queued = dict(connection.execute(CELERY, {"seconds": LOST_AFTER}).tuples().all())
    lost = set(queued)
    # A message between the list and the unacknowledged is in neither; so a task is lost that has none at two moments.
    for pause in (0, 5):
        if lost:
            time.sleep(pause)
            lost -= messages(broker, set(queued.values()))
    if lost:
        with database.begin() as connection:
            connection.execute(STUCK, {"seconds": LOST_AFTER, "timeout": timeout, "lost": sorted(lost)})
        log.warning("Handed to the scheduler, since Redis has no message of theirs: %s", ", ".join(sorted(lost)))


def main() -> None:
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    database = create_engine(
        os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], pool_pre_ping=True, isolation_level="READ COMMITTED"
    )
    broker = redis.Redis.from_url(os.environ["AIRFLOW__CELERY__BROKER_URL"], socket_timeout=30)
    timeout = int(os.environ["AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT"])
    while True:
        # The first pause is for workers that report what they did while the main server was away.
        time.sleep(INTERVAL)
        try:
            look(database, broker, timeout)
        except Exception:
            # A database or broker that is away comes back.
            log.exception("No look at the queued tasks; the next one is in %s s", INTERVAL)


if __name__ == "__main__":
    main()
