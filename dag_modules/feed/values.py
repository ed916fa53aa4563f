"""From a value of a file to what a column gets: a value that MySQL would change without a word is refused."""

from __future__ import annotations

import json
import re
from datetime import date, time, timedelta
from decimal import Decimal
from functools import cache
from math import isfinite
from numbers import Number

from feed.model import Column, Feed
from feed.parse import LIMIT

# MySQL would take 0.4 for 0, and 1.234 for 1. 1.0 is the integer 1; 1.000 could be a thousand.
INTEGER = re.compile(r"[+-]?\d+(?:\.0*)?", re.ASCII)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}\.000", re.ASCII)
# Of the year 25 MySQL would make 2025, and of 70 1970.
YEAR = re.compile(r"\d{4}", re.ASCII)
# MySQL would take 20.10.25 for a day of the year 2020.
DAY = r"(?:\d{4}([-/.]?)\d{2}\1\d{2})"
CLOCK = r"(?P<clock>\d{1,2}(?::\d{2}(?::\d{2})?)?|\d{6})(?:\.(?P<fraction>\d*))?"
# 20251020093000, too.
APART = r"(?:[T ]\s*|(?<=\d{8})(?=\d{6}))"
DATETIME = re.compile(rf"{DAY}(?:{APART}{CLOCK})?(?P<offset>[+-]\d\d:\d\d)?", re.ASCII)
# MySQL would take 0930, and 930, for nine minutes and thirty seconds.
TIME = re.compile(r"[+-]?(?:(?:\d+ )?\d{1,3}:\d{2}(?::\d{2})?|\d{6})(?:\.(?P<fraction>\d*))?", re.ASCII)
# From here on a double leaves out integers.
EXACT = 1 << 53
# Digits that no column has; a decimal can claim any number of them in a few bytes.
DIGITS = 400


def value_of(value: object, name: str, column: Column, feed: Feed) -> object:
    """Return what a column gets for a value of the file.

    :raises ValueError: MySQL would take it for something else, or not take it at all; names column, value and reason.
    """
    if value is None:
        return None
    if isinstance(value, (dict, list)) or (column.type == "json" and feed.format in ("json", "jsonl")):
        # The parsers' numbers are decimals.
        value = json.dumps(value, default=float, ensure_ascii=False)
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{name} is {value}")
    if isinstance(value, Decimal) and not (value.is_finite() and abs(value.adjusted()) < DIGITS):
        raise ValueError(f"{name} is {value}: no column has so many digits")
    if not column.is_text and isinstance(value, (bytes, date, time)):
        # Of a parser of the user's own.
        value = value.decode(feed.encoding, "surrogateescape") if isinstance(value, bytes) else str(value)
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{name} is not {feed.encoding}") from None
        if len(value) > LIMIT:
            raise ValueError(f"{name} has {len(value)} characters")
        if not column.is_text:
            value = value.strip() or None
    check = _check(column.type)
    if value is not None and check and (reason := check(value)):
        raise ValueError(f"{name}: {repr(value)[:200] if isinstance(value, str) else value} {reason}")
    return value


@cache
def _check(kind: str):
    """Return the function that says why a column of this type does not get a value; None when MySQL sees to it."""
    if re.match(r"(?:tiny|small|medium|big)?int|boolean", kind):
        return _integer
    name, _, digits = kind.rstrip(")").partition("(")
    precision = int(digits) if name in ("datetime", "timestamp", "time") and digits else 0
    return {
        "year": _year,
        "date": _date,
        "datetime": lambda value: _datetime(value, precision),
        # An instant: an offset says which, and MySQL keeps it.
        "timestamp": lambda value: _datetime(value, precision, offset=True),
        "time": lambda value: _time(value, precision),
    }.get(name)


def _integer(value: object) -> str | None:
    if isinstance(value, str):
        if THOUSANDS.fullmatch(value):
            return "can be a thousand or one: use a text column or a parser"
        is_whole = INTEGER.fullmatch(value)
    elif isinstance(value, float):
        is_whole = value.is_integer() and abs(value) < EXACT
    else:
        is_whole = not isinstance(value, Decimal) or value == value.to_integral_value()
    return None if is_whole else "is not an integer such as 1234; for another form use another type or a parser"


def _year(value: object) -> str | None:
    return None if YEAR.fullmatch(str(value)) else "is no year such as 2025; for another form use a parser"


def _date(value: object) -> str | None:
    # A number has lost the zeros that it began with.
    found = None if isinstance(value, Number) else DATETIME.fullmatch(str(value))
    if not found:
        return "is not a date such as 2025-10-20; for another form use a parser"
    if found["offset"]:
        return "has an offset, with which the day depends on a time zone: use a timestamp column or a parser"
    if (found["clock"] or "").strip("0:") or (found["fraction"] or "").strip("0"):
        return "has a time of day, which a date loses: use a datetime column or a parser"
    return None


def _datetime(value: object, precision: int, *, offset: bool = False) -> str | None:
    found = None if isinstance(value, Number) else DATETIME.fullmatch(str(value))
    if not found:
        return "is not a date such as 2025-10-20, with a time such as 09:30:00; for another form use a parser"
    if found["offset"] and not offset:
        return "has an offset, which a datetime loses: use a timestamp column or a parser"
    return _rounding(found["fraction"], precision)


def _time(value: object, precision: int) -> str | None:
    if isinstance(value, timedelta):
        return _rounding(f"{value.microseconds:06}", precision)
    found = None if isinstance(value, Number) else TIME.fullmatch(str(value))
    if not found:
        return "is not a time such as 09:30 or 09:30:00; for another form use a parser"
    return _rounding(found["fraction"], precision)


def _rounding(fraction: str | None, precision: int) -> str | None:
    digits = (fraction or "").rstrip("0")
    if len(digits) <= precision:
        return None
    wider = f"give the type {len(digits)} digits in brackets, or " if len(digits) <= 6 else ""
    return f"would be rounded, for the column keeps {precision} digits of a second: {wider}use a parser"
