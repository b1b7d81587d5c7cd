"""Batch to logits: a small decoder-only transformer. Does not shift labels, compute losses or train.

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
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}, a whole number of at least 1 is needed")
        if self.n_embd % (2 * self.n_head):
            step = 2 * self.n_head
            raise ValueError(
                f"n_embd={self.n_embd} cannot be shared by n_head={self.n_head} heads of even size: "
                f"use a multiple of {step}, such as {max(step, self.n_embd // step * step)}"
            )
        if not self.rope_theta > 0 or not self.norm_eps >= 0:
            raise ValueError(
                f"rope_theta={self.rope_theta}, norm_eps={self.norm_eps}: "
                "the first must be above 0, the second at least 0"
            )
        if self.n_inner is None:
            object.__setattr__(self, "n_inner", -(-self.n_embd * 8 // 3 // 32) * 32)

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head


class KeyValueCache:
    """Keys and values of the tokens seen so far, a pair (B, H, T, D) for each layer, so that none is computed twice."""

    def __init__(self, n_layer: int) -> None:
        self._pairs: list[tuple[Tensor, Tensor] | None] = [None] * n_layer

    def __len__(self) -> int:
        """T, how many tokens are held."""
        return 0 if self._pairs[0] is None else self._pairs[0][0].size(2)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, new, D) to one layer; returns all keys and values of it."""
        held = self._pairs[layer]
        if held is not None:
            key, value = torch.cat((held[0], key), dim=2), torch.cat((held[1], value), dim=2)
        self._pairs[layer] = (key, value)
        return key, value


class Attention(nn.Module):
    """Causal self-attention with rotary positions (Su et al. 2021, arXiv:2104.09864)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.n_head, self.head_size = config.n_head, config.head_size
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def heads(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of x (B, T, C), each (B, H, T, D), the first two rotated by position."""
        shape = (*x.shape[:2], self.n_head, self.head_size)
        query, key, value = (
            proj(x).view(shape).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, H, T, D)
        return rotate(query, rotation), rotate(key, rotation), value

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


@lru_cache(maxsize=1)
def _flex() -> Any:
    """FlexAttention (Dong et al. 2024, arXiv:2412.05496), compiled once: uncompiled it is slower than a dense mask."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) of x (B, H, T, D) by its position's angle: the pairing of Llama's export."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


@torch.no_grad()
def generate(
    model: MicroTransformer,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_token_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue input_ids, int64 (B, T), token by token: int64 (B, T + new), new at most max_new_tokens.

    Args:
        temperature: 0 takes the likeliest token; above 1 is bolder, below 1 safer.
        top_k: draw among the k likeliest tokens alone.
        top_p: draw among the fewest likeliest tokens that hold this probability (arXiv:1904.09751).
        stop_token_id: a sequence that has drawn it repeats it; when all have, generation ends.
        generator: source of the draws, on the model's device.

    Raises:
        ValueError: a setting out of range, or an empty prompt.
    """
    if input_ids.dim() != 2 or input_ids.size(1) == 0:
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}, (B, T) with T of at least 1 is needed")
    in_range = temperature >= 0 and (top_k is None or top_k >= 1) and (top_p is None or 0 < top_p <= 1)
    if not in_range or max_new_tokens < 0:  # not a number is out of range too
        raise ValueError(
            f"temperature={temperature}, top_k={top_k}, top_p={top_p}, max_new_tokens={max_new_tokens}: needed are "
            "temperature >= 0, top_k >= 1, 0 < top_p <= 1 and max_new_tokens >= 0"
        )
    was_training = model.training
    model.eval()
    cache = KeyValueCache(model.config.n_layer)
    new = input_ids
    ended = torch.zeros(input_ids.size(0), dtype=torch.bool, device=input_ids.device)
    try:
        for _ in range(max_new_tokens):
            logits = model(new, cache=cache)[:, -1]  # (B, V)
            new = _draw(logits, temperature, top_k, top_p, generator)
            if stop_token_id is not None:
                new[ended] = stop_token_id
                ended |= new[:, 0] == stop_token_id
            input_ids = torch.cat((input_ids, new), dim=1)
            if ended.all():
                break
    finally:
        model.train(was_training)
    return input_ids


def _draw(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> Tensor:
    """One token id for each row of logits (B, V): int64 (B, 1)."""
    if temperature < 1e-30:  # smaller divisors are no numbers any more in float32
        return logits.argmax(-1, keepdim=True)
    logits = logits.float()
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # at most 0: never infinity minus infinity
    if top_k is not None:
        smallest = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p is not None and top_p < 1:
        probabilities, order = logits.softmax(-1).sort(-1, descending=True)
        beyond = probabilities.cumsum(-1) - probabilities >= top_p  # what stands before a token fills top_p already
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)
