"""The exercises of notebook 04: means over batches, a large batch in pieces, stacking and padding rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from mt_core.dataset import Batch, TransformerDataset
from mt_core.lab.checks.explained import UntouchedError, WrongError, as_number, explained, touched
from mt_core.model import MicroTransformer
from mt_core.store import TokenStore
from mt_core.training import loss_of
from mt_core.windows import IGNORE

_STORIES = ((5, 9, 3), (8, 2, 7, 4, 6, 1, 9, 5, 3), (4, 4, 1, 7, 2, 8))  # token ids of three short documents


def mean_over_targets(my_mean: Callable[[list[float], list[int]], Any]) -> None:
    """Check `my_mean(batch_means, batch_targets)`: the mean loss over all targets of several batches."""
    with explained(my_mean):
        for means, targets in (
            ([2.0, 4.0], [30, 10]),
            ([3.0, 1.0, 2.0], [8, 8, 8]),
            ([0.5], [7]),
            ([2.0, math.nan, 4.0], [6, 0, 2]),
        ):
            pairs = [(mean, count) for mean, count in zip(means, targets, strict=True) if count]
            wanted = sum(mean * count for mean, count in pairs) / sum(count for _, count in pairs)
            case = f"batch means {means} over {targets} targets"
            got = as_number(my_mean(list(means), list(targets)), case, "one number")
            if math.isclose(got, wanted, rel_tol=1e-5):
                continue
            hint = f"{wanted:g} is needed, you returned {got:g}"
            if math.isnan(got):
                hint += ". A batch of no target has the mean nan, and nan times 0 is nan: leave such a batch out"
            elif math.isclose(got, sum(means) / len(means), rel_tol=1e-5):
                hint += ". That is the mean of the means: a small batch weighs as much as a large one"
            elif math.isclose(got, sum(mean * count for mean, count in pairs), rel_tol=1e-5):
                hint += ". That is the sum over all targets: divide it by their number"
            elif math.isclose(got, wanted * sum(targets) / len(targets), rel_tol=1e-5):
                hint += ". Divide by the number of targets, not by the number of batches"
            raise WrongError(f"{case}: {hint}")
        print("Right: each target weighs the same, whatever batch it is in, and a batch without one changes nothing.")


def accumulated(my_accumulate: Callable[[nn.Module, list[Batch]], Any]) -> None:
    """Check `my_accumulate(model, pieces)`: leaves in `.grad` the gradient of all pieces as one batch."""
    with explained(my_accumulate):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = MicroTransformer(vocab_size=10, n_layer=1, n_head=1, n_embd=8)
        whole = _story_rows().gather(torch.arange(3).numpy())  # rows of 2, 8 and 5 targets
        pieces = [{name: tensor[part] for name, tensor in whole.items()} for part in (slice(0, 1), slice(1, 3))]
        wanted = _gradient(model, [whole], [1.0])
        sizes: list[int] = []
        hook = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        try:
            for left_over in (False, True):  # the second time .grad still holds the gradient of the first
                if not left_over:
                    model.zero_grad()
                returned = my_accumulate(model, pieces)
                got = [p.grad for p in model.parameters() if p.grad is not None]
                if not got and returned in (None, ...) and not sizes:
                    raise UntouchedError
                if len(got) < len(list(model.parameters())):
                    raise WrongError("a parameter has no .grad afterwards: call .backward() on the loss of each piece")
                _judge_gradient(torch.cat([part.flatten() for part in got]), wanted, model, pieces, left_over, sizes)
        finally:
            hook.remove()
        print("Right: pieces of 2 and 13 targets give the gradient of the batch of 15, and old gradients do not count.")


def stacked(my_stack: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Check `my_stack(rows)`, which is meant to fail: rows of unequal length. Explains the error."""
    with explained(my_stack):
        rows = [{"input_ids": torch.arange(8)}, {"input_ids": torch.arange(5)}]
        try:
            got = my_stack(rows)
        except RuntimeError as error:
            message = str(error).splitlines()[0]
            if "[8]" not in message or "[5]" not in message:
                raise WrongError(f"it fails, with another error ({message}): stack the rows as they come") from None
        else:
            touched(got)
            raise WrongError("no error: that works. Break it: give default_collate the rows as they are, of 8 and of 5")
        print(f"torch says: {message}")
        print("A tensor has one length along each dimension: pad the short rows, or cut rows of one length.")
        silent = default_collate([{"input_ids": [0, 1, 2]}, {"input_ids": [3, 4, 5]}])["input_ids"]
        print(
            f"Rows of plain lists raise nothing: [0, 1, 2] and [3, 4, 5] become {[part.tolist() for part in silent]},"
        )
        print("three tensors of one place each, not two rows. So a dataset returns tensors.")


def padded(my_collate: Callable[[list[Batch], int], Any]) -> None:
    """Check `my_collate(rows, pad_token_id)`: rows of unequal length, padded on the right to the longest."""
    with explained(my_collate):
        for lengths, pad in (((3, 5, 1), 0), ((4, 4), 0), ((2,), 9), ((1, 6), 9)):
            counted = [torch.arange(n) + 10 * b for b, n in enumerate(lengths)]
            rows = [{"input_ids": ids, "labels": ids + 1} for ids in counted]
            _judge_padded(my_collate, rows, lengths, pad)
        package = _story_rows()
        names = ("input_ids", "labels")
        stories = [package[i] for i in range(3)]
        rows = [{name: row[name][row["labels"] != IGNORE] for name in names} for row in stories]
        got, wanted = my_collate(rows, package.store.pad_token_id), package.gather(torch.arange(3).numpy())
        if not all(torch.equal(got[name], wanted[name]) for name in names):
            raise WrongError('three documents: not the batch of TransformerDataset(…, chunking="per_document")')
        print("Right: padded to the longest row, labels -100 there, and equal to the package's own padded rows.")


def _story_rows() -> TransformerDataset:
    """Three documents of 2, 8 and 5 targets, a row of 8 places each."""
    ends = [sum(map(len, _STORIES[: n + 1])) for n in range(len(_STORIES))]
    ids = [token for story in _STORIES for token in story]
    store = TokenStore.from_token_ids(ids, vocab_size=10, document_ends=ends)
    return TransformerDataset(store, seq_length=8, chunking="per_document")


def _gradient(model: nn.Module, batches: list[Batch], weights: list[float]) -> Tensor:
    """The gradient (P,) of a weighted sum of the batches' mean losses; leaves `.grad` alone."""
    losses = [weight * loss_of(model, batch) for batch, weight in zip(batches, weights, strict=True)]
    parts = torch.autograd.grad(torch.stack(losses).sum(), list(model.parameters()))
    return torch.cat([part.flatten() for part in parts])


def _judge_gradient(
    got: Tensor, wanted: Tensor, model: nn.Module, pieces: list[Batch], left_over: bool, sizes: list[int]
) -> None:
    if max(sizes, default=0) > 2:
        raise WrongError(
            f"the model was given {max(sizes)} rows at once: the pieces come one by one, because the whole batch "
            "does not fit the memory"
        )
    if torch.allclose(got, wanted, rtol=1e-3, atol=1e-6):
        return
    if left_over:
        raise WrongError(
            "the first call is right and the second is not: .backward() adds to what .grad holds from before, "
            "so begin with model.zero_grad()"
        )
    counts = [int((piece["labels"] != IGNORE).sum()) for piece in pieces]
    share = counts[1] / sum(counts)
    for why, weights in (
        ("both pieces weigh the same, though one has 2 targets and the other 13: weigh each by its share", (0.5, 0.5)),
        ("weighed by rows, 1 and 2, but rows differ in targets, here 2 and 13: weigh each by those", (1 / 3, 2 / 3)),
        ("the mean losses are added up, not averaged: weigh each by its share of all targets", (1.0, 1.0)),
        ("the summed losses are added up: divide by the 15 targets of all pieces", (2.0, 13.0)),
        ("only the last piece is left: .grad was cleared between the pieces", (0.0, 1.0)),
        ("only the last piece is left: .grad was cleared between the pieces", (0.0, share)),
    ):
        if torch.allclose(got, _gradient(model, pieces, list(weights)), rtol=1e-3, atol=1e-6):
            raise WrongError(f"pieces of 2 and 13 targets: {why}")
    ratio = float(got.norm() / wanted.norm())
    raise WrongError(
        f"pieces of 2 and 13 targets: the gradient is not that of the one batch (its length is {ratio:.2f} times that "
        "of the right one): weigh each piece's mean loss by its share of all targets"
    )


def _judge_padded(
    my_collate: Callable[[list[Batch], int], Any], rows: list[Batch], lengths: tuple[int, ...], pad: int
) -> None:
    """Rows that count upwards, row b from 10 * b, so that every mistake can be named."""
    case = f"rows of {' and '.join(map(str, lengths))} places, pad_token_id={pad}"
    before = [{name: tensor.clone() for name, tensor in row.items()} for row in rows]
    got = touched(my_collate(rows, pad))
    if not isinstance(got, dict) or set(got) != {"input_ids", "labels"}:
        raise WrongError(f"{case}: a dict with input_ids and labels is needed, you returned {got!r}")
    if any(not torch.equal(row[name], kept[name]) for row, kept in zip(rows, before, strict=True) for name in row):
        raise WrongError(f"{case}: the rows you were given were changed themselves: build new tensors")
    shape = (len(lengths), max(lengths))
    for name, filler in (("input_ids", pad), ("labels", IGNORE)):
        tensor = got[name]
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.int64:
            what = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise WrongError(
                f"{case}: {name} is {what}, a tensor of int64 is needed: torch.full takes dtype=torch.int64"
            )
        if tuple(tensor.shape) != shape:
            hint = (
                ". Pad to the longest row; what is cut off is never learned"
                if tensor.dim() == 2 and tensor.size(1) < shape[1]
                else ""
            )
            raise WrongError(f"{case}: {name} has shape {tuple(tensor.shape)}, {shape} is needed{hint}")
        wanted = torch.full(shape, filler)
        for b, row in enumerate(before):
            wanted[b, : lengths[b]] = row[name]
        if torch.equal(tensor, wanted):
            continue
        b = int((tensor != wanted).any(dim=1).nonzero()[0, 0])
        hint = f"row {b} of {name} is {tensor[b].tolist()}, {wanted[b].tolist()} is needed"
        if torch.equal(tensor[b], wanted[b].roll(shape[1] - lengths[b])):
            hint += ". Padding stands on the right, after the row"
        elif name == "labels" and torch.equal(tensor[b, : lengths[b]], wanted[b, : lengths[b]]):
            hint += ". Only -100 is left out of the loss: with another label the model is taught to write padding"
        raise WrongError(f"{case}: {hint}")
