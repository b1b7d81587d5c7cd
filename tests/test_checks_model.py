"""Checks of notebook 14: right answers pass, wrong ones are explained in the learner's terms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mt_core import MicroTransformer, ModelConfig, generate
from mt_core.generation import KeyValueCache
from mt_core.lab.checks import model as checks

Say = Callable[..., str]


def causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda length, width: None, "returns nothing yet"),
        (lambda length, width: ..., "returns nothing yet"),
        (
            lambda length, width: causal(length),
            "length=6, width=3: that is the causal mask",
        ),
        (lambda length, width: causal(length).triu(-width), "One too many: 3 places in all"),
        (lambda length, width: ~causal(length) | causal(length), "It sees what comes after it"),
        (lambda length, width: causal(length).tril(-1), "It must see itself"),
        (lambda length, width: causal(length).triu(-2), "length=5, width=1: place 1 looks at [0, 1]"),
        (lambda length, width: causal(length).float(), "you returned torch.float32"),
        (lambda length, width: causal(length).tolist(), "you returned list"),
        (lambda length, width: causal(length + 1), "returned shape (7, 7), (6, 6) is needed"),
        (lambda length: causal(length), "stopped with TypeError"),
    ],
)
def test_wrong_windows_are_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(checks.window, answer)
    assert why in printed and "Right" not in printed


def test_a_right_window_passes(say: Say) -> None:
    assert say(checks.window, lambda length, width: causal(length).triu(1 - width)).startswith("Right: 5 windows")


def shared(config: ModelConfig, n_kv_head: int, *, keys: int = 2, tied: bool | None = None) -> int:
    width, head = config.n_embd, config.n_embd // config.n_head
    attention = 2 * width * width + keys * width * n_kv_head * head + (2 - keys) * width * width
    block = attention + 3 * width * config.n_inner + 2 * width
    tables = 1 if (config.tie_embeddings if tied is None else tied) else 2
    return tables * config.vocab_size * width + config.n_layer * block + width


def ungrouped(config: ModelConfig, n_kv_head: int) -> int:
    return config.n_parameters()


def queries_too(config: ModelConfig, n_kv_head: int) -> int:
    return config.n_parameters() - 2 * (config.n_parameters() - shared(config, n_kv_head))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda config, n_kv_head: None, "returns nothing yet"),
        (ungrouped, "n_kv_head=2: you returned 43,360, 40,288 is needed. That is the count with a key"),
        (lambda config, n_kv_head: shared(config, n_kv_head, keys=1), "keys and values both have"),
        (queries_too, "all n_head heads still ask"),
        (
            lambda config, n_kv_head: (
                config.n_parameters() - 2 * config.n_layer * config.n_embd * (config.n_embd - n_kv_head)
            ),
            "A head is head_size",
        ),
        (lambda config, n_kv_head: shared(config, n_kv_head, tied=True), "it counts too"),
        (lambda config, n_kv_head: 0.5, "a whole number is needed"),
        (lambda config, n_kv_head: 12, "you returned 12, 43,360 is needed"),
        (lambda config: 12, "stopped with TypeError"),
    ],
)
def test_wrong_counts_are_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(checks.shared_keys, answer)
    assert why in printed and "Right" not in printed


def test_a_right_count_passes_and_is_put_in_proportion(say: Say) -> None:
    printed = say(checks.shared_keys, shared)
    # 12 layers, 2 matrices, 8 heads of 64 fewer, 768 wide: 9,437,184 of 123,551,232
    assert printed.startswith("Right: 5 shapes") and "save 9,437,184 parameters,\n8% of all" in printed


@torch.no_grad()
def cached(model: MicroTransformer, ids: Tensor, n: int) -> Tensor:
    cache, new = KeyValueCache(model.config.n_layer), ids
    for _ in range(n):
        new = model(new, cache=cache)[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat((ids, new), dim=1)
    return ids


@torch.no_grad()
def uncached(model: MicroTransformer, ids: Tensor, n: int) -> Tensor:
    for _ in range(n):
        ids = torch.cat((ids, model(ids)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return ids


@torch.no_grad()
def all_again(model: MicroTransformer, ids: Tensor, n: int) -> Tensor:
    cache = KeyValueCache(model.config.n_layer)
    for _ in range(n):
        ids = torch.cat((ids, model(ids, cache=cache)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return ids


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda model, ids, n: None, "returns nothing yet"),
        (uncached, "the tokens are right, but the model read 102 places where 14 are enough"),
        (all_again, "With a cache each token enters the model once"),
        (lambda model, ids, n: cached(model, ids, n)[:, ids.size(1) :], "the prompt is missing before them"),
        (lambda model, ids, n: cached(model, ids, n + 1), "you returned 16 ids, 3 + 12 are needed"),
        (lambda model, ids, n: cached(model, ids, n) * 0, "the prompt itself has changed"),
        (lambda model, ids, n: cached(model, ids, n)[0], "you returned (15,), ids of shape (1, 15)"),
        (lambda model, ids, n: cached(model, ids, n).tolist(), "you returned list"),
        (lambda model, ids, n: model(ids, cache=4), "stopped with"),
    ],
)
def test_wrong_generation_is_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(checks.generation, answer)
    assert why in printed and "Right" not in printed


@pytest.mark.parametrize(
    "answer", [cached, lambda model, ids, n: generate(model, ids, max_new_tokens=n, temperature=0)]
)
def test_right_generation_passes_and_leaves_the_random_state(say: Say, answer: Callable[..., Any]) -> None:
    before = torch.get_rng_state()
    assert say(checks.generation, answer).startswith("Right: the tokens of generate")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda: None, "returns nothing yet"),
        (lambda: MicroTransformer(vocab_size=50, n_head=8, n_embd=96), "no error: that works"),
        (lambda: MicroTransformer(vocab_size=50, n_head=0), "with another error (n_head=0"),
        (lambda: MicroTransformer(n_head=8, n_embd=100), "stopped with TypeError"),
    ],
)
def test_a_model_that_was_not_broken_is_explained(say: Say, answer: Callable[[], Any], why: str) -> None:
    printed = say(checks.odd_head, answer)
    assert why in printed and "mt_core says" not in printed


@pytest.mark.parametrize("width", [100, 104, 24 + 4])
def test_the_broken_model_shows_the_error_and_what_works(say: Say, width: int) -> None:
    printed = say(checks.odd_head, lambda: MicroTransformer(vocab_size=50, n_head=8, n_embd=width))
    assert f"mt_core says: n_embd={width} cannot be shared by n_head=8 heads of even size" in printed
    assert "n_embd=96 works: 8 heads of 12, 6 pairs each." in printed
