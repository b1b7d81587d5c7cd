"""Text to arrays of token ids, for whole corpora: the ids of the tokenizer, faster. Does not read or write files.

`tiktoken` with the same merges does the work, into buffers instead of lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import tiktoken

from mt_core.tokenizer import MicroTransformerTokenizer, check_text, check_tokenizer, has_long_blank

# The tokenizer's pattern with a pair of brackets: what stands in them needs no look ahead, and as one expression the
# engine gives it to its fast half. Words are the same.
_WORD_PATTERN = r"""(?:'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)|\s+(?!\S)|\s+"""
# encode_to_numpy looks for special tokens; with none at all it would stop at every character to look. This one is
# never allowed to match, so that a text that spells it stays text.
_NO_TOKEN = "\0no token\0"
# Between a character that is no white space and white space ends a word, whatever stands around them.
_WORD_END = re.compile(rb"(?:[!-~]|[\xc2-\xf4][\x80-\xbf]{1,3})(?=[ \t\r\n])")


class BulkEncoder:
    """Encodes texts to arrays.

    Attributes:
        cuts: whether a text may be encoded in pieces cut at `word_ends`: the ids of the
            pieces, one after the other, are those of the text.

    >>> tokenizer = MicroTransformerTokenizer.train(["low lower lowest"], vocab_size=264)
    >>> BulkEncoder(tokenizer)("low low").tolist(), tokenizer.encode("low low")["input_ids"]
    ([261, 262], [1, 261, 262, 2])
    """

    def __init__(self, tokenizer: MicroTransformerTokenizer) -> None:
        check_tokenizer(tokenizer)
        self.tokenizer = tokenizer
        self.cuts = tokenizer._create_fast() is not None
        self._fast: tiktoken.Encoding | None = None
        if self.cuts:
            ranks = {token: i for i, token in enumerate(tokenizer.token_bytes()) if token}
            self._fast = tiktoken.Encoding(
                "microtransformer-bulk",
                pat_str=_WORD_PATTERN,
                mergeable_ranks=ranks,
                special_tokens={_NO_TOKEN: len(tokenizer)},
            )
        self.start, self.end = (np.array([i], np.uint32) for i in (tokenizer.cls_token_id, tokenizer.sep_token_id))

    def __call__(self, text: str) -> np.ndarray:
        """uint32 (n,): the ids of a text, without [CLS] and [SEP].

        Raises:
            TypeError: text is not a string.
            TokenizerError: text holds half of a surrogate pair.
        """
        check_text(text, "text")
        if self._fast is None or has_long_blank(text):
            return np.array(self.tokenizer._backend.encode(text, add_special_tokens=False).ids, dtype=np.uint32)
        return self._fast.encode_to_numpy(text, disallowed_special=())

    def document(self, text: str) -> np.ndarray:
        """uint32 (n + 2,): the same ids as `tokenizer.encode(text)["input_ids"]`."""
        return np.concatenate([self.start, self(text), self.end])


def word_ends(raw: bytes, start: int = 0) -> Iterator[int]:
    """Positions in UTF-8 bytes between a character that is no white space and white space.

    `start` may lie within a character: its rest does not look like one.
    """
    for match in _WORD_END.finditer(raw, start):
        if not match.group().decode("utf-8", "replace").isspace():
            yield match.end()


def last_word_end(raw: bytes, start: int = 0) -> int:
    """The last of `word_ends(raw, start)`, 0 if there is none."""
    length = 1 << 12
    while True:
        window = max(start, len(raw) - length)
        found = list(word_ends(raw, window))
        if found or window == start:
            return found[-1] if found else 0
        length *= 16
