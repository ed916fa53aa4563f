"""Types of fields in feeds/NAME.yml: lengths of time, sizes, and texts in which a run's day and time are filled in."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from string import Formatter
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
SIZES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
# An example of each, to try a text with.
DAY, TIME = date(2025, 10, 20), datetime(2025, 10, 20, 9, 30)
# What a day cannot tell: hour, minute, second, zone.
OF_A_TIME = re.compile(r"%[-_0^#]?[HIMSpfzZcXrRTs]")


class Part(BaseModel):
    """A mapping in the file. What is not a field is an error, for it would be ignored otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def duration(value: object) -> timedelta:
    # More digits are more than a hundred years.
    if isinstance(value, str) and (found := re.fullmatch(r"(\d{1,9}) ?([smhd])", value)):
        length = timedelta(**{UNITS[found[2]]: int(found[1])})
        if length <= timedelta(days=36500):
            return length
    raise ValueError("write a number and a unit: 30s, 10m, 6h or 7d; at most 36500d")


def shift(value: object) -> timedelta:
    """Return a length of time that may be before (-1h)."""
    sign = -1 if isinstance(value, str) and value.startswith("-") else 1
    try:
        length = duration(value.removeprefix("-") if isinstance(value, str) else value)
    except ValueError:
        length = timedelta.max
    if length > timedelta(days=366):
        raise ValueError("write a number and a unit, such as -1h or -15m; at most 366d")
    return sign * length


def more_than_nothing(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("write more than 0")
    return value


def size(value: object) -> int:
    if isinstance(value, str) and (found := re.fullmatch(r"([1-9]\d{0,5}) ?([KMGT]B)", value)):
        return int(found[1]) * SIZES[found[2]]
    raise ValueError("write a number and a unit: 500KB, 20MB or 2GB")


def uses_time(pattern: str | None) -> bool:
    """Return whether a run's time is filled in."""
    return any(name == "time" for _, name, _, _ in Formatter().parse(pattern or ""))


def pattern(value: str) -> str:
    """Check a text in which {day:...} and {time:...} are filled in.

    :raises ValueError: something else would be filled in, or would be left as it stands.
    """
    if not isinstance(value, str):
        raise ValueError("write a text, in quotes")
    if "{{" in value or "}}" in value or "{%" in value:
        raise ValueError(
            "templates such as {{ ds }} are not filled in here: write {day:%Y-%m-%d} or {time:%Y%m%dT%H%M}"
        )
    try:
        filled = value.format(day=DAY, time=TIME)
        asked = [(name, form or "") for _, name, form, _ in Formatter().parse(value) if name is not None]
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(
            f"only day and time can be filled in, such as {{day:%Y%m%d}} or {{time:%H%M}} ({error!r})"
        ) from None
    for name, form in asked:
        if name == "day" and OF_A_TIME.search(form.replace("%%", "")):
            raise ValueError(f"a day has no hours (it would be 00 in each run): write {{time:{form}}}")
        if name == "time" and not form:
            raise ValueError("say how the time is written, such as {time:%Y%m%dT%H%M}")
    # %41 is a character in an address; %Y is left of a format that stands outside of the braces.
    if left := re.search(r"%(?![0-9A-Fa-f]{2})[A-Za-z]", filled):
        raise ValueError(f"{left[0]} would stay as it is: write {{day:%Y%m%d}}, or {{time:%H%M}}")
    return value


Duration = Annotated[timedelta, BeforeValidator(duration)]
Interval = Annotated[timedelta, BeforeValidator(duration), AfterValidator(more_than_nothing)]
Shift = Annotated[timedelta, BeforeValidator(shift)]
Size = Annotated[int, BeforeValidator(size)]
Pattern = Annotated[str, BeforeValidator(pattern)]
