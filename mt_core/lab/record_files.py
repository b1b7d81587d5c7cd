"""A recorded run as files: its page, its tables, the command that made it. Measures and trains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mt_core.lab import recorded
from mt_core.lab.spans import Timeline
from mt_core.records import Step

_CURVE_ROWS = 1000
_MFU, _WAITING, _PACKED = 0.45, 0.01, 0.9  # what the course aims at on a GPU
_PLACES = ("runs", "out")  # settings that say where files go on this machine


def curve(steps: Sequence[Step]) -> str:
    """The steps of a run as CSV, evenly thinned where there are more than a thousand."""
    every = -(-len(steps) // _CURVE_ROWS)
    columns = ("step", "tokens", "seconds", "loss", "learning_rate", "gradient_norm")
    return recorded.as_csv(columns, [[getattr(s, name) for name in columns] for s in steps[every - 1 :: every]])


def spans(timelines: Mapping[str, Timeline]) -> str:
    """What each batch went through, as CSV, in seconds."""
    found = [
        (name, s.lane, s.kind, s.batch, round(s.start, 6), round(s.end, 6))
        for name, measured in timelines.items()
        for s in sorted(measured.spans, key=lambda s: s.start)
    ]
    return recorded.as_csv(("rows", "lane", "kind", "batch", "start", "end"), found)


def command(settings: Any) -> str:
    """The command line that records with these settings, a dataclass; where files go is left out."""
    parts = ["python -m mt_core.lab.record_run"]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value == field.default or field.name in _PLACES:
            continue
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        shown = Path(settings.corpus).name if field.name == "corpus" else shown
        parts.append(f"--{field.name.replace('_', '-')} {shown}")
    return " ".join(parts)


def verdicts(figures: Mapping[str, Any]) -> list[str]:
    """The figures beside what the course aims at on a GPU."""
    aims = {
        "MFU": (figures["mfu"], f"at least {_MFU:.0%}", lambda got: got >= _MFU),
        "waiting for data": (figures["stall"], f"under {_WAITING:.0%}", lambda got: got < _WAITING),
        "packed over plain": (figures["packed_ratio"], f"at least {_PACKED:.0%}", lambda got: got >= _PACKED),
    }
    found = []
    for name, (got, aim, reached) in aims.items():
        if got is None:
            found.append(f"{name}: unknown, for want of a peak rate of this device; the aim is {aim}")
        else:
            found.append(f"{name}: {got:.1%}; the aim, {aim}, is {'' if reached(got) else 'not '}reached")
    return found


def readme(figures: Mapping[str, Any], written_by: str) -> str:
    """The page that stands in the folder of a record."""
    lines = [
        f"# A run on {figures['device']}, {figures['date']}",
        "",
        "Recorded by this command, and by nothing else:",
        "",
        f"    {written_by}",
        "",
        *(f"- {line}" for line in recorded.run_lines(figures)[1:]),
        *(f"- {line}" for line in verdicts(figures)),
        "",
        f"Corpus: {figures['corpus']}, {figures['corpus_tokens']:,} tokens. It took {figures['minutes']} minutes.",
        "",
        "`run.json` holds these figures, `settings.json` settings and versions, `curve.csv` the loss,",
        "`evaluations.csv` the validation loss, `samples.csv` texts by the model, `timeline.csv` what each batch went",
        "through, and `transfers.json`, where it is there, copies to the device.",
    ]
    return "\n".join(lines) + "\n"
