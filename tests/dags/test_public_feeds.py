"""The feeds in docs/feeds: ten public formats, each without a parser, and the values that a reader of the file sees."""

from decimal import Decimal
from pathlib import Path

import pytest

from feed.__main__ import main
from feed.check import checked_rows, open_feed

ROOT = Path(__file__).resolve().parents[2]
FEEDS, SAMPLES = ROOT / "docs/feeds", ROOT / "tests/dags/samples"
# By hand, from the samples; numbers stand for themselves, whatever Python's type, and None for NULL.
ROWS = {
    "ecb_rates": [
        ("2025-10-20", "1.1655", "1657.34", None),
        ("2025-10-17", "1.1681", "1661.08", None),
        ("2007-12-31", "1.4721", None, "0.585274"),
    ],
    "krx_stocks": [
        ("005930", "삼성전자", "98100", "0.20", "17254310"),
        ("000660", "SK하이닉스", "485500", "4.30", "5120004"),
        ("035720", "카카오", "59300", "-1.17", "987"),
    ],
    "german_bank": [
        ("2025-10-20", "Müller & Söhne", "Rechnung 4711; Skonto", "-1234.56", "EUR"),
        ("2025-10-20", "Stadtwerke", "Abschlag €", "-98.00", "EUR"),
        ("2025-10-20", "Kundin", 'Zahlung "Oktober"', "12500.00", "EUR"),
    ],
    "nse_bhavcopy": [
        ("RELIANCE", "EQ", "2025-10-20", "1466.80", "14587654", "7654321", "52.47"),
        ("20MICRONS", "EQ", "2025-10-20", "209.20", "45012", "30015", "66.68"),
        ("GOLDBEES", "N1", "2025-10-20", "101.05", "120", None, None),
    ],
    "github_issues": [
        ("57001", "Sensor waits for ever", "octocat", "2025-10-20 09:30:00", None, '[{"name": "bug"}]'),
        ("56990", "환율 feed", "hubot", "2025-10-19 23:59:59", "2025-10-20 10:00:00", "[]"),
    ],
    "nasdaq_symbols": [
        ("AAPL", "Apple Inc. - Common Stock", "0", "100", "0"),
        ("QQQ", "Invesco QQQ Trust, Series 1", "0", "100", "1"),
        ("ZVZZT", 'NASDAQ "TEST" STOCK', "1", "100", "0"),
    ],
    "ghcn_daily": [
        ("USC00011084", "2025-10-20", "TMAX", "250", "", "07:00:00"),
        ("USC00011084", "2025-10-20", "PRCP", "0", "", "17:30:00"),
        ("KSM00047108", "2025-10-20", "TMIN", "-13", "I", None),
    ],
    "sec_filings": [
        ("1000045", "NICHOLAS FINANCIAL INC", "10-Q", "2025-10-20", "edgar/data/1000045/0000950170-25-000001.txt"),
        ("1001039", 'Société "A" SA', "8-K", "2025-10-17", "edgar/data/1001039/0001001039-25-000002.txt"),
    ],
    "usgs_quakes": [
        ("nc75254001", "1.5", "5 km W of Cobb, CA", "2025-10-20 09:10:00.123", "-122.78", "38.82", "1.9"),
        ("us7000r5x2", None, "south of the Fiji Islands", "2025-10-20 00:00:00", "-178.4", "-24.1", "550"),
    ],
    "binance_klines": [
        ("2025-10-20 00:00:00", "108642.77", "108975.10", "812.4167", "154321"),
        ("2025-10-20 01:00:00", "108975.11", "109321.99", "633.0001", "120045"),
    ],
}
# Of GHCN one observation is made at 2400, which no clock shows.
REJECTED = {"ghcn_daily": {4: "observed_at"}}
NUMBERS = ("int", "decimal", "double", "boolean")


def sample_of(name):
    (found,) = SAMPLES.glob(f"{name}.*")
    return found


def seen(value, column):
    """Return a value as ROWS writes it."""
    if value is None:
        return None
    text = str(int(value) if isinstance(value, bool) else value)
    if any(word in column.type for word in NUMBERS):
        return f"{Decimal(text).normalize():f}"
    # Zeros of a second are no difference.
    return text.rstrip("0").rstrip(".") if column.type.startswith(("datetime", "timestamp")) and "." in text else text


def test_every_feed_has_its_rows_and_its_sample():
    assert {path.stem for path in FEEDS.glob("*.yml")} == ROWS.keys()
    assert {path.name.partition(".")[0] for path in SAMPLES.iterdir()} == ROWS.keys()
    assert main(["check", str(FEEDS)]) == 0


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_of_a_public_format(name):
    feed = open_feed(FEEDS / f"{name}.yml")
    columns = feed.load.columns.values()
    found = list(checked_rows(feed, sample_of(name)))
    rejected = {number: bad.reason for number, _, bad in found if bad}
    assert rejected.keys() == REJECTED.get(name, {}).keys(), rejected
    assert all(reason.startswith(REJECTED[name][number]) for number, reason in rejected.items())
    rows = [tuple(map(seen, values, columns)) for _, values, bad in found if not bad]
    expected = [
        tuple(value if value is None else seen(value, column) for value, column in zip(row, columns, strict=True))
        for row in ROWS[name]
    ]
    assert rows == expected


@pytest.mark.parametrize("name", ROWS)
def test_the_check_says_that_a_public_format_would_be_loaded(name, capsys):
    sample = sample_of(name)
    assert main(["check", str(FEEDS / f"{name}.yml"), str(sample)]) == 0
    said = capsys.readouterr().out
    total = len(ROWS[name]) + len(REJECTED.get(name, {}))
    assert f"{len(ROWS[name])} of {total} records would be loaded" in said
    assert all(f"record {number}: " in said for number in REJECTED.get(name, {}))
