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
# Members that say that there are more records elsewhere; names also occur without -, with _, and with capital letters.
NEXT = "next|next-page|next-link|next-url|next-href|next-uri|next-cursor|next-token|next-page-token|next-records-url"
NEXT += "|next-marker|next-offset|continuation|continuation-token"
MORE = "has-more|has-next|has-next-page|has-more-results|more-results|is-truncated|exceeded-transfer-limit"
PAGES = "pages|total-pages|page-count|num-pages|number-of-pages|last-page|pages-total"
PAGE = "page|current-page|page-number|page-no"
TOTAL = "total|total-count|total-results|total-records|total-items|total-hits|records-total|num-found|num-matched"
# A total may be larger than the number of records for another reason, unless one of these is beside it.
SIZE = (
    "limit|offset|per-page|page-size|page|skip|start|start-index|results-per-page|items-per-page|start-at|max-results"
)
NAMES = {kind: set(kind.replace("-", "").split("|")) for kind in (NEXT, MORE, PAGES, PAGE, TOTAL, SIZE)}
# One of them, with a value that says so.
PAGING = re.compile(
    (
        rf'"rel(?:ation)?"\s*:\s*"next"|"(?:@odata\.)?(?:{NEXT}|{MORE}|{PAGES}|{TOTAL})"'
        r'\s*:\s*(?!null|false|""|[01]\s*[,}])'
    )
    .replace("-", "[-_]?")
    .encode(),
    re.I,
)


class _Limited:
    """A file of which no LIMIT bytes may be read without a record; keeps what was read since the last one."""

    def __init__(self, file: BinaryIO, where: str):
        self.file, self.where, self.begin = file, where, file.tell()
        self.since, self.kept = 0, [b""]

    def read(self, size: int) -> bytes:
        if self.since > LIMIT:
            raise ValueError(f"no record ends within {LIMIT} bytes: is {self.where!r} (records) where they are?")
        if not self.since:
            # The last record ends in the last piece.
            del self.kept[:-1]
        self.since += size
        self.kept.append(self.file.read(size))
        return self.kept[-1]

    def again(self) -> BinaryIO:
        self.file.seek(self.begin)
        self.since, self.kept = 0, [b""]
        return self

    @property
    def is_paged(self) -> bool:
        """Say whether something in what is kept may be about other pages."""
        return PAGING.search(b"".join(self.kept)) is not None


def read_json(file: BinaryIO, feed: Feed) -> Iterator[object]:
    """Yield the records of a JSON document.

    :raises ValueError: it is not whole, has no array where the records should be, or is a page of several.
    """
    import ijson

    limited, number, is_paged = _Limited(file, feed.records), 0, False
    array = feed.records.rpartition("item")[0].rstrip(".")
    try:
        for number, record in enumerate(ijson.items(limited, feed.records), 1):
            if number == 1:
                is_paged = limited.is_paged
            limited.since = 0
            yield record
        is_paged = is_paged or limited.is_paged
        # An empty array has no records; a document in which it is not there is another one, an error's perhaps.
        if not number and not any(event[:2] == (array, "start_array") for event in ijson.parse(limited.again())):
            raise ValueError(f"it has no array where {feed.records!r} (records) says that the records are")
        if array and is_paged and feed.source.pages is None:
            file.seek(limited.begin)
            if found := further(ijson.parse(file), array, number):
                raise ValueError(
                    f"it is one page of several: beside the records is {found}. Say how to get the others"
                    " (source.pages), or that one page is enough (source.pages: {ignore: true})"
                )
    except ijson.JSONError as error:
        more = "; an object in each line is format: jsonl" if "garbage" in str(error) else ""
        raise ValueError(f"its JSON is broken: {' '.join(str(error).split())}{more}") from error


def further(events: Iterator[tuple[str, str, object]], array: str, number: int | None = None) -> str:
    """Return what a document says, outside of its records, about records on other pages; nothing when it has all.

    events: those of ijson; array: where the records are; number: how many there are, to be compared with a total.
    """
    beside, total = "", ""
    # By the mapping in which they are.
    page: dict[str, int] = {}
    pages: dict[str, tuple[str, int]] = {}
    for path, event, value in events:
        if event not in ("string", "number", "boolean") or value in ("", False):
            continue
        if (path + ".").startswith(f"{array}.item.".lstrip(".")):
            continue
        names = [re.sub("[-_@]", "", name.lower()) for name in path.split(".")]
        above, last = path.rpartition(".")[0], names[-1]
        # next: {href: ...}, too. A `next` alone can be a day, or a number of another kind.
        name = names[-2] if len(names) > 1 and last in ("href", "url") else last
        is_address = name != "next" or (isinstance(value, str) and re.search(r"[/?&=]", value))
        is_next = event != "boolean" and name in NAMES[NEXT] and is_address
        # {rel: next, href: ...} among links, too.
        is_next = is_next or (last in ("rel", "relation") and value == "next")
        if is_next or (event == "boolean" and last in NAMES[MORE]):
            return _said(path, value)
        if event == "number" and last in NAMES[PAGES]:
            pages[above] = (path, int(value))
        if event == "number" and last in NAMES[PAGE]:
            page[above] = int(value)
        if event == "number" and number is not None and value > number and last in NAMES[TOTAL]:
            total = _said(path, value)
        beside = beside or (path if last in NAMES[SIZE] else "")
    for above, (path, count) in pages.items():
        if page.get(above, 1) < count:
            return _said(path, count)
    return total if beside else ""


def _said(path: str, value: object) -> str:
    return f"{path}: {str(value)[:200]}"


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
