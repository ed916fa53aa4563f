"""From files on the NAS to a table in MySQL: each version of a file once, in one transaction with its ledger's line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import date, datetime
from itertools import chain
from pathlib import Path

from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException

import nas
from feed.fetch import NEEDED, manifests, order
from feed.model import Feed
from feed.parse import Bad
from feed.rows import SHOWN, rows
from feed.schema import make_table
from feed.tell import tell_rejected

# The ledger: what has been loaded. A file that is older than one loaded for its day is `superseded`, and left out.
LEDGER = """\
CREATE TABLE IF NOT EXISTS feed_files (
    feed VARCHAR(48) NOT NULL,
    path VARCHAR(400) NOT NULL,
    sha256 CHAR(64) NOT NULL,
    day DATE NOT NULL,
    version INT NOT NULL,
    state ENUM('loaded', 'superseded') NOT NULL,
    table_name VARCHAR(64) NOT NULL,
    records BIGINT NOT NULL,
    rows_loaded BIGINT NOT NULL,
    rows_rejected BIGINT NOT NULL,
    fetched_at DATETIME(3) NOT NULL,
    loaded_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    PRIMARY KEY (feed, path, sha256),
    KEY (feed, day)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"""
REJECTS = """\
CREATE TABLE IF NOT EXISTS feed_rejects (
    feed VARCHAR(48) NOT NULL,
    path VARCHAR(400) NOT NULL,
    sha256 CHAR(64) NOT NULL,
    feed_row BIGINT NOT NULL,
    reason VARCHAR(500) NOT NULL,
    record MEDIUMTEXT NOT NULL,
    PRIMARY KEY (feed, path, sha256, feed_row)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"""
# What MySQL says about a value, and not about the database: null, duplicate, out of range, truncated, no such date, no
# such value, too long, a foreign key, a trigger, not JSON, a check.
ABOUT_A_ROW = {1048, 1062, 1264, 1265, 1292, 1366, 1406, 1411, 1452, 1644, 3140, 3141, 3144, 3157, 3819}
# Rows and characters of one INSERT; MySQL takes 64 MB (max_allowed_packet), of up to 8 bytes for a character.
BATCH, BATCH_SIZE = 1000, 1 << 20
# What it says about the feed, its table or its account, so that another attempt would not help: no right, no such
# schema or column, a wrong statement, a key or a row that is too long, a type that there is not, a column that needs a
# value and gets none, a table without the primary key that the server requires.
FINAL = {1044, 1049, 1054, 1064, 1071, 1074, 1118, 1142, 1143, 1170, 1227, 1364, 1426, 1439, 3750}
# Warnings that are not about values: a word is deprecated, a statement is not safe to replicate.
HARMLESS = {1287, 1592}
# Seconds that a load waits for another of its feed.
PATIENCE = 600
# Seconds that its session may be silent: longer than a NAS is away, but not MySQL's usual eight hours, for which a host
# that lost its power would hold its locks.
SILENCE = 1800
# An unfinished temporary file is removed after two days.
UNFINISHED = 2 * 86400


def load_files(feed: Feed, announced: list[dict]) -> list[dict]:
    """Load the files that events announced, and those on the NAS that the ledger does not know, newest first.

    Each is a transaction of its own: one that fails leaves nothing behind and does not keep the others back.

    :raises AirflowFailException: a file cannot be loaded as it is; names each, and the reason. Another attempt would
        not help.
    :raises OSError: the NAS, a file on it or the database does not answer; another attempt may help.
    """
    nas.require()
    # An event that somebody made by hand has no manifest.
    announced = [manifest for manifest in announced if manifest.keys() >= NEEDED]
    told = {(manifest["path"], manifest["sha256"]) for manifest in announced}
    results, refused, failed = [], [], []
    with database(feed) as connection:
        known = _ledger(connection, feed)
    found = manifests(feed, but={path for path, _ in known})
    files = {(manifest["path"], manifest["sha256"]): manifest for manifest in chain(found, announced)}
    # A bad version that a good one has followed is superseded, and not refused again and again.
    for key, manifest in sorted(files.items(), key=lambda item: order(item[1]), reverse=True):
        if key in known:
            continue
        try:
            # An announced file will appear; one that somebody took away does not hold up the others.
            path = nas.check(manifest, None if key in told else 0)
            with database(feed) as connection:
                result = load_file(connection, feed, manifest, path)
        except FileNotFoundError as error:
            if key in told:
                failed.append(f"{manifest['path']}: {error}")
            else:
                print(f"{manifest['path']} is not there any more, and was never loaded")
        except Exception as error:
            is_databases = type(error).__name__ in ("OperationalError", "InterfaceError")
            again = isinstance(error, OSError) or (is_databases and _code(error) not in FINAL)
            print(f"{manifest['path']}: {type(error).__name__}: {error}")
            (failed if again else refused).append(f"{manifest['path']}: {error}")
        else:
            print("{path}: {state}, {rows_loaded} of {records} records, {rows_rejected} bad".format(**result))
            results.append(result)
            tell_rejected(feed, result)
    if failed:
        raise OSError("\n".join(failed + refused))
    if refused:
        raise AirflowFailException("Not loaded:\n" + "\n".join(refused))
    return results


def remove_old_files(feed: Feed) -> list[str]:
    """Remove files that are loaded and older than the feed's `keep`, and temporary files that nobody finishes.

    Manifests stay: they say which versions there were.
    """
    nas.require()
    removed, now, old = [], time.time(), set()
    if feed.keep is not None:
        oldest = (datetime.now(feed.zone) - feed.keep).date()
        with database(feed) as connection:
            old = {path for (path, _), day in _ledger(connection, feed).items() if day < oldest}
    for path in nas.files(feed.directory):
        # One that another task has just finished is not there any more; one of another owner stays.
        with suppress(FileNotFoundError, PermissionError):
            is_unfinished = path.name[0] == "." and path.suffix != ".json"
            if str(path) in old or (is_unfinished and now - path.stat().st_mtime > UNFINISHED):
                path.unlink()
                removed.append(str(path))
    print(f"Removed {len(removed)} files: {removed[:100]}")
    return removed


@contextmanager
def database(feed: Feed):
    """Connect to the feed's database, with its ledger; what is not committed in the end is taken back.

    :raises AirflowFailException: there is no such connection, or its user may not do what is needed.
    """
    from airflow.providers.mysql.hooks.mysql import MySqlHook

    with ExitStack() as stack:
        try:
            connection = stack.enter_context(closing(MySqlHook(mysql_conn_id=feed.load.connection).get_conn()))
            with closing(connection.cursor()) as cursor:
                connection.autocommit(False)
                connection.set_character_set("utf8mb4")
                # A value that does not fit is an error, not a truncated one. Timestamps are written in UTC.
                cursor.execute(
                    "SET SESSION sql_mode = 'TRADITIONAL', time_zone = '+00:00', wait_timeout = %s,"
                    " innodb_lock_wait_timeout = %s",
                    (SILENCE, PATIENCE),
                )
                cursor.execute(LEDGER)
                cursor.execute(REJECTS)
        except AirflowNotFoundException as error:
            raise AirflowFailException(f"load.connection: {feed.load.connection} is not there: add it") from error
        except Exception as error:
            if _code(error) not in FINAL:
                raise
            raise AirflowFailException(
                f"load.connection: {feed.load.connection}: {error}. Correct it, or give its user SELECT, INSERT,"
                " UPDATE, DELETE and CREATE on the schema"
            ) from error
        connection.commit()
        yield connection


def _ledger(connection, feed: Feed) -> dict[tuple[str, str], date]:
    """Return the days of a feed's files that the ledger has, by path and digest."""
    with closing(connection.cursor()) as cursor:
        cursor.execute("SELECT path, sha256, day FROM feed_files WHERE feed = %s", (feed.name,))
        known = {(path, sha256): day for path, sha256, day in cursor.fetchall()}
    connection.commit()
    return known


def load_file(connection, feed: Feed, manifest: dict, path: Path) -> dict:
    """Load one file, all of it or nothing.

    :raises ValueError: the file, the feed and the table do not fit each other, or too many records are bad.
    :raises TimeoutError: another load of this feed does not end.
    """
    load, day, version = feed.load, manifest["day"], manifest["version"]
    key = (feed.name, manifest["path"], manifest["sha256"])
    slot = feed.slot(manifest)
    with closing(connection.cursor()) as cursor:
        # One at a time, whoever loads; MySQL gives it back when the connection ends.
        cursor.execute("SELECT GET_LOCK(%s, %s)", (f"feed {feed.name}", PATIENCE))
        if cursor.fetchone()[0] != 1:
            raise TimeoutError(f"another load of {feed.name} has been running for {PATIENCE} s")
        narrow = make_table(cursor, feed)
        # What another has loaded meanwhile counts.
        connection.commit()
        cursor.execute(
            "SELECT path, sha256, version FROM feed_files"
            " WHERE feed = %s AND day = %s AND (state = 'loaded' OR version = %s)",
            (feed.name, day, version),
        )
        # Of a day that has several files, each has versions of its own.
        first = nas.first_of(Path(key[1]), version)
        others = [o for o in cursor.fetchall() if not slot or nas.first_of(Path(o[0]), o[2]) == first]
        superseded = any(number > version for _, _, number in others)
        loaded = any((path, sha256) == key[1:] for path, sha256, _ in others)
        result = {"path": manifest["path"], "state": "superseded" if superseded else "loaded"}
        if loaded:
            return result | {"state": "already loaded", "records": 0, "rows_loaded": 0, "rows_rejected": 0}
        # Of an earlier attempt whose line in the ledger somebody has deleted.
        cursor.execute("DELETE FROM feed_rejects WHERE feed = %s AND path = %s AND sha256 = %s", key)
        number = rejected = 0
        if not superseded:
            if load.mode == "replace":
                whose = " AND ".join(f"{name} = %s" for name in feed.own_key)
                cursor.execute(f"DELETE FROM `{load.table}` WHERE {whose}", (day, slot) if slot else (day,))  # noqa: S608
            print(*narrow, sep="\n", end="\n" if narrow else "")
            try:
                number, rejected = _insert(cursor, feed, path, day, slot, key)
            except ValueError as error:
                # Too many bad records, perhaps because of this.
                raise ValueError("; ".join([str(error), *narrow])) from error
            if not number and feed.empty == "fail":
                raise ValueError("it has no records")
        result |= {"records": number, "rows_loaded": number - rejected, "rows_rejected": rejected}
        columns = "path, state, records, rows_loaded, rows_rejected, feed, sha256, day, version, table_name, fetched_at"
        cursor.execute(
            f"INSERT INTO feed_files ({columns}) VALUES (%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)",  # noqa: S608
            [*result.values(), feed.name, key[2], day, version, load.table, manifest["fetched_at"].partition("+")[0]],
        )
    connection.commit()
    return result


def _insert(cursor, feed: Feed, path: Path, day: str, slot: str | None, key: tuple[str, str, str]) -> tuple[int, int]:
    """Insert a file's records; return how many there are, and how many of them are bad and set aside.

    :raises ValueError: more are bad than may be.
    """
    load = feed.load
    names = [*load.columns, *feed.own_columns]
    listed = ", ".join(f"`{name}`" for name in names)
    statement = f"INSERT INTO `{load.table}` ({listed}) VALUES "  # noqa: S608 - names are checked by the model
    # The driver would send bytes as text, of which MySQL says that it is not UTF-8.
    kinds = {name: column.kind.family for name, column in load.columns.items()}
    values = f"({', '.join('UNHEX(%s)' if kinds.get(name) == 'binary' else '%s' for name in names)})"
    ending = ""
    if load.mode == "upsert":
        # An older file never replaces a newer one; its day (or time) is compared until it is set, so that is last.
        newest = feed.own_key[-1]
        changes = [name for name in names if name not in load.key and name != newest] + [newest]
        old = f"`{load.table}`"
        ending = " AS feed_new ON DUPLICATE KEY UPDATE " + ", ".join(
            f"{old}.`{name}` = IF(feed_new.{newest} >= {old}.{newest}, feed_new.`{name}`, {old}.`{name}`)"
            for name in changes
        )
    shown: list[str] = []
    rejected = 0

    def insert(some: list[tuple]) -> None:
        given = [value.hex() if value.__class__ is bytes else value for row in some for value in row]
        cursor.execute(statement + ", ".join([values] * len(some)) + ending, given)
        _check_warnings(cursor)

    def reject(number: int, reason: str, text: str) -> None:
        nonlocal rejected
        rejected += 1
        reason, text = (words.encode(errors="replace").decode() for words in (reason[:500], text))
        if len(shown) < 5:
            shown.append(f"record {number}: {reason}: {text[:200]}")
        if rejected > load.reject_limit:
            raise ValueError(
                f"more than {load.reject_limit} bad records (load.reject_limit), nothing of the file is loaded: "
                + "; ".join(shown)
            )
        cursor.execute(
            "INSERT INTO feed_rejects (feed, path, sha256, feed_row, reason, record) VALUES (%s,%s,%s,%s,%s,%s)",
            (*key, number, reason, text),
        )

    number = 0
    for batch, bad in _batches(feed, path, day):
        if slot:
            batch = [(*row[:-1], slot, row[-1]) for row in batch]
        for one in bad:
            reject(*one)
        try:
            if batch:
                insert(batch)
        except Exception as error:
            if not _is_about_a_row(error):
                raise
            # InnoDB took the whole statement back; find the rows.
            for row in batch:
                try:
                    insert([row])
                except Exception as one:
                    if not _is_about_a_row(one):
                        raise
                    text = json.dumps(row[: len(load.columns)], default=str, ensure_ascii=False)
                    reject(row[-1], f"MySQL {one.args[0]}: {one.args[1]}", text)
        number += len(batch) + len(bad)
    return number, rejected


def _batches(feed: Feed, path: Path, day: str) -> Iterator[tuple[list[tuple], list[tuple[int, str, str]]]]:
    """Yield the rows of a file in portions that one statement can take, each with the bad records in between."""
    batch, bad, size = [], [], 0
    for number, row in rows(feed, path):
        if isinstance(row, Bad):
            bad.append((number, row.reason, row.text[:SHOWN]))
        else:
            length = sum(len(value) for value in row if isinstance(value, (str, bytes)))
            if batch and size + length > BATCH_SIZE:
                yield batch, bad
                batch, bad, size = [], [], 0
            batch.append((*row, day, number))
            size += length
        if len(batch) + len(bad) >= BATCH:
            yield batch, bad
            batch, bad, size = [], [], 0
    if batch or bad:
        yield batch, bad


def _check_warnings(cursor) -> None:
    """Look whether MySQL has changed a value of the last statement, such as a table that others have made can let it.

    :raises ValueError: it has; nothing of the file is loaded then.
    """
    cursor.execute("SHOW WARNINGS")
    if warnings := [f"{code}: {text}" for _, code, text in cursor.fetchall() if code not in HARMLESS]:
        raise ValueError(f"MySQL warns, nothing of the file is loaded: {'; '.join(warnings[:5])}")


def _is_about_a_row(error: Exception) -> bool:
    return _code(error) in ABOUT_A_ROW


def _code(error: Exception) -> object:
    """Return MySQL's number of an error."""
    return error.args[0] if error.args else None
