"""From an outside service to the NAS: whole, checked, and resumed when the line breaks."""

from __future__ import annotations

import hashlib
import re
import time
import zlib
from collections.abc import Container, Iterator
from datetime import date
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException, AirflowSkipException

import nas
from feed.model import Feed
from feed.parse import count

# Bytes of a piece, at most. Over SFTP what has arrived of one when the line breaks is lost, and asked for again.
CHUNK = 1 << 15
# Seconds until a silent service counts as gone: to connect, and between two pieces.
CONNECT, SILENCE = 10, 60
# A transfer that breaks is resumed so many times in a row without a byte in between.
RESUMES = 5
# A list of digests is not larger.
CHECKSUMS = 32 << 20
# What loading needs of a manifest.
NEEDED = {"path", "sha256", "day", "version", "fetched_at"}
# What a web server may compress with on the way, although it is asked not to; zlib tells the two apart.
ENCODINGS = ("gzip", "x-gzip", "deflate")
ANY_WBITS = zlib.MAX_WBITS | 32
DIGESTS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


class NotThereYet(Exception):
    """The service has no such file."""


def fetch_file(feed: Feed, day: date) -> dict:
    """Bring a day's file to the NAS and return its manifest; what is there with this content already, is the answer.

    Nothing gets the file's name that is truncated, has another digest than the service says, or cannot be read as what
    the feed says it is.

    :raises NotThereYet: the service has no such file.
    :raises AirflowSkipException: it is empty or unchanged, and the feed says to skip it then.
    :raises ValueError: it is not what it should be; names the reason.
    :raises OSError: the service or the NAS does not answer.
    """
    remote = feed.source.path.format(day=day)
    source = f"{feed.source.connection}:{remote}"
    expected = _expected_digest(feed, day) if feed.source.checksum else ""
    pieces = _checked(_pieces(feed, remote, decode=feed.packing == "none"), expected, source)
    first = next(pieces, b"")
    if not first:
        _refuse(feed.empty, f"{source} is empty")
    rows = partial(_inspect, feed, day, source)
    return nas.publish(feed.path_of(day), chain([first], pieces), source=source, rows=rows, day=day)


def _inspect(feed: Feed, day: date, source: str, temporary: Path, sha256: str) -> int | None:
    """Look into a file before it gets its name; return how many records it has."""
    try:
        rows = count(feed, temporary)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if rows == 0:
        _refuse(feed.empty, f"{source} has no records")
    if feed.unchanged != "accept":
        earlier = [manifest for manifest in manifests(feed) if manifest["day"] < day.isoformat()]
        newest = max(earlier, key=lambda manifest: (manifest["day"], manifest["version"]), default=None)
        if newest and newest["sha256"] == sha256:
            _refuse(feed.unchanged, f"{source} is what {newest['path']} is")
    return rows


def manifests(feed: Feed, but: Container[str] = ()) -> list[dict]:
    """Return the manifests of a feed's files, but of some paths; of those that were removed from the NAS, too."""
    found = []
    for beside in nas.files(feed.directory):
        path = beside.with_name(beside.name[1:-5])
        if not re.fullmatch(r"\..+\.json", beside.name) or str(path) in but:
            continue
        manifest = nas.manifest_of(path)
        if manifest and manifest.keys() >= NEEDED and manifest["day"]:
            found.append(manifest)
        else:
            print(f"{beside} is no manifest of a feed: left out")
    return found


def _refuse(policy: str, message: str) -> None:
    if policy == "skip":
        raise AirflowSkipException(message)
    raise ValueError(f"{message}: refused by the feed's policy")


def _checked(pieces: Iterator[bytes], expected: str, source: str) -> Iterator[bytes]:
    """Hand pieces on, and compare the digest at their end."""
    digest = hashlib.new(DIGESTS[len(expected)], usedforsecurity=False) if expected else None
    for piece in pieces:
        if digest:
            digest.update(piece)
        yield piece
    if digest and digest.hexdigest() != expected:
        raise ValueError(f"{source} has the {digest.name} {digest.hexdigest()}, and its service says {expected}")


def _expected_digest(feed: Feed, day: date) -> str:
    """Return the digest that the service publishes for a day's file."""
    listed = feed.source.checksum.format(day=day)
    wanted = PurePosixPath(feed.source.path.format(day=day))
    text = b""
    for piece in _pieces(feed, listed):
        text += piece
        if len(text) > CHECKSUMS:
            raise ValueError(f"{feed.source.connection}:{listed} is larger than {CHECKSUMS} bytes: no list of digests")
    lengths = "|".join(f"[0-9a-f]{{{length}}}" for length in DIGESTS)
    for line in text.decode(errors="replace").splitlines():
        # sha256sum, sha256sum --tag, or the digest alone.
        found = re.fullmatch(rf"\s*({lengths})(?:\s+\*?(\S.*))?", line, re.IGNORECASE)
        tagged = re.fullmatch(rf"\w+ \((.+)\) = ({lengths})", line.strip(), re.IGNORECASE)
        digest, name = (found[1], found[2]) if found else (tagged[2], tagged[1]) if tagged else ("", None)
        if digest and (not name or wanted.parts[-len(parts := PurePosixPath(name.strip()).parts) :] == parts):
            return digest.lower()
    raise ValueError(f"{feed.source.connection}:{listed} has no digest of {wanted.name}")


def _pieces(feed: Feed, path: str, *, decode: bool = True) -> Iterator[bytes]:
    """Yield a remote file's content, resuming where it broke. decode: take off what a web server compressed on the way.

    :raises AirflowFailException: there is no such connection, or it has another type; another attempt would not help.
    """
    try:
        connection = BaseHook.get_connection(feed.source.connection)
    except AirflowNotFoundException as error:
        raise AirflowFailException(f"source.connection: {feed.source.connection} is not there: add it") from error
    open_at = {"http": partial(_http, decode=decode), "sftp": _sftp}.get(connection.conn_type)
    if not open_at:
        raise AirflowFailException(
            f"source.connection: {feed.source.connection} has the type {connection.conn_type}: make it http or sftp"
        )
    position, seen, breaks = 0, None, 0
    while True:
        try:
            # A function of its own, so that what the NAS raises is not taken for the service's.
            for piece, mark in open_at(feed, path, position, seen):
                yield piece
                position, seen, breaks = position + len(piece), mark, 0
            return
        except Broken as error:
            breaks += 1
            if not seen or breaks > RESUMES:
                raise OSError(f"{feed.source.connection}:{path} broke off after {position} bytes: {error}") from error
            print(f"{feed.source.connection}:{path} broke off after {position} bytes: {error}; resuming")
            time.sleep(2**breaks)


class Broken(Exception):
    """The line broke, or the service fell silent."""


def _http(
    feed: Feed, path: str, position: int, seen: tuple | None, *, decode: bool
) -> Iterator[tuple[bytes, tuple | None]]:
    """Yield pieces from a position, each with what tells whether the file is still the same: its ETag and size."""
    from airflow.providers.http.hooks.http import HttpHook
    from requests import exceptions
    from urllib3.exceptions import HTTPError

    hook = HttpHook("GET", http_conn_id=feed.source.connection)
    # The file as it is: a position in what a server compresses on the way means nothing.
    session = _discreet(hook.get_conn(headers={**feed.source.headers, "Accept-Encoding": "identity"}))
    url = hook.url_from_endpoint(path)
    resume = {"Range": f"bytes={position}-", "If-Range": seen[0]} if position else {}
    try:
        # Said for the request: REQUESTS_CA_BUNDLE and the environment's proxies outrank what only the session says.
        own = {"verify": session.verify, "proxies": session.proxies}
        with session, session.get(url, headers=resume, stream=True, timeout=(CONNECT, SILENCE), **own) as answer:
            if answer.status_code in (404, 410):
                raise NotThereYet(f"{url}: {answer.status_code}")
            if answer.status_code >= 500 and position:
                raise Broken(f"{answer.status_code} {answer.reason}")
            if not answer.ok:
                said = answer.raw.read(200, decode_content=True).decode(errors="replace")
                raise OSError(f"{url}: {answer.status_code} {answer.reason}: {said}")
            size = int(answer.headers.get("Content-Length", -1))
            if position:
                part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
                if answer.status_code != 206 or not part or (int(part[1]), int(part[2])) != (position, seen[1]):
                    raise OSError(f"{url} changed while it was read, or its server sends no parts: begin again")
                size = seen[1]
            elif answer.status_code != 200:
                raise OSError(f"{url}: {answer.status_code} {answer.reason}, which was not asked for")
            # Chunks have an end; without them and a length, a line that broke looks like the end.
            is_open = size < 0 and not answer.raw.chunked and not feed.source.checksum
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
            piece = b""
            for more in pieces:
                piece = more
                yield piece, seen
                position += len(piece)
            if seen and position < size:
                raise Broken(f"{size - position} bytes are missing")
            if is_open and feed.packing == "none" and feed.format in ("csv", "jsonl", "fixed") and piece[-1:] != b"\n":
                raise OSError(
                    f"{url} ends within a line, and has no Content-Length: part of it may be missing. If its last line"
                    " is always like that, say how to know that it is whole: source.checksum"
                )
    except (exceptions.ConnectionError, exceptions.Timeout, HTTPError) as error:
        raise Broken(str(error)) from error


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


def _discreet(session):
    """Let a session keep the headers of the connection and the feed to itself when it is sent to another host.

    requests does so with Authorization alone, and these may be keys, too.
    """
    from requests.utils import default_headers

    own, rebuild_auth = session.headers.keys() - default_headers().keys(), session.rebuild_auth

    def rebuild(request, answer):
        rebuild_auth(request, answer)
        if session.should_strip_auth(answer.request.url, request.url):
            for name in own:
                request.headers.pop(name, None)

    session.rebuild_auth = rebuild
    return session


def _sftp(feed: Feed, path: str, position: int, seen: tuple | None) -> Iterator[tuple[bytes, tuple]]:
    """Yield pieces from a position, each with what tells whether the file is still the same: its size and time."""
    from airflow.providers.sftp.hooks.sftp import SFTPHook
    from paramiko import AuthenticationException, BadHostKeyException, SSHException

    try:
        with SFTPHook(ssh_conn_id=feed.source.connection).get_managed_conn() as client:
            client.get_channel().settimeout(SILENCE)
            try:
                now = client.stat(path)
            except FileNotFoundError as error:
                raise NotThereYet(f"{feed.source.connection}:{path}: no such file") from error
            if seen and (now.st_size, now.st_mtime) != seen:
                raise ValueError(f"{feed.source.connection}:{path} changed while it was read: begin again")
            seen = (now.st_size, now.st_mtime)
            with client.open(path) as file:
                file.seek(position)
                file.prefetch(now.st_size, max_concurrent_requests=64)
                while piece := file.read(CHUNK):
                    yield piece, seen
                    position += len(piece)
            after = client.stat(path)
            if (after.st_size, after.st_mtime) != seen or position != now.st_size:
                raise ValueError(f"{feed.source.connection}:{path} changed while it was read: begin again")
    except (AuthenticationException, BadHostKeyException) as error:
        raise PermissionError(f"{feed.source.connection}: {error}") from error
    except (SSHException, EOFError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise Broken(str(error) or type(error).__name__) from error
