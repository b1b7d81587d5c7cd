"""Short stories whose probability is known exactly, so that the lowest possible loss is known. Does not train.

`story_words.py` holds the words, `story_grammar.py` the walk through them. `python -m mt_core.lab.stories --out data`
writes the corpus in `data/`, byte for byte.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mt_core.corpus import read_documents
from mt_core.lab.story_grammar import Choice, Grammar, StoryError, bits_of
from mt_core.lab.story_words import RULES
from mt_core.tokenizer import MicroTransformerTokenizer

__all__ = [
    "TRAIN",
    "VAL",
    "Choice",
    "Floor",
    "Grammar",
    "Story",
    "StoryError",
    "bits_of",
    "character_bits",
    "floor",
    "generate",
    "main",
    "parse",
    "read_bits",
    "story_grammar",
    "write_corpus",
]

TRAIN = {"seed": 0, "count": 12_000}  # data/train.jsonl
VAL = {"seed": 1, "count": 1_000}  # data/val.jsonl
VOCAB_SIZE = 1024  # of data/tokenizer


@dataclass(frozen=True, kw_only=True)
class Story:
    """A text and its information: `bits` = -log2 of the probability that the generator tells exactly this text."""

    text: str
    bits: float


@lru_cache(maxsize=1)
def story_grammar() -> Grammar:
    """The grammar of the corpus in `data/`."""
    return Grammar(RULES)


def generate(seed: int, index: int) -> Story:
    """The story number `index` of the stream `seed`; it depends on nothing but these two numbers.

    >>> story = generate(1, 0)
    >>> read_bits(story.text) == story.bits
    True
    """
    text, choices = story_grammar().draw(seed, index)
    return Story(text=text, bits=bits_of(choices))


def parse(text: str) -> list[Choice]:
    """Every choice of a story, from its text alone; StoryError if the generator could not have told it."""
    return story_grammar().parse(text)


def read_bits(text: str) -> float:
    """The bits of a story, from its text alone; StoryError if the generator could not have told it."""
    return bits_of(parse(text))


def character_bits(text: str) -> list[float]:
    """Where in a story its bits are: one value a character, and one for its end. See `Grammar.character_bits`."""
    return story_grammar().character_bits(text)


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The loss that no model can beat on these stories but by luck, in three units.

    `nats_per_token` counts the tokens that are predicted: a story of n tokens between [CLS] and [SEP] has n + 1.
    `bits_per_byte` counts the UTF-8 bytes of the text. Each `*_error` is one standard error of the figure as an
    estimate for *all* stories of the generator; a loss on these very stories is compared with the figure itself.
    """

    bits_per_story: float
    bits_per_story_error: float
    nats_per_token: float
    nats_per_token_error: float
    bits_per_byte: float
    bits_per_byte_error: float


def floor(bits: Sequence[float], n_targets: Sequence[int], n_bytes: Sequence[int]) -> Floor:
    """The floor of a set of stories from the bits, the predicted tokens and the bytes of each, in the same order.

    Raises ValueError for fewer than two stories or unequal lengths.

    >>> f = floor([100.0, 120.0], [80, 80], [300, 320])
    >>> round(f.bits_per_story, 3), round(f.nats_per_token, 4), round(f.bits_per_byte, 4)
    (110.0, 0.9531, 0.3548)
    """
    if not len(bits) == len(n_targets) == len(n_bytes) or len(bits) < 2:
        raise ValueError(
            f"got {len(bits)} bits, {len(n_targets)} numbers of targets and {len(n_bytes)} of bytes; "
            "give one of each for two stories or more"
        )
    per_story, story_error = _ratio(bits, [1] * len(bits))
    per_token, token_error = _ratio(bits, n_targets)
    per_byte, byte_error = _ratio(bits, n_bytes)
    return Floor(
        bits_per_story=per_story,
        bits_per_story_error=story_error,
        nats_per_token=per_token * math.log(2),
        nats_per_token_error=token_error * math.log(2),
        bits_per_byte=per_byte,
        bits_per_byte_error=byte_error,
    )


def _ratio(amounts: Sequence[float], units: Sequence[int]) -> tuple[float, float]:
    """sum(amounts) / sum(units) and its standard error over stories (delta method for a ratio of means)."""
    n, ratio = len(amounts), sum(amounts) / sum(units)
    squares = sum((amount - ratio * unit) ** 2 for amount, unit in zip(amounts, units, strict=True))
    return ratio, math.sqrt(squares / (n - 1) * n) / sum(units)


def write_corpus(path: str | Path, *, seed: int, count: int) -> None:
    """Write the first `count` stories of the stream `seed` as JSON lines with `text` and `bits`, one at a time."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for index in range(count):
            story = generate(seed, index)
            file.write(json.dumps({"text": story.text, "bits": story.bits}) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """`--out data` writes the repository's files and tokenizer; `--seed 7 --count 1000000 --out FILE` writes more."""
    parser = argparse.ArgumentParser(prog="python -m mt_core.lab.stories", description="Write stories with known bits.")
    parser.add_argument("--out", type=Path, required=True, help="a folder, or with --seed and --count a file")
    parser.add_argument("--seed", type=int, help=f"the corpus uses {TRAIN['seed']} and {VAL['seed']}: take another")
    parser.add_argument("--count", type=int, help="number of stories")
    args = parser.parse_args(arguments)
    if (args.seed is None) != (args.count is None):
        parser.error("--seed and --count go together; without both, --out is a folder for train.jsonl and val.jsonl")
    if args.count is not None:
        write_corpus(args.out, seed=args.seed, count=args.count)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    write_corpus(args.out / "train.jsonl", **TRAIN)
    write_corpus(args.out / "val.jsonl", **VAL)
    texts = read_documents(args.out / "train.jsonl")
    MicroTransformerTokenizer.train(texts, vocab_size=VOCAB_SIZE).save_pretrained(args.out / "tokenizer")


if __name__ == "__main__":
    main()
