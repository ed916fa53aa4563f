"""Fields of a feed that say how to read its file: how it is packed, its format, and what to leave out."""

from __future__ import annotations

import codecs
import importlib.util
import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, field_validator

COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zip": "zip"}
# Of a format; a parser of the user's own may read these itself.
ARCHIVES = {".zst": "zst", ".tar": "tar", ".tgz": "tar", ".tbz2": "tar", ".txz": "tar", ".tzst": "tar"}
FORMATS = ("csv", "json", "jsonl", "fixed", "rfc822", "xlsx", "parquet", "xml")
# Fields that some formats have only; elsewhere they would be ignored.
FIELDS_OF = {
    "comment": ("csv", "fixed", "jsonl", "xlsx"),
    "only": ("csv", "fixed", "jsonl"),
    "skip_footer": ("csv", "fixed", "jsonl", "xlsx"),
    "repeated_header": ("csv",),
    "escape": ("csv",),
    "width": ("fixed",),
    "short_lines": ("csv", "fixed"),
    "long_lines": ("csv", "fixed"),
    "sheet": ("xlsx",),
}


def listed(value: object) -> object:
    # `comment: "#"` for `comment: ["#"]`.
    return [value] if isinstance(value, str) else value


Begins = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(listed)]


def packing_of(name: str, *, of_a_parser: bool) -> str:
    """Return how a file is packed, by its name's ending."""
    path = PurePosixPath(name)
    if of_a_parser:
        return COMPRESSIONS.get(path.suffix, "none")
    if path.suffixes[-2:-1] == [".tar"] and path.suffix in (".gz", ".bz2", ".xz", ".zst"):
        return "tar"
    return (COMPRESSIONS | ARCHIVES).get(path.suffix, "none")


class File(BaseModel):
    # Default: as the name's ending says.
    compression: Literal["gzip", "bzip2", "xz", "zst", "zip", "tar", "none"] | None = None
    # zip and tar: which file of several, by its name or a pattern such as "*.csv".
    member: Annotated[str, Field(min_length=1)] | None = None
    format: Literal[FORMATS] | None = None
    # A function of yours in place of a format: module:function, in a module beside the folder feeds.
    parser: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    encoding: str = "utf-8"
    # CSV: what separates fields, what encloses them (or none), and whether the first line names them.
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Field(pattern="^(.|none)$")] = '"'
    header: bool = True
    # CSV: what makes the next character an ordinary one.
    escape: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    # CSV: the header stands there again, before other records.
    repeated_header: Literal["refuse", "skip"] = "refuse"
    # Lines (xlsx: rows) to leave out at the beginning, and at the end (blank ones do not count).
    skip_lines: Annotated[int, Field(ge=0)] = 0
    skip_footer: Annotated[int, Field(ge=0, le=1000)] = 0
    # Lines to leave out, and the only ones to read, by what they begin with.
    comment: Begins = []
    only: Begins = []
    # Fixed width: bytes of a record, without the line's end.
    width: Annotated[int, Field(ge=1, le=65536)] | None = None
    # Records that have fewer or more bytes (fixed width) than the columns need, or fields (CSV) than the first line.
    short_lines: Literal["refuse", "accept"] = "refuse"
    long_lines: Literal["refuse", "accept"] = "refuse"
    # xlsx: name of the sheet, when there are several.
    sheet: str | None = None
    # JSON: where the records are: `item` is an array's member, `data.item` one of an array below `data`.
    # XML: the path of a record's element, from the root: rates.rate.
    records: str = "item"

    @field_validator("encoding")
    @classmethod
    def _is_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError:
            raise ValueError("no such encoding: write one such as utf-8, cp949 or latin-1") from None
        return value

    @field_validator("parser")
    @classmethod
    def _is_there(cls, value: str | None) -> str | None:
        module = (value or "").partition(":")[0]
        # It is not imported here: an edge host may lack what it needs.
        if value and not importlib.util.find_spec(module.partition(".")[0]):
            raise ValueError(f"there is no module {module}: put {module}.py beside the folder feeds")
        return value

    def check_file(self, packing: str, places: dict[str, str | int | None]) -> None:
        """Refuse what does not fit each other: fields, how the file is packed, and where columns have their values.

        :raises ValueError: names the field and the remedy.
        """
        for field, formats in FIELDS_OF.items():
            if field in self.model_fields_set and self.format and self.format not in formats:
                raise ValueError(f"{field} is for {', '.join(formats)}, and not for {self.format}: remove it")
        if self.delimiter in "\r\n":
            raise ValueError("delimiter: a line's end separates records: write the character between two fields")
        if self.delimiter == self.quote:
            raise ValueError("delimiter and quote are the same")
        if self.escape and self.escape in (self.delimiter, self.quote, "\r", "\n"):
            raise ValueError(f"escape: {self.escape!r} is the delimiter, the quote or a line's end, too")
        if not self.is_utf8 and self.format == "json":
            raise ValueError("encoding: JSON is UTF-8; for another one use a parser")
        if self.repeated_header == "skip" and not self.header:
            raise ValueError("repeated_header is for files with a header")
        if self.format == "xml" and "records" not in self.model_fields_set:
            raise ValueError("records: write the path of a record's element, from the root, such as rates.rate")
        if self.member and packing not in ("zip", "tar"):
            raise ValueError(f"member is for an archive: compression is {packing}; write zip or tar, or remove it")

        for name, where in places.items():
            self._check_place(name, where)
        if self.format in ("json", "jsonl") and any(isinstance(where, int) for where in places.values()):
            for name, where in places.items():
                if not isinstance(where, int) or where < 1:
                    raise ValueError(
                        f"load.columns.{name}.from: when records are arrays, write a number from 1 for each column"
                    )

    def _check_place(self, name: str, where: str | int | None) -> None:
        """Refuse a column whose `from` is of another kind than the format has."""
        if self.format == "fixed":
            found = re.fullmatch(r"([1-9]\d*)-([1-9]\d*)", where) if isinstance(where, str) else None
            if not (found and int(found[1]) <= int(found[2])):
                raise ValueError(f"load.columns.{name}.from: write the first and the last byte, such as 3-10")
            if self.width and int(found[2]) > self.width:
                raise ValueError(
                    f"load.columns.{name}.from: {where!r} is behind the end of a record (width: {self.width})"
                )
            unit = len("0".encode(self.plain_encoding))
            if (int(found[1]) - 1) % unit or int(found[2]) % unit:
                raise ValueError(
                    f"load.columns.{name}.from: {where!r}: a character of {self.encoding} has {unit} bytes"
                )
        elif self.format in ("csv", "xlsx") and not self.header:
            if not (isinstance(where, int) and where >= 1):
                raise ValueError(f"load.columns.{name}.from: without a header write the field's number, from 1")
        elif isinstance(where, int) and self.format not in ("json", "jsonl"):
            raise ValueError(f"load.columns.{name}.from: write a field's name")

    @property
    def is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig")

    @property
    def plain_encoding(self) -> str:
        """The encoding of a part of the file, which has no byte order mark."""
        name = codecs.lookup(self.encoding).name.removesuffix("-sig")
        return f"{name}-le" if name in ("utf-16", "utf-32") else name
