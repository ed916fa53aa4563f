"""From a feed's file to its records: formats, what is left out of a file, packing, and what is not the file."""

import bz2
import gzip
import io
import json
import lzma
import resource
import subprocess
import sys
import tarfile
import warnings
import zipfile
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
import yaml

from feed import load, parse
from feed.model import Feed

ROOT = Path(__file__).resolve().parents[2]
CSV = b"id,name\n1,one\n2,two\n"
ROWS = [{"id": "1", "name": "one"}, {"id": "2", "name": "two"}]
TEXTS = {"id": "text", "name": "text"}


@pytest.fixture
def feed(tmp_path):
    def feed(**changes):
        columns = changes.pop("columns", TEXTS)
        content = {
            "schedule": "30 5 * * *",
            "timezone": "Europe/Berlin",
            "source": {"connection": "service", "path": changes.pop("path", "/{day:%Y%m%d}")},
            "format": "csv",
            "load": {"connection": "warehouse", "table": "t", "columns": columns},
        }
        file = tmp_path / "feeds" / "small.yml"
        file.parent.mkdir(exist_ok=True)
        content |= changes
        file.write_text(yaml.safe_dump({name: value for name, value in content.items() if value is not None}))
        return Feed.of(file)

    return feed


@pytest.fixture
def read(feed, tmp_path):
    """Return what columns get from a file, and why records are bad; as on the edge, the file is counted first."""

    def read(content, **changes):
        path = tmp_path / "file"
        path.write_bytes(content)
        small = feed(**changes)
        number = parse.count(small, path)
        found = list(parse.records(small, path))
        assert number in (None, len(found))
        rows = [{name: r[source] for source, name in small.wanted().items() if source in r} for r in found if goes(r)]
        return rows, [record.reason for record in found if not goes(record)]

    return read


def goes(record):
    return not isinstance(record, parse.Bad)


def places(**places):
    return {name: {"from": place} for name, place in places.items()}


# -- Lines ------------------------------------------------------------------------------------------------------

EDGAR = b"""Description: Master Index\nLast Data Received: December 31\n\n \nCIK|Company Name|Date Filed
--------------------------------------------------------------------------------
1000015|META GROUP INC|2025-10-20\n"""


@pytest.mark.parametrize(
    ("changes", "content", "expected"),
    [
        ({"comment": "#"}, b"# made today\nid,name\n1,one\n# so far\n2,two\n", ROWS),
        ({"comment": ["#", "--"]}, b"# made today\nid,name\n-----\n1,one\n2,two\n", ROWS),
        # A line within a field is no comment.
        ({"comment": "#"}, b'id,name\n1,"one\n# more"\n', [{"id": "1", "name": "one\n# more"}]),
        ({"skip_footer": 1}, CSV + b"2 records\n\n", ROWS),
        ({"skip_footer": 2}, CSV + b"\n--\n\n2 records", ROWS),
        ({"comment": "TOTAL"}, CSV + b"TOTAL,2\n", ROWS),
        ({"only": "D"}, b"id,name\nH,x,y\nD1,one\nT,2\n", [{"id": "D1", "name": "one"}]),
        (
            {"only": ["D|"], "header": False, "delimiter": "|", "columns": places(id=2, name=3)},
            b"H|20251020\nD|1|one\nD|2|two\nT|2\n",
            ROWS,
        ),
        ({"repeated_header": "skip"}, b"id,name\n1,one\nid,name\n2,two\n", ROWS),
        (
            {"skip_lines": 3, "delimiter": "|", "comment": "---", "columns": places(id="CIK", name="Company Name")},
            EDGAR,
            [{"id": "1000015", "name": "META GROUP INC"}],
        ),
        ({"escape": "\\"}, b'id,name\n1,"a \\"b\\", c"\n', [{"id": "1", "name": 'a "b", c'}]),
        ({"escape": "\\"}, b"id,name\n1,a\\, \\\\n b\n", [{"id": "1", "name": "a, \\n b"}]),
        (
            # As MySQL and PostgreSQL write it; \N is NULL, and a line that ends with a backslash goes on.
            {"escape": "\\", "quote": "none", "delimiter": "\t", "header": False, "columns": places(id=1, name=2)},
            b"1\tone\\ttwo\\nthree\\\\N\n2\t\\N\n3\ta\\\nb\n",
            [{"id": "1", "name": "one\ttwo\nthree\\N"}, {"id": "2", "name": "\\N"}, {"id": "3", "name": "a\nb"}],
        ),
        ({"format": "jsonl", "skip_footer": 1}, b'{"id": "1"}\n{"records": 1}\n', [{"id": "1"}]),
        ({"format": "jsonl", "comment": "//"}, b'// made today\n{"id": "1"}\n', [{"id": "1"}]),
        ({"encoding": "utf-16"}, "id,name\n1,서울\n".encode("utf-16"), [{"id": "1", "name": "서울"}]),
        ({"encoding": "utf-8-sig"}, b"\xef\xbb\xbf" + CSV, ROWS),
    ],
)
def test_lines_that_are_no_records_are_left_out_as_the_feed_says(read, changes, content, expected):
    changes.setdefault("columns", {"id": "text", "name": {"type": "text", "optional": True}})
    assert read(content, **changes) == (expected, [])


NO_HEADER = {"header": False, "columns": places(id=2, name=3)}


@pytest.mark.parametrize(
    ("changes", "content", "reason"),
    [
        ({}, b"id,name\n1,one\nid,name\n2,two\n", "the header once more; .* repeated_header: skip"),
        ({}, b"id,name\n-------\n1,one\n2,two\n", "a line below the header; .* comment: '---'"),
        ({"delimiter": "|"}, b"id|name\n---|---\n1|one\n2|two\n", "a line below the header"),
        ({}, b"id,name\n1,one\nTOTAL\n2,two\n", "1 fields, and not 2; .* short_lines: accept"),
        ({}, b"id,name\n1,one\n2,two\n3,three,\n", "3 fields, and not 2; .* long_lines: accept"),
        # Without a header, a comma too many would move the values, and a cut line would lose some.
        (NO_HEADER, b"x,1,one,y\nx,2,two,y\nx,3,Seoul, Korea,y\n", "5 fields, and not 4"),
        (NO_HEADER, b"x,1,one,y\nx,2,two,y\nx,3,thr", "3 fields, and not 4"),
        # What a server has reserved for a file, and not written.
        ({}, b"id,name\n1,one\n2,two\n3,thr" + bytes(40), "it ends with zero bytes"),
        (
            {"format": "jsonl"},
            b'{"id":"1","name":"one"}\n{"id":"2","name":"two"}\n{"id":"3","name":"x","id":"4"}\n',
            "id stands twice in an object",
        ),
        ({"format": "rfc822"}, b"id: 1\nname: one\n\nid: 2\nname: two\n\nid: 3\nname: x\nid: 4\n", "id stands twice"),
        ({"format": "rfc822"}, b"id: 1\nname: one\n\nid: 2\nname: two\n\n of 2\nid: 3\n", "without a name and a colon"),
        ({"format": "rfc822"}, b"id: 1\nname: one\n\nid: 2\nname: two\n\nid: 3\nthe name: x\n", "without a name"),
    ],
)
def test_lines_that_are_no_records_are_bad_unless_the_feed_says_so(read, changes, content, reason):
    rows, bad = read(content, **changes)
    assert rows == ROWS
    assert len(bad) == 1
    assert_matches(reason, bad[0])


@pytest.mark.parametrize(
    ("changes", "content", "expected"),
    [
        ({"long_lines": "accept"}, b"id,name\n1,one,\n2,two,,\n", ROWS),
        ({"short_lines": "accept"}, b"id,name,more\n1,one\n2,two,x\n", ROWS),
        (NO_HEADER | {"short_lines": "accept"}, b"x,1,one,y\nx,2,two\n", ROWS),
        ({"header": False, "columns": places(id=1, name=2) | {"new": {"from": 3, "optional": True}}},
         b"1,one\n2,two\n", ROWS),
    ],
)  # fmt: skip
def test_records_have_another_number_of_fields_when_the_feed_says_so(read, changes, content, expected):
    assert read(content, **changes) == (expected, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id;name\n1;one\n", "its header has no id, name; it has id;name; is the delimiter ';'"),
        (b"id\tname\n1\tone\n", r"is the delimiter '.t'\?"),
        (b"sep=,\nid,name\n1,one\n", "this line is for Excel: write skip_lines: 1"),
    ],
)
def test_a_header_that_is_none_says_which_field_to_set(read, content, message):
    with pytest.raises(ValueError, match=message):
        read(content)


RECORD = {"columns": places(id="1-4", city="5-10", rate="11-16"), "format": "fixed"}
SEOUL = {"id": "0001", "city": "seoul", "rate": "123.45"}
BUSAN = {"id": "0002", "city": "busan", "rate": "678.90"}


@pytest.mark.parametrize(
    ("changes", "content", "rows", "reasons"),
    [
        ({}, b"0001seoul 123.45\n0002busan 678.90\n", [SEOUL, BUSAN], []),
        ({"width": 16}, b"0001seoul 123.450002busan 678.90", [SEOUL, BUSAN], []),
        ({"width": 16}, b"0001seoul 123.450002busan 678.90\r\n\x1a", [SEOUL, BUSAN], []),
        ({"width": 16}, b"0001seoul 123.45\r\n0002busan 678.90\r\n", [SEOUL, BUSAN], []),
        ({"width": 20}, b"0001seoul 123.45xxxx0002busan 678.90xxxx", [SEOUL, BUSAN], []),
        ({"width": 16, "skip_lines": 1, "comment": "T"}, b"H".ljust(16) + b"0001seoul 123.45" + b"T" * 16, [SEOUL], []),
        ({"width": 16, "skip_footer": 1}, b"0001seoul 123.450002busan 678.90" + b"T" * 16, [SEOUL, BUSAN], []),
        ({}, b"0001seoul 123.45\n0002busan 67", [SEOUL], ["12 bytes, and not 16: .* short_lines: accept"]),
        ({}, b"0001seoul 123.45\n0002busan 678.90xx\n", [SEOUL], ["18 bytes, and the columns end at 16: .* width: 18"]),
        ({"width": 16}, b"0001seoul 123.45\n0002busan 678.90xx\n", [SEOUL], [r"18 bytes, and not 16 \(width\)"]),
        ({"width": 16}, b"0001seoul 123.45\n0002busan 67\n", [SEOUL], ["12 bytes, and not 16"]),
        # Blanks behind the fields are nothing.
        ({}, b"0001seoul 123.45   \n", [SEOUL], []),
        ({"long_lines": "accept"}, b"0001seoul 123.45xx\n", [SEOUL], []),
        ({"short_lines": "accept"}, b"0002busan\n", [{**BUSAN, "rate": ""}], []),
        ({"comment": "*", "skip_footer": 1}, b"* made today\n0001seoul 123.45\n1 record\n\x1a", [SEOUL], []),
        ({"only": "0001"}, b"0001seoul 123.45\n0002busan 678.90\n", [SEOUL], []),
        # A byte order mark is one of the file.
        ({"encoding": "utf-8-sig"}, b"\xef\xbb\xbf0001seoul 123.45\n0002busan 678.90\n", [SEOUL, BUSAN], []),
        ({}, b"\xef\xbb\xbf0001seoul 123.45\n", [SEOUL], []),
        ({"encoding": "utf-8-sig", "width": 16}, b"\xef\xbb\xbf0001seoul 123.450002busan 678.90", [SEOUL, BUSAN], []),
        ({"encoding": "cp037"}, "0001seoul 123.45\n0002busan 678.90\n".encode("cp037"), [SEOUL, BUSAN], []),
        ({"encoding": "cp037", "width": 16}, "0001seoul 123.450002busan 678.90".encode("cp037"), [SEOUL, BUSAN], []),
    ],
)
def test_records_of_a_fixed_width(read, changes, content, rows, reasons):
    got, bad = read(content, **RECORD, **changes)
    assert got == rows
    assert len(bad) == len(reasons)
    for said, reason in zip(bad, reasons, strict=True):
        assert_matches(reason, said)


def assert_matches(pattern, text):
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_bytes_are_counted_in_every_encoding(read, encoding):
    columns = places(id="1-4", city="5-12")
    rows, _ = read("01서울  \n02부산  \n".encode(encoding), format="fixed", encoding=encoding, columns=columns)
    assert rows == [{"id": "01", "city": "서울"}, {"id": "02", "city": "부산"}]


def test_a_field_that_files_may_come_without_is_whole_or_not_there(read):
    columns = {"id": {"from": "1-4"}, "city": {"from": "5-10", "optional": True}}
    rows, bad = read(b"0001\n0002seoul \n0003seo\n", format="fixed", columns=columns)
    assert rows == [{"id": "0001"}, {"id": "0002", "city": "seoul"}]
    assert len(bad) == 1


# -- Documents --------------------------------------------------------------------------------------------------

QUAKES = {"type": "FeatureCollection", "features": [
    {"id": "a", "properties": {"mag": 1.5, "place.name": "x"}, "geometry": {"coordinates": [126.9, 37.5]}},
    {"id": "b", "properties": {"mag": None}, "geometry": None, "properties.mag": 2},
]}  # fmt: skip
QUAKE_COLUMNS = places(id="id", mag="properties.mag", lon="geometry.coordinates.0", place="properties.place.name")


def test_what_lies_deeper_in_json_has_a_path(read):
    changes = {"columns": QUAKE_COLUMNS, "records": "features.item"}
    expected = [
        {"id": "a", "mag": Decimal("1.5"), "lon": Decimal("126.9"), "place": "x"},
        # A key with that literal name wins; below null everything is null.
        {"id": "b", "mag": 2, "lon": None},
    ]
    assert read(json.dumps(QUAKES).encode(), format="json", **changes) == (expected, [])
    lines = b"".join(json.dumps(quake).encode() + b"\n" for quake in QUAKES["features"])
    assert read(lines, format="jsonl", columns=QUAKE_COLUMNS) == (expected, [])


def test_records_that_are_arrays_have_numbered_fields(read):
    for name, content in (("json", b'[[1, "one"], [2, "two"]]'), ("jsonl", b'[1, "one"]\n[2, "two"]\n')):
        rows = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
        assert read(content, format=name, columns=places(id=1, name=2)) == (rows, [])
    with pytest.raises(ValueError, match=r"load.columns.name.from: when records are arrays, write a number"):
        read(b"[]", format="json", columns=places(id=1, name="name"))


@pytest.mark.parametrize(
    ("changes", "content", "message"),
    [
        ({"format": "json"}, b'[{"properties": {"id": 1}}]', "none of id, name; it has properties.id: write from: p"),
        ({"format": "json"}, b'[{"id": 1, "x": {"name": 1}}]', "no record has name; .*it has x.name: write from: x"),
        ({"format": "jsonl"}, b'{"id": 1, "label": 1}', r"no record has name; .*it has id, label"),
        ({"format": "jsonl"}, b'[{"id": 1}]', "a document of records is format: json"),
        ({"format": "json"}, b'{"id": 1}\n{"id": 2}', "has no array|format: jsonl"),
        ({"format": "xml", "records": "r.i"}, b'<r><i id="1"/></r>', "it has @id: write from: @id"),
    ],
)  # fmt: skip
def test_a_path_that_is_missing_is_found(read, changes, content, message):
    with pytest.raises(ValueError, match=message):
        read(content, **changes)


@pytest.mark.parametrize(
    ("beside", "member"),
    [
        ({"page": 1, "pages": 3}, "pages: 3"),
        ({"next": "https://example.com/?page=2"}, "next: https"),
        ({"meta": {"next_page": 2}}, "meta.next_page: 2"),
        ({"_links": {"next": {"href": "/?page=2"}}}, "_links.next.href: /"),
        ({"@odata.nextLink": "https://example.com/?skip=2"}, "@odata.nextLink: https"),
        ({"links": [{"rel": "self", "href": "/a"}, {"rel": "next", "href": "/b"}]}, "links.item.rel: next"),
        ({"link": [{"relation": "next", "url": "/b"}]}, "link.item.relation: next"),
        ({"continuationToken": "abc"}, "continuationToken: abc"),
        ({"exceededTransferLimit": True}, "exceededTransferLimit: True"),
        ({"has_more": True}, "has_more: True"),
        ({"pageInfo": {"hasNextPage": True, "endCursor": "x"}}, "pageInfo.hasNextPage: True"),
        ({"nextPageToken": "abc"}, "nextPageToken: abc"),
        ({"total": 300, "limit": 100, "offset": 0}, "total: 300"),
        ({"resultsPerPage": 2, "startIndex": 0, "totalResults": 12}, "totalResults: 12"),
    ],
)
@pytest.mark.parametrize("is_before", [True, False])
def test_one_page_of_several_is_refused(read, feed, tmp_path, beside, member, is_before):
    data = {"data": [{"id": 1, "name": "one"}]}
    content = json.dumps(beside | data if is_before else data | beside).encode()
    changes = {"format": "json", "records": "data.item"}
    with pytest.raises(ValueError, match=f"one page of several: beside the records is {member}.*source.pages"):
        read(content, **changes)
    # The feed says how to get the others, or that one is enough.
    small = feed(**changes)
    knowing = small.model_copy(update={"source": small.source.model_copy(update={"pages": object()})})
    assert parse.count(knowing, tmp_path / "file") == 1


@pytest.mark.parametrize(
    "beside",
    [
        {"page": 1, "pages": 1, "next": None, "has_more": False},
        {"next": ""},
        {"links": {"self": "/?page=1", "next": None}},
        {"links": [{"rel": "self", "href": "/?page=2"}, {"rel": "prev", "href": "/?page=1"}]},
        {"exceededTransferLimit": False, "continuationToken": None},
        {"total": 1, "limit": 100},
        {"total": 1234.5},
        {"metadata": {"count": 3, "title": "next"}},
    ],
)
def test_the_only_page_is_whole(read, beside):
    content = json.dumps({"data": [{"id": 1, "name": "one", "next": "x", "pages": 3}]} | beside).encode()
    assert len(read(content, format="json", records="data.item")[0]) == 1


ECB = b"""<?xml version="1.0" encoding="UTF-8"?>
<gesmes:Envelope xmlns:gesmes="http://www.gesmes.org/xml/2002-08-01" xmlns="http://www.ecb.int/vocabulary/eurofxref">
 <gesmes:subject>Reference rates</gesmes:subject><Cube><Cube time="2025-10-20">
  <Cube currency="USD" rate="1.1655"/><Cube currency="KRW" rate="1656.49"/></Cube></Cube>
</gesmes:Envelope>"""
BOOKS = """<?xml version="1.0"{}?><books><date>2025-10-20</date>
<book id="1"><name lang="ko">서울 &amp; 부산</name><price unit="KRW">15000</price><tag>a</tag><tag>b</tag><note/></book>
<book id="2"><name>two</name><tag>c</tag><more><x>1</x></more></book></books>"""
BOOK_COLUMNS = places(
    id="@id", name="name", price="price", unit="price.@unit", tag="tag.0", x="more.x", day="parent.date", note="note"
)


def test_xml_has_elements_and_attributes(read):
    columns = places(currency="@currency", rate="@rate", day="parent.@time")
    rows, _ = read(ECB, format="xml", records="Envelope.Cube.Cube.Cube", columns=columns)
    assert rows == [
        {"currency": "USD", "rate": "1.1655", "day": "2025-10-20"},
        {"currency": "KRW", "rate": "1656.49", "day": "2025-10-20"},
    ]
    expected = [
        {
            "id": "1",
            "name": "서울 & 부산",
            "price": "15000",
            "unit": "KRW",
            "tag": "a",
            "day": "2025-10-20",
            "note": "",
        },
        {"id": "2", "name": "two", "tag": "c", "x": "1", "day": "2025-10-20"},
    ]
    for said, encoding in (("", "utf-8"), (' encoding="UTF-16"', "utf-16"), ("", "cp949")):
        changes = {"encoding": "cp949"} if encoding == "cp949" else {}
        content = BOOKS.format(said).encode(encoding)
        assert read(content, format="xml", records="books.book", columns=BOOK_COLUMNS, **changes) == (expected, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOOKS.format("").encode()[:-8], "its XML is broken: .*unclosed|its XML is broken: no element found"),
        (b"<error>maintenance</error>", "has no element books, in which records"),
        (b"Service temporarily unavailable", "its XML is broken"),
        (b'<!DOCTYPE b [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><books><book>&b;</book></books>', "the entity 'a'"),
        (b'<!DOCTYPE b [<!ENTITY a SYSTEM "file:///etc/passwd">]><books><book>&a;</book></books>', "the entity 'a'"),
        (b"<books>" + b"<x>1</x>" * 700_000 + b"</books>", "no record ends within"),
        (BOOKS.format(' encoding="euc-kr"').encode("euc-kr"), "write encoding, such as cp949"),
    ],
)  # fmt: skip
def test_xml_that_is_not_whole_or_dangerous_is_refused(read, content, message):
    with pytest.raises(ValueError, match=message):
        read(content, format="xml", records="books.book")


# -- Tables with types ------------------------------------------------------------------------------------------


def workbook(*rows, sheets=(), **names):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for name in sheets:
        book.create_sheet(name).append(["other"])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


SHEET = [
    ["Prices of the day"],
    ["id", "price", "day", "at", "clock", "ok", None],
    [7.0, 67.1, date(2025, 10, 20), datetime(2025, 10, 20, 9, 30), time(9, 30), True, "a note"],
    [],
    ["007", None, None],
    ["TOTAL", 67.1],
]
SHEET_COLUMNS = {"id": "text", "price": "text", "day": "text", "at": "text", "clock": "text", "ok": "text"}


def test_a_workbook_keeps_types(read):
    changes = {"format": "xlsx", "skip_lines": 1, "columns": SHEET_COLUMNS, "comment": "TOTAL"}
    first, second = read(workbook(*SHEET), **changes)[0]
    assert first == {
        "id": 7,
        "price": 67.1,
        "day": datetime(2025, 10, 20),
        "at": datetime(2025, 10, 20, 9, 30),
        "clock": time(9, 30),
        "ok": True,
    }
    # What Excel shows as 7, is no 7.0 in a text.
    assert isinstance(first["id"], int)
    assert second == dict.fromkeys(SHEET_COLUMNS) | {"id": "007"}
    changes = {"format": "xlsx", "header": False, "columns": places(a=1, b=2), "skip_lines": 2, "skip_footer": 2}
    assert read(workbook(*SHEET), **changes)[0] == [{"a": 7, "b": 67.1}]


def test_one_of_several_sheets_is_named(read):
    content = workbook(["id", "name"], [1, "one"], sheets=["Notes"])
    assert read(content, format="xlsx", sheet="Sheet")[0] == [{"id": 1, "name": "one"}]
    with pytest.raises(ValueError, match="the workbook has 2 sheets: write `sheet:` for one of them: Sheet, Notes"):
        read(content, format="xlsx")
    with pytest.raises(ValueError, match="sheet: 'Rates' is not there; the workbook has Sheet, Notes"):
        read(content, format="xlsx", sheet="Rates")
    with pytest.raises(ValueError, match="its header has no id, name; it has other"):
        read(content, format="xlsx", sheet="Notes")


def test_a_formula_without_its_value_is_bad_and_not_null(read):
    rows, bad = read(workbook(["id", "name"], [1, "one"], [2, "=A2+1"]), format="xlsx")
    assert rows == [{"id": 1, "name": "one"}]
    assert_matches("field 2 is a formula without its value", bad[0])


def test_a_workbook_that_says_a_wrong_size_is_read_whole(read):
    packed, again = io.BytesIO(workbook(["id", "name"], [1, "one"])), io.BytesIO()
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(again, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'<dimension ref="A1:B2"', b'<dimension ref="A1"'))
    assert read(again.getvalue(), format="xlsx")[0] == [{"id": 1, "name": "one"}]


def parquet(**columns):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


NOON = datetime(2025, 10, 20, 12, 0, 0, 123456)


def test_parquet_keeps_types(read):
    ns = pyarrow.array([1760922600123456789], pyarrow.timestamp("ns"))
    columns = {
        "id": pyarrow.array([2**63], pyarrow.uint64()),
        "price": pyarrow.array([Decimal("1234567890.123456789")]),
        "day": [date(2025, 10, 20)],
        "local": [NOON],
        "instant": pyarrow.array([NOON.replace(tzinfo=UTC)], pyarrow.timestamp("ns", "UTC")),
        "exact": ns,
        "raw": [b"\xff"],
        "at": [{"x": {"y": 1.5}, "tags": ["a", "b"]}],
        "a.b": [7],
        "unread": [1],
    }
    wanted = places(**{name: name for name in columns if name not in ("at", "a.b", "unread")})
    wanted |= places(y="at.x.y", tag="at.tags.1", literal="a.b")
    (row,), bad = read(parquet(**columns), format="parquet", columns=wanted)
    assert bad == []
    instant = row.pop("instant")
    assert (instant, instant.utcoffset()) == (NOON.replace(tzinfo=UTC), UTC.utcoffset(None))
    assert row == {
        "id": 2**63,
        "price": Decimal("1234567890.123456789"),
        "day": date(2025, 10, 20),
        "local": NOON,
        # Python's datetime would cut this one off.
        "exact": "2025-10-20 01:10:00.123456789",
        "raw": b"\xff",
        "y": 1.5,
        "tag": "b",
        "literal": 7,
    }


def test_a_parquet_column_that_is_missing_is_named(read):
    with pytest.raises(ValueError, match="the file has no name; it has id, label"):
        read(parquet(id=[1], label=["x"]), format="parquet")


@pytest.mark.parametrize("name", ["xlsx", "parquet"])
def test_tables_are_read_out_of_an_archive(read, name):
    content = parquet(id=[1], name=["one"]) if name == "parquet" else workbook(["id", "name"], [1, "one"])
    rows = [{"id": 1, "name": "one"}]
    archive = zipped(("readme.txt", b"-"), (f"data.{name}", content))
    assert read(archive, format=name, member=f"*.{name}", compression="zip")[0] == rows
    assert read(gzip.compress(content), format=name, compression="gzip")[0] == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("xlsx", CSV, "no Excel workbook .*begins with b'id,name"),
        ("xlsx", workbook(["id", "name"])[:-40], "no Excel workbook|not whole"),
        ("parquet", CSV, "no Parquet file"),
        ("parquet", parquet(id=[1], name=["x"])[:-9], "its end is missing"),
        ("parquet", b"PAR1" + b"x" * 40 + b"\xff\xff\0\0PAR1", "its end is missing"),
    ],
)
def test_an_edge_host_refuses_a_table_that_is_not_whole(feed, tmp_path, name, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        parse.count(feed(format=name), path)


def test_an_edge_host_needs_no_library_of_main(tmp_path):
    """Import and count in a process in which what only main has cannot be imported."""
    contents = {"xlsx": workbook(["id", "name"], [1, "x"]), "parquet": parquet(id=[1], name=["x"])}
    contents |= {"csv.zst": zst(CSV), "tar.zst": zst(tarred(("data.csv", CSV)))}
    for name, content in contents.items():
        (tmp_path / f"file.{name}").write_bytes(content)
    program = f"""
import sys
for name in ("openpyxl", "pyarrow"):
    sys.modules[name] = None
sys.path[:0] = [{str(ROOT / "dag_modules")!r}]
from pathlib import Path
from feed import parse
from feed.model import Feed
for name in {list(contents)}:
    file = "{{day:%Y%m%d}}." + name
    feed = Feed(name="f", text="", schedule="30 5 * * *", timezone="UTC",
        format=name if "." not in name else "csv", file=file, source={{"connection": "s", "path": file}},
        load={{"connection": "w", "table": "t", "columns": {{"id": "int", "name": "text"}}}})
    path = Path({str(tmp_path)!r}) / f"file.{{name}}"
    print(parse.count(feed, path))
    try:
        list(parse.records(feed, path))
    except ValueError as error:
        print(error)
"""
    environment = {"AIRFLOW_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("None\n") == 4
    assert done.stdout.count("needs the Python package") == 4


# -- Packing ----------------------------------------------------------------------------------------------------


def zipped(*members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            # As it is: writestr() would normalize the name.
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, content)
    return file.getvalue()


def tarred(*members, mode="w"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zst(content):
    return pyarrow.compress(content, codec="zstd", asbytes=True)


MORE = (("readme.txt", b"-"), ("data/data.csv", CSV), ("data/other.csv", b"x\n"))


@pytest.mark.parametrize(
    ("changes", "content"),
    [
        ({"path": "/x.zip"}, zipped(("./data.csv", CSV))),
        ({"path": "/x.zip"}, zipped(("__MACOSX/._data.csv", b"-"), (".DS_Store", b"-"), ("folder/data.csv", CSV))),
        *[
            ({"path": "/x.zip", "member": member}, zipped(*MORE))
            for member in ("data.csv", "data/data.csv", "*data.csv")
        ],
        ({"path": "/x.zip", "member": "./data.csv"}, zipped(("./data.csv", CSV), ("b.csv", b"-"))),
        ({"path": "/x.tar"}, tarred(("./data.csv", CSV))),
        *[({"path": f"/x.tar.{ending}"}, tarred(("d.csv", CSV), mode=f"w:{ending}")) for ending in ("gz", "bz2", "xz")],
        ({"path": "/x.tgz", "member": "data.csv"}, tarred(*MORE, mode="w:gz")),
        ({"path": "/x.tar.zst", "member": "data.csv"}, zst(tarred(*MORE))),
        ({"path": "/x.csv.zst"}, zst(CSV)),
        ({"path": "/x.csv.zst"}, zst(CSV[:9]) + zst(CSV[9:])),
        ({"path": "/x", "compression": "zst"}, zst(CSV)),
        ({"path": "/x", "compression": "tar"}, tarred(("data.csv", CSV), mode="w:gz")),
    ],
)
def test_archives_and_their_members(read, changes, content):
    changes.setdefault("file", f"{{day:%Y%m%d}}{changes['path'][2:]}")
    assert read(content, **changes) == (ROWS, [])


def twice():
    """A zip archive with two members of one name."""
    with warnings.catch_warnings(action="ignore"):
        return zipped(("data.csv", CSV), ("data.csv", CSV[:14]))


def locked():
    """A zip archive whose member says that it is encrypted."""
    content = bytearray(zipped(("data.csv", CSV)))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("changes", "content", "message"),
    [
        ({"compression": "zip"}, zipped(*MORE), "has 3 files.*write `member:` .*: readme.txt, data/data.csv"),
        ({"compression": "zip", "member": "x.csv"}, zipped(*MORE), "member: 'x.csv' is 0 files .*data/data.csv"),
        ({"compression": "zip", "member": "*.csv"}, zipped(*MORE), "member: '.*csv' is 2 files"),
        ({"compression": "zip"}, twice(), "the archive has data.csv twice"),
        ({"compression": "zip"}, zipped(("a.zip", zipped(("a.csv", CSV)))), "its content is a zip archive once more"),
        ({"compression": "gzip"}, gzip.compress(gzip.compress(CSV)), "its content is gzip once more"),
        ({"compression": "zip"}, locked(), "data.csv in the zip archive is encrypted: ask for it without a password"),
        ({"compression": "zip"}, zipped(("a.csv", CSV * 9))[:-30], "zip compression is broken"),
        ({"compression": "zip"}, gzip.compress(CSV), "zip compression is broken: .*it is gzip: compression: gzip"),
        ({"compression": "gzip"}, CSV, "gzip compression is broken: it begins with b'id,name.*compression: none"),
        ({"compression": "gzip"}, zst(CSV), "it is zst .*compression: zst"),
        ({"compression": "zst"}, CSV, "zst compression is broken: it begins with b'id,name"),
        ({"compression": "zst"}, zst(CSV * 999)[:-5], "zst compression is broken: Truncated"),
        ({"compression": "tar"}, tarred(("d.csv", CSV * 999))[:5000], "tar .*broken: unexpected end of data"),
        ({"compression": "tar"}, tarred(("d.csv", CSV * 999), mode="w:gz")[:-3], "tar .*broken: Compressed"),
        ({"compression": "tar"}, CSV * 99, "tar compression is broken"),
        # Python's own readers would end behind the first part.
        ({"compression": "bzip2"}, bz2.compress(CSV) + b"X" + bz2.compress(b"3,three\n")[1:], "bzip2 .* is broken"),
        ({"compression": "xz"}, lzma.compress(CSV) + b"X" + lzma.compress(b"3,three\n")[1:], "xz .* is broken"),
        ({"compression": "bzip2"}, bz2.compress(CSV) + bz2.compress(b"3,three\n")[:-5], "bzip2 compression is broken"),
    ],
)  # fmt: skip
def test_what_is_packed_in_another_way_is_refused(read, changes, content, message):
    with pytest.raises(ValueError, match=message):
        read(content, **changes)


@pytest.mark.parametrize(("packing", "module"), [("gzip", gzip), ("bzip2", bz2), ("xz", lzma)])
def test_each_part_of_a_compressed_file_is_read(read, packing, module):
    content = module.compress(CSV[:14]) + bytes(4) + module.compress(CSV[14:]) + bytes(512)
    assert read(content, compression=packing) == (ROWS, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (workbook(["id", "name"]), "an Excel workbook .xlsx., .*format: xlsx"),
        (parquet(id=[1]), "Parquet, .*format: parquet"),
        (zst(CSV), "zst .*compression: zst"),
        (gzip.compress(CSV), "gzip, .*compression: gzip"),
        (bz2.compress(CSV), "bzip2, .*compression: bzip2"),
        (lzma.compress(CSV), "xz, .*compression: xz"),
        (zipped(("data.csv", CSV)), "a zip archive, .*compression: zip"),
        (tarred(("data.csv", CSV)), "a tar archive, .*compression: tar"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), "a 7z archive, .*ask for zip"),
        (b"%PDF-1.7\n", "PDF, .*ask for CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "an old Office file .xls., or one with a password"),
        ("id,name\n1,one\n".encode("utf-16"), "UTF-16 .*encoding: utf-16"),
        (b"\xff\xfei\0d\0" + "1,23\n".encode("utf-16-le"), "UTF-16 .by its byte order mark"),
        ("id,name\n1,one\n".encode("utf-16-le"), "UTF-16 .without a byte order mark.*encoding: utf-16-le"),
        (b"<Error><Code>AccessDenied</Code></Error>", "HTML or XML .*AccessDenied"),
        (b"<br />\n<b>Warning</b>: no database\n", "HTML or XML .*Warning"),
        (b'<?xml version="1.0"?><rates/>', "an XML document .*format: xml"),
        (b'{"error": "rate limit"}', "JSON .*rate limit.*format: json"),
        (b'[{"id": 1},\n{"id": 2}]', "JSON .*format: json"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html><html>', "an HTML page"),
        (b"<!-- x --> <html>", "an HTML page"),
        (b"\n<head><title>502 Bad Gateway</title>", "an HTML page"),
    ],
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"header": False, "columns": {"id": {"from": 1}}},
        {"format": "fixed", "columns": {"id": {"from": "1-4"}}, "long_lines": "accept"},
    ],
)
def test_a_file_of_another_kind_is_named_with_the_field_to_set(read, changes, content, message):
    with pytest.raises(ValueError, match=message):
        read(content, **changes)


@pytest.mark.parametrize(
    ("changes", "content", "message"),
    [
        ({"encoding": "cp1252"}, b"\xef\xbb\xbf" + CSV, "UTF-8 .by its byte order mark.*encoding: utf-8"),
        ({"encoding": "utf-16"}, CSV.decode().encode("utf-16-le"), "UTF-16 .without .*encoding: utf-16-le"),
        ({"format": "json"}, '[{"id": 1}]'.encode("utf-16"), "UTF-16 .*JSON is UTF-8: ask for it"),
    ],
)
def test_a_file_in_another_encoding_is_named(read, changes, content, message):
    with pytest.raises(ValueError, match=message):
        read(content, **changes)


def test_a_tar_within_what_is_compressed_is_named(read):
    with pytest.raises(ValueError, match=r"a tar archive, .*compression: tar"):
        read(tarred(("data.csv", CSV), mode="w:gz"), compression="gzip")


@pytest.mark.parametrize(
    ("changes", "content"),
    [
        ({"header": False, "columns": places(a=1, b=2)}, b"Service temporarily unavailable\n"),
        ({"format": "fixed", "columns": places(a="1-4", b="5-8")}, b"Service temporarily unavailable\n"),
        ({"format": "jsonl"}, b'{"error": "rate limit"}\n'),
        ({"format": "json"}, b'{"error": "rate limit"}'),
        ({"format": "rfc822"}, b"Error: rate limit\n"),
    ],
)
def test_an_error_in_words_is_no_file(read, changes, content):
    with pytest.raises(ValueError, match=r"no record of 1 can be read|has no array"):
        read(content, **changes)


def test_text_that_only_begins_like_another_kind_is_text(read):
    for begin in ("ORC", "BZh", "[1]", "{x}", "<TICKER>", "<b>x</b>"):
        content = f"{begin},name\n1,one\n".encode()
        columns = {"a": {"from": begin}, "name": "text"}
        assert read(content, columns=columns)[0] == [{"a": "1", "name": "one"}]


# -- A parser of one's own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["none", "gzip", "zip", "tar"])
@pytest.mark.parametrize("error", ["RuntimeError('oops')", "EOFError('oops')", "NotImplementedError('oops')"])
def test_what_a_parser_raises_is_not_said_of_the_compression(feed, tmp_path, monkeypatch, capsys, packing, error):
    name = f"own_{packing}_{error[:3].lower()}"
    (tmp_path / f"{name}.py").write_text(f"def rows(file, feed):\n    yield {{'id': 1}}\n    raise {error}\n")
    monkeypatch.syspath_prepend(tmp_path)
    small = feed(format=None, parser=f"{name}:rows", compression=packing)
    packed = {"none": CSV, "gzip": gzip.compress(CSV), "zip": zipped(("a", CSV)), "tar": tarred(("a", CSV))}[packing]
    (tmp_path / "file").write_bytes(packed)
    kind = error.partition("(")[0]
    with pytest.raises(ValueError, match=rf"{name}:rows fails at record 2 \({name}.py, line 3\): {kind}: oops"):
        list(parse.records(small, tmp_path / "file"))
    assert f"line 3, in rows\n    raise {error}" in capsys.readouterr().out


def test_a_parser_that_cannot_reach_something_may_be_tried_again(feed, tmp_path, monkeypatch):
    (tmp_path / "own_reach.py").write_text("def rows(file, feed):\n    open('/nowhere')\n    yield\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "file").write_bytes(CSV)
    with pytest.raises(OSError, match=r"own_reach:rows fails at record 1 .*No such file") as raised:
        list(parse.records(feed(format=None, parser="own_reach:rows"), tmp_path / "file"))
    # The file of the feed is there.
    assert not isinstance(raised.value, FileNotFoundError)


# -- What a feed may say ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "json", "comment": "#"}, "comment is for csv, fixed, jsonl, xlsx, and not for json: remove it"),
        ({"width": 16}, "width is for fixed, and not for csv"),
        ({"sheet": "x"}, "sheet is for xlsx, and not for csv"),
        ({"member": "x.csv"}, "member is for an archive: compression is none; write zip or tar"),
        ({"format": "xml"}, "records: write the path of a record's element"),
        ({"escape": ","}, "escape: ',' is the delimiter"),
        ({"header": False, "repeated_header": "skip", "columns": places(a=1)}, "repeated_header is for files with a"),
        ({"format": "fixed", "width": 4, "columns": places(a="1-8")}, "'1-8' is behind the end of a record .width: 4"),
        ({"format": "fixed", "encoding": "utf-16", "columns": places(a="2-5")}, "a character of utf-16 has 2 bytes"),
        ({"format": "xlsx", "header": False}, "without a header write the field's number"),
        ({"format": "parquet", "columns": places(a=1)}, "write a field's name"),
        ({"comment": ""}, "comment"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_refused(feed, changes, message):
    with pytest.raises(ValueError, match=message):
        feed(**changes)


@pytest.mark.parametrize(
    ("path", "packing", "of_a_parser"),
    [
        ("/x.csv", "none", "none"),
        ("/x.csv.gz", "gzip", "gzip"),
        ("/x.tar.gz", "tar", "gzip"),
        ("/x.tgz", "tar", "none"),
        ("/x.csv.zst", "zst", "none"),
        ("/x.xlsx", "none", "none"),
    ],
)
def test_the_ending_says_how_a_file_is_packed(feed, tmp_path, monkeypatch, path, packing, of_a_parser):
    assert feed(path=path).packing == packing
    # A parser that was written for what it gets, gets it still.
    (tmp_path / "own_packed.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert feed(path=path, format=None, parser="own_packed:rows").packing == of_a_parser


@pytest.mark.parametrize("name", ["parquet", "xlsx", "xml"])
def test_a_large_file_of_each_format_is_read_in_bounded_memory(feed, tmp_path, name):
    number = {"xlsx": 20_000, "xml": 80_000, "parquet": 400_000}[name]
    path = tmp_path / "file"
    if name == "parquet":
        table = {"id": list(range(number)), "name": [f"something that is longer {n}" for n in range(number)]}
        pyarrow.parquet.write_table(pyarrow.table(table), path)
        del table
    elif name == "xlsx":
        book = openpyxl.Workbook(write_only=True)
        sheet = book.create_sheet()
        sheet.append(["id", "name"])
        for n in range(number):
            sheet.append([n, "something that is longer"])
        book.save(path)
    else:
        with path.open("w") as file:
            file.write("<r>")
            for n in range(number):
                file.write(f"<i><id>{n}</id><name>something that is longer</name></i>\n")
            file.write("</r>")
    small = feed(format=name, **({"records": "r.i"} if name == "xml" else {}))
    list(zip(range(10), parse.records(small, path), strict=False))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(len(rows) for rows, _ in load._batches(small, path, "2025-10-20")) == number
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000
