"""What a column gets for a value of a file: exactly what the type and the options say, or nothing."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from feed.column import Column
from feed.dateformat import compiled
from feed.values import converter

BERLIN = ZoneInfo("Europe/Berlin")
REFUSED = object()
# A text of a CSV file for each class of input.
INPUTS = {
    "one": "1",
    "digits": "7",
    "minus": "-7",
    "plus": "+7",
    "zeros in front": "007",
    "decimal point": "1.5",
    "decimal comma": "1,5",
    "whole with a point": "7.00",
    "thousands or one": "1.000",
    "grouped": "1.234.567",
    "grouped by blanks": "1 234",
    "exponent": "1e3",
    "NaN": "NaN",
    "infinity": "inf",
    "overflow": "99999999999999999999",
    "huge exponent": "1e400",
    "tiny exponent": "1e-400",
    "many places": "1.23456789",
    "zeros behind": "1.2300",
    "hexadecimal": "0x1F",
    "underscore": "1_000",
    "wide digit": "\uff17",
    "percent": "12.5%",
    "parentheses": "(7)",
    "trailing minus": "7-",
    "blanks around": " 7 ",
    "nothing": "",
    "blank": " ",
    "long": "x" * 300,
    "word": "true",
    "yes": "Y",
    "marker": "N/A",
    "day": "2025-10-20",
    "compact day": "20251020",
    "short day": "20.10.25",
    "no such day": "2025-02-30",
    "zero day": "0000-00-00",
    "day and time": "2025-10-20 09:30:00",
    "digits of a second": "2025-12-31 23:59:59.999999",
    "seven digits": "2025-12-31 23:59:59.9999999",
    "offset": "2025-10-20 00:30:00+09:00",
    "Z": "2025-10-20T09:30:00Z",
    "day with offset": "2025-10-20+09:00",
    "gap": "2025-03-30 02:30:00",
    "fold": "2025-10-26 02:30:00",
    "fold with offset": "2025-10-26 02:30:00+01:00",
    "after the last timestamp": "2038-01-19T03:14:08Z",
    "time": "09:30",
    "hour with one digit": "9:30:00",
    "time without colon": "0930",
    "six digits": "093000",
    "leap second": "23:59:60",
    "longest time": "838:59:59",
    "too long time": "839:00:00",
    "fraction of a second": "23:59:59.5",
    "time with offset": "09:30:00+09:00",
    "seconds since 1970": "1760952600",
    "year": "2025",
    "short year": "25",
    "JSON": '{"a": 1.5}',
    "JSON that json rounds": "[12345678901234567.8901]",
}
NULL = {"nothing": None, "blank": None}
SMALL = {
    **NULL,
    "one": 1,
    "digits": 7,
    "plus": 7,
    "zeros in front": 7,
    "whole with a point": 7,
    "blanks around": 7,
    "short year": 25,
}
WHOLE = {**SMALL, "year": 2025, "time without colon": 930, "six digits": 93000, "compact day": 20251020}
PLACES = {
    **WHOLE,
    "decimal point": Decimal("1.5"),
    "thousands or one": 1,
    "exponent": 1000,
    "zeros behind": Decimal("1.23"),
}
FLOAT = {**PLACES, "decimal point": 1.5, "zeros behind": 1.23, "many places": 1.23456789}
SECONDS = {"seconds since 1970": 1760952600}
DAYS = {
    **NULL,
    "day": "2025-10-20 00:00:00",
    "compact day": "2025-10-20 00:00:00",
    "day and time": "2025-10-20 09:30:00",
    "offset": "2025-10-19 17:30:00",
    "Z": "2025-10-20 11:30:00",
    "gap": "2025-03-30 02:30:00",
    "fold": "2025-10-26 02:30:00",
    "fold with offset": "2025-10-26 02:30:00",
    "after the last timestamp": "2038-01-19 04:14:08",
}
INSTANTS = {
    **NULL,
    "day": "2025-10-19 22:00:00",
    "compact day": "2025-10-19 22:00:00",
    "day and time": "2025-10-20 07:30:00",
    "offset": "2025-10-19 15:30:00",
    "Z": "2025-10-20 09:30:00",
    "fold with offset": "2025-10-26 01:30:00",
}
TIMES = {
    **NULL,
    "time": "09:30:00",
    "hour with one digit": "09:30:00",
    "six digits": "09:30:00",
    "longest time": "838:59:59",
}
LONG = {"long", "digits of a second", "seven digits", "offset", "fold with offset", "JSON that json rounds"}
ALL = set(INPUTS)
# Of each type, what is accepted and what the column gets, in a feed of Berlin; everything else is refused.
TABLE = {
    "tinyint": {**SMALL, "minus": -7},
    "tinyint unsigned": SMALL,
    "int": {**WHOLE, **SECONDS, "minus": -7},
    "bigint unsigned": {**WHOLE, **SECONDS},
    "decimal(10,2)": {**PLACES, "minus": -7},
    "decimal(10,2) unsigned": PLACES,
    "decimal(30,10)": {
        **PLACES,
        **SECONDS,
        "minus": -7,
        "many places": Decimal("1.23456789"),
        "overflow": 99999999999999999999,
    },
    "float": {**FLOAT, "minus": -7},
    "double": {**FLOAT, **SECONDS, "minus": -7},
    "double unsigned": {**FLOAT, **SECONDS},
    "boolean": {**NULL, "one": 1, "word": 1},
    "char(20)": {name: INPUTS[name] for name in ALL - LONG - {"blanks around", "blank"}},
    "varchar(20)": {name: INPUTS[name] for name in ALL - LONG},
    "tinytext": {name: INPUTS[name] for name in ALL - {"long"}},
    "text": INPUTS,
    "binary(7)": {"hour with one digit": b"9:30:00"},
    "varbinary(20)": {name: INPUTS[name].encode() for name in ALL - LONG},
    "blob": {name: text.encode() for name, text in INPUTS.items()},
    "json": {
        **NULL,
        **{name: INPUTS[name] for name in ("one", "digits", "minus", "decimal point", "exponent", "year", "JSON")},
        **{name: INPUTS[name] for name in ("whole with a point", "thousands or one", "many places", "zeros behind")},
        **{name: INPUTS[name] for name in ("word", "compact day", "seconds since 1970", "short year")},
        "blanks around": "7",
    },
    "date": {
        **{name: text and text[:10] for name, text in DAYS.items()},
        "digits of a second": "2025-12-31",
        "seven digits": "2025-12-31",
    },
    "datetime": DAYS,
    "datetime(6)": {**DAYS, "digits of a second": "2025-12-31 23:59:59.999999"},
    "timestamp": INSTANTS,
    "timestamp(6)": {**INSTANTS, "digits of a second": "2025-12-31 22:59:59.999999"},
    "time": TIMES,
    "time(3)": {**TIMES, "fraction of a second": "23:59:59.5"},
    "year": {**NULL, "year": "2025"},
}


def got(kind, value, *, zone=BERLIN, is_json=False, encoding="utf-8", **options):
    try:
        return converter(Column(type=kind, **options), encoding, zone, is_json=is_json)(value)
    except ValueError:
        return REFUSED


@pytest.mark.parametrize("kind", TABLE)
def test_each_type_takes_each_class_of_input_exactly_or_refuses_it(kind):
    convert = converter(Column(type=kind), "utf-8", BERLIN)
    found = {}
    for name, text in INPUTS.items():
        try:
            found[name] = convert(text)
        except ValueError:
            found[name] = REFUSED
    assert found == {name: TABLE[kind].get(name, REFUSED) for name in INPUTS}


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("tinyint", -128, 127),
        ("smallint", -32768, 32767),
        ("mediumint", -(2**23), 2**23 - 1),
        ("int", -(2**31), 2**31 - 1),
        ("bigint", -(2**63), 2**63 - 1),
        ("tinyint unsigned", 0, 255),
        ("smallint unsigned", 0, 65535),
        ("mediumint unsigned", 0, 2**24 - 1),
        ("int unsigned", 0, 2**32 - 1),
        ("bigint unsigned", 0, 2**64 - 1),
    ],
)
def test_an_integer_ends_where_its_type_does(kind, low, high):
    for number in (low, high):
        assert got(kind, str(number)) == got(kind, number) == number
    for number in (low - 1, high + 1):
        assert got(kind, str(number)) is got(kind, number) is REFUSED


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("decimal(12,6)", "1400.123456", Decimal("1400.123456")),
        ("decimal(12,2)", "1400.123456", REFUSED),
        ("decimal(12,2)", "9999999999.99", Decimal("9999999999.99")),
        ("decimal(12,2)", "10000000000", REFUSED),
        ("decimal(12,2)", "-0", 0),
        ("decimal(2,2)", "0.99", Decimal("0.99")),
        ("decimal(2,2)", "1", REFUSED),
        ("decimal(4)", "12.0", 12),
        ("decimal(4)", "12.5", REFUSED),
        ("decimal(65,0)", "9" * 65, 10**65 - 1),
        ("decimal(30,10)", "12345678901234567.8901", Decimal("12345678901234567.8901")),
        ("decimal(65,0)", "1E+64", Decimal("1E+64")),
        ("decimal(10,2)", "0e999", REFUSED),
        ("float", "3.5e38", REFUSED),
        ("float", "1e-50", REFUSED),
        ("float", "0.1", 0.1),
        ("float", "16777216", 16777216),
        ("float", "16777217", REFUSED),
        ("double", "9007199254740993", REFUSED),
        ("double", "6.02214076e23", 6.02214076e23),
        ("double", "0.0", 0),
        ("char(3)", "한국어", "한국어"),
        ("char(3)", "한국어로", REFUSED),
        ("tinytext", "é" * 127, "é" * 127),
        ("tinytext", "é" * 128, REFUSED),
        ("varbinary(3)", "é é", REFUSED),
        ("timestamp", "1970-01-01T00:00:01Z", "1970-01-01 00:00:01"),
        ("timestamp", "1970-01-01T00:00:00Z", REFUSED),
        ("datetime", "9999-12-31T23:59:59-14:00", REFUSED),
        ("date", "0999-12-31", REFUSED),
        ("datetime", "2025-10-20T09:30:00+1530", REFUSED),
        ("datetime", "2025-10-20T09:30:00 -0330", "2025-10-20 15:00:00"),
        ("datetime(3)", "2025-10-20 09:30:00.123000", "2025-10-20 09:30:00.123"),
        ("datetime(3)", "2025-10-20 09:30:00.1235", REFUSED),
        ("datetime", "20251020093000", "2025-10-20 09:30:00"),
        ("datetime", "2025-10-20 24:00:00", REFUSED),
        ("time", "-1 09:30:00", "-33:30:00"),
        ("time", "9:30 PM", REFUSED),
        ("year", "1900", REFUSED),
        ("json", '{"a": 1, "a": 2}', REFUSED),
        ("json", "[18446744073709551616]", REFUSED),
        ("json", '{"a": NaN}', REFUSED),
        ("json", "[" * 100_000, REFUSED),
    ],
)
def test_the_edges_of_each_type(kind, value, expected):
    assert got(kind, value) == expected


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("bigint", 7, 7),
        ("bigint", True, 1),
        ("bigint", 1.0, 1),
        ("bigint", Decimal("1E+3"), 1000),
        ("bigint", Decimal("0.4"), REFUSED),
        ("bigint", float("nan"), REFUSED),
        ("bigint", Decimal("1E+1000000000"), REFUSED),
        ("bigint", 10**4000, REFUSED),
        ("bigint", [1], REFUSED),
        ("bigint", b" 7 ", 7),
        ("decimal(30,10)", Decimal("12345678901234567.8901"), Decimal("12345678901234567.8901")),
        ("decimal(10,2)", 0.1, Decimal("0.1")),
        ("decimal(10,2)", 0.1 + 0.2, REFUSED),
        ("decimal(10,2)", True, REFUSED),
        ("decimal(10,2)", Decimal("NaN"), REFUSED),
        ("double", Decimal("0.1"), 0.1),
        ("double", float("inf"), REFUSED),
        ("double", 2**53 + 1, REFUSED),
        ("boolean", False, 0),
        ("boolean", 2, REFUSED),
        ("varchar(10)", 7, "7"),
        ("varchar(10)", True, "true"),
        ("varchar(10)", Decimal("1.50"), "1.50"),
        ("varchar(40)", {"a": [Decimal("12345678901234567.8901")]}, '{"a": [12345678901234567.8901]}'),
        ("text", Decimal("1E+1000000000"), REFUSED),
        ("text", "\udcff", REFUSED),
        ("json", "a", '"a"'),
        ("json", {"a": Decimal("1.5"), "b": None}, '{"a": 1.5, "b": null}'),
        ("json", {"a": Decimal("12345678901234567.8901")}, REFUSED),
        ("json", {"a": "\ud83d"}, REFUSED),
        # A number has lost the zeros that it began with.
        ("date", 20251020, REFUSED),
        ("time", 930, REFUSED),
        ("date", date(2025, 10, 20), "2025-10-20"),
        ("datetime", datetime(2025, 10, 20, 9, 30), "2025-10-20 09:30:00"),
        ("datetime", datetime(2025, 10, 20, tzinfo=UTC), "2025-10-20 02:00:00"),
        ("timestamp", date(2025, 10, 20), "2025-10-19 22:00:00"),
        ("timestamp", date(1, 1, 1), REFUSED),
        ("datetime", time(9, 30), REFUSED),
        ("time", time(9, 30), "09:30:00"),
        ("time", timedelta(hours=-30), "-30:00:00"),
        ("time", timedelta(microseconds=1), REFUSED),
        ("time", datetime(2025, 10, 20, 9, 30), REFUSED),
        ("year", 2025, "2025"),
    ],
)
def test_values_of_json_and_of_parsers(kind, value, expected):
    assert got(kind, value, is_json=True) == expected


GERMAN = {"decimal": ",", "thousands": "."}


@pytest.mark.parametrize(
    ("kind", "options", "value", "expected"),
    [
        ("int", {"thousands": "."}, "1.234", 1234),
        ("int", {"thousands": "."}, "12.500", 12500),
        ("int", {"thousands": "."}, "1.000", 1000),
        ("int", {"decimal": "."}, "1.000", 1),
        ("int", {"thousands": "."}, "1234567", 1234567),
        *[("int", {"thousands": "."}, text, REFUSED) for text in ("1.23", "0.123", "1234.567", "1.2345", "1.234.5")],
        ("decimal(12,2)", GERMAN, "-1.234,56", Decimal("-1234.56")),
        ("decimal(12,2)", GERMAN, "1.234.567,8", Decimal("1234567.8")),
        *[
            ("decimal(12,2)", GERMAN, text, REFUSED)
            for text in ("1,234.56", "1.23", "1234.56", "1,2,3", ",", "1.234,567")
        ],
        ("decimal(12,2)", {"thousands": ","}, "1,234.56", Decimal("1234.56")),
        ("decimal(12,2)", {"thousands": ","}, "1,23", REFUSED),
        *[("int", {"thousands": " "}, f"1{blank}234", 1234) for blank in (" ", "\u00a0", "\u202f")],
        ("int", {"thousands": " "}, "1 234\u00a0567", REFUSED),
        ("int", {"thousands": "'"}, "1\u2019234", 1234),
        ("decimal(10,2)", {"negative": "parentheses"}, "(1.50)", Decimal("-1.5")),
        ("decimal(10,2)", {"negative": "parentheses"}, "-1.50", Decimal("-1.5")),
        *[
            ("decimal(10,2)", {"negative": "parentheses"}, text, REFUSED)
            for text in ("(1.50", "1.50)", "(-1.50)", "()")
        ],
        ("decimal(10,2)", {"negative": "trailing"}, "1.50-", Decimal("-1.5")),
        ("decimal(10,2)", {"negative": "trailing"}, "1.50+", Decimal("1.5")),
        ("decimal(10,2)", {"negative": "trailing"}, "-1.50-", REFUSED),
        ("decimal(10,4)", {"percent": "keep"}, "12.5%", Decimal("12.5")),
        ("decimal(10,4)", {"percent": "fraction"}, "12.5 %", Decimal("0.125")),
        ("decimal(10,2)", {"percent": "fraction"}, "12.5%", REFUSED),
        ("decimal(10,4)", {"percent": "keep"}, "12.5", REFUSED),
        ("decimal(10,4)", {"percent": "keep"}, 12.5, REFUSED),
        ("decimal(10,2)", {"places": 2}, "12345", Decimal("123.45")),
        ("decimal(10,2)", {"places": 2}, "-5", Decimal("-0.05")),
        ("decimal(10,2)", {"places": 2}, 12345, Decimal("123.45")),
        ("decimal(10,2)", {"places": 2}, "123.45", REFUSED),
        ("decimal(10,2)", {"places": 3}, "12345", REFUSED),
        ("boolean", {"true_values": ["Y", "yes"], "false_values": ["N"]}, "yes", 1),
        ("boolean", {"true_values": ["Y", "yes"], "false_values": ["N"]}, "N", 0),
        ("boolean", {"true_values": ["Y", "yes"], "false_values": ["N"]}, "y", REFUSED),
        ("boolean", {"true_values": ["X"], "false_values": [""]}, "", 0),
        ("decimal(10,2)", {"null_values": ["N/A", "-"]}, "N/A", None),
        ("decimal(10,2)", {"null_values": ["N/A", "-"]}, "n/a", REFUSED),
        ("int", {"null_values": ["-9999"]}, -9999, None),
        ("text", {"null_values": [""]}, "", None),
        ("varchar(3)", {"trim": True}, "  abc  ", "abc"),
        ("char(3)", {"trim": True}, "KR ", "KR"),
        ("date", {"format": "%d.%m.%y"}, "20.10.25", "2025-10-20"),
        ("date", {"format": "%d.%m.%y"}, "20.10.69", "1969-10-20"),
        ("date", {"format": "%d.%m.%y"}, "20.10.2025", REFUSED),
        ("date", {"format": "%d.%m.%y"}, "2025-10-20", REFUSED),
        ("date", {"format": "%d-%b-%Y"}, "20-OCT-2025", "2025-10-20"),
        ("date", {"format": "%d %B %Y"}, "20 october 2025", "2025-10-20"),
        ("date", {"format": "%d-%b-%Y"}, "20-OKT-2025", REFUSED),
        ("date", {"format": "%a, %d %b %Y"}, "Mon, 20 Oct 2025", "2025-10-20"),
        ("date", {"format": "%a, %d %b %Y"}, "Tue, 20 Oct 2025", REFUSED),
        ("date", {"format": "%Y%j"}, "2025366", REFUSED),
        ("date", {"format": "%Y%m%d"}, 20251020, "2025-10-20"),
        ("date", {"format": ["%d/%m/%Y", "%Y-%m-%d"]}, "2025-10-20", "2025-10-20"),
        ("date", {"format": ["%d/%m/%Y", "%m/%d/%Y"]}, "20/10/2025", "2025-10-20"),
        ("date", {"format": ["%d/%m/%Y", "%m/%d/%Y"]}, "02/10/2025", REFUSED),
        ("date", {"format": ["%d/%m/%Y", "%m/%d/%Y"]}, "10/10/2025", "2025-10-10"),
        ("datetime", {"format": "%m/%d/%Y %I:%M %p"}, "10/20/2025 12:05 am", "2025-10-20 00:05:00"),
        ("datetime(6)", {"format": "%Y%m%d%H%M%S%f"}, "20251020093000123456", "2025-10-20 09:30:00.123456"),
        ("timestamp", {"format": "%a, %d %b %Y %H:%M:%S %Z"}, "Mon, 20 Oct 2025 09:30:00 GMT", "2025-10-20 09:30:00"),
        ("time", {"format": "%H%M"}, "0700", "07:00:00"),
        *[("time", {"format": "%H%M"}, text, REFUSED) for text in ("700", "123", "07000", "2400", 700)],
        ("datetime", {"epoch": "s"}, "1760952600", "2025-10-20 11:30:00"),
        ("datetime(3)", {"epoch": "ms"}, 1760952600123, "2025-10-20 11:30:00.123"),
        ("datetime", {"epoch": "ms"}, 1760952600123, REFUSED),
        ("datetime", {"epoch": "s"}, 1760952600123, REFUSED),
        ("timestamp(6)", {"epoch": "us"}, "1760952600123456", "2025-10-20 09:30:00.123456"),
        ("timestamp(6)", {"epoch": "s"}, Decimal("1760952600.5"), "2025-10-20 09:30:00.5"),
        ("timestamp(6)", {"epoch": "ns"}, "1760952600123456789", REFUSED),
        ("date", {"epoch": "ms"}, "1760997600000", "2025-10-21"),
        ("date", {"epoch": "s"}, True, REFUSED),
        ("date", {"epoch": "s"}, "2025-10-20", REFUSED),
        ("timestamp", {"timezone": "UTC"}, "2025-10-26 02:30:00", "2025-10-26 02:30:00"),
        ("date", {"timezone": "Asia/Seoul"}, "2025-10-20 00:30:00+09:00", "2025-10-20"),
    ],
)
def test_what_the_options_of_a_column_say(kind, options, value, expected):
    assert got(kind, value, **options) == expected


@pytest.mark.parametrize(
    ("zone", "day"), [("Europe/Berlin", "2025-10-19"), ("Asia/Seoul", "2025-10-20"), ("UTC", "2025-10-19")]
)
def test_the_zone_of_the_feed_says_which_day_an_instant_is(zone, day):
    assert got("date", "2025-10-20 00:30:00+09:00", zone=ZoneInfo(zone)) == day


@pytest.mark.parametrize(
    ("encoding", "expected"), [("utf-8", "서".encode()), ("utf-8-sig", "서".encode()), ("cp949", "서".encode("cp949"))]
)
def test_a_binary_column_gets_the_bytes_of_the_file(encoding, expected):
    assert got("blob", "서", encoding=encoding) == expected


@pytest.mark.parametrize(
    ("kind", "value", "options", "reason"),
    [
        ("int", "1.000", {}, 'can be a thousand or one: write thousands: "." or decimal: "."'),
        ("int", "1.234", {}, 'is not an integer such as 1234: .*; when it is 1234, write thousands: "."'),
        ("decimal(12,2)", "1400.123456", {}, r"has 6 decimal places, and decimal\(12,2\) keeps 2"),
        ("decimal(12,2)", "1,5", {"thousands": "."} | {"decimal": ","}, None),
        ("decimal(12,2)", "1.5", GERMAN, r"is not a number such as 1\.234,5"),
        ("tinyint", "128", {}, "is out of range for tinyint, which is -128 to 127"),
        ("time", "0930", {}, "is not a time such as 09:30.*format, such as '%H%M'"),
        ("date", "20.10.25", {}, "is not a date such as 2025-10-20.*fields format and epoch"),
        ("date", "2025-02-30", {}, "is no such day"),
        (
            "date",
            "02/10/2025",
            {"format": ["%d/%m/%Y", "%m/%d/%Y"]},
            "is one thing as %d/%m/%Y and another as %m/%d/%Y",
        ),
        ("datetime", "2025-10-20 09:30:00.5", {}, "keeps 0 digits of a second: give the type 1 digits in brackets"),
        ("timestamp", "2025-03-30 02:30:00", {}, "does not come on that day in Europe/Berlin"),
        ("timestamp", "2025-10-26 02:30:00", {}, "comes twice on that day in Europe/Berlin.*offset"),
        ("datetime", 1760952600123, {"epoch": "s"}, r"is s the right unit \(epoch\)"),
        ("varchar(3)", "abcd", {}, r"has 4 characters, and varchar\(3\) takes 3"),
        ("char(3)", "ab ", {}, "ends with a blank, which char loses: write trim: true"),
        ("boolean", "Y", {}, "fields true_values and false_values"),
    ],
)
def test_a_reason_says_what_is_wrong_and_what_helps(kind, value, options, reason):
    convert = converter(Column(type=kind, **options), "utf-8", BERLIN)
    if reason is None:
        assert convert(value) == Decimal("1.5")
        return
    with pytest.raises(ValueError, match=reason):
        convert(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("%d.%m.%q", "%q is not known"),
        ("%-d.%m.%Y", "%-d is not known"),
        ("%d.%m", "a day is a year, a month and a day"),
        ("%Y-%m-%d %Y", "%Y is there twice"),
        ("%I:%M", "%I and %p belong together"),
        ("%M:%S", "neither a day nor an hour"),
        ("%Y-%m-%d %M", "a time needs an hour"),
        ("%", "% is not known"),
    ],
)
def test_a_format_that_cannot_be_right_is_refused_by_name(text, message):
    with pytest.raises(ValueError, match=message):
        compiled(text)
