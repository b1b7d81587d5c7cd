"""The model: shapes, causality, equality with `transformers`' Llama, and generation with and without a cache."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mt_core import MicroTransformer, ModelConfig, generate
from mt_core.model import KeyValueCache, rotate

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


# -- shapes and parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (3, 40)])
def test_logits_always_have_one_shape(shape):
    model = make()
    for training in (False, True):
        logits = model.train(training)(draw(shape))
        assert logits.shape == (*shape, V) and logits.dtype == torch.float32
    assert model(draw(shape), cache=KeyValueCache(2)).shape == (*shape, V)


def test_parameters_are_those_counted_by_hand():
    # embedding 100 * 8; each block: 4 attention matrices 8 * 8, 3 feed-forward matrices 8 * 32, 2 norms; last norm
    by_hand = 100 * 8 + 2 * (4 * 8 * 8 + 3 * 8 * 32 + 2 * 8) + 8
    shape = {"vocab_size": 100, "n_layer": 2, "n_head": 2, "n_embd": 8}
    assert MicroTransformer(**shape).n_parameters() == by_hand == 2888
    assert MicroTransformer(**shape, tie_embeddings=False).n_parameters() == by_hand + 100 * 8
    assert MicroTransformer(**shape, n_inner=40).n_parameters() == by_hand + 2 * 3 * 8 * 8


def test_settings_make_the_same_shape_again():
    model = make(n_inner=24, rope_theta=500.0, tie_embeddings=False)
    again = MicroTransformer(**model.settings())
    assert again.config == model.config
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(draw((2, 9))), model(draw((2, 9))), rtol=0, atol=0)


def test_the_seed_decides_the_weights():
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in MicroTransformer(vocab_size=V, n_layer=1, n_embd=16).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_loss_starts_at_the_logarithm_of_the_vocabulary():
    torch.manual_seed(0)
    model = MicroTransformer(vocab_size=1000)
    losses = F.cross_entropy(model(draw((4, 64), 1, 1000)).flatten(0, 1), draw((256,), 2, 1000))
    assert losses.item() == pytest.approx(math.log(1000), abs=0.1)


def test_deeper_models_start_with_smaller_residual_branches():
    torch.manual_seed(0)
    for depth in (1, 8):
        block = MicroTransformer(vocab_size=V, n_layer=depth, n_embd=128).layers[0]
        expected = 0.02 / math.sqrt(2 * depth)
        assert block.self_attn.o_proj.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert block.mlp.down_proj.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert block.mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_tied_embeddings_are_one_tensor_and_stay_one():
    for model in (make(), copy.deepcopy(make()), make().double()):
        assert model.lm_head.weight is model.embed_tokens.weight
    untied = make(tie_embeddings=False)
    assert untied.lm_head.weight.data_ptr() != untied.embed_tokens.weight.data_ptr()


def test_bfloat16_weights_give_nearly_the_same_probabilities():
    ids = draw((2, 12))
    full, half = make()(ids).softmax(-1), make().bfloat16()(ids)
    assert half.dtype == torch.bfloat16
    assert (full - half.float().softmax(-1)).abs().max() < 0.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"vocab_size": 10.0}, "vocab_size=10.0"),
        ({"n_layer": 0}, "n_layer=0"),
        ({"n_head": True}, "n_head=True"),
        ({"n_inner": 0}, "n_inner=0"),
        ({"n_embd": 30, "n_head": 4}, "multiple of 8, such as 24"),
        ({"n_embd": 4, "n_head": 4}, "multiple of 8, such as 8"),
        ({"rope_theta": 0.0}, "rope_theta=0.0"),
        ({"norm_eps": -1.0}, "norm_eps=-1.0"),
    ],
)
def test_config_is_checked_when_made(settings, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig(**{"vocab_size": V} | settings)


def test_config_cannot_be_changed_and_unknown_settings_are_refused():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().config.n_layer = 3
    with pytest.raises(TypeError, match="dropout"):
        MicroTransformer(vocab_size=V, dropout=0.1)


@pytest.mark.parametrize("bad", [torch.zeros(5, dtype=torch.int64), torch.zeros(1, 5), torch.zeros(1, 2, 3).long()])
def test_input_of_the_wrong_kind_is_refused_with_its_shape_and_type(bad):
    with pytest.raises(ValueError, match="input_ids has shape") as caught:
        make()(bad)
    assert str(tuple(bad.shape)) in str(caught.value) and str(bad.dtype) in str(caught.value)


# -- positions and attention -------------------------------------------------------------------------------


def test_a_token_changes_no_logits_before_it():
    model, ids = make(), draw((1, 10))
    before = model(ids)
    for t in range(10):
        changed = ids.clone()
        changed[0, t] = (ids[0, t] + 1) % V
        after = model(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-6)
        assert ((after[:, t:] - before[:, t:]).abs().amax(-1) > 1e-3).all()  # and every later one sees it


def test_rotation_worked_by_hand():
    model = make(n_head=1, n_embd=4)  # D = 4: pairs (0, 2) at 1 radian a position, (1, 3) at 10000 ** -0.5 = 0.01
    x = torch.tensor([1.0, 1.0, 0.0, 2.0]).expand(1, 1, 4, 4)
    turned = rotate(x, model._rotation(torch.arange(4), x))[0, 0]
    assert torch.equal(turned[0], x[0, 0, 0])  # position 0 is left alone
    for p in range(4):
        slow = 0.01 * p
        by_hand = [math.cos(p), math.cos(slow) - 2 * math.sin(slow), math.sin(p), math.sin(slow) + 2 * math.cos(slow)]
        assert turned[p].tolist() == pytest.approx(by_hand, abs=1e-6)


def test_scores_depend_on_distance_alone():
    model = make(n_embd=32)
    query, key = (torch.randn(1, 1, 6, 16, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    reference = None
    for start in (0, 1, 17, 400):
        rotation = model._rotation(torch.arange(start, start + 6), query)
        scores = rotate(query, rotation) @ rotate(key, rotation).transpose(2, 3)
        reference = scores if reference is None else reference
        torch.testing.assert_close(scores, reference, rtol=0, atol=1e-3)
    assert not torch.allclose(reference, query @ key.transpose(2, 3), atol=0.1)


def test_attention_weights_are_those_the_forward_pass_uses(monkeypatch):
    model, ids = make(), draw((2, 9))
    used, real = [], F.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, is_causal=False):
        y = real(query, key, value, attn_mask=attn_mask, is_causal=is_causal)
        used.append((value, y))
        return y

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    model(ids)
    monkeypatch.undo()
    weights = model.attention_weights(ids)
    assert weights.shape == (2, 2, 2, 9, 9) and not weights.requires_grad
    for layer, (value, y) in enumerate(used):
        torch.testing.assert_close(weights[layer] @ value, y, rtol=0, atol=1e-5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 2, 9))
    assert (weights.triu(1) == 0).all() and (weights.tril() >= 0).all()


@pytest.mark.filterwarnings("default")  # what `transformers` warns about at import is its own affair
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        {"vocab_size": V, "n_layer": 2, "n_head": 2, "n_embd": 16},
        {
            "vocab_size": 301,
            "n_layer": 3,
            "n_head": 4,
            "n_embd": 64,
            "n_inner": 96,
            "rope_theta": 500.0,
            "norm_eps": 1e-3,
        },
    ],
)
def test_weights_are_those_of_llama_under_other_names(tied, shape):
    from transformers import LlamaConfig, LlamaForCausalLM

    model = make(tie_embeddings=tied, **shape)
    config = model.config
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.n_embd,
            intermediate_size=config.n_inner,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            num_key_value_heads=config.n_head,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=tied,
        )
    ).eval()
    renamed = {n if n.startswith("lm_head") else f"model.{n}": tensor for n, tensor in model.state_dict().items()}
    llama.load_state_dict(renamed)  # strict: no name missing, none left over
    ids = draw((2, 33), size=config.vocab_size)
    with torch.no_grad():
        ours, theirs = model(ids), llama(input_ids=ids).logits
    assert ours.std() > 0.5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


# -- generation --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("length", [1, 5])
def test_the_cache_changes_no_token(length):
    model, prompt = make(), draw((3, length))
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
