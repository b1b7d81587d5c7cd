"""Logits to text: the key-value cache, and drawing token after token. Does not hold weights or read text.

Shapes: B batch, T time, V vocabulary, H heads, D head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mt_core.model import MicroTransformer


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
        TypeError: input_ids is no tensor.
        ValueError: a setting out of range, or an empty prompt.
    """
    if not isinstance(input_ids, Tensor):
        raise TypeError(
            f"input_ids is {type(input_ids).__name__}, a tensor of ids (B, T) is needed, for one text "
            'torch.tensor([tokenizer.encode(text)["input_ids"][:-1]])'
        )
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
