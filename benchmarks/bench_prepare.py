"""How fast a corpus becomes a token store, and in how much memory: `python benchmarks/bench_prepare.py --help`.

For each size, rounds in which `prepare_corpus` and `tiktoken` take turns: the same texts, the same merges, all cores.
tiktoken encodes texts that are in memory already and keeps nothing: in its own threads, and in processes that were
started and given their texts beforehand. `prepare_corpus` starts its processes, reads the file, encodes, and writes,
syncs and hashes the store. Figures are ratios, for other programs on the same machine change both. Memory is the
private memory of this program's process and of all it started, added up, at its highest. Does not fail when a figure
is poor; no test looks at a time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mt_core import MicroTransformerTokenizer, read_documents
from mt_core.bulk import BulkEncoder
from mt_core.lab.python_files import python_documents

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_SECONDS = 0.1
NEEDED_RATIO, MOST_MEMORY, MOST_GROWTH = 0.8, 600e6, 1.2
PREPARE = """
import sys
from mt_core import MicroTransformerTokenizer, prepare_corpus
corpus, tokenizer, out_dir, num_workers = sys.argv[1:]
tokenizer = MicroTransformerTokenizer.from_pretrained(tokenizer)
import time
start = time.perf_counter()
store = prepare_corpus(corpus, out_dir, tokenizer, num_workers=int(num_workers) or None)
print(time.perf_counter() - start, len(store), store.fingerprint())
"""


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure prepare_corpus on this machine. Needs three times the largest corpus of temporary disk."""

    megabytes: tuple[int, ...] = (25, 50, 100, 200)
    """Sizes of corpora that are compared with tiktoken."""
    big: int = 0
    """Size in megabytes of one more corpus, which is not compared; 0 for none."""
    rounds: int = 3
    """Rounds for each size."""
    text: Literal["python", "stories"] = "python"
    """The Python source on this machine, or the stories of `data/`; repeated until there is enough."""
    num_workers: int = 0
    """Processes; 0 for all cores."""
    tokenizer: Path = ROOT / "data" / "tokenizer"
    """Folder of the tokenizer."""
    folder: Path | None = None
    """Where the temporary files go."""
    out: Path = Path("runs/bench/prepare.json")
    """The JSON file with every figure."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.megabytes or min(self.megabytes) < 1:
            raise ValueError("at least one size and one round are needed: raise --rounds or --megabytes")


def write_corpus(path: Path, kind: str, megabytes: int) -> None:
    """A JSONL file of about that size; where there is less text, it is repeated."""
    found = read_documents(ROOT / "data" / "train.jsonl") if kind == "stories" else (t for _, t in python_documents())
    wanted = megabytes * 1_000_000
    with path.open("wb") as file:
        for text in found:
            file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
            if file.tell() >= wanted:
                return
        once = file.tell()
        file.flush()
        while file.tell() < wanted:
            with path.open("rb") as again:
                for line in again:
                    if again.tell() > once or file.tell() >= wanted:
                        break
                    file.write(line)


# -- memory ------------------------------------------------------------------------------------------------


def private_bytes(pid: int) -> int:
    """Private memory of a process and of those it started, by Linux's account; 0 where it is not told."""
    total = 0
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        total = sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text(encoding="utf-8").split()
            total += sum(private_bytes(int(child)) for child in children)
    except OSError:  # it has ended meanwhile
        pass
    return total


def measure_prepare(corpus: Path, config: BenchConfig, out_dir: Path) -> tuple[float, int, str]:
    """Seconds, highest private memory in bytes, and the store's fingerprint, of a program of its own."""
    command = [sys.executable, "-c", PREPARE, str(corpus), str(config.tokenizer), str(out_dir), str(config.num_workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8")
    highest = 0
    while process.poll() is None:
        highest = max(highest, private_bytes(process.pid))
        time.sleep(SAMPLE_SECONDS)
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"prepare_corpus ended with {process.returncode}")
    seconds, _, fingerprint = out.split()
    shutil.rmtree(out_dir)
    return float(seconds), highest, fingerprint


# -- tiktoken alone ----------------------------------------------------------------------------------------

_share: list[str] = []


def load_share(corpus: Path, tokenizer: Path, number: int, of: int) -> None:
    """In a process: its share of the texts, in memory."""
    global _encode
    _encode = MicroTransformerTokenizer.from_pretrained(tokenizer)._create_fast()
    _share[:] = [text for n, text in enumerate(read_documents(corpus)) if n % of == number]


def encode_share() -> None:
    assert _encode is not None
    for text in _share:
        _encode.encode_ordinary(text)


_encode = None


def measure_tiktoken(corpus: Path, config: BenchConfig, cores: int) -> tuple[float, float]:
    """Seconds of tiktoken for all texts: in its own threads, and in processes that hold the texts."""
    encoder = MicroTransformerTokenizer.from_pretrained(config.tokenizer)._create_fast()
    assert encoder is not None
    texts = list(read_documents(corpus))
    start = time.perf_counter()
    encoder.encode_ordinary_batch(texts, num_threads=cores)
    in_threads = time.perf_counter() - start
    del texts
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, context) for _ in range(cores)]
    for loaded in [p.submit(load_share, corpus, config.tokenizer, n, cores) for n, p in enumerate(pools)]:
        loaded.result()
    start = time.perf_counter()
    for done in [pool.submit(encode_share) for pool in pools]:
        done.result()
    in_processes = time.perf_counter() - start
    for pool in pools:
        pool.shutdown()
    return in_threads, in_processes


def check_ids(corpus: Path, tokenizer: Path, limit: int = 200) -> None:
    """The ids are those of `tokenizers`, for the first texts."""
    slow = MicroTransformerTokenizer.from_pretrained(tokenizer)
    fast = BulkEncoder(slow)
    for number, text in enumerate(read_documents(corpus)):
        if number == limit:
            break
        assert fast.document(text).tolist() == slow.encode(text)["input_ids"], f"text {number} differs"


# -- all together ------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, write the figures; returns 0."""
    config = tyro.cli(BenchConfig, args=arguments, description=__doc__)
    cores = config.num_workers or (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
    found = []
    print(f"{config.text}, {cores} cores; speed / tiktoken alone\n   MB  threads processes   private memory, MB")
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        folder = Path(name)
        for megabytes in [*config.megabytes, *([config.big] if config.big else [])]:
            corpus = folder / "corpus.jsonl"
            write_corpus(corpus, config.text, megabytes)
            check_ids(corpus, config.tokenizer)
            ratios, memory = [], []
            for _ in range(1 if megabytes == config.big else config.rounds):
                seconds, highest, _ = measure_prepare(corpus, config, folder / "store")
                memory.append(highest)
                if megabytes != config.big:
                    ratios.append([alone / seconds for alone in measure_tiktoken(corpus, config, cores)])
            ratio = [statistics.median(each) for each in zip(*ratios, strict=True)]  # none for the big one
            found.append({"megabytes": megabytes, "ratio": ratio, "ratios": ratios, "private_bytes": max(memory)})
            shown = "".join(f"{each:10.2f}" for each in ratio) or 20 * " "
            print(f"{megabytes:5} {shown} {max(memory) / 1e6:20.0f}", flush=True)
    ratios = [each for row in found for each in row["ratio"]]
    memory = [row["private_bytes"] for row in found]
    fast, flat = min(ratios) >= NEEDED_RATIO, max(memory) <= MOST_GROWTH * min(memory) and max(memory) < MOST_MEMORY
    print(f"speed: {'at least' if fast else 'BELOW'} {NEEDED_RATIO} of tiktoken alone")
    if min(memory):
        print(f"memory: {'flat' if flat else 'NOT FLAT'}, largest / smallest {max(memory) / min(memory):.2f}")
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps({"text": config.text, "cores": cores, "rows": found}, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
