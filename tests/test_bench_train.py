"""The character model that training is compared with: its recipe is the published one, its bits are counted rightly."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import char_gpt


def test_its_size_and_schedule_are_those_of_the_published_recipe() -> None:
    model = char_gpt.CharGPT(65)
    without_places = sum(p.numel() for p in model.parameters()) - model.places.weight.numel()
    assert without_places == 795_904  # "number of parameters: 0.80M", as nanoGPT prints it
    assert char_gpt.rate_at(0) == pytest.approx(1e-3 / 101) and char_gpt.rate_at(100) == pytest.approx(1e-3)
    assert char_gpt.rate_at(1050) == pytest.approx((1e-3 + 1e-4) / 2) and char_gpt.rate_at(2000) == pytest.approx(1e-4)


@pytest.mark.parametrize("n", [2, 64, 65, 66, 200, 64 * 256 + 5])
def test_bits_are_counted_over_every_character_but_the_first(n: int) -> None:
    """A model that knows nothing pays log2(V) for each; one that is sure of what comes next pays nothing."""
    model = char_gpt.CharGPT(8)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    ids = torch.arange(n) % 8
    assert char_gpt.bits_per_character(model, ids) == pytest.approx(3, abs=1e-5)
    sure = char_gpt.CharGPT(8)
    sure.forward = lambda rows: 100.0 * torch.nn.functional.one_hot((rows + 1) % 8, 8)  # type: ignore[method-assign]
    assert char_gpt.bits_per_character(sure, ids) == pytest.approx(0, abs=1e-6)


def test_rows_and_their_next_characters() -> None:
    inputs, labels = char_gpt.draw_batch(torch.arange(500), torch.Generator().manual_seed(0))
    assert inputs.shape == labels.shape == (12, 64) and torch.equal(labels, inputs + 1)


def test_no_character_sees_the_future_and_a_step_learns() -> None:
    torch.manual_seed(0)
    model, ids = char_gpt.CharGPT(8), torch.arange(300) % 8
    row = ids[None, :20].clone()
    changed = row.clone()
    changed[0, 10] = 7 - changed[0, 10]
    with torch.no_grad():
        moved = (model(row) - model(changed)).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [False] * 10 + [True] * 10
    before = char_gpt.bits_per_character(model, ids)
    optimizer = char_gpt.create_optimizer(model)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        char_gpt.train_step(model, optimizer, char_gpt.draw_batch(ids, generator), 100)
    assert char_gpt.bits_per_character(model, ids) < before / 2 < math.log2(8)
