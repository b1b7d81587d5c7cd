"""Shapes of models that have a name. Does not build models."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# A name says about how many parameters there are, with a vocabulary that suits the size: see the right.
PRESETS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "1m": MappingProxyType({"n_layer": 4, "n_head": 4, "n_embd": 128}),  # 1.07M with 2,048: minutes on a CPU
        "5m": MappingProxyType({"n_layer": 5, "n_head": 4, "n_embd": 256}),  # 5.07M with 4,096
        "20m": MappingProxyType({"n_layer": 8, "n_head": 6, "n_embd": 384}),  # 20.5M with 16,384: a GPU helps
        "124m": MappingProxyType({"n_layer": 12, "n_head": 12, "n_embd": 768}),  # 123.6M with 50,257, as GPT-2 small
    }
)


def preset(name: str) -> Mapping[str, int]:
    """The settings of that name, to be used as `ModelConfig(vocab_size=..., **preset(name))`.

    >>> dict(preset("1m"))
    {'n_layer': 4, 'n_head': 4, 'n_embd': 128}

    Raises:
        ValueError: no preset has that name.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"preset {name!r} is not known: use one of {', '.join(PRESETS)}")
    return PRESETS[name]
