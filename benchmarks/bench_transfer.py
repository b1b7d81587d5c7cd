"""Measure how tensors reach a CUDA device and record it: `python benchmarks/bench_transfer.py`.

Writes data/runs/<device>-<date>/transfers.json, which notebook 06 shows on machines without such a device; run that
notebook again with tools/nbrun.py afterwards, on a machine without one. Needs a CUDA device and a gigabyte of memory.
`python -m mt_core.lab.record_run` records a whole training run, these figures among it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mt_core.lab import recorded, transfers


def main(arguments: list[str]) -> int:
    """Measure, print and write the record; returns 1 where there is no CUDA device."""
    parser = argparse.ArgumentParser(description="Measure copies to a CUDA device and record the figures.")
    parser.add_argument("--runs", type=Path, default=recorded.RUNS, help="where the folder of the record goes")
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
    folder = recorded.new_folder(record["device"], record["date"], chosen.runs)
    page = f"# Copies to {record['device']}, {record['date']}\n\nRecorded by `python benchmarks/bench_transfer.py`.\n"
    recorded.write_folder(folder, {"README.md": page, "transfers.json": recorded.as_json(record)})
    print(f"written to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
