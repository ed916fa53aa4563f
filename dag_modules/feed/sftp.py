"""Files of a service that speaks SFTP."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import partial
from posixpath import join

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from feed.model import Feed
from feed.resume import CHUNK, Broken, NotThereYet, check_size, is_cut_off, resumed
from feed.source import Source

# Seconds until a silent service counts as gone.
SILENCE = 60
# Seconds between two looks at a file, at least: the clocks of two hosts differ.
LOOK = 5
# A file that nobody has written to for so long is at rest, whatever the clocks say.
OLD = timedelta(days=1)
# A connection that is not taken is tried so many times: servers refuse some when there are many at once.
CONNECTS = 3
# What paramiko says when the line, and not the password, is the reason that nobody was logged in.
OF_THE_LINE = ("transport shut down", "timeout", "EOF")


class Sftp:
    """A service that speaks SFTP. `where` is a path."""

    def __init__(self, feed: Feed, connection):
        self.feed, self.name = feed, feed.source.connection

    def __enter__(self) -> Sftp:
        return self

    def __exit__(self, *_) -> None:
        pass

    def place(self, path: str) -> str:
        return path

    def shown(self, where: str) -> str:
        return f"{self.name}:{where}"

    def has(self, where: str) -> bool:
        try:
            with self._answers() as client:
                client.stat(where)
        except FileNotFoundError:
            return False
        return True

    def find(self, source: Source) -> list[tuple[str, str, float]]:
        """Return the files of a directory that have such a name: each with its name, its place and its time.

        :raises NotThereYet: there is no such directory.
        """
        directory = source.path or "."
        try:
            with self._answers() as client:
                entries = client.listdir_attr(directory)
        except FileNotFoundError as error:
            raise NotThereYet(f"{self.shown(directory)}: no such directory") from error
        return [
            (entry.filename, join(directory, entry.filename), float(entry.st_mtime or 0))
            for entry in entries
            if fnmatchcase(entry.filename, source.find) and not stat.S_ISDIR(entry.st_mode or 0)
        ]

    def pieces(self, where: str, *, decode: bool = True, is_file: bool = False) -> Iterator[bytes]:
        """Yield a file's content. is_file: it is the feed's, and has to be finished.

        :raises NotThereYet: there is no such file, or it is still written to.
        :raises AirflowFailException: the service refuses the connection's login, or is another one than the connection
            says; another attempt would not help.
        :raises OSError: the service does not answer as it should; another attempt may help.
        """
        return resumed(partial(self._open, where, is_file), self.shown(where))

    def _open(self, where: str, is_file: bool, position: int, seen: tuple | None) -> Iterator[tuple[bytes, tuple]]:
        """Yield pieces from a position, each with what tells whether the file is still the same: its size and time."""
        changed = f"{self.shown(where)} changed while it was read: begin again"
        try:
            with self._client() as client:
                try:
                    now = client.stat(where)
                except FileNotFoundError as error:
                    raise NotThereYet(f"{self.shown(where)}: no such file") from error
                if is_file and not position:
                    check_size(self.shown(where), now.st_size, self.feed.source.largest)
                    now = self._at_rest(client, where, now)
                if seen and (now.st_size, now.st_mtime) != seen:
                    raise ValueError(changed)
                seen = (now.st_size, now.st_mtime)
                with client.open(where) as file:
                    # Before anything else is read: some servers remove what was read.
                    if is_file and not position:
                        self._check_end(file, where, now.st_size)
                    file.seek(position)
                    file.prefetch(now.st_size, max_concurrent_requests=64)
                    while piece := file.read(CHUNK):
                        yield piece, seen
                        position += len(piece)
                try:
                    after = client.stat(where)
                except FileNotFoundError:
                    # The server has removed it, and every byte of it is here.
                    after = now
                if (after.st_size, after.st_mtime) != seen or position != now.st_size:
                    raise ValueError(changed)
        except OSError as error:
            if isinstance(error, PermissionError):
                raise PermissionError(f"{self.shown(where)}: {error}") from error
            raise Broken(str(error) or type(error).__name__) from error

    def _at_rest(self, client, where: str, now):
        """Return the file's size and time, when nobody has written to it for at_rest.

        :raises NotThereYet: it is still written to, or was not there any more.
        """
        source, age = self.feed.source, time.time() - (now.st_mtime or 0)
        rest = source.at_rest.total_seconds()
        # A marker says that it is finished, unless the feed asks for both.
        if not rest or age > OLD.total_seconds() or (source.marker and "at_rest" not in source.model_fields_set):
            return now
        time.sleep(min(max(rest - age, LOOK), rest))
        try:
            later = client.stat(where)
        except FileNotFoundError as error:
            raise NotThereYet(f"{self.shown(where)}: not there any more") from error
        if (later.st_size, later.st_mtime) != (now.st_size, now.st_mtime):
            raise NotThereYet(
                f"{self.shown(where)} is still written to: {now.st_size} bytes, and then {later.st_size}"
                f" (source.at_rest: {source.at_rest})"
            )
        return later

    def _check_end(self, file, where: str, size: int) -> None:
        """Look whether the last record has its end.

        :raises NotThereYet: it does not, and the feed has no other sign that the file is finished.
        """
        source = self.feed.source
        if not size or source.marker or source.checksum or "at_rest" in source.model_fields_set:
            return
        file.seek(max(size - 4, 0))
        if is_cut_off(self.feed, file.read(4)):
            raise NotThereYet(
                f"{self.shown(where)} ends within a line: somebody is still writing it, perhaps. If its last line is"
                " always like that, say how to know that it is finished: source.at_rest (such as 5m), source.marker or"
                " source.checksum"
            )

    @contextmanager
    def _answers(self) -> Iterator:
        """Open a connection for a question; what breaks is an error of the service."""
        try:
            with self._client() as client:
                yield client
        except Broken as error:
            raise OSError(f"{self.name}: {error}") from error

    @contextmanager
    def _client(self) -> Iterator:
        """Connect, and close in the end.

        :raises AirflowFailException: the login is refused, or the server has another key; another attempt would not
            help, and may lock an account.
        :raises Broken: the line breaks.
        """
        from airflow.providers.sftp.hooks.sftp import SFTPHook
        from paramiko import AuthenticationException, BadHostKeyException, SSHException

        try:
            # One attempt: it makes several with a wrong password, too.
            hook = SFTPHook(ssh_conn_id=self.name, conn_retry_attempts=1)
        except (AirflowException, ValueError, KeyError, TypeError, SSHException) as error:
            raise AirflowFailException(f"source.connection: {self.name} cannot be used: {error}") from error
        for number in range(1, CONNECTS + 1):
            try:
                managed = hook.get_managed_conn()
                client = managed.__enter__()
                break
            except (AuthenticationException, BadHostKeyException) as error:
                if not any(words in str(error) for words in OF_THE_LINE):
                    raise AirflowFailException(f"source.connection: {self.name}: {error}. {REMEDY}") from error
                reason = error
            except (SSHException, EOFError, OSError) as error:
                if "not found in known_hosts" in str(error):
                    raise AirflowFailException(f"source.connection: {self.name}: {error}. {REMEDY}") from error
                reason = error
            if number == CONNECTS:
                raise Broken(str(reason) or type(reason).__name__) from reason
            time.sleep(2 * number)
        try:
            client.get_channel().settimeout(SILENCE)
            yield client
        except (SSHException, EOFError, TimeoutError) as error:
            raise Broken(str(error) or type(error).__name__) from error
        finally:
            managed.__exit__(None, None, None)


REMEDY = (
    "Correct its login and password (or private_key), and host_key in its extra, then clear the task. The service is"
    " not asked again by itself, so that no account is locked"
)
