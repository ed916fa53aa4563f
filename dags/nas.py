"""Files on the NAS: the day that a run stands for, writing a file whole, reading it back.

Lies beside the DAGs, so that they can import it on every host.
"""

from __future__ import annotations

import os
import tempfile
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from airflow.sdk import Asset

# Where the NAS is mounted on every host.
FILESTORAGE = Path("/opt/airflow/filestorage")
# The day begins and ends in this time zone, whatever zone a server is in.
TIME_ZONE = ZoneInfo("Asia/Seoul")
# "A file arrived on the NAS"; its events carry the file's path.
nas_filestorage = Asset("nas_filestorage")


def day_of(logical_date: datetime | None, run_after: datetime) -> date:
    """Return the day that a run stands for, in TIME_ZONE.

    It follows the logical date, so that a run that is late, repeated or backfilled still means its own day. A run that
    was triggered by hand can have no logical date; then it is the day from which it was allowed to run.
    """
    return (logical_date or run_after).astimezone(TIME_ZONE).date()


def publish(path: Path, content: bytes) -> None:
    """Write a file so that other hosts see all of it or nothing.

    The content goes to a temporary name in the same directory, reaches the NAS's disk, and then takes its name.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp gives 0600; the group may read and write, as the service's umask says for other files.
        temporary.chmod(0o660)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read(path: Path) -> bytes:
    """Return the content of a file on the NAS.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: it is empty, or outside the NAS.
    """
    if not path.resolve().is_relative_to(FILESTORAGE.resolve()):
        raise ValueError(f"{path} is not on the NAS ({FILESTORAGE})")
    content = path.read_bytes()
    if not content:
        raise ValueError(f"{path} is empty: run the task again that wrote it")
    return content
