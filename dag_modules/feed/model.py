"""What may stand in feeds/NAME.yml: every field with its type, its default and what it is for."""

from __future__ import annotations

import importlib.util
import re
from datetime import date, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from croniter import CroniterBadDateError, croniter
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

import nas
from feed.column import Column, Options
from feed.fields import Part

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zip": "zip"}
NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
# Columns that loading adds to each row, and tables that it has.
OWN_COLUMNS = ("feed_day", "feed_row")
OWN_TABLES = ("feed_files", "feed_rejects", "feed_new")


def duration(value: object) -> timedelta:
    # More digits are more than a hundred years.
    if isinstance(value, str) and (found := re.fullmatch(r"(\d{1,9}) ?([smhd])", value)):
        length = timedelta(**{UNITS[found[2]]: int(found[1])})
        if length <= timedelta(days=36500):
            return length
    raise ValueError("write a number and a unit: 30s, 10m, 6h or 7d; at most 36500d")


def more_than_nothing(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("write more than 0")
    return value


def cron(value: str) -> str:
    if not (isinstance(value, str) and len(value.split()) == 5 and croniter.is_valid(value)):
        raise ValueError('write five cron fields in quotes, such as "30 5 * * *"')
    try:
        croniter(value).get_next()
    except CroniterBadDateError:
        raise ValueError("there is no such day") from None
    return value


def day_pattern(value: str) -> str:
    try:
        value.format(day=date(2025, 10, 20))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(f"only the day can be filled in, such as {{day:%Y%m%d}} ({error!r})") from None
    return value


Duration = Annotated[timedelta, BeforeValidator(duration)]
Interval = Annotated[timedelta, BeforeValidator(duration), AfterValidator(more_than_nothing)]
Cron = Annotated[str, BeforeValidator(cron)]
DayPattern = Annotated[str, BeforeValidator(day_pattern)]


class Loader(yaml.SafeLoader):
    """YAML in which no field stands twice: the last one would win, and the first would seem to count."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, name in enumerate(names):
            if name in names[:number] and name != "<<":
                raise yaml.YAMLError(f"{name} stands there twice, {str(node.start_mark).strip()}: remove one")
        return super().construct_mapping(node, deep)


class Source(Part):
    # Airflow connection of the type http or sftp: address, login and password stand there.
    connection: str
    # On the service; {day:%Y%m%d} is the day that the file is for.
    path: DayPattern
    # Sent with the request (HTTP).
    headers: dict[str, str] = Field({})
    # Path on the service of a file with the digest: as sha256sum writes it, or the digest alone (MD5 to SHA-512).
    checksum: DayPattern | None = None


class Late(Part):
    # The service has no such file yet: look again after this time,
    every: Interval = timedelta(minutes=10)
    # and for so long after the run's own time;
    give_up_after: Duration = timedelta(hours=6)
    # then the task fails, or it is skipped.
    then: Literal["fail", "skip"] = "fail"


class Load(Options):
    # Airflow connection of the type mysql, with its schema.
    connection: str
    table: Annotated[str, Field(pattern=rf"^{NAME}$")]
    columns: Annotated[dict[Annotated[str, Field(pattern=rf"^{NAME}$")], Column], Field(min_length=1)]
    # Columns that no two records of a file share.
    key: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = Field([])
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


class Feed(Part):
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
    # Backfills can go back to this day.
    start_date: date = date(2020, 1, 1)
    # Fetch every day since start_date: also those on which the main server was down, or the DAG paused.
    catchup: bool = False
    # Queue of the edge worker.
    queue: str = "edge_queue"
    source: Source
    # Name on the NAS, below filestorage/NAME. Default: 20251020, and the ending of source.path.
    file: DayPattern = ""
    # Default: as the name's ending says.
    compression: Literal["gzip", "bzip2", "xz", "zip", "none"] | None = None
    format: Literal["csv", "json", "jsonl", "fixed", "rfc822"] | None = None
    # A function of yours in place of a format: module:function, in a module beside the folder feeds.
    parser: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    encoding: str = "utf-8"
    # CSV: what separates fields, what encloses them (or none), and whether the first line names them.
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Field(pattern="^(.|none)$")] = '"'
    header: bool = True
    # CSV and fixed: lines to leave out at the beginning.
    skip_lines: Annotated[int, Field(ge=0)] = 0
    # JSON: where the records are: `item` is an array's member, `data.item` one of an array below `data`.
    records: str = "item"
    load: Load

    late: Late = Late()
    # Without a record: the task fails, or it is skipped and nothing is kept.
    empty: Literal["fail", "skip"] = "fail"
    # With the content of the day before: kept and loaded like any other, or the task is skipped, or fails.
    unchanged: Literal["accept", "skip", "fail"] = "accept"
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

    @model_validator(mode="after")
    def _agrees(self) -> Feed:
        if (self.format is None) == (self.parser is None):
            raise ValueError("name either a format (csv, json, jsonl, fixed, rfc822) or a parser (module:function)")
        if self.catchup and "start_date" not in self.model_fields_set:
            raise ValueError("catchup needs a start_date: every day since then is fetched")
        if self.name == nas.nas_filestorage.name:
            raise ValueError("an Asset has this name already: give the file another one")
        if self.delimiter in "\r\n":
            raise ValueError("delimiter: a line's end separates records: write the character between two fields")
        if self.delimiter == self.quote:
            raise ValueError("delimiter and quote are the same")
        if not self.is_utf8 and self.format == "json":
            raise ValueError("encoding: JSON is UTF-8; for another one use a parser")
        for name, column in self.load.columns.items():
            where = column.source
            if self.format == "fixed":
                found = re.fullmatch(r"([1-9]\d*)-([1-9]\d*)", where) if isinstance(where, str) else None
                if not (found and int(found[1]) <= int(found[2])):
                    raise ValueError(f"load.columns.{name}.from: write the first and the last byte, such as 3-10")
            elif self.format == "csv" and not self.header:
                if not (isinstance(where, int) and where >= 1):
                    raise ValueError(f"load.columns.{name}.from: without a header write the field's number, from 1")
            elif isinstance(where, int):
                raise ValueError(f"load.columns.{name}.from: write a field's name")
        relative = PurePosixPath(self.file_name(date(2025, 10, 20)))
        if relative.is_absolute() or ".." in relative.parts or relative.name.startswith("."):
            raise ValueError(
                "file: leaves the directory of the feed, or is hidden: write a name such as {day:%Y%m%d}.csv"
            )
        days = [date(2025, 1, 1) + timedelta(days=number) for number in range(800)]
        if len({self.file_name(day) for day in days}) < len(days):
            raise ValueError("file: two days would share one name: write year, month and day: {day:%Y%m%d}.csv")
        return self

    @property
    def is_utf8(self) -> bool:
        return self.encoding.lower().replace("_", "-") in ("utf-8", "utf8")

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def offset(self) -> timedelta:
        return timedelta(days=self.day_offset)

    @property
    def own_columns(self) -> dict[str, str]:
        """Return the columns that loading adds to each row, with their types."""
        return {"feed_day": "DATE NOT NULL", "feed_row": "BIGINT NOT NULL"}

    @property
    def own_key(self) -> list[str]:
        """Return those of them that tell what a file is for: what it replaces."""
        return ["feed_day"]

    @property
    def directory(self) -> Path:
        return nas.FILESTORAGE / self.name

    def file_name(self, day: date) -> str:
        if self.file:
            return self.file.format(day=day)
        # .csv, or .csv.gz.
        endings = PurePosixPath(self.source.path.format(day=day).partition("?")[0]).suffixes
        return f"{day:%Y%m%d}{''.join(endings[-2:] if endings and endings[-1] in COMPRESSIONS else endings[-1:])}"

    def path_of(self, day: date) -> Path:
        return self.directory / self.file_name(day)

    @property
    def packing(self) -> str:
        """How a file is compressed."""
        suffix = PurePosixPath(self.file_name(date(2025, 10, 20))).suffix
        return self.compression or COMPRESSIONS.get(suffix, "none")

    def wanted(self) -> dict[str | int, str]:
        """Return the columns by where their values are in a record."""
        return {column.source or name: name for name, column in self.load.columns.items()}

    def too_late(self, late: Exception, run_after: datetime) -> None:
        """Do what the policy says, when it is time to give up.

        :raises AirflowSkipException: then: skip.
        :raises AirflowFailException: then: fail; without further attempts.
        """
        if datetime.now(self.zone) - run_after > self.late.give_up_after:
            message = f"{late}, {self.late.give_up_after} after the run's time (late.give_up_after)"
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
    model = Column if len(where) > 1 else model
    return [field.alias or name for name, field in model.model_fields.items() if name not in ("name", "text")]
