"""What a training run from files is given, on the command line or in a program. Does not run it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from mt_core.arguments import check_choice, check_count, check_flag, check_number, check_path, check_seed
from mt_core.dataset import Chunking
from mt_core.presets import PRESETS
from mt_core.recipe import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """One training run. Records, checkpoints, the tokenizer and the final weights go to `out`."""

    train: Path
    """JSONL or plain-text file, or the folder of a token store, to train on."""
    val: Path
    """The same, to evaluate on."""
    tokenizer: Path | None = None
    """Folder of a saved tokenizer; left out, one is trained on `train`."""
    out: Path = Path("runs/run")
    """The run directory. If it holds a checkpoint, the run goes on from there."""
    vocab_size: int = 1024
    """Entries of the tokenizer that is trained when none is named."""
    batch_size: int = 32
    """Rows in a batch, of all processes together."""
    seq_length: int = 128
    """Tokens in a row."""
    chunking: Chunking = "contiguous"
    """How rows are cut from documents."""
    token_budget: int | None = None
    """Rows of about one length together, so many tokens in a batch, instead of `batch_size`."""
    num_workers: int = 0
    """Processes that build batches."""
    preset: Literal["1m", "5m", "20m", "124m"] = "1m"
    """Shape of the model, by about how many parameters it has."""
    n_layer: int | None = None
    """Blocks of the model, if not those of the preset."""
    n_head: int | None = None
    """Attention heads, if not those of the preset."""
    n_embd: int | None = None
    """Width of the model, if not that of the preset."""
    seed: int = 0
    """Chooses the initial weights and the order of rows."""
    device: str = "auto"
    """"cpu", "cuda" and so on; "auto" takes an accelerator if there is one."""
    threads: int | None = None
    """CPU threads; PyTorch's own choice if left out. It is not measured: sums in another order would change the losses
    of a run that goes on. On a busy machine try 1."""
    export: bool = False
    """Also write a folder that `transformers` opens as a Llama model."""
    tensorboard: bool = False
    """Also write the records for TensorBoard: `pip install -e ".[tensorboard]"`."""
    timeout_minutes: float = 10.0
    """How long one of several processes waits for the others before it gives up."""
    training: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for name in ("train", "val", "out"):
            check_path(name, getattr(self, name))
        if self.tokenizer is not None:
            check_path("tokenizer", self.tokenizer)
        for name in ("vocab_size", "batch_size", "seq_length"):
            check_count(name, getattr(self, name))
        for name in ("token_budget", "n_layer", "n_head", "n_embd", "threads"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_count("num_workers", self.num_workers, 0)
        check_seed(self.seed)
        check_choice("chunking", self.chunking, get_args(Chunking))
        check_choice("preset", self.preset, tuple(PRESETS))
        for name in ("export", "tensorboard"):
            check_flag(name, getattr(self, name))
        if not isinstance(self.device, str) or not self.device:
            raise ValueError(f"device={self.device!r}, a name is needed, such as cpu or auto")
        check_number("timeout_minutes", self.timeout_minutes, lambda minutes: 0 < minutes < 1e6, "a number above 0")
        if not isinstance(self.training, TrainConfig):
            raise ValueError(f"training={self.training!r}, a TrainConfig is needed")
