"""From a file to the rows of its table, without a database: each record becomes a row, or is rejected with a reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from feed.model import Feed
from feed.parse import Bad, records
from feed.values import converters, refusal

# Characters of a rejected record that are kept.
SHOWN = 60000
# Rejected records that a trial keeps.
KEPT = 20


def rows(feed: Feed, path: Path) -> Iterator[tuple[int, list | Bad]]:
    """Yield the number of each record with its row, in the order of the feed's columns, or with why it is rejected.

    :raises ValueError: the file as a whole is not what the feed says.
    """
    plan = converters(feed)
    for number, record in enumerate(records(feed, path), 1):
        if isinstance(record, Bad):
            yield number, record
            continue
        row = []
        for name, source, convert in plan:
            value = record.get(source)
            try:
                row.append(convert(value))
            except ValueError as error:
                yield number, Bad(refusal(name, value, error), str(record)[:SHOWN])
                break
        else:
            yield number, row


def trials(feed: Feed, manifests: Iterable[dict]) -> Iterator[Trial]:
    """Yield what the feed of today would make of files on the NAS, without a database.

    :raises OSError: the NAS is away or not mounted.
    """
    import nas

    for manifest in manifests:
        try:
            path = nas.check(manifest, 0)
        except (FileNotFoundError, ValueError) as error:
            yield Trial(Path(manifest["path"]), refused=str(error))
        else:
            yield trial(feed, path)


@dataclass
class Trial:
    """What would become of a file: how many records it has, how many are rejected, and the first of those."""

    path: Path
    records: int = 0
    rejected: int = 0
    first: list[tuple[int, Bad]] = field(default_factory=list)
    # Why the file as a whole would not be loaded.
    refused: str = ""


def trial(feed: Feed, path: Path) -> Trial:
    """Convert a file as a load would, without a database, in bounded memory.

    What only the table knows, such as a key that is there already, is not found.

    :raises OSError: the file cannot be read.
    """
    found = Trial(path)
    try:
        for number, row in rows(feed, path):
            found.records = number
            if isinstance(row, Bad):
                found.rejected += 1
                if len(found.first) < KEPT:
                    found.first.append((number, row))
    except ValueError as error:
        found.refused = str(error)
    else:
        limit = feed.load.reject_limit
        if found.rejected > limit:
            found.refused = f"{found.rejected} of {found.records} records are bad (load.reject_limit: {limit})"
        elif not found.records and feed.empty == "fail":
            found.refused = "it has no records"
    return found
