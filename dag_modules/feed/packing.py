"""How a file is packed: compression, archives, and which kind of file its first bytes say that it is."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from bz2 import BZ2Decompressor
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from gzip import GzipFile
from lzma import LZMADecompressor, LZMAError
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from feed.model import Feed

# What a broken compressed file raises, by library.
BROKEN = (
    *(EOFError, OSError, NotImplementedError, RuntimeError, zlib.error),
    *(LZMAError, zipfile.BadZipFile, tarfile.TarError),
)
ENCRYPTED = 1
# Bytes in which a kind of file shows.
HEAD = 512


class Broken(ValueError):
    """The file is not packed as the feed says, or its compression is broken."""


class Kind(NamedTuple):
    """A kind of file: its name, what to do about it, and the format or compression that it is."""

    name: str
    remedy: str
    is_for: str = ""


KINDS = (
    (b"\x1f\x8b", Kind("gzip", "compression: gzip", "gzip")),
    (b"BZh", Kind("bzip2", "compression: bzip2", "bzip2")),
    (b"\xfd7zXZ\0", Kind("xz", "compression: xz", "xz")),
    (b"\x28\xb5\x2f\xfd", Kind("zst (Zstandard)", "compression: zst", "zst")),
    (b"PAR1", Kind("Parquet", "format: parquet", "parquet")),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        Kind("an old Office file (xls), or one with a password", "ask for xlsx without a password, or for CSV"),
    ),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", "ask for zip, or write a parser")),
    (b"Rar!", Kind("a RAR archive", "ask for zip, or write a parser")),
    (b"%PDF-", Kind("PDF", "ask for CSV, or write a parser")),
    (b"Obj\x01", Kind("Avro", "ask for Parquet, or write a parser")),
    (b"ORC", Kind("ORC", "ask for Parquet, or write a parser")),
    (b"SQLite format 3\0", Kind("an SQLite database", "ask for CSV, or write a parser")),
    (b"\x04\x22\x4d\x18", Kind("lz4", "ask for gzip or zst, or write a parser")),
    (b"\x1f\x9d", Kind("compress (.Z)", "ask for gzip, or write a parser")),
    (b"\x89PNG", Kind("an image (PNG)", "look at source.path")),
    (b"\xff\xd8\xff", Kind("an image (JPEG)", "look at source.path")),
)
# Parts of what Office writes, by the name of a file in it.
OFFICE = {"xl/": Kind("an Excel workbook (xlsx)", "format: xlsx", "xlsx")}
OTHER_OFFICE = ("word/", "ppt/", "META-INF/manifest.xml")


def kind_of(file: BinaryIO, head: bytes) -> Kind | None:
    """Return which kind of file this is, when its first bytes say so. Text says nothing."""
    if head[257:262] == b"ustar":
        return Kind("a tar archive", "compression: tar", "tar")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_zip(file)
    for begin, kind in KINDS:
        # These three begin as a text could, too.
        is_text = begin in (b"BZh", b"ORC", b"Obj\x01") and head[:HEAD].isascii() and b"\0" not in head
        if head.startswith(begin) and not is_text:
            return kind
    return None


def _kind_of_zip(file: BinaryIO) -> Kind:
    position = file.tell()
    try:
        names = zipfile.ZipFile(file).namelist()
    except BROKEN:
        names = []
    finally:
        file.seek(position)
    for part, kind in OFFICE.items():
        if any(name.startswith(part) for name in names) and "[Content_Types].xml" in names:
            return kind
    if any(name.startswith(OTHER_OFFICE) for name in names):
        return Kind("an Office document", "ask for xlsx or CSV, or write a parser")
    return Kind("a zip archive", "compression: zip", "zip")


class Unpacked(io.RawIOBase):
    """The content of a file. What reading raises is said of the compression, and not of what uses the content."""

    def __init__(self, file: BinaryIO, packing: str):
        self.file, self.packing = file, packing

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _said_of(self.packing):
            return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer) -> int:
        # As much as there is, so that peek() sees a whole record.
        view, filled = memoryview(buffer), 0
        with _said_of(self.packing):
            while filled < len(view) and (piece := self.file.read(len(view) - filled)):
                view[filled : filled + len(piece)] = piece
                filled += len(piece)
        return filled


@contextmanager
def _said_of(packing: str) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        if packing == "none" or (isinstance(error, OSError) and error.errno):
            # The NAS's.
            raise
        raise Broken(f"its {packing} compression is broken: {error or type(error).__name__}") from error


class Zst(io.RawIOBase):
    """The content of a Zstandard file, which begins again to go back."""

    def __init__(self, path: Path):
        self.path, self.position = path, 0
        self._begin()

    def _begin(self) -> None:
        pyarrow = library("pyarrow", "compression: zst")
        self.file, self.position = pyarrow.CompressedInputStream(pyarrow.OSFile(str(self.path)), "zstd"), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self.file.read(size if size >= 0 else None)
        self.position += len(piece)
        return piece

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            while self.read(1 << 20):
                pass
        target = offset + (0 if whence == io.SEEK_SET else self.position)
        if target < self.position:
            self._begin()
        while self.position < target and self.read(min(1 << 20, target - self.position)):
            pass
        return self.position


class Parts(Zst):
    """The content of a bzip2 or xz file. Python's own readers end in silence where a further part is broken."""

    def __init__(self, decoder: Callable, path: Path):
        self.decoder, self.file = decoder, None
        super().__init__(path)

    def _begin(self) -> None:
        self.close_file()
        self.file, self.part, self.position = self.path.open("rb"), self.decoder(), 0

    def close_file(self) -> None:
        if self.file:
            self.file.close()

    def close(self) -> None:
        self.close_file()
        super().close()

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(partial(self.read, 1 << 20), b""))
        piece = b""
        while not piece and (packed := self._packed()) is not None:
            piece = self.part.decompress(packed, size)
        self.position += len(piece)
        return piece

    def _packed(self) -> bytes | None:
        """Return what the decoder gets next; None at the end.

        :raises EOFError: the file ends within a part.
        """
        if not self.part.eof:
            packed = self.file.read(1 << 16) if self.part.needs_input else b""
            if self.part.needs_input and not packed:
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            return packed
        # There may be zeros behind a part.
        packed = self.part.unused_data.lstrip(b"\0")
        while not packed:
            if not (more := self.file.read(1 << 16)):
                return None
            packed = more.lstrip(b"\0")
        self.part = self.decoder()
        return packed


def library(name: str, field: str):
    """Import what only main and the Celery hosts have.

    :raises ValueError: it is not installed here; names the field that needs it.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"{field} needs the Python package {name.partition('.')[0]} ({error}): install it") from error


def unpacked(feed: Feed, path: Path, stack: ExitStack) -> io.BufferedReader:
    """Open the content of a file, without compression or archive.

    :raises Broken: it is not packed as the feed says, its compression is broken, or an archive lacks the member.
    """
    packing = feed.packing
    check_packing(packing, path)
    with _said_of(packing):
        open_archive = ARCHIVE.get(packing)
        file = open_archive(feed, path, stack) if open_archive else stack.enter_context(STREAM[packing](path))
    return stack.enter_context(io.BufferedReader(Unpacked(file, packing), 1 << 17))


def check_packing(packing: str, path: Path) -> None:
    """Look at the first bytes of a file.

    :raises Broken: it has another compression than the feed says, or none.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
        kind = kind_of(file, head)
    expected = {"zip": {"zip", "xlsx", ""}, "tar": {"tar", *STREAM}}.get(packing, {packing})
    if packing == "none" or not head or (kind and kind.is_for in expected):
        return
    if not kind and (packing == "tar" or (packing == "zip" and zipfile.is_zipfile(path))):
        # A tar of the oldest kind has no mark, and a zip that unpacks itself begins as a program.
        return
    remedy = f"it is {kind.name}: {kind.remedy}" if kind else "when it is not compressed, write compression: none"
    raise Broken(f"its {packing} compression is broken: it begins with {head[:20]!r}; {remedy}")


def _zip(feed: Feed, path: Path, stack: ExitStack) -> BinaryIO:
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = [info for info in archive.infolist() if not info.is_dir()]
    found = _member(feed, {info.filename: info for info in members})
    if sum(info.filename == found.filename for info in members) > 1:
        raise Broken(f"the archive has {found.filename} twice: ask for one that has it once, or use a parser")
    if found.flag_bits & ENCRYPTED:
        raise Broken(
            f"{found.filename} in the zip archive is encrypted: ask for it without a password, or use a parser"
        )
    return stack.enter_context(archive.open(found))


def _tar(feed: Feed, path: Path, stack: ExitStack) -> BinaryIO:
    with path.open("rb") as file:
        kind = kind_of(file, file.read(HEAD))
    inner = kind.is_for if kind and kind.is_for in STREAM else "none"
    file = stack.enter_context(STREAM[inner](path))
    archive = stack.enter_context(tarfile.TarFile(fileobj=file))
    found = _member(feed, {info.name: info for info in archive.getmembers() if info.isfile()})
    # To the compression's own end, where its checksum is.
    while file.read(1 << 20):
        pass
    return stack.enter_context(archive.extractfile(found))


def _member(feed: Feed, members: dict[str, object]) -> object:
    """Return the member of an archive that the feed means: that of its name or pattern, or the only one.

    :raises Broken: there is none, or several; names them.
    """
    paths = {name: PurePosixPath(name) for name in members}
    if feed.member:
        wanted = str(PurePosixPath(feed.member))
        names = [name for name, path in paths.items() if wanted in (str(path), path.name)]
        names = names or [
            name for name, path in paths.items() if fnmatchcase(str(path), wanted) or fnmatchcase(path.name, wanted)
        ]
    else:
        # What macOS adds is not what was sent.
        names = [name for name, p in paths.items() if p.parts and p.parts[0] != "__MACOSX" and p.name[0] != "."]
    if len(names) == 1:
        return members[names[0]]
    there = ", ".join(list(members)[:10]) or "no file"
    if feed.member:
        raise Broken(f"member: {feed.member!r} is {len(names)} files of the archive, not one; it has {there}")
    raise Broken(f"the archive has {len(names)} files, and should have one: write `member:` for one of them: {there}")


# What opens a stream, by the name of its compression.
STREAM = {
    "none": partial(open, mode="rb"),
    "gzip": GzipFile,
    "bzip2": partial(Parts, BZ2Decompressor),
    "xz": partial(Parts, LZMADecompressor),
    "zst": Zst,
}
ARCHIVE = {"zip": _zip, "tar": _tar}


@contextmanager
def on_disk(file: BinaryIO, packing: str) -> Iterator[BinaryIO]:
    """Give a file in which to jump: what is packed is unpacked into a temporary file first."""
    if packing == "none":
        yield file
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.seek(0)
        yield copy
