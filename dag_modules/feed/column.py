"""A column of a feed: MySQL's type, where its values are in the file, and how the file writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, field_validator, model_validator

from feed.dateformat import compiled
from feed.fields import Part

# Of MySQL's types, what a column may have; text keeps an empty value, the others take NULL for it.
TEXT = r"(?:char|varchar|binary|varbinary)\(\d+\)|(?:tiny|medium|long)?(?:text|blob)"
NUMBER = r"(?:(?:tiny|small|medium|big)?int|float|double|decimal\(\d+(?:, ?\d+)?\))(?: unsigned)?"
TYPE = rf"{TEXT}|{NUMBER}|date|(?:datetime|timestamp|time)(?:\([0-6]\))?|year|json|boolean"
# Bits of an integer, and bytes of a text.
INTEGERS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
BYTES = {"tiny": (1 << 8) - 1, "": (1 << 16) - 1, "medium": (1 << 24) - 1, "long": (1 << 32) - 1}
# What MySQL takes at most in brackets.
MOST = {"char": 255, "binary": 255, "varchar": 16383, "varbinary": 65535}
DIGITS, PLACES = 65, 30
# Types that a field is for.
NUMBERS = ("integer", "decimal", "float")
INSTANTS = ("date", "datetime", "timestamp")
FITS = {
    "trim": ("text",),
    "decimal": NUMBERS,
    "thousands": NUMBERS,
    "negative": NUMBERS,
    "percent": NUMBERS,
    "places": NUMBERS,
    "true_values": ("boolean",),
    "false_values": ("boolean",),
    "format": (*INSTANTS, "time"),
    "epoch": INSTANTS,
    "timezone": INSTANTS,
}


@dataclass(frozen=True)
class Kind:
    """A type of MySQL, taken apart."""

    # integer, decimal, float, boolean, text, binary, json, date, datetime, timestamp, time or year.
    family: str
    # int, varchar and so on.
    name: str
    # The numbers in brackets: a length, digits and places, or digits of a second.
    size: int = 0
    places: int = 0
    is_unsigned: bool = False

    @property
    def capacity(self) -> int:
        """Return how many bytes a text or blob without a length takes."""
        return BYTES[re.sub("text|blob", "", self.name)]


@cache
def kind_of(text: str) -> Kind | None:
    """Take a type apart, also one as MySQL shows it; None when no feed can have it."""
    found = re.fullmatch(r"(\w+)(?:\((\d+)(?:, ?(\d+))?\))?( unsigned)?(?: zerofill)?", text)
    if not found:
        return None
    name, size, places = found[1], int(found[2] or 0), int(found[3] or 0)
    if name == "tinyint" and size == 1 and not found[4]:
        name = "boolean"
    if name in INTEGERS:
        # A width is how many digits are shown.
        return Kind("integer", name, 0, 0, bool(found[4]))
    family = {"char": "text", "varchar": "text", "binary": "binary", "varbinary": "binary", "double": "float"}.get(name)
    family = family or ("text" if name.endswith("text") else "binary" if name.endswith("blob") else name)
    if family in ("text", "binary", "decimal", "float", "boolean", "json", "year", *INSTANTS, "time"):
        is_sized = family not in ("float", "boolean", "year")
        return Kind(family, name, size if is_sized else 0, places if is_sized else 0, bool(found[4]))
    return None


def _words(value: object) -> object:
    value = value if isinstance(value, list) else [value]
    for word in value:
        if not isinstance(word, str):
            raise ValueError(f"YAML takes a word for {word!r}: write it in quotes")
    return value


def _formats(value: object) -> object:
    return [value] if isinstance(value, str) else value


Words = Annotated[list[str], BeforeValidator(_words)]
Formats = Annotated[list[str], BeforeValidator(_formats), Field(min_length=1)]


class Options(Part):
    """How the file writes values: of a column, or in `load` of all columns that an option fits."""

    # Texts that stand for NULL, as they are in the file.
    null_values: Words | None = None
    # Text: without blanks at both ends.
    trim: bool | None = None
    # Numbers: the decimal mark (default: a point), and what stands between thousands (default: nothing).
    decimal: Literal[".", ","] | None = None
    thousands: Literal[".", ",", " ", "'", "_"] | None = None
    # (1.50) or 1.50- for -1.50, which is accepted, too.
    negative: Literal["parentheses", "trailing"] | None = None
    # Each value has a percent sign: 12.5% is 12.5 (keep) or 0.125 (fraction).
    percent: Literal["keep", "fraction"] | None = None
    # Implied decimals: with 2, 12345 is 123.45.
    places: Annotated[int, Field(ge=1, le=PLACES)] | None = None
    # A boolean: the words for true and false.
    true_values: Words | None = None
    false_values: Words | None = None
    # Days and times: one form or several; a number since 1970 in UTC; the zone of values without an offset.
    format: Formats | None = None
    epoch: Literal["s", "ms", "us", "ns"] | None = None
    timezone: str | None = None

    @field_validator("format")
    @classmethod
    def _is_format(cls, value: list[str] | None) -> list[str] | None:
        for text in value or []:
            try:
                compiled(text)
            except ValueError as error:
                raise ValueError(f"{text}: {error}" if len(value) > 1 else str(error)) from None
        return value

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str | None) -> str | None:
        try:
            ZoneInfo(value or "UTC")
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("no such time zone: write a name such as Asia/Seoul or UTC") from None
        return value


class Column(Options):
    # MySQL's type.
    type: Annotated[str, Field(pattern=rf"^(?:{TYPE})$")] = "text"
    # Where its value is: a name (default: the column's own), or without a header the field's number from 1, or
    # 3-10 for the bytes 3 to 10 of a fixed-width line.
    source: Annotated[str | int | None, Field(alias="from")] = None
    # A file may come without it; otherwise one without it in any record is refused.
    optional: bool = False

    @property
    def kind(self) -> Kind:
        return kind_of(self.type)

    @property
    def marks(self) -> tuple[str, str]:
        """Return the decimal mark, and the one between thousands."""
        return self.decimal or ("," if self.thousands == "." else "."), self.thousands or ""

    @model_validator(mode="after")
    def _is_right(self) -> Column:
        kind = self.kind
        if kind.size > MOST.get(kind.name, DIGITS if kind.family == "decimal" else kind.size):
            most = MOST.get(kind.name, DIGITS)
            raise ValueError(f"type: {self.type!r}: at most {most} in brackets; for more use text or blob")
        if kind.family == "decimal" and not (kind.size and kind.places <= min(PLACES, kind.size)):
            raise ValueError(
                f"type: {self.type!r}: write digits and places, such as decimal(12,6); at most {PLACES} places"
            )
        for option, families in FITS.items():
            if getattr(self, option) is not None and kind.family not in families:
                raise ValueError(f"{option} is for {' and '.join(families)}, and the type is {self.type}: remove it")
        for text in self.format or []:
            if not fits_format(text, kind):
                remedy = "write hours and minutes only" if kind.family == "time" else "it says no day"
                raise ValueError(f"format: {text!r} does not fit the type {self.type}: {remedy}")
        self.check()
        return self

    def check(self) -> None:
        """Refuse options that contradict each other.

        :raises ValueError: names them.
        """
        mark, between = self.marks
        if mark == between:
            raise ValueError(f"decimal and thousands are both {mark!r}: a number would have two meanings")
        if (self.true_values is None) != (self.false_values is None):
            raise ValueError("true_values and false_values belong together: write both")
        words = [*(self.true_values or []), *(self.false_values or []), *(self.null_values or [])]
        if twice := {word for word in words if words.count(word) > 1}:
            raise ValueError(f"{min(twice)!r} stands twice in null_values, true_values and false_values: remove one")
        if self.format and self.epoch:
            raise ValueError("format and epoch are both there: remove one")
        if self.places and (self.percent or self.decimal):
            other = "percent" if self.percent else "decimal"
            raise ValueError(f"places says where the decimals begin: remove {other}")

    def filled(self, defaults: Options) -> Column:
        """Return the column with what `load` says for all of them, as far as the column does not say and takes it."""
        found = {}
        for option in Options.model_fields:
            value = getattr(defaults, option)
            is_said = getattr(self, option) is not None
            # One of these is the other's alternative.
            if option in ("format", "epoch"):
                is_said = self.format is not None or self.epoch is not None
            if option in ("percent", "decimal"):
                is_said = is_said or self.places is not None
            if option == "format" and value and self.kind.family in FITS["format"]:
                value = [text for text in value if fits_format(text, self.kind)] or None
            if value is not None and not is_said and self.kind.family in FITS.get(option, (self.kind.family,)):
                found[option] = value
        return self.model_copy(update=found) if found else self


def fits_format(text: str, kind: Kind) -> bool:
    """Return whether a format says what a type needs: a day; of a time of day nothing but that."""
    letters = compiled(text).letters
    if kind.family == "time":
        return not compiled(text).has_day and not letters & {"z", "Z"}
    return compiled(text).has_day
