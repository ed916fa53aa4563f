"""From a file to its records: dictionaries that a feed's columns take their values from."""

from __future__ import annotations

import codecs
import json
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

from feed.lines import read_csv, read_fixed, read_jsonl, read_rfc822
from feed.model import Feed
from feed.packing import HEAD, Broken, Kind, check_packing, kind_of, unpacked
from feed.record import LIMIT, MISSING, Bad, paths_of, value_at
from feed.tables import check_container, read_parquet, read_xlsx
from feed.trees import read_json, read_xml, text_of

__all__ = ["LIMIT", "Bad", "count", "opened", "records"]

BOM = b"\xef\xbb\xbf"
PARSERS = {
    "csv": read_csv,
    "json": read_json,
    "jsonl": read_jsonl,
    "fixed": read_fixed,
    "rfc822": read_rfc822,
    "xlsx": read_xlsx,
    "parquet": read_parquet,
    "xml": read_xml,
}
# What an edge host does not read, for its libraries are on main.
ON_MAIN = ("xlsx", "parquet")
# Formats that are text in an encoding of the feed.
TEXTS = ("csv", "jsonl", "fixed", "rfc822")
# Bytes in which UTF-16 shows.
WIDE = 8
# A line that is one element, or begins with one that ends in itself: an error message. <TICKER>,<DATE> is a header.
FRAGMENT = re.compile(rb"<(\w[\w:.-]*)(?:\s[^<>]*)?(?:/>|>[^\r\n]*</\1\s*>)[ \t]*(?:[\r\n]|$)")
# Some of a text, in which a web page or another format shows.
SOME = 4096
PAGE = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|title|meta|script)\b", re.I | re.S
)


def records(feed: Feed, path: Path) -> Iterator[dict | Bad]:
    """Yield the records of a file, in bounded memory. A parser of the user's own may yield Bad, too.

    :raises ValueError: the file as a whole is not what the feed says (truncated, no such columns, an HTML page), or a
        parser of the user's own fails.
    """
    parse = PARSERS[feed.format] if feed.format else _own
    wanted = feed.wanted()
    numbered = feed.format in ("json", "jsonl") and any(isinstance(source, int) for source in wanted)
    is_xml = feed.format == "xml"
    deep = {source: source.split(".") for source in wanted if isinstance(source, str) and (is_xml or "." in source)}
    # In other formats a dot is one of a name.
    deep = deep if feed.format in ("json", "jsonl", "parquet", "xml") else {}
    with opened(feed, path) as file:
        found = parse(file, feed)
        if deep or numbered:
            found = (_arranged(record, deep, numbered, is_xml) for record in found)
        for record in found:
            if isinstance(record, dict) and wanted.keys().isdisjoint(record):
                yield Bad(f"it has none of {', '.join(map(str, wanted))}{_near(record, wanted)}", str(record))
            elif isinstance(record, (dict, Bad)):
                yield record
            elif feed.format:
                yield Bad(_not_an_object(record), str(record))
            else:
                raise ValueError(f"{feed.parser} yields {type(record).__name__}: let it yield dictionaries, or Bad")


def _arranged(record: object, deep: dict[str, list[str]], numbered: bool, is_xml: bool) -> object:
    """Return a record with the numbers of an array's members, and what lies deeper where its columns look for it."""
    if numbered and isinstance(record, list):
        return dict(enumerate(record, 1))
    if not isinstance(record, dict):
        return record
    found = {
        source: value_at(record, names, is_xml=is_xml)
        for source, names in deep.items()
        if is_xml or source not in record
    }
    return record | {
        source: text_of(value) if is_xml else value for source, value in found.items() if value is not MISSING
    }


def _not_an_object(record: object) -> str:
    if isinstance(record, list):
        return "an array, and not an object: its fields have numbers (from: 1); a document of records is format: json"
    return "not an object"


def _near(record: dict, names: object) -> str:
    """Say where values lie that are called as a column looks for them."""
    paths = list(paths_of(record))
    for name in names:
        found = [path for path in paths if path.rpartition(".")[2].lstrip("@").lower() == str(name).lower()]
        if found:
            return f"; it has {', '.join(found[:3])}: write from: {found[0]}"
    return f"; it has {', '.join(paths[:20])}"[:500]


def count(feed: Feed, path: Path) -> int | None:
    """Read a file to its end, and return how many records it has; None when only main can read it.

    :raises ValueError: what records() raises; no record of it can be read; no record has one of the columns.
    """
    if feed.packing == "zst" or (feed.packing == "tar" and _is_zst(path)):
        check_packing(feed.packing, path)
        return None
    if feed.parser or feed.format in ON_MAIN:
        with opened(feed, path) as file:
            if feed.format:
                check_container(file, feed.format)
            while file.read(1 << 20):
                pass
        return None
    missing = {source for source, is_needed in feed.needed().items() if is_needed}
    good, first, some, number = 0, None, {}, 0
    for number, record in enumerate(records(feed, path), 1):  # noqa: B007 - how many there are
        if isinstance(record, Bad):
            first = first or record
        else:
            good += 1
            some = some or record
            missing = missing and missing - record.keys()
    if first and not good:
        raise ValueError(f"no record of {number} can be read; the first: {first.reason}: {first.text[:200]}")
    if good and missing:
        near = _near(some, missing)
        raise ValueError(f"no record has {', '.join(map(str, missing))}; what may be missing is `optional: true`{near}")
    return number


def _is_zst(path: Path) -> bool:
    with path.open("rb") as file:
        kind = kind_of(file, file.read(HEAD))
    return kind is not None and kind.is_for == "zst"


@contextmanager
def opened(feed: Feed, path: Path) -> Iterator[BinaryIO]:
    """Open a file for its content, without the compression and a byte order mark.

    :raises ValueError: the compression is broken, or the content is an HTML page or a file of another kind.
    """
    with ExitStack() as stack:
        file = unpacked(feed, path, stack)
        if feed.is_utf8 and file.peek(len(BOM)).startswith(BOM):
            file.read(len(BOM))
        head = file.peek(SOME)[:SOME]
        page = PAGE.match(head.replace(b"\0", b"").removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff"))
        if page and (feed.format != "xml" or b"html" in page[0].lower()):
            raise ValueError(f"it is an HTML page: {head[:300].decode(feed.encoding, errors='replace')}")
        # A parser of the user's own may read whatever it likes.
        if feed.format and (kind := _other_kind(file, head, feed)):
            if kind.is_for == feed.packing:
                raise ValueError(f"its content is {kind.name} once more: ask for it packed once, or write a parser")
            raise ValueError(f"it is {kind.name}, and the feed does not say so: {kind.remedy}")
        yield file


def _other_kind(file: BinaryIO, head: bytes, feed: Feed) -> Kind | None:
    """Return the kind of a file, when it is another than the feed says."""
    kind = kind_of(file, head)
    # Another zip archive is one whose list of members is missing, too.
    if kind and kind.is_for != feed.format and (kind.is_for, feed.format) != ("zip", "xlsx"):
        return kind
    if feed.format in ON_MAIN:
        return None
    if feed.format != "xml" and head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        is_said = codecs.lookup(feed.encoding).name.startswith("utf-16")
        remedy = "JSON is UTF-8: ask for it, or write a parser" if feed.format == "json" else "encoding: utf-16"
        return None if is_said else Kind("UTF-16 (by its byte order mark)", remedy)
    if feed.format in TEXTS and (kind := _other_encoding(head, feed)):
        return kind
    if feed.format in ("csv", "fixed", "rfc822"):
        text = head.lstrip()
        if text.startswith(b"<?xml"):
            return Kind(f"an XML document ({text[:200]!r})", "format: xml, when the records are in it")
        if text[:1] in (b"{", b"["):
            return _json_kind(head)
        if FRAGMENT.match(text.replace(b"\0", b"")):
            return Kind(f"HTML or XML ({text[:200]!r})", "look at the service; format: xml, when the records are in it")
    return None


def _other_encoding(head: bytes, feed: Feed) -> Kind | None:
    """Return the encoding that the first bytes show, when the feed says one that would make something else of them."""
    name = codecs.lookup(feed.encoding).name
    if name.startswith(("utf-16-", "utf-32")):
        return None
    if head.startswith(BOM) and not feed.is_utf8:
        return Kind("UTF-8 (by its byte order mark)", "encoding: utf-8")
    for first, remedy in ((0, "utf-16-be"), (1, "utf-16-le")):
        # Every other byte is zero.
        if len(head) > WIDE and not any(head[first:WIDE:2]) and all(head[1 - first : WIDE : 2]):
            return Kind("UTF-16 (without a byte order mark)", f"encoding: {remedy}")
    return None


def _json_kind(head: bytes) -> Kind | None:
    for text in (head, head.partition(b"\n")[0]):
        try:
            json.loads(text)
        except ValueError:
            continue
        return Kind(
            f"JSON ({text[:200].decode(errors='replace')!r})", "format: json or jsonl, when the records are in it"
        )
    return None


def _own(file: BinaryIO, feed: Feed) -> Iterator[object]:
    """Yield what a parser of the user's own yields: it gets the open file and the feed.

    :raises ValueError: the parser raises something; says at which record, what and where. Its traceback is printed.
    :raises OSError: so does it; another attempt may help.
    """
    module, _, function = feed.parser.partition(":")
    number = 0
    try:
        for number, record in enumerate(getattr(import_module(module), function)(file, feed), 1):  # noqa: B007
            yield record
    except Broken:
        raise
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}, line {frame.lineno}"
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{feed.parser} fails at record {number + 1} ({where}): {type(error).__name__}: {error}") from error
