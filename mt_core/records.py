"""What a training run records, in memory and as lines of JSON. Does not train."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step: loss over its batches (nats per token), gradient norm before clipping, and counts so far."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A pass over a validation loader. `bits_per_byte` is None without a tokenizer, `step` outside training."""

    nats_per_token: float
    n_targets: int
    bits_per_byte: float | None = None
    step: int | None = None
    epoch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A text that the model wrote after `step` steps."""

    step: int
    text: str


Record = Step | Evaluation | Sample


@dataclass
class History:
    """What a run recorded, in order."""

    steps: list[Step] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def add(self, record: Record) -> None:
        kinds: dict[type, list[Any]] = {Step: self.steps, Evaluation: self.evaluations, Sample: self.samples}
        kinds[type(record)].append(record)

    @classmethod
    def read(cls, run_dir: str | Path) -> History:
        """The history of a run from its `log.jsonl`, one record a line; a half-written last line is left out."""
        history, kinds = cls(), {"step": Step, "evaluation": Evaluation, "sample": Sample}
        for values in read_log(Path(run_dir) / "log.jsonl"):
            history.add(kinds[values.pop("kind")](**values))
        return history


def truncate_log(folder: Path, step: int) -> None:
    """Keep the records up to the step that is resumed from."""
    path, new = folder / "log.jsonl", folder / "log.jsonl.new"
    kept = [values for values in read_log(path) if values["step"] <= step] if path.exists() else []
    new.write_text("".join(json.dumps(values) + "\n" for values in kept), encoding="utf-8", newline="\n")
    new.replace(path)  # at once: a run killed here still has its records


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, in order, up to a line that was only half written."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def log_line(record: Record) -> str:
    return json.dumps({"kind": type(record).__name__.lower(), **asdict(record)}) + "\n"
