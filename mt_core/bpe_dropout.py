"""Words split in other ways each epoch: byte-level BPE with dropped merges, and rows of it. Does not train tokenizers.

The dropout of `tokenizers` draws from a generator that cannot be seeded; here the ids of a document depend on
(seed, epoch, document) alone.
"""

from __future__ import annotations

import random
from functools import lru_cache
from itertools import pairwise

import numpy as np

from mt_core.on_the_fly import TokenizedText
from mt_core.store import TokenStore
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import IGNORE, DocumentRows, Rows


class DropoutEncoder:
    """Encodes texts by byte-level BPE, leaving merges out by chance (Provilkov et al. 2020, arXiv:1910.13267).

    Before each merge, every pair in the word that could be merged is left out with probability `rate`; of the others,
    the one learned first is merged wherever it was not left out; when none is there, the word is done. With rate 0
    the ids are the tokenizer's, with rate 1 single bytes. About a hundredth of the tokenizer's speed.
    """

    def __init__(self, tokenizer: MicroTransformerTokenizer) -> None:
        vocabulary = tokenizer._backend.get_vocab(with_added_tokens=False)
        self._ids_of_characters = {token: i for token, i in vocabulary.items() if len(token) == 1}
        self._merges = {
            (vocabulary[left], vocabulary[right]): (rank, vocabulary[left + right])
            for rank, (left, right) in enumerate(tokenizer.merges)
        }
        self._words = tokenizer._backend.pre_tokenizer.pre_tokenize_str
        self._ends = (tokenizer.cls_token_id, tokenizer.sep_token_id)

    def __call__(self, text: str, rate: float, random_state: random.Random) -> list[int]:
        """Token ids of a text, [CLS] and [SEP] around it."""
        ids = [self._ends[0]]
        for word, _ in self._words(text):
            ids += self._merged([self._ids_of_characters[c] for c in word], rate, random_state.random)
        return [*ids, self._ends[1]]

    def _merged(self, ids: list[int], rate: float, draw) -> list[int]:  # type: ignore[no-untyped-def]
        merges = self._merges
        while len(ids) > 1:
            found = [(*merges[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in merges and draw() >= rate]
            if not found:
                break
            rank, joined, _ = min(found)
            places = {i for other, _, i in found if other == rank}
            after: list[int] = []
            i = 0
            while i < len(ids):
                if i in places:  # of two that overlap, the first
                    after.append(joined)
                    i += 2
                else:
                    after.append(ids[i])
                    i += 1
            ids = after
        return ids


class BpeDropoutRows(DocumentRows):
    """Per-document rows whose documents are split anew each epoch; as many rows a document as without dropout.

    Split words are longer. A document that outgrows its rows loses what does not fit at its beginning or at its end,
    drawn anew each epoch, so that all of it is seen; one that would leave a row empty is split as the tokenizer does.

    Args:
        corpus: per-document rows need its text, so a store that was prepared will not do.
        rate, seed: of `DropoutEncoder`; the ids of a document depend on (seed, epoch, document).

    Raises:
        ValueError: the corpus is a prepared store.
    """

    def __init__(self, corpus: TokenStore, seq_length: int, *, rate: float, seed: int) -> None:
        if not isinstance(corpus, TokenizedText):
            raise ValueError("BpeDropout splits text anew, and a store holds tokens: use tokenize='on-the-fly'")
        super().__init__(corpus, seq_length)
        self._rate, self._seed, self._corpus = rate, seed, corpus
        self._first_row = np.searchsorted(self._documents, np.arange(corpus.n_documents))
        self._encoder = DropoutEncoder(corpus.tokenizer)
        self._split = lru_cache(maxsize=64)(self._split_document)  # the rows of a long document may come together

    def gather(self, rows: np.ndarray, epochs: np.ndarray | None = None) -> Rows:
        """As for per-document rows, in the epoch of each row, int64 (B,); None is 0."""
        shape, epochs = (len(rows), self.seq_length), np.zeros_like(rows) if epochs is None else epochs
        inputs, labels = np.full(shape, self.pad_token_id), np.full(shape, IGNORE)
        positions, documents = np.zeros(shape, np.int64), np.full(shape, -1)
        for b, (row, epoch) in enumerate(zip(rows.tolist(), epochs.tolist(), strict=True)):
            document = int(self._documents[row])
            ids = self._split(document, epoch)
            start = (row - int(self._first_row[document])) * self.seq_length
            piece = ids[start : start + self.seq_length + 1]
            n = len(piece) - 1
            inputs[b, :n], labels[b, :n] = piece[:-1], piece[1:]
            positions[b, :n], documents[b, :n] = np.arange(n), document
        return {"input_ids": inputs, "labels": labels, "position_ids": positions, "document_ids": documents}

    def _split_document(self, document: int, epoch: int) -> np.ndarray:
        """int64: the ids of a document in an epoch, as many as its rows hold, one for the last label included."""
        # A generator of its own; a string is hashed whole, so no two of these numbers run together.
        state = random.Random(f"{self._seed} {epoch} {document}")
        ids = self._encoder(self._corpus.text(document), self._rate, state)
        n_rows = int(np.searchsorted(self._documents, document, side="right")) - int(self._first_row[document])
        if len(ids) < (n_rows - 1) * self.seq_length + 2:
            ids = self._encoder(self._corpus.text(document), 0, state)
        room = n_rows * self.seq_length + 1
        return np.array(ids[:room] if state.random() < 0.5 else ids[-room:])
