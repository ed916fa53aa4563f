"""Formats with typed values: Excel workbooks (xlsx) and Parquet. Main reads them, an edge host checks the container."""

from __future__ import annotations

import struct
import zipfile
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import islice, zip_longest
from typing import BinaryIO

from feed.model import Feed
from feed.packing import BROKEN, Broken, library, on_disk
from feed.record import Bad, check_names

MAGIC = b"PAR1"
# Bytes of a workbook's texts, which are in memory while it is read; and of a portion of Parquet.
TEXTS, PORTION = 128 << 20, 8 << 20
# From here on a double leaves out integers.
EXACT = 1 << 53


def check_container(file: BinaryIO, kind: str) -> None:
    """Look whether a file is whole, as far as that can be told without the libraries that read it.

    :raises Broken: it is not.
    """
    (_check_parquet if kind == "parquet" else _check_xlsx)(file)


def _check_parquet(file: BinaryIO) -> None:
    begin, size = file.read(4), file.seek(0, 2)
    file.seek(max(0, size - 8))
    end = file.read(8)
    if begin != MAGIC or end[4:] != MAGIC or struct.unpack("<I", end[:4])[0] > size - 12:
        raise Broken(
            f"it is no Parquet file, or its end is missing: it begins with {begin!r} and ends with {end[4:]!r}"
        )


def _check_xlsx(file: BinaryIO) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            broken = archive.testzip()
    except BROKEN as error:
        file.seek(0)
        raise Broken(
            f"it is no Excel workbook (xlsx), or is not whole: {error}; it begins with {file.read(20)!r}"
        ) from error
    if "xl/workbook.xml" not in names:
        raise Broken(f"it is no Excel workbook (xlsx), but another zip archive: it has {', '.join(names[:10])}")
    if broken:
        raise Broken(f"the workbook is broken at {broken}")


def read_xlsx(packed: BinaryIO, feed: Feed) -> Iterator[dict | Bad]:
    """Yield the rows of a sheet of an Excel workbook.

    :raises ValueError: it is broken, has no such sheet, or its header lacks a column.
    """
    openpyxl = library("openpyxl", "format: xlsx")
    with on_disk(packed, feed.packing) as file:
        _check_xlsx(file)
        with zipfile.ZipFile(file) as archive:
            texts = sum(info.file_size for info in archive.infolist() if info.filename == "xl/sharedStrings.xml")
            has_formulas = any(
                _has(archive, info, (b"<f>", b"<f ")) for info in archive.infolist() if "worksheets/" in info.filename
            )
        if texts > TEXTS:
            raise ValueError(f"its texts have {texts} bytes, more than {TEXTS}: ask for CSV or Parquet")
        with closing(openpyxl.load_workbook(file, read_only=True, data_only=True)) as book:
            rows = _rows(_sheet(book, feed))
            if has_formulas:
                # Programs that write a formula need not write its value, which would be NULL then.
                formulas = openpyxl.load_workbook(file, read_only=True)
                rows = map(_computed, rows, _rows(_sheet(formulas, feed)))
            yield from _records(rows, feed)


def _has(archive: zipfile.ZipFile, info: zipfile.ZipInfo, marks: tuple[bytes, ...]) -> bool:
    """Return whether one of some short texts stands in a member."""
    with archive.open(info) as member:
        end = b""
        while piece := member.read(1 << 20):
            if any(mark in end + piece for mark in marks):
                return True
            end = piece[-3:]
    return False


def _sheet(book, feed: Feed):
    names = [sheet.title for sheet in book.worksheets if sheet.sheet_state == "visible"]
    if feed.sheet:
        if feed.sheet not in book.sheetnames:
            raise ValueError(f"sheet: {feed.sheet!r} is not there; the workbook has {', '.join(book.sheetnames)}")
        return book[feed.sheet]
    if len(names) != 1:
        raise ValueError(f"the workbook has {len(names)} sheets: write `sheet:` for one of them: {', '.join(names)}")
    return book[names[0]]


def _rows(sheet) -> Iterator[tuple]:
    # What a workbook says of its size is often wrong, and cells would be left out.
    sheet.reset_dimensions()
    return sheet.iter_rows(values_only=True)


def _computed(values: tuple, formulas: tuple) -> tuple | Bad:
    for number, (value, formula) in enumerate(zip_longest(values, formulas), 1):
        if value is None and isinstance(formula, str) and formula.startswith("="):
            return Bad(f"field {number} is a formula without its value: save the workbook with Excel", str(formulas))
    return values


def _records(rows: Iterator[tuple | Bad], feed: Feed) -> Iterator[dict | Bad]:
    rows = islice(rows, feed.skip_lines, None)
    header = None
    held: deque[tuple | Bad] = deque()
    for row in rows:
        if not isinstance(row, Bad):
            if all(value is None for value in row):
                continue
            if feed.comment and str(row[0]).startswith(tuple(feed.comment)):
                continue
            if feed.header and header is None:
                header = ["" if value is None else str(value).strip() for value in row]
                check_names(header, feed.needed(), "its header")
                continue
        held.append(row)
        if len(held) > feed.skip_footer:
            yield _record(held.popleft(), header)


def _record(row: tuple | Bad, header: list[str] | None) -> dict | Bad:
    if isinstance(row, Bad):
        return row
    values = map(_value, row)
    if header is None:
        return dict(enumerate(values, 1))
    # A row ends with its last value, and may have notes behind the table.
    return dict.fromkeys(header) | dict(zip(header, values, strict=False))


def _value(value: object) -> object:
    # A spreadsheet has no integers: what it shows as 7 may be 7.0.
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    return value


def read_parquet(packed: BinaryIO, feed: Feed) -> Iterator[dict]:
    """Yield the rows of a Parquet file, in portions.

    :raises ValueError: it is broken, or lacks a column.
    """
    pyarrow = library("pyarrow", "format: parquet")
    parquet = library("pyarrow.parquet", "format: parquet")
    with on_disk(packed, feed.packing) as file:
        try:
            with parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as table:
                names = table.schema_arrow.names
                top = {source: source if source in names else str(source).partition(".")[0] for source in feed.wanted()}
                check_names(names, {top[source]: needed for source, needed in feed.needed().items()}, "the file")
                columns = sorted({name for name in top.values() if name in names})
                for batch in table.iter_batches(_portion(table), columns=columns):
                    yield from _exact(pyarrow, batch).to_pylist(maps_as_pydicts="strict")
        except pyarrow.ArrowException as error:
            raise ValueError(f"its Parquet is broken: {error}") from error


def _portion(table) -> int:
    """Return how many rows to have in memory at a time."""
    groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
    widest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return max(1, min(4096, int(PORTION / max(1, widest))))


def _exact(pyarrow, batch):
    """Write what Python's types would cut off, nanoseconds, as text: columns refuse digits that they do not keep."""
    for number, field in enumerate(batch.schema):
        if not str(field.type).startswith(("timestamp[ns", "time64[ns", "duration[ns")):
            continue
        column, kind = batch.column(number), str(field.type)
        try:
            coarse = {"ti": pyarrow.timestamp("us", getattr(field.type, "tz", None)), "du": pyarrow.duration("us")}[
                kind[:2]
            ]
            column = column.cast(pyarrow.time64("us") if kind.startswith("time64") else coarse)
        except pyarrow.ArrowInvalid:
            column = column.cast(pyarrow.string())
        batch = batch.set_column(number, field.name, column)
    return batch
