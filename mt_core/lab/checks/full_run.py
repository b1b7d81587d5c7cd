"""The exercises of notebook 15: a plan for little text, honest throughput, functions that parse, a refused resume."""

from __future__ import annotations

import ast
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mt_core import MicroTransformer, TokenLoader, TokenStore, TrainConfig, TransformerDataset, fit
from mt_core.lab.checks.explained import WrongError, as_items, as_number, explained, touched
from mt_core.lab.generated_code import whole_functions

_PLANS = [(6e15, 10**9), (1.2e14, 10**7), (6e15, 10**6), (2.4e17, 5 * 10**7), (1.2e16, 10**12)]  # FLOP, tokens there


def plan(my_plan: Callable[[float, int], Any]) -> None:
    """Check `my_plan(flops, corpus_tokens)` -> (parameters, tokens), where a corpus serves at most four times."""
    with explained(my_plan):
        for flops, there in _PLANS:
            case = f"{flops:.1e} FLOP, a corpus of {there:,} tokens"
            found = as_items(my_plan(flops, there))
            if not isinstance(found, list) or len(found) != 2 or not all(isinstance(x, int | float) for x in found):
                raise WrongError(f"{case}: two numbers are needed, parameters and tokens; you returned {found!r}")
            parameters, tokens = found
            if not parameters > 0 or not tokens > 0:
                raise WrongError(f"{case}: {parameters:.3g} parameters and {tokens:.3g} tokens, both must be above 0")
            if tokens > 4 * there * 1.01:
                raise WrongError(f"{case}: {tokens:,.0f} tokens are {tokens / there:.1f} epochs; at most 4 are allowed")
            if not math.isclose(6 * parameters * tokens, flops, rel_tol=0.01):
                raise WrongError(
                    f"{case}: your plan costs {6 * parameters * tokens:.1e} FLOP: 6 × parameters × tokens must use "
                    "the budget. What is not spent on tokens can go into parameters"
                )
            best = min(math.sqrt(flops / 120) * 20, 4 * there)
            if not math.isclose(tokens, best, rel_tol=0.01):
                raise WrongError(
                    f"{case}: you take {tokens:,.0f} tokens, {best:,.0f} are due: "
                    + ("20 a parameter, for there is text enough" if best < 4 * there else "four epochs, all there is")
                )
        print(f"Right: {len(_PLANS)} budgets; where text runs out, the model grows instead.")


_SPEEDS = [  # tokens so far and seconds so far, after each step
    ([100, 200, 300, 400], [30.0, 31.0, 32.0, 34.0]),  # uneven, so that beginning a step early or late is seen
    ([100, 200, 300, 400, 500, 600], [5.0, 6.0, 7.0, 9.0, 11.0, 13.0]),
    ([10, 20], [8.0, 9.0]),
    ([50, 100, 150, 200], [1.0, 2.0, 3.0, 4.0]),
    ([7] + [7 + 10 * n for n in range(1, 10)], [60.0 + n for n in range(10)]),
]


def speed(my_speed: Callable[[Sequence[int], Sequence[float]], Any]) -> None:
    """Check `my_speed(tokens, seconds)` -> tokens a second over the second half of the steps."""
    with explained(my_speed):
        for tokens, seconds in _SPEEDS:
            case = f"tokens={tokens}, seconds={seconds}"
            found = as_number(my_speed(list(tokens), list(seconds)), case)
            middle = len(tokens) // 2 - 1
            right = (tokens[-1] - tokens[middle]) / (seconds[-1] - seconds[middle])
            if math.isclose(found, right, rel_tol=1e-6):
                continue
            if math.isclose(found, tokens[-1] / seconds[-1], rel_tol=1e-6):
                raise WrongError(f"{case}: {found:.2f} is the mean of the whole run, the first step included")
            first = (tokens[-1] - tokens[middle + 1]) / ((seconds[-1] - seconds[middle + 1]) or 1)
            if math.isclose(found, first, rel_tol=1e-6):
                raise WrongError(
                    f"{case}: you begin one step late. A step's tokens come between the counts before and after it: "
                    f"take differences from the last count of the first half, at index {middle}"
                )
            raise WrongError(f"{case}: {right:.2f} tokens a second are due, you say {found:.2f}")
        print(f"Right: {len(_SPEEDS)} runs, what is done once left out.")


_TEXTS = [  # a text, and whether its writer ended it
    ("def f(x):\n    return x\n\n\nprint(f(1))\n", True),
    ("def f(x):\n    return x\n\n\ndef g(x)\n    return x\n", True),
    ("def f(x):\n    return x\n\n\ndef g(x):\n    return (x +", False),
    ("x = 1\ndef f():\n\n    return 1\nx = 2\ndef g(:\n    pass\n", True),
    ("import os\n", True),
    ("class A:\n    def method(self):\n        pass\n\n\ndef f():\n    pass\n\n\nA()\n", False),
    ("define = 1\n    def inner(): pass\n", True),
    ("", False),
]


def functions(my_count: Callable[[str, bool], Any]) -> None:
    """Check `my_count(text, ended)` -> (whole functions, those that parse)."""
    with explained(my_count):
        for text, ended in _TEXTS:
            case = f"text {text!r}, ended={ended}"
            found = as_items(my_count(text, ended))
            if not isinstance(found, list) or len(found) != 2:
                raise WrongError(f"{case}: two numbers are needed, you returned {found!r}")
            whole = whole_functions(text, ended=ended)
            if found[0] != len(whole):
                reason = "" if ended else ". The text was cut: what stands last may lack its end"
                raise WrongError(f"{case}: {len(whole)} whole functions are there, you count {found[0]}{reason}")
            good = sum(map(_parses, whole))
            if found[1] != good:
                raise WrongError(f"{case}: {good} of {len(whole)} parse, you say {found[1]}: ast.parse each by itself")
        print(f"Right: {len(_TEXTS)} texts, cut ones and broken ones among them. None of them was run.")


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def refused(my_change: Callable[[TrainConfig], Any]) -> None:
    """Check `my_change(config)`, whose settings a checkpoint should refuse. Explains the error."""
    with explained(my_change):
        config = TrainConfig(max_steps=4, checkpoint_every=2, warmup_steps=1)
        changed = touched(my_change(config))
        if not isinstance(changed, TrainConfig):
            raise WrongError(f"a TrainConfig is needed, you returned {changed!r}: dataclasses.replace makes one")
        with tempfile.TemporaryDirectory(prefix="mt-", ignore_cleanup_errors=True) as folder:
            _run(Path(folder), config)
            try:
                _run(Path(folder), changed)
            except ValueError as error:
                message = str(error)
            else:
                raise WrongError(
                    "no error: the run went on. What may change from one part of a run to the next is where and how "
                    "it is computed (compile, parallel); change something that decides what is learned"
                )
        if "was made with" not in message:
            raise WrongError(f"an error, but of another kind: {message}")
        print(f"mt_core says: … {message[message.index('was made with') :]}.")
        print(
            "A checkpoint holds weights and moments of one recipe. Under another the run would go on, and be neither."
        )


def _run(folder: Path, config: TrainConfig) -> None:
    store = TokenStore.from_token_ids([n % 16 for n in range(257)], vocab_size=16)
    loader = TokenLoader(TransformerDataset(store, seq_length=8), batch_size=4, shuffle=True)
    torch_state = torch.get_rng_state()
    model = MicroTransformer(vocab_size=16, n_layer=1, n_head=1, n_embd=8)
    torch.set_rng_state(torch_state)  # a check leaves the notebook's random numbers alone
    fit(model, loader, config=config, run_dir=folder, progress=False)
