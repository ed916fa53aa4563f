"""Which day and time a run is for, in the feed's time zone, when the clock changes, too."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

from croniter import croniter

DAY = timedelta(days=1)


class Times:
    """The times of day of a schedule: five cron fields, of which the first two count."""

    def __init__(self, cron: str, zone: ZoneInfo):
        self.zone = zone
        minutes, hours = croniter.expand(cron)[0][:2]
        self.minutes = range(60) if "*" in minutes else sorted(minutes)
        self.hours = range(24) if "*" in hours else sorted(hours)

    @cached_property
    def is_often(self) -> bool:
        """There is more than one a day."""
        return len(self.minutes) * len(self.hours) > 1

    @cached_property
    def is_every_hour(self) -> bool:
        """Then Airflow has a run in each hour that passes, also in one that comes twice when the clock is set back."""
        return len(self.hours) == 24

    @cached_property
    def shortest(self) -> timedelta:
        """The time between two runs, at least."""
        day = [timedelta(hours=hour, minutes=minute) for hour in self.hours for minute in self.minutes]
        return min(later - earlier for earlier, later in zip(day, [*day[1:], day[0] + DAY], strict=True))

    def of(self, day: date) -> list[datetime]:
        """Return a day's times. Where a clock time comes twice, or never, they are when Airflow has its runs."""
        return [
            datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone, fold=1)
            for hour in self.hours
            for minute in self.minutes
        ]

    def at(self, moment: datetime) -> datetime:
        """Return the time that a run stands for: its own; of one that somebody started, the last one before."""
        local = datetime.fromtimestamp(moment.timestamp(), self.zone)
        if not self.is_often:
            return self.of(local.date())[0]
        if not self.is_every_hour:
            near = [time for days in (-1, 0, 1) for time in self.of(local.date() + days * DAY)]
            return max((t for t in near if t.timestamp() <= local.timestamp()), key=datetime.timestamp)
        earlier = [minute for minute in self.minutes if minute <= local.minute]
        minutes = local.minute - (earlier[-1] if earlier else self.minutes[-1] - 60)
        back = timedelta(minutes=minutes, seconds=local.second, microseconds=local.microsecond)
        return self.moved(local, -back)

    def moved(self, time: datetime, by: timedelta) -> datetime:
        """Return the time on the clock when so much has passed."""
        return datetime.fromtimestamp((time.timestamp() + by.total_seconds()), self.zone) if by else time
