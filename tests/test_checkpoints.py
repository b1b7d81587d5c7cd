"""Checkpoints: what is written, what is refused, and runs that are killed anywhere and go on bit for bit."""

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from mt_core import (
    CheckpointError,
    LoaderStateError,
    MicroTransformer,
    MicroTransformerTokenizer,
    TokenLoader,
    TokenStore,
    TrainConfig,
    TransformerDataset,
    checkpoints,
    fit,
)
from mt_core.checkpoints import latest_checkpoint, load_checkpoint, load_model, read_state, save_checkpoint, save_model
from mt_core.training import History, create_optimizers, training_steps

V = 260


@cache
def tokenizer() -> MicroTransformerTokenizer:
    return MicroTransformerTokenizer.train(["a"], vocab_size=V)


def make(seed: int = 0, **settings) -> MicroTransformer:
    torch.manual_seed(seed)
    return MicroTransformer(**{"vocab_size": V, "n_layer": 1, "n_head": 2, "n_embd": 8} | settings)


def loader(n: int, *, seed: int = 0, shuffle: bool = True, num_workers: int = 0, batch_size: int = 4) -> TokenLoader:
    ids = torch.randint(V, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    dataset = TransformerDataset(TokenStore.from_token_ids(ids, vocab_size=V), seq_length=8)
    return TokenLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=shuffle,
        seed=3,
        num_workers=num_workers,
        start_method="spawn" if num_workers and sys.platform == "win32" else None,
    )


def train_and_val(num_workers: int = 0) -> tuple[TokenLoader, TokenLoader]:
    """Five batches an epoch, and two to evaluate on."""
    return loader(8 * 4 * 5 + 1, num_workers=num_workers), loader(60, seed=1, shuffle=False, num_workers=num_workers)


SETTINGS = TrainConfig(epochs=3, warmup_steps=4, learning_rate=0.01, checkpoint_every=2, evaluate_every=3)


def kill_after(steps: int, run_dir: Path, settings: TrainConfig = SETTINGS, *, num_workers: int = 0, **more) -> None:
    """Train and stop as a killed run does: between two records, with nothing put in order."""
    records = training_steps(make(), *train_and_val(num_workers), settings, run_dir=run_dir, **more)
    for record in records:
        if type(record).__name__ == "Step" and record.step == steps:
            records.close()
            return


def finish(run_dir: Path | None, settings: TrainConfig = SETTINGS, *, num_workers: int = 0, **more):
    """Train to the end; where there is a checkpoint the weights come from there, so here they begin as others."""
    resumed = run_dir is not None and latest_checkpoint(run_dir / "checkpoints") is not None
    model = make(9 if resumed else 0)
    return model, fit(model, *train_and_val(num_workers), settings, run_dir=run_dir, progress=False, **more)


def assert_same_run(one, other) -> None:
    (model, history), (expected_model, expected) = one, other
    assert [replace(s, seconds=0) for s in history.steps] == [replace(s, seconds=0) for s in expected.steps]
    assert history.evaluations == expected.evaluations
    assert history.samples == expected.samples
    for (name, tensor), expected_tensor in zip(
        model.state_dict().items(), expected_model.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, expected_tensor), name


# -- resuming ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "at"),
    [
        ({}, (1, 2, 7, 15)),
        ({"optimizer": "muon"}, (3, 9, 14)),
        ({"checkpoint_every": 5, "evaluate_every": None}, (5, 6, 10, 15)),  # a checkpoint is due where an epoch ends
        ({"checkpoint_every": None, "evaluate_every": 2, "accumulate": 2, "max_steps": 5}, (2, 3, 4)),
    ],
    ids=["adamw", "muon", "at-epoch-ends", "accumulate"],
)
def test_a_run_killed_at_any_step_goes_on_bit_for_bit(changed, at, tmp_path):
    settings = replace(SETTINGS, **changed)
    whole = finish(tmp_path / "whole", settings)
    assert len(whole[1].steps) == (settings.max_steps or 15)
    assert_same_run(finish(None, settings), whole)  # writing changes nothing
    for steps in at:
        run_dir = tmp_path / f"killed-{steps}"
        kill_after(steps, run_dir, settings)
        assert_same_run(finish(run_dir, settings), whole)


def test_samples_of_text_are_the_same_after_resuming(tmp_path):
    settings = replace(SETTINGS, evaluate_every=6, max_steps=8)
    whole = finish(None, settings, tokenizer=tokenizer())
    kill_after(7, tmp_path, settings, tokenizer=tokenizer())
    assert [sample.step for sample in whole[1].samples] == [6, 8]
    assert_same_run(finish(tmp_path, settings, tokenizer=tokenizer()), whole)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_a_run_goes_on_with_another_number_of_workers(tmp_path):
    whole = finish(None)
    kill_after(8, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "back")
    assert_same_run(finish(tmp_path / "run", num_workers=2), whole)
    state = torch.get_rng_state()
    make(9)  # the one draw from the global generator
    assert torch.equal(torch.get_rng_state(), state)
    kill_after(12, tmp_path / "back", num_workers=1)
    assert_same_run(finish(tmp_path / "back"), whole)


def test_a_run_killed_again_and_again_goes_on(tmp_path):
    whole = finish(None)
    for steps in (1, 3, 3, 6, 7, 13):
        kill_after(steps, tmp_path)
    assert_same_run(finish(tmp_path), whole)


def test_a_finished_run_is_read_back_without_training(tmp_path):
    whole = finish(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    again = finish(tmp_path)
    assert_same_run(again, whole)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert again[1].steps[-1].seconds == whole[1].steps[-1].seconds


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"learning_rate": 0.02}, "learning_rate=0.01, this run has learning_rate=0.02"),
        ({"optimizer": "muon"}, "optimizer='adamw', this run has optimizer='muon'"),
        ({"epochs": 4}, "epochs=3, this run has epochs=4"),
        ({"betas": (0.9, 0.99)}, r"betas=\[0.9, 0.95\], this run has betas=\[0.9, 0.99\]"),
    ],
)
def test_other_settings_are_refused_by_name_and_touch_nothing(changed, words, tmp_path):
    kill_after(4, tmp_path)
    model = make(9)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    log = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=words):
        fit(model, *train_and_val(), replace(SETTINGS, **changed), run_dir=tmp_path, progress=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_another_model_batch_size_or_corpus_is_refused_by_name(tmp_path):
    settings = replace(SETTINGS, max_steps=6)
    kill_after(4, tmp_path, settings)

    def resume(model, train):
        fit(model, train, None, settings, run_dir=tmp_path, progress=False)

    with pytest.raises(CheckpointError, match=r"model=.*'n_embd': 8.*this run has model=.*'n_embd': 16"):
        resume(make(n_embd=16), train_and_val()[0])
    with pytest.raises(CheckpointError, match="batch_size=4, this run has batch_size=2"):
        resume(make(), loader(8 * 4 * 5 + 1, batch_size=2))
    model = make(9)
    before = model.embed_tokens.weight.clone()
    with pytest.raises(LoaderStateError, match="corpus="):
        resume(model, loader(8 * 4 * 5 + 1, seed=5))
    assert torch.equal(model.embed_tokens.weight, before)


# -- killed while writing ----------------------------------------------------------------------------------

CHILD = """
import sys
import torch
from mt_core import MicroTransformer, TokenLoader, TokenStore, TrainConfig, TransformerDataset, fit

def parts():
    torch.manual_seed(0)
    model = MicroTransformer(vocab_size=16, n_layer=1, n_head=2, n_embd=8)
    store = TokenStore.from_token_ids([i * i % 16 for i in range(8 * 4 * 400 + 1)], vocab_size=16)
    loader = TokenLoader(TransformerDataset(store, seq_length=8), batch_size=4, shuffle=True, drop_last=True)
    return model, loader, None, TrainConfig(epochs=1, checkpoint_every=1, learning_rate=0.01)

if __name__ == "__main__":
    print("ready", flush=True)
    fit(*parts(), run_dir=sys.argv[1], progress=False)
    print("done", flush=True)
"""


def test_a_process_killed_while_it_writes_checkpoints_always_goes_on(tmp_path):
    chance, run_dir = random.Random(1), tmp_path / "run"
    (tmp_path / "child.py").write_text(CHILD, encoding="utf-8")
    reached = []
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, str(tmp_path / "child.py"), str(run_dir)], stdout=subprocess.PIPE, text=True
        )
        with child:
            assert child.stdout.readline() == "ready\n"
            first, deadline = latest_checkpoint(run_dir / "checkpoints"), time.monotonic() + 60
            while latest_checkpoint(run_dir / "checkpoints") == first and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.1))
            while not list((run_dir / "checkpoints").glob("*.partial-*")) and child.poll() is None:
                time.sleep(0.0002)  # until one is being written
            child.kill()
            assert child.stdout.read() == ""  # it was not done
        assert child.returncode != 0
        state = read_state(latest_checkpoint(run_dir / "checkpoints"))
        reached.append(state["step"])
    assert reached == sorted(set(reached))  # each went on from where the one before was killed
    names = {"__name__": "child"}
    exec(CHILD, names)
    model, *_, settings = names["parts"]()
    load_checkpoint(latest_checkpoint(run_dir / "checkpoints"), model, create_optimizers(model, settings))
    expected, *others = names["parts"]()
    records = training_steps(expected, *others)
    losses = [next(records).loss for _ in range(reached[-1])]
    assert torch.equal(model.embed_tokens.weight, expected.embed_tokens.weight)
    assert [step.loss for step in History.read(run_dir).steps][: reached[-1]] == losses


class Killed(BaseException):
    pass


class Disk:
    """Counts what `mt_core.checkpoints` does to the disk, and dies at one operation, in the middle of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, die_at: int | None) -> None:
        self.operations, self.die_at = 0, die_at
        real_save, real_rmtree = checkpoints.save_file, shutil.rmtree
        real_rename, real_write, real_mkdir = Path.rename, Path.write_text, Path.mkdir

        def save_half(tensors, path, *args, **kwargs):
            real_save(tensors, path, *args, **kwargs)
            Path(path).write_bytes(Path(path).read_bytes()[: Path(path).stat().st_size // 2])

        def remove_half(path, *args, **kwargs):
            for file in sorted(Path(path).glob("*"))[:1]:
                file.unlink()

        patches = [
            (checkpoints, "save_file", real_save, save_half),
            (shutil, "rmtree", real_rmtree, remove_half),
            (Path, "rename", real_rename, None),
            (Path, "mkdir", real_mkdir, None),
            (Path, "write_text", real_write, lambda path, text, **kw: real_write(path, text[: len(text) // 2], **kw)),
            (checkpoints.os, "fsync", checkpoints.os.fsync, None),
        ]
        for owner, name, real, half in patches:
            monkeypatch.setattr(owner, name, self.counted(real, half))

    def counted(self, real, half):
        def operation(*args, **kwargs):
            if self.die_at is not None and self.operations > self.die_at:
                raise Killed  # the dead do nothing, not even in a finally clause
            self.operations += 1
            if self.operations - 1 == self.die_at:
                self.operations = self.die_at + 1
                if half is not None:
                    half(*args, **kwargs)
                raise Killed
            return real(*args, **kwargs)

        return operation


@pytest.mark.parametrize("again", [False, True], ids=["new-step", "step-that-exists"])
def test_no_death_in_the_middle_of_saving_leaves_a_half_checkpoint(again, tmp_path):
    """Saves a third checkpoint over two, dying at each operation in turn; after each death all is well."""
    model = make()
    optimizers = create_optimizers(model, SETTINGS)
    save_checkpoint(tmp_path / "start", 1, model, optimizers, {"note": "one"})
    save_checkpoint(tmp_path / "start", 2, model, optimizers, {"note": "two"})
    step, survived = 2 if again else 3, []
    for die_at in range(100):
        folder = tmp_path / f"{die_at}"
        shutil.copytree(tmp_path / "start", folder)
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = Disk(monkeypatch, die_at)
            try:
                save_checkpoint(folder, step, model, optimizers, {"note": "new"})
            except Killed:
                pass
        other = make(9)
        state = load_checkpoint(latest_checkpoint(folder), other, create_optimizers(other, SETTINGS))
        assert torch.equal(other.embed_tokens.weight, model.embed_tokens.weight)
        survived.append(state["note"])
        save_checkpoint(folder, 4, model, optimizers, {"note": "later"})  # the next run tidies up
        assert len(list(folder.iterdir())) == 2 and latest_checkpoint(folder).name == "step-00000004"
        if disk.operations <= die_at:
            break  # it was through before it could die
    assert die_at >= 9
    assert survived == sorted(survived, key=["one", "two", "new"].index if not again else ["two", "one", "new"].index)
    assert survived[0] == "two" and survived[-1] == "new"


def test_a_half_written_last_line_of_the_log_is_left_out_and_mended(tmp_path):
    whole = finish(tmp_path / "whole")
    run_dir = tmp_path / "run"
    kill_after(9, run_dir)
    log = run_dir / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    log.write_text("".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2], encoding="utf-8", newline="\n")
    assert [step.step for step in History.read(run_dir).steps] == list(range(1, 9))
    assert_same_run(finish(run_dir), whole)
    assert [json.loads(line)["step"] for line in log.read_text(encoding="utf-8").splitlines()] == [
        json.loads(line)["step"] for line in (tmp_path / "whole" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]  # and the order of the records is that of the run


@pytest.mark.parametrize("die_at", [0, 1])
def test_a_death_while_the_log_is_mended_loses_no_record(die_at, tmp_path, monkeypatch):
    whole = finish(None)
    kill_after(9, tmp_path)
    written, real = [], Path.write_text

    def die(path, text, **kwargs):
        written.append(path)
        if len(written) <= die_at:
            return real(path, text, **kwargs)
        path.write_bytes(text.encode()[: len(text) // 2])
        raise Killed

    monkeypatch.setattr(Path, "write_text", die)
    with pytest.raises(Killed):
        finish(tmp_path)
    monkeypatch.undo()
    assert [step.step for step in History.read(tmp_path).steps][:8] == list(range(1, 9))
    assert_same_run(finish(tmp_path), whole)


# -- what is written, and what is refused ------------------------------------------------------------------


def test_a_run_folder_holds_safetensors_and_json_alone(tmp_path):
    finish(tmp_path)
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    kept = ("step-00000014", "step-00000015")
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    assert files == [f"checkpoints/{step}/{name}" for step in kept for name in names] + ["log.jsonl"]
    for file in files:
        if file.endswith(".json"):
            json.loads((tmp_path / file).read_text(encoding="utf-8"))
    assert b"\r" not in (tmp_path / "log.jsonl").read_bytes()


def test_checkpoints_come_when_they_are_due(tmp_path, monkeypatch):
    saved, real = [], checkpoints.save_checkpoint
    monkeypatch.setattr("mt_core.training.save_checkpoint", lambda f, step, *a: (saved.append(step), real(f, step, *a)))
    for every, expected in ((None, [5, 10, 15]), (2, [2, 4, 5, 6, 8, 10, 12, 14, 15]), (5, [5, 10, 15])):
        saved.clear()
        finish(tmp_path / f"{every}", replace(SETTINGS, checkpoint_every=every))
        assert saved == expected


def test_without_a_run_dir_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mt_core.training.save_checkpoint", None)
    finish(None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "noise", "one byte"])
def test_a_damaged_checkpoint_is_refused_with_its_path(name, damage, tmp_path):
    kill_after(3, tmp_path)
    file = tmp_path / "checkpoints" / "step-00000002" / name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        turned = bytes([content[-1] ^ 1])  # in the last number of the last tensor, or the last brace
        damaged = {"empty": b"", "half": content[: len(content) // 2], "noise": b"\xff\x00[" * 40}
        file.write_bytes({**damaged, "one byte": content[:-1] + turned}[damage])
    with pytest.raises(CheckpointError) as caught:
        finish(tmp_path)
    assert str(file) in str(caught.value) and "remove" in str(caught.value)
    shutil.rmtree(file.parent)  # as the message says
    finish(tmp_path)


def test_a_state_that_is_json_but_no_checkpoint_is_refused(tmp_path):
    for text in ("[]", "{}", '"step"', "5"):
        (tmp_path / "state.json").write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError, match="it lacks what every checkpoint has"):
            read_state(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_return_from_a_file_and_tied_ones_are_written_once(tied, tmp_path):
    model, other = make(tie_embeddings=tied), make(9, tie_embeddings=tied)
    save_model(model, tmp_path / "model.safetensors")
    load_model(other, tmp_path / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    assert (other.lm_head.weight is other.embed_tokens.weight) is tied
    header = 4096  # more than the names take here
    assert 0 < (tmp_path / "model.safetensors").stat().st_size - 4 * model.n_parameters() < header


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_embd": 16}, r"embed_tokens.weight is \(260, 8\) there and \(260, 16\) here"),
        ({"n_layer": 2}, r"layers.1.* is nothing there and \(8,\) here"),
        ({"tie_embeddings": False}, r"lm_head.weight is nothing there and \(260, 8\) here"),
    ],
)
def test_weights_of_another_shape_are_refused_by_name(settings, words, tmp_path):
    save_model(make(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_model(make(**settings), tmp_path / "model.safetensors")
    save_model(make(**settings), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_model(make(), tmp_path / "model.safetensors")


def test_another_number_of_optimizers_is_refused_and_touches_nothing(tmp_path):
    model, other = make(), make(9)
    path = save_checkpoint(tmp_path, 1, model, create_optimizers(model, SETTINGS), {})
    before = other.embed_tokens.weight.clone()
    with pytest.raises(CheckpointError, match="holds 1 optimizers, this run has 2"):
        load_checkpoint(path, other, create_optimizers(other, replace(SETTINGS, optimizer="muon")))
    assert torch.equal(other.embed_tokens.weight, before)


def test_the_newest_checkpoint_is_the_one_with_the_highest_step(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None
    for name in ("step-00000009", "step-00000010", "step-00000011.partial-1-ab", "step-12", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000099").write_text("a file", encoding="utf-8")
    assert latest_checkpoint(tmp_path).name == "step-00000010"
