"""What a column gets for a value of a file: as it is, or not at all."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest

from feed.model import Column
from feed.values import value_of

CSV = SimpleNamespace(format="csv", encoding="utf-8")


def got(kind, value):
    return value_of(value, "n", Column(type=kind), CSV)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *[("int", text) for text in ("0", "007", "-12", "+12", "1.0", "1.", "1234.000", "0.000", "1.00")],
        *[("bigint unsigned", number) for number in (0, 2**64 - 1, True, 1.0, 1e3, Decimal("1.0"), Decimal("1E+3"))],
        ("boolean", "1"),
        ("boolean", False),
        ("year", "2025"),
        ("year", 2025),
        *[("date", text) for text in ("2025-10-20", "2025/10/20", "2025.10.20", "20251020")],
        *[("date", f"2025-10-20{midnight}") for midnight in (" 00:00:00", "T00:00:00.000", " 00:00")],
        ("date", "20251020000000"),
        *[("datetime", f"2025-10-20{clock}") for clock in ("", " 09:30", "T09:30:00", " 9:30:00", " 09:30:00.000")],
        *[("datetime", text) for text in ("20251020", "20251020093000", "20251020T093000", "2025/10/20 09:30")],
        ("datetime(3)", "2025-10-20 09:30:00.123"),
        ("datetime(3)", "2025-10-20 09:30:00.123000"),
        ("timestamp", "2025-10-20T09:30:00+09:00"),
        *[("time", text) for text in ("09:30", "09:30:00", "9:30", "-09:30:00", "1 09:30:00", "838:59:59", "093000")],
        ("time(6)", "09:30:00.123456"),
        ("time", timedelta(hours=9)),
        *[("decimal(30,10)", value) for value in ("1.234", "1e3", 0.4, Decimal("12345678901234567.8901"))],
        *[("varchar(20)", text) for text in ("0930", "1.234", " ", "", "2025-12-31 23:59:59.999999")],
    ],
)
def test_what_is_exact_stays_as_it_is(kind, value):
    assert got(kind, value) == value


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("int", " 7 ", "7"),
        ("int", "", None),
        ("int", b"7", "7"),
        ("date", date(2025, 10, 20), "2025-10-20"),
        ("date", datetime(2025, 10, 20), "2025-10-20 00:00:00"),
        ("time", time(9, 30), "09:30:00"),
    ],
)
def test_what_is_written_in_another_way_is_the_same_value(kind, value, expected):
    assert got(kind, value) == expected


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        *[
            ("int", text, "not an integer such as 1234")
            for text in ("0.4", "1.5", "1,5", "1e3", "1E5", "12.500.000", "0x1F")
        ],
        *[("int", text, "can be a thousand or one") for text in ("1.000", "-12.000")],
        *[("int", text, "not an integer") for text in ("1.234", "12.500", "1 234", "1_000")],
        *[
            ("tinyint unsigned", value, "not an integer")
            for value in (0.4, Decimal("0.4"), 2.0**53, Decimal("1.0000001"))
        ],
        ("boolean", "0.4", "not an integer"),
        ("bigint", Decimal("1E+1000000000"), "no column has so many digits"),
        *[("year", value, "no year such as 2025") for value in ("25", 25, "0", "2025.4", "2025-10-20")],
        *[("date", value, "not a date such as 2025-10-20") for value in ("20.10.25", "201025", 20251020, "2025-10-2")],
        *[
            ("date", f"2025-{rest}", "time of day, which a date loses")
            for rest in ("12-31 23:59:59.999999", "10-20 09:30")
        ],
        *[("date", text, "time of day") for text in ("20251020093000", "2025-10-20 00:00:00.5", "20251020T093000")],
        ("date", datetime(2025, 12, 31, 23, 59, 59, 999999), "time of day"),
        ("date", "2025-10-20 00:30:00+09:00", "has an offset"),
        ("date", "2025-10-20 00:00:00+09:00", "has an offset"),
        ("datetime", "2025-10-20T00:30:00+09:00", "has an offset, which a datetime loses: use a timestamp column"),
        ("datetime", datetime(2025, 10, 20, tzinfo=UTC), "has an offset"),
        *[
            ("datetime", text, "not a date such as")
            for text in ("2025-10-20 0930", "2025-10-20T09:30:00Z", "20.10.2025")
        ],
        ("datetime", "2025-12-31 23:59:59.999999", r"keeps 0 digits of a second: give the type 6 digits in brackets"),
        ("datetime(3)", "2025-12-31 23:59:59.9995", "keeps 3 digits of a second"),
        ("timestamp(6)", "2025-12-31 23:59:59.9999995", "keeps 6 digits of a second: use a parser"),
        *[("time", text, "not a time such as 09:30") for text in ("0930", "930", "93000", "9", "7.5", "09:30 PM")],
        *[
            ("time", value, "not a time such as 09:30")
            for value in (930, 93000, "2025-10-20 09:30:00", "09:30:00+09:00")
        ],
        ("time", "23:59:59.5", "would be rounded"),
        ("time(3)", timedelta(microseconds=1), "would be rounded"),
        ("double", float("nan"), "n is nan"),
    ],
)
def test_what_mysql_would_change_is_refused_with_column_value_and_reason(kind, value, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        got(kind, value)
    assert str(refused.value).startswith(("n: ", "n is "))
    assert str(value) in str(refused.value)
