"""Days, times and instants of a file: what a column gets, or why it gets nothing.

A value with an offset is an instant: a date or datetime column gets the day or time that it was in the feed's zone. A
timestamp is an instant in the database, too: loading writes it in UTC, in a session that is at UTC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from zoneinfo import ZoneInfo

from feed.column import Column, Kind
from feed.dateformat import Stamp, compiled, read_iso

# A time of day or a length of time: 09:30, -09:30:00, 1 09:30:00 (a day more), 093000. MySQL would take 0930, and 930,
# for nine minutes and thirty seconds.
TIME = re.compile(
    r"(?P<sign>[+-])?(?:(?:(?P<days>\d{1,2}) )?(?P<H>\d{1,3}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:\.(?P<f>\d*))?)?"
    r"|(?P<compact>\d{6})(?:\.(?P<cf>\d*))?)",
    re.ASCII,
)
LONGEST = 838 * 3600 + 59 * 60 + 59
YEAR = re.compile(r"\d{4}", re.ASCII)
SECONDS = re.compile(r"[+-]?\d{1,30}(?:\.\d{0,30})?", re.ASCII)
# Microseconds of a unit.
UNITS = {"s": Fraction(10**6), "ms": Fraction(1000), "us": Fraction(1), "ns": Fraction(1, 1000)}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What a timestamp can be.
FIRST, LAST = datetime(1970, 1, 1, 0, 0, 1), datetime(2038, 1, 19, 3, 14, 7)
# Values of a column that are remembered; days come again and again.
REMEMBERED, LONGEST_REMEMBERED = 4096, 40


def moment_converter(column: Column, zone: ZoneInfo) -> Callable[[object], str]:
    """Return the function that makes the text that MySQL gets of a value that is not empty.

    The function raises ValueError, with the reason only, for what the column would not keep as it is.
    """
    kind = column.kind
    zone = ZoneInfo(column.timezone) if column.timezone else zone
    if kind.family == "year":
        return _year
    if kind.family == "time":
        read, write = (_read_formats(column) if column.format else _read_time), _write_time
    else:
        read = _read_epoch(column) if column.epoch else _read_formats(column) if column.format else _read_usual
        write = {"date": _write_date, "datetime": _write_datetime, "timestamp": _write_timestamp}[kind.family]

    @lru_cache(REMEMBERED)
    def convert_text(value: str) -> str:
        return write(read(value), kind, zone)

    def convert(value: object) -> str:
        if value.__class__ is str and len(value) <= LONGEST_REMEMBERED:
            return convert_text(value)
        stamp = _stamp(value)
        return write(read(value) if stamp is None else stamp, kind, zone)

    return convert


def _year(value: object) -> str:
    text = str(value)
    if isinstance(value, bool) or not (YEAR.fullmatch(text) and 1901 <= int(text) <= 2155):
        raise ValueError("is no year such as 2025, from 1901 to 2155")
    return text


def _stamp(value: object) -> Stamp | timedelta | None:
    """Return what a date, a time or both of a parser say; None for a text or a number."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, (datetime, time)):
        day = value.date() if isinstance(value, datetime) else None
        return Stamp(day, value.hour, value.minute, value.second, f"{value.microsecond:06}", value.utcoffset())
    return Stamp(value) if isinstance(value, date) else None


def _read_usual(value: object) -> Stamp:
    # A number has lost the zeros that it began with.
    stamp = read_iso(value) if isinstance(value, str) else None
    if stamp is None:
        raise ValueError(
            "is not a date such as 2025-10-20, with a time such as 09:30:00 and an offset such as +09:00 or Z if it has"
            " them; other forms have the fields format and epoch"
        )
    return stamp


def _read_time(value: object) -> Stamp | timedelta:
    found = TIME.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError("is not a time such as 09:30 or 09:30:00; other forms have the field format, such as '%H%M'")
    parts = found.groupdict()
    if clock := parts["compact"]:
        parts |= {"H": clock[:2], "M": clock[2:4], "S": clock[4:], "f": parts["cf"]}
    days, hours, minutes, seconds = (int(parts[name] or 0) for name in ("days", "H", "M", "S"))
    if minutes > 59 or seconds > 59:
        raise ValueError("has no such time")
    fraction = (parts["f"] or "").rstrip("0")
    if len(fraction) > 6:
        raise ValueError(_rounding(fraction, 6))
    length = timedelta(
        days=days, hours=hours, minutes=minutes, seconds=seconds, microseconds=int(fraction.ljust(6, "0"))
    )
    return -length if parts["sign"] == "-" else length


def _read_formats(column: Column) -> Callable[[object], Stamp]:
    formats = [compiled(text) for text in column.format]
    shown = " or ".join(column.format)

    def read(value: object) -> Stamp:
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        found, problem = {}, None
        for one in formats:
            try:
                if isinstance(text, str) and (stamp := one.read(text)):
                    found[stamp] = one.text
            except ValueError as error:
                problem = error
        if len(found) > 1:
            raise ValueError(f"is one thing as {' and another as '.join(found.values())}: leave one format")
        if not found:
            raise ValueError(str(problem) if problem else f"is not as format says: {shown}")
        return next(iter(found))

    return read


def _read_epoch(column: Column) -> Callable[[object], Stamp]:
    unit = UNITS[column.epoch]

    def read(value: object) -> Stamp:
        text = value if isinstance(value, str) else _digits(value)
        if not SECONDS.fullmatch(text):
            raise ValueError(f"is no number of {column.epoch} since 1970 (epoch)")
        amount = Fraction(text.removesuffix(".")) * unit
        # A day can be told of any fraction; MySQL keeps six digits of a second.
        if amount.denominator != 1 and column.kind.family != "date":
            raise ValueError(_rounding("1" * 7, 6))
        try:
            moment = EPOCH + timedelta(microseconds=amount.__floor__())
        except OverflowError:
            raise ValueError(f"is out of range: is {column.epoch} the right unit (epoch)?") from None
        return _stamp(moment)

    return read


def _digits(value: object) -> str:
    """Return a number without an exponent; nothing for what is none, or for one that is no time."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return ""
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return f"{number:f}" if number.is_finite() and abs(number.adjusted()) < 30 else ""


def _write_time(stamp: Stamp | timedelta, kind: Kind, _: ZoneInfo) -> str:
    if isinstance(stamp, Stamp):
        if stamp.day or stamp.offset is not None:
            raise ValueError("has a day or an offset, which a time loses: use a datetime or timestamp column")
        fraction, length = stamp.fraction, timedelta(hours=stamp.hour, minutes=stamp.minute, seconds=stamp.second)
    else:
        length, fraction = abs(stamp), f"{abs(stamp).microseconds:06}"
    seconds = length.days * 86400 + length.seconds
    if seconds > LONGEST or (seconds == LONGEST and fraction.strip("0")):
        raise ValueError("is out of range: a time is -838:59:59 to 838:59:59")
    sign = "-" if isinstance(stamp, timedelta) and stamp < timedelta() else ""
    return f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}" + _fraction(fraction, kind.size)


def _write_date(stamp: Stamp | timedelta, _: Kind, zone: ZoneInfo) -> str:
    return _local(stamp, zone).date().isoformat()


def _write_datetime(stamp: Stamp | timedelta, kind: Kind, zone: ZoneInfo) -> str:
    fraction = _fraction(getattr(stamp, "fraction", ""), kind.size)
    return _local(stamp, zone).isoformat(" ", "seconds") + fraction


def _write_timestamp(stamp: Stamp | timedelta, kind: Kind, zone: ZoneInfo) -> str:
    fraction = _fraction(getattr(stamp, "fraction", ""), kind.size)
    if isinstance(stamp, Stamp) and stamp.offset is not None:
        moment = _local(stamp, UTC)
    else:
        moment = _instant(_local(stamp, zone), zone)
    if not FIRST <= moment <= LAST or (moment == LAST and fraction[1:4] >= "5"):
        raise ValueError("is out of range: a timestamp is from 1970-01-01 00:00:01 to 2038-01-19 03:14:07 in UTC")
    return moment.isoformat(" ", "seconds") + fraction


def _local(stamp: Stamp | timedelta, zone) -> datetime:
    """Return the time on the clock of a zone, without digits of a second."""
    if isinstance(stamp, timedelta) or stamp.day is None:
        raise ValueError("has no day: use a time column")
    moment = datetime.combine(stamp.day, time(stamp.hour, stamp.minute, stamp.second))
    try:
        if stamp.offset is not None:
            moment = (moment - stamp.offset).replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None, fold=0)
    except OverflowError:
        moment = datetime.min
    if moment.year < 1000:
        raise ValueError("is no day that MySQL has: from 1000-01-01 to 9999-12-31")
    return moment


def _instant(local: datetime, zone: ZoneInfo) -> datetime:
    """Return in UTC when the clock of a zone showed this.

    :raises ValueError: it never did, or twice.
    """
    moment = local.replace(tzinfo=zone)
    if moment.utcoffset() != moment.replace(fold=1).utcoffset():
        is_there = moment.astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0) == local
        reason = "comes twice on that day" if is_there else "does not come on that day"
        raise ValueError(
            f"{reason} in {zone.key}, where the clock changes: let the file have an offset, say timezone, or use a"
            " datetime column"
        )
    return (moment - moment.utcoffset()).replace(tzinfo=None)


def _fraction(digits: str, precision: int) -> str:
    """Return the digits of a second as MySQL gets them."""
    digits = digits.rstrip("0")
    if len(digits) > precision:
        raise ValueError(_rounding(digits, precision))
    return f".{digits}" if digits else ""


def _rounding(digits: str, precision: int) -> str:
    wider = f": give the type {len(digits)} digits in brackets" if len(digits) <= 6 else ""
    return f"would be rounded, for the column keeps {precision} digits of a second{wider}"
