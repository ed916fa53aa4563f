"""The table of a feed: made when it is not there, compared with the feed when it is."""

from __future__ import annotations

from dataclasses import dataclass

from feed.column import BYTES, INTEGERS, Kind, kind_of
from feed.model import Feed

# Bytes that a character can have.
WIDEST = 4
# Characters of a day or time that is written into a text column, at most; of an integer.
WRITTEN = {"date": 10, "datetime": 26, "time": 17, "year": 4}
LONGEST = 21


@dataclass(frozen=True)
class There:
    """A column as the table has it."""

    name: str
    type: str
    collation: str | None
    is_nullable: bool
    comment: str

    def changed(self, to: str, *, is_required: bool) -> str:
        """Return the part of an ALTER TABLE that gives the column a type, and keeps everything else."""
        kind = kind_of(to)
        keeps = ""
        if self.collation and kind and kind.family == "text":
            keeps = f" CHARACTER SET {self.collation.partition('_')[0]} COLLATE {self.collation}"
        null = "NOT NULL" if is_required or not self.is_nullable else "NULL"
        comment = " COMMENT '" + self.comment.replace("\\", "\\\\").replace("'", "''") + "'" if self.comment else ""
        return f"MODIFY COLUMN `{self.name}` {to}{keeps} {null}{comment}"


def make_table(cursor, feed: Feed) -> list[str]:
    """Create the table unless it is there; return what to know when its columns are narrower than the feed says.

    :raises ValueError: the table does not fit the feed, or is another feed's; names the statement that helps.
    """
    load = feed.load
    cursor.execute("SELECT feed FROM feed_files WHERE table_name = %s AND feed <> %s LIMIT 1", (load.table, feed.name))
    if other := cursor.fetchone():
        raise ValueError(f"the feed {other[0]} loads into table {load.table}: give each feed a table of its own")
    cursor.execute("SHOW TABLES LIKE %s", (load.table.replace("_", r"\_"),))
    if not cursor.fetchone():
        cursor.execute(creation(feed))
        return []
    cursor.execute(f"SHOW FULL COLUMNS FROM `{load.table}`")
    there = {row[0].lower(): There(row[0], _text(row[1]), row[2], row[3] == "YES", row[8]) for row in cursor.fetchall()}
    cursor.execute(f"SHOW INDEX FROM `{load.table}` WHERE Non_unique = 0")
    unique: dict[str, set[str]] = {}
    for row in cursor.fetchall():
        # Of a column's beginning (row[7]), or of an expression, which has no column.
        part = f"({row[7]})" if row[7] else ""
        unique.setdefault(row[2], set()).add(f"{(row[4] or 'an expression').lower()}{part}")
    return _compare(feed, there, unique)


def creation(feed: Feed) -> str:
    """Return the statement that makes the table. It has a primary key: a server can require one for each table."""
    columns = [*_definitions(feed).values(), f"PRIMARY KEY ({_listed(_key(feed))})"]
    return f"CREATE TABLE `{feed.load.table}` ({', '.join(columns)}) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"


def _definitions(feed: Feed) -> dict[str, str]:
    load = feed.load
    columns = {n: f"`{n}` {c.type}{' NOT NULL' if n in load.key else ' NULL'}" for n, c in load.columns.items()}
    return columns | {name: f"{name} {kind}" for name, kind in feed.own_columns.items()}


def _key(feed: Feed) -> list[str]:
    """Return the columns that no two rows share. Without a key of the feed, the record's place tells rows apart."""
    if not feed.load.key:
        return list(feed.own_columns)
    return [*(feed.own_key if feed.load.mode == "replace" else []), *feed.load.key]


def _compare(feed: Feed, there: dict[str, There], unique: dict[str, set[str]]) -> list[str]:
    """Compare the table with the feed.

    :raises ValueError: it lacks a column or the key, has an older key, or would change values.
    """
    load, alter = feed.load, f"ALTER TABLE `{feed.load.table}` "
    missing = [name for name in _definitions(feed) if name.lower() not in there]
    parts = [f"ADD COLUMN {_definitions(feed)[name]}" for name in missing]
    says = [f"lacks columns ({', '.join(missing)})"] if missing else []
    notes, narrow = [], []
    if any(name not in load.key for name in missing):
        notes.append("Rows that are there keep NULL in a new column until their days are loaded again.")
    for name, column in load.columns.items():
        found = there.get(name.lower())
        if not found or (result := held(kind_of(found.type), column.kind)) == "fits":
            continue
        part = found.changed(united(found.type, column.type), is_required=name in load.key)
        if result == "narrow":
            narrow.append(f"column {name} is {found.type}, and the feed says {column.type}: {alter}{part}")
            continue
        says.append(f"would change values: {name} is {found.type}, and the feed says {column.type}")
        parts.append(part)
        notes.append(f"Rows that are there keep what was changed in {name} until their days are loaded again.")
        if "timestamp" in (column.kind.name, getattr(kind_of(found.type), "name", "")) and column.type != found.type:
            notes.append(f"MySQL takes the times in {name} for those of the session: SET time_zone before.")
    changes, said, more = _key_changes(feed, there, unique, parts)
    parts, says, notes = parts + changes, says + said, notes + more
    if not parts:
        return narrow
    helps = alter + ", ".join(parts)
    raise ValueError(f"table {load.table} {' and '.join(says)}: {' '.join([helps + '.', *notes])}".rstrip("."))


def _key_changes(
    feed: Feed, there: dict[str, There], unique: dict[str, set[str]], parts: list[str]
) -> tuple[list[str], list[str], list[str]]:
    """Return what gives the table the feed's key: parts of an ALTER TABLE, what is wrong, and what else to know."""
    load = feed.load
    if not load.key:
        return [], [], []
    key = _key(feed)
    wanted = {name.lower() for name in key}
    known = {name.lower() for name in (*load.columns, *feed.own_columns)}
    # With upsert, another unique key would have a record update the row of another one.
    old = [
        name
        for name, columns in unique.items()
        if {column.partition("(")[0] for column in columns} <= known
        and columns != wanted
        and (not wanted <= columns if load.mode == "upsert" else columns < wanted)
    ]
    has_key = wanted in unique.values()
    if has_key and not old:
        return [], [], []
    changes = [f"DROP {'PRIMARY KEY' if name == 'PRIMARY' else f'INDEX `{name}`'}" for name in old]
    notes = []
    # A server can refuse to leave a table without a primary key.
    if not has_key or "PRIMARY" in old:
        for name in load.key:
            column = there.get(name.lower())
            if column and column.is_nullable and not any(f"MODIFY COLUMN `{column.name}` " in part for part in parts):
                kept = united(column.type, load.columns[name].type)
                changes.append(column.changed(kept, is_required=True))
                notes.append(f"Before that, delete the rows in which {name} is NULL, or give them a value.")
            elif not column:
                notes.append(
                    f"No row has {name} yet: before that, empty the table (TRUNCATE TABLE `{load.table}`); then load"
                    " all days again."
                )
        is_free = "PRIMARY" not in unique or "PRIMARY" in old
        changes.append(f"ADD {'PRIMARY' if is_free else 'UNIQUE'} KEY ({_listed(key)})")
        if load.mode == "upsert" and not any(columns <= wanted for columns in unique.values()):
            same = " AND ".join(f"older.`{name}` = newer.`{name}`" for name in load.key)
            notes.append(
                "If two rows have the same key, keep the newest before that: DELETE older FROM"
                f" `{load.table}` AS older JOIN `{load.table}` AS newer ON {same} AND"
                " (older.feed_day, older.feed_row) < (newer.feed_day, newer.feed_row)."
            )
    if old:
        notes.append(
            f"The rows of records that shared the older key ({_listed(sorted(unique[old[0]]))}) are there when their"
            " days are loaded again."
        )
    says = [] if has_key else [f"has no such unique key ({', '.join(key)})"]
    if old:
        says.append("has an older unique key, under which records would replace each other")
    return changes, says, notes


def held(there: Kind | None, wanted: Kind) -> str:
    """Return how a column of the table takes the values of the feed's type.

    `fits`: each as it is. `narrow`: MySQL refuses some, and the record is rejected. `changes`: not without a word.
    """
    if there is None:
        # Such as an enum: MySQL refuses what it does not have.
        return "fits"
    families = (there.family, wanted.family)
    if families in (("text", "text"), ("binary", "binary")):
        return _held_text(there, wanted)
    if (low := _range(wanted)) and (high := _range(there)):
        return "fits" if high[0] <= low[0] and low[1] <= high[1] else "narrow"
    if families == ("decimal", "decimal") or families == ("integer", "decimal"):
        return _held_decimal(there, wanted)
    if families == ("decimal", "integer") or families == ("decimal", "boolean"):
        low, high = _range(wanted)
        return "fits" if 10 ** (there.size - there.places) > max(-low, high) and low >= _least(there) else "narrow"
    if there.family == wanted.family:
        is_less = there.size < wanted.size or (there.name, wanted.name) == ("float", "double")
        return "changes" if is_less else "narrow" if there.is_unsigned > wanted.is_unsigned else "fits"
    if families in (("datetime", "date"), ("integer", "year")):
        return "fits"
    if there.family == "text" and there.name != "char" and wanted.family not in ("timestamp", "binary", "float"):
        needed = WRITTEN.get(wanted.family, wanted.size + 2 if wanted.family == "decimal" else LONGEST)
        needed = BYTES["long"] if wanted.family == "json" else needed
        return "fits" if (there.size or there.capacity) >= needed else "narrow"
    return "changes"


def _held_text(there: Kind, wanted: Kind) -> str:
    # They lose blanks at the end, or are filled up.
    if there.name in ("char", "binary") and (there.name != wanted.name or (there.name == "binary" and there != wanted)):
        return "changes"
    is_narrow = there.size < wanted.size if there.size and wanted.size else _bytes(there) < _bytes(wanted)
    return "narrow" if is_narrow else "fits"


def _held_decimal(there: Kind, wanted: Kind) -> str:
    if there.places < wanted.places:
        return "changes"
    whole = wanted.size - wanted.places
    if there.family == "decimal":
        is_narrow = there.size - there.places < whole or there.is_unsigned > wanted.is_unsigned
    else:
        low, high = _range(there)
        is_narrow = 10**whole - 1 > high or (not wanted.is_unsigned and 1 - 10**whole < low)
    return "narrow" if is_narrow else "fits"


def _range(kind: Kind) -> tuple[int, int] | None:
    if kind.family == "boolean":
        return -128, 127
    if kind.family != "integer":
        return None
    bits = INTEGERS[kind.name]
    return (0, (1 << bits) - 1) if kind.is_unsigned else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _least(kind: Kind) -> float:
    return 0 if kind.is_unsigned else float("-inf")


def _bytes(kind: Kind) -> int:
    """Return how many bytes a column takes."""
    if kind.size:
        return kind.size * (WIDEST if kind.family == "text" else 1)
    return kind.capacity


def united(there: str, wanted: str) -> str:
    """Return a type that keeps what the table has and takes what the feed says."""
    one, other = kind_of(there), kind_of(wanted)
    if one is None or held(one, other) == "fits":
        return there
    if held(other, one) == "fits" or one.family not in (other.family, "boolean"):
        return wanted
    unsigned = " unsigned" if one.is_unsigned and other.is_unsigned else ""
    if one.family == "decimal":
        places = max(one.places, other.places)
        whole = max(one.size - one.places, other.size - other.places)
        return f"decimal({min(whole + places, 65)},{places}){unsigned}"
    if _range(one) and _range(other):
        (a, b), (c, d) = _range(one), _range(other)
        wide = [name for name, bits in INTEGERS.items() if -(1 << bits - 1) <= min(a, c) and max(b, d) < 1 << bits - 1]
        return wide[0] if wide else "decimal(20,0)"
    if one.size and other.size and one.family in ("text", "binary"):
        return f"var{'char' if one.family == 'text' else 'binary'}({max(one.size, other.size)})"
    if one.family in ("text", "binary"):
        return max((there, wanted), key=lambda kind: _bytes(kind_of(kind)))
    return "double" if one.family == "float" else wanted


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _text(value: object) -> str:
    # Some versions of the driver return bytes.
    return value.decode() if isinstance(value, bytes) else str(value)
