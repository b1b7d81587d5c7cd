"""Training state to disk and back. Does not train.

A checkpoint is a folder of safetensors and JSON, so nothing is unpickled. It is written under a temporary
name and renamed when whole, and renamed again before it is removed: what has the name of a checkpoint is whole.
Checksums of its files show what changed on the disk since.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mt_core.files import file_sha256, json_sha256

_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_NAME = re.compile(r"step-(\d{8})")


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or belongs to another run."""


def save_model(model: torch.nn.Module, path: Path) -> None:
    """Write the weights alone, tied ones once."""
    state = model.state_dict()
    seen: dict[int, str] = {}
    kept = {name: t.detach().cpu() for name, t in state.items() if seen.setdefault(t.data_ptr(), name) == name}
    save_file({name: tensor.contiguous() for name, tensor in kept.items()}, path, metadata={"format": "pt"})


def load_model(model: torch.nn.Module, path: Path) -> None:
    """Read weights written by `save_model` into a model of the same shape.

    Raises:
        CheckpointError: the file is missing or damaged, or its tensors are not those of the model.
    """
    found = _load_tensors(path)
    ours = model.state_dict()
    tied = {
        name: next(n for n, t in ours.items() if t.data_ptr() == tensor.data_ptr()) for name, tensor in ours.items()
    }
    own = {name: tensor for name, tensor in ours.items() if tied[name] == name}
    wrong = [n for n in own if n not in found or found[n].shape != own[n].shape]
    wrong += [n for n in found if n not in own]
    if wrong:
        got = tuple(found[wrong[0]].shape) if wrong[0] in found else "nothing"
        needed = tuple(own[wrong[0]].shape) if wrong[0] in own else "nothing"
        raise CheckpointError(
            f"{path} does not fit this model: {wrong[0]} is {got} there and {needed} here. "
            "Make the model with the settings it was trained with"
        )
    model.load_state_dict({name: found[tied[name]] for name in ours})


def save_checkpoint(
    folder: Path,
    step: int,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    state: dict[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Write `folder/step-XXXXXXXX` and remove all but the newest `keep`. `state` is JSON, for the caller to use.

    One run writes into a folder at a time: what a killed one left half-done there is removed.
    """
    target = folder / f"step-{step:08d}"
    partial = _unfinished(target)
    try:
        partial.mkdir(parents=True)
        save_model(model, partial / _MODEL)
        tensors, groups = {}, []
        for number, optimizer in enumerate(optimizers):
            saved = optimizer.state_dict()
            groups.append(saved["param_groups"])
            for parameter, values in saved["state"].items():
                for name, value in values.items():
                    tensors[f"{number}.{parameter}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        save_file(tensors, partial / _OPTIMIZER)
        content = {"step": step, "param_groups": groups, **state}
        digests = {name: file_sha256(partial / name) for name in (_MODEL, _OPTIMIZER)} | {_STATE: json_sha256(content)}
        text = json.dumps({**content, "sha256": digests}, indent=1)
        (partial / _STATE).write_text(text, encoding="utf-8", newline="\n")
        for file in partial.iterdir():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        if target.exists():
            target.rename(_unfinished(target))
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in _checkpoints(folder)[:-keep]:
        with suppress(OSError):  # someone reads it, on Windows: then it goes next time
            old.rename(_unfinished(old))
    for unfinished in folder.glob("step-*.partial-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the highest step, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def read_state(path: Path) -> dict[str, Any]:
    """The JSON state that was given to `save_checkpoint`, with "step" and the optimizers' "param_groups".

    Raises:
        CheckpointError: missing or damaged.
    """
    return _read_state(path)[0]


def _read_state(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The state, and the checksum of each file."""
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or not {"step", "param_groups", "sha256"} <= set(state):
            raise ValueError("it lacks what every checkpoint has")
        digests = state.pop("sha256")
        if not isinstance(digests, dict) or set(digests) != {_MODEL, _OPTIMIZER, _STATE}:
            raise ValueError("it lacks a checksum")
        if digests[_STATE] != json_sha256(state):
            raise ValueError("it is not as it was written")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path / _STATE} cannot be read ({error}): remove {path} to use the one before"
        ) from None
    return state, digests


def load_checkpoint(path: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """Restore model and optimizers; returns `read_state(path)`.

    Raises:
        CheckpointError: damaged, or of another model or optimizer.
    """
    state, digests = _read_state(path)
    groups = state["param_groups"]
    if len(groups) != len(optimizers):
        raise CheckpointError(
            f"{path} holds {len(groups)} optimizers, this run has {len(optimizers)}: resume with the same settings"
        )
    for name in (_MODEL, _OPTIMIZER):
        if (path / name).is_file() and file_sha256(path / name) != digests[name]:
            raise CheckpointError(f"{path / name} is not as it was written: remove {path} to use the one before")
    tensors = _load_tensors(path / _OPTIMIZER)
    load_model(model, path / _MODEL)
    for number, (optimizer, param_groups) in enumerate(zip(optimizers, groups, strict=True)):
        entries: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            owner, parameter, name = key.split(".", 2)
            if int(owner) == number:
                entries.setdefault(int(parameter), {})[name] = tensor
        try:
            optimizer.load_state_dict({"state": entries, "param_groups": param_groups})
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{path} holds another optimizer ({error}): resume with the same settings") from None
    return state


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if _NAME.fullmatch(p.name) and p.is_dir())


def _unfinished(path: Path) -> Path:
    """A new name for a checkpoint that is not whole yet, or no longer."""
    return path.with_name(f"{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return {name: tensor.clone() for name, tensor in load_file(path).items()}  # the file is not held open
    except Exception as error:  # safetensors raises its own type, OSError or FileNotFoundError
        raise CheckpointError(f"{path} is missing or damaged ({error}): remove its folder, or train anew") from None
