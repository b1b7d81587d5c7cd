"""Training: optimizers, schedule, accumulation, clipping, evaluation, and losses between hand-worked bounds."""

import itertools
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from mt_core import (
    MicroTransformer,
    MicroTransformerTokenizer,
    TokenLoader,
    TokenStore,
    TrainConfig,
    TransformerDataset,
    evaluate,
    fit,
)
from mt_core.checkpoints import save_checkpoint
from mt_core.evaluation import on_device
from mt_core.parallel import OneProcess
from mt_core.recipe import wsd_schedule
from mt_core.records import Step
from mt_core.training import create_optimizers, linear_schedule, loss_of, shortened, total_steps, training_steps

V = 16


def make(seed: int = 0, vocab_size: int = V, **settings) -> MicroTransformer:
    torch.manual_seed(seed)
    return MicroTransformer(vocab_size=vocab_size, **{"n_layer": 1, "n_head": 2, "n_embd": 16} | settings)


def loader(token_ids, *, batch_size=4, seq_length=8, shuffle=True, vocab_size=V, ends=None, chunking="contiguous"):
    store = TokenStore.from_token_ids(token_ids, vocab_size=vocab_size, document_ends=ends)
    dataset = TransformerDataset(store, seq_length=seq_length, chunking=chunking)
    return TokenLoader(dataset, batch_size=batch_size, shuffle=shuffle, drop_last=shuffle)


def random_ids(n: int, seed: int = 0, size: int = V) -> list[int]:
    return torch.randint(size, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def config(**settings) -> TrainConfig:
    return TrainConfig(**{"epochs": 1, "warmup_steps": 0} | settings)


def run(model, train, val=None, **settings):
    return fit(model, train, val, config(**settings), progress=False)


# -- optimizers, schedule, settings ------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_decay_falls_on_matrices_alone(tied):
    model = make(tie_embeddings=tied)
    names = {id(p): name for name, p in model.named_parameters()}
    (adamw,) = create_optimizers(model, config(weight_decay=0.3, learning_rate=0.02, betas=(0.8, 0.9)))
    decay = {names[id(p)]: group["weight_decay"] for group in adamw.param_groups for p in group["params"]}
    assert set(decay) == set(names.values())
    assert {name for name, value in decay.items() if value} == {n for n in decay if "_proj." in n}
    assert len([n for n in decay if "_proj." in n]) == 7 and set(decay.values()) == {0.0, 0.3}
    assert all(group["lr"] == 0.02 and tuple(group["betas"]) == (0.8, 0.9) for group in adamw.param_groups)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    model = make(tie_embeddings=False)
    adamw, muon = create_optimizers(model, config(optimizer="muon", weight_decay=0.3, learning_rate=0.02))
    assert isinstance(adamw, torch.optim.AdamW) and isinstance(muon, torch.optim.Muon)
    names = {id(p): name for name, p in model.named_parameters()}
    held = [{names[id(p)] for group in o.param_groups for p in group["params"]} for o in (adamw, muon)]
    assert held[0] | held[1] == set(names.values()) and not held[0] & held[1]
    assert held[1] == {name for name in names.values() if "_proj." in name}
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.0]
    (group,) = muon.param_groups
    assert (group["weight_decay"], group["lr"], group["adjust_lr_fn"]) == (0.3, 0.15 * 0.02, "match_rms_adamw")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_one_step_is_decay_on_matrices_where_gradients_are_zero(optimizer):
    model = make()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ignored = {"input_ids": torch.zeros(2, 4, dtype=torch.int64), "labels": torch.full((2, 4), -100)}
    fit(
        model,
        Batches([ignored]),
        None,
        config(weight_decay=0.5, learning_rate=0.1, optimizer=optimizer),
        progress=False,
    )
    rate = {"adamw": 0.1, "muon": 0.15 * 0.1}[optimizer]
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - rate * 0.5) if "_proj." in name else before[name]
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("default")  # what `transformers` warns about at import is its own affair
@pytest.mark.parametrize(("warmup", "total"), [(0, 7), (3, 12), (12, 12), (20, 12)])
def test_the_schedule_is_that_of_the_source_document_step_by_step(warmup, total):
    from transformers import get_linear_schedule_with_warmup

    theirs_on = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    theirs = get_linear_schedule_with_warmup(theirs_on, num_warmup_steps=warmup, num_training_steps=total)
    train = loader(random_ids(8 * 4 * total + 1))
    history = run(make(), train, warmup_steps=warmup, learning_rate=0.01)
    assert len(history.steps) == total
    for step in history.steps:
        assert step.learning_rate == theirs.get_last_lr()[0]
        theirs_on.step()
        theirs.step()
    assert linear_schedule(warmup, total)(total) * 0.01 == theirs.get_last_lr()[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"accumulate": True}, "accumulate=True"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"evaluate_every": -1}, "evaluate_every=-1"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"learning_rate": math.inf}, "learning_rate=inf"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"weight_decay": math.nan}, "weight_decay=nan"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"optimizer": "sgd"}, "optimizer='sgd'"),
        ({"precision": "float16"}, "precision='float16'"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**settings)


# -- steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "steps", "evaluated"),
    [
        ({"epochs": 2}, 20, [10, 20]),
        ({"epochs": 2, "max_steps": 13}, 13, [10, 13]),
        ({"epochs": 2, "max_steps": 99}, 20, [10, 20]),
        ({"epochs": 2, "evaluate_every": 6}, 20, [6, 12, 18, 20]),
        ({"epochs": 2, "evaluate_every": 5, "max_steps": 15}, 15, [5, 10, 15]),
        ({"epochs": 2, "accumulate": 4}, 4, [2, 4]),  # ten batches make two steps of four, two are left over
    ],
)
def test_counts_of_steps_epochs_and_evaluations(settings, steps, evaluated):
    train, val = loader(random_ids(8 * 4 * 10 + 1)), loader(random_ids(50, 1), shuffle=False)
    history = run(make(), train, val, **settings)
    assert [step.step for step in history.steps] == list(range(1, steps + 1))
    per_epoch = 10 // settings.get("accumulate", 1)
    assert [step.epoch for step in history.steps] == [n // per_epoch for n in range(steps)]
    assert [e.step for e in history.evaluations] == evaluated
    assert history.steps[-1].tokens == steps * settings.get("accumulate", 1) * 4 * 8
    assert total_steps(train, config(**settings)) == steps
    assert all(e.n_targets == 49 for e in history.evaluations)


def test_a_corpus_of_another_vocabulary_or_tokenizer_is_refused_before_training():
    with pytest.raises(ValueError, match=r"a vocabulary of 16, the model one of 15: make the model with vocab_size="):
        run(make(vocab_size=15), loader(random_ids(100)))
    one, other = (MicroTransformerTokenizer.train([text], vocab_size=262) for text in ("abab", "cdcd"))
    store = TokenStore.from_documents(["ab ab"] * 20, one)
    train = TokenLoader(TransformerDataset(store, seq_length=8), batch_size=2, shuffle=True)
    with pytest.raises(ValueError, match="made with another tokenizer, so bits per byte and samples of text would be"):
        fit(make(vocab_size=262), train, None, config(), tokenizer=other, progress=False)
    history = fit(make(vocab_size=320), train, None, config(max_steps=1), tokenizer=one, progress=False)
    assert history.samples[0].text  # of a model with a vocabulary that was rounded up


def test_accumulating_more_batches_than_an_epoch_has_is_refused():
    with pytest.raises(ValueError, match="3 batches, fewer than accumulate=4: lower accumulate"):
        run(make(), loader(random_ids(8 * 4 * 3 + 1)), accumulate=4)


def test_accumulating_equals_the_large_batch_with_unevenly_masked_targets():
    ends = list(itertools.accumulate([2, 9, 3, 9, 2, 2, 9, 5, 7, 2, 9, 4]))  # targets per row: 1, 8, 2, 8, 1, 1, …
    histories, weights = [], []
    for batch_size, accumulate in ((12, 1), (6, 2), (3, 4), (1, 12)):
        model = make()
        train = loader(random_ids(ends[-1]), batch_size=batch_size, ends=ends, chunking="per_document")
        histories.append(run(model, train, epochs=2, accumulate=accumulate, learning_rate=0.01))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    for history, weight in zip(histories, weights, strict=True):
        for step, large in zip(history.steps, histories[0].steps, strict=True):
            assert step.loss == pytest.approx(large.loss, rel=1e-5)
            assert step.gradient_norm == pytest.approx(large.gradient_norm, rel=1e-4)
            assert step.tokens == large.tokens
        torch.testing.assert_close(weight, weights[0], rtol=0, atol=1e-4)


class Batches(list):
    """As much of a loader as the loop needs."""

    epoch, global_batch_size = 0, None


def test_a_batch_whose_targets_are_all_masked_adds_nothing():
    (full,) = loader(random_ids(8 * 4 + 1))
    empty = full | {"labels": torch.full_like(full["labels"], -100)}
    alone, among = (
        fit(make(), Batches(batches), None, config(accumulate=len(batches)), progress=False).steps[0]
        for batches in ([full], [empty, full, empty])
    )
    assert among.loss == pytest.approx(alone.loss, rel=1e-6)
    assert among.gradient_norm == pytest.approx(alone.gradient_norm, rel=1e-6)


def test_gradients_are_clipped_and_their_norm_is_recorded_before():
    moved, norms = [], []
    for clip_norm in (None, 1e9, 1e-12):  # at 1e-12 gradients vanish below AdamW's epsilon of 1e-8
        model, train = make(), loader(random_ids(8 * 4 + 1))
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        history = run(model, train, clip_norm=clip_norm, weight_decay=0.0, learning_rate=0.01)
        moved.append((torch.cat([p.detach().flatten() for p in model.parameters()]) - before).abs().mean().item())
        norms.append(history.steps[0].gradient_norm)
    assert moved[0] == moved[1] > 0.005 and moved[2] < 1e-5
    assert norms[0] == norms[1] == norms[2] > 0.01
    model = make()
    (batch,) = loader(random_ids(8 * 4 + 1))
    loss_of(model, batch).backward()
    by_hand = math.sqrt(sum((p.grad.double() ** 2).sum().item() for p in model.parameters()))
    assert norms[0] == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_no_number_stops_the_run_before_it_does_harm(poison, tmp_path):
    model = make()
    if poison == "loss":
        with torch.no_grad():
            model.norm.weight[0] = math.nan
    else:
        model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match="at step 1: lower learning_rate"):
        fit(model, loader(random_ids(100)), None, config(checkpoint_every=1), run_dir=tmp_path, progress=False)
    for parameter, kept in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), kept, rtol=0, atol=0, equal_nan=True)
    assert not (tmp_path / "checkpoints").exists()
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == ""


def test_training_draws_nothing_from_the_global_generator():
    tokenizer = MicroTransformerTokenizer.train(["a"], vocab_size=260)
    ids = random_ids(200, size=260)
    train, val = loader(ids, vocab_size=260), loader(ids[:50], vocab_size=260, shuffle=False)
    model = make(vocab_size=260)
    state = torch.get_rng_state()
    history = fit(model, train, val, config(epochs=2), tokenizer=tokenizer, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert [sample.step for sample in history.samples] == [e.step for e in history.evaluations] and history.samples


def test_evaluating_more_often_does_not_change_training():
    def losses(**settings):
        train, val = loader(random_ids(400)), loader(random_ids(100, 1), shuffle=False)
        return [step.loss for step in run(make(), train, val, epochs=2, **settings).steps]

    assert losses() == losses(evaluate_every=1)


def test_seconds_are_those_of_training_alone_and_add_up_over_parts_of_a_run(tmp_path, monkeypatch):
    """A clock that a step moves by a second, an evaluation by a hundred."""
    now, backward = [0.0], OneProcess.backward
    monkeypatch.setattr("mt_core.training.time.perf_counter", lambda: now[0])

    def moved(seconds, function):
        def call(*args, **named):
            now[0] += seconds
            return function(*args, **named)

        return call

    monkeypatch.setattr(OneProcess, "backward", moved(1, backward))
    monkeypatch.setattr("mt_core.training.evaluate", moved(100, evaluate))
    monkeypatch.setattr("mt_core.training.save_checkpoint", moved(1000, save_checkpoint))
    settings = config(evaluate_every=2, checkpoint_every=3, max_steps=6)
    steps = training_steps(make(), loader(random_ids(400)), loader(random_ids(30)), settings, run_dir=tmp_path)
    found = [next(steps) for _ in range(6)]  # up to step 4, with two evaluations and a checkpoint
    steps.close()
    now[0] = 5000
    assert [r.seconds for r in found if isinstance(r, Step)] == [1, 2, 3, 4]
    history = fit(make(), loader(random_ids(400)), loader(random_ids(30)), settings, run_dir=tmp_path, progress=False)
    assert [step.seconds for step in history.steps] == [1, 2, 3, 4, 5, 6]


def test_bfloat16_trains_about_as_well():
    full, half = (
        [
            step.loss
            for step in run(make(), loader(random_ids(300)), epochs=3, learning_rate=0.01, precision=precision).steps
        ]
        for precision in ("float32", "bfloat16")
    )
    assert full != half
    assert half == pytest.approx(full, abs=0.05)


# -- evaluation --------------------------------------------------------------------------------------------


def test_evaluation_equals_the_sum_over_targets_worked_by_hand():
    model = make()
    with torch.no_grad():
        model.embed_tokens.weight.mul_(20)  # losses that differ
    val = loader(random_ids(31), shuffle=False, batch_size=3)  # four rows of 8, the last one overlapping by 2
    rows = []
    for batch in val:
        shares = model(batch["input_ids"]).detach().log_softmax(-1)
        for row, labels in zip(shares, batch["labels"], strict=True):
            rows.append(sum(-row[t, label].item() for t, label in enumerate(labels.tolist()) if label != -100))
    per_row = []
    found = evaluate(model, val, per_row=per_row)
    assert found.n_targets == 30 and len(rows) == 4 and max(rows) - min(rows) > 1
    assert per_row == pytest.approx(rows, rel=1e-6)
    assert found.nats_per_token == pytest.approx(sum(rows) / 30, rel=1e-6)
    assert found.bits_per_byte is None and found.step is None


def test_bits_per_byte_worked_by_hand():
    tokenizer = MicroTransformerTokenizer.train(["ab"], vocab_size=260)  # bytes alone, no merges
    store = TokenStore.from_documents(["aé", "b"], tokenizer)
    assert len(store) == 8  # [CLS] a é é [SEP] [CLS] b [SEP]: seven targets hold four bytes
    model = make(vocab_size=260)
    with torch.no_grad():
        model.embed_tokens.weight.zero_()  # every token is as likely: log2(260) bits a target
    val = TokenLoader(TransformerDataset(store, tokenizer, seq_length=5), batch_size=1)
    found = evaluate(model, val, tokenizer=tokenizer)
    assert found.n_targets == 7
    assert found.nats_per_token == pytest.approx(math.log(260), rel=1e-6)
    assert found.bits_per_byte == pytest.approx(7 * math.log2(260) / 4, rel=1e-6)
    a, b = tokenizer.encode("ab")["input_ids"][1:3]
    batch = {"input_ids": torch.tensor([[tokenizer.cls_token_id, a]]), "labels": torch.tensor([[a, b]])}
    assert evaluate(model, [batch], tokenizer=tokenizer).bits_per_byte == pytest.approx(math.log2(260), rel=1e-6)


def test_nothing_becomes_float64_before_it_is_on_the_cpu():
    """Apple's GPU has no float64, and refuses it."""
    brought = []

    class NoFloat64(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if (kwargs or {}).get("dtype") is torch.float64:
                assert any(args[0] is tensor for tensor in brought)
            found = function(*args, **kwargs or {})
            if function is torch.Tensor.cpu:
                brought.append(found)
            return found

    with NoFloat64():
        evaluate(make(), loader(random_ids(50), shuffle=False))
    assert brought


@pytest.mark.parametrize(("device", "waits"), [("cuda", False), ("mps", True), ("cpu", True)])
def test_only_a_copy_to_cuda_is_not_waited_for(device, waits):
    class Noted:
        def to(self, device, non_blocking):
            return device.type, not non_blocking

    assert on_device({"input_ids": Noted()}, torch.device(device)) == {"input_ids": (device, waits)}


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_in_its_mode(training):
    model = make().train(training)
    seen = []
    model.register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_grad_enabled())))
    evaluate(model, loader(random_ids(50), shuffle=False))
    assert set(seen) == {(False, False)} and model.training is training
    with pytest.raises(KeyError):
        evaluate(model, [{"labels": torch.zeros(1, 1)}])
    assert model.training is training


def test_training_mode_is_on_for_every_step():
    model, seen = make(), []
    model.register_forward_hook(lambda module, *_: seen.append(module.training))
    run(model, loader(random_ids(100)), loader(random_ids(30), shuffle=False), evaluate_every=1)
    assert seen == [True, False] * 3


@pytest.mark.parametrize(
    "batches", [[], [{"input_ids": torch.zeros(1, 2, dtype=torch.int64), "labels": torch.full((1, 2), -100)}]]
)
def test_evaluating_no_target_is_refused(batches):
    with pytest.raises(ValueError, match="no target to evaluate"):
        evaluate(make(), batches)


def test_loss_of_is_the_mean_over_targets_that_count():
    model = make()
    batch = {"input_ids": torch.tensor([[1, 2, 3]]), "labels": torch.tensor([[2, -100, 4]])}
    logits = model(batch["input_ids"])[0]
    by_hand = F.cross_entropy(logits[0], torch.tensor(2)) + F.cross_entropy(logits[2], torch.tensor(4))
    torch.testing.assert_close(loss_of(model, batch), by_hand / 2)
    torch.testing.assert_close(loss_of(model, batch, reduction="sum"), by_hand)


# -- learning: losses between bounds that are known ---------------------------------------------------------


def entropy(token_ids) -> float:
    counts = Counter(token_ids)
    return -sum(n / len(token_ids) * math.log(n / len(token_ids)) for n in counts.values())


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 0.02), ("muon", 0.12)])
def test_counting_is_learned_completely(optimizer, rate):
    ids = [i % 13 for i in range(8 * 8 * 10 + 1)]  # 13, so that rows of 8 begin at every number
    train, val = loader(ids, batch_size=8), loader([(i + 5) % 13 for i in range(100)], shuffle=False)
    history = run(make(), train, val, epochs=8, learning_rate=rate, warmup_steps=5, optimizer=optimizer)
    assert history.steps[0].loss == pytest.approx(math.log(V), abs=0.3)
    assert [e.epoch for e in history.evaluations] == list(range(8))
    assert history.evaluations[-1].nats_per_token < 0.05


def test_a_small_text_is_learned_by_heart():
    ids = random_ids(161)
    train = loader(ids)
    history = run(make(n_embd=32), train, epochs=40, learning_rate=0.02, warmup_steps=5, weight_decay=0.0)
    assert entropy(ids) > 2.5
    assert history.steps[-1].loss < entropy(ids) / 5


def test_coin_flips_cannot_be_foretold():
    """The floor is ln 2: a lower loss on fresh flips would mean that the model sees its targets."""
    train = loader(random_ids(3000, 0, 2), vocab_size=2, batch_size=8)
    val = loader(random_ids(4000, 1, 2), vocab_size=2, shuffle=False, batch_size=64)
    history = run(make(vocab_size=2), train, val, learning_rate=0.01)
    assert abs(history.evaluations[-1].nats_per_token - math.log(2)) < 0.02


def test_looking_on_and_fitting_are_the_same_run():
    looked = list(training_steps(make(), loader(random_ids(200)), loader(random_ids(40, 1), shuffle=False), config()))
    fitted = run(make(), loader(random_ids(200)), loader(random_ids(40, 1), shuffle=False))
    assert [r.loss for r in looked[:-1]] == [s.loss for s in fitted.steps]
    assert looked[-1] == fitted.evaluations[0]


# -- shorter rows first, and documents apart ----------------------------------------------------------------


def test_rows_are_cut_short_at_first_and_no_target_is_lost():
    train = loader(random_ids(16 * 33 + 1), batch_size=2, seq_length=16)
    model, shapes = make(), []
    model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    history = run(model, train, max_steps=8, length_warmup_steps=6)
    assert shapes == [(16, 2)] * 2 + [(8, 4)] * 2 + [(4, 8)] * 2 + [(2, 16)] * 2
    assert [step.tokens for step in history.steps] == [32 * n for n in range(1, 9)]


def test_shortened_rows_hold_the_same_questions():
    batch = next(iter(loader(range(12), ends=[3, 12], seq_length=6, batch_size=1, shuffle=False)))
    batch["provenance"] = torch.zeros(1, 4)
    short = shortened(batch, 2)
    assert short["input_ids"].tolist() == [[0, 1, 2], [3, 4, 5]] and short["labels"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert set(short) == {"input_ids", "labels"}
    assert shortened(batch, 4)["input_ids"].shape == (2, 3), "6 is not cut into 4, so into 2"
    assert shortened({"labels": torch.zeros(2, 5)}, 8)["labels"].shape == (2, 5)


@pytest.mark.parametrize("steps", [-1, 2.5, True])
def test_a_length_warmup_is_a_whole_number(steps):
    with pytest.raises(ValueError, match=f"length_warmup_steps={steps!r}, a whole number from 0"):
        TrainConfig(length_warmup_steps=steps)


def test_evaluation_keeps_documents_apart_as_training_does():
    ids, ends = random_ids(60), [7, 9, 20, 33, 34, 47, 60]
    losses = {
        chunking: evaluate(make(), loader(ids, ends=ends, chunking=chunking, shuffle=False)).nats_per_token
        for chunking in ("packed", "per_document", "contiguous")
    }
    assert losses["packed"] == pytest.approx(losses["per_document"], abs=1e-6)
    assert abs(losses["contiguous"] - losses["packed"]) > 1e-5


# -- stable rates, compiling, looking on ------------------------------------------------------------------


def test_a_stable_rate_falls_over_the_last_share_alone():
    train = loader(random_ids(8 * 4 * 10 + 1))
    history = run(make(), train, warmup_steps=2, schedule="wsd", decay_share=0.4, learning_rate=0.01)
    rates = [step.learning_rate / 0.01 for step in history.steps]
    assert rates == pytest.approx(
        [0, 0.5, 1, 1, 1, 1, 1, 1 - math.sqrt(1 / 4), 1 - math.sqrt(2 / 4), 1 - math.sqrt(3 / 4)]
    )


@pytest.mark.parametrize("total", [1, 2, 5])
def test_a_stable_rate_for_fewer_steps_than_the_warmup_has(total):
    shares = [wsd_schedule(100, total, 0.5)(step) for step in range(total + 1)]
    assert all(0 <= share <= 1 for share in shares) and shares[-1] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schedule": "cosine"}, "schedule='cosine'"),
        ({"decay_share": 0.0}, "decay_share=0.0"),
        ({"decay_share": 1.5}, "1.5"),
    ],
)
def test_a_bad_schedule_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**settings)


def test_who_looks_on_sees_every_record_in_order():
    seen = []
    train = loader(random_ids(8 * 4 * 3 + 1))
    history = fit(make(), train, train, config(), progress=False, on_record=seen.append)
    assert seen == [*history.steps, *history.evaluations] and len(seen) == 4


def test_compiling_is_asked_for_by_the_settings_and_changes_no_loss(monkeypatch):
    """The compiler itself is not needed here: that what it would be given is model and loss of each batch is."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    losses = [
        [step.loss for step in run(make(), loader(random_ids(8 * 4 * 3 + 1)), compile=compile).steps]
        for compile in (None, True)
    ]
    assert losses[0] == losses[1] and len(compiled) == 1
