"""One run from files to a run directory: what it writes, what it says, and that it goes on with what it wrote."""

import json

import pytest
import torch

from mt_core import MicroTransformer
from mt_core.command_line import RunSettings, choose_device, main, run, summary, tokens_per_second
from mt_core.export import load_pretrained
from mt_core.flops import flops_per_token
from mt_core.lab.stories import write_corpus
from mt_core.records import History, Step
from mt_core.training import TrainConfig
from mt_core.workers import choose_workers


@pytest.fixture
def files(tmp_path):
    for name, seed in (("train", 0), ("val", 1)):
        write_corpus(tmp_path / f"{name}.jsonl", seed=seed, count=60)
    return tmp_path


def settings(folder, **changes) -> RunSettings:
    training = TrainConfig(max_steps=3, warmup_steps=1)
    return RunSettings(
        **{
            "train": folder / "train.jsonl",
            "val": folder / "val.jsonl",
            "out": folder / "run",
            "vocab_size": 300,
            "batch_size": 4,
            "seq_length": 16,
            "n_layer": 1,
            "training": training,
        }
        | changes
    )


def test_a_preset_is_the_shape_and_single_settings_change_it(files):
    result = run(settings(files, preset="5m", n_embd=64), progress=False)
    shape = result.model.config
    assert (shape.n_layer, shape.n_head, shape.n_embd) == (1, 4, 64)
    saved = json.loads((files / "run" / "settings.json").read_text(encoding="utf-8"))
    assert saved["model"]["n_embd"] == 64 and saved["preset"] == "5m"
    MicroTransformer(**saved["model"]).load_state_dict(result.model.state_dict())


def test_the_seed_chooses_weights_and_order_and_workers_are_those_asked_for(files, monkeypatch):
    given = []
    monkeypatch.setattr("mt_core.command_line.fit", lambda model, train, *_, **__: given.append((model, train)))
    for number, seed in enumerate((0, 0, 1)):
        with pytest.raises(AttributeError):  # nothing is trained here
            run(settings(files, seed=seed, num_workers=number, out=files / f"{number}"), progress=False)
    weights = [model.embed_tokens.weight for model, _ in given]
    orders = [torch.cat([batch["input_ids"] for batch in train]) for _, train in given]
    for found in (weights, orders):
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert [train.num_workers for _, train in given] == [choose_workers(n).num_workers for n in range(3)]


def test_an_export_is_of_the_last_step_and_stays_when_the_command_is_given_again(files):
    first = run(settings(files, export=True), progress=False)
    folder = files / "run" / "export-3"
    model, tokenizer = load_pretrained(folder)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(ids), first.model(ids)) and len(tokenizer) == 300
    run(settings(files, export=True), progress=False)
    assert [path.name for path in (files / "run").glob("export*")] == ["export-3"]


def test_tensorboard_gets_the_records_and_a_run_that_goes_on_replaces_its_own(files):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    longer = TrainConfig(max_steps=3, warmup_steps=1, checkpoint_every=2)
    result = run(settings(files, tensorboard=True, training=longer), progress=False)
    newest = max((files / "run" / "checkpoints").iterdir())
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()  # as if it had been killed after step 2
    again = run(settings(files, tensorboard=True, training=longer), progress=False)
    found = EventAccumulator(str(files / "run" / "tensorboard")).Reload()
    losses = [event.value for event in found.Scalars("step/loss")]
    assert losses == pytest.approx([step.loss for step in again.history.steps]) and len(losses) == 3
    assert [step.loss for step in result.history.steps] == [step.loss for step in again.history.steps]
    assert found.Scalars("evaluation/bits_per_byte")[0].step == 3


def test_without_the_package_tensorboard_is_refused_in_one_line(files, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = ["--train", f"{files / 'train.jsonl'}", "--val", f"{files / 'val.jsonl'}", "--out", f"{files / 'run'}"]
    with pytest.raises(SystemExit, match="not installed"):
        main([*words, "--vocab-size", "300", "--seq-length", "16", "--tensorboard"])


def test_rows_by_length_share_a_budget_of_tokens(files):
    budget = settings(files, chunking="per_document", seq_length=122, token_budget=400)
    result = run(budget, progress=False)
    assert max(batch["input_ids"].numel() for batch in result.train_loader) <= 400


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "3 of 4 rows, 192 tokens"),
        ({"training": TrainConfig(max_steps=3, accumulate=2)}, "3 of 8 rows, 384 tokens"),
        ({"token_budget": 400, "seq_length": 122, "chunking": "per_document"}, "3 of up to 400 tokens, "),
    ],
)
def test_the_summary_says_what_a_step_takes(files, changes, words):
    assert dict(summary(run(settings(files, **changes), progress=False)))["steps"].startswith(words)


def words_of(settings) -> list[str]:
    places = [("train", settings.train), ("val", settings.val), ("out", settings.out)]
    return [word for name, path in places for word in (f"--{name}", str(path))]


SMALL = ["--seq-length", "16", "--n-layer", "1", "--batch-size", "4", "--max-steps", "3", "--warmup-steps", "1"]


def test_a_refused_run_leaves_the_tokenizer_of_the_one_that_is_there(files, capsys):
    command = [*words_of(settings(files)), *SMALL]
    main([*command, "--vocab-size", "300"])
    before = {p: p.read_bytes() for p in (files / "run").rglob("*") if p.is_file()}
    words = r"run with another tokenizer \(it has 300 entries, this one 310\): resume with the same tokenizer"
    with pytest.raises(SystemExit, match=words):
        main([*command, "--vocab-size", "310"])
    assert {p: p.read_bytes() for p in (files / "run").rglob("*") if p.is_file()} == before
    (files / "run" / "log.jsonl").unlink()
    with pytest.raises(SystemExit, match=r"a finished run, but not its records, .*log.jsonl: copy that file back, or"):
        main([*command, "--vocab-size", "300"])


def test_a_store_without_its_tokenizer_is_refused_in_one_line(files):
    (files / "store").mkdir()
    with pytest.raises(SystemExit, match=r"store' is a folder: of a token store the tokenizer .* with --tokenizer"):
        main(words_of(settings(files, train=files / "store")))


def test_a_file_in_place_of_the_run_directory_is_refused_in_one_line(files):
    (files / "run").write_text("a file", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"error: out='.*run' is a file, the name of a folder is needed"):
        main(words_of(settings(files)))
    (files / "below").write_text("a file", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"error: \[Errno"):  # whatever else the disk refuses
        main([*words_of(settings(files, out=files / "below" / "run")), "--vocab-size", "300"])


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. And so on"),
            "memory: halve --batch-size",
        ),
        (KeyboardInterrupt(), "goes on from .*step-00000002"),
    ],
)
def test_what_stops_a_run_is_said_in_one_line(problem, words, files, monkeypatch):
    command = [*words_of(settings(files)), *SMALL, "--vocab-size", "300", "--checkpoint-every", "2"]

    def stopped(*args, **named):
        raise problem

    with monkeypatch.context() as patched:
        patched.setattr("mt_core.training.evaluate", stopped)  # after the last step
        with pytest.raises(SystemExit, match=words):
            main(command)
        patched.setattr("mt_core.training.shortened", stopped)
        with pytest.raises(SystemExit, match="no checkpoint yet" if isinstance(problem, KeyboardInterrupt) else words):
            main([*command, "--out", str(files / "other")])
    main(command)


def test_speed_is_that_of_the_second_half():
    counts = [(100, 10.0), (200, 11.0), (300, 12.0), (400, 13.0)]  # the first step took ten seconds
    steps = [
        Step(step=i + 1, epoch=0, loss=1.0, learning_rate=1.0, gradient_norm=1.0, tokens=tokens, seconds=seconds)
        for i, (tokens, seconds) in enumerate(counts)
    ]
    assert tokens_per_second(History(steps=steps)) == 100
    assert tokens_per_second(History(steps=steps[:1])) == 10


def test_the_share_of_the_peak_is_said_where_the_peak_is_known(files, monkeypatch):
    result = run(settings(files), progress=False)
    assert dict(summary(result))["MFU"] == "unknown, for want of a peak rate of cpu"
    peak = tokens_per_second(result.history) * flops_per_token(result.model.config, 16) * 4
    monkeypatch.setattr("mt_core.command_line.peak_flops", lambda name, dtype: peak)
    assert dict(summary(result))["MFU"] == "25.0% of the peak of cpu"
    monkeypatch.setenv("WORLD_SIZE", "5")  # the speed is that of all, the peak that of one
    assert dict(summary(result))["MFU"] == "5.0% of the peak of cpu"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_peak_is_that_of_the_type_that_is_computed_in(precision, files, monkeypatch):
    training = TrainConfig(max_steps=2, precision=precision)
    result, asked = run(settings(files, training=training), progress=False), []
    monkeypatch.setattr("mt_core.command_line.peak_flops", lambda name, dtype: asked.append(dtype))
    summary(result)
    assert asked == [getattr(torch, precision)]


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    for name, value in (
        ("RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "a"),
        ("MASTER_PORT", "1"),
    ):
        monkeypatch.setenv(name, value)
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    assert choose_device("cuda") == torch.device("cuda") and taken == [1]
    with pytest.raises(ValueError, match=r"device='cuda:0', but each process takes a GPU of its own: --device cuda"):
        choose_device("cuda:0")
