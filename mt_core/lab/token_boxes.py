"""Tokens as boxes: a text, cut where a tokenizer cuts it. Does not tokenize by itself."""

from __future__ import annotations

from collections.abc import Sequence, Sized

from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mt_core.lab.style import BLUE, GREY, PALE, style
from mt_core.tokenizer import SPECIAL_TOKENS, MicroTransformerTokenizer

_STRIP_WIDTH, _MOST_TOKENS = 62, 60  # characters in a line of boxes; boxes in a picture


def token_labels(tokenizer: MicroTransformerTokenizer, token_ids: Sequence[int]) -> list[str]:
    """What each id stands for, to be read: a space as "␣", bytes that are no whole character in hexadecimal.

    >>> tokenizer = MicroTransformerTokenizer.train(["low lower lowest"], vocab_size=264)
    >>> token_labels(tokenizer, tokenizer.encode("low é")["input_ids"])
    ['[CLS]', 'low', '␣', 'C3', 'A9', '[SEP]']
    """
    table = tokenizer.token_bytes()
    special = dict(zip(tokenizer.special_token_ids, SPECIAL_TOKENS, strict=True))
    return [special.get(i) or _readable(table[i]) for i in token_ids]


def _readable(token: bytes) -> str:
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        return token.hex(" ").upper()
    text = text.replace(" ", "␣").replace("\n", "\\n").replace("\t", "\\t")
    return text if all(_drawable(character) for character in text) else token.hex(" ").upper()


def _drawable(character: str) -> bool:
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans Mono"))  # it comes with matplotlib
    return character.isprintable() and font.get_char_index(ord(character)) != 0


def plot_tokens(labels: Sequence[str], token_ids: Sequence[int], *, ax: Axes | None = None) -> Axes:
    """Tokens as boxes in reading order, each with its id under it; special tokens are grey."""
    places, column, line = [], 0.0, 0
    for label, token_id in zip(labels, token_ids, strict=True):
        width = max(len(label), len(str(token_id))) + 0.8
        if column and column + width > _STRIP_WIDTH:
            column, line = 0.0, line + 1
        places.append((column, line, width))
        column += width + 0.3
    n_lines = line + 1
    ax = ax if ax is not None else plt.subplots(figsize=(8, 0.6 + 0.62 * n_lines))[1]
    for label, token_id, (left, row, width) in zip(labels, token_ids, places, strict=True):
        fill = PALE if label in SPECIAL_TOKENS else "white"
        ax.add_patch(Rectangle((left, -row - 0.45), width, 0.45, fc=fill, ec=BLUE, lw=1.2))
        middle, mono = left + width / 2, "DejaVu Sans Mono"
        ax.text(middle, -row - 0.225, label, ha="center", va="center", family=mono, size=10, parse_math=False)
        ax.text(middle, -row - 0.5, str(token_id), ha="center", va="top", size=8, color=GREY)
    ax.set(xlim=(-0.3, _STRIP_WIDTH + 0.3), ylim=(-n_lines + 0.15, 0.1), title="Which tokens is this text?")
    ax.axis("off")
    return ax


def draw_tokens(tokenizer: MicroTransformerTokenizer, text: str) -> tuple[Figure, str]:
    """A text cut into tokens: the picture, and the same in words. Of a long text, the first tokens."""
    token_ids = tokenizer.encode(text)["input_ids"]
    labels = token_labels(tokenizer, token_ids)
    shown = slice(0, _MOST_TOKENS)
    with style():
        figure = plot_tokens(labels[shown], token_ids[shown]).get_figure()
    assert isinstance(figure, Figure)
    pairs = ", ".join(f"{label} = {i}" for label, i in zip(labels[shown], token_ids[shown], strict=True))
    counts = f"{_count(text, 'character')}, {_count(text.encode('utf-8'), 'byte')}, {_count(token_ids, 'token')}"
    more = f", and {len(token_ids) - _MOST_TOKENS} more" if len(token_ids) > _MOST_TOKENS else ""
    return figure, f"{counts}: {pairs}{more}"


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
