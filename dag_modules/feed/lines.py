"""Formats in which a record begins with a line: CSV, JSON in each line, fixed width, stanzas of names and values."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import BinaryIO

from feed.model import Feed
from feed.record import LIMIT, Bad, check_names

# What stands for a character behind a backslash; any other character there stands for itself.
ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "0": "\0"}
# First and last byte of a field, by where a column finds it.
Places = dict[str, tuple[int, int]]
# What an old system ends a file with.
CONTROL_Z = "\x1a"
ENDS = ("", CONTROL_Z)


class Lines:
    """The lines of a text, but those that the feed leaves out; LIMIT characters without a record's end are too many.

    Remembers the last line. What looks like a comment within a record is none.
    """

    def __init__(self, file: BinaryIO, feed: Feed):
        # Bytes that are not in the encoding become surrogates, so that they cost one record and not the file.
        self.text = io.TextIOWrapper(file, feed.encoding, errors="surrogateescape", newline="")
        self.last, self.number = "", 0
        # Characters of the record that is being read; whoever reads sets it back.
        self.size = 0
        self.comments, self.only = tuple(feed.comment), tuple(feed.only)
        self.leaves_out = bool(self.comments or self.only)
        self.read = partial(self.text.readline, LIMIT)
        for _ in range(feed.skip_lines):
            self.read()
            self.number += 1
        if feed.skip_footer:
            self.read = partial(next, _but_the_footer(self.read, feed.skip_footer), "")

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last = self.read()
        self.number += 1
        if self.leaves_out and not self.size:
            while self.last and (
                self.last.startswith(self.comments) or (self.only and not self.last.startswith(self.only))
            ):
                self.last = self.read()
                self.number += 1
        if len(self.last) < 2 and self.last in ENDS:
            raise StopIteration
        self.size += len(self.last)
        if self.size >= LIMIT:
            raise ValueError(f"the record that ends at line {self.number}, or later, is longer than {LIMIT} characters")
        return self.last


def _but_the_footer(read: Callable[[], str], footer: int) -> Iterator[str]:
    """Yield the lines, but not the last ones that are not blank."""
    held, full = deque(), 0
    for line in iter(read, ""):
        if line == CONTROL_Z:
            continue
        held.append(line)
        full += not line.isspace()
        while full > footer:
            first = held.popleft()
            full -= not first.isspace()
            yield first


def read_csv(file: BinaryIO, feed: Feed) -> Iterator[dict | Bad]:
    """Yield the records of CSV.

    :raises ValueError: the header lacks a column, or a quote is not closed.
    """
    lines = Lines(file, feed)
    csv.field_size_limit(LIMIT)
    quoting = {"quoting": csv.QUOTE_NONE} if feed.quote == "none" else {"quotechar": feed.quote}
    source = map(_literal, lines) if feed.escape == "\\" else lines
    reader = csv.reader(source, delimiter=feed.delimiter, escapechar=feed.escape, strict=True, **quoting)
    first = _header(reader, lines, feed) if feed.header else None
    header = first and [name.strip() for name in first]
    least = max((place for place, is_needed in feed.needed().items() if is_needed), default=1) if not header else 0
    # Without a header, the first record says how many fields there are: a comma too many would move the values.
    size = len(header) if header else 0
    is_first = True
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
        size = size or len(fields)
        names = header or range(1, len(fields) + 1)
        if is_first:
            is_first = False
            if header and not lines.last.strip(f"-=+_| \t\r\n{feed.delimiter}"):
                begin = lines.last.strip()[:3]
                yield Bad(f"a line below the header; to leave such lines out, write comment: {begin!r}", lines.last)
                continue
        if lines.last[-1:] == "\0":
            yield Bad("it ends with zero bytes: the file was not written to its end", lines.last)
        elif (len(fields) != size or size < least) and (reason := _wrong_number(feed, fields, size, least)):
            yield Bad(reason, feed.delimiter.join(fields))
        elif fields == first and len(fields) > 1:
            if feed.repeated_header == "refuse":
                yield Bad("the header once more; to leave it out, write repeated_header: skip", lines.last)
        else:
            yield dict(zip(names, fields, strict=False))


def _wrong_number(feed: Feed, fields: list[str], size: int, least: int) -> str | None:
    """Say why a record does not have the number of fields that the header, or the first record, has."""
    number, remedy = len(fields), ""
    if number > size and feed.long_lines == "refuse":
        remedy = "; when what is behind them may be left out, write long_lines: accept"
    elif number < size and feed.short_lines == "refuse":
        remedy = "; when those at the end may be missing, write short_lines: accept"
    elif number >= least:
        return None
    return f"{number} fields, and not {max(size, least)}{remedy}"


def _literal(line: str) -> str:
    """Write what a backslash and a letter stand for behind the backslash, which is how csv understands it.

    A field \\N stays as it is, for it is how databases write NULL.
    """
    if "\\" not in line:
        return line
    return re.sub(r"\\(.)", lambda found: "\\" + _escaped(found[1]), line)


def _escaped(letter: str) -> str:
    return "\\N" if letter == "N" else ESCAPED.get(letter, letter)


def _header(reader: Iterator[list[str]], lines: Lines, feed: Feed) -> list[str]:
    """Read the line that names the fields.

    :raises ValueError: it lacks a column, or has one twice.
    """
    only, lines.only = lines.only, ()
    header: list[str] = []
    try:
        while not "".join(header).strip():
            lines.size = 0
            header = next(reader)
    except StopIteration:
        return []
    except csv.Error as error:
        raise ValueError(f"its header is broken: {error}") from error
    lines.only = only
    names = [name.strip() for name in header]
    try:
        check_names(names, feed.needed(), "its header")
    except ValueError as error:
        raise ValueError(f"{error}{_header_hint(names, lines.last, feed)}") from None
    return header


def _header_hint(names: list[str], line: str, feed: Feed) -> str:
    """Say which field to set when a line that is no header shows why."""
    if names[0].lower().startswith("sep="):
        return "; this line is for Excel: write skip_lines: 1"
    others = {mark: line.count(mark) for mark in ";\t|," if mark != feed.delimiter and mark in line}
    if len(names) == 1 and others:
        return f"; is the delimiter {max(others, key=others.get)!r}?"
    return ""


def read_jsonl(file: BinaryIO, feed: Feed) -> Iterator[object]:
    """Yield the JSON value of each line."""
    lines = Lines(file, feed)
    for line in lines:
        lines.size = 0
        if line.isspace():
            continue
        try:
            # A float would lose digits.
            yield json.loads(line, parse_float=Decimal, object_pairs_hook=_once)
        except ValueError as error:
            yield Bad(f"not JSON: {error}", line)


def _once(pairs: list[tuple[str, object]]) -> dict:
    if len(found := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} stands twice in an object")
    return found


def read_fixed(file: io.BufferedReader, feed: Feed) -> Iterator[dict | Bad]:
    """Yield the records of lines, or of bytes without line ends, in which fields have fixed places.

    :raises ValueError: a record without a line end is cut off.
    """
    # Such formats count bytes. A byte order mark is one of the file, and not of each record.
    encoding = feed.plain_encoding
    places = {source: tuple(map(int, source.split("-"))) for source in feed.wanted()}
    least = feed.width or max(
        (places[source][1] for source, is_needed in feed.needed().items() if is_needed), default=0
    )
    most = feed.width or max(last for _, last in places.values())
    for number, content in _cut(file, feed, encoding):
        # Blanks behind the fields are nothing.
        size = len(content) if len(content) <= most else max(most, len(content.rstrip()))
        if size != most and (reason := _wrong_length(feed, size, places, least)):
            yield Bad(f"line {number}: {reason}", content.decode(encoding, "surrogateescape"))
            continue
        # What a file may come without is not there when a line ends before it.
        yield {
            source: content[first - 1 : last].decode(encoding, "surrogateescape").strip()
            for source, (first, last) in places.items()
            if len(content) >= first or feed.short_lines == "accept"
        }


def _wrong_length(feed: Feed, size: int, places: Places, least: int) -> str | None:
    """Say why a record of so many bytes is not whole, or has more than its fields."""
    if feed.short_lines == "refuse":
        # Cut within a field that files may come without, too.
        whole = max([least, *(last for first, last in places.values() if first <= size)])
        if size < whole:
            return (
                f"{size} bytes, and not {whole}: part of it is missing; when blanks at the end were cut off, write"
                " short_lines: accept"
            )
    most = feed.width or max(last for _, last in places.values())
    if size <= most or feed.long_lines == "accept":
        return None
    if feed.width:
        return f"{size} bytes, and not {feed.width} (width)"
    return (
        f"{size} bytes, and the columns end at {most}: write how long a record is, such as width: {size}, also for"
        " records without line ends; or long_lines: accept"
    )


def _cut(file: io.BufferedReader, feed: Feed, encoding: str) -> Iterator[tuple[int, bytes]]:
    """Yield the records, with their numbers: lines, or pieces of `width` bytes when there are no line ends.

    :raises ValueError: the last piece is shorter.
    """
    ends = ["\n".encode(encoding), "\r".encode(encoding)]
    size = (feed.width or 0) + len(ends[0])
    if not feed.width or any(end in file.peek(size)[:size] for end in ends):
        lines = Lines(file, feed)
        for line in lines:
            lines.size = 0
            if not line.isspace():
                yield lines.number, line.rstrip("\r\n").encode(encoding, "surrogateescape")
        return
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-32-le": codecs.BOM_UTF32_LE}.get(encoding)
    if mark and file.peek(len(mark)).startswith(mark):
        file.read(len(mark))
    pieces = islice(enumerate(_pieces(file, feed.width), 1), feed.skip_lines, None)
    comments, only = ([text.encode(encoding) for text in texts] for texts in (feed.comment, feed.only))
    held: deque[tuple[int, bytes]] = deque()
    for number, piece in pieces:
        held.append((number, piece))
        if len(held) > feed.skip_footer:
            number, piece = held.popleft()
            if not any(map(piece.startswith, comments)) and (not only or any(map(piece.startswith, only))):
                yield number, piece


def _pieces(file: BinaryIO, width: int) -> Iterator[bytes]:
    number = 0
    while piece := file.read(width):
        number += 1
        if len(piece) == width:
            yield piece
        elif piece.strip(b"\0\x1a\r\n \t"):
            raise ValueError(
                f"it has no line ends, and record {number} has {len(piece)} bytes, not {width} (width): part of it is"
                " missing"
            )


def read_rfc822(file: BinaryIO, feed: Feed) -> Iterator[dict | Bad]:
    """Yield the stanzas of `Name: value`."""
    from debian.deb822 import Deb822

    broken: list[tuple[str, str]] = []

    def lines() -> Iterator[str]:
        every, names = Lines(file, feed), set()
        for line in every:
            if line.isspace():
                every.size = 0
                names.clear()
            found = re.match(r"([^:\s]+)[ \t]*:", line)
            name = found[1].lower() if found else ""
            # What the library would leave out, or of which it would keep the last one.
            if name in names:
                broken.append((f"{found[1]} stands twice in it", line))
            elif name or line.isspace() or line[0] == "#" or (line[0] in " \t" and names):
                names |= {name} - {""}
                yield line
            else:
                broken.append(("a line without a name and a colon", line))

    for stanza in Deb822.iter_paragraphs(lines(), use_apt_pkg=False):
        if broken:
            yield _broken(broken)
        else:
            yield dict(stanza)
    if broken:
        yield _broken(broken)


def _broken(lines: list[tuple[str, str]]) -> Bad:
    bad = Bad(lines[0][0], "".join(line for _, line in lines))
    lines.clear()
    return bad
