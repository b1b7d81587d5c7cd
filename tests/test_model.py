"""The model: shapes, parameters, presets, positions and causality."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mt_core import MicroTransformer, ModelConfig
from mt_core.model import KeyValueCache, rotate
from mt_core.presets import PRESETS

V = 50


def make(seed: int = 0, **settings) -> MicroTransformer:
    """A small model with large weights, so that a wrong mask or a wrong position shows far above rounding."""
    torch.manual_seed(seed)
    model = MicroTransformer(**{"vocab_size": V, "n_layer": 2, "n_head": 2, "n_embd": 16} | settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4) if parameter.dim() == 2 else parameter.uniform_(0.5, 1.5)
    return model.eval()


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


@pytest.mark.parametrize(
    ("name", "vocab_size", "expected"),
    # V C + L (4 C C + 3 C I + 2 C) + C, with I = 352, 704, 1024 and 2048
    [("1m", 2048, 1066112), ("5m", 4096, 5065472), ("20m", 16384, 20453760), ("124m", 50257, 123551232)],
)
def test_presets_have_the_size_their_name_says(name, vocab_size, expected):
    with torch.device("meta"):  # shapes alone
        model = MicroTransformer.preset(name, vocab_size=vocab_size)
    assert model.n_parameters() == model.config.n_parameters() == expected
    assert expected / 1e6 == pytest.approx(int(name.removesuffix("m")), rel=0.07)
    assert model.config.head_size in (32, 64) and model.config.tie_embeddings


def test_the_arithmetic_of_parameters_holds_untied_and_for_any_width():
    for settings in ({"tie_embeddings": False}, {"n_inner": 40}, {"n_embd": 48, "n_layer": 1, "n_inner": 7}):
        model = make(**settings)
        assert model.config.n_parameters() == model.n_parameters()


def test_presets_take_changes_and_are_never_changed():
    model = MicroTransformer.preset("1m", vocab_size=V, n_layer=1, tie_embeddings=False)
    assert (model.config.n_layer, model.config.n_embd, model.config.tie_embeddings) == (1, 128, False)
    with pytest.raises(TypeError):
        PRESETS["1m"]["n_layer"] = 2
    with pytest.raises(ValueError, match="preset '2m' is not known: use one of 1m, 5m, 20m, 124m"):
        MicroTransformer.preset("2m", vocab_size=V)


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


def test_queries_keys_and_values_are_of_one_type_under_autocast_too():
    """FlexAttention, unlike the dense one, would take float32 beside bfloat16 and compute in float32."""
    model, x = make(n_embd=32), torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    rotation = model._rotation(torch.arange(3), x)
    for enabled, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert [t.dtype for t in model.layers[0].self_attn.heads(x, rotation)] == [dtype] * 3


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
