"""Predictions and exercises: compares a reader's guess or function with what is true, in words.

`compare_guess` is for predictions; each module holds the checks of one notebook's exercises. Every check prints;
none raises because a reader's answer is missing or wrong. `must_be_right` after a check does: for graded labs.
"""

from mt_core.lab.checks import (
    alignment,
    augmentation,
    batching,
    big_corpora,
    bug_museum,
    dataset,
    full_run,
    long_documents,
    model,
    own_data,
    pinning,
    prefetching,
    ranks,
    resume,
    shuffling,
    start,
    tokens,
    workers,
)
from mt_core.lab.checks.explained import must_be_right
from mt_core.lab.checks.guesses import compare_guess

__all__ = [
    "alignment",
    "augmentation",
    "batching",
    "big_corpora",
    "bug_museum",
    "compare_guess",
    "dataset",
    "full_run",
    "long_documents",
    "model",
    "must_be_right",
    "own_data",
    "pinning",
    "prefetching",
    "ranks",
    "resume",
    "shuffling",
    "start",
    "tokens",
    "workers",
]
