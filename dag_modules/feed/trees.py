"""Formats in which a record lies within a document: JSON and XML."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO
from xml.parsers import expat

from feed.model import Feed
from feed.record import LIMIT, Bad

PIECE = 1 << 16
# Members that say that there are more records elsewhere, in small letters and without _ - and @.
NEXT = "next|nextpage|nextlink|odatanextlink|nexturl|nexthref|nexturi|nextcursor|nexttoken|nextpagetoken|nextrecordsurl"
MORE = "hasmore|hasnext|hasnextpage|moreresults|istruncated"
PAGES = "pages|totalpages|pagecount|numpages|numberofpages|lastpage|pagestotal"
TOTAL = "total|totalcount|totalresults|totalrecords|totalitems|totalhits|recordstotal|numfound|nummatched"
# A total may be larger than the number of records for another reason, unless one of these is beside it.
SIZE = "limit|offset|perpage|pagesize|page|skip|start|startindex|resultsperpage|itemsperpage|startat|maxresults"
PAGING = re.compile(
    rb'"@?(?:odata\.)?(?:next|has|more|is_?truncated|pages|total|page|num|last_?page|number_?of|records_?total)', re.I
)


class _Limited:
    """A file of which no LIMIT bytes may be read without a record; remembers whether it has names of paging members."""

    def __init__(self, file: BinaryIO, feed: Feed):
        self.file, self.feed, self.begin = file, feed, file.tell()
        self.since, self.end, self.is_paged = 0, b"", False

    def read(self, size: int = PIECE) -> bytes:
        if self.since > LIMIT:
            where = self.feed.records
            raise ValueError(f"no record ends within {LIMIT} bytes: is {where!r} (records) where they are?")
        self.since += size
        piece = self.file.read(size)
        if not self.is_paged:
            self.is_paged = PAGING.search(self.end + piece) is not None
            self.end = piece[-32:]
        return piece

    def again(self) -> BinaryIO:
        self.file.seek(self.begin)
        self.since = 0
        return self


def read_json(file: BinaryIO, feed: Feed) -> Iterator[object]:
    """Yield the records of a JSON document.

    :raises ValueError: it is not whole, has no array where the records should be, or is a page of several.
    """
    import ijson

    limited, number = _Limited(file, feed), 0
    array = feed.records.rpartition("item")[0].rstrip(".")
    try:
        for number, record in enumerate(ijson.items(limited, feed.records), 1):  # noqa: B007 - whether there are any
            limited.since = 0
            yield record
        # An empty array has no records; a document in which it is not there is another one, an error's perhaps.
        if not number and not any(event[:2] == (array, "start_array") for event in ijson.parse(limited.again())):
            raise ValueError(f"it has no array where {feed.records!r} (records) says that the records are")
        if array and limited.is_paged and getattr(feed.source, "pages", None) is None:
            _refuse_page(ijson.parse(_unlimited(limited)), array, number)
    except ijson.JSONError as error:
        more = "; an object in each line is format: jsonl" if "garbage" in str(error) else ""
        raise ValueError(f"its JSON is broken: {' '.join(str(error).split())}{more}") from error


def _unlimited(limited: _Limited) -> BinaryIO:
    limited.again()
    return limited.file


def _refuse_page(events: Iterator[tuple[str, str, object]], array: str, number: int) -> None:
    """Look beside the records for members that say that there are others on another page.

    :raises ValueError: there are; names the member.
    """
    beside, total = "", ""
    for path, event, value in events:
        if event not in ("string", "number", "boolean") or path.startswith(f"{array}.item") or value in ("", False):
            continue
        names = [re.sub("[-_@]", "", name.lower()) for name in path.split(".")]
        is_more = event == "boolean" and re.fullmatch(MORE, names[-1])
        is_pages = event == "number" and value > 1 and re.fullmatch(PAGES, names[-1])
        is_next = event != "boolean" and any(re.fullmatch(NEXT, name) for name in (names[-1], *names[-2:-1]))
        if is_more or is_pages or is_next:
            raise ValueError(_page(path, value))
        if event == "number" and value > number and re.fullmatch(TOTAL, names[-1]):
            total = _page(path, value)
        beside = beside or (path if re.fullmatch(SIZE, names[-1]) else "")
    if total and beside:
        raise ValueError(total)


def _page(path: str, value: object) -> str:
    return (
        f"it is one page of several: beside the records is {path}: {str(value)[:200]}. Say how to get the others"
        " (source.pages), or that one page is enough (source.pages: {ignore: true})"
    )


class _Tree:
    """What expat calls for an XML document: makes a dictionary of each element at a path.

    Attributes are its members @name, elements in it its members by name (a list when there are several), and text
    beside either is #text. Prefixes of namespaces are left out.
    """

    def __init__(self, path: list[str], with_parents: bool):
        self.path, self.with_parents = path, with_parents
        # Of each element around this place: its name, and what is known of it.
        self.names: list[str] = []
        self.nodes: list[dict] = []
        self.texts: list[list[str]] = []
        self.done: list[dict] = []
        self.is_there = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.names.append(_local(name))
        self.nodes.append({f"@{_local(key)}": value for key, value in attributes.items()})
        self.texts.append([])
        if len(self.names) == len(self.path) - 1 and self.names == self.path[:-1]:
            self.is_there = True

    def text(self, text: str) -> None:
        self.texts[-1].append(text)

    def end(self, _: str) -> None:
        is_record = len(self.names) == len(self.path) and self.names == self.path
        is_within = len(self.names) > len(self.path) and self.names[: len(self.path)] == self.path
        name, node, text = self.names.pop(), self.nodes.pop(), "".join(self.texts.pop())
        if is_record:
            self.done.append(self._record(node, text))
        elif is_within:
            self._add(self.nodes[-1], name, _element(node, text))
        elif self.with_parents and self.nodes and not node and self.names == self.path[: len(self.names)]:
            # Of the elements around a record, what stands before it counts.
            self.nodes[-1][name] = text

    def _add(self, node: dict, name: str, value: object) -> None:
        if name not in node:
            node[name] = value
        elif isinstance(node[name], list):
            node[name].append(value)
        else:
            node[name] = [node[name], value]

    def _record(self, node: dict, text: str) -> dict:
        if text.strip():
            node["#text"] = text
        if self.with_parents and "parent" not in node:
            parent: dict = {}
            for around in self.nodes:
                parent = {**around, "parent": parent} if parent else dict(around)
            node["parent"] = parent
        return node


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def _element(node: dict, text: str) -> object:
    if node.get("@nil") in ("true", "1") and not text:
        return None
    if not node:
        return text
    return {**node, "#text": text} if text.strip() else node


def text_of(value: object) -> object:
    """Return the text of an XML element that has attributes, but no elements."""
    if isinstance(value, dict) and all(name[0] in "@#" for name in value):
        return value.get("#text", "")
    return value


def read_xml(file: BinaryIO, feed: Feed) -> Iterator[dict | Bad]:
    """Yield the elements of an XML document at the path `records`.

    :raises ValueError: it is not whole, declares entities, or has no element in which the records should be.
    """
    path = feed.records.split(".")
    tree = _Tree(path, with_parents=any(str(source).startswith("parent.") for source in feed.wanted()))
    # What the document says of its encoding counts, unless the feed says one.
    decoder = codecs.getincrementaldecoder(feed.encoding)() if "encoding" in feed.model_fields_set else None
    parser = expat.ParserCreate("utf-8" if decoder else None, namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = tree.start, tree.end
    parser.CharacterDataHandler = tree.text
    parser.EntityDeclHandler = _refuse_entity
    since, is_last = 0, False
    try:
        while not is_last:
            piece = file.read(PIECE)
            is_last = not piece
            parser.Parse(decoder.decode(piece, is_last).encode() if decoder else piece, is_last)
            since = 0 if tree.done else since + len(piece)
            if since > LIMIT:
                raise ValueError(f"no record ends within {LIMIT} bytes: is {feed.records!r} (records) where they are?")
            yield from tree.done
            tree.done.clear()
    except (expat.ExpatError, UnicodeDecodeError) as error:
        raise ValueError(f"its XML is broken: {error}") from error
    except ValueError as error:
        if "multi-byte" not in str(error):
            raise
        raise ValueError(
            "its XML has an encoding that has to be said here, too: write encoding, such as cp949"
        ) from error
    if not tree.is_there and len(path) > 1:
        raise ValueError(f"it has no element {'.'.join(path[:-1])}, in which records says that the records are")


def _refuse_entity(name: str, *_: object) -> None:
    raise ValueError(f"it declares the entity {name!r}: such documents are refused, since they can grow without an end")
