"""Numbers of a file, exactly: what an integer, decimal or floating-point column gets, or why it gets nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from math import isfinite, isinf
from struct import pack, unpack

from feed.column import INTEGERS, Column, Kind

# Digits that no column has; a decimal can claim any number of them in a few bytes.
DIGITS = 400
# What may stand between thousands, and looks the same.
BETWEEN = {" ": "[ \u00a0\u202f]", "'": "['\u2019]", "": None}
# 1.000 in an integer can be one or a thousand, when nothing says which.
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}\.000", re.ASCII)
GROUP = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}", re.ASCII)
# The largest float.
MOST = 3.4028234663852886e38
FORMS = "other forms have fields: decimal, thousands, negative, percent, places"


def number_converter(column: Column) -> Callable[[object], int | Decimal | float]:
    """Return the function that makes a number for a column of a value that is not empty.

    The function raises ValueError, with the reason only, for what the column would not keep as it is.
    """
    kind = column.kind
    return {"integer": _integer, "decimal": _decimal, "float": _float}[kind.family](column, kind)


def _integer(column: Column, kind: Kind) -> Callable[[object], int]:
    bits = INTEGERS[kind.name]
    low, high = (0, (1 << bits) - 1) if kind.is_unsigned else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    read = _exact(column, kind)
    is_plain = _is_plain(column)
    is_clear = column.decimal is not None or column.thousands is not None

    def convert(value: object) -> int:
        if is_plain and value.__class__ is str and len(value) < 20 and value.isascii() and value.isdigit():
            number = int(value)
        elif value.__class__ is int and is_plain:
            number = value
        elif isinstance(value, bool):
            number = int(value)
        elif not is_clear and isinstance(value, str) and THOUSANDS.fullmatch(value):
            raise ValueError('can be a thousand or one: write thousands: "." or decimal: "."')
        else:
            exact = read(value)
            number = int(exact)
            if number != exact:
                remedy = ""
                if not is_clear and isinstance(value, str) and GROUP.fullmatch(value):
                    remedy = f'; when it is {value.replace(".", "")}, write thousands: "."'
                raise ValueError(f"is not an integer such as 1234: use a decimal column{remedy}")
        if not low <= number <= high:
            raise ValueError(f"is out of range for {column.type}, which is {low} to {high}")
        return number

    return convert


def _decimal(column: Column, kind: Kind) -> Callable[[object], Decimal]:
    whole, places = kind.size - kind.places, kind.places
    read = _exact(column, kind)
    # What most values look like.
    sign = "" if kind.is_unsigned else "-?"
    usual = re.compile(rf"{sign}\d{{1,{whole}}}(?:\.\d{{1,{places}}})?" if whole and places else r"(?!)", re.ASCII)
    is_usual = usual.fullmatch if _is_plain(column) else re.compile("(?!)").match

    def convert(value: object) -> Decimal:
        if value.__class__ is str and is_usual(value):
            return Decimal(value)
        number = read(value)
        sign, digits, exponent = number.as_tuple()
        text = "".join(map(str, digits)).strip("0")
        if not text:
            return Decimal(0)
        # Without zeros at the end, which MySQL would warn of.
        exponent += len(digits) - len("".join(map(str, digits)).rstrip("0"))
        if -exponent > places:
            raise ValueError(
                f"has {-exponent} decimal places, and {column.type} keeps {places}: give the type more, or use double"
            )
        if len(text) + exponent > whole:
            raise ValueError(f"is out of range for {column.type}: it has {len(text) + exponent} digits before the mark")
        if sign and kind.is_unsigned:
            raise ValueError(f"is out of range for {column.type}: it is negative")
        return Decimal(f"{'-' if sign else ''}{text}E{exponent}")

    return convert


def _float(column: Column, kind: Kind) -> Callable[[object], float]:
    read = _exact(column, kind)
    is_single = kind.name == "float"

    def convert(value: object) -> float:
        exact = read(value)
        number = float(exact)
        if isinf(number) or (is_single and abs(number) > MOST):
            raise ValueError(f"is out of range for {column.type}")
        kept = unpack("f", pack("f", number))[0] if is_single else number
        if not kept and exact:
            raise ValueError(f"is too small for {column.type}: the column would have 0")
        # A fraction is as near as the type comes; somebody who writes all digits of an integer means each.
        if exact.as_tuple().exponent == 0 and kept != exact:
            raise ValueError(f"is an integer with more digits than {column.type} keeps: use bigint or decimal")
        if number < 0 and kind.is_unsigned:
            raise ValueError(f"is out of range for {column.type}: it is negative")
        return number

    return convert


def _is_plain(column: Column) -> bool:
    return column.marks[0] == "." and not (column.negative or column.percent or column.places)


def _exact(column: Column, kind: Kind) -> Callable[[object], Decimal]:
    """Return the function that reads a number exactly: a text in the form of the column, or a number of JSON."""
    pattern = re.compile(_expression(column, kind), re.ASCII)
    between = BETWEEN.get(column.marks[1], re.escape(column.marks[1]))
    separators = re.compile(between) if between else None
    shift = (column.places or 0) + (2 if column.percent == "fraction" else 0)

    def read(value: object) -> Decimal:
        if not isinstance(value, str):
            number = _number(value)
            if column.percent:
                raise ValueError("has no percent sign (percent)")
            if column.places and number != number.to_integral_value():
                raise ValueError("has a decimal mark, and places says where the decimals begin")
            return _shifted(number, column.places or 0)
        found = pattern.fullmatch(value)
        parts = found.groupdict() if found else {}
        whole, fraction = parts.get("whole") or "", parts.get("fraction") or ""
        minus = [sign for sign in (parts.get("sign"), parts.get("open"), parts.get("tail")) if sign]
        if not (whole or fraction) or len(minus) > 1:
            raise ValueError(_form(column, kind))
        if separators:
            whole = separators.sub("", whole)
        exponent = int(parts.get("exponent") or 0) - len(fraction) - shift
        if len(whole) + len(fraction) > DIGITS or abs(exponent) > DIGITS:
            raise ValueError("has more digits than any column")
        return Decimal(f"{'' if not minus or '+' in minus[0] else '-'}{whole}{fraction}E{exponent}")

    return read


def _expression(column: Column, kind: Kind) -> str:
    mark, between = column.marks
    between = BETWEEN.get(between, re.escape(between))
    grouped = rf"|[1-9]\d{{0,2}}(?P<between>{between})\d{{3}}(?:(?P=between)\d{{3}})*" if between else ""
    number = rf"(?P<whole>\d+{grouped})?" + ("" if column.places else rf"(?:{re.escape(mark)}(?P<fraction>\d*))?")
    if kind.family != "integer" and not (column.places or column.percent):
        number += r"(?:[eE](?P<exponent>[+-]?\d{1,4}))?"
    percent = "[ \u00a0]?%" if column.percent else ""
    if column.negative == "parentheses":
        return rf"(?P<open>\()?(?P<sign>[+-])?{number}{percent}(?(open)\))"
    tail = "(?P<tail> ?[+-])?" if column.negative == "trailing" else ""
    return rf"(?P<sign>[+-])?{number}{tail}{percent}"


def _form(column: Column, kind: Kind) -> str:
    """Say what a number of this column looks like."""
    mark, between = column.marks
    example = f"1{between}234" + ("" if kind.family == "integer" or column.places else f"{mark}5")
    example += "%" if column.percent else ""
    what = "an integer" if kind.family == "integer" else "a number"
    return f"is not {what} such as {example}; {FORMS}"


def _number(value: object) -> Decimal:
    """Return a number of JSON, or of a parser of the user's own, exactly."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise ValueError("is no number")
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError("is no number")
        # The digits that say which float it is.
        return Decimal(repr(value))
    if isinstance(value, int):
        if value.bit_length() > DIGITS * 3:
            raise ValueError("has more digits than any column")
        return Decimal(value)
    if not (value.is_finite() and abs(value.adjusted()) < DIGITS and len(value.as_tuple().digits) <= DIGITS):
        raise ValueError("is no number that a column has")
    return value


def _shifted(number: Decimal, places: int) -> Decimal:
    """Move the decimal mark; by the digits, for Decimal's own arithmetic rounds."""
    sign, digits, exponent = number.as_tuple()
    return Decimal((sign, digits, exponent - places)) if places else number
