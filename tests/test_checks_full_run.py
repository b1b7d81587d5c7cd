"""Checks of notebook 15: right answers pass, wrong ones are explained in the learner's terms."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from mt_core import TrainConfig
from mt_core.lab.checks import full_run
from mt_core.lab.generated_code import parses, whole_functions

Say = Callable[..., str]


def right_plan(flops: float, there: int) -> tuple[float, float]:
    tokens = min(20 * (flops / 120) ** 0.5, 4 * there)
    return flops / (6 * tokens), tokens


def short_plan(flops: float, there: int) -> tuple[float, float]:
    parameters = (flops / 120) ** 0.5
    return parameters, min(20 * parameters, 4 * there)


def one_epoch(flops: float, there: int) -> tuple[float, float]:
    tokens = right_plan(flops, there)[1]
    tokens = there if tokens == 4 * there else tokens
    return flops / (6 * tokens), tokens


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda f, n: ..., "returns nothing yet"),
        (lambda f, n: ((f / 120) ** 0.5, 20 * (f / 120) ** 0.5), "at most 4 are allowed"),
        (short_plan, "must use the budget"),
        (lambda f, n: (f / (6 * min(1e5, n)), min(1e5, n)), "20 a parameter, for there is text enough"),
        (one_epoch, "four epochs, all there is"),
        (lambda f, n: (0, 0), "must be above 0"),
        (lambda f, n: 7, "two numbers are needed"),
        (lambda f, n: f / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_plans_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(full_run.plan, answer)
    assert words in printed and "Right" not in printed


def test_the_right_plan_passes(say: Say) -> None:
    assert say(full_run.plan, right_plan).startswith("Right")


def right_speed(tokens: Sequence[int], seconds: Sequence[float]) -> float:
    middle = len(tokens) // 2 - 1
    return (tokens[-1] - tokens[middle]) / (seconds[-1] - seconds[middle])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda t, s: None, "returns nothing yet"),
        (lambda t, s: t[-1] / s[-1], "mean of the whole run"),
        (lambda t, s: (t[-1] - t[len(t) // 2]) / ((s[-1] - s[len(s) // 2]) or 1), "one step late"),
        (lambda t, s: (t[-1] - t[len(t) // 2]) / (s[-1] - s[len(s) // 2]), "one step late"),
        (lambda t, s: t[-1] / 2, "are due, you say"),
        (lambda t, s: "fast", "a number is needed"),
    ],
)
def test_wrong_speeds_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(full_run.speed, answer)
    assert words in printed and "Right" not in printed


def test_the_right_speed_passes(say: Say) -> None:
    assert say(full_run.speed, right_speed).startswith("Right")


def right_count(text: str, ended: bool) -> tuple[int, int]:
    whole = whole_functions(text, ended=ended)
    return len(whole), sum(map(parses, whole))


def all_or_nothing(text: str, ended: bool) -> tuple[int, int]:
    whole = whole_functions(text, ended=ended)
    return len(whole), len(whole) * parses("\n".join(whole))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda text, ended: ..., "returns nothing yet"),
        (lambda text, ended: (text.count("def "), 0), "parse each by itself"),
        (lambda text, ended: right_count(text, True), "may lack its end"),
        (lambda text, ended: (text.count("def "), right_count(text, ended)[1]), "whole functions are there, you count"),
        (all_or_nothing, "ast.parse each by itself"),
        (lambda text, ended: 3, "two numbers are needed"),
    ],
)
def test_wrong_counts_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(full_run.functions, answer)
    assert words in printed and "Right" not in printed


def test_the_right_count_passes(say: Say) -> None:
    assert say(full_run.functions, right_count).startswith("Right")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda config: ..., "returns nothing yet"),
        (lambda config: config, "the run went on"),
        (lambda config: replace(config, parallel="none"), "the run went on"),
        (lambda config: 3, "a TrainConfig is needed"),
        (lambda config: replace(config, learning_rate=-1.0), "stopped with ValueError"),
    ],
)
def test_changes_that_are_not_refused_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    assert words in say(full_run.refused, answer)


@pytest.mark.parametrize("change", [{"learning_rate": 0.5}, {"schedule": "wsd"}, {"max_steps": 6}])
def test_a_refused_change_shows_the_error_and_leaves_the_random_numbers_alone(say: Say, change: dict[str, Any]) -> None:
    before = torch.get_rng_state()

    def changed(config: TrainConfig) -> TrainConfig:
        return replace(config, **change)

    printed = say(full_run.refused, changed)
    assert "was made with" in printed and "resume with the same settings" in printed
    assert torch.equal(before, torch.get_rng_state())
