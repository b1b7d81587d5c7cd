"""What the processes of notebook 12 do: read and learn a step, ask meshes, wait in vain, train. Starts no process.

They stand in a module so that a new process can import them; see `mt_core.lab.processes`.
"""

from __future__ import annotations

import statistics
import time
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from mt_core.dataset import TransformerDataset
from mt_core.distributed import ranks_of
from mt_core.evaluation import loss_of
from mt_core.model import MicroTransformer
from mt_core.token_loader import TokenLoader
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import IGNORE


def tokenizer(data: str) -> MicroTransformerTokenizer:
    """The course's tokenizer, in the folder of its data."""
    return MicroTransformerTokenizer.from_pretrained(Path(data, "tokenizer"))


def stories(data: str, batch_size: int, rank: int | None = None, world_size: int | None = None) -> TokenLoader:
    """The course's training stories, one a row, shuffled; the rows say their numbers.

    Args:
        data: the folder of train.jsonl and the tokenizer.
        batch_size: of all ranks together.
        rank, world_size: None is what `torch.distributed` says.
    """
    path = Path(data, "train.jsonl")
    rows = TransformerDataset(path, tokenizer(data), seq_length=120, chunking="per_document", provenance=True)
    return TokenLoader(
        rows, batch_size=batch_size, shuffle=True, drop_last=True, seed=12, rank=rank, world_size=world_size
    )


def small_model(**shape: int) -> MicroTransformer:
    """A model with the same weights in every process."""
    torch.manual_seed(0)
    return MicroTransformer(vocab_size=1024, **({"n_layer": 1, "n_head": 2, "n_embd": 16} | shape))


def flat_gradient(model: nn.Module) -> Tensor:
    """All gradients of a model, one after the other: float32 (number of weights,)."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def first_step(data: str, batch_size: int) -> dict[str, Any]:
    """One step by hand: rows, targets and gradient of this rank, and the gradient of all together."""
    batch = next(iter(stories(data, batch_size)))  # this rank's share: torch.distributed runs
    model = small_model()  # the same weights on every rank
    loss_of(model, batch, reduction="sum").backward()  # over this rank's targets
    mine, n_mine = flat_gradient(model), (batch["labels"] != IGNORE).sum()
    gradient, n_targets = mine.clone(), n_mine.clone()
    dist.all_reduce(gradient)  # each rank gets the sum over all of them
    dist.all_reduce(n_targets)
    found = {"rows": batch["provenance"][:, 0].tolist(), "targets": n_mine.item()}
    return found | {"mine": mine.tolist(), "together": (gradient / n_targets).tolist()}


def asked_meshes(meshes: list[list[list[Any]]]) -> list[tuple[int, int]]:
    """What `ranks_of` says in this process for each mesh, given by its names and its shape."""
    return [ranks_of(init_device_mesh("cpu", tuple(shape), mesh_dim_names=tuple(names))) for names, shape in meshes]


def unequal_steps(n_steps: list[int], seconds: float = 3.0) -> str:
    """Exchange something in as many steps as this rank has; what came of it, after `seconds` of waiting in vain."""
    group = dist.new_group(timeout=timedelta(seconds=seconds))
    rank = dist.get_rank()
    dist.barrier()  # all begin together
    for step in range(n_steps[rank]):
        try:
            dist.all_reduce(torch.ones(1), group=group)
        except RuntimeError:
            return f"rank {rank} waits in step {step}, until its time is up"
    return f"rank {rank} is done after {n_steps[rank]} steps"


def lesson(data: str, batch_size: int, meshes: list[list[list[Any]]], n_steps: list[int]) -> dict[str, Any]:
    """The three above, in one start."""
    step = first_step(data, batch_size)
    return {"step": step, "reads_as": asked_meshes(meshes), "ended": unequal_steps(n_steps)}


def train(data: str, batch_size: int, n_steps: int, *, alone: bool) -> dict[str, Any]:
    """Some steps of AdamW, alone or with all ranks: losses, the least seconds of a step, the exchange's share."""
    rank, world_size = (0, 1) if alone else ranks_of()
    loader = stories(data, batch_size, rank=rank, world_size=world_size)
    model = small_model(n_layer=2, n_head=4, n_embd=128)
    optimizer, losses, steps, exchanges = torch.optim.AdamW(model.parameters(), lr=0.003), [], [], []
    for batch in islice(loader, n_steps):
        begin = time.perf_counter()
        loss = loss_of(model, batch, reduction="sum")
        loss.backward()
        sums = torch.cat([flat_gradient(model), loss.detach()[None], (batch["labels"] != IGNORE).sum()[None]])
        computed = time.perf_counter()
        if not alone:
            dist.all_reduce(sums)
        exchanges.append(time.perf_counter() - computed)
        for parameter, gradient in zip(model.parameters(), _unflatten(sums / sums[-1], model), strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        losses.append((sums[-2] / sums[-1]).item())
        steps.append(time.perf_counter() - begin)
    shares = [exchange / step for exchange, step in zip(exchanges, steps, strict=True)]
    # The first step also warms up. The least time is the one that other programs disturbed least.
    return {"losses": losses, "seconds": min(steps[1:]), "exchange": statistics.median(shares[1:])}


def _unflatten(flat: Tensor, model: nn.Module) -> list[Tensor]:
    """Slices of a flat tensor in the shapes of a model's weights."""
    sizes = [p.numel() for p in model.parameters()]
    return [part.view_as(p) for part, p in zip(flat[: sum(sizes)].split(sizes), model.parameters(), strict=True)]


def race(data: str, batch_size: int, n_steps: int) -> dict[str, Any]:
    """Train alone on rank 0, while the others wait, then together on all."""
    alone = train(data, batch_size, n_steps, alone=True) if dist.get_rank() == 0 else {}
    dist.barrier()
    return {"alone": alone, "together": train(data, batch_size, n_steps, alone=False)}
