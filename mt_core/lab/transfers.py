"""How fast tensors reach a CUDA device, and what page-locking costs: measured. Prints and stores nothing.

Bandwidths are in GB/s, 1 GB being 10**9 bytes. Each time is the median of several rounds. Wall time is taken from
before the call to after the device has finished, unless it says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import date
from statistics import median
from typing import Any

import torch
from torch import Tensor

SIZES = tuple(1 << n for n in range(10, 29, 2))  # bytes: 1 KiB to 256 MiB
BATCH, LARGE = 32 * 1024, 64 * 1024 * 1024  # bytes: 16 rows of 128 tokens, twice, and a batch of images
NEEDS_CUDA = "Nothing measured here: this cell needs a CUDA device. The next one shows figures from elsewhere."

_clock = time.perf_counter


def live(sizes: Sequence[int] = (BATCH, LARGE), rounds: int = 15) -> dict[str, Any] | None:
    """`measure` with small settings, and its words printed; without a CUDA device one fixed line, and None."""
    if not torch.cuda.is_available():
        print(NEEDS_CUDA)
        return None
    record = measure(sizes, rounds)
    print("\n".join(lines(record)))
    return record


def measure(sizes: Sequence[int] = SIZES, rounds: int = 25) -> dict[str, Any]:
    """All figures of the CUDA device in use, as a record that JSON can hold.

    Args:
        sizes: bytes of the tensors to copy, ascending.
        rounds: how often each time is taken.

    Returns:
        {"device", "date", "torch", "copies", "ways", "returns", "overlap"}:
        copies: for each size, GB/s from pageable and from pinned memory, and seconds to page-lock it;
        ways: seconds to bring a batch of 32 KiB to the device by three calls;
        returns: seconds until a call returns and until the device has finished, for the largest size;
        overlap: seconds of a copy, of a computation, of both on one stream and on two.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device was found: run this where there is one")
    _one_copy(torch.empty(BATCH, dtype=torch.uint8), 3)  # starts the driver, so that no first figure pays for it
    return {
        "device": torch.cuda.get_device_name(),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "copies": [_copies(size, rounds) for size in sizes],
        "ways": _ways(BATCH, rounds),
        "returns": _returns(max(sizes), rounds),
        "overlap": _overlap(max(sizes), rounds),
    }


def lines(record: dict[str, Any]) -> list[str]:
    """A record as lines to print, with the device and the date in the first."""
    found = [f"measured on {record['device']}, {record['date']}, PyTorch {record['torch']}:"]
    found.append(f"{'copied':>10}  {'from pageable':>13}  {'from pinned':>13}  {'page-locking':>12}")
    for row in record["copies"]:
        pageable, pinned = (f"{row[name]:8.2f} GB/s" for name in ("pageable_gb_s", "pinned_gb_s"))
        found.append(f"{_size(row['bytes']):>10}  {pageable}  {pinned}  {1000 * row['lock_seconds']:9.3f} ms")
    ways, returns, overlap = ({n: f"{1e6 * s:,.0f}" for n, s in record[k].items()} for k in _TIMES)
    found += [
        f"a batch of {_size(BATCH)}: .to {ways['to']} µs; already pinned and non_blocking {ways['pinned']} µs; "
        f".pin_memory().to {ways['pin_then_to']} µs",
        f"{_size(record['copies'][-1]['bytes'])} non_blocking: from pageable memory the call returns after "
        f"{returns['pageable']} µs, from pinned after {returns['pinned']} µs; that one arrives after "
        f"{returns['arrived']} µs",
        f"a copy {overlap['copy']} µs, a computation {overlap['compute']} µs: "
        f"both on one stream {overlap['one_stream']} µs, on two {overlap['two_streams']} µs",
    ]
    return found


_TIMES = ("ways", "returns", "overlap")


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1024:,.0f} KiB" if n_bytes < 1 << 20 else f"{n_bytes / (1 << 20):,.0f} MiB"


# -- one figure each -------------------------------------------------------------------------------------------------


def _seconds(work: Callable[[], object], rounds: int) -> float:
    """Median wall time of `work`, until the device has done it; two rounds go before."""
    took = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        start = _clock()
        work()
        torch.cuda.synchronize()
        took.append(_clock() - start)
    return median(took[2:])


def _one_copy(source: Tensor, rounds: int) -> float:
    target = torch.empty_like(source, device="cuda")
    return _seconds(lambda: target.copy_(source, non_blocking=True), rounds)


def _pageable(n_bytes: int) -> Tensor:
    """Memory as every program gets it; filled, so that the system has really given it."""
    return torch.full((n_bytes,), 1, dtype=torch.uint8)


def _pinned(n_bytes: int) -> Tensor:
    return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).fill_(1)


def _copies(n_bytes: int, rounds: int) -> dict[str, float]:
    return {
        "bytes": n_bytes,
        "pageable_gb_s": n_bytes / _one_copy(_pageable(n_bytes), rounds) / 1e9,
        "pinned_gb_s": n_bytes / _one_copy(_pinned(n_bytes), rounds) / 1e9,
        "lock_seconds": _lock(n_bytes, rounds),
    }


def _lock(n_bytes: int, rounds: int) -> float:
    """Seconds to page-lock memory that is there. PyTorch keeps what it locked: its own calls would not show it."""
    driver: Any = torch.cuda.cudart()
    took = []
    for _ in range(rounds):
        memory = _pageable(n_bytes)
        start = _clock()
        torch.cuda.check_error(driver.cudaHostRegister(memory.data_ptr(), n_bytes, 0))
        took.append(_clock() - start)
        torch.cuda.check_error(driver.cudaHostUnregister(memory.data_ptr()))
    return median(took)


def _ways(n_bytes: int, rounds: int) -> dict[str, float]:
    source, pinned = _pageable(n_bytes), _pinned(n_bytes)
    return {
        "to": _seconds(lambda: source.to("cuda"), rounds),
        "pinned": _seconds(lambda: pinned.to("cuda", non_blocking=True), rounds),
        "pin_then_to": _seconds(lambda: source.pin_memory().to("cuda", non_blocking=True), rounds),
    }


def _returns(n_bytes: int, rounds: int) -> dict[str, float]:
    target = torch.empty(n_bytes, dtype=torch.uint8, device="cuda")
    found: dict[str, list[float]] = {"pageable": [], "pinned": [], "arrived": []}
    for name, source in (("pageable", _pageable(n_bytes)), ("pinned", _pinned(n_bytes))):
        for _ in range(rounds):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            before.record()
            start = _clock()
            target.copy_(source, non_blocking=True)
            found[name].append(_clock() - start)
            after.record()
            torch.cuda.synchronize()
            if name == "pinned":
                found["arrived"].append(before.elapsed_time(after) / 1000)  # milliseconds, by the device's own clock
    return {name: median(seconds) for name, seconds in found.items()}


def _overlap(n_bytes: int, rounds: int) -> dict[str, float]:
    """A copy and a computation of about the same length, one after the other and at the same time."""
    source, target = _pinned(n_bytes), torch.empty(n_bytes, dtype=torch.uint8, device="cuda")
    side, matrix = torch.cuda.Stream(), torch.ones(2048, 2048, device="cuda")

    def copy() -> None:
        target.copy_(source, non_blocking=True)

    def compute(times: int) -> None:
        for _ in range(times):
            matrix @ matrix

    def both(stream: torch.cuda.Stream) -> None:
        with torch.cuda.stream(stream):
            copy()
        compute(times)

    alone = _seconds(copy, rounds)
    times = max(1, round(alone / (_seconds(lambda: compute(10), rounds) / 10)))
    return {
        "copy": alone,
        "compute": _seconds(lambda: compute(times), rounds),
        "one_stream": _seconds(lambda: both(torch.cuda.current_stream()), rounds),
        "two_streams": _seconds(lambda: both(side), rounds),
    }
