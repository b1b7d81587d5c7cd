"""Stories with a known probability: one derivation a text, exact bits, a corpus written again byte for byte."""

import hashlib
import itertools
import json
import math
import random
import re
from collections import Counter
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest

from mt_core.lab import stories
from mt_core.lab.stories import Story, StoryError, story_grammar
from mt_core.lab.story_grammar import END, Choice, Grammar
from mt_core.lab.story_words import RULES

DATA = Path(__file__).parents[1] / "data"
TOY = Grammar(
    {
        "story": ["One day <hero=name> <met> <other=name>." + END, "Nobody came.<more>"],
        "name": ["Ada/she", "Ben/he", "Kit/they"],
        "met": ["met", "{hero.They} met", "asked {hero.their} friend"],
        "more": [END, " Not one." + END],
    }
)


@cache
def corpus(name: str) -> tuple[Story, ...]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return tuple(Story(**json.loads(line)) for line in lines)


@cache
def told(name: str) -> tuple[list[Choice], ...]:
    return tuple(stories.parse(story.text) for story in corpus(name))


# ---- by hand: a grammar small enough to write every story down ----


def test_a_coin_worked_by_hand() -> None:
    """Weights are 10000 // (rank + 5), so two options stand 2000 to 1666, and bits are -log2 of the exact fraction."""
    coin = Grammar({"story": ["It fell on <side>." + END], "side": ["heads", "tails"]})
    assert list(coin.stories()) == [
        (Fraction(2000, 3666), "It fell on heads."),
        (Fraction(1666, 3666), "It fell on tails."),
    ]
    assert stories.bits_of(coin.parse("It fell on tails.")) == round(math.log2(3666 / 1666), 6)


def test_the_toy_grammar_against_brute_force() -> None:
    """Probabilities from nested loops that share no code with the walker."""
    weights = [10_000 // (rank + 5) for rank in range(3)]
    people = [("Ada", "She", "her"), ("Ben", "He", "his"), ("Kit", "They", "their")]
    expected = {
        f"Nobody came.{more}": Fraction(weights[1], sum(weights[:2])) * Fraction(w, sum(weights[:2]))
        for more, w in (("", weights[0]), (" Not one.", weights[1]))
    }
    for i, k, j in itertools.product(range(3), repeat=3):
        if i != k:  # the hero is not offered again as the other
            name, they, their = people[i]
            met = ["met", f"{they} met", f"asked {their} friend"][j]
            p = Fraction(weights[i], sum(weights)) * Fraction(weights[j], sum(weights))
            p *= Fraction(weights[k], sum(weights) - weights[i]) * Fraction(weights[0], sum(weights[:2]))
            expected[f"One day {name} {met} {people[k][0]}."] = p
    found = [(text, p) for p, text in TOY.stories()]
    assert len(found) == len(expected) == 20 and dict(found) == expected and sum(expected.values()) == 1


def test_entropy_of_the_toy_grammar_is_the_mean_of_its_bits() -> None:
    entropy = -sum(p * math.log2(p) for p, _ in TOY.stories())
    mean = sum(p * stories.bits_of(TOY.parse(text)) for p, text in TOY.stories())
    assert mean == pytest.approx(entropy, abs=1e-6)
    drawn = [stories.bits_of(TOY.draw(3, index)[1]) for index in range(4000)]
    error = math.sqrt(sum((b - entropy) ** 2 for b in drawn) / len(drawn) / len(drawn))
    assert abs(sum(drawn) / len(drawn) - entropy) < 4 * error


def test_character_bits_of_the_toy_grammar_are_conditional_probabilities() -> None:
    """Against the definition: the mass of all stories that begin so, before and after each character."""
    whole = [(p, text + END) for p, text in TOY.stories()]
    for _, text in TOY.stories():
        for at, bits in enumerate(TOY.character_bits(text)):
            before, after = (text + END)[:at], (text + END)[: at + 1]
            mass = [sum(p for p, t in whole if t.startswith(part)) for part in (before, after)]
            assert bits == pytest.approx(math.log2(mass[0] / mass[1]), abs=1e-12)


# ---- the real grammar: no choice is invisible ----


@cache
def offers() -> tuple[set[tuple[str, ...]], set[tuple[str, int]]]:
    """Every set of heads offered and every option taken in 5,000 stories that take all options equally often."""
    source, heads_met, taken = random.Random(0), set(), set()

    def pick(position: int, heads: list[str], weights: list[int]) -> int:
        heads_met.add(tuple(heads))
        return source.randrange(len(heads))

    for _ in range(5000):
        taken.update((choice.rule, choice.rank) for choice in story_grammar().tell(pick)[1])
    return heads_met, taken


def test_no_head_starts_another() -> None:
    """The property that makes the derivation unique, with names and things filled in."""
    for heads in offers()[0]:
        clashes = [(a, b) for a, b in itertools.pairwise(sorted(heads)) if b.startswith(a)]
        assert not clashes, f"{clashes}: a reader cannot tell which was chosen"
    with pytest.raises(ValueError, match="'fish' starts 'fisher'"):
        Grammar({"story": ["fish", "fowl", "fisher"]})


def test_every_option_is_told_and_every_recall_is_known() -> None:
    taken = Counter(rule for rule, _ in offers()[1])
    assert taken == {rule: len(options) for rule, options in RULES.items()}


def test_likelier_options_stand_first_and_the_vocabulary_is_skewed() -> None:
    for options in story_grammar().rules.values():
        weights = [option.weight for option in options]
        assert weights == sorted(weights, reverse=True) and len(set(weights)) == len(weights)
    words = Counter(re.findall(r"[a-z]+", " ".join(story.text for story in corpus("val.jsonl")).lower()))
    ordered = [count for _, count in words.most_common()]
    assert 400 < len(ordered) < 700 and sum(ordered[:20]) > 0.3 * sum(ordered)
    assert ordered[0] > 50 * ordered[len(ordered) // 2]


@pytest.mark.parametrize("index", range(12))
def test_flipping_any_choice_changes_the_text(index: int) -> None:
    """Each choice of a story is turned to each of its other options: the text parts from the old one right there."""
    text = stories.generate(5, index).text + END
    script: list[int] = []

    def follow(position: int, heads: list[str], weights: list[int]) -> int:
        script.append(next(i for i, head in enumerate(heads) if text.startswith(head, position)))
        return script[-1]

    _, choices = story_grammar().tell(follow)
    for turn, choice in enumerate(choices):
        for option in range(len(RULES[choice.rule])):
            asked = 0

            def retell(position: int, heads: list[str], weights: list[int], turn=turn, option=option) -> int:
                nonlocal asked
                asked += 1
                wanted = option if asked - 1 == turn else (script[asked - 1] if asked - 1 < turn else 0)
                return min(wanted, len(heads) - 1)

            other, other_choices = story_grammar().tell(retell)
            assert other[: choice.start] == text[: choice.start]
            same_choice = other_choices[turn] == choice
            assert same_choice == text.startswith(other_choices[turn].head, choice.start)
            assert stories.parse(other.removesuffix(END)) == other_choices


@pytest.mark.parametrize("seed", range(8))
def test_a_thinned_copy_of_the_grammar_sums_to_one(seed: int) -> None:
    """The real rules with most options struck out: few enough stories to list, all different, adding up to one."""
    source = random.Random(seed)
    wide = {"plot", "last", *source.sample(sorted(RULES), 10)}
    thin = {}
    for rule, options in RULES.items():
        keep = 2 if rule in wide else 1
        if rule in ("name", "who", "trait"):  # remembered and asked for again: one would not do
            keep = 2
        thin[rule] = source.sample(options, min(keep, len(options)))
    grammar = Grammar(thin)
    listed = list(grammar.stories())
    assert sum(p for p, _ in listed) == 1
    assert len({text for _, text in listed}) == len(listed) > 50
    for p, text in listed[:: max(1, len(listed) // 200)]:
        assert stories.bits_of(grammar.parse(text)) == round(math.log2(p.denominator) - math.log2(p.numerator), 6)


# ---- the corpus in data/ ----


def test_the_parser_recovers_the_bits_of_every_record() -> None:
    for name in ("train.jsonl", "val.jsonl"):
        for story, choices in zip(corpus(name), told(name), strict=True):
            assert stories.bits_of(choices) == story.bits, story.text


def test_the_corpus_is_written_again_byte_for_byte(tmp_path: Path) -> None:
    stories.main(["--out", str(tmp_path)])
    for name in ("train.jsonl", "val.jsonl", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), name


def test_a_stream_grows_without_changing_its_start(tmp_path: Path) -> None:
    stories.main(["--out", str(tmp_path / "more.jsonl"), "--seed", "1", "--count", "30"])
    lines = (tmp_path / "more.jsonl").read_text(encoding="utf-8").splitlines()
    assert [Story(**json.loads(line)) for line in lines] == list(corpus("val.jsonl")[:30])


def test_no_story_comes_twice() -> None:
    texts = [story.text for name in ("train.jsonl", "val.jsonl") for story in corpus(name)]
    assert len(set(texts)) == len(texts) == 13_000


def test_stories_fit_a_row() -> None:
    lengths = [len(story.text) for name in ("train.jsonl", "val.jsonl") for story in corpus(name)]
    assert 200 < min(lengths) and max(lengths) < 480
    for story in corpus("val.jsonl"):
        assert story.text.isascii() and story.text[-1] in ".!?" and "  " not in story.text


def test_character_bits_add_up_and_say_where_the_end_is() -> None:
    end = 0.0
    for story in corpus("val.jsonl")[:300]:
        bits = stories.character_bits(story.text)
        assert len(bits) == len(story.text) + 1 and min(bits) >= 0
        assert sum(bits) == pytest.approx(story.bits, abs=1e-5)
        end += bits[-1] / 300
    assert 0.3 < end < 0.8


@pytest.mark.parametrize("old, new", [(" lived", " dwelt"), ("a", "e"), (".", ""), (" the ", " a ")])
def test_a_text_nobody_told_is_refused_with_the_place(old: str, new: str) -> None:
    for story in corpus("val.jsonl")[:50]:
        changed = story.text.replace(old, new, 1)
        if changed == story.text:
            continue
        with pytest.raises(StoryError, match="at character") as caught:
            stories.parse(changed)
        assert caught.value.position <= story.text.index(old) + 25
    with pytest.raises(StoryError):
        stories.read_bits(corpus("val.jsonl")[0].text + " ")
    with pytest.raises(StoryError):
        stories.character_bits(corpus("val.jsonl")[0].text[:-1])


def test_a_wrong_pronoun_or_name_is_refused() -> None:
    """What must be remembered costs no bits, because nothing else is possible."""
    checked = 0
    for story in corpus("val.jsonl")[:300]:
        for she, he in ((" She ", " He "), (" her ", " his "), (" They ", " She ")):
            if she in story.text:
                with pytest.raises(StoryError):
                    stories.parse(story.text[::-1].replace(she[::-1], he[::-1], 1)[::-1])
                checked += 1
    assert checked > 100


def test_stories_agree_with_themselves() -> None:
    """Facts of agreement, read off with patterns that know nothing of the grammar."""
    forms = {"she": ("she", "her"), "he": ("he", "his", "him"), "they": ("they", "their", "them")}
    sexes = {name.split("/")[0]: name.split("/")[1] for name in RULES["name"]}
    lasts = 0
    for story in corpus("val.jsonl"):
        names = set(re.findall(r"\b(?:" + "|".join(sexes) + r")\b", story.text))
        assert 1 <= len(names) <= 2
        allowed = {form for name in names for form in forms[sexes[name]]} | {"they"}
        plain = re.sub(r'"[^"]*"', "", story.text)
        assert set(re.findall(r"\b(?:she|he|her|his|him|their|them)\b", plain)) <= allowed, story.text
        for a, an in re.findall(r"\b(a|an) (\w)", story.text):
            assert (a == "an") == (an in "aeiou"), story.text
        if last := re.search(r"And the ((\w+) (\w+))\?", story.text):
            assert story.text.index(f" {last[1]}") < story.text.index(last[0]) and last[3] in story.text
            lasts += 1
    assert lasts > 200


# ---- the floor ----


def test_the_bits_spent_are_the_entropy_offered() -> None:
    """Each choice is worth its entropy on average: over all stories the difference has mean 0 within its error."""
    differences, entropies = [], []
    for story in corpus("train.jsonl")[:1500]:
        offered: list[float] = []

        def pick(position: int, heads: list[str], weights: list[int], text=story.text + END, offered=offered) -> int:
            total = sum(weights)
            offered.append(-sum(w / total * math.log2(w / total) for w in weights))
            return next(i for i, head in enumerate(heads) if text.startswith(head, position))

        story_grammar().tell(pick)
        differences.append(story.bits - sum(offered))
        entropies.append(sum(offered))
    n = len(differences)
    error = math.sqrt(sum(d * d for d in differences)) / n
    assert abs(sum(differences) / n) < 4 * error
    bits = [story.bits for story in corpus("val.jsonl")]
    assert sum(entropies) / n == pytest.approx(sum(bits) / len(bits), rel=0.01)


def test_a_code_learned_by_counting_stays_above_the_floor_and_comes_near() -> None:
    """An estimate that never sees a weight: how often each option was taken in train.jsonl prices val.jsonl."""
    counts: dict[str, Counter[int]] = {}
    for choices in told("train.jsonl"):
        for choice in choices:
            counts.setdefault(choice.rule, Counter())[choice.rank] += 1
    excess = []
    for story, choices in zip(corpus("val.jsonl"), told("val.jsonl"), strict=True):
        price = 0.0
        for choice in choices:
            seen = counts[choice.rule]
            price -= math.log2((seen[choice.rank] + 0.5) / (seen.total() + 0.5 * len(RULES[choice.rule])))
        excess.append(price - story.bits)
    mean = sum(excess) / len(excess)
    error = math.sqrt(sum((x - mean) ** 2 for x in excess)) / len(excess)
    floor = sum(story.bits for story in corpus("val.jsonl")) / 1000
    assert -3 * error < mean < 0.02 * floor


def test_the_floor_by_hand_and_its_error_by_resampling() -> None:
    """100 + 120 bits over 80 + 80 targets and 300 + 320 bytes; the error against the spread of resampled stories."""
    by_hand = stories.floor([100.0, 120.0], [80, 80], [300, 320])
    assert by_hand.bits_per_story == 110 and by_hand.nats_per_token == pytest.approx(220 * math.log(2) / 160)
    assert by_hand.bits_per_byte == pytest.approx(220 / 620) and by_hand.bits_per_story_error == pytest.approx(10)
    bits = [story.bits for story in corpus("val.jsonl")]
    words = [len(story.text.split()) for story in corpus("val.jsonl")]
    source, ratios = random.Random(0), []
    for _ in range(300):
        chosen = source.choices(range(1000), k=1000)
        ratios.append(sum(bits[i] for i in chosen) / sum(words[i] for i in chosen) * math.log(2))
    middle = sum(ratios) / 300
    spread = math.sqrt(sum((ratio - middle) ** 2 for ratio in ratios) / 299)
    assert stories.floor(bits, words, words).nats_per_token_error == pytest.approx(spread, rel=0.15)
    with pytest.raises(ValueError, match="one of each"):
        stories.floor([1.0], [1], [1])


def test_the_readme_tells_the_truth() -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    figures = {}
    for name in ("train.jsonl", "val.jsonl"):
        data = (DATA / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        assert f"| `{name}` | {len(corpus(name)):,} | {len(data):,} | `{digest}` |" in readme
        bits, n_bytes = [s.bits for s in corpus(name)], [len(s.text.encode()) for s in corpus(name)]
        figures[name] = stories.floor(bits, n_bytes, n_bytes)
        assert f"{min(bits):.1f} and {max(bits):.1f}" in readme
        assert f"{sum(n_bytes) / len(n_bytes):.0f} and {max(n_bytes)}" in readme
    train, val = figures["train.jsonl"], figures["val.jsonl"]
    for row in (
        f"{train.bits_per_story:.3f} ± {train.bits_per_story_error:.3f} | "
        f"{val.bits_per_story:.3f} ± {val.bits_per_story_error:.3f}",
        f"{train.bits_per_byte:.4f} ± {train.bits_per_byte_error:.4f} | "
        f"{val.bits_per_byte:.4f} ± {val.bits_per_byte_error:.4f}",
    ):
        assert row in readme
    weights = [option.weight for option in story_grammar().rules["last"]]
    stop = weights[0] / sum(weights)
    assert "odds of {:.3f}, {:.3f} and {:.3f}".format(*(w / sum(weights) for w in weights)) in readme.replace("\n", " ")
    assert f"costs {-math.log2(stop):.3f} bits" in readme and f"{-stop * math.log2(stop):.3f} bits a story" in readme
    end = sum(stories.character_bits(story.text)[-1] for story in corpus("val.jsonl")) / 1000
    assert f"({end:.3f} for the stories" in readme
    assert any(f"    {line}\n" in readme for line in (DATA / "val.jsonl").read_text(encoding="utf-8").splitlines())
