"""Days that are loaded: what the feed of today would make of their files, and loading them again (main server)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from itertools import islice
from pathlib import Path

import nas
from feed.check import RECORD, open_feed, shown_value
from feed.load import PATIENCE
from feed.load import _database as database
from feed.load import _insert as insert
from feed.load import _make_table as make_table
from feed.model import Feed

# Examples that are shown of each file.
SHOWN = 20
# In place of a digest, for the rejected records of a review; nothing of a review is committed.
REVIEW = "review"


def feed_of(name: str) -> Feed:
    """Return a feed of the DAGs on this host.

    :raises ValueError: there is no such feed, or its file is wrong.
    """
    # A command may ask Airflow's database for connections.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    from airflow.configuration import conf

    folder = Path(conf.get("core", "dags_folder"))
    feeds = {path.stem: path for path in sorted(folder.rglob("feeds/*.yml"))}
    if name not in feeds:
        raise ValueError(f"There is no feed {name} below {folder}; there are {', '.join(feeds) or 'none'}")
    return open_feed(feeds[name])


def review(name: str, first: date | None = None, last: date | None = None) -> bool:
    """Say what the feed of today would change in, or reject of, the files that are loaded; return whether nothing.

    Loads each file as a load does, compares the rows, and takes everything back.

    :raises ValueError: there is no such feed, or its table does not fit; says what helps.
    :raises OSError: the NAS or the database does not answer.
    """
    feed = feed_of(name)
    nas.require()
    # A second session sees what was before, until the first one commits, and it never does.
    with database(feed) as connection, database(feed) as before:
        newest = {}
        for line in _lines(connection, feed, first, last):
            if line["state"] == "loaded":
                newest[line["day"]] = line
        same = 0
        for line in newest.values():
            differences = []
            try:
                path = nas.check(line, 0)
                with _locked(connection, feed), closing(connection.cursor()) as cursor:
                    differences = _differences(cursor, before, feed, line, path)
            except FileNotFoundError:
                print(f"{line['path']}: not on the NAS any more: its rows stay as they are")
                continue
            except ValueError as error:
                differences = [str(error)]
            finally:
                connection.rollback()
                before.rollback()
            same += not differences
            if differences:
                print(f"{line['path']} ({line['day']}):", *differences, sep="\n  ")
        print(f"{name}: {len(newest)} files are loaded; {same} of them would give the same rows")
    return same == len(newest)


def reload(name: str, first: date, last: date) -> bool:
    """Let the next load take the days' files again, and start it; return whether there are any.

    Until then their rows stay; the load replaces the rows of a day in one transaction.

    :raises ValueError: there is no such feed.
    :raises OSError: the NAS or the database does not answer; nothing has changed then.
    """
    feed = feed_of(name)
    nas.require()
    marked, left_out = [], []
    with database(feed) as connection, closing(connection.cursor()) as cursor:
        for line in _lines(connection, feed, first, last):
            try:
                nas.check(line, 0)
            except (FileNotFoundError, ValueError) as error:
                left_out.append(f"{line['path']}: stays as it is loaded: {error}")
            else:
                marked.append(line["path"])
                key = (feed.name, line["path"], line["sha256"])
                cursor.execute("DELETE FROM feed_files WHERE feed = %s AND path = %s AND sha256 = %s", key)
        connection.commit()
    for message in left_out:
        print(message)
    if not marked:
        print(
            f"{name}: nothing is loaded for {first} to {last} that the NAS has: fetch the days (trigger {name}_fetch)"
        )
        return False
    for path in marked:
        print(f"{path}: will be loaded again")
    trigger = ["airflow", "dags", "trigger", f"{name}_load"]
    if subprocess.run(trigger, check=False, stdout=subprocess.DEVNULL).returncode:  # noqa: S603 - a feed's name
        print(f"{name}_load was not started; its next run loads them. By hand: {' '.join(trigger)}")
    return True


def _lines(connection, feed: Feed, first: date | None, last: date | None) -> list[dict]:
    """Return the ledger's lines of a feed's days, oldest first."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(
            "SELECT path, sha256, day, version, state FROM feed_files WHERE feed = %s AND day BETWEEN %s AND %s"
            " ORDER BY day, version",
            (feed.name, first or date.min.replace(year=1000), last or date.max),
        )
        names = ("path", "sha256", "day", "version", "state")
        lines = [dict(zip(names, line, strict=True)) for line in cursor.fetchall()]
    connection.commit()
    return lines


@contextmanager
def _locked(connection, feed: Feed) -> Iterator[None]:
    """Keep loads of a feed out.

    :raises TimeoutError: one does not end.
    """
    lock = f"feed {feed.name}"
    with closing(connection.cursor()) as cursor:
        cursor.execute("SELECT GET_LOCK(%s, %s)", (lock, PATIENCE))
        if cursor.fetchone()[0] != 1:
            raise TimeoutError(f"a load of {feed.name} has been running for {PATIENCE} s")
        try:
            yield
        finally:
            cursor.execute("SELECT RELEASE_LOCK(%s)", (lock,))


def _differences(cursor, before, feed: Feed, line: dict, path: Path) -> list[str]:
    """Load a file without a commit, and say how the rows of its day differ.

    :raises ValueError: the file, the feed and the table do not fit each other.
    """
    day, load = str(line["day"]), feed.load
    make_table(cursor, feed)
    if load.mode == "replace":
        cursor.execute(f"DELETE FROM `{load.table}` WHERE feed_day = %s", (day,))  # noqa: S608
    # All of them, to show them.
    patient = feed.model_copy(update={"load": load.model_copy(update={"reject_limit": 1 << 62})})
    _, rejected = insert(cursor, patient, path, day, (feed.name, line["path"], REVIEW))
    cursor.execute(
        "SELECT feed_row, reason, record FROM feed_rejects WHERE feed = %s AND path = %s AND sha256 = %s"
        " AND feed_row NOT IN (SELECT feed_row FROM feed_rejects WHERE feed = %s AND path = %s AND sha256 = %s)"
        " ORDER BY feed_row",
        (feed.name, line["path"], REVIEW, feed.name, line["path"], line["sha256"]),
    )
    new = [f"record {row}: {reason}: {record[:RECORD]}" for row, reason, record in cursor.fetchmany(SHOWN)]
    told = []
    if new:
        told.append(f"rejects {rejected} records (load.reject_limit: {load.reject_limit}), among them new ones:")
        told += new
    with closing(before.cursor()) as earlier:
        changed = _changed(_rows(cursor, feed, day), _rows(earlier, feed, day), list(load.columns))
        examples = list(islice(changed, SHOWN))
        number = len(examples) + sum(1 for _ in changed)
    if number:
        told += [f"changes {number} rows:", *examples]
    return told


def _rows(cursor, feed: Feed, day: str) -> Iterator[tuple]:
    """Yield the rows of a day, each with its record's number first."""
    columns = ", ".join(f"`{name}`" for name in feed.load.columns)
    statement = f"SELECT feed_row, {columns} FROM `{feed.load.table}` WHERE feed_day = %s AND feed_row > %s"  # noqa: S608
    last = 0
    # In portions: a cursor keeps its whole answer in memory.
    while True:
        cursor.execute(f"{statement} ORDER BY feed_row LIMIT 10000", (day, last))
        portion = cursor.fetchall()
        if not portion:
            return
        yield from portion
        last = portion[-1][0]


def _changed(now: Iterator[tuple], earlier: Iterator[tuple], names: list[str]) -> Iterator[str]:
    """Yield what differs between rows that are sorted by their numbers."""
    new, old = next(now, None), next(earlier, None)
    while new or old:
        if old is None or (new and new[0] < old[0]):
            yield f"record {new[0]}: would be added"
            new = next(now, None)
        elif new is None or old[0] < new[0]:
            yield f"record {old[0]}: its row would go"
            old = next(earlier, None)
        else:
            pairs = [(name, a, b) for name, a, b in zip(names, old[1:], new[1:], strict=True) if a != b]
            if pairs:
                told = "; ".join(f"{name}: {shown_value(a)} becomes {shown_value(b)}" for name, a, b in pairs)
                yield f"record {new[0]}: {told}"
            new, old = next(now, None), next(earlier, None)
