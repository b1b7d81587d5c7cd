"""One file from the web: resumed, size-limited, checksummed. Does not know what a corpus is, nor read what it fetched.

A file appears under its name only after every byte is there and its SHA-256 holds. Until then the bytes live in
`NAME.part`, with a note in `NAME.part.json` that says which file they belong to; both survive a killed process, and
the next call goes on from there. A part without a fitting note is thrown away.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mt_core.arguments import check_count
from mt_core.files import file_sha256
from mt_core.lab.web import DownloadError, NothingMoreError, TryAgainError, answer, read, scheme

__all__ = ["ChecksumError", "DownloadError", "RemoteFile", "download", "file_lock"]

BLOCK = 1 << 16  # bytes asked of the socket at once
PROGRESS = 1 << 20  # a try that brings this many new bytes starts the count of failures anew
SPARE_DISK = 16 << 20  # bytes left free beside the file
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED_NAME = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # Windows devices


class ChecksumError(DownloadError):
    """A whole file arrived and is not the file it claims to be."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file on the web, pinned by size and SHA-256.

    `name` is the file's name in the cache: letters, digits, `.`, `_`, `-`, so that it can leave no directory
    and is no device name on Windows. `size` is in bytes, `sha256` 64 hexadecimal digits.
    """

    name: str
    url: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        for field in ("name", "url", "sha256"):
            if not isinstance(getattr(self, field), str):
                raise ValueError(f"{field}={getattr(self, field)!r}, a text is needed")
        check_count(f"size of {self.name}", self.size)
        if not _PLAIN_NAME.fullmatch(self.name) or self.name.endswith(".") or _RESERVED_NAME.fullmatch(self.name):
            raise ValueError(
                f"file name {self.name!r} is not plain: start with a letter or digit, then letters, digits, "
                "'.', '_' or '-', at most 100 in all, no trailing dot and no Windows device name"
            )
        if self.name.lower().endswith((".part", ".lock", ".json")):
            raise ValueError(f"file name {self.name!r} ends like one of the downloader's own files: rename it")
        if scheme(self.url) is None or not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            raise ValueError(f"url {self.url!r} is not http:// or https:// with a host")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 of {self.name} is {self.sha256!r}; it needs 64 lower-case hexadecimal digits")


def download(
    remote: RemoteFile,
    directory: Path,
    *,
    progress: bool = True,
    timeout: float = 30.0,
    retries: int = 5,
    backoff: float = 0.5,
    lock_timeout: float = 3600.0,
) -> Path:
    """Fetch `remote` into `directory` and return its path; a file already there and intact is used as it is.

    timeout: seconds the connection may stay silent. retries: tries in a row that may fail without getting further.
    backoff: seconds before the second try, doubled for each later one. lock_timeout: seconds to wait for another
    process that fetches the same file.

    Raises ChecksumError when the server's file is another one, DownloadError for everything else.
    """
    final = directory / remote.name
    with _own_words(directory):
        if _is_intact(final, remote):
            return final
        directory.mkdir(parents=True, exist_ok=True)
        with file_lock(directory / f"{remote.name}.lock", timeout=lock_timeout):
            if _is_intact(final, remote):  # another process was faster
                return final
            part, note = directory / f"{remote.name}.part", directory / f"{remote.name}.part.json"
            if part.is_symlink() or _read_note(note).get("sha256") != remote.sha256 or _size(part) > remote.size:
                part.unlink(missing_ok=True)
            free, needed = shutil.disk_usage(directory).free, remote.size - _size(part) + SPARE_DISK
            if free < needed:
                raise DownloadError(
                    f"{remote.name} needs {needed:,} bytes free in {directory}, {free:,} are: make room, "
                    "or set MICROTRANSFORMER_CACHE to a directory on another disk"
                )
            try:
                with _bar(remote, part, progress) as bar:
                    _complete(remote, part, note, bar, timeout=timeout, retries=retries, backoff=backoff)
            except DownloadError as error:
                raise type(error)(f"{error}\n{_by_hand(remote, final)}") from error.__cause__
            os.replace(part, final)
            note.unlink(missing_ok=True)
    return final


@contextlib.contextmanager
def _own_words(directory: Path) -> Iterator[None]:
    """Errors of this machine's files as DownloadError; those of the network have become one already."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"{directory} cannot be used ({error}): make it a folder that can be written to, "
            "or set MICROTRANSFORMER_CACHE to another one"
        ) from error


@contextlib.contextmanager
def file_lock(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold `path` against other processes; the system frees it when a process dies. The file itself stays."""
    with path.open("a+b") as handle:
        deadline = time.monotonic() + timeout
        while not _try_lock(handle):
            if time.monotonic() >= deadline:
                raise DownloadError(
                    f"another process has held {path} for {timeout:g} s: wait for it to finish, or end it"
                )
            time.sleep(0.05)
        try:
            yield
        finally:
            _unlock(handle)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: IO[bytes]) -> bool:
        handle.seek(0)
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: IO[bytes]) -> None:
        handle.seek(0)
        msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(handle: IO[bytes]) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise DownloadError(
                f"this file system cannot lock {handle.name} ({error}): "
                "set MICROTRANSFORMER_CACHE to a directory on a local disk"
            ) from error
        return True

    def _unlock(handle: IO[bytes]) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


def _complete(
    remote: RemoteFile, part: Path, note: Path, bar: Any, *, timeout: float, retries: int, backoff: float
) -> None:
    """Try until `part` is the whole file, or until `retries` tries in a row brought nothing new."""
    failures, furthest, in_one_piece = 0, _size(part), False
    while True:
        try:
            if _size(part) < remote.size:
                in_one_piece = _receive(remote, part, note, bar, timeout=timeout)
            digest = file_sha256(part)
            if digest == remote.sha256:
                return
            part.unlink()
            wrong = f"{remote.url} sent {remote.size:,} bytes with sha256 {digest}, needed is {remote.sha256}"
            if in_one_piece:
                raise ChecksumError(f"{wrong}: the file was changed or replaced on the way; nothing of it was kept")
            raise TryAgainError(f"{wrong} (joined from pieces, starting over)")
        except TryAgainError as reason:
            failures = 1 if _size(part) >= furthest + PROGRESS else failures + 1
            furthest = max(furthest, _size(part))
            if failures >= retries:
                raise DownloadError(
                    f"{remote.url} failed {failures} times in a row, the last time with: {reason}. "
                    f"{_size(part):,} of {remote.size:,} bytes are kept; run it again to go on from there"
                ) from reason
            time.sleep(min(backoff * 2 ** (failures - 1), 30.0))


def _receive(remote: RemoteFile, part: Path, note: Path, bar: Any, *, timeout: float) -> bool:
    """One request; True if its answer began at byte 0. Raises TryAgainError when a later try may bring the rest."""
    have = _size(part)
    etag = _read_note(note).get("etag", "")
    headers = {"User-Agent": "microtransformer", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if etag:
            headers["If-Range"] = etag
    try:
        response = answer(remote.url, headers, timeout=timeout)
    except NothingMoreError:  # the part belongs to another file
        part.unlink(missing_ok=True)
        raise
    with response:
        sent_etag = response.headers.get("ETag", "").strip()
        if response.status == 206:
            start, total = _content_range(response.headers.get("Content-Range", ""))
            if start != have or total not in (None, remote.size) or (etag and sent_etag and sent_etag != etag):
                part.unlink(missing_ok=True)
                raise TryAgainError("the server answered with a piece of another file, or with another piece")
        else:
            length = response.headers.get("Content-Length", "").strip()
            if length and length != str(remote.size):
                raise DownloadError(
                    f"{remote.url} offers {length} bytes, the file has {remote.size:,}: it was changed there, "
                    "or something on the way (a login page, a proxy) answers in its place"
                )
            have = 0
        usable = sent_etag if not sent_etag.startswith("W/") else ""  # RFC 9110 13.1.5: If-Range needs a strong one
        note.write_text(json.dumps({"sha256": remote.sha256, "etag": usable}), encoding="utf-8", newline="\n")
        bar.reset(total=remote.size)
        bar.update(have)
        position = have
        with part.open("ab" if have else "wb", buffering=0) as out:
            while block := read(response, min(BLOCK, remote.size - position + 1)):
                position += len(block)
                if position > remote.size:
                    break
                try:
                    _write_all(out, block)
                except OSError as error:
                    raise DownloadError(f"cannot write {part} at byte {position:,}: {error}") from error
                bar.update(len(block))
            os.fsync(out.fileno())
    if position > remote.size:
        part.unlink()
        raise DownloadError(f"{remote.url} sends more than the {remote.size:,} bytes of the file: stopped there")
    if position < remote.size:
        raise TryAgainError(f"the connection ended at byte {position:,} of {remote.size:,}")
    return have == 0


def _write_all(out: IO[bytes], block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[out.write(view) :]


def _content_range(header: str) -> tuple[int, int | None]:
    """`bytes 5-9/10` -> (5, 10); a header that says nothing usable -> (-1, None)."""
    match = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)", header.strip())
    if match is None:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _read_note(note: Path) -> dict[str, str]:
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: text for name, text in content.items() if isinstance(text, str) and text.isprintable()}


def _is_intact(path: Path, remote: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == remote.size and file_sha256(path) == remote.sha256


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _bar(remote: RemoteFile, part: Path, progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(
        total=remote.size,
        initial=_size(part),
        desc=remote.name,
        unit="B",
        unit_scale=True,
        disable=not progress,
    )


def _by_hand(remote: RemoteFile, final: Path) -> str:
    return (
        f"Without a network: fetch {remote.url} elsewhere ({remote.size:,} bytes, sha256 {remote.sha256}) "
        f"and put the file at {final}"
    )
