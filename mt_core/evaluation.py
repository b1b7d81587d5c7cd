"""Logits to loss: cross entropy of a batch, evaluation of a loader, a text from the model. Does not train.

Losses are in nats per token (natural logarithm, as `cross_entropy` returns) unless a name says bits.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mt_core.distributed import group_of_loader
from mt_core.model import MicroTransformer, generate
from mt_core.records import Evaluation
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import IGNORE

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def loss_of(
    model: Callable[..., Tensor], batch: dict[str, Tensor], *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Cross entropy (nats) over a batch, the mean of its targets or their sum; labels of -100 are left out."""
    logits = logits_of(model, batch)
    labels = batch["labels"].view(-1)
    return F.cross_entropy(logits.view(-1, logits.size(-1)), labels, ignore_index=IGNORE, reduction=reduction)


def logits_of(model: Callable[..., Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Logits (B, T, V) of a batch. A model that takes `document_ids` gets them, and `position_ids`, where there are."""
    documents = {name: batch[name] for name in ("position_ids", "document_ids") if name in batch}
    if documents and not _takes_documents(model):
        documents = {}
    return model(batch["input_ids"], **documents)


def on_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on a device. Only a copy to CUDA is not waited for: it is safe there, also where the batch is dropped
    at once. A copy to MPS that is not waited for may read memory that has been given to others since."""
    return {name: tensor.to(device, non_blocking=device.type == "cuda") for name, tensor in batch.items()}


def _takes_documents(model: Callable[..., Tensor]) -> bool:
    inner = getattr(model, "_orig_mod", model)  # inside torch.compile's and then a parallel wrapper
    inner = getattr(inner, "module", inner)
    return "document_ids" in inspect.signature(getattr(inner, "forward", inner)).parameters


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[dict[str, Tensor]],
    *,
    tokenizer: MicroTransformerTokenizer | None = None,
    per_row: list[float] | None = None,
    mesh: DeviceMesh | None = None,
) -> Evaluation:
    """Mean loss over every target of a loader.

    Where the loader is split over ranks, all of them call this, and all are given the mean over the whole.

    Args:
        tokenizer: gives the bytes each target stands for, and so bits per byte: bits spent on all targets,
            end marks included, over the bytes of text they hold.
        per_row: a list to which each row's summed loss (nats) is appended, for comparing documents one by one;
            the rows of this rank.
        mesh: says which ranks the loader is split over, where that is not all processes.

    Raises:
        ValueError: the loader has no target, or is split over another number of ranks.
    """
    group = group_of_loader(getattr(loader, "world_size", 1), mesh)
    device = next(model.parameters()).device
    byte_lengths = None if tokenizer is None else torch.from_numpy(tokenizer.token_byte_lengths()).to(device)
    was_training = model.training
    model.eval()
    nats, targets, n_bytes = 0.0, 0, 0
    try:
        for batch in loader:
            batch = on_device(batch, device)
            logits, labels = logits_of(model, batch).float(), batch["labels"]
            losses = F.cross_entropy(
                logits.view(-1, logits.size(-1)), labels.view(-1), reduction="none", ignore_index=IGNORE
            )
            rows = losses.view(labels.shape).cpu().sum(1, dtype=torch.float64)  # which MPS has not
            nats += rows.sum().item()
            if per_row is not None:
                per_row += rows.tolist()
            real = labels != IGNORE
            targets += int(real.sum())
            if byte_lengths is not None:
                n_bytes += int(byte_lengths[labels[real]].sum())
    finally:
        model.train(was_training)
    if group is not None:
        sums = torch.tensor([nats, targets, n_bytes], dtype=torch.float64, device=device)  # counts are exact to 2**53
        dist.all_reduce(sums, group=group)
        nats, targets, n_bytes = sums[0].item(), int(sums[1]), int(sums[2])
    if targets == 0:
        raise ValueError("the loader has no target to evaluate: every label is -100, or there is no batch")
    bits_per_byte = nats / math.log(2) / n_bytes if n_bytes else None
    return Evaluation(nats_per_token=nats / targets, n_targets=targets, bits_per_byte=bits_per_byte)


def sample_text(
    model: MicroTransformer, tokenizer: MicroTransformerTokenizer, *, seed: int = 0, max_new_tokens: int = 200
) -> str:
    """A text from the model, from [CLS] until it draws [SEP]; the same seed draws the same.

    Ids that the tokenizer has not, of a model whose vocabulary was rounded up, are left out.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    start = torch.tensor([[tokenizer.cls_token_id]], device=device)
    ids = generate(
        model, start, max_new_tokens=max_new_tokens, stop_token_id=tokenizer.sep_token_id, generator=generator
    )
    return tokenizer.decode([i for i in ids[0].tolist() if i < len(tokenizer)])
