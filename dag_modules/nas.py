"""Files on the NAS: the day that a run stands for, publishing a file whole, reading back exactly what was published.

Is installed beside the DAGs, so that they can import it on every host.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from airflow.sdk import Asset

# What a site has set reaches tasks through the environment of Airflow's units.
# Where the NAS is mounted on every host.
FILESTORAGE = Path(os.environ.get("NAS_PATH") or "/opt/airflow/filestorage")
# Lies on the share, and not under it: without it the share is not mounted, or is another one. site.yml makes it.
GUARD = os.environ.get("NAS_GUARD") or ".nas"


def _zone(name: str) -> ZoneInfo:
    # Airflow writes utc, which is not a name of the time zone database.
    return ZoneInfo("UTC" if name.lower() == "utc" else name)


# The day begins and ends in this time zone, whatever zone a server is in.
TIME_ZONE = _zone(os.environ.get("AIRFLOW__CORE__DEFAULT_TIMEZONE") or "Asia/Seoul")
# Seconds that a reader waits for a file: another host's NFS client can show it late.
PATIENCE = 30
# The Asset "a file arrived on the NAS"; the extra of its events is the file's manifest.
ARRIVALS = "nas_filestorage"


def __getattr__(name: str) -> Asset:
    """Make the Asset when it is asked for: a controller, which checks feeds, has no Airflow.

    :raises AttributeError: there is no such name in this module.
    """
    if name != ARRIVALS:
        raise AttributeError(f"module nas has no {name}")
    from airflow.sdk import Asset

    return Asset(ARRIVALS)


def day_of(logical_date: datetime | None, run_after: datetime, zone: tzinfo = TIME_ZONE) -> date:
    """Return the day that a run stands for, in a time zone.

    It follows the logical date, so that a run that is late, repeated or backfilled still means its own day. A run that
    was triggered by hand can have no logical date; then it is the day from which it was allowed to run.
    """
    return (logical_date or run_after).astimezone(zone).date()


def publish(
    path: Path,
    content: bytes | Iterable[bytes],
    *,
    source: str = "",
    rows: int | Callable[[Path, str], int | None] | None = None,
    day: date | None = None,
    time: datetime | None = None,
) -> dict:
    """Write a file so that other hosts see all of it or nothing, and return its manifest for the asset event.

    The content (whole, or in pieces that need not fit into memory together) goes to a temporary name in the same
    directory, reaches the NAS's disk, and then takes its name. What has a name is never written again: the same content
    as that of the newest version changes nothing, other content becomes the next version, 20251020.v2.txt.

    The manifest says path, version, sha256, bytes, rows, source, day, fetched_at and, if it is given, time. It lies
    beside the file, in .20251020.txt.json, and may stay when the file is removed: its version is not given to other
    content. The rows can be counted by a function: it gets the temporary file and its digest, and when it raises,
    nothing gets the name.

    :raises ValueError: the content is empty, or the path is outside the NAS.
    :raises OSError: the NAS is full, away, read-only or not mounted; nothing has the name then.
    """
    _check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, digest, size = _write_temporary(path, [content] if isinstance(content, bytes) else content)
    try:
        if not size:
            raise ValueError(f"{path} would be empty: the source sent nothing")
        if callable(rows):
            rows = rows(temporary, digest)
        target, version, is_new = _take_name(temporary, path, digest)
    finally:
        temporary.unlink(missing_ok=True)
    if not is_new and (manifest := manifest_of(target)) and manifest["sha256"] == digest:
        return manifest
    manifest = {
        "path": str(target),
        "version": version,
        "sha256": digest,
        "bytes": size,
        "rows": rows,
        "source": source,
        "day": day and day.isoformat(),
        "fetched_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    } | ({"time": time.isoformat()} if time else {})
    beside = _beside(target)
    written, _, _ = _write_temporary(beside, [json.dumps(manifest).encode()])
    written.replace(beside)
    _sync_directory(beside.parent)
    return manifest


def check(manifest: dict, patience: float | None = None) -> Path:
    """Return the path of a published file, when its content is what the manifest says.

    Waits up to PATIENCE seconds, or as long as is said, for the file to appear on this host. A manifest without a
    digest (an event that was not made by publish) is satisfied by any content.

    :raises FileNotFoundError: it did not appear.
    :raises OSError: the NAS is away or not mounted.
    :raises ValueError: it is empty, its content is not what was published, or it is outside the NAS.
    """
    path = Path(manifest["path"])
    _check_place(path)
    deadline = time.monotonic() + (PATIENCE if patience is None else patience)
    # Opening asks the server; a look at the directory may be answered from memory.
    while True:
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            break
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
    if not size:
        raise ValueError(f"{path} is empty: run the task again that wrote it")
    if digest != manifest.get("sha256", digest):
        raise ValueError(
            f"{path} has {size} bytes with the SHA-256 {digest}, and not {manifest['sha256']}, which was published:"
            " somebody changed it. Put it back, or remove it and run the task again that wrote it"
        )
    return path


def read(manifest: dict) -> bytes:
    """Return the content of a published file; raises what check() raises."""
    return check(manifest).read_bytes()


def version_of(path: Path, number: int) -> Path:
    """Return the name of a file's version: 20251020.txt, 20251020.v2.txt, 20251020.v3.txt."""
    stem, suffix = _split(path)
    return path if number == 1 else path.with_name(f"{stem}.v{number}{suffix}")


def first_of(path: Path, number: int) -> Path:
    """Return the name of the first version of a file, by the name of another one."""
    stem, suffix = _split(path)
    return path.with_name(stem.removesuffix(f".v{number}") + suffix)


def manifest_of(path: Path) -> dict | None:
    """Return the manifest that lies beside a file, or where the file was; None when there is none."""
    try:
        manifest = json.loads(_beside(path).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.keys() >= {"path", "sha256"} else None


def files(directory: Path) -> Iterator[Path]:
    """Yield every file below a directory, hidden ones, too; none when it is not there yet.

    It is what the server has at this moment: an NFS client can answer from memory what another host has changed since,
    and asks after a change of its own. Unlike Path.rglob(), it does not take an error for an empty directory.

    A directory below it that is not ours to write (a NAS makes some for itself, such as @eaDir) is said and left alone.

    :raises OSError: the NAS does not answer as it should, or the directory itself is not ours to write.
    """
    places = [directory]
    while places:
        place = places.pop()
        try:
            _change(place)
            with os.scandir(place) as found:
                entries = list(found)
        except FileNotFoundError:
            continue
        except PermissionError as error:
            if place == directory:
                raise
            print(f"{place} is not ours to read and write: left alone ({error.strerror})")
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                places.append(Path(entry.path))
            else:
                yield Path(entry.path)


def _change(directory: Path) -> None:
    """Make a file in a directory, and remove it."""
    try:
        descriptor, name = tempfile.mkstemp(dir=directory, prefix=".look.")
    except OSError as error:
        # Where nothing can be written, other hosts do not write, either.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
    else:
        os.close(descriptor)
        Path(name).unlink()


def require() -> None:
    """Go on only when the NAS is where it should be.

    :raises OSError: it is away or not mounted, or another share is.
    """
    if not (FILESTORAGE / GUARD).exists():
        raise OSError(f"{FILESTORAGE / GUARD} is missing: the NAS is not mounted there; `site.yml` mounts it")


def _check_place(path: Path) -> None:
    if not path.resolve().is_relative_to(FILESTORAGE.resolve()):
        raise ValueError(f"{path} is not on the NAS ({FILESTORAGE})")
    require()


def _write_temporary(path: Path, pieces: Iterable[bytes]) -> tuple[Path, str, int]:
    """Write a hidden file beside a path, to the disk of the NAS; return it with its digest and size."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary, digest, size = Path(name), hashlib.sha256(), 0
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
                size += len(piece)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp gives 0600; the group may read and write, as the service's umask says for other files.
        temporary.chmod(0o660)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary, digest.hexdigest(), size


def _take_name(temporary: Path, path: Path, digest: str) -> tuple[Path, int, bool]:
    """Give a temporary file the name of the next version, unless the newest has its content.

    Returns the path, the version, and whether it is new.
    """
    number = max(_versions(path), default=1)
    # One that another host has made meanwhile.
    while version_of(path, number + 1).exists():
        number += 1
    while True:
        target = version_of(path, number)
        if not target.exists() and (manifest_of(target) or {}).get("sha256", digest) != digest:
            number += 1
            continue
        # Unlike a rename, a link never replaces what is there already.
        with contextlib.suppress(FileExistsError):
            target.hardlink_to(temporary)
        # A link whose answer got lost is asked for again, and is there: ours all the same.
        if target.samefile(temporary):
            _sync_directory(path.parent)
            return target, number, True
        if _digest(target) == digest:
            return target, number, False
        number += 1


def _versions(path: Path) -> list[int]:
    """Return the numbers of a file's versions that are there, or of which the manifest is."""
    stem, suffix = _split(path)
    pattern = re.compile(rf"{re.escape(stem)}(?:\.v([1-9]\d*))?{re.escape(suffix)}")
    names = (
        re.sub(r"\.(.+)\.json", r"\1", other.name) if other.name[0] == "." else other.name
        for other in path.parent.iterdir()
    )
    return [int(found[1] or 1) for name in names if (found := pattern.fullmatch(name))]


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def _split(path: Path) -> tuple[str, str]:
    suffix = path.suffix
    if suffix in (".gz", ".bz2", ".xz", ".zst"):
        suffix = Path(path.stem).suffix + suffix
    return path.name.removesuffix(suffix), suffix


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
