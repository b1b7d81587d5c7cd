"""Rows that hold several documents: which token looks at which, and that no document changes another's logits."""

import warnings

import numpy as np
import pytest
import torch

import mt_core.model as module
from mt_core import MicroTransformer, TokenLoader, TokenStore, TransformerDataset
from mt_core.model import KeyValueCache, document_mask
from mt_core.training import loss_of

V = 50
ROWS = torch.tensor([[0, 0, 0, 1, 1, 2, 2, -1], [3, 3, 3, 3, 3, 3, 3, 4]])  # documents of two rows


def make(**settings) -> MicroTransformer:
    torch.manual_seed(0)
    return MicroTransformer(vocab_size=V, **{"n_layer": 2, "n_head": 2, "n_embd": 64} | settings).eval()


def draw(*shape: int) -> torch.Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(1))


def test_the_mask_by_hand() -> None:
    mask = document_mask(torch.tensor([[7, 7, 2, 2, -1]]))
    assert mask.shape == (1, 1, 5, 5)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert document_mask(None) is None
    assert document_mask(torch.tensor([[5, 5, -1], [6, 6, 6]])) is None, "one document and padding: causal is enough"


def test_a_change_in_one_document_never_changes_anothers_logits() -> None:
    model, ids = make(), draw(2, 8)
    with torch.no_grad():
        before = model(ids, document_ids=ROWS)
        for row, place in np.ndindex(2, 8):
            changed = ids.clone()
            changed[row, place] = (ids[row, place] + 1) % V
            moved = (model(changed, document_ids=ROWS) - before).abs().amax(-1) > 1e-6
            allowed = torch.zeros(2, 8, dtype=torch.bool)
            allowed[row, place:] = ROWS[row, place:] == ROWS[row, place]
            assert torch.equal(moved, allowed), (row, place)
        assert ((model(ids) - before).abs().amax(-1) > 1e-4)[0, 3:7].all(), "without the mask the border is open"


def test_each_document_is_seen_as_if_it_stood_alone() -> None:
    model, ids = make(), draw(1, 8)
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 0]])
    with torch.no_grad():
        packed = model(ids, document_ids=ROWS[:1], position_ids=positions)
        for start, stop in ((0, 3), (3, 5), (5, 7)):
            torch.testing.assert_close(packed[:, start:stop], model(ids[:, start:stop]), rtol=0, atol=1e-5)
        shifted = model(ids, document_ids=ROWS[:1])
        torch.testing.assert_close(packed, shifted, rtol=0, atol=1e-5)  # rotary scores know distances alone


def test_flex_attention_gives_the_same_logits_as_the_dense_mask(monkeypatch) -> None:
    """What a GPU uses, run on the processor without compilation."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    model, ids = make(), draw(2, 8)
    with torch.no_grad():
        dense = model(ids, document_ids=ROWS)
        plain = document_mask
        made = []
        monkeypatch.setattr(module, "document_mask", lambda d, flex: made.append(plain(d, flex=True)) or made[-1])
        monkeypatch.setattr(module, "_flex", lambda: flex_attention)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not compiled
            blocks = model(ids, document_ids=ROWS)
    assert isinstance(made[0], BlockMask)
    torch.testing.assert_close(blocks, dense, rtol=0, atol=1e-5)


def test_attention_weights_stay_inside_documents() -> None:
    weights = make().attention_weights(draw(2, 8), document_ids=ROWS)
    across = (ROWS[:, :, None] != ROWS[:, None, :])[None, :, None].expand_as(weights)
    assert (weights[across] == 0).all() and torch.allclose(weights.sum(-1), torch.ones(()))


@pytest.mark.parametrize("name", ["position_ids", "document_ids"])
def test_what_does_not_fit_is_refused(name: str) -> None:
    ids = draw(2, 8)
    with pytest.raises(ValueError, match=rf"{name} has shape \(2, 7\), input_ids \(2, 8\): both must be"):
        make()(ids, **{name: ROWS[:, 1:].clamp(min=0)})
    with pytest.raises(ValueError, match=f"{name} was given with a cache"):
        make()(ids, **{name: ROWS.clamp(min=0)}, cache=KeyValueCache(2))


def packed_loader(chunking: str, **settings) -> TokenLoader:
    ids = np.random.default_rng(0).integers(0, V, 300)
    ends = np.cumsum([3, 17, 9, 40, 2, 60, 21, 5, 12, 31, 8, 25, 30, 37])
    store = TokenStore.from_token_ids(ids, vocab_size=V, document_ends=ends)
    return TokenLoader(TransformerDataset(store, seq_length=24, chunking=chunking, **settings), batch_size=64)


def test_the_loss_of_packed_rows_is_that_of_the_documents_alone() -> None:
    """Long documents are cut at the same places by both, so every target has the same prefix."""
    model = make()
    with torch.no_grad():
        losses = {
            chunking: loss_of(model, next(iter(packed_loader(chunking)))).item()
            for chunking in ("packed", "per_document")
        }
    assert losses["packed"] == pytest.approx(losses["per_document"], abs=1e-5)


def test_the_loss_masks_documents_for_models_that_can() -> None:
    model, batch = make(), next(iter(packed_loader("contiguous", mask_documents=True)))
    seen = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(sorted(kwargs)), with_kwargs=True)
    with torch.no_grad():
        apart = loss_of(model, batch)
        mixed = loss_of(model, {name: batch[name] for name in ("input_ids", "labels")})
        other = loss_of(lambda input_ids: model(input_ids), batch)
    assert seen == [["document_ids", "position_ids"], [], []]
    assert not torch.isclose(apart, mixed) and torch.equal(mixed, other)
