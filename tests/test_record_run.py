"""The program that records a run: the whole way on a CPU with a tiny corpus, and what it does where things fail."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mt_core import MicroTransformer, TokenStore, TrainConfig, TransformerDataset
from mt_core.lab import generated_code, record_files, record_run, recorded, step_speed
from mt_core.lab.record_run import RecordSettings
from mt_core.records import Step

SOURCE = "import os\n\n\ndef add_{n}(a, b):\n    return a + b + {n}\n\n\nprint(add_{n}(1, 2))\n"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RecordSettings:
    """A tiny corpus of Python files, and the smallest run."""
    corpus = tmp_path_factory.mktemp("corpus")
    for name, numbers in (("train", range(60)), ("val", range(100, 110))):
        lines = [json.dumps({"text": SOURCE.format(n=n), "path": f"m{n}.py"}) + "\n" for n in numbers]
        (corpus / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
    return RecordSettings(
        corpus=str(corpus),
        budget_minutes=60.0,
        preset="1m",
        seq_length=32,
        vocab_size=300,
        batch_sizes=(8, 4),
        measured_steps=3,
        functions=3,
        max_steps=4,
        device="cpu",
        runs=corpus / "runs",
        out=corpus / "out",
    )


@pytest.fixture(scope="module")
def made(settings: RecordSettings) -> Path:
    return record_run.record_run(settings)


def test_the_whole_way_is_recorded_and_read_back(settings: RecordSettings, made: Path) -> None:
    assert {path.name for path in made.iterdir()} == {
        "README.md",
        "run.json",
        "settings.json",
        "curve.csv",
        "evaluations.csv",
        "samples.csv",
        "timeline.csv",
    }, "and no transfers.json: nothing was copied to a device"
    assert re.fullmatch(r"cpu-\d{4}-\d\d-\d\d", made.name) and made.parent == settings.runs
    record = recorded.load_run(settings.runs)
    assert record is not None
    assert record["steps"] == 4 and record["tokens"] == 4 * 8 * 32 and record["curve"]["step"] == [1, 2, 3, 4]
    assert record["mfu"] is None and 0 <= record["stall"] < 1 and record["packed_ratio"] > 0
    assert record["functions"]["generated"]["texts"] == 3
    assert record["functions"]["real"] == {"texts": 10, "whole": 10, "parsed": 10}
    assert set(record["stages"]) == {"text", "plain", "packed", "transfers", "training", "samples"}
    assert recorded.run_lines(record)[0].startswith("RECORDED, not from this machine: cpu, ")


def test_tables_have_a_line_for_each_thing_and_no_place_of_this_machine(settings: RecordSettings, made: Path) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with (made / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    assert [row["step"] for row in rows("evaluations.csv")] == ["2", "4"]
    assert len(rows("samples.csv")) == 4
    batches = {(row["rows"], row["batch"]) for row in rows("timeline.csv") if row["kind"] == "compute"}
    assert batches == {(name, str(b)) for name in ("plain", "packed") for b in range(3)}
    place = str(settings.runs.parent)
    for path in made.iterdir():
        text = path.read_text(encoding="utf-8")
        assert place not in text and json.dumps(place)[1:-1] not in text and "\r\n" not in text, path.name


def test_weights_and_checkpoints_stay_in_the_run_directory(settings: RecordSettings, made: Path) -> None:
    work = settings.out / made.name
    assert (work / "model.safetensors").is_file() and (work / "log.jsonl").is_file()
    assert (work / "export-4" / "config.json").is_file()


def test_its_page_tells_the_command_and_how_far_the_aims_were_reached(settings: RecordSettings, made: Path) -> None:
    page = (made / "README.md").read_text(encoding="utf-8")
    assert "    python -m mt_core.lab.record_run --corpus" in page and "--batch-sizes 8 4 " in page
    assert "MFU: unknown" in page and "waiting for data: " in page
    figures = {"mfu": 0.5, "stall": 0.02, "packed_ratio": 0.9}
    assert [line.endswith("is reached") for line in record_files.verdicts(figures)] == [True, False, True]
    assert record_files.command(RecordSettings()) == "python -m mt_core.lab.record_run"


@pytest.mark.parametrize(
    ("n", "written"), [(1000, range(1, 1001)), (1001, range(2, 1001, 2)), (2500, range(3, 2501, 3))]
)
def test_a_long_curve_is_thinned_evenly(n: int, written: range) -> None:
    one = Step(step=1, epoch=0, loss=1.0, learning_rate=0.1, gradient_norm=1.0, tokens=8, seconds=1.0)
    table = record_files.curve([replace(one, step=i) for i in range(1, n + 1)]).splitlines()
    assert [int(line.split(",")[0]) for line in table[1:]] == list(written)


def test_a_budget_that_is_used_up_records_nothing(
    settings: RecordSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = replace(settings, budget_minutes=1e-6, runs=tmp_path / "runs", out=tmp_path / "out")
    with pytest.raises(ValueError, match="raise budget_minutes"):
        record_run.record_run(short)
    assert not (tmp_path / "runs").exists()
    assert "tokens/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "no-such"], "try --device cpu"),
        (["--device", "cpu", "--budget-minutes", "0"], "must be above 0"),
        (["--device", "cpu", "--batch-sizes", "0"], "number of rows"),
        (["--device", "cpu", "--corpus", "no-such-corpus"], "no known corpus"),
    ],
)
def test_what_cannot_work_ends_in_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        record_run.main(arguments)
    assert words in str(caught.value) and str(caught.value).startswith("error: ")


def test_a_run_that_is_stopped_says_that_nothing_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(record_run, "record_run", stopped)
    with pytest.raises(SystemExit, match="stopped; nothing was recorded"):
        record_run.main([])


# -- the largest batch -----------------------------------------------------------------------------------------------


def tiny() -> MicroTransformer:
    torch.manual_seed(0)
    return MicroTransformer(vocab_size=64, n_layer=1, n_head=1, n_embd=8)


@pytest.fixture
def rows() -> TransformerDataset:
    return TransformerDataset(TokenStore.from_token_ids([n % 64 for n in range(801)], vocab_size=64), seq_length=8)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A device that holds no more than 4 rows; gives the sizes that were tried."""
    tried: list[int] = []
    backward = step_speed.OneProcess.backward

    def limited(self: Any, batches: Any) -> float:
        tried.append(len(batches[0]["labels"]))
        if tried[-1] > 4:
            raise torch.OutOfMemoryError("out of memory")
        return backward(self, batches)

    monkeypatch.setattr(step_speed.OneProcess, "backward", limited)
    return tried


def test_sizes_are_tried_until_one_fits_and_it_says_so(
    rows: TransformerDataset, small_memory: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    found = step_speed.largest_batch(rows, tiny, TrainConfig(), (16, 8, 4, 2), n_steps=2)
    assert found.batch_size == 4 and found.timeline.n_batches == 2 and found.first_step > 0
    assert list(dict.fromkeys(small_memory)) == [16, 8, 4]
    assert capsys.readouterr().out.count("does not fit") == 2
    with pytest.raises(ValueError, match="name smaller ones"):
        step_speed.largest_batch(rows, tiny, TrainConfig(), (16, 8), n_steps=2)


def test_measured_steps_are_those_of_fit(rows: TransformerDataset) -> None:
    from mt_core import TokenLoader, fit

    config = TrainConfig(
        max_steps=3, warmup_steps=0, schedule="wsd", decay_share=0.01
    )  # a constant rate but at the end
    one, other = tiny(), tiny()
    fit(one, TokenLoader(rows, batch_size=4, shuffle=True), config=replace(config, max_steps=3), progress=False)
    step, batches = step_speed.stepper(other, config), iter(TokenLoader(rows, batch_size=4, shuffle=True))
    for _ in range(3):
        step(next(batches))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_new_model_is_compiled_for_the_size_of_its_own_batches() -> None:
    """Not for any size, which PyTorch would do if it remembered the sizes of the model before."""
    sizes: list[Any] = []

    def compiler(graph: Any, inputs: list[Any]) -> Any:
        sizes.append([type(value) for value in inputs if not isinstance(value, torch.Tensor)])
        return graph

    for rows in (16, 8):
        torch.compile(double, backend=compiler)(torch.ones(rows, 4))
        step_speed.release_memory()
    assert sizes == [[], []]


def double(x: torch.Tensor) -> torch.Tensor:
    return x + x


def test_too_few_rows_to_measure_are_refused(rows: TransformerDataset) -> None:
    with pytest.raises(ValueError, match="there are 1 batches of 60 rows, 33 are needed"):
        step_speed.measure_steps(rows, tiny, TrainConfig(), 60)


# -- functions in generated text -------------------------------------------------------------------------------------

TEXT = """import os

@cached
async def first(
    a,
):
    return a
# a comment at the margin
    more

class A:
    def method(self):
        pass

def broken(:
    pass
x = 1
def last():
    return 1
"""


def test_functions_are_cut_at_the_margin() -> None:
    found = generated_code.whole_functions(TEXT, ended=True)
    assert [source.split("(")[0] for source in found] == ["async def first", "def broken", "def last"]
    assert found[0].endswith("more") and found[2] == "def last():\n    return 1"
    assert len(generated_code.whole_functions(TEXT, ended=False)) == 2, "the last one was cut by the limit"
    assert generated_code.whole_functions("define = 1\n  def inner(): pass", ended=True) == []


@pytest.mark.parametrize(
    ("source", "good"),
    [
        ("def f():\n    return '\\d'", True),
        ("def f(:\n    pass", False),
        ("def f():\n    '\0'", False),
        ("def f():", False),
        ("def f(): return " + "(" * 5000, False),
    ],
)
def test_what_the_parser_takes_counts_as_parsed(source: str, good: bool, recwarn: pytest.WarningsRecorder) -> None:
    assert generated_code.parses(source) is good
    assert len(recwarn) == 0


def test_counts_are_held_against_those_of_real_files() -> None:
    counts = generated_code.count_functions([(TEXT, True), (TEXT, False), ("no function", True)])
    assert counts == {"texts": 3, "whole": 5, "parsed": 3}
    said = generated_code.words(counts, {"texts": 1, "whole": 4, "parsed": 4})
    assert said == "parse: 60%, 3 of 5 whole ones in 3 texts; of real files 100%, 4 of 4 whole ones"
    assert "0 of 0" in generated_code.words({"texts": 1, "whole": 0, "parsed": 0}, counts)


def test_real_files_pass_by_the_same_rule() -> None:
    root = Path(record_run.__file__).parent
    counts = generated_code.count_functions((path.read_text(encoding="utf-8"), True) for path in root.glob("*.py"))
    assert counts["whole"] > 100 and counts["parsed"] == counts["whole"]
