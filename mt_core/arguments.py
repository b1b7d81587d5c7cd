"""What a setting must be: refused with its name, what was got and what is needed. Knows nothing of what it is for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import numpy as np


def check_count(name: str, value: object, least: int = 1, most: int = 1 << 62) -> None:
    """Refuse anything but a whole number from `least` to `most`.

    Raises:
        ValueError: with the name and what was got.
    """
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if is_whole and value > most:  # type: ignore[operator]
        raise ValueError(f"{name}={value}, at most {most:,} is possible")
    if not is_whole or value < least:  # type: ignore[operator]
        raise ValueError(f"{name}={value!r}, a whole number {f'of at least {least}' if least else 'from 0'} is needed")


def check_seed(seed: object) -> None:
    """Refuse anything but a whole number from 0 to 2**64 - 1.

    Raises:
        ValueError: with what was got.
    """
    if isinstance(seed, np.integer):  # it would not go into a state, which is JSON
        raise ValueError(f"seed={seed!r}, a number of Python's is needed: int(seed)")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise ValueError(f"seed={seed!r}, a whole number from 0 to 2**64 - 1 is needed")


def check_number(name: str, value: object, fits: Callable[[float], bool], needed: str) -> None:
    """Refuse anything but a number for which `fits` is true; `needed` says which those are.

    Raises:
        ValueError: with the name and what was got.

    >>> check_number("rate", "0.1", lambda rate: rate > 0, "a number above 0")
    Traceback (most recent call last):
    ValueError: rate='0.1', a number above 0 is needed
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        is_number = False
    if not is_number or not fits(value):  # type: ignore[arg-type]
        raise ValueError(f"{name}={value!r}, {needed} is needed")


def check_flag(name: str, value: object) -> None:
    """Refuse anything but True and False: the text "no" would count as True.

    Raises:
        ValueError: with the name and what was got.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={value!r}, True or False is needed")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse anything but one of these words.

    Raises:
        ValueError: with the name, what was got and what there is.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r}, it must be {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}")


def check_path(name: str, value: object) -> None:
    """Refuse what cannot name a file.

    Raises:
        ValueError: with the name and what was got.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if path == "":  # Path("") would be the folder that the program runs in
        raise ValueError(f"{name} is an empty name: name a file, or write '.' for this folder")
    if not isinstance(path, str) or "\0" in path:
        raise ValueError(f"{name}={value!r}, the name of a file or folder is needed: a text or a pathlib.Path")
