"""The exercises of notebook 00: the targets of a batch, a story from a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mt_core.lab.checks.explained import WrongError, as_number, explained, touched
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import IGNORE


def targets(my_targets: Callable[[dict[str, Tensor]], Any]) -> None:
    """Exercise: `my_targets(batch)` counts the labels that are scored. Prints what was found; never raises."""
    batch = {
        "input_ids": torch.tensor([[1, 17, 18, 19], [1, 20, 0, 0], [21, 22, 23, 24]]),
        "labels": torch.tensor([[17, 18, 19, 2], [20, 2, IGNORE, IGNORE], [IGNORE, 23, 0, 25]]),
    }
    mistakes: dict[float, str] = {
        12: "every label was counted, also the -100 that mark places without a target",
        3: "that is the number of rows, or of places to leave out; the labels to count are those that are not -100",
        8: "you left out one target too many: id 0 is a token like any other where the label says so; only -100 is not",
        10: "you counted places of input_ids that are not 0; what is scored stands in labels",
    }
    with explained(my_targets):
        got = as_number(my_targets(batch), "Three rows of 4 places", "one number, a sum over both dimensions,")
        if got != 9:
            why = mistakes.get(got, "count the places of labels that are not -100")
            raise WrongError(f"Three rows of 4 places hold 9 targets, your function says {got}: {why}")
        print("Right: 9 targets in 3 rows of 4. Checked with padding, a masked first place, and a target of id 0.")


def story(my_story: Callable[[str], Any], model: nn.Module, tokenizer: MicroTransformerTokenizer) -> None:
    """Exercise: `my_story(prompt)` lets the model go on from a prompt. Prints what was found; never raises."""
    prompt = "Long ago, a tall fox"
    read: list[list[int]] = []

    def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not read and inputs and isinstance(inputs[0], Tensor):
            read.append(inputs[0].flatten().tolist())

    with explained(my_story):
        hook = model.register_forward_pre_hook(note)
        try:
            got = touched(my_story(prompt))
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            hint = (
                "generate returns a batch, (1, T): decode its row 0, as in tokenizer.decode(ids[0])"
                if read
                else "The model reads a tensor (1, T), torch.tensor([ids]), where ids is a list of whole numbers: "
                'encode returns a dictionary, and the list is its ["input_ids"]'
            )
            name = getattr(my_story, "__name__", "your function")
            raise WrongError(f"{name} stopped with {type(error).__name__}: {error}. {hint}") from None
        finally:
            hook.remove()
        wanted = tokenizer.encode(prompt)["input_ids"][:-1]
        if not isinstance(got, str):
            raise WrongError(f"A text is needed, your function returned {type(got).__name__}. Decode the ids")
        if not read:
            raise WrongError("The model was never asked. Call generate(model, ...) with the ids of the prompt")
        if read[0][-1] == tokenizer.sep_token_id:
            raise WrongError(
                "The ids the model read end with [SEP], which says that the story is over. Leave that one out"
            )
        if read[0][0] != tokenizer.cls_token_id:
            raise WrongError("The ids the model read do not begin with [CLS], as every story in training did. Keep it")
        if read[0] != wanted:
            raise WrongError(f"The model read {tokenizer.decode(read[0])!r}, the prompt was {prompt!r}")
        if not got.startswith(prompt) or len(got) <= len(prompt):
            raise WrongError(f"The story should begin with {prompt!r} and go on; yours begins {got[:30]!r}")
        print(f"Right: the model read [CLS] and the {len(wanted) - 1} tokens of {prompt!r}, and went on from there.")
