"""Other real corpora: the Python on this machine, and a catalogue of downloads. Does not tokenize.

A corpus is named by a word: `python`, `python:50MB`, a name of the catalogue, or a path. `resolve` turns the word into
files of documents. Nothing is downloaded unless its name is asked for, nothing is used before its SHA-256 holds, and
everything lands in one cache directory. By hand:

    python -m mt_core.lab.corpora list
    python -m mt_core.lab.corpora fetch tinyshakespeare
    python -m mt_core.lab.corpora python --megabytes 50 --out my_corpus
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mt_core.arguments import check_path
from mt_core.cache import user_cache_dir
from mt_core.lab.catalogue import CATALOGUE
from mt_core.lab.corpus_files import Corpus, Record, prepared_corpus, read_downloaded, split_by_hash, write_corpus
from mt_core.lab.download import DownloadError, download
from mt_core.lab.python_files import python_documents


def cache_directory(cache_dir: str | Path | None = None) -> Path:
    """Where corpora are kept: `cache_dir`, else the user's cache directory."""
    return user_cache_dir() if cache_dir is None else Path(cache_dir).expanduser().absolute()


def fetch(
    name: str,
    *,
    cache_dir: str | Path | None = None,
    max_bytes: float = 3_000_000_000,
    progress: bool = True,
    timeout: float = 30.0,
) -> Corpus:
    """Download a corpus of the catalogue, once, and prepare its documents.

    max_bytes: refuse a corpus that would download more. timeout: seconds a connection may stay silent.
    Raises ValueError for an unknown name, DownloadError or ChecksumError for a failed download, and ImportError
    where a Parquet corpus meets a machine without pyarrow. A part already downloaded is gone on from.
    """
    if name not in CATALOGUE:
        raise ValueError(f"no corpus {name!r} in the catalogue; there are: {', '.join(CATALOGUE)}")
    entry = CATALOGUE[name]
    directory = cache_directory(cache_dir) / name
    checksums = [remote.sha256 for remote in entry.train + entry.val]
    made_from = {"name": name, "kind": entry.kind, "val_fraction": entry.val_fraction, "sha256": checksums}
    if entry.kind != "text" and (ready := prepared_corpus(directory, made_from)):
        return ready
    if not entry.size <= max_bytes:
        raise DownloadError(
            f"{name} is {entry.size:,} bytes to download, the limit is {max_bytes:,.0f}: pass max_bytes={entry.size} "
            f"(on the command line --max-megabytes {-(-entry.size // 10**6)}), or choose a smaller corpus"
        )
    if entry.kind in ("articles", "documents") and importlib.util.find_spec("pyarrow") is None:
        raise ImportError(f"{name} comes as Parquet files, which need pyarrow to be read: pip install pyarrow")
    train = [download(remote, directory, progress=progress, timeout=timeout) for remote in entry.train]
    val = [download(remote, directory, progress=progress, timeout=timeout) for remote in entry.val]
    if entry.kind == "text":
        return Corpus(train=train[0], val=None, is_jsonl=False, title=entry.title)
    documents = split_by_hash(read_downloaded(entry.kind, train), read_downloaded(entry.kind, val), entry.val_fraction)
    return write_corpus(directory, made_from, entry.title, documents)


def prepare_python_corpus(
    out_dir: str | Path,
    *,
    megabytes: float = 20.0,
    val_fraction: float = 0.05,
    seed: int = 0,
    roots: str | Path | Sequence[str | Path] | None = None,
) -> Corpus:
    """Write the Python source on this machine as train.jsonl and val.jsonl, a file a document: no download.

    Documents are `{"text", "path"}`, `path` relative to its root with `/`. `megabytes` (10**6 bytes of UTF-8 text)
    counts both files; `val_fraction` is the share of documents in val.jsonl. `roots` default to the standard library
    and the installed packages. The order, and so the sample, is a shuffle that depends on the seed and the paths
    alone. No file is in both, and equal files count once; near-equal ones (two versions of a module) may be in both.
    Where the machine has less than asked, the corpus is smaller and its title says so.

    Raises ValueError for sizes that make no sense and where there are fewer than two usable files.
    """
    if not 0 < megabytes < math.inf or not 0 < val_fraction < 1:
        raise ValueError(
            f"megabytes={megabytes} and val_fraction={val_fraction}; needed are megabytes above 0 "
            "and a fraction between 0 and 1"
        )
    out_dir, limit = Path(out_dir).absolute(), round(megabytes * 10**6)
    total, counts, exhausted = 0, [0, 0], False  # bytes; documents of train and of val; nothing more to take

    def documents() -> Iterator[Record]:
        nonlocal total, exhausted
        exhausted = True
        for path, text in python_documents(roots, seed=seed):
            size = len(text.encode("utf-8"))
            if total + size > limit:
                exhausted = False
                if total >= 0.98 * limit:
                    break
                continue  # too long for what is left: a shorter one may fit
            total += size
            is_val = counts[1] + 1 <= val_fraction * (sum(counts) + 1)  # by place, whatever the length
            counts[is_val] += 1
            yield is_val, {"text": text, "path": path}
        if not all(counts):
            raise ValueError(
                f"too little Python source for two files ({sum(counts)} documents, {total:,} bytes of {limit:,} "
                f"asked, val_fraction={val_fraction}): raise megabytes or val_fraction, or name other roots"
            )

    def title() -> str:
        less = f" of {megabytes:g} MB asked: this machine has no more" if exhausted else ""
        return f"Python source on this machine, {total / 10**6:.3g} MB{less}"

    made_from = _python_settings(megabytes, val_fraction, seed)
    return write_corpus(out_dir, made_from, title, documents())


def resolve(name_or_path: str | Path, *, cache_dir: str | Path | None = None, progress: bool = True) -> Corpus:
    """The corpus that a word means.

    `python` and `python:50MB` (or GB) are prepared into the cache; a name of the catalogue is fetched; a directory with
    train.jsonl and val.jsonl, or a single file, is taken as it is. A Path, or a text like `./python`, is always a path.
    """
    word = name_or_path if isinstance(name_or_path, str) else ""
    if match := re.fullmatch(r"python(?::(\d+(?:\.\d+)?)\s*(MB|GB))?", word, re.IGNORECASE):
        megabytes = float(match[1] or 20) * (1000 if (match[2] or "").upper() == "GB" else 1)
        directory = cache_directory(cache_dir) / f"python-{megabytes:g}MB"
        ready = prepared_corpus(directory, _python_settings(megabytes, 0.05, 0))
        return ready or prepare_python_corpus(directory, megabytes=megabytes)
    if word in CATALOGUE:
        return fetch(word, cache_dir=cache_dir, progress=progress)
    check_path("name_or_path", name_or_path)
    path = Path(os.path.expanduser(name_or_path))  # unlike the method, it leaves a ~name that is no user
    if os.path.isfile(path):
        return Corpus(train=path, val=None, is_jsonl=None, title=path.name)
    if os.path.isdir(path):
        train, val = path / "train.jsonl", path / "val.jsonl"
        if train.is_file() and val.is_file():
            return Corpus(train=train, val=val, is_jsonl=True, title=path.resolve().name)
        raise ValueError(f"{path} has no train.jsonl and val.jsonl: name a file, or a directory with both")
    raise ValueError(
        f"{str(name_or_path)!r} is no file, no directory and no known corpus; "
        f"known are: python, python:50MB, {', '.join(CATALOGUE)}"
    )


def _python_settings(megabytes: float, val_fraction: float, seed: int) -> dict[str, Any]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"python": version, "megabytes": megabytes, "val_fraction": val_fraction, "seed": seed}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mt_core.lab.corpora", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is, how large, and under which licence")
    fetching = commands.add_parser("fetch", help="download a corpus of the catalogue")
    fetching.add_argument("name", choices=sorted(CATALOGUE))
    fetching.add_argument("--cache-dir", type=Path, help="default: MICROTRANSFORMER_CACHE, or the user's cache")
    fetching.add_argument("--max-megabytes", type=float, default=3000.0, help="refuse to download more")
    fetching.add_argument("--quiet", action="store_true", help="no progress bar")
    local = commands.add_parser("python", help="collect the Python source on this machine")
    local.add_argument("--megabytes", type=float, default=20.0)
    local.add_argument("--out", type=Path, required=True, help="directory for train.jsonl and val.jsonl")
    local.add_argument("--val-fraction", type=float, default=0.05)
    local.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        if options.command == "list":
            print(_listing())
            return 0
        if options.command == "fetch":
            corpus = fetch(
                options.name,
                cache_dir=options.cache_dir,
                max_bytes=options.max_megabytes * 10**6,
                progress=not options.quiet,
            )
        else:
            corpus = prepare_python_corpus(
                options.out,
                megabytes=options.megabytes,
                val_fraction=options.val_fraction,
                seed=options.seed,
            )
    except (DownloadError, ImportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was downloaded is kept, run it again to go on from there", file=sys.stderr)
        return 130
    print("\n".join(str(line) for line in (corpus.title, corpus.train, corpus.val) if line))
    return 0


def _listing() -> str:
    lines = ["python, python:50MB: the Python source on this machine, no download"]
    for name, entry in CATALOGUE.items():
        reader = ", needs pyarrow" if entry.kind in ("articles", "documents") else ""
        lines += [
            f"{name}: {entry.title}",
            f"    {entry.size / 10**6:,.1f} MB{reader}; licence: {entry.licence}. {entry.note}",
        ]
    return "\n".join([*lines, f"kept in {cache_directory()}"])


if __name__ == "__main__":
    sys.exit(main())
