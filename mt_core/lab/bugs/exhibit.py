"""What an exhibit of the bug museum is: broken code, a question, hints, a check. Holds no exhibit itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any


class FaultError(Exception):
    """What is wrong with a candidate; the message is the explanation its author reads."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the bug was met in the open: `where` is "owner/repository#thread" or "owner/repository: path"."""

    where: str
    title: str
    link: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a tool saw. `found` is True where it saw the bug."""

    tool: str
    found: bool
    explanation: str

    def __str__(self) -> str:
        return f"{self.tool}: {self.explanation}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check says of a mend."""

    ok: bool
    explanation: str

    def __str__(self) -> str:
        return f"{'Right' if self.ok else 'Not yet'}: {self.explanation}"


@dataclass(frozen=True, kw_only=True)
class WrongMend:
    """A mend that many would try, and what it gets wrong."""

    candidate: Callable[..., Any]
    mistake: str


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One bug of the field, small enough to see whole.

    Attributes:
        name, title: the key in `EXHIBITS`, and the words on the plate.
        question: what to predict before running anything.
        task: what a mend is called with and what it must return.
        source: the public thread or file in which the bug was met.
        broken: the broken function or class; `shown` are helpers printed with it.
        symptom: what its user notices, if anything.
        tool: the tool that reveals it.
        look: runs that tool on a candidate; returns what it saw, or raises FaultError where it saw the bug.
        examine: tries a candidate in many cases; returns what was verified, or raises FaultError.
        hints: from vague to nearly the answer.
        mend: a right solution. wrong_mends: wrong ones, at least two.
    """

    name: str
    title: str
    question: str
    task: str
    source: Source
    broken: Callable[..., Any]
    symptom: str
    tool: str
    look: Callable[[Any], str]
    examine: Callable[[Any], str]
    hints: tuple[str, ...]
    mend: Callable[..., Any]
    wrong_mends: tuple[WrongMend, ...]
    shown: tuple[Callable[..., Any], ...] = ()

    def __post_init__(self) -> None:
        if len(self.hints) < 3 or len(self.wrong_mends) < 2:
            raise ValueError(
                f"exhibit {self.name!r} has {len(self.hints)} hints and {len(self.wrong_mends)} wrong mends, "
                "it needs at least 3 and 2"
            )

    def detector(self, candidate: Any = None) -> Finding:
        """Run the tool on a candidate, by default on the broken code."""
        clear, explanation = _attempt(self.look, self.broken if candidate is None else candidate)
        return Finding(tool=self.tool, found=not clear, explanation=explanation)

    def check(self, candidate: Any) -> Verdict:
        """Judge a mend. Never raises because of what the candidate does: an error it raises is a verdict."""
        ok, explanation = _attempt(self.examine, candidate)
        return Verdict(ok=ok, explanation=explanation)


def _attempt(examine: Callable[[Any], str], candidate: Any) -> tuple[bool, str]:
    if not callable(candidate):
        return False, f"a function or class is needed, you handed in {candidate!r}"
    try:
        return True, examine(candidate)
    except FaultError as fault:
        return False, str(fault)
    except Exception as error:
        name = getattr(candidate, "__name__", "your code")
        return False, f"{name} stopped with {type(error).__name__}: {error}"


def call(candidate: Callable[..., Any], *arguments: Any) -> Any:
    """What a candidate returns; a FaultError where it returns nothing, or raises, with what it was called with."""
    name = getattr(candidate, "__name__", "your code")
    try:
        result = candidate(*arguments)
    except Exception as error:
        given = ", ".join(text if len(text) <= 40 else f"{text[:40]}…" for text in map(repr, arguments))
        raise FaultError(f"{name}({given}) stopped with {type(error).__name__}: {error}") from None
    if result is None or result is ...:
        raise FaultError(f"{name} returns nothing yet: replace the ... by your own lines")
    return result


def pair(values: Any, what: str) -> tuple[Any, Any]:
    """The two things that a candidate returned; a FaultError where it returned anything else.

    >>> pair([1, 2], "(texts, bad)")
    (1, 2)
    """
    try:
        one, other = values
    except (TypeError, ValueError):
        raise FaultError(f"a pair {what} is needed, not {values!r}") from None
    return one, other


def items(values: Any, what: str, most: int = 10_000) -> list[Any]:
    """The first `most` of what a candidate returned, a generator without end included; a FaultError for no list.

    >>> items(range(3), "the rows")
    [0, 1, 2]
    """
    if not isinstance(values, Iterable):
        raise FaultError(f"{what}: a list is needed, not {values!r}")
    return list(islice(values, most))


def numbers(values: Any, what: str) -> list[int]:
    """A list, array or tensor of whole numbers as a list; a FaultError where it is none.

    >>> numbers(range(3), "the order")
    [0, 1, 2]
    """
    found = values.tolist() if hasattr(values, "tolist") else values
    try:
        found = [value.item() if hasattr(value, "item") else value for value in found]
    except (TypeError, ValueError, RuntimeError):
        raise FaultError(f"{what} is {values!r}, a list of whole numbers is needed") from None
    if any(isinstance(value, bool) or not isinstance(value, int) for value in found):
        raise FaultError(f"{what} is {short(found)}, a list of whole numbers is needed")
    return found


def counted(n: int, word: str) -> str:
    """A number and its word.

    >>> counted(1, "row"), counted(2, "batch")
    ('1 row', '2 batches')
    """
    return f"{n:,} {word}" + ("" if n == 1 else "es" if word.endswith("ch") else "s")


def short(values: list[Any], most: int = 12) -> str:
    """A list in words, cut after `most` entries.

    >>> short([1, 2, 3], most=2)
    '[1, 2, …]'
    """
    shown = ", ".join(map(str, values[:most]))
    return f"[{shown}, …]" if len(values) > most else f"[{shown}]"
