"""An answer of several pages as one JSON document, whose records are where the feed says that they are."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from decimal import Decimal

import ijson

from feed.http import Http
from feed.model import Feed
from feed.resume import NotThereYet
from feed.source import with_query
from feed.trees import further

# A page is not larger.
LARGEST = 32 << 20


def merged(feed: Feed, service: Http, where: str) -> Iterator[bytes]:
    """Yield one document with the records of all pages.

    :raises ValueError: a page is not what the feed says, they go round in a circle, or there are too many.
    """
    pages, asked, before, separator = feed.source.pages, set(), b"", b""
    opening, closing = _around(feed.records)
    number, first, place = pages.first, where, where
    if pages.number:
        place = _with(first, pages.number, number)
    yield opening
    while True:
        name = f"{service.shown(place)} (page {len(asked) + 1})"
        if place in asked:
            raise ValueError(f"{name} was there already: the pages go round in a circle (source.pages)")
        if len(asked) == pages.most:
            raise ValueError(f"{name} is one more than {pages.most} pages: raise source.pages.most, if that is right")
        asked.add(place)
        page = _whole(service, place, name, is_first=len(asked) == 1)
        count = 0
        for count, record in enumerate(_records(feed, page, name), 1):  # noqa: B007 - how many there are
            yield separator + _written(record).encode()
            separator = b",\n"
        digest = hashlib.sha256(page).digest()
        if count and digest == before:
            raise ValueError(f"{name} is what the page before it is: does the service know what source.pages says?")
        before, number = digest, number + pages.step
        if not (following := _next(feed, service, page, name, count, number)):
            break
        place = _with(first, pages.number, number) if pages.number else following
        if pages.cursor:
            place = _with(first, pages.cursor, following)
    yield closing


def _next(feed: Feed, service: Http, page: bytes, name: str, count: int, number: int) -> str:
    """Return where the next page is (its place, its cursor, or anything for a number); nothing when it was the last."""
    pages = feed.source.pages
    following: object = ""
    if pages.link:
        following = service.follow(service.link) if service.link else ""
    elif pages.next:
        said = _at(page, pages.next)
        following = str(said) if said not in (None, False, "") else ""
        if following and not pages.cursor:
            following = service.follow(following)
    elif pages.until:
        until = _at(page, pages.until)
        if isinstance(until, bool) or not isinstance(until, (int, str)) or not str(until).isdecimal():
            raise ValueError(f"{name} has no number at {pages.until} (source.pages.until), but {until!r}")
        following = str(number) if number - pages.first < int(until) else ""
    else:
        return str(number) if count else ""
    if not following and (found := further(ijson.parse(io.BytesIO(page)), _array(feed))):
        raise ValueError(f"{name} says that there are more ({found}), and source.pages finds none: correct it")
    return following


def _whole(service: Http, place: str, name: str, *, is_first: bool) -> bytes:
    """Return a page's bytes."""
    page = bytearray()
    try:
        for piece in service.pieces(place, is_file=True):
            page += piece
            if len(page) > LARGEST:
                raise ValueError(f"{name} has more than {LARGEST} bytes: ask the service for smaller pages")
    except NotThereYet as error:
        if is_first:
            raise
        raise OSError(f"{name} is not there, although the page before leads to it: {error}") from error
    return bytes(page).removeprefix(b"\xef\xbb\xbf")


def _records(feed: Feed, page: bytes, name: str) -> Iterator[object]:
    try:
        if not any(event[:2] == (_array(feed), "start_array") for event in ijson.parse(io.BytesIO(page))):
            raise ValueError(f"{name} has no array where {feed.records!r} (records) says that the records are")
        yield from ijson.items(io.BytesIO(page), feed.records)
    except ijson.JSONError as error:
        raise ValueError(f"{name}: its JSON is broken: {error}: {page[:200].decode(errors='replace')}") from error


def _array(feed: Feed) -> str:
    return feed.records.rpartition("item")[0].rstrip(".")


def _around(records: str) -> tuple[bytes, bytes]:
    """Return what stands before and behind the records, so that they are at this path: data.item is {"data":[...]}."""
    parts = records.split(".")
    opening = "".join("[" if part == "item" else f"{{{json.dumps(part)}:" for part in parts)
    closing = "".join("]" if part == "item" else "}" for part in reversed(parts))
    return opening.encode(), closing.encode()


def _written(value: object) -> str:
    """Write a value as JSON; a number keeps each digit."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(name)}: {_written(one)}' for name, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def _at(page: bytes, where: str) -> object:
    """Return the text or number at a path of a document; None when it is not there."""
    for prefix, event, value in ijson.parse(io.BytesIO(page)):
        if prefix == where and event in ("string", "number", "boolean", "null"):
            return value
    return None


def _with(where: str, name: str, value: object) -> str:
    """Return an address with a parameter, in place of the one that it has."""
    path, _, query = where.partition("?")
    kept = "&".join(part for part in query.split("&") if part and part.partition("=")[0] != name)
    return with_query(f"{path}?{kept}" if kept else path, {name: str(value)})
