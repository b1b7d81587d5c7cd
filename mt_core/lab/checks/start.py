"""The exercises of notebook 00: the targets of a batch, a story from a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import IGNORE


def targets(my_targets: Callable[[dict[str, Tensor]], Any]) -> None:
    """Exercise: `my_targets(batch)` counts the labels that are scored. Prints what was found; never raises."""
    batch = {
        "input_ids": torch.tensor([[1, 17, 18, 19], [1, 20, 0, 0], [21, 22, 23, 24]]),
        "labels": torch.tensor([[17, 18, 19, 2], [20, 2, IGNORE, IGNORE], [IGNORE, 23, 0, 25]]),
    }
    got, problem = _call(my_targets, batch)
    if problem:
        print(problem)
        return
    if isinstance(got, Tensor) and got.numel() == 1:
        got = got.item()
    mistakes: dict[float, str] = {
        12: "every label was counted, also the -100 that mark places without a target",
        3: "that is the number of rows, or of places to leave out; the labels to count are those that are not -100",
        8: "you left out one target too many: id 0 is a token like any other where the label says so; only -100 is not",
        10: "you counted places of input_ids that are not 0; what is scored stands in labels",
    }
    if isinstance(got, bool) or not isinstance(got, int | float):
        print(f"Not yet. One number is needed, your function returned {type(got).__name__}. Sum over both dimensions.")
    elif got == 9:
        print("Right: 9 targets in 3 rows of 4. Checked with padding, a masked first place, and a target of id 0.")
    else:
        why = mistakes.get(got, "count the places of labels that are not -100")
        print(f"Not yet. Three rows of 4 places hold 9 targets, your function says {got}: {why}.")


def story(my_story: Callable[[str], Any], model: nn.Module, tokenizer: MicroTransformerTokenizer) -> None:
    """Exercise: `my_story(prompt)` lets the model go on from a prompt. Prints what was found; never raises."""
    prompt = "Long ago, a tall fox"
    read: list[list[int]] = []

    def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not read and inputs and isinstance(inputs[0], Tensor):
            read.append(inputs[0].flatten().tolist())

    hook = model.register_forward_pre_hook(note)
    try:
        got, problem = _call(my_story, prompt)
    finally:
        hook.remove()
    wanted = tokenizer.encode(prompt)["input_ids"][:-1]
    if problem:
        print(problem)
    elif not isinstance(got, str):
        print(f"Not yet. A text is needed, your function returned {type(got).__name__}. Decode the ids.")
    elif not read:
        print("Not yet. The model was never asked. Call generate(model, ...) with the ids of the prompt.")
    elif read[0][-1] == tokenizer.sep_token_id:
        print("Not yet. The ids the model read end with [SEP], which says that the story is over. Leave that one out.")
    elif read[0][0] != tokenizer.cls_token_id:
        print("Not yet. The ids the model read do not begin with [CLS], as every story in training did. Keep it.")
    elif read[0] != wanted:
        print(f"Not yet. The model read {tokenizer.decode(read[0])!r}, the prompt was {prompt!r}.")
    elif not got.startswith(prompt) or len(got) <= len(prompt):
        print(f"Not yet. The story should begin with {prompt!r} and go on; yours begins {got[:30]!r}.")
    else:
        print(f"Right: the model read [CLS] and the {len(wanted) - 1} tokens of {prompt!r}, and went on from there.")


def _call(function: Callable[..., Any], argument: Any) -> tuple[Any, str]:
    """What a reader's function returns, and what to say if there is nothing to judge."""
    name = getattr(function, "__name__", "your function")
    try:
        got = function(argument)
    except Exception as error:  # whatever a reader's code may raise
        return None, f"Not yet. {name} stopped with {type(error).__name__}: {error}"
    untouched = f"{name} returns nothing yet: replace the ... by your own lines and run both cells again."
    return got, untouched if got is None or got is ... else ""
