"""A model in two stages on two processes, with `torch.distributed.pipelining`. Does not read data, step or write.

The first stage has the embedding and the first half of the blocks, the second the other half, the last norm and the
output matrix. A batch goes through in smaller parts, so that both have work at once (Huang et al. 2018,
arXiv:1811.06965).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from mt_core.distributed import PIPELINE, dimensions
from mt_core.model import MicroTransformer, document_mask
from mt_core.parallel import Batch, Spread
from mt_core.windows import IGNORE

_TIED, _EMBEDDING = "lm_head.weight", "embed_tokens.weight"


class Stage(nn.Module):
    """Half of a `MicroTransformer`, a copy with the same names: token ids or vectors in, vectors or logits out."""

    def __init__(self, model: MicroTransformer, number: int, autocast: AbstractContextManager[Any]) -> None:
        super().__init__()
        half = (len(model.layers) + 1) // 2
        own = range(half) if number == 0 else range(half, len(model.layers))
        if number == 0:
            self.embed_tokens = copy.deepcopy(model.embed_tokens)
        self.layers = nn.ModuleDict({str(i): copy.deepcopy(model.layers[i]) for i in own})
        if number == 1:
            self.norm, self.lm_head = copy.deepcopy(model.norm), copy.deepcopy(model.lm_head)
        self.number, self._rotation, self._autocast = number, model._rotation, autocast

    def forward(self, x: Tensor, position_ids: Tensor | None = None, document_ids: Tensor | None = None) -> Tensor:
        with self._autocast:
            if self.number == 0:
                x = self.embed_tokens(x)  # (B, T) to (B, T, C)
            positions = torch.arange(x.size(1), device=x.device) if position_ids is None else position_ids
            rotation, mask = self._rotation(positions, x), document_mask(document_ids)
            for block in self.layers.values():
                x = block(x, rotation, mask)
            return self.lm_head(self.norm(x)).float() if self.number == 1 else x


class Pipeline(Spread):
    """Each process trains one of two stages; a tied embedding is on both, and both take the sum of its gradients."""

    DIMENSIONS = PIPELINE

    def __init__(self, model: Any, whole: list[Optimizer], config: Any, mesh: DeviceMesh) -> None:
        (name,) = (name for name in dimensions(mesh) if name in PIPELINE)
        self._group = mesh.get_group(name)
        self._stage = mesh.get_local_rank(name)
        if dist.get_world_size(self._group) != 2 or len(model.layers) < 2:
            raise ValueError(
                f"a pipeline has two stages, the mesh has {dist.get_world_size(self._group)} along {name!r} and the "
                f"model n_layer={len(model.layers)}: use 2 and at least 2"
            )
        self._schedules: dict[tuple[int, ...], Any] = {}
        self._targets = torch.ones(())
        super().__init__(model, whole, config, mesh)

    def backward(self, batches: Sequence[Batch]) -> float:
        self._targets = count = self._count(batches)
        loss = torch.zeros((), device=count.device)
        for batch in batches:
            schedule = self._schedule(batch)
            documents = {name: batch[name] for name in ("position_ids", "document_ids") if name in batch}
            if self._stage == 0:
                schedule.step(batch["input_ids"], return_outputs=False, **documents)
            else:
                losses: list[Tensor] = []
                schedule.step(target=batch["labels"], losses=losses, return_outputs=False, **documents)
                loss += torch.stack(losses).sum().detach()
        for gradient in self._gradients():
            self._total(gradient)
        if self.model.config.tie_embeddings:
            dist.all_reduce(self._tied().grad, group=self._group)
        dist.broadcast(loss, group=self._group, group_src=1)
        return self._total(loss).item()

    @torch.no_grad()
    def collect(self) -> None:
        ours = dict(self._named())
        for name, parameter in self.model.named_parameters():
            here = name in ours and not self._is_second_copy(name)
            if here:
                parameter.copy_(ours[name])
            dist.broadcast(parameter, group=self._group, group_src=self._stage if here else 1 - self._stage)

    def _spread(self, mesh: DeviceMesh) -> nn.Module:
        return Stage(self.model, self._stage, self._autocast(next(self.model.parameters()).device))

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        tied = self.model.config.tie_embeddings
        for name, parameter in self.trained.named_parameters():
            yield _EMBEDDING if tied and name == _TIED else name, parameter

    def _gradient_norm(self) -> float:
        counted = [p.grad for name, p in self._named() if p.grad is not None and not self._is_second_copy(name)]
        squares = nn.utils.get_total_norm(counted) ** 2
        dist.all_reduce(squares, group=self._group)
        return math.sqrt(squares.item())

    def _states(self, optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
        both: list[Any] = [None, None]
        dist.all_gather_object(both, super()._states(optimizer), group=self._group)
        return {**both[1], **both[0]}

    def _schedule(self, batch: Batch) -> Any:
        """The schedule for batches of this shape; the first step of each exchanges the shapes between stages."""
        from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

        shape = tuple(batch["input_ids"].shape)
        if shape not in self._schedules:
            device = batch["input_ids"].device
            stage = PipelineStage(self.trained, self._stage, 2, device, group=self._group)
            parts = next(n for n in (4, 2, 1) if shape[0] % n == 0)
            self._schedules[shape] = ScheduleGPipe(stage, parts, loss_fn=self._loss, scale_grads=False)
        return self._schedules[shape]

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        flat = logits.view(-1, logits.size(-1))
        return F.cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORE, reduction="sum") / self._targets

    def _tied(self) -> nn.Parameter:
        return dict(self._named())[_EMBEDDING]

    def _is_second_copy(self, name: str) -> bool:
        return self._stage == 1 and name == _EMBEDDING and self.model.config.tie_embeddings
