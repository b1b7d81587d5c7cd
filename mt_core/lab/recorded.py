"""Figures from devices that are not here: our own records where there are any, else what others published.

Measures nothing. Says of each figure where it comes from, and of others' figures that they are not ours. A record is a
folder `data/runs/<device>-<date>` of small JSON and CSV files, written whole or not at all.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt_core.lab import transfers

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"
NOT_YET = "not yet recorded: on a machine with a CUDA device, `python -m mt_core.lab.record_run` records it"
_NAME = re.compile(r"(?P<device>.+)-(?P<date>\d{4}-\d{2}-\d{2})(?:-(?P<number>\d+))?")
_RUN = {"device", "date", "preset", "parameters", "tokens_per_second", "mfu", "stall", "packed_ratio", "validation"}
_TRANSFERS = {"device", "date", "torch", "copies", "ways", "returns", "overlap"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """One figure that somebody else measured. `gb_s` is a bandwidth; `name` is short, for pictures."""

    name: str
    words: str
    source: str
    gb_s: float | None = None


PUBLISHED = (
    Published(
        name="PCIe 3",
        words="12 GB/s from pinned memory, PCIe 3 with 16 lanes",
        source="NVIDIA, CUDA C++ Best Practices Guide, read in translation",
        gb_s=12.0,
    ),
    Published(
        name="PCIe 4, A100",
        words="25 GB/s from pinned memory, PCIe 4 with 16 lanes, A100; 32 in theory",
        source="user's report to NVIDIA/nvbandwidth on GitHub; RTX 4090s the same",
        gb_s=25.0,
    ),
    Published(
        name="PCIe 5, H100",
        words="35 GB/s from pinned memory, PCIe 5 with 16 lanes, H100, copied by its cores; 64 in theory",
        source="user's report to NVIDIA/nvbandwidth on GitHub",
        gb_s=35.0,
    ),
    Published(
        name="pin, then copy",
        words=".pin_memory().to(device, non_blocking=True): up to twice the time of .to(device)",
        source="PyTorch tutorial on pin_memory and non_blocking",
    ),
    Published(
        name="page-locking",
        words="seconds to page-lock a gigabyte: no figure found",
        source="benchmarks/bench_transfer.py measures it",
    ),
)


def folders(runs: Path = RUNS) -> list[Path]:
    """The folders of records, newest first, by the date and the number in their names."""
    found = [(match, path) for path in runs.glob("*") if path.is_dir() and (match := _NAME.fullmatch(path.name))]
    return [p for _, p in sorted(found, key=lambda x: (x[0]["date"], int(x[0]["number"] or 1), x[1].name))[::-1]]


def new_folder(device: str, date: str, runs: Path = RUNS) -> Path:
    """Where a record of this device and date goes: a name that is not taken.

    >>> new_folder("NVIDIA H200", "2026-01-31", Path("nowhere")).name
    'nvidia-h200-2026-01-31'
    """
    name = f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-') or 'unknown'}-{date}"
    number = 1
    while (path := runs / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write texts by file name into a new folder, which gets its name when it is whole.

    Raises:
        OSError: it exists, or cannot be written. Nothing is left behind.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already: remove it first, or choose another folder")
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8", newline="\n")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def as_json(values: Any) -> str:
    """JSON as it is stored."""
    return json.dumps(values, indent=1) + "\n"


def as_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """CSV with a line of names, as it is stored.

    >>> as_csv(("step", "loss"), [(1, 6.9)])
    'step,loss\\n1,6.9\\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def load(runs: Path = RUNS) -> dict[str, Any] | None:
    """The newest record of transfers, by `benchmarks/bench_transfer.py` or `record_run`; None where there is none.

    Raises:
        ValueError: there is a file, but it is not such a record.
    """
    found = _newest(runs, "transfers.json")
    return None if found is None else _read(found, _TRANSFERS, "bench_transfer.py")


def load_run(runs: Path = RUNS) -> dict[str, Any] | None:
    """The newest record of a whole run, as `record_run` wrote it; None where there is none.

    Its "curve" is {"step", "loss"}, two lists of equal length.

    Raises:
        ValueError: there is a file, but it is not such a record.
    """
    found = _newest(runs, "run.json")
    if found is None:
        return None
    record = _read(found, _RUN, "record_run")
    try:
        with (found.parent / "curve.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        curve = {"step": [int(row["step"]) for row in rows], "loss": [float(row["loss"]) for row in rows]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"curve.csv holds no curve ({error}): write it anew with record_run") from None
    return {**record, "curve": curve}


def _newest(runs: Path, name: str) -> Path | None:
    return next((path / name for path in folders(runs) if (path / name).exists()), None)


def _read(path: Path, needed: set[str], program: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = needed - set(record)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name} holds no record ({error}): write it anew with {program}") from None
    if missing:
        raise ValueError(f"{path.name} lacks {', '.join(sorted(missing))}: write it anew with {program}")
    return record


def run_lines(record: Mapping[str, Any] | None) -> list[str]:
    """What to print of a run on another machine, with its device and date, or that there is no record yet."""
    if record is None:
        return [NOT_YET]
    mfu = "unknown" if record["mfu"] is None else f"{record['mfu']:.1%}"
    found = [
        f"RECORDED, not from this machine: {record['device']}, {record['date']}",
        f"model             {record['preset']}, {record['parameters']:,} parameters, rows of {record['seq_length']:,}",
        f"throughput        {record['tokens_per_second']:,.0f} tokens/s, MFU {mfu}",
        f"waiting for data  {record['stall']:.2%} of the time",
        f"packed rows       {record['packed_ratio']:.2f} of that throughput, documents kept apart",
        f"validation loss   {record['validation']:.3f} nats per token after {record['tokens']:,} tokens",
    ]
    if record.get("functions"):
        found.append(f"functions         {record['functions']['words']}")
    return found


def lines(record: dict[str, Any] | None) -> list[str]:
    """What to print: the record with its device and date, or what others published, marked as theirs."""
    if record is not None:
        return ["RECORDED, not from this machine:", *transfers.lines(record)]
    return ["PUBLISHED BY OTHERS, not measured by us:"] + [f"- {each.words} ({each.source})" for each in PUBLISHED]


def bandwidths(record: dict[str, Any] | None) -> dict[str, float]:
    """Names and GB/s to draw: of the record's largest copy, or of what others published."""
    if record is None:
        return {f"{each.name} (published)": each.gb_s for each in PUBLISHED if each.gb_s is not None}
    largest = record["copies"][-1]
    names = {"pageable": largest["pageable_gb_s"], "pinned": largest["pinned_gb_s"]}
    return {f"{record['device']}, {name} (recorded)": gb_s for name, gb_s in names.items()}
