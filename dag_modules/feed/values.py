"""From a value of a file to what a column gets: exactly what the type and the options say, or nothing and the reason.

Own conversions on Python's Decimal and datetime, before the database: polars, pyarrow and DuckDB convert a column at a
time, so that one bad value costs the file or becomes NULL without a reason, and each rounds or guesses somewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
from math import isfinite
from zoneinfo import ZoneInfo

from feed.column import NUMBERS, Column
from feed.model import Feed
from feed.moment import moment_converter
from feed.number import DIGITS, number_converter
from feed.parse import LIMIT

Convert = Callable[[object], object]
# Without true_values and false_values, in any case.
WORDS = {"1": 1, "true": 1, "0": 0, "false": 0}
# Characters of a value in a reason.
SHOWN = 200


def converters(feed: Feed) -> list[tuple[str, str | int, Convert]]:
    """Return of each column its name, where its value is, and the function that converts it or raises the reason."""
    found = []
    for name in feed.load.columns:
        column = feed.load.column(name)
        convert = converter(column, feed.encoding, feed.zone, is_json=feed.format in ("json", "jsonl"))
        found.append((name, column.source or name, _required(convert) if name in feed.load.key else convert))
    return found


def refusal(name: str, value: object, reason: object) -> str:
    """Name the column and the value beside the reason."""
    try:
        shown = repr(value) if isinstance(value, (str, bytes)) else str(value)
    except ValueError:
        # Python writes no integer of more than 4300 digits.
        shown = "a number"
    return f"{name}: {shown[:SHOWN]} {reason}"


def converter(column: Column, encoding: str, zone: ZoneInfo, *, is_json: bool = False) -> Convert:
    """Return the function that converts the values of a column; it is made once for a file.

    The function raises ValueError, with the reason only, for what the column would not keep as it is.
    """
    family = column.kind.family
    if family == "text":
        return _text(column, encoding)
    if family == "binary":
        return _binary(column, encoding)
    if family == "json":
        return _json(column, encoding, is_json=is_json)
    if family == "boolean":
        return _boolean(column, encoding)
    convert = number_converter(column) if family in NUMBERS else moment_converter(column, zone)
    return _unless_empty(convert, column, encoding)


def _required(convert: Convert) -> Convert:
    def convert_key(value: object) -> object:
        converted = convert(value)
        if converted is None:
            raise ValueError("is empty, and the column belongs to the key")
        return converted

    return convert_key


def _unless_empty(convert: Convert, column: Column, encoding: str) -> Convert:
    """Let nothing, blanks and null_values be NULL, and convert everything else, without blanks at both ends."""
    nulls = frozenset(column.null_values or ())

    def convert_some(value: object) -> object:
        if value.__class__ is not str:
            if value is None:
                return None
            if isinstance(value, (dict, list)):
                raise ValueError("is an array or an object: use a json or text column, or a path in `from`")
            if isinstance(value, bytes):
                value = _decoded(value, encoding)
            elif nulls and str(value) in nulls:
                return None
        if isinstance(value, str):
            value = value.strip()
            if not value or value in nulls:
                return None
        return convert(value)

    return convert_some


def _boolean(column: Column, encoding: str) -> Convert:
    if column.true_values is not None:
        words = dict.fromkeys(column.true_values, 1) | dict.fromkeys(column.false_values, 0)
        listed = f"{', '.join(column.true_values)} (true_values) or {', '.join(column.false_values)} (false_values)"
    else:
        words, listed = WORDS, "1, 0, true or false; other words have the fields true_values and false_values"

    def convert(value: object) -> int:
        if isinstance(value, str):
            found = words.get(value if column.true_values is not None else value.lower())
        else:
            # Of JSON; 1.0 is no word.
            found = int(value) if isinstance(value, int) and value in (0, 1) else words.get(str(value))
        if found is None:
            raise ValueError(f"is not {listed}")
        return found

    some = _unless_empty(convert, column, encoding)
    # An empty value may be a word.
    return lambda value: words[""] if value in ("", " ") and "" in words else some(value)


def _text(column: Column, encoding: str) -> Convert:
    kind = column.kind
    nulls = frozenset(column.null_values or ())
    most = kind.size if kind.name in ("char", "varchar") else 0
    capacity = LIMIT if most else kind.capacity
    is_char, trim = kind.name == "char", column.trim

    def convert(value: object) -> str | None:
        if value.__class__ is not str:
            if value is None:
                return None
            value = _as_text(value, encoding)
        if trim:
            value = value.strip()
        if nulls and value in nulls:
            return None
        length = len(value)
        if most:
            if length > most:
                raise ValueError(f"has {length} characters, and {column.type} takes {most}")
            if is_char and value[-1:] == " ":
                raise ValueError("ends with a blank, which char loses: write trim: true, or use varchar")
        elif length > LIMIT:
            raise ValueError(f"has {length} characters, and a value takes {LIMIT}")
        if value.isascii():
            size = length
        else:
            try:
                size = len(value.encode())
            except UnicodeEncodeError:
                raise ValueError(f"is not {encoding}") from None
        if not most and size > capacity:
            raise ValueError(f"has {size} bytes in UTF-8, and {column.type} takes {capacity}")
        return value

    return convert


def _binary(column: Column, encoding: str) -> Convert:
    kind = column.kind
    nulls = frozenset(column.null_values or ())
    most = kind.size if kind.name in ("binary", "varbinary") else min(kind.capacity, LIMIT)
    # Only a file as a whole begins with a byte order mark.
    mark = "".encode(encoding)

    def convert(value: object) -> bytes | None:
        if value is None or (isinstance(value, str) and value in nulls):
            return None
        if not isinstance(value, bytes):
            try:
                value = _as_text(value, encoding).encode(encoding, "surrogateescape").removeprefix(mark)
            except UnicodeEncodeError:
                raise ValueError(f"is not {encoding}") from None
        if len(value) > most:
            raise ValueError(f"has {len(value)} bytes, and {column.type} takes {most}")
        if kind.name == "binary" and len(value) < most:
            raise ValueError(f"has {len(value)} bytes, and {column.type} would fill it up with zeros: use varbinary")
        return value

    return convert


def _json(column: Column, encoding: str, *, is_json: bool) -> Convert:
    nulls = frozenset(column.null_values or ())

    def convert(value: object) -> str | None:
        if value is None or (nulls and not isinstance(value, (dict, list)) and str(value) in nulls):
            return None
        if isinstance(value, bytes):
            value = _decoded(value, encoding)
        if isinstance(value, str) and not is_json:
            if not value.strip():
                return None
            text = value.strip()
            value = _parsed(text)
        else:
            text = written(value)
        _check_json(value)
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise ValueError(f"is not {encoding}") from None
        if size > LIMIT:
            raise ValueError(f"has {size} bytes, and a value takes {LIMIT}")
        return text

    return convert


def _parsed(text: str) -> object:
    try:
        return json.loads(text, parse_float=Decimal, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None


def _object(pairs: list[tuple[str, object]]) -> dict:
    # MySQL keeps one of them.
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _check_json(value: object) -> None:
    """Refuse a number that MySQL would round: in a JSON column it has integers of 64 bits, and doubles."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, (dict, list)):
            todo.extend(one.values() if isinstance(one, dict) else one)
        elif isinstance(one, bool) or not isinstance(one, (int, float, Decimal)):
            continue
        elif isinstance(one, int):
            if not -(1 << 63) <= one < 1 << 64:
                raise ValueError("has an integer of more than 64 bits, which json rounds: use a text column")
        elif not isfinite(one) or (isinstance(one, Decimal) and Decimal(repr(float(one))) != one):
            raise ValueError(f"has the number {str(one)[:50]}, which json rounds: use a text column")


def written(value: object) -> str:
    """Return a value as JSON, with each digit of its numbers.

    :raises ValueError: it has a number that JSON does not have, or is nested too deeply.
    """
    try:
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        except TypeError:
            # The parsers' numbers are decimals.
            return _written(value)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _written(value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(name), ensure_ascii=False)}: {_written(member)}" for name, member in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError("has a number that JSON does not have")
        return str(value)
    # Dates of a parser of the user's own.
    return json.dumps(value, default=str, ensure_ascii=False, allow_nan=False)


def _as_text(value: object, encoding: str) -> str:
    """Return a value that is no text in a file as text.

    :raises ValueError: it is a number that no column has.
    """
    if isinstance(value, (dict, list)):
        return written(value)
    if isinstance(value, bytes):
        return _decoded(value, encoding)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        if not (value.is_finite() and abs(value.adjusted()) < DIGITS):
            raise ValueError("is no number that a column has")
        return f"{value:f}"
    if isinstance(value, float) and not isfinite(value):
        raise ValueError("is no number")
    if isinstance(value, timedelta):
        raise ValueError("is a length of time: use a time column")
    if isinstance(value, (str, int, float, date, time)):
        return str(value)
    raise ValueError(f"is of the type {type(value).__name__}, which no column takes")


def _decoded(value: bytes, encoding: str) -> str:
    return value.decode(encoding, "surrogateescape")
