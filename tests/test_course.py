"""The first notebook's helpers: a map of real things, this machine, token boxes, checks that explain."""

import platform
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

import mt_core
from mt_core import MicroTransformer, MicroTransformerTokenizer, TransformerDataset, create_dataloaders, generate
from mt_core.lab import checks, course, token_boxes
from mt_core.lab.course import LANES, Machine, Stage, map_words, plot_map, this_machine
from mt_core.lab.style import style
from mt_core.training import loss_of
from mt_core.workers import choose_workers

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
STAGES = [stage for _, stages in LANES for stage in stages]


# -- the map


def test_every_arrow_of_the_map_is_a_function_or_class_of_the_package() -> None:
    names = {stage.made_by for stage in STAGES} - {"", "pin, copy"}
    known = {
        **{name: getattr(mt_core, name) for name in mt_core.__all__},
        **vars(MicroTransformerTokenizer),
        "loss_of": loss_of,
    }
    assert names and not [name for name in names if not callable(known.get(name))]


def test_the_map_states_the_types_and_shapes_that_a_run_has(tokenizer, corpus, write_jsonl) -> None:
    forms = {stage.name: stage.form for stage in STAGES}
    documents = list(mt_core.read_documents(corpus))
    assert forms["documents"] == type(documents[0]).__name__
    ids = tokenizer.encode(documents[0])["input_ids"]
    assert forms["token ids"] == f"{type(ids).__name__}[{type(ids[0]).__name__}]"
    val = write_jsonl("val.jsonl", documents[:2])
    train_loader, _ = create_dataloaders(corpus, val, tokenizer, batch_size=2, seq_length=4)
    dataset = train_loader.dataset
    assert isinstance(dataset, TransformerDataset)

    def form(array: object, shape: str) -> str:
        assert len(array.shape) == len([letter for letter in shape if letter.isalpha()])
        return f"{str(array.dtype).removeprefix('torch.')} {shape}"

    assert forms["store"] == form(dataset.store.token_ids, "(N,)")
    row, batch = dataset[0], next(iter(train_loader))
    for name, tensors, shape in (("rows", row, "(T,)"), ("batch", batch, "(B, T)"), ("on the device", batch, "(B, T)")):
        assert len(tensors) == 2
        assert {forms[name]} == {f"{form(tensor, shape)}, twice" for tensor in tensors.values()}
    model = MicroTransformer(vocab_size=len(tokenizer), n_layer=1, n_head=2, n_embd=16)
    assert forms["logits"] == form(model(batch["input_ids"]), "(B, T, V)")
    assert forms["loss"] == form(loss_of(model, batch), "()")


def test_the_map_names_only_notebooks_that_are_there() -> None:
    linked = [number for stage in STAGES for number in stage.notebooks]
    assert linked and not [number for number in linked if len(list(NOTEBOOKS.glob(f"{number}_*.ipynb"))) != 1]


def test_no_text_of_the_map_leaves_its_box_or_the_picture_and_no_two_texts_meet() -> None:
    with style():
        ax = plot_map()
        figure = ax.get_figure()
        figure.canvas.draw()
        boxes = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
        assert len(boxes) == len(STAGES)
        texts = [(text.get_text(), text.get_window_extent(), text.get_gid()) for text in ax.texts if text.get_text()]
        for words, extent, gid in texts:
            assert figure.bbox.x0 <= extent.x0 and extent.x1 <= figure.bbox.x1, words
            inside = [box for box in boxes if box.x0 < extent.x0 and extent.x1 < box.x1]
            assert gid != "stage" or [b for b in inside if b.y0 < extent.y0 and extent.y1 < b.y1], words
            meets = [box for box in boxes if extent.overlaps(box)]
            assert gid == "stage" or words.startswith("notebook") or not meets, words
        for i, (words, extent, _) in enumerate(texts):
            assert not [other for other, place, _ in texts[i + 1 :] if extent.overlaps(place)], words
            assert not [line for line in ax.lines if _crosses(line, extent)], words
        plt.close(figure)


def _crosses(line, extent) -> bool:
    """Whether a line of horizontal and vertical pieces goes through the box of a text."""
    corners = line.get_transform().transform(line.get_xydata())
    return any(
        min(a[0], b[0]) < extent.x1
        and max(a[0], b[0]) > extent.x0
        and min(a[1], b[1]) < extent.y1
        and max(a[1], b[1]) > extent.y0
        for a, b in pairwise(corners)
    )


def test_the_words_of_the_map_name_every_stage_in_order() -> None:
    words = map_words()
    places = [words.index(f"{stage.name} (") for stage in STAGES]
    assert all(a < b for a, b in pairwise(places))
    assert "rows in 02 and 03 and 10" in words and "loss in 03, step in 13" in words
    assert map_words([("once", [Stage(name="a", form="b", made_by="")])]) == "Once: a (b)."


# -- this machine


def test_this_machine_is_described_and_is_enough() -> None:
    machine = this_machine()
    assert machine.cores >= 1 and machine.memory_gib is not None and machine.memory_gib > 0.5
    assert machine.python == platform.python_version() and machine.torch == torch.__version__
    assert machine.lacks() == []
    assert len({line[:18].strip() for line in machine.table().splitlines()}) == 7


def test_a_machine_that_is_not_enough_says_what_it_lacks() -> None:
    values = {"system": "x", "cores": 1, "accelerator": "none", "workers": "off"}
    old = Machine(**values, memory_gib=1.5, python="3.10.12", torch="2.9.1+cpu")
    assert [line.split(" is ")[0] for line in old.lacks()] == ["Python", "PyTorch", "memory"]
    assert "3.11 is needed" in old.lacks()[0]
    enough = Machine(**values, memory_gib=None, python="3.14.0rc1", torch="2.13.0a0+git1")
    assert enough.lacks() == [] and "unknown" in enough.table()


@pytest.mark.parametrize(("system", "words"), [("linux", "forkserver"), ("darwin", "spawn"), ("win32", "off here")])
def test_the_start_method_is_the_one_the_loaders_use(monkeypatch, system: str, words: str) -> None:
    policy = choose_workers(1, system=system)
    monkeypatch.setattr(course, "choose_workers", lambda _: policy)
    assert words in this_machine().workers


# -- tokens as boxes


def test_labels_show_spaces_marks_and_bytes(tokenizer) -> None:
    ids = tokenizer.encode("The cat\n[SEP] é 猫")["input_ids"]
    labels = token_boxes.token_labels(tokenizer, ids)
    assert len(labels) == len(ids) and labels[0] == "[CLS]" and labels[-1] == "[SEP]"
    assert labels.count("[SEP]") == 1  # characters in a text that spell it are not the mark
    assert "\\n" in "".join(labels) and "␣cat" in labels and labels[-4:-1] == ["E7", "8C", "AB"]


def test_a_character_the_font_cannot_draw_is_shown_as_its_bytes() -> None:
    assert [token_boxes._readable(text.encode()) for text in ("é", "猫", "\x07")] == ["é", "E7 8C AB", "07"]


def test_the_words_of_the_boxes_name_each_token_and_count(tokenizer) -> None:
    figure, words = token_boxes.draw_tokens(tokenizer, "z")
    plt.close(figure)
    assert words == f"1 character, 1 byte, 3 tokens: [CLS] = 1, z = {tokenizer.encode('z')['input_ids'][1]}, [SEP] = 2"


@pytest.mark.parametrize("text", ["", "q", "q " * 200, "é" * 50, "猫\u0000\ud7ff🙂"])
def test_boxes_of_any_text_stay_in_the_picture_and_apart(tokenizer, text: str) -> None:
    figure, words = token_boxes.draw_tokens(tokenizer, text)  # warnings, as for a missing glyph, are errors here
    figure.canvas.draw()
    ax = figure.axes[0]
    boxes = [patch.get_bbox() for patch in ax.patches]
    assert 2 <= len(boxes) <= 60 and all(box.x1 <= ax.get_xlim()[1] and box.y0 >= ax.get_ylim()[0] for box in boxes)
    assert not [a for i, a in enumerate(boxes) for b in boxes[i + 1 :] if a.overlaps(b)]
    assert ("more" in words) == (len(tokenizer.encode(text)["input_ids"]) > 60)
    plt.close(figure)


# -- the two exercises


def right_targets(batch):
    return (batch["labels"] != -100).sum()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (right_targets, "Right: 9 targets"),
        (lambda batch: int(right_targets(batch)), "Right: 9 targets"),
        (lambda batch: right_targets(batch).numpy(), "Right: 9 targets"),
        (lambda batch: ..., "returns nothing yet"),
        (lambda batch: None, "returns nothing yet"),
        (lambda batch: batch["labels"].numel(), "every label was counted"),
        (lambda batch: (batch["labels"] > 0).sum(), "id 0 is a token"),
        (lambda batch: (batch["input_ids"] != 0).sum(), "what is scored stands in labels"),
        (lambda batch: len(batch["labels"]), "number of rows"),
        (lambda batch: (batch["labels"] == -100).sum(), "places to leave out"),
        (lambda batch: 5, "says 5: count the places"),
        (lambda batch: float("nan"), "says nan"),
        (lambda batch: (batch["labels"] != -100).sum(1), "you returned tensor([4, 2, 3]), one number"),
        (lambda batch: True, "you returned True, one number"),
        (lambda batch: batch["label"], "stopped with KeyError"),
    ],
)
def test_check_targets(capsys, answer, says: str) -> None:
    checks.start.targets(answer)
    assert says in capsys.readouterr().out


def test_check_story(capsys, tokenizer) -> None:
    model = MicroTransformer(vocab_size=len(tokenizer), n_layer=1, n_head=2, n_embd=16)

    def story(ids: list[int]) -> str:
        return tokenizer.decode(generate(model, torch.tensor([ids]), max_new_tokens=3, temperature=0)[0])

    def ids(prompt: str) -> list[int]:
        return tokenizer.encode(prompt)["input_ids"]

    answers = {
        "Right: the model read [CLS]": lambda prompt: story(ids(prompt)[:-1]),
        "returns nothing yet": lambda prompt: ...,
        "end with [SEP]": lambda prompt: story(ids(prompt)),
        "do not begin with [CLS]": lambda prompt: story(ids(prompt)[1:-1]),
        "The model read 'Long ago'": lambda prompt: story(ids("Long ago")[:-1]),
        "never asked": lambda prompt: prompt + " slept.",
        "returned list": lambda prompt: [story(ids(prompt)[:-1])],
        "go on; yours begins": lambda prompt: story(ids(prompt)[:-1])[len(prompt) :],
        "stopped with ValueError": lambda prompt: generate(model, torch.tensor(ids(prompt)), max_new_tokens=1),
        "type of dict. The model reads a tensor (1, T)": lambda prompt: story(tokenizer.encode(prompt)),
        "encode returns a dictionary": lambda prompt: story(tokenizer.encode(prompt)[:-1]),
        "decode its row 0": lambda prompt: tokenizer.decode(
            generate(model, torch.tensor([ids(prompt)[:-1]]), max_new_tokens=3)
        ),
    }
    for says, answer in answers.items():
        checks.start.story(answer, model, tokenizer)
        assert says in capsys.readouterr().out
    assert not model._forward_pre_hooks
