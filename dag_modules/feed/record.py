"""What every format yields: records, those that cannot be read, and values that lie deeper in a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Bytes (characters of a text) that one record may have. What is longer is not a record, and would take a multiple of it
# in memory.
LIMIT = 4 << 20
# A value that a record does not have; None is a value.
MISSING = object()


@dataclass(frozen=True)
class Bad:
    """A record that cannot be read: why, and what stands there."""

    reason: str
    text: str


def value_at(value: object, names: list[str], *, is_xml: bool = False) -> object:
    """Return what lies at a path such as properties.mag or coordinates.0, or MISSING.

    At each level a key with a literal dot wins. Below null everything is null. In XML an element that is there once is
    also the first of its name.
    """
    if not names or value is None:
        return value
    if isinstance(value, dict):
        for end in range(len(names), 0, -1):
            key = ".".join(names[:end])
            if key in value and (found := value_at(value[key], names[end:], is_xml=is_xml)) is not MISSING:
                return found
    if isinstance(value, list):
        is_index = names[0].isascii() and names[0].isdigit() and int(names[0]) < len(value)
        return value_at(value[int(names[0])], names[1:], is_xml=is_xml) if is_index else MISSING
    return value_at(value, names[1:], is_xml=True) if is_xml and names[0] == "0" else MISSING


def paths_of(value: object, before: str = "", depth: int = 5) -> Iterator[str]:
    """Yield the paths of the values in a record, for messages."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not members or not depth:
        yield before
    for name, member in members:
        yield from paths_of(member, f"{before}.{name}" if before else str(name), depth - 1)


def check_names(there: list[str], wanted: dict[str | int, bool], what: str) -> None:
    """Compare the names of a file's fields with those that columns need (True) or may have (False).

    :raises ValueError: one that is needed is missing, or one is there twice; `what` says where the names stand.
    """
    if missing := [str(name) for name, is_needed in wanted.items() if is_needed and name not in there]:
        raise ValueError(f"{what} has no {', '.join(missing)}; it has {', '.join(there)[:500]}")
    if twice := [name for name in wanted if there.count(name) > 1]:
        raise ValueError(f"{what} has {', '.join(map(str, twice))} more than once")
