"""The command `airflow-feed`: check feeds on the controller; on the main server review and reload their days."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

from feed import check


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day such as 2025-10-20") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("airflow-feed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("check", help="say what would be loaded from a sample, or whether feeds are right")
    one.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="NAME.yml SAMPLE; or feeds and directories")
    one.add_argument("--rows", type=int, default=10, help="how many rows are shown (default: %(default)s)")
    for name, text in (
        ("review", "say what the feed of today would make of files that are loaded; changes nothing (main server)"),
        ("reload", "load days again from the NAS (main server)"),
    ):
        one = commands.add_parser(name, help=text)
        one.add_argument("name", metavar="NAME", help="the feed's name")
        is_needed = None if name == "reload" else "?"
        one.add_argument("first", type=_day, nargs=is_needed, metavar="DAY", help="such as 2025-10-20")
        one.add_argument("last", type=_day, nargs="?", metavar="LAST_DAY", help="default: DAY alone")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return 0, or 1 when something is wrong, which is printed."""
    given = _parser().parse_args(arguments)
    try:
        return 0 if (_check(given) if given.command == "check" else _days(given)) else 1
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _check(given: argparse.Namespace) -> bool:
    feed, *sample = given.paths
    # One feed, and something that is neither a feed nor a directory.
    if len(sample) == 1 and feed.suffix == ".yml" and sample[0].suffix != ".yml" and not sample[0].is_dir():
        return check.check_sample(feed, sample[0], given.rows)
    return check.check_feeds(given.paths)


def _days(given: argparse.Namespace) -> bool:
    """Review or reload days.

    :raises OSError: Airflow, the NAS or the database refuses.
    """
    # Not on a controller: it needs Airflow and its database.
    from feed import days

    act = days.review if given.command == "review" else days.reload
    try:
        return act(given.name, given.first, given.last or given.first)
    except (ValueError, OSError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
