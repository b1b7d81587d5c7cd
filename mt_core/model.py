"""Batch to logits: a small decoder-only transformer. Does not shift labels, compute losses, train or draw text.

The architecture is that of Llama (Touvron et al. 2023, arXiv:2302.13971): RMSNorm before each block, rotary
positions, SwiGLU, no biases. Weights carry the names and shapes of `transformers`' Llama.

Shapes: B batch, T time, V vocabulary, H heads, D head size, C = H * D = n_embd.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt_core.arguments import check_count, check_flag, check_number
from mt_core.generation import KeyValueCache
from mt_core.generation import generate as generate  # also a name of this module
from mt_core.presets import preset


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a `MicroTransformer`. Checked when made.

    Args:
        vocab_size: V, as `tokenizer.get_vocab_size()`.
        n_layer: blocks.
        n_head: H, attention heads.
        n_embd: C, width; a multiple of 2 * n_head.
        n_inner: width inside the feed-forward layers; by default 8/3 of n_embd, rounded up to a multiple of 32,
            which gives SwiGLU's three matrices the size of the usual two (Shazeer 2020, arXiv:2002.05202).
        rope_theta: base of the rotary frequencies.
        norm_eps: added under the root of RMSNorm.
        tie_embeddings: use the embedding matrix as the output matrix too.
    """

    vocab_size: int
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    n_inner: int | None = None
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_layer", "n_head", "n_embd", "n_inner"):
            value = getattr(self, name)
            if name == "n_inner" and value is None:
                continue
            check_count(name, value)
        if self.n_embd % (2 * self.n_head):
            step = 2 * self.n_head
            raise ValueError(
                f"n_embd={self.n_embd} cannot be shared by n_head={self.n_head} heads of even size: "
                f"use a multiple of {step}, such as {max(step, self.n_embd // step * step)}"
            )
        check_number("rope_theta", self.rope_theta, lambda theta: 0 < theta < math.inf, "a number above 0")
        check_number("norm_eps", self.norm_eps, lambda eps: 0 <= eps < math.inf, "a number from 0")
        check_flag("tie_embeddings", self.tie_embeddings)
        if self.n_inner is None:
            object.__setattr__(self, "n_inner", -(-self.n_embd * 8 // 3 // 32) * 32)

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head

    def n_parameters(self) -> int:
        """What a model of this shape has to learn, by arithmetic; tied embeddings count once."""
        assert self.n_inner is not None
        width = self.n_embd
        block = 4 * width * width + 3 * width * self.n_inner + 2 * width  # attention, feed-forward, two norms
        embeddings = self.vocab_size * width * (1 if self.tie_embeddings else 2)
        return embeddings + self.n_layer * block + width  # and the last norm


class Attention(nn.Module):
    """Causal self-attention with rotary positions (Su et al. 2021, arXiv:2104.09864)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.n_head, self.head_size = config.n_head, config.head_size
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def heads(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of x (B, T, C), each (B, H, T, D), the first two rotated by position; all of one type.

        Under autocast the rotation, in float32, would widen the first two, and not every version of FlexAttention
        narrows them again, as `scaled_dot_product_attention` does.
        """
        shape = (*x.shape[:2], -1, self.head_size)
        query, key, value = (
            proj(x).view(shape).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, H, T, D)
        return rotate(query, rotation).type_as(value), rotate(key, rotation).type_as(value), value

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Any = None,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        query, key, value = self.heads(x, rotation)
        if mask is not None and not isinstance(mask, Tensor):
            return self._joined(_flex()(query, key, value, block_mask=mask))
        causal = mask is None and x.size(1) > 1
        if cache is not None:
            held = len(cache) if layer == 0 else len(cache) - x.size(1)
            key, value = cache.extend(layer, key, value)
            if causal and held:  # several new tokens after old ones: the square mask would not fit
                mask = torch.ones(x.size(1), key.size(2), dtype=torch.bool, device=x.device).tril(held)
                causal = False
        return self._joined(F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal))

    def _joined(self, y: Tensor) -> Tensor:
        """The heads' answers (B, H, T, D) side by side, and through the last matrix: (B, T, C)."""
        return self.o_proj(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_inner is not None
        self.gate_proj = nn.Linear(config.n_embd, config.n_inner, bias=False)
        self.up_proj = nn.Linear(config.n_embd, config.n_inner, bias=False)
        self.down_proj = nn.Linear(config.n_inner, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Any = None,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask, cache, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


class MicroTransformer(nn.Module):
    """A decoder-only transformer: `model(input_ids)` -> logits float (B, T, V), always.

    `logits[:, t]` scores the token after `input_ids[:, t]`. Settings beyond `vocab_size` are those of `ModelConfig`.

    >>> model = MicroTransformer(vocab_size=300, n_layer=2)
    >>> model(torch.zeros(3, 5, dtype=torch.int64)).shape
    torch.Size([3, 5, 300])
    """

    def __init__(self, vocab_size: int, **settings: Any) -> None:
        super().__init__()
        self.config = config = ModelConfig(vocab_size=vocab_size, **settings)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:  # GPT-2's rule: residual branches start smaller the more of them are added up
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    @classmethod
    def preset(cls, name: str, *, vocab_size: int, **changes: Any) -> MicroTransformer:
        """A new model of the shape named in `mt_core.presets`, with settings changed where asked.

        >>> MicroTransformer.preset("1m", vocab_size=2048).n_parameters()
        1066112
        """
        return cls(vocab_size=vocab_size, **{**preset(name), **changes})

    def forward(
        self,
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of input_ids, int64 (B, T). With a cache they follow the tokens it holds.

        Args:
            position_ids: int64 (B, T), where each token stands; None counts from 0 in each row.
            document_ids: int64 (B, T); a token looks at tokens of its own document alone. None: a row is one document.

        Raises:
            ValueError: input_ids is not a whole-number tensor of two dimensions, the others have another shape, or come
                with a cache.
        """
        if input_ids.dim() != 2 or input_ids.is_floating_point():
            raise ValueError(
                f"input_ids has shape {tuple(input_ids.shape)} and type {input_ids.dtype}, "
                "int64 (B, T) is needed: add a batch dimension with input_ids[None], or pass batch['input_ids']"
            )
        for name, given in (("position_ids", position_ids), ("document_ids", document_ids)):
            if given is not None and given.shape != input_ids.shape:
                shapes = f"{tuple(given.shape)}, input_ids {tuple(input_ids.shape)}"
                raise ValueError(f"{name} has shape {shapes}: both must be (B, T)")
            if given is not None and cache is not None:
                raise ValueError(f"{name} was given with a cache, which holds one document: leave one of them out")
        x = self.embed_tokens(input_ids)  # (B, T, C)
        if position_ids is None:
            start = len(cache) if cache else 0
            position_ids = torch.arange(start, start + input_ids.size(1), device=x.device)
        rotation = self._rotation(position_ids, x)
        mask = document_mask(document_ids, flex=x.is_cuda and self.config.head_size >= 16)
        for layer, block in enumerate(self.layers):
            x = block(x, rotation, mask, cache, layer)
        return self.lm_head(self.norm(x))

    def _rotation(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines for positions (T,) or (B, T): (T, D), or (B, 1, T, D) to go with every head."""
        size = self.config.head_size
        exponent = torch.arange(0, size, 2, device=like.device, dtype=torch.float32) / size
        angles = positions.float()[..., None] * self.config.rope_theta**-exponent
        angles = torch.cat((angles, angles), dim=-1)
        if positions.dim() == 2:
            angles = angles[:, None]
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)

    @torch.no_grad()
    def attention_weights(self, input_ids: Tensor, *, document_ids: Tensor | None = None) -> Tensor:
        """How much each position looks at each earlier one: float (n_layer, B, H, T, T), rows sum to 1."""
        x, weights = self.embed_tokens(input_ids), []
        positions = torch.arange(input_ids.size(1), device=x.device)
        rotation, mask = self._rotation(positions, x), document_mask(document_ids)
        open_to = mask
        if mask is None:
            open_to = torch.ones(2 * input_ids.shape[1:], dtype=torch.bool, device=x.device).tril()
        for block in self.layers:
            query, key, _ = block.self_attn.heads(block.input_layernorm(x), rotation)  # type: ignore[union-attr, operator]
            scores = query @ key.transpose(2, 3) / math.sqrt(self.config.head_size)
            weights.append(scores.masked_fill(~open_to, -torch.inf).softmax(-1))
            x = block(x, rotation, mask)
        return torch.stack(weights)

    def n_parameters(self) -> int:
        """Numbers that training changes; tied embeddings count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def settings(self) -> dict[str, Any]:
        """`MicroTransformer(**settings)` makes a model of this shape."""
        return asdict(self.config)


def document_mask(document_ids: Tensor | None, *, flex: bool = False) -> Any:
    """Which token may look at which, within its document and not ahead; None where the plain causal mask says it all.

    Args:
        document_ids: int64 (B, T); -1 marks padding, which stands at the end of a row.
        flex: make FlexAttention's block mask, which skips closed blocks, instead of bool (B, 1, T, T).
    """
    if document_ids is None:
        return None
    if flex:
        from torch.nn.attention.flex_attention import create_block_mask

        def visible(b: Tensor, h: Tensor, t: Tensor, j: Tensor) -> Tensor:
            return (t >= j) & (document_ids[b, t] == document_ids[b, j])

        n_rows, length = document_ids.shape
        return create_block_mask(visible, n_rows, None, length, length, device=document_ids.device)
    if not document_ids.is_cuda:  # a look is cheap where it makes no device wait
        changes = document_ids[:, 1:] != document_ids[:, :-1]
        if not (changes & (document_ids[:, 1:] >= 0)).any():
            return None  # one document in a row; what comes after it is padding, and nothing looks ahead
    same = document_ids[:, :, None] == document_ids[:, None, :]
    return same.tril()[:, None]


def _flex() -> Any:
    """FlexAttention (Dong et al. 2024, arXiv:2412.05496), compiled: alone, or with the model where that is compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if torch.compiler.is_compiling() else _compiled(flex_attention)


@lru_cache(maxsize=1)
def _compiled(function: Any) -> Any:
    """Compiled once: uncompiled, FlexAttention is slower than a dense mask."""
    return torch.compile(function)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) of x (B, H, T, D) by its position's angle: the pairing of Llama's export."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
