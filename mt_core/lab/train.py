"""The main job without a notebook: train on any corpus, print the table, draw the loss beside its baselines.

    python -m mt_core.lab.train [DATA] [options]

DATA is a folder with train.jsonl and val.jsonl (the stories in `data` by default), a text, JSONL or Parquet
file, packed or not, or a corpus by name (`python -m mt_core.lab.corpora list`). Options are those of
`python -m mt_core.training`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import tyro
from matplotlib import pyplot as plt

from mt_core.command_line import Run, RunSettings, in_one_line, run, summary, table
from mt_core.corpus import iterate_documents, kind_of, read_documents, read_lines
from mt_core.lab.corpora import Corpus, resolve
from mt_core.lab.plots import plot_loss
from mt_core.lab.stories import StoryError, read_bits
from mt_core.lab.style import style
from mt_core.lab.widgets import png
from mt_core.store import TokenStore
from mt_core.training import TrainConfig, evaluate

_ROOT = Path(__file__).resolve().parents[2]
_VAL_SHARE = 0.1  # of a corpus that comes in one file


@dataclass(frozen=True, kw_only=True)
class AgainstFloor:
    """Validation loss against the floor, story by story.

    `floor` and `loss` are nats per token over the same targets. `error` is one standard error of the gap:
    how much it would vary with other stories of the same number.
    """

    floor: float
    loss: float
    error: float
    n_stories: int

    @property
    def excess(self) -> float:
        """By what share of the floor the loss is above it."""
        return self.loss / self.floor - 1


def unigram_entropy(store: TokenStore) -> float:
    """Entropy (nats per token) of the tokens of a store by their frequencies, the loss of a model that knows
    how often each token comes and nothing else. [CLS], which is never predicted, is left out."""
    counts = np.bincount(store.token_ids, minlength=store.vocab_size).astype(float)
    starts = np.concatenate(([0], store.document_ends[:-1].astype(np.int64)))
    np.subtract.at(counts, store.token_ids[starts], 1)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def compare_with_floor(losses: Sequence[float], bits: Sequence[float], targets: Sequence[int]) -> AgainstFloor:
    """Summed losses (nats) of whole stories against their exact bits.

    >>> round(compare_with_floor([60.0, 80.0], [80.0, 100.0], [50, 60]).excess, 3)
    0.122
    """
    nats = np.asarray(bits) * math.log(2)
    gap, total = np.asarray(losses) - nats, int(np.sum(targets))
    error = float(gap.std(ddof=1)) * math.sqrt(len(gap)) / total
    return AgainstFloor(
        floor=float(nats.sum()) / total, loss=float(np.sum(losses)) / total, error=error, n_stories=len(gap)
    )


def measure_floor(result: Run) -> AgainstFloor | None:
    """The finished model of a run on stories against their floor; None if the corpus is not of stories.

    The bits of each story are computed from its text, not read from the file.
    """
    if result.settings.chunking != "per_document":
        return None
    try:
        bits = [read_bits(document.text) for document in iterate_documents(result.settings.val)]
    except StoryError:
        return None
    rows = result.val_loader.dataset
    lengths = np.diff(rows.store.document_ends.astype(np.int64), prepend=0)  # type: ignore[attr-defined]
    if len(rows) != len(bits):  # type: ignore[arg-type]
        raise ValueError(
            f"the longest story has {lengths.max()} tokens and does not fit one row: raise --seq-length to "
            f"{lengths.max() - 1}, so that each story is read whole and can be compared with its floor"
        )
    losses: list[float] = []
    evaluate(result.model, result.val_loader, per_row=losses)
    return compare_with_floor(losses, bits, (lengths - 1).tolist())


def draw_loss(result: Run, floor: AgainstFloor | None, path: Path) -> str:
    """Write the loss picture; returns its words, which also go to a text file beside it."""
    steps, evaluations = result.history.steps, result.history.evaluations
    unigram = unigram_entropy(result.train_loader.dataset.store)  # type: ignore[attr-defined]
    references = {"ln(V)": math.log(len(result.tokenizer)), "unigram entropy": unigram}
    if floor is not None:
        references["floor"] = floor.floor
    with style():
        figure, ax = plt.subplots(figsize=(8, 4.2))
        plot_loss(
            [s.step for s in steps],
            [s.loss for s in steps],
            val_steps=[e.step or 0 for e in evaluations],
            val_losses=[e.nats_per_token for e in evaluations],
            references=references,
            ax=ax,
        )
        path.write_bytes(png(figure))
    words = (
        f"Training loss falls from {steps[0].loss:.2f} to {steps[-1].loss:.2f} nats per token in {len(steps)} steps; "
        f"validation ends at {evaluations[-1].nats_per_token:.3f}. Lines: "
        + ", ".join(f"{name} {value:.3f}" for name, value in references.items())
    )
    path.with_suffix(".txt").write_text(words + "\n", encoding="utf-8", newline="\n")
    return words


def split_file(path: Path, folder: Path) -> tuple[Path, Path]:
    """The first nine tenths of a file, by lines, and the rest: for a corpus that comes in one piece.

    It is read twice, a line at a time. What is packed is unpacked, and Parquet becomes JSONL.

    Raises:
        CorpusError: the file cannot be read.
        ValueError: it has too few lines.
    """
    ends = np.fromiter(map(len, _lines(path)), np.int64).cumsum()  # bytes up to the end of each line
    n_train = int(np.searchsorted(ends, ends[-1] * (1 - _VAL_SHARE))) + 1 if len(ends) else 0
    if not 0 < n_train < len(ends):
        raise ValueError(
            f"{path} has {len(ends)} line{'' if len(ends) == 1 else 's'}, too few to set a tenth aside for "
            "validation: name a folder with train.jsonl and val.jsonl instead"
        )
    folder.mkdir(parents=True, exist_ok=True)
    suffix = ".txt" if kind_of(path, None, "document") == "document" else ".jsonl"
    parts = folder / f"train{suffix}", folder / f"val{suffix}"
    lines = _lines(path)
    for part, chosen in zip(parts, (islice(lines, n_train), lines), strict=True):
        with part.open("wb") as file:
            file.writelines(chosen)
    return parts


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file with their ends, unpacked; of a table its documents as JSONL."""
    if kind_of(path, None, "document") == "parquet":
        return (json.dumps({"text": text}).encode() + b"\n" for text in read_documents(path))
    return (line for _, line in read_lines(path, 0, None, [0]))


def default_settings(corpus: Corpus, name: str) -> RunSettings:
    """Settings that suit a corpus: the stories one to a row, anything else as one stream.

    A corpus in one file stands as both `train` and `val`, until `split_file` has taken it apart.
    """
    stories = _is_story(next(_lines(corpus.train), b""))
    tokenizer = corpus.train.parent / "tokenizer"
    return RunSettings(
        train=corpus.train,
        val=corpus.val or corpus.train,
        tokenizer=tokenizer if stories and tokenizer.is_dir() else None,
        out=Path("runs") / name,
        batch_size=16,
        seq_length=122 if stories else 128,  # the longest story of data/ has 121 targets
        chunking="per_document" if stories else "contiguous",
        n_layer=3,
        training=TrainConfig(epochs=3, max_steps=1700, learning_rate=0.024, optimizer="muon", evaluate_every=500),
    )


def _is_story(line: bytes) -> bool:
    try:
        return "bits" in json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return False


def main(arguments: Sequence[str] | None = None) -> None:
    """Resolve the corpus, train, compare, print, draw."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    word = arguments.pop(0) if arguments and not arguments[0].startswith("-") else str(_ROOT / "data")
    try:
        if word == str(_ROOT / "data") and not (_ROOT / "data").is_dir():
            raise ValueError(
                "the stories are in the folder data/ of the course, which is not installed with the package: "
                "python -m mt_core.lab.stories --out data writes them again, then name that folder: "
                "python -m mt_core.lab.train data"
            )
        corpus = resolve(word)
        defaults = default_settings(corpus, Path(word).stem.replace(":", "-"))
        settings = tyro.cli(RunSettings, default=defaults, args=arguments, prog="python -m mt_core.lab.train [DATA]")
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("\nstopped before training") from None
    with in_one_line(settings.out):
        if settings.val == settings.train:
            train, val = split_file(settings.train, settings.out / "data")
            settings = replace(settings, train=train, val=val)
        print(f"training on {corpus.title}; records and checkpoints go to {settings.out}", flush=True)
        result = run(settings)
        floor = measure_floor(result)
    rows = summary(result)
    if floor is not None:
        rows.append(("floor", f"{floor.floor:.4f} nats per token, the entropy of these {floor.n_stories:,} stories"))
        rows.append(("above the floor", f"{floor.excess:.1%} ± {floor.error / floor.floor:.1%} (one standard error)"))
    picture = settings.out / "loss.png"
    words = draw_loss(result, floor, picture)
    print(table(rows), f"\npicture  {picture}: {words}", sep="\n")
    if result.history.samples:
        print(f"\na text by the model:\n{result.history.samples[-1].text}")


if __name__ == "__main__":
    main()
