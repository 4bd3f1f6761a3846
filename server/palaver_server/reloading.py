"""Files that are read again when they change, without blocking the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from palaver_server.domain.limits import MAX_WATCHED_FILE_BYTES

logger = logging.getLogger(__name__)

CHECK_INTERVAL = 1.0
"""Seconds between two looks at the files. Their content is compared, because a time stamp can miss a change."""

T = TypeVar("T")

Contents = tuple[bytes, ...]


class FileError(Exception):
    """A file can't be read, or its content can't be used. The text says why."""


class WatchedFiles(Generic[T]):
    """One or more files that are only valid together, and the value that is parsed from them."""

    def __init__(self, name: str, paths: tuple[Path, ...], parse: Callable[..., T]) -> None:
        """Takes the name for log lines, and a function of the contents that raises `ValueError` if they are invalid."""
        self.name = name
        self._paths = paths
        self._parse = parse
        self._used: Contents | str = ()
        """The contents that were parsed last, or the error when they were read."""
        self._seen: Contents | str = ()
        """The contents at the last look."""
        self._lock = asyncio.Lock()

    def load(self) -> T:
        """Reads the files when the server starts; raises `FileError`."""
        self._used = self._seen = self._read()
        return self._parsed(self._used)

    async def watch(self, use: Callable[[T], None]) -> None:
        """Passes on the value whenever the files have changed, until the task is cancelled.

        A change counts once it has lasted for two looks, because files are often not replaced at one moment.
        """
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            async with self._lock:
                contents = await asyncio.to_thread(self._read)
                is_settled, self._seen = contents == self._seen, contents
                if is_settled and contents != self._used:
                    await self._apply(contents, use)

    async def reload(self, use: Callable[[T], None]) -> None:
        """Reads the files now, and passes on the value."""
        async with self._lock:
            await self._apply(await asyncio.to_thread(self._read), use)

    async def _apply(self, contents: Contents | str, use: Callable[[T], None]) -> None:
        self._used = contents
        try:
            value = await asyncio.to_thread(self._parsed, contents)
        except FileError as error:
            logger.error("%s: %s; the previous version stays in use", self.name, error)  # noqa: TRY400 - expected
        except Exception:  # the next version must still be looked for
            logger.exception("%s: internal error; the previous version stays in use", self.name)
        else:
            use(value)
            logger.info("%s: read again", self.name)

    def _parsed(self, contents: Contents | str) -> T:
        if isinstance(contents, str):
            raise FileError(contents)
        try:
            return self._parse(*contents)
        except ValueError as error:
            raise FileError(str(error)) from error

    def _read(self) -> Contents | str:
        try:
            return tuple(map(_content, self._paths))
        except OSError as error:
            return f"{error.strerror or error}: {error.filename}"
        except FileError as error:
            return str(error)


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_WATCHED_FILE_BYTES + 1)
    if len(content) > MAX_WATCHED_FILE_BYTES:
        raise FileError(f"{path} has more than {MAX_WATCHED_FILE_BYTES:,} bytes")
    return content


class Reloading:
    """The files of a server that are read again when they change, or when the operator asks for it."""

    def __init__(self) -> None:
        self._reloads: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, files: WatchedFiles[T], use: Callable[[T], None]) -> None:
        """Passes on the value of files whenever they have changed."""
        self._reloads.append(partial(files.reload, use))
        self._start(files.watch(use))

    async def reload(self) -> None:
        """Reads all files now, and passes on their values. A version that is invalid is logged and not used."""
        for reload in self._reloads:
            await reload()

    def reload_soon(self) -> None:
        """Does the same in the background."""
        self._start(self.reload())

    def close(self) -> None:
        """Ends all of this."""
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
