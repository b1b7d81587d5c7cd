"""The exercises of notebook 14: a mask with a window, heads that share keys, generation with a cache, an odd head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mt_core.generation import generate
from mt_core.lab.checks.explained import WrongError, as_list, as_number, explained, touched
from mt_core.model import MicroTransformer, ModelConfig


def window(my_window: Callable[[int, int], Any]) -> None:
    """Check `my_window(length, width)`: bool (T, T), True where place t looks at itself and the width - 1 before it."""
    with explained(my_window):
        for length, width in ((6, 3), (5, 1), (4, 9), (1, 1), (7, 2)):
            got = touched(my_window(length, width))
            case = f"length={length}, width={width}"
            if not isinstance(got, Tensor) or got.dtype != torch.bool:
                what = got.dtype if isinstance(got, Tensor) else type(got).__name__
                raise WrongError(f"{case}: you returned {what}, a tensor of truth values (torch.bool) is needed")
            if tuple(got.shape) != (length, length):
                raise WrongError(f"{case}: you returned shape {tuple(got.shape)}, ({length}, {length}) is needed")
            if width < length and torch.equal(got, torch.ones(length, length, dtype=torch.bool).tril()):
                raise WrongError(
                    f"{case}: that is the causal mask: close what lies width places back and further as well"
                )
            for t in range(length):
                _judge_place(got[t].nonzero().flatten().tolist(), t, width, case)
        print("Right: 5 windows; a place looks at itself and the width - 1 before it, at fewer where the row begins.")
        print("With width w a row opens about w · T squares, not T · T / 2, and a cache keeps w places.")


def _judge_place(open_to: list[int], t: int, width: int, case: str) -> None:
    wanted = list(range(max(0, t - width + 1), t + 1))
    if open_to == wanted:
        return
    hint = f"{case}: place {t} looks at {open_to}, {wanted} is needed"
    if any(j > t for j in open_to):
        hint += ". It sees what comes after it: keep the lower triangle"
    elif t not in open_to:
        hint += ". It must see itself: its own token is the last one it knows"
    elif open_to == list(range(max(0, t - width), t + 1)):
        hint += f". One too many: {width} places in all, itself included"
    raise WrongError(hint)


def shared_keys(my_parameters: Callable[[ModelConfig, int], Any]) -> None:
    """Check `my_parameters(config, n_kv_head)`: the model's parameters, if query heads share keys and values."""
    with explained(my_parameters):
        small = ModelConfig(vocab_size=100, n_layer=3, n_head=4, n_embd=32)
        untied = ModelConfig(vocab_size=50, n_layer=2, n_head=6, n_embd=24, tie_embeddings=False)
        large = ModelConfig(vocab_size=50257, n_layer=12, n_head=12, n_embd=768)
        for config, n_kv_head in ((small, 4), (small, 2), (small, 1), (untied, 3), (large, 4)):
            shape = f"n_layer={config.n_layer}, n_head={config.n_head}, n_embd={config.n_embd}"
            case = f"{shape}, vocab_size={config.vocab_size}, n_kv_head={n_kv_head}"
            got = as_number(my_parameters(config, n_kv_head), case, "a whole number")
            if not float(got).is_integer():
                raise WrongError(f"{case}: you returned {got!r}, a whole number is needed")
            wanted = _shared(config, n_kv_head)
            if got == wanted:
                continue
            square = config.n_layer * config.n_embd**2
            saved = config.n_parameters() - wanted
            hint = f"{case}: you returned {int(got):,}, {wanted:,} is needed"
            if got == config.n_parameters():
                hint += ". That is the count with a key and a value head for each query head"
            elif got == config.n_parameters() - saved // 2:
                hint += ". Only one of the two shrank: keys and values both have n_kv_head heads"
            elif got == config.n_parameters() - 2 * saved:
                hint += ". The query and output matrices shrank too: all n_head heads still ask"
            elif got == config.n_parameters() - 2 * square + 2 * config.n_layer * config.n_embd * n_kv_head:
                hint += ". A head is head_size = n_embd / n_head numbers wide, not one"
            elif not config.tie_embeddings:
                hint += ". With tie_embeddings=False the output matrix is a second table: it counts too"
            raise WrongError(hint)
        fewer = large.n_parameters() - _shared(large, 4)
        print(f"Right: 5 shapes. In a model like GPT-2 small, 4 key heads for 12 save {fewer:,} parameters,")
        print(f"{fewer / large.n_parameters():.0%} of all; the cache shrinks to a third, and that is why it is done.")


def _shared(config: ModelConfig, n_kv_head: int) -> int:
    lost = config.n_head - n_kv_head
    return config.n_parameters() - 2 * config.n_layer * config.n_embd * config.head_size * lost


class _Counting(MicroTransformer):
    """A model that counts the places it is given."""

    read = 0

    def forward(self, input_ids: Tensor, **named: Any) -> Tensor:
        self.read += input_ids.size(1)
        return super().forward(input_ids, **named)


def generation(my_generate: Callable[[MicroTransformer, Tensor, int], Any]) -> None:
    """Check `my_generate(model, input_ids, n)`: n likeliest tokens, each place read by the model once."""
    with explained(my_generate):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _Counting(vocab_size=50, n_layer=2, n_head=2, n_embd=16).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() == 2:
                        parameter.normal_(std=0.4)  # so that what comes next depends on every place
            prompts = [torch.randint(50, (1, length)) for length in (3, 1, 7)]
        for prompt, n in zip(prompts, (12, 20, 0), strict=True):
            case = f"{prompt.size(1)} prompt tokens, n={n}"
            wanted = generate(model, prompt, max_new_tokens=n, temperature=0)
            model.read = 0
            given = prompt.clone()
            returned = touched(my_generate(model, given, n))
            if not isinstance(returned, Tensor) or returned.shape[:-1] != (1,):
                what = tuple(returned.shape) if isinstance(returned, Tensor) else type(returned).__name__
                raise WrongError(f"{case}: you returned {what}, ids of shape (1, {wanted.size(1)}) are needed")
            _judge_ids(as_list(returned[0], case), prompt[0].tolist(), wanted[0].tolist(), case)
            _judge_read(model.read, prompt.size(1), n, case)
        print("Right: the tokens of generate(temperature=0), 32 in all, and the model read each place once.")


def _judge_ids(found: list[int], prompt: list[int], wanted: list[int], case: str) -> None:
    if found == wanted:
        return
    if found == wanted[len(prompt) :]:
        raise WrongError(f"{case}: the new tokens are right, the prompt is missing before them")
    if len(found) != len(wanted):
        raise WrongError(
            f"{case}: you returned {len(found)} ids, {len(prompt)} + {len(wanted) - len(prompt)} are needed"
        )
    if found[: len(prompt)] != prompt:
        raise WrongError(f"{case}: the prompt itself has changed: it comes first, and then the new tokens")
    at = next(i for i, (got, right) in enumerate(zip(found, wanted, strict=True)) if got != right)
    raise WrongError(
        f"{case}: new token {at - len(prompt)} is {found[at]}, {wanted[at]} is needed. With a cache each token enters "
        "the model once: the whole prompt first, then only the newest; without one, all tokens every time"
    )


def _judge_read(read: int, n_prompt: int, n: int, case: str) -> None:
    most = n_prompt + max(n - 1, 0) + 1  # the last new token may be read too, for nothing
    if n and read > most:
        raise WrongError(
            f"{case}: the tokens are right, but the model read {read} places where {n_prompt + n - 1} are enough: make "
            "one KeyValueCache, pass cache=… each time, and after the prompt only the newest token, shape (1, 1)"
        )


def odd_head(my_model: Callable[[], Any]) -> None:
    """Check `my_model()`, which is meant to fail: a width that cannot be shared by heads of even size."""
    with explained(my_model):
        try:
            model = my_model()
        except ValueError as error:
            message = str(error).splitlines()[0]
            if "heads of even size" not in message:
                raise WrongError(
                    f"it fails, with another error ({message}): give n_head=8 and an n_embd that 8 does not divide "
                    "evenly, or into an odd number"
                ) from None
        else:
            touched(model)
            raise WrongError("no error: that works. Break it: n_head=8 and n_embd=100, or n_embd=8 · 13")
        print(f"mt_core says: {message}")
        print("A head turns its numbers in pairs, so their count must be even, and all heads are of one size.")
        print(f"n_embd=96 works: 8 heads of {ModelConfig(vocab_size=50, n_head=8, n_embd=96).head_size}, 6 pairs each.")
