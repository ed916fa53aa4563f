"""How a file writes days and times: the usual form (ISO 8601), and what `format` says, such as %d.%m.%Y.

Not strptime: it follows the locale, takes 123 for 12:03 with %H%M, and cuts off nothing but six digits of a second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache

MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
# Regular expression of each directive; numbers have one or two digits unless another number follows at once.
NUMBERS = {"m": 2, "d": 2, "H": 2, "I": 2, "M": 2, "S": 2, "y": 2, "Y": 4, "j": 3}
SHORT = ("m", "d", "H", "I", "M", "S")
OFFSET = r"Z|[+-]\d\d(?::?\d\d)?"
WORDS = {
    "b": "|".join(name[:3] for name in MONTHS),
    "B": "|".join(MONTHS),
    "a": "|".join(name[:3] for name in DAYS),
    "A": "|".join(DAYS),
    "p": "AM|PM",
    "f": r"\d{1,9}",
    "z": OFFSET,
    "Z": "UTC|GMT|Z",
}
DAY_PARTS = set("YymbBdjaA")
CLOCK_PARTS = set("HIMSfp")
# One group for what may be written in several ways.
SAME = {"b": "b", "B": "b", "h": "b", "a": "a", "A": "a", "y": "y", "Z": "z"}
# Of an offset: nowhere on earth is it more.
MOST = timedelta(hours=14)
ISO_DAY = r"(?P<Y>\d{4})(?P<mark>[-/.]?)(?P<m>\d{2})(?P=mark)(?P<d>\d{2})"
# 20251020093000, too. An hour alone has no offset: 09-05 could be minutes.
ISO = re.compile(
    rf"{ISO_DAY}(?:(?:[T ]\s*|(?<=\d{{8}})(?=\d{{6}}))"
    r"(?:(?P<H>\d{1,2})(?::(?P<M>\d{2})(?::(?P<S>\d{2})(?:\.(?P<f>\d*))?)?(?P<z> ?(?:Z|[+-]\d\d(?::?\d\d)?))?)?"
    r"|(?P<compact>\d{6})(?:\.(?P<cf>\d*))?(?P<cz>Z|[+-]\d\d(?::?\d\d)?)?))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Stamp:
    """What stands in a value: a day, a time of day, digits of a second, an offset to UTC."""

    day: date | None
    hour: int = 0
    minute: int = 0
    second: int = 0
    fraction: str = ""
    offset: timedelta | None = None


def read_iso(text: str) -> Stamp | None:
    """Return what a text such as 2025-10-20T09:30:00+09:00 says; None when it has another form.

    :raises ValueError: there is no such day or time.
    """
    found = ISO.fullmatch(text)
    if not found:
        return None
    parts = found.groupdict()
    if clock := parts["compact"]:
        parts |= {"H": clock[:2], "M": clock[2:4], "S": clock[4:], "f": parts["cf"], "z": parts["cz"]}
    return _stamp(parts)


@dataclass(frozen=True)
class Format:
    """A format with the regular expression that it stands for."""

    text: str
    pattern: re.Pattern
    letters: frozenset[str]

    @property
    def has_day(self) -> bool:
        return bool(self.letters & DAY_PARTS)

    def read(self, text: str) -> Stamp | None:
        """Return what a text says; None when it has another form.

        :raises ValueError: there is no such day or time, or its weekday is another one.
        """
        found = self.pattern.fullmatch(text)
        return _stamp(found.groupdict()) if found else None


@cache
def compiled(text: str) -> Format:
    """Return a format such as %d.%m.%Y %H:%M.

    :raises ValueError: it has an unknown directive, one twice, or does not say a day or a time.
    """
    pieces = re.findall(r"%-?.|\s+|[^%\s]+|%", text)
    letters: list[str] = []
    pattern = ""
    for before, piece, following in zip(["", *pieces], pieces, [*pieces[1:], ""], strict=False):
        if piece == "%%":
            pattern += "%"
        elif piece.isspace():
            pattern += r"\s+"
        elif piece[0] != "%":
            pattern += re.escape(piece)
        else:
            letter = "b" if piece == "%h" else piece[1:]
            if letter not in NUMBERS and letter not in WORDS:
                known = " ".join(f"%{name}" for name in (*NUMBERS, *WORDS))
                raise ValueError(f"{piece} is not known: write some of {known}")
            letters.append(letter)
            is_alone = not (_ends_with_digit(before) or _begins_with_digit(following))
            pattern += f"(?P<{SAME.get(letter, letter)}>{_expression(letter, is_alone)})"
    _check(letters)
    return Format(text, re.compile(pattern, re.ASCII | re.IGNORECASE), frozenset(letters))


def _is_number(piece: str) -> bool:
    return piece[:1] == "%" and (piece[1:] in NUMBERS or piece[1:] == "f")


def _ends_with_digit(piece: str) -> bool:
    return _is_number(piece) or piece[-1:].isdigit()


def _begins_with_digit(piece: str) -> bool:
    return _is_number(piece) or piece[:1].isdigit()


def _expression(letter: str, is_alone: bool) -> str:
    if letter in WORDS:
        return WORDS[letter]
    # 0700 is seven o'clock, and 123 is nothing when %H%M stands without a mark.
    digits = NUMBERS[letter]
    return rf"\d{{1,{digits}}}" if letter in SHORT and is_alone else rf"\d{{{digits}}}"


def _check(letters: list[str]) -> None:
    groups = [SAME.get(letter, letter).replace("Y", "y") for letter in letters]
    there = set(letters)
    wrong = ""
    if twice := [letter for number, letter in enumerate(letters) if groups[number] in groups[:number]]:
        wrong = f"%{twice[0]} is there twice, in this or another form"
    elif there & DAY_PARTS and not (there & {"Y", "y"} and ({"j"} <= there or ("d" in there and there & set("mbB")))):
        wrong = "a day is a year, a month and a day, such as %Y-%m-%d"
    elif there & {"m", "b", "B", "d"} and "j" in there:
        wrong = "%j is the day of the year: leave out month and day"
    elif not there & (DAY_PARTS | {"H", "I"}):
        wrong = "it says neither a day nor an hour"
    elif there & CLOCK_PARTS and not there & {"H", "I"}:
        wrong = "a time needs an hour: %H, or %I with %p"
    elif ("I" in there) != ("p" in there) or {"H", "I"} <= there:
        wrong = "%I and %p belong together; %H stands alone"
    elif {"m"} & there and there & {"b", "B"}:
        wrong = "a month is %m, %b or %B"
    elif ("S" in there and "M" not in there) or ("f" in there and "S" not in there):
        wrong = "%S needs %M, and %f needs %S"
    elif there & {"z", "Z"} and not there & {"H", "I"}:
        wrong = "an offset needs an hour"
    if wrong:
        raise ValueError(wrong)


def _stamp(parts: dict[str, str | None]) -> Stamp:
    """Put the parts of a value together; what is not there is the beginning of the day.

    :raises ValueError: there is no such day or time, or its weekday is another one.
    """
    day = _day(parts) if parts.get("Y") or parts.get("y") else None
    hour, minute, second = (int(parts.get(letter) or 0) for letter in "HMS")
    if half := parts.get("p"):
        hour = int(parts["I"] or 0)
        if not 1 <= hour <= 12:
            raise ValueError("has no such time")
        hour = hour % 12 + (12 if half.upper() == "PM" else 0)
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError("has no such time")
    return Stamp(day, hour, minute, second, parts.get("f") or "", _offset(parts.get("z")))


def _day(parts: dict[str, str | None]) -> date:
    # Of two digits, as POSIX has it: 68 is 2068, 69 is 1969.
    short = int(parts.get("y") or 0)
    year = int(parts["Y"]) if parts.get("Y") else short + (1900 if short > 68 else 2000)
    name = parts.get("b")
    try:
        if number := parts.get("j"):
            day = date(year, 1, 1) + timedelta(days=int(number) - 1)
            if day.year != year:
                raise ValueError
        else:
            month = [one[:3].lower() for one in MONTHS].index(name[:3].lower()) + 1 if name else int(parts["m"])
            day = date(year, month, int(parts["d"]))
    except (ValueError, OverflowError):
        raise ValueError("is no such day") from None
    if (weekday := parts.get("a")) and not DAYS[day.weekday()].lower().startswith(weekday.lower()):
        raise ValueError(f"is another weekday: it was {DAYS[day.weekday()]}")
    return day


def _offset(text: str | None) -> timedelta | None:
    if not text or not text.strip():
        return None
    text = text.strip()
    if text.upper() in ("Z", "UTC", "GMT"):
        return timedelta()
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or 0))
    if offset > MOST or int(digits[2:] or 0) > 59:
        raise ValueError("has no such offset to UTC")
    return -offset if text[0] == "-" else offset
