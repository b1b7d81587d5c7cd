"""A reader's corpus: what its files hold, and how much of its store a lesson takes. Does not tokenize or train."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mt_core.cache import open_corpus
from mt_core.corpus import CorpusError, Document, OnError, SampleBy, check_reading, kind_of, read_range
from mt_core.dataset import Chunking, TransformerDataset
from mt_core.files import Paths, find_files
from mt_core.lab.corpus_files import Corpus
from mt_core.store import TokenStore
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import IGNORE

LEAST_TOKENS = 256  # below that, a tenth of it is no validation


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the files of a corpus hold; `print(survey)` says it in words.

    Attributes:
        lengths: uint64 (D,), UTF-8 bytes of each document.
        hashes: uint64 (D,), equal for equal texts (the first 64 bits of a SHA-256).
        n_characters: of all documents.
        sha256: of all documents, in order: the same for a file and its packed copy.
        n_bad, first_bad: records left out, and why the first was.
    """

    lengths: np.ndarray = field(repr=False, compare=False)
    hashes: np.ndarray = field(repr=False, compare=False)
    n_characters: int
    sha256: str
    n_bad: int
    first_bad: CorpusError | None

    @property
    def n_documents(self) -> int:
        return len(self.lengths)

    @property
    def n_bytes(self) -> int:
        return int(self.lengths.sum())

    @property
    def n_repeated(self) -> int:
        """Documents whose text has come before."""
        return self.n_documents - len(np.unique(self.hashes))

    def __str__(self) -> str:
        low, middle, high = (int(value) for value in np.percentile(self.lengths, [25, 50, 75]))
        lines = [
            f"{_count(self.n_documents, 'document')}, {self.n_bytes:,} bytes, {self.n_characters:,} characters",
            f"bytes of a document: least {int(self.lengths.min()):,}, middle half {low:,} to {high:,}, "
            f"median {middle:,}, most {int(self.lengths.max()):,}",
            f"texts that came before: {self.n_repeated:,}",
            f"records that cannot be read: {self.n_bad:,}",
        ]
        if self.first_bad is not None:
            place = f"line {self.first_bad.line}: " if self.first_bad.line else ""
            lines.append(f"the first of them: {place}{self.first_bad.reason}")
        return "\n".join(lines)


def survey(
    paths: Paths,
    *,
    is_jsonl: bool | None = None,
    text_field: str = "text",
    sample_by: SampleBy = "document",
    on_error: OnError = "skip",
) -> Survey:
    """Read a corpus once and count. Holds 16 bytes a document, and one document at a time.

    The arguments are those of `read_documents`; bad records are counted unless `on_error="raise"`.

    Raises:
        CorpusError: a file cannot be read, or none holds a document.
    """
    check_reading(sample_by, on_error, is_jsonl=is_jsonl, text_field=text_field)
    lengths, hashes = array("Q"), array("Q")
    whole, n_characters = hashlib.sha256(), 0
    bad: list[CorpusError] = []
    n_bad = 0
    files = find_files(paths)
    for file in files:
        for record in read_range(file, kind_of(file, is_jsonl, sample_by), text_field):
            if not isinstance(record, Document):
                if on_error == "raise":
                    raise record
                n_bad += 1
                bad = bad or [record]
            elif record.text.strip():
                raw = record.text.encode("utf-8")
                digest = hashlib.sha256(raw).digest()
                whole.update(digest)
                lengths.append(len(raw))
                hashes.append(int.from_bytes(digest[:8], "big"))
                n_characters += len(record.text)
    if not lengths:
        why = "no text found (empty, or white space alone): at least one document is needed"
        if bad:
            why = f"no text found; of {_count(n_bad, 'bad record')} the first is line {bad[0].line}: {bad[0].reason}"
        raise CorpusError(files[0], None, why)
    return Survey(
        lengths=np.array(lengths, dtype=np.uint64),
        hashes=np.array(hashes, dtype=np.uint64),
        n_characters=n_characters,
        sha256=whole.hexdigest(),
        n_bad=n_bad,
        first_bad=bad[0] if bad else None,
    )


def count_overlap(train: np.ndarray, val: np.ndarray) -> int:
    """How many documents of `val` are in `train` too: both are hashes, uint64 (D,), as `Survey` has them.

    >>> count_overlap(np.array([1, 2, 3]), np.array([3, 3, 4]))
    2
    """
    return int(np.isin(val, train).sum())


def first_part(store: TokenStore, n_tokens: int) -> TokenStore:
    """The first documents with at most `n_tokens` tokens, in memory; with the beginning of the next one where they
    have less than half of that."""
    return _stretch(store, 0, n_tokens)


@dataclass(frozen=True, kw_only=True)
class Divided:
    """What is trained on and what is held out, copies in memory.

    `n_val` documents are held out, `n_overlap` of them with a text that is trained on too; counted over the whole
    corpus, also where `train` and `val` are but the beginnings. 0 and 0 where a single document was cut.
    """

    train: TokenStore
    val: TokenStore
    n_val: int
    n_overlap: int


def divide(
    corpus: Corpus,
    found: Survey,
    store: TokenStore,
    tokenizer: MicroTransformerTokenizer,
    *,
    most_train: int = 5_000_000,
    most_val: int = 50_000,
    **reading: Any,
) -> Divided:
    """A corpus to train on and one to validate on: its own, or else the last tenth of the only file.

    The tenth begins with a document, if one begins near enough, else at any token.

    Args:
        corpus, found, store: where it is, its survey and its tokens, all read with the same rules.
        most_train, most_val: tokens to take from the beginning of each part.
        reading: see `survey`.

    Raises:
        ValueError: too few tokens to be divided.
    """
    n_tokens = len(store)
    if n_tokens < LEAST_TOKENS:
        raise ValueError(
            f"the corpus has {_count(n_tokens, 'token')}, {LEAST_TOKENS} are needed to train on nine tenths and "
            "validate on the rest: add text"
        )
    if corpus.val is not None:
        hashes = survey(corpus.val, **reading).hashes
        return Divided(
            train=first_part(store, most_train),
            val=first_part(open_corpus(corpus.val, tokenizer, **reading), most_val),
            n_val=len(hashes),
            n_overlap=count_overlap(found.hashes, hashes),
        )
    cut, first = n_tokens - n_tokens // 10, store.n_documents
    begins = store.document_ends[:-1].astype(np.int64)
    if begins.size and np.abs(begins - cut).min() <= n_tokens // 20:
        nearest = int(np.abs(begins - cut).argmin())
        cut, first = int(begins[nearest]), nearest + 1
    return Divided(
        train=_stretch(store, 0, min(cut, most_train)),
        val=_stretch(store, cut, cut + most_val),
        n_val=store.n_documents - first,
        n_overlap=count_overlap(found.hashes[:first], found.hashes[first:]),
    )


def _stretch(store: TokenStore, start: int, stop: int) -> TokenStore:
    """Tokens from `start` on up to the last document's end before `stop`; if those are less than half, up to `stop`."""
    stop = min(stop, len(store))
    ends = store.document_ends.astype(np.int64)
    ends = ends[(ends > start) & (ends <= stop)]
    if not ends.size or ends[-1] - start < (stop - start) / 2:  # a title, and then one long document
        ends = np.append(ends, stop)
    ids = store.token_ids[start : int(ends[-1])]
    return TokenStore.from_token_ids(
        ids, vocab_size=store.vocab_size, document_ends=ends - start, pad_token_id=store.pad_token_id
    )


def document_places(store: TokenStore, seq_length: int, chunking: Chunking, n_rows: int | None = None) -> np.ndarray:
    """int64 (rows, T): the document of each place that has a target, else -1; of all rows or the first `n_rows`."""
    dataset = TransformerDataset(store, seq_length=seq_length, chunking=chunking, mask_documents=True)
    batch = dataset.gather(np.arange(len(dataset) if n_rows is None else min(n_rows, len(dataset))))
    return np.where(batch["labels"] == IGNORE, -1, batch["document_ids"])


def count_shares(store: TokenStore, seq_length: int, chunking: Chunking) -> tuple[float, float]:
    """Shares from 0 to 1: of the places of all rows that have a target, and of the documents cut into several rows.

    >>> store = TokenStore.from_token_ids(range(9), vocab_size=9, document_ends=[3, 7, 9])
    >>> count_shares(store, 4, "contiguous"), count_shares(store, 4, "packed")
    ((1.0, 0.3333333333333333), (0.75, 0.0))
    """
    places = document_places(store, seq_length, chunking)
    row, place = np.nonzero(places >= 0)
    pairs = np.unique(row * store.n_documents + places[row, place])  # a row and a document in it
    cut = np.bincount(pairs % store.n_documents, minlength=store.n_documents) > 1
    return len(row) / places.size, float(cut.mean())


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
