"""Grammars whose texts have exact probabilities: one walker tells, reads and lists them. Knows no words and no files.

A story is a walk through choices. `Grammar.tell` is the only walk; what differs is who answers: writing *draws* an
option, reading *recognises* it in a given text, listing *tries them all*. So they cannot drift apart. Three rules
give every text exactly one derivation, so that the information in the choices is the information in the text:

1. Options have heads, their fixed words up to the next choice, and no head starts another option's head.
2. A choice is told where it is made: nothing is decided that leaves no trace.
3. The end is a character too (`END`), so stopping is a choice like any other.
"""

import hashlib
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import NamedTuple

END = "\n"  # closes every story inside the grammar; the texts handed out do not carry it

_CHOICE = re.compile(r"<(?:(\w+)=)?([\w{}.]+)>")  # <rule> or <slot=rule>; a rule's name may recall: <home_{who.tag}>
_ARTICLE = re.compile(r"\ban? (?=\w)")
_PRONOUNS = {  # tag of a name -> subject, object, possessive
    "she": ("she", "her", "her"),
    "he": ("he", "him", "his"),
    "they": ("they", "them", "their"),
}


class StoryError(ValueError):
    """A text that the grammar does not tell. `position` is the character where it stops matching."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class Choice(NamedTuple):
    """One decision: text[start:end] is the head of the option taken, the words that give it away.

    The option had `weight` of the `total` weight on offer.
    """

    rule: str
    rank: int  # of the option in its rule; 0 is the likeliest
    head: str
    weight: int
    total: int
    start: int
    end: int

    @property
    def probability(self) -> Fraction:
        """Exact probability of this option among those on offer."""
        return Fraction(self.weight, self.total)


class Word(str):
    """A remembered word: `{thing}` recalls it as it was said, `{thing.the}` or `{hero.Their}` in another form."""

    tag: str

    def __new__(cls, text: str, tag: str = "") -> "Word":
        """`tag` is the silent mark of the option that was taken."""
        word = super().__new__(cls, text)
        word.tag = tag
        return word

    @property
    def the(self) -> str:
        """Its first "a" or "an" turned into "the"."""
        return _ARTICLE.sub("the ", self, count=1)

    @property
    def bare(self) -> str:
        """Without its first "a" or "an"."""
        return _ARTICLE.sub("", self, count=1)

    def __getattr__(self, name: str) -> str:
        """The pronouns `they`, `them`, `their`, and with a capital, for a name tagged she, he or they."""
        pronouns = dict(zip(_PRONOUNS["they"], _PRONOUNS.get(self.tag, ()), strict=False))
        if name.lower() not in pronouns:
            raise AttributeError(f"the word {str(self)!r} (tag {self.tag!r}) has no form {name!r}")
        form = pronouns[name.lower()]
        return form.capitalize() if name[0].isupper() else form


@dataclass(frozen=True)
class Option:
    """One line of a rule, taken apart: a head, then inner choices, each with the fixed words that follow it."""

    head: str
    parts: tuple[tuple[str | None, str, str], ...]  # (slot or None, rule, words after it)
    tag: str
    rank: int
    weight: int


def _option(line: str, rank: int) -> Option:
    text, _, tag = line.partition("/")
    pieces = _CHOICE.split(text)
    parts = tuple(zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True))
    # The Zipf-Mandelbrot law 1 / (rank + 5) (Mandelbrot 1953), in whole numbers: probabilities are exact fractions.
    return Option(head=pieces[0], parts=parts, tag=tag, rank=rank, weight=10_000 // (rank + 5))


Pick = Callable[[int, Sequence[str], Sequence[int]], int]  # (characters told, heads, weights) -> index of one of them


class Grammar:
    """Rules by name, each a list of options, likeliest first; telling starts at the rule `story`.

    Within an option `<rule>` makes a choice here, `<slot=rule>` makes and remembers it, `{slot}` recalls it, and a
    trailing `/tag` is a silent mark that later rule names and pronouns use. A remembered option without choices of
    its own is not offered again in the same story: the others share its probability.

    Raises ValueError for a rule in which one head starts another.

    >>> coin = Grammar({"story": ["It fell on <side=side>. Not {side}?" + END], "side": ["heads", "tails"]})
    >>> [(str(p), text) for p, text in coin.stories()]
    [('1000/1833', 'It fell on heads. Not heads?'), ('833/1833', 'It fell on tails. Not tails?')]
    """

    def __init__(self, rules: Mapping[str, Sequence[str]]) -> None:
        self.rules = {name: tuple(_option(x, i) for i, x in enumerate(lines)) for name, lines in rules.items()}
        self._recalls = {name for name, lines in self.rules.items() if any("{" in option.head for option in lines)}
        for name, options in self.rules.items():
            for a, b in pairwise(sorted(option.head for option in options)):
                if b.startswith(a):
                    raise ValueError(f"rule {name!r}: the head {a!r} starts {b!r}, a reader could not tell: reword one")

    def tell(self, pick: Pick) -> tuple[str, list[Choice]]:
        """Walk the grammar, asking `pick` at each choice. Returns the text, with its END, and the choices made."""
        memory: dict[str, Word] = {}
        used: dict[str, set[int]] = {}  # rule -> ranks that were remembered
        told: list[str] = []
        choices: list[Choice] = []
        length = 0

        def say(text: str) -> None:
            nonlocal length
            told.append(text)
            length += len(text)

        def choose(rule: str, slot: str | None) -> None:
            options: Sequence[Option] = self.rules[rule]
            if rule in used:
                options = [option for option in options if option.rank not in used[rule]]
            heads = [option.head for option in options]
            if rule in self._recalls:
                heads = [head.format_map(memory) for head in heads]
            weights = [option.weight for option in options]
            index = pick(length, heads, weights)
            option, head, start, first = options[index], heads[index], length, len(told)
            choices.append(Choice(rule, option.rank, head, weights[index], sum(weights), start, start + len(head)))
            say(head)
            for inner_slot, inner_rule, after in option.parts:
                choose(inner_rule.format_map(memory) if "{" in inner_rule else inner_rule, inner_slot)
                say(after.format_map(memory) if "{" in after else after)
            if slot is not None:
                memory[slot] = Word("".join(told[first:]), option.tag)
                if not option.parts:
                    used.setdefault(rule, set()).add(option.rank)

        choose("story", None)
        return "".join(told), choices

    def draw(self, seed: int, index: int) -> tuple[str, list[Choice]]:
        """The story number `index` of the stream `seed`, a function of these two numbers alone, and its choices.

        Each draw is SHA-256 of "seed/index/number of the draw" modulo the total weight: the same on every machine,
        and uneven by less than 2**-230.
        """
        draws = 0

        def pick(position: int, heads: Sequence[str], weights: Sequence[int]) -> int:
            nonlocal draws
            digest = hashlib.sha256(f"{seed}/{index}/{draws}".encode()).digest()
            draws += 1
            bounds = list(accumulate(weights))
            return bisect_right(bounds, int.from_bytes(digest, "big") % bounds[-1])

        text, choices = self.tell(pick)
        return text.removesuffix(END), choices

    def parse(self, text: str) -> list[Choice]:
        """The choices that tell `text`, in order; StoryError where no option, or more than one, fits."""
        goal = text + END

        def pick(position: int, heads: Sequence[str], weights: Sequence[int]) -> int:
            fits = [i for i, head in enumerate(heads) if goal.startswith(head, position)]
            if len(fits) != 1:
                raise _stops(goal, position, [heads[i] for i in fits] or heads)
            return fits[0]

        told, choices = self.tell(pick)
        if told != goal:  # the fixed words between choices differ
            same = (i for i, (a, b) in enumerate(zip(told, goal, strict=False)) if a != b)
            position = next(same, min(len(told), len(goal)))
            raise _stops(goal, position, [told[position : position + 20]])
        return choices

    def character_bits(self, text: str) -> list[float]:
        """-log2 P(character | the characters before it) for each character of `text`, then for its end.

        Exact, because no head starts another: while a head is being told, the options still possible are those
        that begin with what was told of it. The `len(text) + 1` values sum to the bits of the story.
        """
        self.parse(text)  # refuses what was not told here, and says where
        goal = text + END
        bits = [0.0] * len(goal)

        def pick(position: int, heads: Sequence[str], weights: Sequence[int]) -> int:
            alive, mass, at = list(range(len(heads))), sum(weights), position
            while len(alive) > 1:
                alive = [i for i in alive if heads[i][at - position] == goal[at]]
                left = sum(weights[i] for i in alive)
                bits[at] += math.log2(mass / left)
                mass, at = left, at + 1
            return alive[0]

        self.tell(pick)
        return bits

    def stories(self) -> Iterator[tuple[Fraction, str]]:
        """Every story with its exact probability, likeliest options first; for a small grammar, or it never ends."""
        script: list[int] = []
        while True:
            text, choices, sizes = self._follow(script)
            yield probability_of(choices), text.removesuffix(END)
            script = script + [0] * (len(sizes) - len(script))
            while script and script[-1] + 1 == sizes[len(script) - 1]:
                script.pop()  # all options of the last choice were tried
            if not script:
                return
            script[-1] += 1

    def _follow(self, script: Sequence[int]) -> tuple[str, list[Choice], list[int]]:
        """Tell with the options of `script` and the first ones after it; also how many options each choice had."""
        sizes: list[int] = []

        def pick(position: int, heads: Sequence[str], weights: Sequence[int]) -> int:
            sizes.append(len(heads))
            return script[len(sizes) - 1] if len(sizes) <= len(script) else 0

        text, choices = self.tell(pick)
        return text, choices, sizes


def probability_of(choices: Sequence[Choice]) -> Fraction:
    """Exact probability of a story: the product over its choices."""
    return Fraction(math.prod(choice.weight for choice in choices), math.prod(choice.total for choice in choices))


def bits_of(choices: Sequence[Choice]) -> float:
    """-log2 of the probability of a story, from exact whole numbers, rounded to 6 decimals.

    >>> bits_of([Choice("coin", 0, "heads", 1, 2, 0, 5), Choice("die", 3, "four", 1, 6, 5, 9)])
    3.584963
    """
    offered, taken = math.prod(choice.total for choice in choices), math.prod(choice.weight for choice in choices)
    return round(math.log2(offered) - math.log2(taken), 6)


def _stops(goal: str, position: int, wanted: Sequence[str]) -> StoryError:
    shown = ", ".join(repr(head) for head in wanted[:6]) + (", ..." if len(wanted) > 6 else "")
    found = goal[position : position + 30]
    return StoryError(f"at character {position} the text has {found!r}, the grammar tells one of {shown}", position)
