"""What may stand in the parts `source` and `late` of feeds/NAME.yml."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from feed.fields import Duration, Interval, Part, Pattern, Size, uses_time

# An HTTP header's or a query parameter's name.
WORD = r"[A-Za-z0-9!#$&'*+.^_`|~-]+"
# Names in a JSON document, from the outside in.
Place = Annotated[str, Field(pattern=r"^[^.\s]+(\.[^.\s]+)*$")]
Status = Annotated[int, Field(ge=400, le=499)]


def _without_address(value: str) -> str:
    if "://" in value.partition("?")[0]:
        raise ValueError(
            "the address stands in the connection (schema and host): write what follows it, such as /x.csv"
        )
    if "*" in value.partition("?")[0]:
        raise ValueError("a name to look for stands in source.find: write the directory here")
    return value


def _text(value: object) -> object:
    # YAML makes numbers and dates of what a query says as text.
    if isinstance(value, bool) or value is None:
        raise ValueError("write a text, in quotes")
    return str(value) if isinstance(value, (int, float, date)) else value


def _auth(value: str) -> str:
    if not re.fullmatch(rf"bearer|oauth2|(header|query):{WORD}", value):
        raise ValueError("write bearer, oauth2, header:NAME or query:NAME; without it login and password are sent")
    return value


RemotePath = Annotated[Pattern, AfterValidator(_without_address)]


class Pages(Part):
    """How an answer that has several pages goes on. One of next, link, number and ignore is said."""

    # JSON: where the address of the next page is, such as links.next; without one there (or null) it was the last.
    next: Place | None = None
    # What is at `next` is not an address, but the value of this query parameter.
    cursor: Annotated[str, Field(pattern=f"^{WORD}$")] | None = None
    # The header Link says it, with rel="next".
    link: bool = False
    # Query parameter with the page's number (or with `step`, that of its first record),
    number: Annotated[str, Field(pattern=f"^{WORD}$")] | None = None
    first: Annotated[int, Field(ge=0)] = 1
    step: Annotated[int, Field(ge=1)] = 1
    # until so many: JSON, where the number of all pages (with `step`, records) is. Default: a page without records.
    until: Place | None = None
    # The first page is enough.
    ignore: bool = False
    # More pages are refused.
    most: Annotated[int, Field(ge=1, le=100_000)] = 1000

    @model_validator(mode="after")
    def _agrees(self) -> Pages:
        said = [name for name in ("next", "link", "number", "ignore") if getattr(self, name)]
        if len(said) != 1:
            raise ValueError(
                "write one of next (where the next page's address is in the JSON), link: true (the header Link), number"
                " (query parameter with the page's number) and ignore: true (the first page is enough)"
                + (f", not {' and '.join(said)}" if said else "")
            )
        if self.cursor and not self.next:
            raise ValueError("cursor needs next: where the cursor of the next page is in the JSON")
        for name in ("first", "step", "until"):
            if name in self.model_fields_set and not self.number:
                raise ValueError(f"{name} is for number: the query parameter with the page's number")
        return self


class Source(Part):
    # Airflow connection of the type http or sftp: address, login, password and keys stand there.
    connection: str
    # On the service; {day:%Y%m%d} and {time:%H%M} are what the file is for.
    path: RemotePath
    # HTTP: sent behind the path, in the coding of addresses.
    query: dict[str, Annotated[Pattern, BeforeValidator(_text)]] = Field({})
    # HTTP: sent with the request.
    headers: dict[str, str] = Field({})
    # HTTP: how the connection's password is sent. Default: with its login, if it has one (basic).
    auth: Annotated[str, AfterValidator(_auth)] | None = None
    # HTTP: the answer has several pages.
    pages: Pages | None = None
    # HTTP: the Content-Type that the service sends, when it is one that the format does not have.
    content_type: str | None = None
    # Path on the service of a file with the digest: as sha256sum writes it, or the digest alone (MD5 to SHA-512).
    checksum: Pattern | None = None
    # A larger file is refused.
    largest: Size = 10 * 10**9
    # path is a directory (HTTP: a page with links), in which a name like this one is looked for.
    find: Pattern | None = None
    # More than one has such a name.
    several: Literal["fail", "last", "newest"] = "fail"
    # SFTP: a file that was written to in this time is not finished.
    at_rest: Duration = timedelta(seconds=60)
    # Path on the service of a file that is there when the file is finished.
    marker: Pattern | None = None

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if "{" in text + name:
                raise ValueError(f"nothing is filled in in headers: {name}: write it in query, or as it is")
        return value

    @field_validator("find")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        if value and "/" in value:
            raise ValueError("a name has no /: write the directory into source.path")
        return value

    @model_validator(mode="after")
    def _agrees(self) -> Source:
        if self.find and self.pages:
            raise ValueError("find is for a directory or a page with links, and pages for records: write one of them")
        if self.several != "fail" and not self.find:
            raise ValueError("several is for find: it says which of several names counts")
        return self

    @property
    def patterns(self) -> list[str]:
        """What says which file is asked for."""
        return [self.path, *self.query.values(), *([self.find] if self.find else [])]

    @property
    def uses_time(self) -> bool:
        return any(map(uses_time, self.patterns))

    def filled(self, day: date, time: datetime) -> Source:
        """Return it with a run's day and time in it."""
        when = {"day": day, "time": time}
        texts = {name: getattr(self, name) for name in ("path", "checksum", "find", "marker")}
        filled = {name: text.format(**when) for name, text in texts.items() if text is not None}
        query = {name: text.format(**when) for name, text in self.query.items()}
        return self.model_copy(update=filled | {"query": query})

    @property
    def address(self) -> str:
        """The path with the query (of filled())."""
        return with_query(self.path, self.query)


class Late(Part):
    # The service has no such file yet: look again after this time (feeds with several runs a day: at most half the
    # time between two),
    every: Interval = timedelta(minutes=10)
    # and for so long after the run's own time (several runs a day: at most the time of twelve);
    give_up_after: Duration = timedelta(hours=6)
    # then the task fails, or it is skipped.
    then: Literal["fail", "skip"] = "fail"
    # HTTP: answers that say so.
    status: list[Status] = Field([404, 410], min_length=1)


def with_query(path: str, query: dict[str, str]) -> str:
    """Return a path with more parameters."""
    if not query:
        return path
    return f"{path}{'&' if '?' in path else '?'}{urlencode(query)}"
