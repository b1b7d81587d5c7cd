"""FLOPs by hand, against PyTorch's own counter, and shares of a device's peak."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mt_core import MicroTransformer, ModelConfig
from mt_core.flops import flops_per_token, mfu, peak_flops
from mt_core.presets import preset

SMALL = {"vocab_size": 100, "n_layer": 3, "n_head": 2, "n_embd": 32}
GPT2 = ModelConfig(vocab_size=50257, **preset("124m"))


def test_gpt2_small_worked_by_hand() -> None:
    # GPT-2 itself has 124,439,808 parameters, 786,432 of them positions that are added, never multiplied:
    # 6 * 123,653,376 + 12 * 12 * 12 * 64 * 1024 = 741,920,256 + 113,246,208 = 855,166,464.
    # Ours has no biases and three feed-forward matrices of 768 x 2,048 for two of 768 x 3,072:
    by_hand = 6 * 123_551_232 + 113_246_208
    assert flops_per_token(GPT2, 1024) == by_hand == 854_553_600
    assert round(by_hand / 1e9, 3) == round(855_166_464 / 1e9, 3) == 0.855


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("seq_length", [1, 24])
def test_the_formula_is_what_a_training_step_multiplies(tied: bool, seq_length: int) -> None:
    """Exactly, but for the norms: they are in N and hold no matrix."""
    model = MicroTransformer(**SMALL, tie_embeddings=tied)
    ids = torch.randint(100, (2, seq_length), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(ids).sum().backward()
    norms = (2 * 3 + 1) * 32
    formula = flops_per_token(model.config, seq_length)
    assert counter.get_total_flops() == 2 * seq_length * (formula - 6 * norms)


def test_a_row_twice_as_long_costs_more_in_attention_alone() -> None:
    config = ModelConfig(**SMALL)
    assert flops_per_token(config, 128) - flops_per_token(config, 64) == 12 * 3 * 32 * 64


@pytest.mark.parametrize("seq_length", [0, -1])
def test_a_row_needs_a_token(seq_length: int) -> None:
    with pytest.raises(ValueError, match=f"seq_length={seq_length}, a row of at least 1"):
        flops_per_token(GPT2, seq_length)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 836),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_peaks_are_the_dense_ones(name: str, tera: float) -> None:
    assert peak_flops(name, torch.bfloat16) == peak_flops(name, torch.float16) == tera * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "",
        "cpu",
        "NVIDIA",
        "NVIDIA H20",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "AMD Instinct MI300X",
    ],
)
def test_a_device_that_is_not_listed_whole_is_unknown(name: str) -> None:
    assert peak_flops(name, torch.bfloat16) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int8])
def test_other_types_are_unknown(dtype: torch.dtype) -> None:
    assert peak_flops("NVIDIA H200", dtype) is None


def test_the_share_of_the_peak_worked_by_hand() -> None:
    peak = peak_flops("NVIDIA H200", torch.bfloat16)
    # 400,000 tokens/s at 0.8545536 GFLOP each are 341.8 TFLOP/s of 989
    assert mfu(400_000, GPT2, 1024, peak) == pytest.approx(0.3456, abs=5e-5)
    assert mfu(0, GPT2, 1024, peak) == 0
    assert mfu(400_000, GPT2, 1024, peak_flops("cpu", torch.bfloat16)) is None


@pytest.mark.parametrize(("speed", "peak"), [(-1.0, 1e12), (float("nan"), 1e12), (1.0, 0.0), (1.0, -1.0)])
def test_impossible_speeds_and_peaks_are_refused(speed: float, peak: float) -> None:
    with pytest.raises(ValueError, match=f"tokens_per_second={speed}, peak={peak}"):
        mfu(speed, GPT2, 1024, peak)
