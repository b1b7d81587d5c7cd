"""Figures from devices that are not here: our own records where there are any, else what others published.

Measures nothing. Says of each figure where it comes from, and of others' figures that they are not ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt_core.lab import transfers

RECORDS = Path(__file__).resolve().parents[2] / "benchmarks" / "records"


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


def load(folder: Path = RECORDS) -> dict[str, Any] | None:
    """The record that `benchmarks/bench_transfer.py` wrote, or None where there is none.

    Raises:
        ValueError: there is a file, but it is not such a record.
    """
    path = folder / "transfers.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = {"device", "date", "torch", "copies", "ways", "returns", "overlap"} - set(record)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name} holds no record ({error}): write it anew with bench_transfer.py") from None
    if missing:
        raise ValueError(f"{path.name} lacks {', '.join(sorted(missing))}: write it anew with bench_transfer.py")
    return record


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
