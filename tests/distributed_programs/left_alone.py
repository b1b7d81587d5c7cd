"""Started by hand, twice: a run in which the second process dies or hangs, with nobody to look after the first.

left_alone.py dies|hangs
"""

import os
import signal
import sys
import time

import torch.distributed as dist
from kinds import CONFIG, loaders, make

from mt_core.distributed import processes, ranks_of
from mt_core.training import training_steps

if __name__ == "__main__":
    with processes("cpu", timeout_minutes=0.1):
        for record in training_steps(make(), *loaders("ddp", *ranks_of()), CONFIG):
            print(record.step, flush=True)
            if dist.get_rank() == 1 and record.step == 3:
                if sys.argv[1] == "dies":
                    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
                time.sleep(600)
