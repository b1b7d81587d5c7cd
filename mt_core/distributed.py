"""One process to many: starting and ending process groups, meshes, and which process reads which rows. Does not train.

Words: a *rank* is the number of a process; *data ranks* share out each batch; processes of tensor or pipeline
parallelism share out the model instead, so they are one data rank and read the same rows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from mt_core.order import data_ranks

Parallel = Literal["none", "ddp", "fsdp", "tensor", "pipeline"]

# Names of mesh dimensions, those of torchtitan and of PyTorch's own examples among them.
SPLIT = ("dp", "dp_replicate", "dp_shard", "ddp", "fsdp", "data")  # each place reads rows of its own
TENSOR, PIPELINE = ("tp", "tensor"), ("pp", "pipeline")
SHARED = (*TENSOR, *PIPELINE, "cp", "context")  # all places read the same rows
_MESHES = {"ddp": ("dp",), "fsdp": ("dp_shard",), "tensor": ("tp",), "pipeline": ("dp", "pp")}
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def started_by_torchrun() -> bool:
    """Whether the environment says that this is one of several processes.

    Raises:
        ValueError: the environment says so by half.
    """
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if {"RANK", "WORLD_SIZE"} <= set(missing):
        return False
    wrong = [n for n in _ENVIRONMENT if n not in missing and n != "MASTER_ADDR" and not os.environ[n].isdecimal()]
    if missing or wrong:
        what = f"{missing[0]} is not set" if missing else f"{wrong[0]}={os.environ[wrong[0]]!r} is no whole number"
        raise ValueError(
            f"the environment says that this is one of several processes, but {what}: start with "
            "`torchrun --nproc-per-node=2 -m mt_core.training …`, or unset RANK and WORLD_SIZE to run alone"
        )
    return True


@contextmanager
def processes(device_type: str | None = None, *, timeout_minutes: float = 10.0) -> Iterator[bool]:
    """Join the processes that `torchrun` started, and leave them at the end; gives False where there are none.

    Args:
        device_type: "cuda" talks over NCCL and takes the GPU of this process's number on its machine, "cpu" over gloo;
            None is "cuda" where there is one.
        timeout_minutes: how long a process waits for the others before it gives up with an error. A process that was
            killed is mostly noticed at once; this is for one that hangs.

    Raises:
        ValueError: see `started_by_torchrun`.
    """
    if _running() or not started_by_torchrun():  # joined already: then they are left where they were joined
        yield _running()
        return
    device_type = device_type or ("cuda" if torch.cuda.is_available() else "cpu")
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if device_type == "cuda" else "gloo"
    timeout = timedelta(minutes=timeout_minutes)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, store=_store(timeout), timeout=timeout, rank=rank, world_size=world_size)
    yield True
    dist.barrier()  # nobody leaves while another still talks; after an error there is nobody to wait for
    dist.destroy_process_group()


def _store(timeout: timedelta) -> dist.Store | None:
    """Where the processes of this attempt meet; None leaves that to PyTorch.

    `torchrun --max-restarts` keeps one store for all attempts, in which a new process would find the address of a dead
    one. On one machine all know the number of the attempt; on several they do not, and the store has to be a new one:
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
    """
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and os.environ.get("GROUP_WORLD_SIZE") == "1"
    if not kept:
        return None
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timeout)
    return dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def is_main() -> bool:
    """Whether this process writes for all: rank 0, or the only one."""
    return not _running() or dist.get_rank() == 0


@contextmanager
def main_first() -> Iterator[None]:
    """The main process does what stands inside, and then the others do: they find what it has written."""
    if not is_main():
        dist.barrier()
    yield
    if is_main() and _running():
        dist.barrier()


def default_parallel() -> Parallel:
    """What `parallel=None` means: "ddp" where several processes run, else "none"."""
    return "ddp" if _running() and dist.get_world_size() > 1 else "none"


def create_mesh(parallel: Parallel, device_type: str = "cpu") -> DeviceMesh | None:
    """All processes as the usual mesh of a kind of parallelism; None for "none".

    "ddp" ("dp",), "fsdp" ("dp_shard",), "tensor" ("tp",), "pipeline" ("dp", "pp") with two stages.

    Raises:
        ValueError: no processes were started, or their number does not fit.
    """
    if parallel == "none":
        return None
    if not _running():
        raise ValueError(
            f"parallel={parallel!r} needs several processes: start with "
            "`torchrun --nproc-per-node=2 -m mt_core.training …`, or enter mt_core.distributed.processes()"
        )
    size = dist.get_world_size()
    if parallel == "pipeline" and size % 2:
        raise ValueError(f"parallel='pipeline' has two stages and there are {size} processes: start an even number")
    shape = (size // 2, 2) if parallel == "pipeline" else (size,)
    return init_device_mesh(device_type, shape, mesh_dim_names=_MESHES[parallel])


def ranks_of(mesh: DeviceMesh | None = None) -> tuple[int, int]:
    """Which data rank this process is, of how many: what `create_dataloaders` takes as `rank` and `world_size`.

    Args:
        mesh: its dimensions decide by their names. Those of `SPLIT` share out each batch, along those of `SHARED` all
            read the same rows. None: every process is a data rank of its own.

    Raises:
        ValueError: a dimension without a name, or whose name does not say what it reads.
    """
    if mesh is None:
        return data_ranks()
    names, coordinate = dimensions(mesh), mesh.get_coordinate()
    if coordinate is None:
        raise ValueError(f"rank {dist.get_rank()} is not in the mesh {mesh}: make the mesh of all processes")
    rank, world_size = 0, 1
    for name, size, place in zip(names, mesh.shape, coordinate, strict=True):
        if name in SPLIT:
            rank, world_size = rank * size + place, world_size * size
    return rank, world_size


def dimensions(mesh: DeviceMesh) -> tuple[str, ...]:
    """The names of a mesh's dimensions, each of `SPLIT` or `SHARED`."""
    names = mesh.mesh_dim_names
    unknown = ["no name"] * mesh.ndim if names is None else [n for n in names if n not in SPLIT + SHARED]
    if unknown or names is None:
        raise ValueError(
            f"a mesh dimension has {unknown[0]!r} for a name, so it is not known what its processes read: name it one "
            f"of {', '.join(SPLIT)} to share out rows, or one of {', '.join(SHARED)} to read the same"
        )
    return names


def group_along(mesh: DeviceMesh, names: tuple[str, ...]) -> dist.ProcessGroup | None:
    """The processes that differ from this one along the dimensions of these names alone; None if it is alone."""
    sizes = {name: size for name, size in zip(dimensions(mesh), mesh.shape, strict=True) if name in names}
    if math.prod(sizes.values()) == 1:
        return None
    found = tuple(sizes)
    part = mesh[found]
    return (part._flatten() if len(found) > 1 else part).get_group()


def group_of_loader(world_size: int, mesh: DeviceMesh | None) -> dist.ProcessGroup | None:
    """The processes over which the batches of a loader of `world_size` ranks were split; None if they were not.

    Raises:
        ValueError: no processes split anything into that many parts.
    """
    if world_size == 1 or not _running():
        return None
    if world_size == dist.get_world_size():
        return dist.group.WORLD
    parts = 1 if mesh is None else ranks_of(mesh)[1]
    if world_size == parts and mesh is not None:
        return group_along(mesh, SPLIT)
    raise ValueError(
        f"the loader is split over {world_size} ranks, there are {dist.get_world_size()} processes and {parts} data "
        "ranks: give create_dataloaders rank and world_size as ranks_of(mesh) says"
    )


def check_same(value: int, what: str) -> None:
    """Raise ValueError, on every process, where they do not all have the same number."""
    if _running():
        values: list[int] = [0] * dist.get_world_size()
        dist.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise ValueError(f"{what} is {values} on ranks 0 to {len(values) - 1}, it must be the same on all of them")


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()
