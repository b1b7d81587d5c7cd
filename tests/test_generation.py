"""Generation: the cache changes no token, and draws follow the settings."""

import math

import pytest
import torch
from torch import Tensor

import mt_core.model
from mt_core import MicroTransformer, generate
from mt_core.generation import KeyValueCache

V = 50


def make(seed: int = 0, **settings) -> MicroTransformer:
    """A small model with large weights, so that a wrong mask or a wrong position shows far above rounding."""
    torch.manual_seed(seed)
    model = MicroTransformer(**{"vocab_size": V, "n_layer": 2, "n_head": 2, "n_embd": 16} | settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4) if parameter.dim() == 2 else parameter.uniform_(0.5, 1.5)
    return model.eval()


def fixed(probabilities: list[float]) -> MicroTransformer:
    """A model that gives each next token these probabilities, whatever came before."""
    size = len(probabilities)
    model = MicroTransformer(vocab_size=size, n_layer=1, n_head=1, n_embd=4, tie_embeddings=False)
    with torch.no_grad():
        for parameter in model.layers.parameters():
            parameter.zero_()
        model.embed_tokens.weight.fill_(1.0)  # RMSNorm keeps a row of ones
        model.lm_head.weight.copy_(torch.tensor(probabilities).log()[:, None].expand(size, 4) / 4)
    return model


def draw(shape: tuple[int, ...], seed: int = 0, size: int = V) -> Tensor:
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def generate_slowly(model, ids, steps, generator=None):
    """Every token computed again for each new one: what the cache must not change."""
    for _ in range(steps):
        logits = model(ids)[:, -1]
        new = logits.argmax(-1, keepdim=True)
        if generator is not None:
            new = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        ids = torch.cat((ids, new), dim=1)
    return ids


@pytest.mark.parametrize("length", [1, 5, 33])
@pytest.mark.parametrize("settings", [{}, {"n_layer": 3, "n_head": 4, "n_embd": 64, "tie_embeddings": False}])
def test_the_cache_changes_no_token(settings, length):
    model, prompt = make(**settings), draw((3, length))
    greedy = generate(model, prompt, max_new_tokens=30, temperature=0)
    assert torch.equal(greedy, generate_slowly(model, prompt, 30))
    drawn = generate(model, prompt, max_new_tokens=30, generator=torch.Generator().manual_seed(7))
    assert torch.equal(drawn, generate_slowly(model, prompt, 30, torch.Generator().manual_seed(7)))
    assert not torch.equal(greedy, drawn)


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 7), (4, 5, 6)])
def test_a_prompt_may_enter_the_cache_in_pieces(cuts):
    model, ids = make(n_layer=3), draw((2, 10))
    cache, pieces = KeyValueCache(3), ids.tensor_split(cuts, dim=1)
    logits = torch.cat([model(piece, cache=cache) for piece in pieces], dim=1)
    assert len(cache) == 10
    torch.testing.assert_close(logits, model(ids), rtol=0, atol=1e-5)


def test_settings_that_leave_one_choice_are_greedy():
    model, prompt = make(), draw((4, 3))
    greedy = generate(model, prompt, max_new_tokens=12, temperature=0)
    for settings in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-4}, {"temperature": 5e-324}):
        drawn = generate(model, prompt, max_new_tokens=12, generator=torch.Generator().manual_seed(1), **settings)
        assert torch.equal(drawn, greedy), settings


@pytest.mark.parametrize("settings", [{"top_k": V}, {"top_k": 10 * V}, {"top_p": 1.0}])
def test_settings_that_leave_every_choice_change_nothing(settings):
    model, prompt = make(), draw((4, 3))
    plain, same = (
        generate(model, prompt, max_new_tokens=12, generator=torch.Generator().manual_seed(1), **s)
        for s in ({}, settings)
    )
    assert torch.equal(plain, same)


def shares(probabilities: list[float], **settings) -> list[float]:
    """How often each token comes in 4,000 draws."""
    prompt = torch.zeros(4000, 1, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    ids = generate(fixed(probabilities), prompt, max_new_tokens=1, generator=generator, **settings)
    return (ids[:, 1].bincount(minlength=len(probabilities)) / 4000).tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.3, 0.5, 0.05, 0.15]),
        ({"top_k": 2}, [0.375, 0.625, 0, 0]),
        ({"top_k": 3}, [0.3 / 0.95, 0.5 / 0.95, 0, 0.15 / 0.95]),
        ({"top_p": 0.49}, [0, 1, 0, 0]),
        ({"top_p": 0.79}, [0.375, 0.625, 0, 0]),
        ({"top_p": 0.81}, [0.3 / 0.95, 0.5 / 0.95, 0, 0.15 / 0.95]),
        ({"top_k": 3, "top_p": 0.82}, [0.375, 0.625, 0, 0]),  # of what top_k leaves: 0.8 / 0.95 is above 0.82
        ({"temperature": 0.5}, [0.09 / 0.365, 0.25 / 0.365, 0.0025 / 0.365, 0.0225 / 0.365]),  # p squared
        ({"temperature": 1e9}, [0.25] * 4),
        ({"temperature": math.inf}, [0.25] * 4),
    ],
)
def test_draws_follow_the_probabilities_worked_by_hand(settings, expected):
    found = shares([0.3, 0.5, 0.05, 0.15], **settings)
    assert found == pytest.approx(expected, abs=0.03)
    assert [share == 0 for share in found] == [share == 0 for share in expected]


def test_a_sequence_that_drew_the_stop_token_repeats_it_until_all_have():
    model, stop = fixed([0.2, 0.3, 0.5]), 2
    prompt = torch.tensor([[0, 1], [stop, 0], [1, stop]])  # in a prompt it stops nothing
    ids = generate(model, prompt, max_new_tokens=50, stop_token_id=stop, generator=torch.Generator().manual_seed(3))
    assert torch.equal(ids[:, :2], prompt)
    new = ids[:, 2:]
    first = [row.tolist().index(stop) for row in new]
    assert new.size(1) == max(first) + 1 < 50 and len(set(first)) > 1
    for row, where in zip(new, first, strict=True):
        assert (row[where:] == stop).all() and (row[:where] != stop).all()


def test_generation_draws_from_the_generator_it_is_given_alone():
    model, prompt = make(), draw((2, 3))
    state = torch.get_rng_state()
    one, same, other = (
        generate(model, prompt, max_new_tokens=9, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("training", [True, False])
def test_generation_leaves_the_model_as_it_was(training):
    model, prompt = make().train(training), draw((1, 3))
    kept = prompt.clone()
    seen = []
    model.register_forward_hook(lambda module, *_: seen.append(module.training))
    ids = generate(model, prompt, max_new_tokens=2)
    assert seen == [False, False]
    assert model.training is training and not ids.requires_grad and torch.equal(prompt, kept)
    with pytest.raises(IndexError):
        generate(model, torch.tensor([[V]]), max_new_tokens=1)  # no such token
    assert model.training is training


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.int64)}, r"shape \(1, 0\)"),
        ({"input_ids": torch.zeros(4, dtype=torch.int64)}, r"shape \(4,\)"),
    ],
)
def test_bad_generation_settings_are_refused_by_name(settings, words):
    with pytest.raises(ValueError, match=words):
        generate(make(), **{"input_ids": draw((1, 2)), "max_new_tokens": 1} | settings)


def test_no_new_tokens_is_the_prompt():
    assert torch.equal(generate(make(), draw((2, 4)), max_new_tokens=0), draw((2, 4)))


def test_the_names_of_generation_are_names_of_the_model_too():
    assert (mt_core.model.generate, mt_core.model.KeyValueCache) == (generate, KeyValueCache)


@pytest.mark.parametrize("prompt", ["Once", [[1, 2]], {"input_ids": [1, 2]}])
def test_what_is_no_tensor_is_refused_with_the_way_to_make_one(prompt):
    with pytest.raises(TypeError, match=rf"input_ids is {type(prompt).__name__}, a tensor of ids \(B, T\) is needed"):
        generate(make(), prompt, max_new_tokens=1)
