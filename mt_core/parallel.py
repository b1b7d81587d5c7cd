"""Gradients of one step on one process or on many, with what PyTorch offers. Does not read data, step or write.

Every kind answers the same questions, so that the loop does not know which it has. What is trained may be a copy, cut
and spread over processes; `collect` brings its weights back into the whole model, which is what is evaluated, sampled
and saved. So each process holds the whole weights once, but gradients, optimizer state and activations only in part.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from mt_core.distributed import SHARED, SPLIT, TENSOR, create_mesh, default_parallel, dimensions, group_along, ranks_of
from mt_core.distributed import check_same as check_same  # also names of this module
from mt_core.distributed import is_main as is_main
from mt_core.evaluation import loss_of
from mt_core.model import MicroTransformer
from mt_core.recipe import TrainConfig, create_optimizers
from mt_core.windows import IGNORE

Batch = dict[str, Tensor]


class OneProcess:
    """A model, its optimizers, and the gradients of a step: on one process, and what the others have in common.

    Attributes:
        model: whole, on each process.
        trained: what `optimizers` change: the model, or a copy that is spread over processes.
        rank, world_size: which data rank this is, of how many.
    """

    can_compile = True

    def __init__(
        self, model: MicroTransformer, optimizers: list[Optimizer], config: TrainConfig, mesh: DeviceMesh | None = None
    ) -> None:
        self.model, self.optimizers, self.config = model, optimizers, config
        self.trained: nn.Module = model
        self.rank, self.world_size = (0, 1) if mesh is None else ranks_of(mesh)
        self._data_group = None if mesh is None else group_along(mesh, SPLIT)

    def backward(self, batches: Sequence[Batch]) -> float:
        """Gradients of the mean loss over all targets of the batches of all data ranks; returns that loss."""
        count = self._count(batches)
        loss = torch.zeros((), device=count.device)
        for number, batch in enumerate(batches):
            with self._reducing(number == len(batches) - 1):
                with self._autocast(count.device):
                    part = self._summed_loss(batch) / count  # each target weighs the same
                self._scaled(part).backward()
            loss += part.detach()
        self._finish_gradients()
        return self._total(loss).item()

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down to a norm of all of them together, over all processes; returns the norm before."""
        return nn.utils.clip_grad_norm_(self.trained.parameters(), max_norm).item()

    def collect(self) -> None:
        """Bring the trained weights into `model`. All processes call it."""

    def whole_optimizers(self) -> list[Optimizer]:
        """The optimizers as one process would have them, for a checkpoint. All processes call it."""
        return self.optimizers

    # -- what kinds do in their own way --------------------------------------------------------------------

    def _called(self) -> nn.Module:
        """What makes logits of a batch."""
        return self.trained

    @cached_property
    def _summed_loss(self) -> Callable[[Batch], Tensor]:
        """The summed loss of a batch, with the model as one compiled program if the settings ask for it: on a large
        vocabulary, that the logits need not be written down as float32 is a good part of what compiling brings."""
        plain = partial(loss_of, self._called(), reduction="sum")
        return torch.compile(plain) if self.compiles else plain

    @property
    def compiles(self) -> bool:
        """Whether the settings, or where they are silent the device, ask for `torch.compile`."""
        if self.config.compile is not None:
            return self.config.compile
        on_cuda = next(self.model.parameters()).is_cuda
        return on_cuda and self.can_compile and importlib.util.find_spec("triton") is not None

    def _reducing(self, last: bool) -> AbstractContextManager[Any]:
        """Around the backward pass of a batch: the gradients are summed over ranks in the last one."""
        return nullcontext()

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss

    def _finish_gradients(self) -> None:
        """Called after the last backward pass of a step."""

    # -- what they share -----------------------------------------------------------------------------------

    def _count(self, batches: Sequence[Batch]) -> Tensor:
        """Targets in the batches of all data ranks, at least 1."""
        return self._total(torch.stack([(batch["labels"] != IGNORE).sum() for batch in batches]).sum()).clamp(min=1)

    def _total(self, value: Tensor) -> Tensor:
        if self._data_group is not None:
            dist.all_reduce(value, group=self._data_group)
        return value

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        precision = self.config.precision or ("bfloat16" if device.type == "cuda" else "float32")
        return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


class DataParallel(OneProcess):
    """The same weights on every rank, gradients averaged (Li et al. 2020, arXiv:2006.15704)."""

    def __init__(self, model: Any, optimizers: list[Optimizer], config: TrainConfig, mesh: DeviceMesh) -> None:
        super().__init__(model, optimizers, config, mesh)
        group = group_along(mesh, SPLIT) or mesh.get_group()
        self._wrapped = nn.parallel.DistributedDataParallel(model, process_group=group)

    def _called(self) -> nn.Module:
        return self._wrapped

    def _reducing(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self._wrapped.no_sync()

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss * self.world_size  # DDP averages over ranks; the loss is divided by the targets of all of them


class Spread(OneProcess):
    """What kinds that cut a copy of the model into pieces have in common."""

    can_compile = False

    def __init__(self, model: Any, whole: list[Optimizer], config: TrainConfig, mesh: DeviceMesh) -> None:
        super().__init__(model, [], config, mesh)
        with torch.no_grad():
            for parameter in model.parameters():
                dist.broadcast(parameter, 0)  # the pieces are to be of one model
        self.trained = self._spread(mesh)
        self.optimizers = create_optimizers(self.trained, config)
        ours, theirs = dict(self._named()), dict(model.named_parameters())
        for mine, before in zip(self.optimizers, whole, strict=True):
            _copy_settings(before, mine)
            for name, parameter in ours.items():
                if theirs[name] in before.state:
                    state = before.state[theirs[name]]
                    mine.state[parameter] = {key: _cut(value, parameter) for key, value in state.items()}

    def clip(self, max_norm: float) -> float:
        norm = self._gradient_norm()
        for gradient in self._gradients():
            gradient.mul_(min(1.0, max_norm / (norm + 1e-6)))  # as clip_grad_norm_ has it
        return norm

    @torch.no_grad()
    def collect(self) -> None:
        ours = dict(self._named())
        for name, parameter in self.model.named_parameters():
            parameter.copy_(_joined(ours[name]))

    def whole_optimizers(self) -> list[Optimizer]:
        whole = create_optimizers(self.model, self.config)
        theirs = dict(self.model.named_parameters())
        for mine, target in zip(self.optimizers, whole, strict=True):
            _copy_settings(mine, target)
            for name, values in self._states(mine).items():
                target.state[theirs[name]] = values
        return whole

    # -- what kinds do in their own way --------------------------------------------------------------------

    def _spread(self, mesh: DeviceMesh) -> nn.Module:
        """This process's part of a copy of the model."""
        raise NotImplementedError

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained here, each parameter by its name in the whole model."""
        return self.trained.named_parameters()

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.trained.parameters() if p.grad is not None]

    def _gradient_norm(self) -> float:
        pieces = [g for g in self._gradients() if isinstance(g, DTensor)]
        others = [g for g in self._gradients() if not isinstance(g, DTensor)]
        norms = [_joined(nn.utils.get_total_norm(some)).item() for some in (pieces, others) if some]
        return math.hypot(*norms)

    def _states(self, optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
        """The state of each parameter by its name in the whole model, whole and on the CPU."""
        return {
            name: {key: _joined(value).cpu() for key, value in optimizer.state[parameter].items()}
            for name, parameter in self._named()
            if parameter in optimizer.state
        }


class FullySharded(Spread):
    """Each rank keeps a share of every parameter, and gathers a block's when it is its turn (FSDP2)."""

    def _spread(self, mesh: DeviceMesh) -> nn.Module:
        from torch.distributed.fsdp import fully_shard

        trained = copy.deepcopy(self.model)
        for module in (*trained.layers, trained):  # the last takes what the blocks leave, the tied embedding once
            fully_shard(module, mesh=mesh)
        return trained

    def _reducing(self, last: bool) -> AbstractContextManager[Any]:
        self.trained.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss * self.world_size  # FSDP averages over ranks too


class TensorParallel(Spread):
    """Each process computes some of the heads and some of the feed-forward (Shoeybi et al. 2019, arXiv:1909.08053).

    Embeddings and norms, small beside the blocks, are whole on each.
    """

    def _spread(self, mesh: DeviceMesh) -> nn.Module:
        from torch.distributed.tensor.parallel import (
            ColwiseParallel,
            ParallelStyle,
            RowwiseParallel,
            parallelize_module,
        )

        (name,) = (name for name in dimensions(mesh) if name in TENSOR)
        part, shape = mesh[name], self.model.config
        if shape.n_head % part.size() or (shape.n_inner or 0) % part.size():
            raise ValueError(
                f"n_head={shape.n_head} and n_inner={shape.n_inner} cannot be shared equally by {part.size()} "
                "processes of tensor parallelism: use multiples, or fewer processes"
            )
        plan: dict[str, ParallelStyle] = {"self_attn.o_proj": RowwiseParallel(), "mlp.down_proj": RowwiseParallel()}
        for module in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
            plan[module] = ColwiseParallel()
        trained = copy.deepcopy(self.model)
        for block in trained.layers:
            parallelize_module(block, part, plan)
        return trained

    def _finish_gradients(self) -> None:
        for gradient in self._gradients():
            self._total(gradient.to_local() if isinstance(gradient, DTensor) else gradient)


def parallelize(
    model: MicroTransformer, optimizers: list[Optimizer], config: TrainConfig, mesh: DeviceMesh | None = None
) -> OneProcess:
    """The kind of training that `config.parallel` names, of a whole model and its optimizers, the same on every rank.

    Args:
        mesh: processes by the names of its dimensions; None is `create_mesh(config.parallel)`.

    Raises:
        ValueError: no processes were started, or mesh or model do not fit the kind.
    """
    from mt_core.pipeline import Pipeline

    kind = config.parallel or default_parallel()
    if kind == "none":
        return OneProcess(model, optimizers, config)
    mesh = mesh or create_mesh(kind, next(model.parameters()).device.type)
    assert mesh is not None
    kinds: dict[str, tuple[type[OneProcess], tuple[str, ...]]] = {
        "ddp": (DataParallel, ()),
        "fsdp": (FullySharded, ()),
        "tensor": (TensorParallel, TENSOR),
        "pipeline": (Pipeline, Pipeline.DIMENSIONS),
    }
    make, needed = kinds[kind]
    shared = [name for name in dimensions(mesh) if name in SHARED]
    if len(shared) != bool(needed) or not set(shared) <= set(needed):
        what = f"exactly one of {', '.join(needed)}" if needed else f"dimensions of {', '.join(SPLIT)} alone"
        raise ValueError(f"parallel={kind!r} needs a mesh with {what}, this one has {', '.join(dimensions(mesh))}")
    if config.compile and not make.can_compile:
        raise ValueError(f"compile=True works on one process and with parallel='ddp', not with {kind!r}: leave it out")
    return make(model, optimizers, config, mesh)


def _copy_settings(source: Optimizer, target: Optimizer) -> None:
    """Learning rates and so on, group by group, without the parameters."""
    for group, other in zip(source.param_groups, target.param_groups, strict=True):
        other.update({key: value for key, value in group.items() if key != "params"})


def _joined(tensor: Tensor) -> Tensor:
    """A tensor that is spread over processes, whole."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def _cut(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, spread as another of its shape is."""
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value.clone()
