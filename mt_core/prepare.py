"""Files to a token store on disk, on many cores or machines, in memory that does not grow. Does not read records.

The files are cut into units (units.py), each unit becomes a shard (shards.py), and the shards, in order, become the
store. Shards are kept in `<out_dir>.partial` until the store is whole, so that a run that was killed goes on where it
stopped. The store gets its name last: before that nothing opens.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import wait as wait_for_handles
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mt_core.arguments import check_path
from mt_core.assemble import EmptyError, rename_folder, write_store
from mt_core.bulk import BulkEncoder
from mt_core.corpus import CorpusError, OnError, SampleBy, check_reading, said_skipped, warn_skipped
from mt_core.files import File, Paths, find_files
from mt_core.locks import FolderLock
from mt_core.shards import Shard, encode_unit, finished_shard, run_unit
from mt_core.store import StoreError, TokenStore
from mt_core.tokenizer import MicroTransformerTokenizer, check_tokenizer
from mt_core.units import Rules, Unit, plan_units

_WORTH_A_PROCESS = 8 << 20  # bytes of text; starting one costs as much time as tokenizing half of it
_MOST_PROCESSES = 61  # what Windows can wait for
_IN_FLIGHT = 512  # units handed to an executor of unknown size


def prepare_corpus(
    paths: Paths,
    out_dir: str | os.PathLike[str],
    tokenizer: MicroTransformerTokenizer,
    *,
    is_jsonl: bool | None = None,
    text_field: str = "text",
    sample_by: SampleBy = "document",
    on_error: OnError = "raise",
    num_workers: int | None = None,
    executor: Executor | None = None,
) -> TokenStore:
    """Tokenize files into a store on disk. The same files give the same bytes, whoever does the work.

    `paths`, and the arguments from `is_jsonl` to `on_error`, are those of `read_documents`. Memory does not grow
    with the corpus; a record is held whole, but not a plain text that is one long document. A packed file is read
    by one process: several small ones are read by many. A progress bar appears after two seconds.

    A run that is killed leaves its finished parts in `<out_dir>.partial`, and the next run with the same files and
    tokenizer goes on from there. A second run with the same `out_dir` waits for the first.

    Args:
        num_workers: processes, this one included; None takes all cores. A small corpus is tokenized here.
        executor: any `concurrent.futures.Executor` does the work instead, on other machines too: they need this
            package, and must see the files and `out_dir` under the same names.

    Raises:
        CorpusError: a file or record cannot be used.
        StoreError: `out_dir` exists already, the files hold no text, the disk is full, or a process died.
            Nothing that opens is left behind, and finished parts only if there were several.
        ValueError: num_workers below 1, or together with an executor.
        TypeError: tokenizer or executor is something else.
    """
    check_reading(sample_by, on_error, is_jsonl=is_jsonl, text_field=text_field)
    check_path("out_dir", out_dir)
    check_tokenizer(tokenizer)
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"executor={executor!r}, a concurrent.futures.Executor is needed: of a Dask client, client.get_executor()"
        )
    if num_workers is not None and (executor is not None or type(num_workers) is not int or num_workers < 1):
        what = "it does not go with executor=" if executor is not None else "a whole number from 1 is needed"
        raise ValueError(f"num_workers={num_workers!r}: {what}")
    out_dir, files = Path(out_dir).absolute(), find_files(paths)
    rules = Rules(
        is_jsonl=is_jsonl,
        text_field=text_field,
        sample_by=sample_by,
        on_error=on_error,
        tokenizer_hash=tokenizer.fingerprint(),
    )
    _check_free(out_dir)
    encoder = BulkEncoder(tokenizer)
    units = plan_units(files, rules, cuts=encoder.cuts)
    lock, keep = lock_of(out_dir), False
    try:
        with lock:
            try:
                _check_free(out_dir)  # another run may have been here meanwhile
                shards = _all_shards(units, files, rules, lock.folder, encoder, num_workers, executor)
                skipped, first = _count_skipped(units, files, shards)
                write_store(lock.folder / "store", out_dir, files, units, shards, rules, tokenizer)
                rename_folder(lock.folder / "store", out_dir)
            except EmptyError:
                if first:
                    raise EmptyError(f"no text found: {said_skipped(skipped, first)}") from None
                raise
            except BaseException:
                keep = len(units) > 1 and any(lock.folder.glob("*.json"))
                raise
            finally:
                if not keep:
                    lock.remove_folder()
    except (OSError, BrokenExecutor) as error:
        kept = "nothing was kept"
        if keep:
            kept = f"finished parts are kept in {lock.folder}, and the same call goes on from there"
        if isinstance(error, BrokenExecutor):
            message = f"a worker process died while preparing {out_dir} (out of memory? try num_workers=1): {kept}"
        else:
            full = error.errno == errno.ENOSPC
            what, cure = ("the disk is full", "free space or ") if full else (error.strerror or str(error), "")
            message = f"cannot write the store {out_dir} ({what}): {kept}; {cure}choose another out_dir or cache_dir"
        raise StoreError(message) from error
    except CorpusError as error:
        if keep:
            error.add_note(f"Finished parts are kept in {lock.folder} for the next run; or delete that folder.")
        raise
    if first:
        warn_skipped(skipped, first, stacklevel=3)
    return TokenStore.open(out_dir)


def lock_of(out_dir: Path) -> FolderLock:
    """The folder in which the parts of a store are kept until it is whole."""
    return FolderLock(out_dir.with_name(f"{out_dir.name}.partial"))


def _check_free(out_dir: Path) -> None:
    if os.path.exists(out_dir):
        raise StoreError(f"{out_dir} exists already: open it with TokenStore.open, or choose another folder")


# -- units to shards ---------------------------------------------------------------------------------------


def _all_shards(
    units: list[Unit],
    files: list[File],
    rules: Rules,
    folder: Path,
    encoder: BulkEncoder,
    num_workers: int | None,
    executor: Executor | None,
) -> list[Shard]:
    """The shard of each unit, in order, whole on disk.

    Raises:
        CorpusError: the first record, in the order of the files, that cannot be used.
    """
    _remove_others(folder, {unit.key(rules) for unit in units})
    done = {unit.number: shard for unit in units if (shard := finished_shard(unit, rules, folder))}
    waiting = deque(unit for unit in units if unit.number not in done)
    bad = min((number for number, shard in done.items() if shard.failed), default=len(units))
    total, left = (sum(unit.cost for unit in some) for some in (units, waiting))
    with (
        tqdm(total=total, initial=total - left, desc="tokenizing", unit="B", unit_scale=True, delay=2) as progress,
        ExitStack() as stack,
    ):

        def drop_unneeded() -> None:  # whatever comes after the first bad record
            while waiting and waiting[-1].number > bad:
                waiting.pop()

        drop_unneeded()
        submit, room = _helpers(stack, len(waiting), left, folder, encoder, num_workers, executor)
        results = _run(waiting, submit, room, rules, folder, encoder, here=executor is None)
        for unit, shard in results:
            done[unit.number] = shard
            progress.update(unit.cost)
            if shard.failed:
                bad = min(bad, unit.number)
            drop_unneeded()
    if bad < len(units):
        raise _located(units[bad], files, units, done)
    return [done[unit.number] for unit in units]


def _helpers(
    stack: ExitStack,
    n_units: int,
    left: int,
    folder: Path,
    encoder: BulkEncoder,
    num_workers: int | None,
    executor: Executor | None,
) -> tuple[Callable[..., Future[Shard]] | None, int]:
    """What hands a unit to another process, and how many units may be on their way at once."""
    wanted = min(num_workers or _count_cores(), left // _WORTH_A_PROCESS, _MOST_PROCESSES)
    helpers = 0 if multiprocessing.current_process().daemon else min(wanted, n_units) - 1
    if executor is None and helpers < 1:
        return None, 0
    encoder.tokenizer.save_pretrained(folder / "tokenizer")
    if executor is not None:
        return executor.submit, _IN_FLIGHT
    pool = ProcessPoolExecutor(helpers, multiprocessing.get_context("spawn"), initializer=_follow_parent)
    stack.callback(pool.shutdown, wait=True, cancel_futures=True)

    def submit(*work: Any) -> Future[Shard]:
        with _main_module_hidden():
            return pool.submit(*work)

    return submit, 2 * helpers


def _run(
    waiting: deque[Unit],
    submit: Callable[..., Future[Shard]] | None,
    room: int,
    rules: Rules,
    folder: Path,
    encoder: BulkEncoder,
    *,
    here: bool,
) -> Iterator[tuple[Unit, Shard]]:
    """Each unit with its shard, as they are done; with `here`, this process works too."""
    running: dict[Future[Shard], Unit] = {}
    try:
        while waiting or running:
            while submit and waiting and len(running) < room:
                unit = waiting.popleft()
                running[submit(run_unit, unit, rules, str(folder))] = unit
            if here and waiting:
                unit = waiting.popleft()
                yield unit, encode_unit(unit, rules, folder, encoder)
                done = [future for future in running if future.done()]
            else:
                done = list(wait(running, return_when=FIRST_COMPLETED).done)
            for future in done:
                yield running.pop(future), future.result()
    finally:
        for future in running:
            future.cancel()


def _count_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))  # those this process may use
    return os.cpu_count() or 1


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Processes that start now do not run the program's main file again, which may have no `__main__` guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _follow_parent() -> None:
    """In a worker: a parent that is killed takes it along; by itself it would wait for work forever. And Ctrl+C, which
    all processes of a terminal or a notebook get, is the parent's to answer: one traceback, not one for each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for_handles([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _remove_others(folder: Path, keys: set[str]) -> None:
    """Remove what earlier runs left half done, or made from files that are others now."""
    shutil.rmtree(folder / "store", ignore_errors=True)
    for path in folder.iterdir():
        if path.suffix in (".ids", ".lengths", ".json") and path.stem not in keys:
            path.unlink(missing_ok=True)


# -- what went wrong ---------------------------------------------------------------------------------------


def _located(unit: Unit, files: list[File], units: list[Unit], shards: dict[int, Shard]) -> CorpusError:
    """The error of a unit, its line counted from the beginning of the file. The units before it are done."""
    error = shards[unit.number].error
    assert error is not None
    line, reason = error
    if line is not None:
        before = units[: unit.number]
        line += sum(shards[other.number].lines for other in before if other.file_number == unit.file_number)
    return CorpusError(files[unit.file_number], line, reason)


def _count_skipped(units: list[Unit], files: list[File], shards: list[Shard]) -> tuple[int, CorpusError | None]:
    """How many records were left out, and the first of them."""
    bad = [unit for unit in units if shards[unit.number].skipped]
    if not bad:
        return 0, None
    whole = {unit.file_number for unit in bad if unit.kind == "document"}  # several bad pieces are one bad document
    count = len(whole) + sum(shards[unit.number].skipped for unit in bad if unit.kind != "document")
    return count, _located(bad[0], files, units, dict(enumerate(shards)))
