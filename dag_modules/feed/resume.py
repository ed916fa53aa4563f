"""What transfers have in common: they break off and go on, and a file may not be there yet, or not be finished."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator

from feed.model import Feed

# Bytes of a piece, at most. Over SFTP what has arrived of one when the line breaks is lost, and asked for again.
CHUNK = 1 << 15
# A transfer that breaks is resumed so many times in a row without a byte in between.
RESUMES = 5


class NotThereYet(Exception):
    """The service has no such file, or somebody is still writing it."""


class Broken(Exception):
    """The line broke, or the service fell silent, or says after how many seconds to ask again."""

    def __init__(self, reason: str, wait: float = 0):
        super().__init__(reason)
        self.wait = wait


def resumed(open_at: Callable[[int, tuple | None], Iterator[tuple[bytes, tuple | None]]], name: str) -> Iterator[bytes]:
    """Yield a file's content, resuming where it broke.

    open_at gets a position and what told at the beginning that it is the same file; it yields pieces, each with that.

    :raises OSError: it breaks again and again, or cannot be resumed.
    """
    position, seen, breaks = 0, None, 0
    while True:
        try:
            # A function of its own, so that what the NAS raises is not taken for the service's.
            for piece, mark in open_at(position, seen):
                yield piece
                position, seen, breaks = position + len(piece), mark, 0
            return
        except Broken as error:
            breaks += 1
            if not (seen or (error.wait and not position)) or breaks > RESUMES:
                raise OSError(f"{name} broke off after {position} bytes: {error}") from error
            print(f"{name} broke off after {position} bytes: {error}; resuming")
            time.sleep(max(2**breaks, error.wait))


def check_size(name: str, size: int, largest: int) -> None:
    if size > largest:
        raise ValueError(
            f"{name} has {size} bytes or more, and source.largest is {largest}: raise it if the file is right"
        )


def is_cut_off(feed: Feed, tail: bytes) -> bool:
    """Return whether a file of lines ends within a line, by its last bytes: part of it may be missing."""
    has_lines = feed.packing == "none" and feed.format in ("csv", "jsonl", "fixed", "rfc822")
    if not has_lines or feed.width:
        return False
    # UTF-16 and UTF-32 have several bytes for a line's end.
    name = codecs.lookup(feed.encoding).name
    width = 2 if name.startswith("utf-16") else 4 if name.startswith("utf-32") else 1
    return not {b"\n", b"\r"} & {bytes([byte]) for byte in tail[-width:]}
