"""Files of a service that speaks HTTP."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partial
from html.parser import HTMLParser
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from feed.model import Feed
from feed.resume import CHUNK, Broken, NotThereYet, check_size, is_cut_off, resumed
from feed.session import Session
from feed.source import Source

# Seconds until a silent service counts as gone: to connect, and between two pieces.
CONNECT, SILENCE = 10, 60
# Seconds that a busy service may ask to wait (Retry-After).
PATIENCE = 120
# What a web server may compress with on the way, although it is asked not to; zlib tells the two apart.
ENCODINGS = ("gzip", "x-gzip", "deflate")
ANY_WBITS = zlib.MAX_WBITS | 32
# A page with links is not larger.
INDEX = 8 << 20
HTML = r"text/html|application/xhtml\+xml"
JSON, XML = r"application/(?:[\w.-]+\+)?json", r"(?:text|application)/(?:[\w.-]+\+)?xml"
# Content-Types that say that an answer is something else: a maintenance page, an error.
OTHERS = {
    "csv": f"{HTML}|{JSON}|{XML}",
    "fixed": f"{HTML}|{JSON}|{XML}",
    "rfc822": f"{HTML}|{JSON}|{XML}",
    "json": f"{HTML}|{XML}",
    "jsonl": f"{HTML}|{XML}",
    "xml": r"text/html",
}


class Http:
    """A service that speaks HTTP. `where` is an address without its key."""

    def __init__(self, feed: Feed, connection):
        self.feed, self.session = feed, Session(feed.source, connection)
        # Of the last answer: its own address, that of the next page by its header Link, and its Content-Type.
        self.landed, self.link, self.kind = "", None, ""

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_) -> None:
        self.session.close()

    def place(self, path: str) -> str:
        return f"{self.session.base}/{path.removeprefix('/')}"

    def shown(self, where: str) -> str:
        """Return what a message and a manifest may say."""
        return self.session.discreet(f"{self.feed.source.connection}:{where.removeprefix(self.session.base)}")

    def has(self, where: str) -> bool:
        try:
            next(self._open(where, 0, None, decode=False, is_file=False), None)
        except NotThereYet:
            return False
        except Broken as error:
            raise OSError(f"{self.shown(where)}: {error}") from error
        if re.fullmatch(HTML, self.kind):
            raise ValueError(f"{self.shown(where)} (source.marker) is an HTML page (Content-Type: {self.kind})")
        return True

    def pieces(self, where: str, *, decode: bool = True, is_file: bool = False) -> Iterator[bytes]:
        """Yield a file's content. decode: take off what the server compressed on the way. is_file: it is the feed's.

        :raises NotThereYet: there is no such file.
        :raises AirflowFailException: the service refuses the connection's login or key.
        :raises OSError: the service does not answer as it should; another attempt may help.
        :raises ValueError: it is something else, such as a page for people.
        """
        return resumed(partial(self._open, where, decode=decode, is_file=is_file), self.shown(where))

    def find(self, source: Source) -> list[tuple[str, str, float]]:
        """Return the files of a page's links that have such a name: each with its name, its place and its time.

        :raises ValueError: the page is too large, or links to another host.
        """
        where, text = self.place(source.address), b""
        for piece in self.pieces(where):
            text += piece
            if len(text) > INDEX:
                raise ValueError(f"{self.shown(where)} has more than {INDEX} bytes: no page with links")
        links = _Links()
        links.feed(text.decode(errors="replace"))
        found = {}
        for link in links.found:
            address = urljoin(self.landed, link)
            name = unquote(PurePosixPath(urlsplit(address).path).name)
            if fnmatchcase(name, source.find):
                # Several links to one file are one.
                found[name] = (name, self.follow(link), 0.0)
        return list(found.values())

    def follow(self, link: str) -> str:
        """Return the place that an answer's link means.

        :raises ValueError: it is on another host, which must not get the connection's login or key.
        """
        there, own = urlsplit(urljoin(self.landed, link)), urlsplit(self.session.base)
        # Behind a proxy services say http for https.
        if there.scheme == "http" and own.scheme == "https" and there.hostname == own.hostname and not there.port:
            there = there._replace(scheme="https")
        ports = {"http": 80, "https": 443}
        if (there.scheme, there.hostname, there.port or ports.get(there.scheme)) != (
            own.scheme,
            own.hostname,
            own.port or ports.get(own.scheme),
        ):
            raise ValueError(
                f"{self.shown(self.landed)} leads to another host, {there.scheme}://{there.hostname}: it is not asked,"
                " for it must not get what the connection keeps. Make a connection for it"
            )
        return self.session.without_key(urlunsplit(there._replace(netloc=own.netloc, fragment="")))

    def _open(
        self, where: str, position: int, seen: tuple | None, *, decode: bool, is_file: bool
    ) -> Iterator[tuple[bytes, tuple | None]]:
        """Yield pieces from a position, each with what tells whether the file is still the same: its ETag and size."""
        url, source = self.session.discreet(where), self.feed.source
        resume = {"Range": f"bytes={position}-", "If-Range": seen[0]} if position else {}
        with self.session.errors(url), self.session.get(where, resume, (CONNECT, SILENCE)) as answer:
            self._check_status(answer, url, position)
            # What is no number says nothing, as for the library below.
            said = answer.headers.get("Content-Length", "").strip()
            size = int(said) if said.isascii() and said.isdigit() else -1
            if position:
                part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
                if answer.status_code != 206 or not part or (int(part[1]), int(part[2])) != (position, seen[1]):
                    raise OSError(f"{url} changed while it was read, or its server sends no parts: begin again")
                size = seen[1]
            elif answer.status_code != 200:
                raise OSError(f"{url}: {answer.status_code} {answer.reason}, which was not asked for")
            self.kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if is_file:
                self._check_kind(answer, url)
                check_size(url, size, source.largest)
            self.landed, self.link = answer.url, answer.links.get("next", {}).get("url")
            # Chunks have an end; without them and a length, a line that broke looks like the end.
            is_open = is_file and size < 0 and not answer.raw.chunked and not source.checksum
            # A weak ETag does not say that the bytes are the same.
            etag = answer.headers.get("ETag", "")
            mark = etag if etag.startswith('"') else answer.headers.get("Last-Modified")
            encoding = answer.headers.get("Content-Encoding", "").strip().lower() if decode else ""
            seen = (mark, size) if mark and size >= 0 and encoding in ("", "identity") else None
            # What is there, however little: it counts when the line breaks.
            pieces = iter(partial(answer.raw.read1, CHUNK, decode_content=False), b"")
            if encoding not in ("", "identity"):
                if encoding not in ENCODINGS:
                    raise OSError(f"{url} comes with Content-Encoding: {encoding}, which was not asked for")
                pieces = _decompressed(pieces, encoding)
            tail = b""
            for piece in pieces:
                tail = (tail + piece)[-4:]
                yield piece, seen
                position += len(piece)
            if seen and position < size:
                raise Broken(f"{size - position} bytes are missing")
            if is_open and is_cut_off(self.feed, tail):
                raise OSError(
                    f"{url} ends within a line, and has no Content-Length: part of it may be missing. If its last line"
                    " is always like that, say how to know that it is whole: source.checksum"
                )

    def _check_status(self, answer, url: str, position: int) -> None:
        """Tell apart what is not there yet, what another attempt may help, and what it would make worse."""
        if answer.ok:
            return
        code, reason = answer.status_code, self.session.discreet(answer.reason or "")
        if code in self.feed.late.status:
            raise NotThereYet(f"{url}: {code}")
        said = self.session.discreet(answer.raw.read(200, decode_content=True).decode(errors="replace"))
        if code == 401:
            raise self.session.refused(f"{url}: 401 {reason}: {said}")
        wait = answer.headers.get("Retry-After", "")
        if code in (429, 503) and wait.isdecimal() and int(wait) <= PATIENCE:
            raise Broken(f"{code} {reason}", wait=max(int(wait), 1))
        if code >= 500 and position:
            raise Broken(f"{code} {reason}")
        hint = ""
        if code == 403:
            hint = ". If the service says 403 for a file that is not there yet, write late: {status: [403, 404]}"
        raise OSError(f"{url}: {code} {reason}: {said}{hint}")

    def _check_kind(self, answer, url: str) -> None:
        """Refuse an answer that is something else, by what it says itself.

        :raises ValueError: it has another Content-Type, or is one page of several, and the feed says nothing of that.
        """
        kind = self.kind
        wanted = (self.feed.source.content_type or "").partition(";")[0].strip().lower()
        if kind != wanted if wanted else re.fullmatch(OTHERS.get(self.feed.format, HTML), kind):
            said = answer.raw.read(200, decode_content=True).decode(errors="replace")
            name = "an HTML page" if re.fullmatch(HTML, kind) else f"an answer of the kind {kind or 'unknown'}"
            raise ValueError(
                f"{url} is {name} (Content-Type: {kind}), and not the file: {self.session.discreet(said)!r}. If it is"
                f" the file all the same, write source.content_type: {kind}"
            )
        if self.feed.source.pages is None and "next" in answer.links:
            raise ValueError(
                f"{url} is one page of several (its header Link has a next one): write source.pages: {{link: true}}"
                " to have all of them, or {ignore: true} when this one is enough"
            )


class _Links(HTMLParser):
    """The addresses that a page links to."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _decompressed(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Take off what a web server compressed on the way; unlike requests, see whether the compressed stream has an end.

    :raises Broken: it ends early, or is not what its header says.
    """
    decoder, ended = zlib.decompressobj(ANY_WBITS), False
    for packed in pieces:
        rest = packed
        while rest:
            if ended:
                # gzip may have several parts, and zeros behind the last one.
                rest = rest.lstrip(b"\0")
                if rest:
                    decoder, ended = zlib.decompressobj(ANY_WBITS), False
                continue
            try:
                piece = decoder.decompress(rest, CHUNK)
            except zlib.error as error:
                raise Broken(f"its {encoding} (Content-Encoding) is broken: {error}") from error
            ended, rest = decoder.eof, decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if piece:
                yield piece
    # It may have kept some bytes back.
    if kept := decoder.flush():
        yield kept
    if not decoder.eof:
        raise Broken(f"its {encoding} (Content-Encoding) ends early: part of it is missing")
