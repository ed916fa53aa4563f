"""Check feeds and samples of their files: what would be loaded, and what would be rejected. Needs no Airflow."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from feed.model import Feed
from feed.parse import Bad, count
from feed.rows import rows

# Characters of a cell, and of a rejected record, that are shown.
CELL, RECORD = 32, 300


def feed_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the feeds' files: those that are named, and those in the folders `feeds` below a directory.

    :raises ValueError: a path is no feed's file and no directory with feeds.
    """
    for path in paths:
        if path.is_dir():
            folders = [path] if path.name == "feeds" else sorted(path.rglob("feeds"))
            found = [file for folder in folders for file in sorted(folder.glob("*.yml"))]
            if not found:
                raise ValueError(f"{path}: no feeds/NAME.yml below this directory: name another one, or a file")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise ValueError(f"{path}: no such file or directory")


def open_feed(path: Path) -> Feed:
    """Read a feed's file; what lies beside its folder can be imported, as on a host.

    :raises ValueError: it is not a right feed.
    """
    beside = str(path.resolve().parent.parent)
    if beside not in sys.path:
        sys.path.append(beside)
    return Feed.of(path)


def check_feeds(paths: Iterable[Path]) -> bool:
    """Say of each feed whether it is right, alone and beside the others; return whether all are.

    :raises ValueError: a path is no feed's file and no directory with feeds.
    """
    names: dict[str, Path] = {}
    tables: dict[tuple[str, str], Path] = {}
    is_right = True
    for path in feed_files(paths):
        try:
            feed = open_feed(path)
            table = (feed.load.connection, feed.load.table.lower())
            if (other := names.setdefault(feed.name, path)) != path:
                raise ValueError(f"{path}: {other} has this name, too: give one of the two files another name")
            if (other := tables.setdefault(table, path)) != path:
                raise ValueError(
                    f"{path}: load.table: {feed.load.table!r}: {other} loads into it, too: give each feed its own table"
                )
        except ValueError as error:
            is_right = False
            print(error)
        else:
            print(f"{path}: right")
    return is_right


def check_sample(path: Path, sample: Path, shown: int) -> bool:
    """Print what would be loaded from a sample, its first rows and each rejected record; return whether it would load.

    :raises ValueError: the feed is wrong, or the sample as a whole is not what the feed says.
    :raises OSError: the sample cannot be read.
    """
    feed = open_feed(path)
    try:
        return _check_content(feed, sample, shown)
    except ValueError as error:
        raise ValueError(f"{sample}: {error}") from error


def _check_content(feed: Feed, sample: Path, shown: int) -> bool:
    number = count(feed, sample)
    if number == 0:
        print(f"{sample}: no records (empty: {feed.empty})")
        return feed.empty == "skip"
    load = feed.load
    names = list(load.columns)
    first: list[list[str]] = []
    total, rejects = 0, []
    for total, values, bad in checked_rows(feed, sample):
        if bad:
            rejects.append(f"record {total}: {bad.reason}: {bad.text[:RECORD]}")
        elif len(first) < shown:
            first.append([str(total), *map(shown_value, values)])
    key = f", key {', '.join(load.key)}" if load.key else ""
    print(f"{sample} into the table {load.table} of the connection {load.connection} ({load.mode}{key}):")
    print("\n".join(table(["record", *names], ["", *(load.columns[name].type for name in names)], first)))
    if len(first) < total - len(rejects):
        print(f"... and {total - len(rejects) - len(first):,} more")
    print("\n".join(rejects))
    is_loaded = len(rejects) <= load.reject_limit and total > 0
    counted = f"{total - len(rejects):,} of {total:,} records would be loaded, {len(rejects):,} rejected"
    if not is_loaded:
        counted = f"Nothing would be loaded: {len(rejects):,} of {total:,} records are bad"
    print(f"{counted} (load.reject_limit: {load.reject_limit})")
    return is_loaded


def checked_rows(feed: Feed, path: Path) -> Iterator[tuple[int, list, Bad | None]]:
    """Yield each record's number and values, or why it would be rejected: what loading finds, and a broken key.

    :raises ValueError: the file as a whole is not what the feed says.
    """
    load = feed.load
    places = [list(load.columns).index(name) for name in load.key]
    keys: dict[tuple, int] = {}
    for number, row in rows(feed, path):
        if isinstance(row, Bad):
            yield number, [], row
            continue
        key = tuple(row[place] for place in places)
        # With upsert, the last record of a key counts.
        if key and load.mode == "replace" and (other := keys.setdefault(key, number)) != number:
            yield number, [], Bad(f"record {other} has the key {', '.join(map(shown_value, key))}, too", str(row))
        else:
            yield number, row, None


def shown_value(value: object) -> str:
    """Return a value as a row shows it."""
    if value is None:
        return "NULL"
    text = value.isoformat(" ") if isinstance(value, datetime) else str(value)
    if isinstance(value, Decimal):
        # As the table shows it, without an exponent.
        text = f"{value:f}"
    text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return text if len(text) <= CELL else f"{text[: CELL - 3]}..."


def table(names: list[str], types: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table: names, types, and rows below them."""
    lines = [names, types, *rows]
    widths = [max(map(_width, cells)) for cells in zip(*lines, strict=True)]
    lines.insert(2, ["-" * width for width in widths])
    return ["  ".join(map(_padded, line, widths)).rstrip() for line in lines]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Return how many columns of a terminal a text needs: Hangul takes two for a character."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
