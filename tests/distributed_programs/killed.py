"""Started by torchrun: a run whose second process is killed in the middle of the first attempt.

torchrun --max-restarts=1 … killed.py FOLDER
"""

import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist
from kinds import CONFIG, loaders, make

from mt_core.distributed import processes, ranks_of
from mt_core.training import Step, training_steps

DIES_AT = 7  # after the checkpoint of step 4

if __name__ == "__main__":
    folder, attempt = Path(sys.argv[1]), os.environ["TORCHELASTIC_RESTART_COUNT"]
    with processes("cpu", timeout_minutes=1):
        for record in training_steps(make(), *loaders("ddp", *ranks_of()), CONFIG, run_dir=folder / "run"):
            if isinstance(record, Step):
                with (folder / f"{attempt}.{dist.get_rank()}").open("a", encoding="utf-8", newline="\n") as seen:
                    seen.write(f"{record.step}\n")
                if attempt == "0" and dist.get_rank() == 1 and record.step == DIES_AT:
                    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
