"""From a file to its records: dictionaries that a feed's columns take their values from."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from importlib import import_module
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from feed.model import Feed

# Bytes (characters of a text) that one record may have. What is longer is not a record, and would take a multiple of it
# in memory.
LIMIT = 4 << 20
BOM = b"\xef\xbb\xbf"
# What a broken compressed file raises, by library.
BROKEN = (EOFError, OSError, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error)


@dataclass(frozen=True)
class Bad:
    """A record that cannot be read: why, and what stands there."""

    reason: str
    text: str


def records(feed: Feed, path: Path) -> Iterator[dict | Bad]:
    """Yield the records of a file, in bounded memory. A parser of the user's own may yield Bad, too.

    :raises ValueError: the file as a whole is not what the feed says: truncated, no such columns, an HTML page.
    """
    parse = PARSERS[feed.format] if feed.format else _function(feed.parser)
    wanted = feed.wanted()
    with opened(feed, path) as file:
        for record in parse(file, feed):
            if isinstance(record, dict) and wanted.keys().isdisjoint(record):
                yield Bad(f"it has none of {', '.join(map(str, wanted))}", str(record))
            elif isinstance(record, (dict, Bad)):
                yield record
            else:
                raise ValueError(f"{feed.parser} yields {type(record).__name__}: let it yield dictionaries, or Bad")


def count(feed: Feed, path: Path) -> int | None:
    """Read a file to its end, and return how many records it has; None when a parser of the user's own would know.

    :raises ValueError: what records() raises; no record of it can be read; no record has one of the columns.
    """
    if feed.parser:
        with opened(feed, path) as file:
            while file.read(1 << 20):
                pass
        return None
    missing = {source for source, name in feed.wanted().items() if not feed.load.columns[name].optional}
    good, first, number = 0, None, 0
    for number, record in enumerate(records(feed, path), 1):  # noqa: B007 - how many there are
        if isinstance(record, Bad):
            first = first or record
        else:
            good += 1
            missing = missing and missing - record.keys()
    if first and not good:
        raise ValueError(f"no record of {number} can be read; the first: {first.reason}: {first.text[:200]}")
    if good and missing:
        raise ValueError(f"no record has {', '.join(map(str, missing))}; what may be missing is `optional: true`")
    return number


@contextmanager
def opened(feed: Feed, path: Path) -> Iterator[BinaryIO]:
    """Open a file for its content, without the compression and a byte order mark.

    :raises ValueError: the compression is broken, or the content is an HTML page.
    """
    with ExitStack() as stack:
        try:
            match feed.packing:
                case "gzip":
                    file = stack.enter_context(gzip.open(path))
                case "bzip2":
                    file = stack.enter_context(bz2.open(path))
                case "xz":
                    file = stack.enter_context(lzma.open(path))
                case "zip":
                    archive = stack.enter_context(zipfile.ZipFile(path))
                    # Directories and what macOS adds are not what was sent.
                    parts = [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
                    names = [str(p) for p in parts if p.parts[0] != "__MACOSX" and not p.name.startswith(".")]
                    if len(names) != 1:
                        raise ValueError(f"the archive has {len(names)} files, and should have one: {names[:5]}")
                    file = stack.enter_context(archive.open(names[0]))
                case _:
                    file = stack.enter_context(path.open("rb"))
            buffered = stack.enter_context(io.BufferedReader(file, 1 << 17))
            if feed.is_utf8 and buffered.peek(len(BOM)).startswith(BOM):
                buffered.read(len(BOM))
            if buffered.peek(512)[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
                raise ValueError(f"it is an HTML page: {buffered.read(300).decode(errors='replace')}")
            yield buffered
        except BROKEN as error:
            if feed.packing == "none" or (isinstance(error, OSError) and error.errno):
                # The NAS's, or the parser's.
                raise
            raise ValueError(f"its {feed.packing} compression is broken: {error or type(error).__name__}") from error


class _Lines:
    """The lines of a text; LIMIT characters without the end of a record are too many. Remembers the last one."""

    def __init__(self, file: BinaryIO, feed: Feed):
        # Bytes that are not in the encoding become surrogates, so that they cost one record and not the file.
        self.text = io.TextIOWrapper(file, feed.encoding, errors="surrogateescape", newline="")
        self.last, self.number = "", 0
        # Characters of the record that is being read; whoever reads sets it back.
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last = self.text.readline(LIMIT)
        self.number += 1
        if not self.last:
            raise StopIteration
        self.size += len(self.last)
        if self.size >= LIMIT:
            raise ValueError(f"the record that ends at line {self.number}, or later, is longer than {LIMIT} characters")
        return self.last


def _csv(file: BinaryIO, feed: Feed) -> Iterator[dict | Bad]:
    lines = _Lines(file, feed)
    csv.field_size_limit(LIMIT)
    quoting = {"quoting": csv.QUOTE_NONE} if feed.quote == "none" else {"quotechar": feed.quote}
    reader = csv.reader(islice(lines, feed.skip_lines, None), delimiter=feed.delimiter, strict=True, **quoting)
    header = _header(reader, feed) if feed.header else None
    least = max(source for source in feed.wanted()) if header is None else 0
    while True:
        before, lines.size = lines.number, 0
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if lines.number > before + 1:
                # What is between them is good, perhaps.
                raise ValueError(f"lines {before + 1} to {lines.number}: a quote is not closed: {error}") from error
            yield Bad(f"line {lines.number}: {error}", lines.last)
            continue
        if not fields:
            continue
        names = header or range(1, len(fields) + 1)
        if len(fields) != len(names) or len(fields) < least:
            yield Bad(f"{len(fields)} fields, and not {len(header) if header else least}", feed.delimiter.join(fields))
        else:
            yield dict(zip(names, fields, strict=True))


def _header(reader: Iterator[list[str]], feed: Feed) -> list[str]:
    """Read the line that names the fields.

    :raises ValueError: it lacks a column, or has one twice.
    """
    try:
        header = [name.strip() for name in next((fields for fields in reader if fields), [])]
    except csv.Error as error:
        raise ValueError(f"its header is broken: {error}") from error
    wanted = feed.wanted()
    if header:
        missing = [n for n, column in wanted.items() if n not in header and not feed.load.columns[column].optional]
        if missing:
            raise ValueError(f"its header has no {', '.join(missing)}; it has {', '.join(header)[:500]}")
        if twice := [name for name, times in Counter(header).items() if times > 1 and name in wanted]:
            raise ValueError(f"its header has {', '.join(twice)} more than once")
    return header


def _jsonl(file: BinaryIO, feed: Feed) -> Iterator[dict | Bad]:
    lines = _Lines(file, feed)
    for line in lines:
        lines.size = 0
        if line.isspace():
            continue
        try:
            # A float would lose digits.
            record = json.loads(line, parse_float=Decimal)
        except ValueError as error:
            yield Bad(f"not JSON: {error}", line)
        else:
            yield record if isinstance(record, dict) else Bad("not an object", line)


def _json(file: BinaryIO, feed: Feed) -> Iterator[dict | Bad]:
    import ijson

    class Limited:
        """The file, of which no LIMIT bytes may be read without a record."""

        since = 0

        def read(self, size: int) -> bytes:
            if self.since > LIMIT:
                raise ValueError(f"no record ends within {LIMIT} bytes: is {feed.records!r} (records) where they are?")
            self.since += size
            return file.read(size)

    limited, begin, number = Limited(), file.tell(), 0
    try:
        for number, record in enumerate(ijson.items(limited, feed.records), 1):  # noqa: B007 - whether there are any
            limited.since = 0
            yield record if isinstance(record, dict) else Bad("not an object", str(record))
        if not number:
            # An empty array has no records; a document in which it is not there is another one, an error's perhaps.
            file.seek(begin)
            limited.since = 0
            array = (feed.records.rpartition("item")[0].rstrip("."), "start_array")
            if not any(event[:2] == array for event in ijson.parse(limited)):
                raise ValueError(f"it has no array where {feed.records!r} (records) says that the records are")
    except ijson.JSONError as error:
        raise ValueError(f"its JSON is broken: {error}") from error


def _fixed(file: BinaryIO, feed: Feed) -> Iterator[dict | Bad]:
    slices = {}
    for source in feed.wanted():
        first, last = map(int, source.split("-"))
        slices[source] = slice(first - 1, last)
    lines = _Lines(file, feed)
    for line in islice(lines, feed.skip_lines, None):
        lines.size = 0
        # Such formats count bytes; blanks at a line's end may have been cut off.
        content = line.rstrip("\r\n").encode(feed.encoding, "surrogateescape")
        if content.strip():
            fields = {name: content[part].decode(feed.encoding, "surrogateescape") for name, part in slices.items()}
            yield {name: value.strip() for name, value in fields.items()}


def _rfc822(file: BinaryIO, feed: Feed) -> Iterator[dict | Bad]:
    from debian.deb822 import Deb822

    broken: list[str] = []

    def lines() -> Iterator[str]:
        every = _Lines(file, feed)
        for line in every:
            if line.isspace():
                every.size = 0
            if ":" in line or line.isspace() or line[0] in " \t#":
                yield line
            else:
                # The library would leave it out.
                broken.append(line)

    for stanza in Deb822.iter_paragraphs(lines(), use_apt_pkg=False):
        if broken:
            yield Bad("a line without a name and a colon", "".join(broken))
            broken.clear()
        else:
            yield dict(stanza)
    if broken:
        yield Bad("a line without a name and a colon", "".join(broken))


PARSERS = {"csv": _csv, "json": _json, "jsonl": _jsonl, "fixed": _fixed, "rfc822": _rfc822}


def _function(name: str):
    """Return the parser of the user's own: it gets the open file and the feed, and yields dictionaries, or Bad."""
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)
