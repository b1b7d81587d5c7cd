"""Started by torchrun: trains a small model in some kinds of parallelism, and writes what came of each as JSON.

    torchrun … kinds.py FOLDER KIND…

FOLDER/start/checkpoints holds a checkpoint of one process, which "KIND resumed" goes on from. What is refused on
two processes goes to FOLDER/refused.RANK.json, and what the command line says there to FOLDER/said.RANK.txt.
"""

import json
import shutil
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from mt_core import MicroTransformer, TokenLoader, TokenStore, TrainConfig, TransformerDataset, evaluate, fit
from mt_core.command_line import main
from mt_core.distributed import check_same, create_mesh, group_of_loader, is_main, processes, ranks_of

V = 64
CONFIG = TrainConfig(
    epochs=2, max_steps=8, warmup_steps=2, learning_rate=0.01, checkpoint_every=4, evaluate_every=4, clip_norm=0.5
)
# What a kind is beyond its name: another mesh, packed rows with documents apart, another optimizer.
MESHES = {
    "tensor, data": (("dp", "tp"), (2, 2)),
    "pipeline, data": (("dp", "pp"), (2, 2)),
    "fsdp, replicated": (("dp_replicate", "dp_shard"), (2, 2)),
}
CHANGES = {"muon": {"optimizer": "muon"}, "accumulated": {"accumulate": 2}, "untied": {}, "packed": {}, "padded": {}}


def make(seed: int = 0, *, tied: bool = True) -> MicroTransformer:
    torch.manual_seed(seed)
    return MicroTransformer(vocab_size=V, n_layer=2, n_head=4, n_embd=32, tie_embeddings=tied)


def loaders(kind: str, rank: int, world_size: int) -> tuple[TokenLoader, TokenLoader]:
    """Ten batches of eight rows an epoch, and eleven rows to evaluate on: more than a batch, less than two."""
    draw = torch.Generator().manual_seed(1)

    def store(n: int) -> TokenStore:
        ends = torch.randint(1, 9, (n,), generator=draw).cumsum(0)
        ends = torch.cat((ends[ends < n], torch.tensor([n])))
        ids = torch.randint(V, (n,), generator=draw).cumsum(0) % V // 3
        return TokenStore.from_token_ids(ids.tolist(), vocab_size=V, document_ends=ends.tolist())

    chunking = "packed" if "packed" in kind else "per_document" if "padded" in kind else "contiguous"
    train, val = (TransformerDataset(store(n), seq_length=12, chunking=chunking) for n in (12 * 80 + 1, 12 * 11 - 5))
    settings = {"batch_size": 8, "seed": 5, "rank": rank, "world_size": world_size}
    return TokenLoader(train, shuffle=True, drop_last=True, **settings), TokenLoader(val, **settings)


def config_of(kind: str) -> TrainConfig:
    changes = {name: value for word, changed in CHANGES.items() if word in kind for name, value in changed.items()}
    return replace(CONFIG, **changes)


def train(kind: str, run_dir: Path, config: TrainConfig, mesh=None):
    """One run: losses, gradient norms and evaluations as JSON, and a checksum of the weights."""
    model = make(seed=9 if "resumed" in kind else 0, tied="untied" not in kind)
    loaded = loaders(kind, *(ranks_of(mesh) if mesh is not None else (0, 1)))
    history = fit(model, *loaded, config, run_dir=run_dir, mesh=mesh, progress=False)
    again = evaluate(model, loaded[1], mesh=mesh)
    return {
        "losses": [step.loss for step in history.steps],
        "norms": [step.gradient_norm for step in history.steps],
        "rates": [step.learning_rate for step in history.steps],
        "tokens": [step.tokens for step in history.steps],
        "evaluations": [[e.step, e.nats_per_token, e.n_targets] for e in history.evaluations],
        "again": [again.nats_per_token, again.n_targets],
        "tied": model.lm_head.weight is model.embed_tokens.weight,
        "ranks": ranks_of(mesh) if mesh is not None else (0, 1),
        "weights": torch.cat([p.detach().flatten() for p in model.parameters()]).tolist(),
    }


def refused() -> list[str]:
    """What each thing that cannot work says, on this rank."""
    other = dist.get_rank(), 2

    def fitted(parallel: str, **settings) -> None:
        train_loader, _ = loaders("", *settings.pop("ranks", other))
        model = MicroTransformer(vocab_size=V, n_embd=12, **{"n_layer": 2, "n_head": 3} | settings)
        fit(model, train_loader, None, replace(CONFIG, parallel=parallel), mesh=settings.get("mesh"), progress=False)

    said = []
    for call in (
        lambda: check_same(dist.get_rank(), "the newest step"),
        lambda: fitted("ddp", ranks=(0, 1)),
        lambda: fitted("tensor", n_head=2, ranks=other),
        lambda: fitted("tensor", ranks=(0, 1)),
        lambda: fitted("pipeline", n_layer=1, ranks=(0, 1)),
        lambda: group_of_loader(3, None),
    ):
        try:
            call()
            said.append("nothing")
        except ValueError as error:
            said.append(str(error))
    return said


def command(folder: Path, parallel: str) -> list[str]:
    """A command line that trains on FOLDER/train.txt, and on as many processes as run it."""
    paths = [f"--train={folder / 'train.txt'}", f"--val={folder / 'val.txt'}", f"--out={folder / f'cli-{parallel}'}"]
    shape = "--n-layer 2 --n-head 2 --n-embd 16 --vocab-size 264 --seq-length 8 --batch-size 4 --max-steps 3"
    return [*paths, *shape.split(), "--device=cpu", "--warmup-steps=0", f"--parallel={parallel}"]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with processes("cpu", timeout_minutes=1) as many:
        assert many
        if dist.get_world_size() == 2:
            text = json.dumps(refused())
            (folder / f"refused.{dist.get_rank()}.json").write_text(text, encoding="utf-8", newline="\n")
            with (folder / f"said.{dist.get_rank()}.txt").open("w", encoding="utf-8") as said, redirect_stdout(said):
                main(command(folder, "fsdp"))
        for kind in sys.argv[2:]:
            name = kind.split()[0].rstrip(",")
            mesh = create_mesh(name)
            if kind in MESHES:
                names, shape = MESHES[kind]
                mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
            run_dir = folder / kind
            if is_main() and "resumed" in kind:
                shutil.copytree(folder / "start", run_dir)
            dist.barrier()
            result = train(kind, run_dir, replace(config_of(kind), parallel=name), mesh)
            (folder / f"{kind}.{dist.get_rank()}.json").write_text(json.dumps(result), encoding="utf-8", newline="\n")
