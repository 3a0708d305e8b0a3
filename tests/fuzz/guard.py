"""What a reader of strange files must never do, watched by an audit hook while it reads.

The hook raises an exception that no `except Exception` swallows, and notes what happened in case something does.
An audit hook cannot be taken out of a process again: guard only processes that do nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Each with the positions of its paths.
_CHANGES = {
    "os.remove": (0,), "os.rename": (0, 1), "os.mkdir": (0,), "os.rmdir": (0,), "os.link": (0, 1), "os.symlink": (1,),
    "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "os.utime": (0,), "shutil.rmtree": (0,),
}  # fmt: skip
_NEVER = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill", "os.putenv",
    "os.unsetenv", "subprocess.Popen", "pty.spawn", "socket.connect", "socket.bind", "socket.getaddrinfo",
    "urllib.Request", "pickle.find_class", "webbrowser.open",
)  # fmt: skip


class Violation(BaseException):
    """Something was done that no reader may do."""


class Guard:
    """The audit hook; on within `watching()`. `canary` names the modules that must not be imported."""

    def __init__(self, folder: Path, canary: str) -> None:
        self.folder = str(folder.resolve())
        self.canary = canary
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.seen.clear()
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        bad = event in _NEVER
        if event == "open":
            path, mode, flags = arguments
            writes = bool((flags or 0) & _WRITES) or (isinstance(mode, str) and any(c in mode for c in "wax+"))
            bad = writes and not self._inside(path)
        elif event in _CHANGES:
            bad = not all(self._inside(arguments[position]) for position in _CHANGES[event])
        elif event == "import":
            bad = str(arguments[0]).partition(".")[0] == self.canary
        if bad:
            self.on = False
            what = f"{event} {arguments!r}"[:300]
            self.seen.append(what)
            raise Violation(what)

    def _inside(self, path: Any) -> bool:
        if isinstance(path, int):
            return True  # a file that is open already
        whole = os.path.realpath(os.fsdecode(path))
        return whole == os.devnull or whole.startswith(self.folder + os.sep)
