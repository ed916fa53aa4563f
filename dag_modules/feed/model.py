"""What may stand in feeds/NAME.yml: every field with its type, its default and what it is for."""

from __future__ import annotations

import os
import re
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from croniter import CroniterBadDateError, croniter
from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

import nas
from feed.column import Column, Options
from feed.fields import DAY, Duration, Interval, Part, Pattern, Shift, uses_time
from feed.file import COMPRESSIONS, FORMATS, File, listed, packing_of
from feed.source import Late, Pages, Source
from feed.times import Times

NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
# Columns that loading adds to each row, and tables that it has.
OWN_COLUMNS = ("feed_day", "feed_row")
OWN_TABLES = ("feed_files", "feed_rejects", "feed_new")
# Airflow has 16 runs of a DAG at a time; so many may wait for their files.
WAITING = 12


def cron(value: str) -> str:
    if not (isinstance(value, str) and len(value.split()) == 5 and croniter.is_valid(value)):
        raise ValueError('write five cron fields in quotes, such as "30 5 * * *"')
    try:
        croniter(value).get_next()
    except CroniterBadDateError:
        raise ValueError("there is no such day") from None
    return value


Cron = Annotated[str, BeforeValidator(cron)]


class Loader(yaml.SafeLoader):
    """YAML in which no field stands twice: the last one would win, and the first would seem to count."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, name in enumerate(names):
            if name in names[:number] and name != "<<":
                raise yaml.YAMLError(f"{name} stands there twice, {str(node.start_mark).strip()}: remove one")
        return super().construct_mapping(node, deep)


class Load(Options):
    # Airflow connection of the type mysql, with its schema.
    connection: str
    table: Annotated[str, Field(pattern=rf"^{NAME}$")]
    columns: Annotated[dict[Annotated[str, Field(pattern=rf"^{NAME}$")], Column], Field(min_length=1)]
    # Columns that no two records of a file share.
    key: Annotated[list[str], BeforeValidator(listed)] = Field([])
    # replace: the table has the records of every day; a file replaces those of its own day.
    # upsert: the table has the newest record of each key.
    mode: Literal["replace", "upsert"] = "replace"
    # So many bad records are set aside (table feed_rejects); one more, and nothing of the file is loaded.
    reject_limit: Annotated[int, Field(ge=0)] = 0
    # When to look for files that no event told of.
    sweep: Cron = "15 */4 * * *"

    @field_validator("columns", mode="before")
    @classmethod
    def _write_short(cls, value: object) -> object:
        # `size: int` for `size: {type: int}`.
        if not isinstance(value, dict):
            return value
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"YAML takes the name of a column for {name!r}: write it in quotes")
            # In braces YAML ends the type decimal(12,6) at its comma.
            if isinstance(value[name], dict) and any(re.fullmatch(r"\d+\).*", str(field)) for field in value[name]):
                raise ValueError(f'{name}: in braces write the type in quotes, such as {{type: "decimal(12,6)"}}')
        return {name: {"type": column} if isinstance(column, str) else column or {} for name, column in value.items()}

    @model_validator(mode="after")
    def _agrees(self) -> Load:
        for name in self.key:
            if name not in self.columns:
                raise ValueError(f"key names {name!r}, which is not one of the columns {', '.join(self.columns)}")
            if re.search("text|blob|json", self.columns[name].type):
                raise ValueError(f"the key {name!r} cannot be {self.columns[name].type}: give it varchar(...)")
        if len(set(self.key)) < len(self.key):
            raise ValueError("key names a column twice")
        if len({name.lower() for name in self.columns}) < len(self.columns):
            raise ValueError("two columns have the same name; MySQL does not tell small letters from large ones")
        for name in OWN_COLUMNS:
            if name in map(str.lower, self.columns):
                raise ValueError(f"{name} is added to each row by itself: give the column another name")
        if self.table.lower() in OWN_TABLES:
            raise ValueError(f"{self.table} is a table of feeds: give yours another name")
        if self.mode == "upsert" and not self.key:
            raise ValueError("upsert needs a key")
        self._check_options()
        return self

    def _check_options(self) -> None:
        """Refuse an option for all columns that no column takes, or that contradicts one of a column."""
        columns = {name: self.column(name) for name in self.columns}
        for option in Options.model_fields.keys() & self.model_fields_set:
            value = getattr(self, option)
            if value is not None and not any(getattr(column, option) is not None for column in columns.values()):
                raise ValueError(f"{option}: {value!r}: no column has a type that it is for: remove it")
        for name, column in columns.items():
            try:
                column.check()
            except ValueError as error:
                raise ValueError(f"columns.{name}: {error}") from None

    def column(self, name: str) -> Column:
        """Return a column with the options for all columns that it takes."""
        return self.columns[name].filled(self)


class Feed(File, Part):
    # From the file's name.
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
    # What the file says, for the page of the DAG.
    text: Annotated[str, Field(repr=False)]

    description: str | None = None
    # Five cron fields, in the time zone.
    schedule: Cron
    timezone: str
    # The file is for the day of the run, in the time zone; -1: for the day before.
    day_offset: Annotated[int, Field(ge=-366, le=366)] = 0
    # The file is for the time of the run; -1h: for an hour before.
    time_offset: Shift = timedelta()
    # Backfills can go back to this day.
    start_date: date = date(2020, 1, 1)
    # Fetch every day since start_date: also those on which the main server was down, or the DAG paused.
    catchup: bool = False
    # Queue of the edge worker.
    queue: str = "edge_queue"
    source: Source
    # Name on the NAS, below filestorage/NAME. Default: 20251020 (20251020T0930 when source says the time), and the
    # ending of source.path.
    file: Pattern = ""
    load: Load

    late: Late = Late()
    # Without a record: the task fails, or it is skipped and nothing is kept.
    empty: Literal["fail", "skip"] = "fail"
    # With the content of the day before: kept and loaded like any other, or the task is skipped, or fails.
    unchanged: Literal["accept", "skip", "fail"] = "accept"
    # Airflow connection (smtp or http) that tells of a failed or late run, and of rejected records. Default: FEED_TELL.
    tell: str | None = Field(default_factory=lambda: os.environ.get("FEED_TELL") or None)
    # Of both tasks, with a delay that doubles from retry_delay to max_retry_delay.
    retries: Annotated[int, Field(ge=0)] = 6
    retry_delay: Interval = timedelta(minutes=2)
    max_retry_delay: Interval = timedelta(hours=1)
    # An attempt that takes longer is ended.
    execution_timeout: Interval = timedelta(hours=6)
    # How long a file that is loaded stays on the NAS; without it for ever.
    keep: Duration | None = None

    @classmethod
    def of(cls, path: Path) -> Feed:
        """Read a feed's file.

        :raises ValueError: it is not a right feed; names the file, each wrong field, its value and the remedy.
        """
        shown = f"{path.parent.name}/{path.name}"
        try:
            text = path.read_text(encoding="utf-8")
            content = yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
        except UnicodeDecodeError as error:
            raise ValueError(f"{shown}: not UTF-8: {error}") from None
        except yaml.YAMLError as error:
            raise ValueError(f"{shown}: not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict) or not all(isinstance(field, str) for field in content):
            raise ValueError(f"{shown}: write fields, such as `schedule: ...`; see docs/feeds.md")
        own = {"name": path.stem, "text": f"```yaml\n{text}\n```"}
        if wrong := sorted(own.keys() & content.keys()):
            raise ValueError(f"{shown}: {wrong[0]}: not a field: remove it (a feed's name is that of its file)")
        try:
            return cls(**content, **own)
        except ValidationError as error:
            raise ValueError("\n".join(f"{shown}: {_explain(problem)}" for problem in error.errors())) from None

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("no such time zone: write a name such as Asia/Seoul or Europe/Berlin") from None
        return value

    @model_validator(mode="after")
    def _agrees(self) -> Feed:
        if (self.format is None) == (self.parser is None):
            raise ValueError(f"name either a format ({', '.join(FORMATS)}) or a parser (module:function)")
        if self.catchup and "start_date" not in self.model_fields_set:
            raise ValueError("catchup needs a start_date: every day since then is fetched")
        if self.name == nas.ARRIVALS:
            raise ValueError("an Asset has this name already: give the file another one")
        has_pages = self.source.pages and not self.source.pages.ignore
        if has_pages and (self.format != "json" or not self.records.endswith("item")):
            raise ValueError("source.pages: for format json, with records in an array (records: item or data.item)")
        self.check_file(self.packing, {name: column.source for name, column in self.load.columns.items()})
        self._check_names()
        self._check_times()
        return self

    def _check_names(self) -> None:
        relative = PurePosixPath(self.file_name(DAY))
        if relative.is_absolute() or ".." in relative.parts or relative.name.startswith("."):
            raise ValueError(
                "file: leaves the directory of the feed, or is hidden: write a name such as {day:%Y%m%d}.csv"
            )
        days = [date(2025, 1, 1) + timedelta(days=number) for number in range(800)]
        if len({self.file_name(day) for day in days}) < len(days):
            raise ValueError("file: two days would share one name: write year, month and day: {day:%Y%m%d}.csv")

    def _check_times(self) -> None:
        """Refuse what does not tell the runs of a day apart."""
        if self.day_offset and (self.source.uses_time or uses_time(self.file)):
            raise ValueError("day_offset: for {time:...} write time_offset, such as -1h or -24h")
        if not self.times.is_often:
            return
        if not (self.source.uses_time or self.file):
            raise ValueError(
                f"schedule: {self.schedule!r} has several runs a day, and nothing in source says which one asks: write"
                " {time:%Y%m%d%H%M} into source.path; or into file, when the service has the newest under one address;"
                " or, when each run fetches the day's file anew, name it: file: '{day:%Y%m%d}.csv'"
            )
        times = [time for number in range(3) for time in self.times.of(DAY + timedelta(days=number))]
        if self.source.uses_time:
            asked = [str(self.source.filled(DAY, time).patterns) for time in self.times.of(DAY)]
            if len(set(asked)) < len(asked):
                raise ValueError("source: two times of the schedule would ask for the same: write {time:%Y%m%d%H%M}")
        if (self.source.uses_time or self.by_time) and len({self.file_name(t.date(), t) for t in times}) < len(times):
            raise ValueError("file: two times of the schedule would share one name: write {time:%Y%m%dT%H%M} into it")
        if self.by_time and "feed_time" in map(str.lower, self.load.columns):
            raise ValueError("load: feed_time is added to each row by itself: give the column another name")
        most = self.times.shortest * WAITING
        if "give_up_after" in self.late.model_fields_set and self.late.give_up_after > most:
            raise ValueError(
                f"late.give_up_after: {self.late.give_up_after} is longer than {WAITING} runs take to begin, and"
                f" Airflow has no more of them wait at a time: write at most {int(most.total_seconds()) // 60}m"
            )

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def offset(self) -> timedelta:
        return timedelta(days=self.day_offset)

    @property
    def directory(self) -> Path:
        return nas.FILESTORAGE / self.name

    @cached_property
    def times(self) -> Times:
        return Times(self.schedule, self.zone)

    @cached_property
    def by_time(self) -> bool:
        """A day has several files, each of its own time."""
        return self.times.is_often and (uses_time(self.file) if self.file else self.source.uses_time)

    @property
    def own_columns(self) -> dict[str, str]:
        """Return the columns that loading adds to each row, with their types. The time is in UTC."""
        time = {"feed_time": "DATETIME NOT NULL"} if self.by_time else {}
        return {"feed_day": "DATE NOT NULL", **time, "feed_row": "BIGINT NOT NULL"}

    @property
    def own_key(self) -> list[str]:
        """Return those of them that tell what a file is for: what it replaces."""
        return [name for name in self.own_columns if name != "feed_row"]

    def slot(self, manifest: dict) -> str | None:
        """Return what feed_time is in the rows of a file: a day's midnight, when it was fetched as the file of a day.

        :raises ValueError: the feed has one file a day, and this is one of several.
        """
        time = manifest.get("time")
        if not self.by_time:
            if time:
                raise ValueError(f"it is for {time}, and the feed has one file a day now: remove it from the NAS")
            return None
        moment = datetime.fromisoformat(time) if time else self.midnight(date.fromisoformat(manifest["day"]))
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

    def when(self, moment: datetime) -> tuple[date, datetime]:
        """Return the day and the time that the file of a run is for."""
        # Where each run fetches the day's file anew, it is the day of the run.
        own = datetime.fromtimestamp(moment.timestamp(), self.zone)
        is_of_the_day = self.times.is_often and not self.by_time
        time = self.times.moved(own if is_of_the_day else self.times.at(moment), self.time_offset)
        return time.date() + self.offset, time

    def midnight(self, day: date) -> datetime:
        return datetime(day.year, day.month, day.day, tzinfo=self.zone)

    def is_asked_for_twice(self, day: date, time: datetime) -> bool:
        """Return whether an hour comes for the second time, and what it asks for (or its name) is that of the first."""
        if not (self.by_time and self.times.is_every_hour and time.fold):
            return False
        first = time.replace(fold=0)
        same_name = self.file_name(day, time) == self.file_name(day, first)
        return same_name or (self.source.uses_time and self.source.filled(day, time) == self.source.filled(day, first))

    def file_name(self, day: date, time: datetime | None = None) -> str:
        time = time or self.midnight(day)
        if self.file:
            return self.file.format(day=day, time=time)
        # .csv, or .csv.gz.
        source = self.source.filled(day, time)
        endings = PurePosixPath(source.find or source.path.partition("?")[0]).suffixes
        ending = "".join(endings[-2:] if endings and endings[-1] in COMPRESSIONS else endings[-1:])
        if not self.by_time:
            return f"{day:%Y%m%d}{ending}"
        # The second one, where the clock is set back.
        again = f"{time:%z}" if time.fold and self.times.is_every_hour else ""
        return f"{time:%Y%m%dT%H%M}{again}{ending}"

    def path_of(self, day: date, time: datetime | None = None) -> Path:
        return self.directory / self.file_name(day, time)

    @property
    def packing(self) -> str:
        """How a file is compressed."""
        return self.compression or packing_of(self.file_name(DAY), of_a_parser=bool(self.parser))

    def wanted(self) -> dict[str | int, str]:
        """Return the columns by where their values are in a record."""
        return {column.source or name: name for name, column in self.load.columns.items()}

    @property
    def look_again(self) -> timedelta:
        """How long to wait until a file that is not there yet is looked for again."""
        every, is_said = self.late.every, "every" in self.late.model_fields_set
        return every if is_said or not self.by_time else min(every, self.times.shortest / 2)

    @property
    def give_up_after(self) -> timedelta:
        """After what time a run waits no longer: so that those that wait do not keep new ones from beginning."""
        after, is_said = self.late.give_up_after, "give_up_after" in self.late.model_fields_set
        return after if is_said or not self.by_time else min(after, self.times.shortest * WAITING)

    def needed(self) -> dict[str | int, bool]:
        """Return by where a column's value is whether each file has to have it."""
        return {column.source or name: not column.optional for name, column in self.load.columns.items()}

    def too_late(self, late: Exception, run_after: datetime) -> None:
        """Do what the policy says, when it is time to give up.

        :raises AirflowSkipException: then: skip.
        :raises AirflowFailException: then: fail; without further attempts.
        """
        # Not at the top: a controller checks feeds without Airflow.
        from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

        if datetime.now(self.zone) - run_after > self.give_up_after:
            message = f"{late}, {self.give_up_after} after the run's time (late.give_up_after)"
            raise (AirflowSkipException if self.late.then == "skip" else AirflowFailException)(message)


def _explain(problem: dict) -> str:
    """Say in a line which field is wrong, what stands there, and what would be right."""
    where = [str(part) for part in problem["loc"]]
    prefix = f"{'.'.join(where)}: " if where else ""
    match problem["type"]:
        case "extra_forbidden":
            fields = _fields(where[:-1])
            near = get_close_matches(where[-1], fields, 1)
            return f"{prefix}not a field: " + (
                f"did you mean {near[0]}?" if near else f"write one of {', '.join(fields)}"
            )
        case "missing":
            return f"{prefix}missing: it has no default; see docs/feeds.md"
        case "string_pattern_mismatch" if where[-1] == "type":
            message = "write one of MySQL's types, such as int, varchar(100), decimal(10,2), date or text"
        case "string_pattern_mismatch" if where == ["name"]:
            message = "name the file with small letters, digits and _ only"
        case _:
            message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    return f"{prefix}{message}" if isinstance(value, (dict, Part)) else f"{prefix}{value!r}: {message}"


def _fields(where: list[str]) -> list[str]:
    """Return the fields that a mapping can have, by where it is."""
    model = {"source": Source, "late": Late, "load": Load}.get(where[0], Feed) if where else Feed
    if len(where) > 1:
        model = Pages if where[0] == "source" else Column
    return [field.alias or name for name, field in model.model_fields.items() if name not in ("name", "text")]
