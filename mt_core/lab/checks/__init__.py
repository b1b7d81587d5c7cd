"""Predictions and exercises: compares a reader's guess or function with what is true, in words.

`compare_guess` is for predictions; each module holds the checks of one notebook's exercises. Every check prints;
none raises because a reader's answer is missing or wrong.
"""

from mt_core.lab.checks import (
    alignment,
    batching,
    dataset,
    long_documents,
    pinning,
    prefetching,
    shuffling,
    start,
    tokens,
    workers,
)
from mt_core.lab.checks.guesses import compare_guess

__all__ = [
    "alignment",
    "batching",
    "compare_guess",
    "dataset",
    "long_documents",
    "pinning",
    "prefetching",
    "shuffling",
    "start",
    "tokens",
    "workers",
]
