"""A visitor's score sheet for the bug museum: what was predicted, detected and mended. Judges nothing by itself.

The sheet lives in memory; with a file's name it is kept there, as JSON, after every change.
"""

from __future__ import annotations

import io
import json
import os
import textwrap
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mt_core.lab import bugs
from mt_core.lab.checks.guesses import compare_guess

SIGNS = {
    "altered": "it learns what no text says, or is asked what nobody meant to ask",
    "lost": "some text is never read, or never asked for",
    "twice": "some text counts more often than it should",
    "flattered": "a loss is better than the model deserves",
    "chance": "what should differ is the same, or what should be the same differs",
    "endless": "the run waits, or goes on, without end",
}
_SIGNS_OF: dict[str, tuple[str, ...]] = {  # the first is the answer, others are right as well
    "changed_words": ("altered",),
    "lost_lines": ("lost",),
    "forged_end": ("altered",),
    "false_end": ("altered",),
    "long_epoch": ("twice",),
    "missing_targets": ("lost",),
    "short_epoch": ("lost",),
    "endless_document": ("endless",),
    "too_good": ("flattered", "altered"),
    "next_but_one": ("altered",),
    "familiar_validation": ("flattered",),
    "same_noise": ("chance",),
    "twin_runs": ("chance",),
    "watched_training": ("chance",),
    "deaf_workers": ("chance",),
    "colliding_rows": ("twice", "lost"),
    "double_votes": ("twice",),
    "waiting_rank": ("endless",),
    "vanished_batches": ("lost",),
    "forgotten_place": ("twice",),
    "hasty_buffer": ("altered", "lost", "twice"),
}
COLUMNS = ("predicted", "detected", "mended")
_LINE = 110  # characters


def room_of(name: str) -> str:
    """The room an exhibit stands in.

    >>> room_of("long_epoch")
    'rows'
    """
    return _exhibit(name).broken.__module__.rpartition(".")[2]


class ScoreSheet:
    """What a visitor predicted, detected and mended, exhibit by exhibit.

    A prediction is one of `SIGNS`; the first one counts. What was mended once stays mended.

    Args:
        path: a JSON file to keep the sheet in; read if it exists, written after every change, whole or not at all.
            None keeps the sheet in memory only.

    Raises:
        ValueError: the file is there, and is no score sheet.

    >>> sheet = ScoreSheet()
    >>> sheet.predict(twin_runs="chance", long_epoch="lost")
    twin_runs: Your guess is right: 'chance'.
    long_epoch: You guessed 'lost'; the answer is 'twice'.
    >>> sheet.mend(twin_runs=bugs.EXHIBITS["twin_runs"].mend)
    Mended: twin_runs.
    >>> sheet.words("twin_runs")
    ('right', '', 'mended')
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._marks: dict[str, dict[str, str]] = {}
        if self.path is not None and self.path.exists():
            self._marks = _read(self.path)

    def enter(self, *names: str) -> None:
        """Print the broken code of exhibits, and what to ask oneself; what its user notices stays untold."""
        for number, name in enumerate(names):
            exhibit = _exhibit(name)
            print(("\n" if number else "") + f"{name}, in the room of {room_of(name)}: {exhibit.title}\n")
            print(bugs.code_of(exhibit.broken) + "\n")
            _say(f"Ask yourself: {exhibit.question}")

    def predict(self, **guesses: Any) -> None:
        """Set guesses, `name="twice"`, beside the answers; None is no guess. The first guess of each counts."""
        for name, guess in guesses.items():
            _exhibit(name)
            right = _SIGNS_OF[name]
            word = guess.strip().lower() if isinstance(guess, str) else guess
            if word is not None and word is not ... and not (isinstance(word, str) and word in SIGNS):
                _say(f"{name}: {guess!r} is none of the six signs {', '.join(SIGNS)}: write one and run again.")
                continue
            with redirect_stdout(io.StringIO()) as said:
                compare_guess(word, word if word in right else right[0])
            _say(f"{name}: {said.getvalue()}")
            if isinstance(word, str):
                self._mark(name, "predicted", "right" if word in right else "wrong")

    def detect(self, *names: str) -> None:
        """Let the tool of each exhibit look at its broken code; print what it sees, and where the bug was met."""
        for name in names:
            exhibit = _exhibit(name)
            finding = exhibit.detector()
            _say(f"{name}, by {finding}")
            _say(f"  met in {exhibit.source.where}: {exhibit.source.title}")
            if finding.found:
                self._mark(name, "detected", "seen")

    def mend(self, **mends: Callable[..., Any]) -> None:
        """Judge mends, `name=my_function`, without a word on wrong ones: `bugs.check` explains those."""
        right = [name for name, candidate in mends.items() if _exhibit(name).check(candidate).ok]
        for name in right:
            self._mark(name, "mended", "mended")
        if right:
            _say(f"Mended: {', '.join(right)}.")

    def words(self, name: str) -> tuple[str, str, str]:
        """What stands in the three columns for one exhibit: ("right" or "wrong", "seen", "mended"), or ""."""
        found = self._marks.get(_exhibit(name).name, {})
        return found.get("predicted", ""), found.get("detected", ""), found.get("mended", "")

    def counts(self) -> dict[str, int]:
        """How many exhibits were predicted rightly, detected and mended."""
        rows = [self.words(name) for name in bugs.EXHIBITS]
        good = ("right", "seen", "mended")
        return {column: sum(row[i] == good[i] for row in rows) for i, column in enumerate(COLUMNS)}

    def __str__(self) -> str:
        lines = [f"{'room':8}{'exhibit':22}{'predicted':11}{'detected':10}mended"]
        for name in bugs.EXHIBITS:
            predicted, detected, mended = (word or "-" for word in self.words(name))
            lines.append(f"{room_of(name):8}{name:22}{predicted:11}{detected:10}{mended}")
        predicted, detected, mended = map(str, self.counts().values())
        lines.append(f"{'':8}{f'of {len(bugs.EXHIBITS)} exhibits':22}{predicted:11}{detected:10}{mended}")
        return "\n".join(lines)

    def _mark(self, name: str, column: str, word: str) -> None:
        row = self._marks.setdefault(name, {})
        if column in row:
            return
        row[column] = word
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
            partial.write_text(json.dumps(self._marks, indent=1) + "\n", encoding="utf-8", newline="\n")
            partial.replace(self.path)


def _say(words: str) -> None:
    print(textwrap.fill(words, _LINE, subsequent_indent="  "))


def _read(path: Path) -> dict[str, dict[str, str]]:
    """The marks in a file; what names no exhibit of today is left as it is."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        sound = isinstance(found, dict) and all(isinstance(row, dict) for row in found.values())
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(f"{path} is no score sheet: name another file, or move this one away to begin anew")
    return found


def _exhibit(name: str) -> bugs.Exhibit:
    if name not in bugs.EXHIBITS:
        raise ValueError(f"no exhibit {name!r}: it must be one of {', '.join(bugs.EXHIBITS)}")
    return bugs.EXHIBITS[name]
