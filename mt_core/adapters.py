"""Our batches for models that shift labels themselves. Does not load models or compute losses.

Shapes: B rows, T their length.
"""

from __future__ import annotations

from typing import Any

import torch

from mt_core.dataset import Batch
from mt_core.windows import IGNORE


def unshift_labels(batch: Batch) -> dict[str, Any]:
    """A batch of ours for a model that shifts labels itself, as the causal models of `transformers` do.

    Such a model compares what it says at place t with `labels[t + 1]`. Ours are shifted already; shifted again, it
    would learn to predict the token after the next. So here they stand where the model looks for them, in rows of
    T + 1: no target is lost, -100 stays -100, and the loss is that of `cross_entropy(logits, labels)` on our batch.
    The token in the last place is only asked for, what the model says there is not used.

    Use it once, in the training loop: `model(**unshift_labels(batch)).loss`.

    Args:
        batch: `input_ids` and `labels`, int64 (B, T), as all loaders of this package give them, with `position_ids`
            and `document_ids` where rows hold several documents. Other entries are left out.

    Returns:
        `input_ids` and `labels`, int64 (B, T + 1); so the model has to take T + 1 positions. Where rows have documents
        also `position_ids`, by which `transformers` (5 or newer) keeps documents apart if it keeps no cache, and
        `use_cache=False`. Its flash attention does so for batches of one row alone; the other kinds for all.

    Raises:
        ValueError: `input_ids` or `labels` are missing, not of one shape (B, T), or the batch was adapted already:
            seen only where it has documents.

    >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[6, 7, 8]])}
    >>> {name: tensor.tolist() for name, tensor in unshift_labels(batch).items()}
    {'input_ids': [[5, 6, 7, 8]], 'labels': [[-100, 6, 7, 8]]}
    """
    missing = [name for name in ("input_ids", "labels") if name not in batch]
    if missing:
        raise ValueError(f"the batch has {sorted(batch)}, no {missing[0]}: give a batch of a TokenLoader")
    if "use_cache" in batch:
        raise ValueError("the batch was adapted already: use unshift_labels once")
    ids, labels = batch["input_ids"], batch["labels"]
    if ids.dim() != 2 or ids.shape != labels.shape:
        raise ValueError(
            f"input_ids are of shape {tuple(ids.shape)}, labels {tuple(labels.shape)}; both must be (B, T)"
        )
    last = torch.where(labels[:, -1:] == IGNORE, ids[:, -1:], labels[:, -1:])  # no token has the number -100
    adapted: dict[str, Any] = {
        "input_ids": torch.cat((ids, last), dim=1),
        "labels": torch.nn.functional.pad(labels, (1, 0), value=IGNORE),
    }
    if "document_ids" in batch:
        positions = batch["position_ids"]
        adapted["position_ids"] = torch.cat((positions, positions[:, -1:] + 1), dim=1)
        adapted["use_cache"] = False
    return adapted
