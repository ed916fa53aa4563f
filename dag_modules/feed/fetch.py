"""From an outside service to the NAS: whole, checked, and resumed when the line breaks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterator
from datetime import date, datetime
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException, AirflowSkipException

import nas
from feed.http import Http
from feed.model import Feed
from feed.pages import merged
from feed.parse import count
from feed.resume import NotThereYet, check_size
from feed.sftp import Sftp
from feed.source import Source

# A list of digests is not larger.
CHECKSUMS = 32 << 20
# What loading needs of a manifest.
NEEDED = {"path", "sha256", "day", "version", "fetched_at"}
DIGESTS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
# Fields of source that one kind of service has.
ONLY = {"http": {"query", "headers", "auth", "pages", "content_type"}, "sftp": {"at_rest"}}


def fetch_file(feed: Feed, day: date, time: datetime | None = None) -> dict:
    """Bring the file of a day (and a time) to the NAS and return its manifest; what is there with this content already,
    is the answer.

    Nothing gets the file's name that is truncated, has another digest than the service says, or cannot be read as what
    the feed says it is.

    :raises NotThereYet: the service has no such file, or somebody is still writing it.
    :raises AirflowSkipException: it is empty or unchanged, and the feed says to skip it then; an hour comes twice.
    :raises AirflowFailException: another attempt would not help: no such connection, a login that is refused.
    :raises ValueError: it is not what it should be; names the reason.
    :raises OSError: the service or the NAS does not answer.
    """
    time = time or feed.midnight(day)
    if feed.is_asked_for_twice(day, time):
        raise AirflowSkipException(
            f"{time:%Y-%m-%d %H:%M} comes twice, for the clock is set back, and source.path or file are the same for"
            " both: the second one is left out. Write %z into them, or timezone: UTC"
        )
    filled = feed.source.filled(day, time)
    with _service(feed) as service:
        if filled.marker and not service.has(service.place(filled.marker)):
            raise NotThereYet(f"{service.shown(service.place(filled.marker))} (source.marker) is not there")
        where = _found(service, filled) if filled.find else service.place(filled.address)
        source = service.shown(where)
        expected = _expected_digest(service, filled, where) if filled.checksum else ""
        if filled.pages and not filled.pages.ignore:
            pieces = merged(feed, service, where)
        else:
            pieces = service.pieces(where, decode=feed.packing == "none", is_file=True)
        pieces = _checked(pieces, expected, source, filled.largest)
        first = next(pieces, b"")
        if not first:
            _refuse(feed.empty, f"{source} is empty")
        slot = time if feed.by_time else None
        rows = partial(_inspect, feed, day, slot, source)
        path = feed.path_of(day, time)
        return nas.publish(path, chain([first], pieces), source=source, rows=rows, day=day, time=slot)


def _service(feed: Feed) -> Http | Sftp:
    """Return the service of a feed's connection.

    :raises AirflowFailException: there is no such connection, it has another type, or one that lacks what source says.
    """
    name = feed.source.connection
    try:
        connection = BaseHook.get_connection(name)
    except AirflowNotFoundException as error:
        raise AirflowFailException(f"source.connection: {name} is not there: add it") from error
    kind = connection.conn_type
    if kind not in ONLY:
        raise AirflowFailException(f"source.connection: {name} has the type {kind}: make it http or sftp")
    for other, fields in ONLY.items():
        if other != kind and (wrong := sorted(fields & feed.source.model_fields_set)):
            raise AirflowFailException(
                f"source.{wrong[0]} is for {other}, and the connection {name} has the type {kind}: remove it"
            )
    return (Http if kind == "http" else Sftp)(feed, connection)


def _found(service: Http | Sftp, source: Source) -> str:
    """Return the place of the file whose name is looked for.

    :raises NotThereYet: no name is like that.
    :raises ValueError: several are, and the feed does not say which one counts.
    """
    found = sorted(service.find(source))
    where = service.shown(service.place(source.address))
    if not found:
        raise NotThereYet(f"{where} has no name like {source.find} (source.find)")
    if len(found) > 1 and source.several == "fail":
        names = [name for name, _, _ in found]
        raise ValueError(
            f"{where} has {len(found)} names like {source.find} (source.find): {', '.join(names[:10])}. Write it so"
            " that one is, or source.several: last (by name) or newest (by time, SFTP)"
        )
    if source.several == "newest":
        if isinstance(service, Http) and len(found) > 1:
            raise AirflowFailException("source.several: links have no time: write last, which goes by name")
        found.sort(key=lambda one: one[2])
    return found[-1][1]


def _inspect(feed: Feed, day: date, time: datetime | None, source: str, temporary: Path, sha256: str) -> int | None:
    """Look into a file before it gets its name; return how many records it has."""
    try:
        rows = count(feed, temporary)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if rows == 0:
        _refuse(feed.empty, f"{source} has no records")
    if feed.unchanged != "accept":
        own = order({"day": day.isoformat(), "time": time and time.isoformat(), "version": 0})
        earlier = [manifest for manifest in manifests(feed) if order(manifest)[:2] < own[:2]]
        newest = max(earlier, key=order, default=None)
        if newest and newest["sha256"] == sha256:
            _refuse(feed.unchanged, f"{source} is what {newest['path']} is")
    return rows


def order(manifest: dict) -> tuple[str, float, int]:
    """Return what puts files into the order of what they are for."""
    time = manifest.get("time")
    return manifest["day"], datetime.fromisoformat(time).timestamp() if time else 0, manifest["version"]


def manifests(feed: Feed, but: Container[str] = ()) -> list[dict]:
    """Return the manifests of a feed's files, but of some paths; of those that were removed from the NAS, too."""
    found = []
    for beside in nas.files(feed.directory):
        path = beside.with_name(beside.name[1:-5])
        if not re.fullmatch(r"\..+\.json", beside.name) or str(path) in but:
            continue
        try:
            manifest = nas.manifest_of(path)
        except PermissionError:
            manifest = None
        if manifest and manifest.keys() >= NEEDED and manifest["day"]:
            found.append(manifest)
        else:
            print(f"{beside} is no manifest of a feed: left out")
    return found


def _refuse(policy: str, message: str) -> None:
    if policy == "skip":
        raise AirflowSkipException(message)
    raise ValueError(f"{message}: refused by the feed's policy")


def _checked(pieces: Iterator[bytes], expected: str, source: str, largest: int) -> Iterator[bytes]:
    """Hand pieces on, as far as source.largest, and compare the digest at their end."""
    digest = hashlib.new(DIGESTS[len(expected)], usedforsecurity=False) if expected else None
    size = 0
    for piece in pieces:
        size += len(piece)
        check_size(source, size, largest)
        if digest:
            digest.update(piece)
        yield piece
    if digest and digest.hexdigest() != expected:
        raise ValueError(f"{source} has the {digest.name} {digest.hexdigest()}, and its service says {expected}")


def _expected_digest(service: Http | Sftp, source: Source, where: str) -> str:
    """Return the digest that the service publishes for a file."""
    listed = service.place(source.checksum)
    wanted = PurePosixPath(unquote(where.partition("?")[0]) if isinstance(service, Http) else where)
    text = b""
    for piece in service.pieces(listed):
        text += piece
        if len(text) > CHECKSUMS:
            raise ValueError(f"{service.shown(listed)} is larger than {CHECKSUMS} bytes: no list of digests")
    lengths = "|".join(f"[0-9a-f]{{{length}}}" for length in DIGESTS)
    for line in text.decode(errors="replace").splitlines():
        # sha256sum, sha256sum --tag, or the digest alone.
        found = re.fullmatch(rf"\s*({lengths})(?:\s+\*?(\S.*))?", line, re.IGNORECASE)
        tagged = re.fullmatch(rf"\w+ \((.+)\) = ({lengths})", line.strip(), re.IGNORECASE)
        digest, name = (found[1], found[2]) if found else (tagged[2], tagged[1]) if tagged else ("", None)
        if digest and (not name or wanted.parts[-len(parts := PurePosixPath(name.strip()).parts) :] == parts):
            return digest.lower()
    raise ValueError(f"{service.shown(listed)} has no digest of {wanted.name}")
