"""Batches on a device, copied there one ahead of the step. Does not build batches, pin them or train.

    batches = prefetch_to_device(loader, device)
    for batch in batches:
        step(batch)

The same lines run everywhere. On a CUDA device batch i + 1 is copied on a stream of its own while the step works on
batch i; on the processor there is nothing to copy, and the loader's own batches come through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_END = object()


class DevicePrefetcher:
    """A loader whose batches are on a device; see `prefetch_to_device`. Each pass over it is one over the loader."""

    def __init__(self, loader: Iterable[Any], device: torch.device) -> None:
        self.loader, self.device = loader, device
        # The loader's, from when the batch that was handed out last was the last it had given; None: as it is now.
        self._state: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)  # now, not at the first batch: it may begin an epoch, or end another pass
        self._state = None
        if self.device.type == "cpu":
            return batches
        if self.device.type == "cuda":
            return self._one_ahead(batches)
        return (each_tensor(batch, lambda tensor: tensor.to(self.device)) for batch in batches)

    def _one_ahead(self, batches: Iterator[Any]) -> Iterator[Any]:
        side = _SideStream(self.device)
        self._state = self._loader_state()  # nothing is handed out yet
        following = side.start(next(batches, _END))
        while following is not _END:
            batch, state = following, self._loader_state()
            side.finish(batch)  # before the next copy starts: the step is to wait for its own batch alone
            following = side.start(next(batches, _END))
            self._state = state
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The loader's state as of the batch that was handed out last: the one that waits ahead does not count.

        Raises:
            TypeError: the loader has no state.
        """
        state = self._state if self._state is not None else self._loader_state()
        if state is None:
            raise TypeError(f"{type(self.loader).__name__} has no state_dict: to resume, prefetch from a TokenLoader")
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, with or without a prefetcher, on this device or another.

        Raises:
            TypeError: the loader has no state.
            LoaderStateError: a `TokenLoader` refuses the state, or a pass over it is running.
        """
        if not hasattr(self.loader, "load_state_dict"):
            raise TypeError(
                f"{type(self.loader).__name__} has no load_state_dict: to resume, prefetch from a TokenLoader"
            )
        self.loader.load_state_dict(state)
        self._state = None

    def _loader_state(self) -> dict[str, Any] | None:
        return self.loader.state_dict() if hasattr(self.loader, "state_dict") else None


def prefetch_to_device(loader: Iterable[Any], device: torch.device | str) -> DevicePrefetcher:
    """The batches of a loader, in its order, on a device.

    Copy and step overlap only where batches are pinned, which a `TokenLoader` does where it helps; from other memory
    the copy is as right, and waited for. Pinning here would cost more than it brings (PyTorch's tutorial on
    pinned memory measured it).

    Args:
        loader: gives batches: tensors, or mappings, tuples and lists of them. It must not write into a batch that it
            gave: the copy may still be reading it.
        device: "cuda" copies one batch ahead; "cpu" hands the loader's batches through; others copy each in its turn.

    >>> batches = prefetch_to_device([torch.tensor([1, 2]), torch.tensor([3])], "cpu")
    >>> len(batches), [batch.tolist() for batch in batches]
    (2, [[1, 2], [3]])
    """
    return DevicePrefetcher(loader, torch.device(device))


class _SideStream:
    """Copies on a CUDA stream of its own, beside the one that computes."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    def start(self, batch: Any) -> Any:
        """Order the copy of a batch; returns at once if it is pinned."""
        with torch.cuda.stream(self.stream):
            return each_tensor(batch, lambda tensor: tensor.to(self.device, non_blocking=True))

    def finish(self, batch: Any) -> None:
        """Let what the caller orders from here on wait for the copies that were ordered so far."""
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        # The memory belongs to the side stream: unless told who else reads it, the allocator would give it to the
        # next copy as soon as Python lets go of the batch, with the step perhaps not done (torch.Tensor.record_stream).
        each_tensor(batch, lambda tensor: tensor.record_stream(current))


def each_tensor(batch: Any, change: Callable[[Tensor], Any]) -> Any:
    """The batch with `change` done to each tensor in it."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {name: each_tensor(value, change) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(each_tensor(value, change) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(each_tensor(value, change) for value in batch)
    return batch
