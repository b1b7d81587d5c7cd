"""Functions in Python text that a model wrote: which are whole, and which of those parse. Runs none of them."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable

PROMPT = "import os\n\n\ndef"  # what a model is given to write a function after
_DEF = re.compile(r"(?:async +)?def\b")
_CLOSING = (" ", "\t", ")", "]", "}", "#")  # such a line does not end what stands above it


def whole_functions(text: str, *, ended: bool) -> list[str]:
    """The functions at the left margin of a text, each from its `def` to the next line at the margin.

    What closes a bracket and a comment are not such lines. Decorators and methods are left out.

    >>> whole_functions("def f(x):\\n    return x\\n\\nf(1)\\ndef g(", ended=False)
    ['def f(x):\\n    return x']

    Args:
        ended: the text was ended by its writer; otherwise it was cut, and the function at its end, which may lack
            its last lines, does not count.
    """
    found: list[list[str]] = []
    inside = False
    for line in text.split("\n"):
        if line.strip() and not line.startswith(_CLOSING):
            inside = bool(_DEF.match(line))
            if inside:
                found.append([])
        if inside:
            found[-1].append(line)
    if inside and not ended:
        found.pop()
    return ["\n".join(lines).rstrip() for lines in found]


def parses(source: str) -> bool:
    """Whether this Python's own parser takes a text. Nothing is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd but allowed escapes
            ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a null byte is a ValueError
        return False
    return True


def count_functions(texts: Iterable[tuple[str, bool]]) -> dict[str, int]:
    """Of texts and whether each was ended by its writer: how many "texts", "whole" functions, and which "parsed".

    >>> count_functions([("def f(:\\n    pass\\nx = 1", True), ("def f():\\n    pass", True)])
    {'texts': 2, 'whole': 2, 'parsed': 1}
    """
    counts = {"texts": 0, "whole": 0, "parsed": 0}
    for text, ended in texts:
        functions = whole_functions(text, ended=ended)
        counts["texts"] += 1
        counts["whole"] += len(functions)
        counts["parsed"] += sum(map(parses, functions))
    return counts


def words(generated: dict[str, int], real: dict[str, int]) -> str:
    """Both counts in words: of the model's texts, and by the same rule of real files, to hold it against."""

    def share(counts: dict[str, int]) -> str:
        part = f"{counts['parsed'] / counts['whole']:.0%}, " if counts["whole"] else ""
        return f"{part}{counts['parsed']} of {counts['whole']} whole ones"

    return f"parse: {share(generated)} in {generated['texts']} texts; of real files {share(real)}"
