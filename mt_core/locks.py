"""A folder that one process works in at a time. Does not know what for.

The system releases the lock of a process that dies, so nothing has to be cleaned up by hand.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_POLL_SECONDS = 0.05
_SAY_AFTER_SECONDS = 2.0


class FolderLock:
    """`with FolderLock(folder):` makes the folder and waits until no other process works in it.

    Processes on other machines wait too, where the file system tells them of each other's locks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._name = folder / "lock"
        self._file: BinaryIO | None = None

    def __enter__(self) -> FolderLock:
        started, said = time.monotonic(), False
        while not self._taken():
            if not said and time.monotonic() - started > _SAY_AFTER_SECONDS:
                print(f"waiting for another process that works in {self.folder}", file=sys.stderr)
                said = True
            time.sleep(_POLL_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove_folder(self) -> None:
        """Remove the folder with all that is in it; a process that waits for it makes it anew."""
        if os.name != "posix":  # Windows does not remove a file that is open
            self.__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _taken(self) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            file = self._name.open("ab")
        except FileNotFoundError:  # removed since
            return False
        if _lock(file):
            with suppress(OSError):  # the one that had it may have removed it
                if os.name != "posix" or os.path.samestat(os.fstat(file.fileno()), self._name.stat()):
                    self._file = file
                    return True
        file.close()
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: parts have names of their own, so only work is lost
            return True
        return True
