"""Measure how tensors reach a CUDA device and record it: `python benchmarks/bench_transfer.py`.

Writes benchmarks/records/transfers.json, which notebook 06 shows on machines without such a device; run that notebook
again with tools/nbrun.py afterwards, on a machine without one. Needs a CUDA device and a gigabyte of memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mt_core.lab import recorded, transfers


def main(arguments: list[str]) -> int:
    """Measure, print and write the record; returns 1 where there is no CUDA device."""
    parser = argparse.ArgumentParser(description="Measure copies to a CUDA device and record the figures.")
    parser.add_argument("--out", type=Path, default=recorded.RECORDS / "transfers.json")
    parser.add_argument("--rounds", type=int, default=25, help="how often each time is taken, from 3")
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 3:
        parser.error(f"{chosen.rounds} rounds have no useful median: at least 3 are needed")
    try:
        record = transfers.measure(rounds=chosen.rounds)
    except RuntimeError as error:
        print(f"nothing was written: {error}", file=sys.stderr)
        return 1
    print("\n".join(transfers.lines(record)))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")
    print(f"written to {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
