"""A report on a corpus and its data path, to hand in or to attach to a bug report. Mends nothing.

    python -m mt_core.lab.report my_file.jsonl --out report.md

It holds versions, counts, checksums, settings and a checklist of which each line was computed. It holds no text of the
corpus, and no name of a file, a folder, a user or a machine.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mt_core.arguments import check_count
from mt_core.cache import open_corpus
from mt_core.corpus import CorpusWarning, iterate_documents
from mt_core.dataset import Chunking, TransformerDataset
from mt_core.evaluation import loss_of
from mt_core.lab.audit import CountingCorpus, audit
from mt_core.lab.corpora import Corpus, resolve
from mt_core.lab.course import this_machine
from mt_core.lab.download import DownloadError
from mt_core.lab.own_corpus import divide, first_part, survey
from mt_core.lab.timeline import record
from mt_core.lab.train import unigram_entropy
from mt_core.model import MicroTransformer
from mt_core.store import StoreError, TokenStore
from mt_core.token_loader import TokenLoader
from mt_core.tokenizer import MicroTransformerTokenizer

READING = {"text_field": "text", "sample_by": "paragraph", "on_error": "skip"}
_PACKAGES = ("microtransformer", "numpy", "tokenizers", "tiktoken")
_VOCAB_SIZE = 1024
_TOKENIZER_BYTES = 10_000_000  # of text, to train on
_AUDIT_TOKENS = 250_000
_TEXTS = 1000  # that are decoded and compared
_FEW = 4  # batches in an epoch, at least, to record
_BATCHES = 32  # in an epoch, at least, for its speed to say something


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found; `str(report)` is Markdown.

    Attributes:
        checklist: what should hold -> whether it does.
        facts: the same on every machine with the same files, package and settings.
        measured: what differs from run to run, or belongs to this machine.
    """

    checklist: dict[str, bool]
    facts: dict[str, str]
    measured: dict[str, str]

    def __str__(self) -> str:
        lines = ["# Report on a corpus and its data path", "", "## Checklist", ""]
        lines += [f"- [{'x' if holds else ' '}] {what}: {'yes' if holds else 'NO'}" for what, holds in self.lines()]
        for title, rows in (("Corpus and settings", self.facts), ("This machine, measured", self.measured)):
            lines += ["", f"## {title}", "", "| what | found |", "| --- | --- |"]
            lines += [f"| {name} | {value} |" for name, value in rows.items()]
        return "\n".join([*lines, "", "No text of the corpus and no name of a file is in this report.", ""])

    def lines(self) -> list[tuple[str, bool]]:
        """The checklist, one pair a line."""
        return list(self.checklist.items())

    def write(self, path: str | Path) -> None:
        """Write the Markdown to a file."""
        Path(path).write_text(str(self), encoding="utf-8", newline="\n")


def report(
    path: str | Path | Corpus,
    *,
    tokenizer: MicroTransformerTokenizer | None = None,
    seq_length: int | None = None,
    batch_size: int | None = None,
    chunking: Chunking = "contiguous",
    loss: float | None = None,
    **reading: Any,
) -> Report:
    """Take a corpus through the data path, look at each stage, and say what was found.

    Args:
        path: a file, a folder with train.jsonl and val.jsonl, a name, see `corpora.resolve`, or what that returned.
        tokenizer: None trains one on the corpus.
        seq_length, batch_size: None chooses what suits the size of the corpus.
        loss: validation loss (nats per token) of a model trained on it, to be compared with the unigram entropy.
        reading: how files are read, see `read_documents`; plain text is cut into paragraphs, bad records are counted.

    Raises:
        ValueError: the corpus or a setting cannot be used, and what to do about it.
    """
    corpus = path if isinstance(path, Corpus) else resolve(path)
    how = {**READING, "is_jsonl": corpus.is_jsonl, **reading}
    found = survey(corpus.train, **how)
    tokenizer = tokenizer or train_tokenizer(corpus.train, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorpusWarning)  # bad records are counted already
        store = open_corpus(corpus.train, tokenizer, **how)
        texts = [document.text for document in islice(iterate_documents(corpus.train, **how), _TEXTS)]
        parts = divide(corpus, found, store, tokenizer, **how)
    part = first_part(store, _AUDIT_TOKENS)
    seq_length = suitable_seq_length(part) if seq_length is None else seq_length
    rows = TransformerDataset(part, seq_length=seq_length, chunking=chunking)
    batch_size = suitable_batch_size(rows) if batch_size is None else batch_size
    check_count("batch_size", batch_size)
    if len(rows) <= (_FEW - 1) * batch_size:
        raise ValueError(
            f"{len(rows)} rows of seq_length={seq_length} make fewer than {_FEW} batches of batch_size={batch_size}, "
            "which is too few to measure: lower one of them, or add text"
        )

    def create(store: TokenStore) -> TokenLoader:
        dataset = TransformerDataset(store, seq_length=seq_length, chunking=chunking)
        return TokenLoader(dataset, batch_size=batch_size, shuffle=True)

    counting = CountingCorpus(token_ids=np.arange(len(part)), document_ends=part.document_ends.astype(np.int64))
    audited = audit(lambda corpus: create(corpus.store()), counting, epochs=2)
    decoded = (tokenizer.decode(store.document(d).tolist(), skip_special_tokens=True) for d in range(len(texts)))
    checklist = {
        "every record could be read": found.n_bad == 0,
        "no text comes twice": found.n_repeated == 0,
        "no overlap of training and validation": parts.n_overlap == 0,
        "texts come back from their tokens": texts == list(decoded),
        "the store is what was written": _is_whole(store),
        "each target once an epoch": audited.exact,
        "labels shifted once": audited.wrong_labels == 0 and audited.label_shift == 1,
        "a new order each epoch": not audited.epochs[1].same_order_as_before,
        "resume exact": resumes_exactly(lambda: create(part)),
    }
    entropy = unigram_entropy(parts.train)
    if loss is not None:
        checklist["validation loss below the unigram entropy"] = loss < entropy
    per_token = int(found.n_bytes) / max(1, len(store) - 2 * store.n_documents)
    facts = {
        "documents": f"{found.n_documents:,}, with {found.n_repeated:,} whose text came before",
        "held out": f"{parts.n_val:,} documents, {parts.n_overlap:,} with a text that is trained on too",
        "bad records": f"{found.n_bad:,}" + (f", the first in line {found.first_bad.line}" if found.first_bad else ""),
        "text": f"{found.n_bytes:,} bytes, {found.n_characters:,} characters",
        "SHA-256 of the documents": found.sha256,
        "tokens": f"{len(store):,} ({store.token_ids.dtype}), {per_token:.2f} bytes of text a token",
        "tokenizer": f"{len(tokenizer):,} entries, SHA-256 {tokenizer.fingerprint()}",
        "store": f"fingerprint {store.fingerprint()}",
        "settings": f"seq_length {seq_length}, batch_size {batch_size}, chunking {chunking}, no workers",
        "unigram entropy": f"{entropy:.3f} nats per token",
        "audit": f"{len(part):,} tokens, 2 epochs: " + ("; ".join(audited.findings) or "every target once in each"),
    }
    if loss is not None:
        facts["validation loss"] = f"{loss:.2f} nats per token"
    return Report(checklist=checklist, facts=facts, measured=_measured(create(part), part, seq_length, batch_size))


def train_tokenizer(path: str | Path, *, vocab_size: int = _VOCAB_SIZE, **reading: Any) -> MicroTransformerTokenizer:
    """A tokenizer of the first 10 MB of a corpus's text; `reading` as for `read_documents`."""

    def texts() -> Iterable[str]:
        left = _TOKENIZER_BYTES
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CorpusWarning)
            for document in iterate_documents(path, **reading):
                yield document.text[:left]
                left -= len(document.text.encode("utf-8"))
                if left <= 0:
                    return

    return MicroTransformerTokenizer.train(texts(), vocab_size=vocab_size)


def suitable_seq_length(store: TokenStore) -> int:
    """128, or less where the corpus would not give a few dozen rows of that."""
    return max(1, min(128, len(store) // 32))


def suitable_batch_size(dataset: TransformerDataset) -> int:
    """16, or less where an epoch would not have a few batches of that."""
    return max(1, min(16, len(dataset) // 8))


def resumes_exactly(create: Callable[[], TokenLoader]) -> bool:
    """Whether a loader stopped in mid-epoch, and another that takes up its state, give what one alone gives."""
    loader, other = create(), create()
    batches = iter(loader)
    for _ in range(len(loader) // 2):
        next(batches)
    other.load_state_dict(loader.state_dict())
    left, resumed = list(batches), list(other)
    return len(left) == len(resumed) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(left, resumed, strict=True)
    )


def tokens_a_second(loader: Iterable[Any], *, seconds: float = 0.5) -> float:
    """Inputs a second that a loader of batches {"input_ids": (B, T)} gives, epoch after epoch, for so long.

    Raises:
        ValueError: an epoch without a batch, as the second one of a generator.
    """
    for _ in loader:  # the first batch makes what is made once
        break
    n_tokens, begin = 0, time.perf_counter()
    while True:
        before = n_tokens
        for batch in loader:
            n_tokens += batch["input_ids"].numel()
            if (passed := time.perf_counter() - begin) > seconds:
                return n_tokens / passed
        if n_tokens == before:
            raise ValueError("the loader gave an epoch without a batch: make one that begins anew at each iter(loader)")


class PlainRows(Dataset[dict[str, torch.Tensor]]):
    """Rows as most datasets are written: one at a time, each made anew. `offsets`, if given, is where rows begin."""

    def __init__(self, store: TokenStore, seq_length: int, offsets: Sequence[int] | None = None) -> None:
        self.token_ids, self.seq_length = store.token_ids, seq_length
        self.offsets = range(0, len(store) - seq_length, seq_length) if offsets is None else offsets

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        start = int(self.offsets[index])
        row = torch.from_numpy(self.token_ids[start : start + self.seq_length + 1].astype(np.int64))  # (T + 1,)
        return {"input_ids": row[:-1], "labels": row[1:]}


def _is_whole(store: TokenStore) -> bool:
    try:
        store.verify()
    except StoreError:
        return False
    return True


def _measured(loader: TokenLoader, part: TokenStore, seq_length: int, batch_size: int) -> dict[str, str]:
    model = MicroTransformer(vocab_size=part.vocab_size, n_layer=1, n_embd=64)
    timeline = record(loader, lambda batch: loss_of(model, batch).backward(), 20)
    plain = DataLoader(PlainRows(part, seq_length), batch_size=batch_size, shuffle=True)
    speed = f"not compared: an epoch has {len(loader)} batches, and to begin one costs more than they do"
    if len(loader) >= _BATCHES:
        gain = tokens_a_second(loader) / tokens_a_second(plain)
        speed = f"{gain:.1f} times the tokens a second of a DataLoader over single rows"
    machine = this_machine()
    return {
        "system": f"{machine.system}, {machine.cores} cores, accelerator: {machine.accelerator}",
        "Python, PyTorch": f"{machine.python}, {machine.torch}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "workers": machine.workers,
        "stall": f"the step waits for data {timeline.stall:.1%} of the time",
        "speed": speed,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mt_core.lab.report", description=__doc__.splitlines()[0])
    parser.add_argument("path", help="a file, a folder with train.jsonl and val.jsonl, or a corpus by name")
    parser.add_argument("--out", type=Path, help="write the report to this file instead of printing it")
    parser.add_argument("--text-field", default=READING["text_field"], help="the field of a record that holds the text")
    parser.add_argument("--sample-by", default=READING["sample_by"], choices=("document", "paragraph", "line"))
    options = parser.parse_args(arguments)
    if options.out is not None and (options.out.is_dir() or not options.out.absolute().parent.is_dir()):
        parser.error(f"--out {options.out} is a folder, or in one that is not there: name a file in a folder that is")
    try:
        found = report(options.path, text_field=options.text_field, sample_by=options.sample_by)
        if options.out is not None:
            found.write(options.out)
    except (DownloadError, OSError, ImportError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.out is None:
        print(found)
    return 0 if all(found.checklist.values()) else 2


if __name__ == "__main__":
    sys.exit(main())
