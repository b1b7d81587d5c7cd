"""Text to token ids and back: byte-level BPE. Does not read files and does not build training rows.

Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909, on bytes as in GPT-2) starts from the 256 byte values,
so every string can be written and comes back exactly. `tokenizers` trains, saves and defines the tokenizer;
`tiktoken`, loaded with the same merges, encodes corpora several times faster with the same ids.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from mt_core.arguments import check_count, check_path

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
_LONG_BLANK = 400_000  # characters
_A_LONG_BLANK = re.compile(rf"\s{{{_LONG_BLANK}}}")
_SMALLEST_VOCABULARY, _LARGEST_VOCABULARY = 256 + len(SPECIAL_TOKENS), 1 << 24
# How ByteLevel cuts text into words before merging: contractions, words, numbers, punctuation, white space (GPT-2).
_WORD_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


class TokenizerError(ValueError):
    """A tokenizer cannot be trained, loaded or used as asked."""


class MicroTransformerTokenizer:
    """Byte-level BPE with the special tokens [PAD], [CLS], [SEP] and [MASK].

    `encode` puts [CLS] before and [SEP] after the text; in a stream of documents they mark where each begins
    and ends. Characters in a text that happen to spell "[SEP]" stay ordinary text.

    >>> tokenizer = MicroTransformerTokenizer.train(["low lower lowest"], vocab_size=264)
    >>> tokenizer.encode("low")
    {'input_ids': [1, 261, 2], 'token_type_ids': [0, 0, 0], 'attention_mask': [1, 1, 1]}
    >>> tokenizer.decode([1, 261, 2])
    'low'
    """

    def __init__(self, backend: Tokenizer) -> None:
        missing = [token for token in SPECIAL_TOKENS if backend.token_to_id(token) is None]
        if missing:
            raise TokenizerError(
                f"tokenizer has no {', '.join(missing)}; it needs the special tokens {', '.join(SPECIAL_TOKENS)}: "
                "train one with MicroTransformerTokenizer.train(texts, vocab_size=...)"
            )
        if not isinstance(backend.model, models.BPE) or not isinstance(backend.decoder, decoders.ByteLevel):
            raise TokenizerError(
                f"tokenizer is {type(backend.model).__name__} with decoder {type(backend.decoder).__name__}, "
                "this class needs byte-level BPE: train one with MicroTransformerTokenizer.train(...)"
            )
        vocabulary, alphabet = backend.get_vocab(with_added_tokens=True), set(_alphabet())
        if set(vocabulary.values()) != set(range(len(vocabulary))) or not alphabet <= vocabulary.keys():
            raise TokenizerError(
                f"tokenizer has {len(vocabulary)} entries, whose ids must go from 0 to {len(vocabulary) - 1}, with one "
                "for each of the 256 bytes: it is damaged; save it again or train anew"
            )
        odd = [token for token in vocabulary if token not in SPECIAL_TOKENS and not alphabet.issuperset(token)]
        if odd:
            raise TokenizerError(f"tokenizer has the entry {odd[0]!r}, which stands for no bytes: train one anew")
        backend.encode_special_tokens = True  # "[SEP]" written in a text is text
        backend.no_truncation()
        backend.no_padding()
        with _panics_are_errors():
            empty = backend.encode("")
        ids = [backend.token_to_id("[CLS]"), backend.token_to_id("[SEP]")]
        if (empty.tokens, empty.ids) != (["[CLS]", "[SEP]"], ids):
            raise TokenizerError(
                f"tokenizer turns the empty text into {empty.tokens}, ids {empty.ids}, not ['[CLS]', '[SEP]']: "
                "its post-processor must put [CLS] before and [SEP] after a text"
            )
        self._backend = backend
        self._fast: tiktoken.Encoding | None = None

    # -- making, saving, loading ---------------------------------------------------------------------------

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int, min_frequency: int = 2) -> MicroTransformerTokenizer:
        """Learn merges from texts; the same texts in the same order always give the same tokenizer.

        Args:
            texts: strings, streamed once.
            vocab_size: entries wanted, at least 260 (256 bytes and 4 special tokens). A small corpus may not
                hold that many pairs worth merging: `len(tokenizer)` says how many there are.
            min_frequency: pairs seen less often than this are not merged.

        Raises:
            TokenizerError: vocab_size too small, or no text at all.
            TypeError: texts is one string, or holds something that is not a string.
        """
        check_texts("texts", texts, "train([text], ...)")
        check_count("vocab_size", vocab_size, 0)
        check_count("min_frequency", min_frequency, 0)
        if vocab_size > _LARGEST_VOCABULARY:  # room is made for all of them at once
            raise TokenizerError(f"vocab_size={vocab_size} is too large: at most {_LARGEST_VOCABULARY:,} are possible")
        if vocab_size < _SMALLEST_VOCABULARY:
            raise TokenizerError(
                f"vocab_size={vocab_size} is too small: byte-level BPE needs 256 bytes + {len(SPECIAL_TOKENS)} "
                f"special tokens = {_SMALLEST_VOCABULARY} at least; try 1024"
            )
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        characters = 0

        def checked() -> Iterator[str]:
            nonlocal characters
            for number, text in enumerate(texts):
                check_text(text, f"text number {number}")
                characters += len(text)
                yield text

        backend.train_from_iterator(checked(), trainer)
        if characters == 0:
            raise TokenizerError("there was no text to learn from: texts is empty")
        cls_id, sep_id = backend.token_to_id("[CLS]"), backend.token_to_id("[SEP]")
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", cls_id), ("[SEP]", sep_id)],
        )
        return cls(backend)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> MicroTransformerTokenizer:
        """Load what `save_pretrained` wrote: a directory holding tokenizer.json, or that file itself.

        Raises:
            TokenizerError: no tokenizer.json there, or it cannot be read, or it is another kind of tokenizer.
        """
        check_path("path", path)
        path = Path(path)
        file = path if path.suffix == ".json" else path / "tokenizer.json"
        if not file.is_file():
            inside = ", ".join(sorted(p.name for p in path.iterdir())[:5]) if path.is_dir() else "no such folder"
            raise TokenizerError(
                f"no tokenizer at {path} (found: {inside or 'an empty folder'}): from_pretrained needs a folder "
                "with tokenizer.json, as written by tokenizer.save_pretrained(folder)"
            )
        try:
            backend = parse_backend(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise TokenizerError(f"{file} cannot be read ({error.strerror or error})") from error
        except ValueError as error:
            raise TokenizerError(f"{file} is not a tokenizer file ({error}): save it again or train anew") from error
        return cls(backend)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write tokenizer.json and tokenizer_config.json; `transformers.AutoTokenizer` opens the same folder.

        Raises:
            OSError: the folder cannot be written to.
        """
        check_path("path", path)
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "backend": "tokenizers",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
            "bos_token": "[CLS]",
            "eos_token": "[SEP]",
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
        }
        files = {
            "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
            "tokenizer.json": self._backend.to_str(pretty=True) + "\n",
        }
        for name, text in files.items():
            partial = folder / f"{name}.{os.getpid()}.partial"
            try:
                partial.write_text(text, encoding="utf-8", newline="\n")
                os.replace(partial, folder / name)
            finally:
                partial.unlink(missing_ok=True)

    # -- text to ids and back ------------------------------------------------------------------------------

    def encode(self, text: str) -> dict[str, list[int]]:
        """One text to {"input_ids", "token_type_ids", "attention_mask"}, three lists of equal length.

        Raises:
            TypeError: text is not a string.
            TokenizerError: text cannot be written as UTF-8 (it holds half of a surrogate pair).
        """
        check_text(text, "text")
        encoding = self._backend.encode(text)
        return {
            "input_ids": encoding.ids,
            "token_type_ids": encoding.type_ids,
            "attention_mask": encoding.attention_mask,
        }

    def encode_batch(self, texts: Iterable[str]) -> list[dict[str, list[int]]]:
        """`encode` for each text: a list of its dictionaries, unpadded, in the same order."""
        check_texts("texts", texts, "encode_batch([text])")
        return [self.encode(text) for text in texts]

    def token_ids(self, text: str) -> list[int]:
        """The same ids as `encode(text)["input_ids"]`, by tiktoken with the same merges; for whole corpora."""
        check_text(text, "text")
        if self._fast is None:
            self._fast = self._create_fast()
        if self._fast is None or has_long_blank(text):
            return self._backend.encode(text).ids
        return [self.cls_token_id, *self._fast.encode_ordinary(text), self.sep_token_id]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Ids of one text (list, array or tensor) to text. Ids that cut a character in half show as U+FFFD.

        Raises:
            TypeError: ids are not whole numbers, or there are several rows of them.
            TokenizerError: an id outside the vocabulary.
        """
        try:
            ids = [operator.index(i) for i in ids]
        except (TypeError, RuntimeError):
            raise TypeError(
                f"ids={ids!r:.60}: a list, array or tensor (T,) of whole numbers is needed, as in "
                'decode(encoding["input_ids"]), and of a batch one row, decode(batch["input_ids"][0])'
            ) from None
        size = len(self)
        wrong = [i for i in ids if not 0 <= i < size]
        if wrong:
            raise TokenizerError(f"id {wrong[0]} is not in the vocabulary: ids go from 0 to {size - 1}")
        return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)

    # -- the vocabulary ------------------------------------------------------------------------------------

    def get_vocab_size(self) -> int:
        """Number of entries, special tokens included: the model's `vocab_size`."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __len__(self) -> int:
        return self.get_vocab_size()

    @property
    def pad_token_id(self) -> int:
        return self._special("[PAD]")

    @property
    def cls_token_id(self) -> int:
        return self._special("[CLS]")

    @property
    def sep_token_id(self) -> int:
        return self._special("[SEP]")

    @property
    def mask_token_id(self) -> int:
        return self._special("[MASK]")

    def token_bytes(self) -> list[bytes]:
        """The bytes each id stands for, indexed by id; empty for special tokens."""
        special = set(self.special_token_ids)
        table = _alphabet()
        by_id = sorted((i, token) for token, i in self._backend.get_vocab(with_added_tokens=True).items())
        return [b"" if i in special else bytes(table[c] for c in token) for i, token in by_id]

    def token_byte_lengths(self) -> np.ndarray:
        """int64 (V,): how many bytes of text each id stands for; 0 for special tokens."""
        return np.array([len(token) for token in self.token_bytes()], dtype=np.int64)

    def _special(self, token: str) -> int:
        token_id = self._backend.token_to_id(token)
        assert token_id is not None  # checked in __init__
        return token_id

    @property
    def special_token_ids(self) -> tuple[int, ...]:
        return tuple(self._special(token) for token in SPECIAL_TOKENS)

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The learned merges, first learned first, in the byte alphabet of `tokenizers` ("Ġ" is a space)."""
        return [(left, right) for left, right in json.loads(self._backend.to_str())["model"]["merges"]]

    def fingerprint(self) -> str:
        """SHA-256 over vocabulary, merges and rules: two tokenizers that encode alike share it."""
        rules = json.dumps(json.loads(self._backend.to_str()), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(rules.encode("utf-8")).hexdigest()

    def _create_fast(self) -> tiktoken.Encoding | None:
        """tiktoken with our merges, or None for a tokenizer whose other rules tiktoken would not follow."""
        rules = json.loads(self._backend.to_str())
        words = rules["pre_tokenizer"] or {}
        ids = self._backend.get_vocab(with_added_tokens=False)
        merged = [ids.get(left + right, -1) for left, right in rules["model"]["merges"]]
        whole = sorted(i for token, i in ids.items() if len(token) > 1 and token not in SPECIAL_TOKENS)
        other = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
        if (
            (words.get("type"), words.get("add_prefix_space"), words.get("use_regex")) != ("ByteLevel", False, True)
            or rules["normalizer"]
            or any(rules["model"].get(name) for name in other)
            or any(token["content"] not in SPECIAL_TOKENS for token in rules["added_tokens"])
            or merged != whole  # tiktoken merges to whatever has an id, in the order of ids
        ):
            return None
        ranks = {token: i for i, token in enumerate(self.token_bytes()) if token}
        return tiktoken.Encoding("microtransformer", pat_str=_WORD_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def __getstate__(self) -> dict[str, Any]:
        return {"_backend": self._backend, "_fast": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._backend.encode_special_tokens = True

    def __repr__(self) -> str:
        return f"MicroTransformerTokenizer(vocab_size={len(self)})"


def parse_backend(text: str) -> Tokenizer:
    """The text of a tokenizer.json as a tokenizer of any kind.

    Raises:
        TokenizerError: it is none.
    """
    with _panics_are_errors():
        return Tokenizer.from_str(text)


@contextmanager
def _panics_are_errors() -> Iterator[None]:
    """`tokenizers` raises plain Exception, and where its Rust panics not even that."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise TokenizerError(f"tokenizers cannot use it: {error}") from None
        raise


def has_long_blank(text: str) -> bool:
    """Whether tiktoken's regex engine would overflow its stack: in a run of about a million white-space characters."""
    if len(text) < _LONG_BLANK:
        return False
    # A run that long covers one of the characters looked at here, wherever it begins.
    places = range(_LONG_BLANK - 1, len(text), _LONG_BLANK)
    return any(text[place].isspace() for place in places) and _A_LONG_BLANK.search(text) is not None


def check_texts(name: str, texts: object, call: str) -> None:
    """Refuse what is not many texts; `call` says how to pass one.

    Raises:
        TypeError: one string, or nothing to go through.
    """
    if isinstance(texts, str):
        raise TypeError(f"{name} is one string, a list of strings is needed: {call}")
    if not isinstance(texts, Iterable):
        raise TypeError(f"{name} is {type(texts).__name__}, a list of strings is needed: {call}")


def check_tokenizer(tokenizer: object) -> None:
    """Refuse what is no tokenizer of ours.

    Raises:
        TypeError: with what was got.
    """
    if not isinstance(tokenizer, MicroTransformerTokenizer):
        raise TypeError(
            f"tokenizer={tokenizer!r}, a MicroTransformerTokenizer is needed: "
            "MicroTransformerTokenizer.from_pretrained(folder)"
        )


def check_text(text: object, name: str) -> None:
    """Refuse what is not a string of whole characters.

    Raises:
        TypeError: not a string.
        TokenizerError: half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} is {type(text).__name__}, a string is needed")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"{name} holds half of a surrogate pair at character {error.start} and cannot be written as UTF-8: "
                'repair it with text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
            ) from None


def _alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level BPE, as in GPT-2: character -> byte."""
    printable: Sequence[int] = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return table | {chr(256 + n): byte for n, byte in enumerate(others)}
