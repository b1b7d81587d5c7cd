"""Records of a training run as files that TensorBoard shows. Does not train. Needs its package when called."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from mt_core.records import Record, Sample


@contextmanager
def tensorboard_records(run_dir: Path) -> Iterator[Callable[[Record], None]]:
    """What writes records to `run_dir/tensorboard`; the file is closed at the end.

    A run that goes on writes its own steps anew: from its first record on, what is there from before is void.

    Raises:
        ValueError: the package is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError('TensorBoard is not installed: pip install -e ".[tensorboard]", or leave --tensorboard out')
    from torch.utils.tensorboard import SummaryWriter

    with ExitStack() as stack:
        writers: list[SummaryWriter] = []

        def write(record: Record) -> None:
            if not writers:
                made = SummaryWriter(str(run_dir / "tensorboard"), purge_step=record.step)  # type: ignore[no-untyped-call]
                writers.append(stack.enter_context(made))
            if isinstance(record, Sample):
                writers[0].add_text("sample", record.text, record.step)  # type: ignore[no-untyped-call]
                return
            for name, value in asdict(record).items():
                if name not in ("step", "epoch", "n_targets") and value is not None:
                    writers[0].add_scalar(f"{type(record).__name__.lower()}/{name}", value, record.step)  # type: ignore[no-untyped-call]

        yield write
