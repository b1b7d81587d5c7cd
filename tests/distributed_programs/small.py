"""What the processes of a test of `mt_core.lab.processes` do: say who they are, or fail, or never end."""

import os
import time

import torch
import torch.distributed as dist

from mt_core.distributed import ranks_of


def who(word: str) -> dict[str, object]:
    """This process's rank, and the sum of all ranks' numbers from 1."""
    number = torch.tensor(dist.get_rank() + 1)
    dist.all_reduce(number)
    return {
        "word": word,
        "ranks": ranks_of(),
        "sum": number.item(),
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
    }


def fail(rank: int) -> None:
    """One process fails, the others wait for it."""
    if dist.get_rank() == rank:
        raise KeyError("no such row")
    dist.barrier()


def hang() -> None:
    """Never end."""
    time.sleep(600)
