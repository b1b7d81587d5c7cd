"""What a process does until it is killed: deliver batches, or train, with a checkpoint after almost every step.

The next process goes on from the newest checkpoint, with other workers and another number of ranks if it likes.
"""

import multiprocessing
import os
import sys
from pathlib import Path

import torch

from mt_core import MicroTransformer, TokenLoader, TokenStore, TrainConfig, TransformerDataset
from mt_core.checkpoints import latest_checkpoint, read_state, save_checkpoint
from mt_core.training import training_steps

N_BATCHES = 90  # six epochs
TRAIN = TrainConfig(epochs=3, warmup_steps=5, learning_rate=0.01, checkpoint_every=1)


def loader(rank: int = 0, world_size: int = 1, num_workers: int = 0, prefetch_factor: int | None = None) -> TokenLoader:
    """Fifteen batches of four rows an epoch, and some rows that are left over."""
    ids = [i * i * 7919 % 64 for i in range(4 * 63 + 1)]
    dataset = TransformerDataset(TokenStore.from_token_ids(ids, vocab_size=64), seq_length=4)
    workers = {"num_workers": num_workers, "prefetch_factor": prefetch_factor}
    start_method = "spawn" if num_workers and sys.platform == "win32" else None
    split = {"rank": rank, "world_size": world_size}
    return TokenLoader(
        dataset, batch_size=4, shuffle=True, drop_last=True, seed=3, start_method=start_method, **workers, **split
    )


def model() -> MicroTransformer:
    torch.manual_seed(0)
    return MicroTransformer(vocab_size=64, n_layer=1, n_head=2, n_embd=8)


def begin() -> None:
    """A group of its own, so that its workers can be killed with it, and one thread, as the machine is busy."""
    if os.name == "posix" and multiprocessing.parent_process() is not None:
        os.setpgid(0, 0)
    torch.set_num_threads(1)


def deliver(folder: Path, attempt: int, world_size: int = 1, **workers) -> None:
    """Write what all ranks together were given, a line a batch, to a file of this attempt."""
    begin()
    loaders = [loader(rank, world_size, **workers) for rank in range(world_size)]
    newest = latest_checkpoint(folder / "checkpoints")
    done = 0
    if newest is not None:
        state = read_state(newest)
        done = state["step"]
        for one in loaders:
            one.load_state_dict(state["loader"])
    weights = torch.nn.Linear(1, 1)
    with (folder / f"{attempt}.txt").open("w", encoding="utf-8", newline="\n", buffering=1) as lines:
        while done < N_BATCHES:
            for batches in zip(*loaders, strict=True):
                rows = torch.cat([batch["input_ids"] for batch in batches]).tolist()
                lines.write(f"{done}: {rows}\n")
                done += 1
                if done % 2 or done == N_BATCHES:
                    save_checkpoint(folder / "checkpoints", done, weights, [], {"loader": loaders[0].state_dict()})
                if done == N_BATCHES:
                    return


def train(folder: Path, _: int, **workers) -> None:
    """Train; losses and checkpoints are where training puts them."""
    begin()
    for _ in training_steps(model(), loader(**workers), loader(), TRAIN, run_dir=folder):
        pass
