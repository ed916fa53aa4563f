"""Days that are loaded: what the feed of today would make of their files, and loading them again (main server)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from itertools import islice
from pathlib import Path

import nas
from feed.check import RECORD, open_feed, shown_value
from feed.load import database, load_file
from feed.model import Feed

# Examples that are shown of each file, and rows that are read at once.
SHOWN, PORTION = 20, 10_000


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
    number = same = 0
    # A second session sees what was before, until the first one commits, and it never does.
    with database(feed) as connection, database(feed) as before:
        _require_table(before, feed)
        for line in _lines(connection, feed, first, last):
            if line["state"] != "loaded":
                continue
            try:
                differences = _differences(_Uncommitted(connection), before, feed, line)
            except FileNotFoundError:
                print(f"{line['path']}: not on the NAS any more: its rows stay as they are")
                continue
            except ValueError as error:
                differences = [str(error)]
            finally:
                connection.rollback()
                before.rollback()
            number += 1
            same += not differences
            if differences:
                print(f"{line['path']} ({line['day']}):", *differences, sep="\n  ")
    print(f"{name}: {number} files are loaded and on the NAS; {same} of them would give the same rows")
    return same == number


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


class _Uncommitted:
    """A session whose transaction somebody else ends, whatever loads in it."""

    def __init__(self, connection):
        self._connection = connection

    def __getattr__(self, name: str):
        return getattr(self._connection, name)

    def commit(self) -> None:
        """Leave the transaction open."""


def _require_table(connection, feed: Feed) -> None:
    """Refuse a review that would make the table: that ends a transaction.

    :raises ValueError: there is no such table.
    """
    with closing(connection.cursor()) as cursor:
        cursor.execute("SHOW TABLES LIKE %s", (feed.load.table.replace("_", r"\_"),))
        if not cursor.fetchone():
            raise ValueError(f"load.table: {feed.load.table!r} is not there: nothing is loaded into it yet")


def _differences(connection, before, feed: Feed, line: dict) -> list[str]:
    """Load a file again without a commit, and say how the rows of its day differ.

    :raises FileNotFoundError: the NAS has it no more.
    :raises ValueError: the file, the feed and the table do not fit each other.
    """
    path = nas.check(line, 0)
    manifest = nas.manifest_of(path)
    if not manifest:
        raise ValueError("its manifest is not on the NAS any more: it cannot be loaded again")
    key, load = (feed.name, line["path"], line["sha256"]), feed.load
    # All bad records, to count them.
    patient = feed.model_copy(update={"load": load.model_copy(update={"reject_limit": 1 << 62})})
    with closing(connection.cursor()) as cursor, closing(before.cursor()) as earlier:
        cursor.execute("DELETE FROM feed_files WHERE feed = %s AND path = %s AND sha256 = %s", key)
        load_file(connection, patient, manifest, path)
        rejects, old = _rejects(cursor, key), _rejects(earlier, key).keys()
        new = [text for number, text in rejects.items() if number not in old]
        told = []
        if new:
            told = [
                f"{len(rejects)} records would be rejected (load.reject_limit: {load.reject_limit}), these are new:"
            ]
            told += new[:SHOWN]
        day = str(line["day"])
        changed = _changed(_rows(cursor, feed, day), _rows(earlier, feed, day), list(load.columns))
        examples = list(islice(changed, SHOWN))
        number = len(examples) + sum(1 for _ in changed)
    if number:
        told += [f"{number} rows would change:", *examples]
    return told


def _rejects(cursor, key: tuple[str, str, str]) -> dict[int, str]:
    """Return a file's rejected records by their numbers."""
    cursor.execute(
        "SELECT feed_row, reason, LEFT(record, %s) FROM feed_rejects WHERE feed = %s AND path = %s AND sha256 = %s"
        " ORDER BY feed_row",
        (RECORD, *key),
    )
    return {row: f"record {row}: {reason}: {record}" for row, reason, record in cursor.fetchall()}


def _rows(cursor, feed: Feed, day: str) -> Iterator[tuple[tuple, tuple]]:
    """Yield the rows of a day in the order of the files: what numbers a row, and its values."""
    # Feeds with several files a day have a time beside the day.
    numbers = [name for name in feed.own_columns if name != "feed_day"]
    own = ", ".join(numbers)
    columns = ", ".join(f"`{name}`" for name in feed.load.columns)
    begin = f"SELECT {own}, {columns} FROM `{feed.load.table}` WHERE feed_day = %s"  # noqa: S608
    end = f"ORDER BY {own} LIMIT {PORTION}"
    behind = f"AND ({own}) > ({', '.join(['%s'] * len(numbers))})"
    last: tuple = ()
    # In portions: a cursor keeps its whole answer in memory.
    while True:
        cursor.execute(f"{begin} {behind if last else ''} {end}", (day, *last))
        portion = cursor.fetchall()
        yield from ((row[: len(numbers)], row[len(numbers) :]) for row in portion)
        if len(portion) < PORTION:
            return
        last = portion[-1][: len(numbers)]


def _changed(now: Iterator[tuple], earlier: Iterator[tuple], names: list[str]) -> Iterator[str]:
    """Yield what differs between rows that are sorted by their numbers."""
    new, old = next(now, None), next(earlier, None)
    while new or old:
        if old is None or (new and new[0] < old[0]):
            yield f"{_place(new)}: would be added"
            new = next(now, None)
        elif new is None or old[0] < new[0]:
            yield f"{_place(old)}: would be removed"
            old = next(earlier, None)
        else:
            pairs = [(name, a, b) for name, a, b in zip(names, old[1], new[1], strict=True) if a != b]
            if pairs:
                told = "; ".join(f"{name}: {shown_value(a)} becomes {shown_value(b)}" for name, a, b in pairs)
                yield f"{_place(new)}: {told}"
            new, old = next(now, None), next(earlier, None)


def _place(row: tuple[tuple, tuple]) -> str:
    *time, number = row[0]
    return f"record {number}{''.join(f' of {one}' for one in time)}"
