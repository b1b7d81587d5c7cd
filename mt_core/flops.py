"""How much arithmetic training takes, and which share of a device's peak is reached. Does not measure time.

The count is that of PaLM (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): a multiplication and an addition
are two FLOPs, and a token costs 6 N + 12 L H Q T in forward and backward pass together.

- 6 N: each of N weights is multiplied once forward and twice backward. N is every parameter, norms included, but
  the embedding table once: as the output matrix. Looking a token up multiplies nothing, so an input table of its own
  (untied) is left out.
- 12 L H Q T: the scores and the weighted sums of attention, for L layers, H heads of size Q and rows of T tokens. All T
  positions are counted, also those ahead that the causal mask closes: implementations that skip them gain in MFU.

Softmax, activations, the optimizer and anything computed again to save memory are not counted.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mt_core.model import ModelConfig

# Peak FLOP/s of one device at bfloat16 and float16 with float32 accumulation, dense: the makers print twice as much,
# for matrices that are half zeros. Names are those of `torch.cuda.get_device_name`, whole: a laptop chip or a
# slice of a card shares the first words of a faster one.
_PEAK_16_BIT: dict[str, float] = {
    # NVIDIA B200 (HGX, 1,000 W): Blackwell architecture technical brief
    "NVIDIA B200": 2250e12,
    # NVIDIA H200 data sheet: SXM 1,979 with sparsity, NVL 1,671
    "NVIDIA H200": 989e12,
    "NVIDIA H200 NVL": 836e12,
    # NVIDIA H100 data sheet: SXM 1,979 with sparsity, NVL 1,671, PCIe 1,513
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 NVL": 836e12,
    "NVIDIA H100 PCIe": 756e12,
    # NVIDIA A100 data sheet: the same for every form
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    # NVIDIA L4, L40S and A10 data sheets: 242, 733 and 250 with sparsity
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA A10": 125e12,
    # NVIDIA's white papers on the RTX Blackwell, Ada and GA102 architectures
    "NVIDIA GeForce RTX 5090": 209.5e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
    "NVIDIA GeForce RTX 3090": 71e12,
}


def flops_per_token(config: ModelConfig, seq_length: int) -> int:
    """FLOPs of training on one token, forward and backward: 6 N + 12 L H Q T, counted as this module says.

    >>> from mt_core.presets import preset
    >>> flops_per_token(ModelConfig(vocab_size=50257, **preset("124m")), seq_length=1024) / 1e9  # doctest: +ELLIPSIS
    0.8545...

    Args:
        seq_length: T, tokens in a row. Rows of several documents kept apart are counted as if they were one.

    Raises:
        ValueError: seq_length is below 1.
    """
    if seq_length < 1:
        raise ValueError(f"seq_length={seq_length}, a row of at least 1 token is needed")
    n = replace(config, tie_embeddings=True).n_parameters()
    return 6 * n + 12 * config.n_layer * config.n_head * config.head_size * seq_length


def peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """The most FLOP/s a device can reach, by its maker's figures; None where they are not known here.

    >>> peak_flops("NVIDIA H200", torch.bfloat16)
    989000000000000.0

    Args:
        device_name: as `torch.cuda.get_device_name()` says it.
        dtype: what matrices are multiplied in. For float32 the answer is None: the peak depends on whether
            PyTorch may round to TF32.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return None
    return _PEAK_16_BIT.get(device_name)


def mfu(tokens_per_second: float, config: ModelConfig, seq_length: int, peak: float | None) -> float | None:
    """Model FLOPs utilisation: the share of the peak that training at this speed reaches; None if peak is None.

    Args:
        tokens_per_second: trained on one device; with several, the total over their number.
        seq_length: T, tokens in a row.
        peak: FLOP/s of one device, as `peak_flops` gives it.

    Raises:
        ValueError: a speed below 0 or a peak that is not above 0.
    """
    if peak is None:
        return None
    if not tokens_per_second >= 0 or not peak > 0:
        raise ValueError(
            f"tokens_per_second={tokens_per_second}, peak={peak}: the first must be at least 0, the second above 0; "
            "pass peak=None if it is unknown"
        )
    return tokens_per_second * flops_per_token(config, seq_length) / peak
