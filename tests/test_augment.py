"""Augmentations: what each does to a row by hand, that nothing is taught wrongly, and that history is no part."""

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import starts_workers, stream
from hypothesis import given
from hypothesis import strategies as st

from mt_core import (
    LoaderStateError,
    MicroTransformerTokenizer,
    TokenLoader,
    TokenStore,
    TransformerDataset,
    create_dataloaders,
)
from mt_core.augment import (
    BpeDropout,
    FillInTheMiddle,
    OffsetJitter,
    RowContext,
    TokenDropping,
    TokenMasking,
    draw,
)
from mt_core.bpe_dropout import BpeDropoutRows, DropoutEncoder
from mt_core.lab.audit import CountingCorpus, audit, counting_corpus, interrupted
from mt_core.windows import JitteredRows

PAD, CLS, SEP, MASK = 0, 1, 2, 3
P, S, M = 91, 92, 93
HIDDEN = -1  # a token whose label is masked, and which is no input
ALL = [TokenMasking(rate=0.3), TokenDropping(rate=0.3), FillInTheMiddle(rate=0.8), OffsetJitter()]


def documents(*lengths: int) -> TokenStore:
    """[CLS] … [SEP], so many ordinary tokens between: 10, 11, 12, … through the corpus."""
    ids, ends, n = [], [], 10
    for length in lengths:
        ids += [CLS, *range(n, n + length), SEP]
        ends.append(len(ids))
        n += length
    return TokenStore.from_token_ids(ids, vocab_size=max(100, n + 1), document_ends=ends)


def context(n_rows: int, *, seed: int = 0, epoch: int = 0, continuous: bool = False) -> RowContext:
    return RowContext(
        seed=seed,
        place=0,
        epochs=np.full(n_rows, epoch),
        rows=np.arange(n_rows),
        special=(PAD, CLS, SEP, MASK),
        continuous=continuous,
    )


def arrays(dataset: TransformerDataset) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in dataset.gather(np.arange(len(dataset))).items()}


# -- random numbers -----------------------------------------------------------------------------------------


def test_these_numbers_never_change() -> None:
    """Golden values: a release that changed them would quietly change every run that is resumed or repeated."""
    assert draw(0, 7, np.arange(3)).round(9).tolist() == [0.630869661, 0.367044406, 0.879106089]
    assert draw(2**64 - 1, np.array([[0], [2**40]]), np.array([0, 1])).round(9).tolist() == [
        [0.873020725, 0.419692101],
        [0.788874822, 0.189207503],
    ]


def test_the_numbers_are_even_and_independent() -> None:
    numbers = draw(1, np.arange(200)[:, None], np.arange(200))
    assert numbers.shape == (200, 200) and 0 <= numbers.min() and numbers.max() < 1
    counts = np.bincount((numbers * 100).astype(int).ravel(), minlength=100)
    assert ((counts - 400) ** 2 / 400).sum() < 99 + 3 * 198**0.5  # chi-square, 3 standard deviations above its mean
    for one, other in ((numbers[:-1], numbers[1:]), (numbers[:, :-1], numbers[:, 1:]), (numbers, numbers.T)):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02
    assert draw(0, 1, 2) != draw(0, 2, 1) != draw(1, 1, 2) and draw(2**32, 5) != draw(0, 5)


# -- masking and dropping -----------------------------------------------------------------------------------


def test_masking_by_hand() -> None:
    one = {"input_ids": np.array([[CLS, 10, 11, SEP, PAD]]), "labels": np.array([[10, 11, 2, -100, -100]])}
    assert TokenMasking(rate=1).apply(one, context(1))["input_ids"].tolist() == [[CLS, MASK, MASK, SEP, PAD]]
    assert TokenMasking(rate=1).apply(one, context(1))["labels"] is one["labels"]
    assert TokenMasking(rate=0).apply(one, context(1))["input_ids"].tolist() == one["input_ids"].tolist()


def test_masking_hides_its_share() -> None:
    rows = {"input_ids": np.full((50, 200), 9), "labels": np.full((50, 200), 9)}
    hidden = TokenMasking(rate=0.15).apply(rows, context(50))["input_ids"] == MASK
    assert hidden.mean() == pytest.approx(0.15, abs=0.01)
    assert len({row.tobytes() for row in hidden}) == 50, "each row by itself"


def dropped_by_hand(rows: dict[str, np.ndarray], keep: np.ndarray) -> dict[str, list[list[int]]]:
    """Place by place, in plain Python."""
    filler = {"input_ids": PAD, "labels": -100, "position_ids": 0, "document_ids": -1}
    out: dict[str, list[list[int]]] = {name: [] for name in rows}
    for b in range(len(keep)):
        kept = [t for t in range(keep.shape[1]) if keep[b, t]]
        for name in rows:
            values = [int(rows[name][b, t]) for t in kept]
            if name == "position_ids":
                counts: Counter[int] = Counter()
                for i, t in enumerate(kept):
                    document = int(rows["document_ids"][b, t])
                    values[i] = counts[document] if document >= 0 else 0
                    counts[document] += 1
            out[name].append(values + [filler[name]] * (keep.shape[1] - len(kept)))
    return out


@pytest.mark.parametrize("chunking", ["contiguous", "per_document", "packed"])
@pytest.mark.parametrize("rate", [0, 0.4, 1])
def test_dropping_closes_up(chunking: Any, rate: float) -> None:
    dataset = TransformerDataset(documents(3, 9, 2, 5, 1), seq_length=12, chunking=chunking, mask_documents=True)
    rows = arrays(dataset)
    places = np.arange(12)
    numbers = draw(0, 0, np.zeros(len(dataset), int)[:, None], np.arange(len(dataset))[:, None], places)
    keep = (numbers >= rate) | np.isin(rows["input_ids"], [PAD, CLS, SEP])
    got = TokenDropping(rate=rate).apply(rows, context(len(dataset)))
    expected = dropped_by_hand(rows, keep)
    assert {name: array.tolist() for name, array in got.items()} == expected
    assert rate != 0 or all(np.array_equal(got[name], rows[name]) for name in rows)


def test_after_dropping_each_label_still_follows_its_input() -> None:
    tokens = np.arange(100, 165)
    rows = {"input_ids": tokens[None, :-1], "labels": tokens[None, 1:]}
    got = TokenDropping(rate=0.3).apply(rows, context(1))
    asked = got["labels"] != -100
    assert 30 < asked.sum() < 60 and (got["labels"] - got["input_ids"])[asked].tolist() == [1] * int(asked.sum())
    assert asked[0, : asked.sum()].all() and (got["input_ids"][~asked] == PAD).all()


# -- fill in the middle -------------------------------------------------------------------------------------


def restored(tokens: list[int], markers: tuple[int, int, int] = (P, S, M)) -> tuple[list[int], list[int]]:
    """Undo fill-in-the-middle of one document: the tokens in their own order, and the middle alone."""
    body = list(tokens)
    tail = [body.pop()] if body[-1] == SEP else []
    p, s, m = (
        [i for i, token in enumerate(body) if token in markers] if len(set(markers)) == 1 else map(body.index, markers)
    )
    assert p == 1, "the first marker comes right after the first token"
    prefix, suffix, middle = body[p + 1 : s], body[s + 1 : m], body[m + 1 :]
    return [body[0], *prefix, *middle, *suffix, *tail], middle


def test_fill_in_the_middle_by_hand() -> None:
    """[CLS] 10 … 17 [SEP], cut after 2 and 5 of the five tokens that stay: 15, 16 and 17 make room for the markers."""
    dataset = TransformerDataset(documents(8), seq_length=9, chunking="per_document")
    fim = FillInTheMiddle(rate=1, markers=(P, S, M))
    seen = set()
    for epoch in range(200):
        got = fim.apply(arrays(dataset), context(1, epoch=epoch))
        tokens = [*got["input_ids"][0].tolist(), int(got["labels"][0, -1])]
        assert got["labels"][0].tolist() == tokens[1:]
        assert restored(tokens)[0] == [CLS, 10, 11, 12, 13, 14, SEP]
        seen.add(tuple(tokens))
    assert (CLS, P, 10, 11, S, M, 12, 13, 14, SEP) in seen
    assert (CLS, P, 10, S, 12, 13, 14, M, 11, SEP) in seen
    assert (CLS, P, S, M, 10, 11, 12, 13, 14, SEP) in seen and (CLS, P, 10, 11, 12, 13, 14, S, M, SEP) in seen
    assert len(seen) == 21, "six places for a cut, two of them drawn"


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=6),
    st.integers(2, 25),
    st.sampled_from(["contiguous", "per_document", "sliding", "packed"]),
    st.integers(0, 5),
    st.booleans(),
)
def test_fill_in_the_middle_only_moves_tokens(
    lengths: list[int], seq_length: int, chunking: Any, epoch: int, one_marker: bool
) -> None:
    """Each document of each row can be put back; only the last three of its moved tokens are gone. Labels follow."""
    store = documents(*lengths)
    if len(store) < seq_length + 1:
        return
    dataset = TransformerDataset(store, seq_length=seq_length, chunking=chunking, mask_documents=True)
    rows = arrays(dataset)
    markers = (MASK,) * 3 if one_marker else (P + 1000, S + 1000, M + 1000)
    fim = FillInTheMiddle(rate=0.7, markers=None if one_marker else markers)
    before = {name: array.copy() for name, array in rows.items()}
    got = fim.apply(rows, context(len(dataset), epoch=epoch, continuous=chunking == "contiguous"))
    assert all(np.array_equal(rows[name], before[name]) for name in rows), "its input is left alone"
    for name in ("position_ids", "document_ids"):
        assert np.array_equal(got[name], rows[name])
    for b in range(len(dataset)):
        for document in set(rows["document_ids"][b].tolist()) - {-1}:
            here = np.flatnonzero(rows["document_ids"][b] == document)
            was, now = rows["input_ids"][b, here].tolist(), got["input_ids"][b, here].tolist()
            old, new = rows["labels"][b, here].tolist(), got["labels"][b, here].tolist()
            assert now[0] == was[0]
            inner = list(zip(now[1:], new, strict=False))
            assert all(label in (-100, token) for token, label in inner), "a label is the next input, or masked"
            if not set(markers) & set(now + new):
                assert (now, new) == (was, old)
                continue
            # The document as far as it stands here: its last label belongs to it unless it ended before.
            asked = {token for token, label in zip(was[1:], old, strict=False) if label != -100} | {old[-1]}
            if was[-1] != SEP and old[-1] != CLS:
                was, now = [*was, old[-1]], [*now, new[-1] if new[-1] != -100 else HIDDEN]
            body = restored(now, markers)[0]
            tail = [SEP] if was[-1] == SEP else []
            expected = was[: len(was) - len(tail) - 3] + tail
            assert all(one in (other, HIDDEN) for one, other in zip(body, expected, strict=True))
            for token, label in zip(now[1:], new, strict=False):
                assert label == (token if token in asked or token in markers else -100)


def test_documents_are_turned_at_their_rate_and_each_cut_is_as_likely() -> None:
    store = documents(*[6] * 3000)
    dataset = TransformerDataset(store, seq_length=7, chunking="per_document")
    got = FillInTheMiddle(rate=0.6, markers=(P + 10**6, S + 10**6, M + 10**6)).apply(arrays(dataset), context(3000))
    turned = got["input_ids"][:, 1] == P + 10**6
    assert turned.mean() == pytest.approx(0.6, abs=0.03)
    tokens = np.concatenate([got["input_ids"], got["labels"][:, -1:]], axis=1)[turned]
    cuts = Counter((row.tolist().index(S + 10**6) - 2, 6 - row.tolist().index(M + 10**6)) for row in tokens)
    assert len(cuts) == 10, "three tokens stay: four places, two of them drawn, in order"
    with_middle = [count for (_, middle), count in cuts.items() if middle]
    without = [count for (_, middle), count in cuts.items() if not middle]
    assert max(with_middle) / min(with_middle) < 1.5
    assert np.mean(with_middle) / np.mean(without) == pytest.approx(2, abs=0.25)


def test_contiguous_rows_are_turned_document_by_document(tokenizer: MicroTransformerTokenizer) -> None:
    """Without being asked for, `document_ids` are not delivered; the rows are those with them."""
    store = TokenStore.from_token_ids(documents(9, 7, 12).token_ids, vocab_size=320, document_ends=[11, 20, 34])
    fim = [FillInTheMiddle(rate=1)]
    plain = TransformerDataset(store, tokenizer, 16, augment=fim)
    full = TransformerDataset(store, tokenizer, 16, augment=fim, mask_documents=True)
    assert list(plain[0]) == ["input_ids", "labels"] and list(full[0])[2:] == ["position_ids", "document_ids"]
    for row in range(len(plain)):
        assert torch.equal(plain[row]["input_ids"], full[row]["input_ids"])
    tokens = plain[0]["input_ids"].tolist()
    assert restored(tokens[:11], (MASK,) * 3)[0] == [CLS, *range(10, 16), SEP]
    assert plain[0]["labels"][10] == tokens[11] == CLS


# -- jitter -------------------------------------------------------------------------------------------------


def test_jitter_by_hand() -> None:
    rows = JitteredRows(stream(11), seq_length=4)
    assert len(rows) == 4
    got = [rows.gather(np.arange(4), np.full(4, offset))["labels"].tolist() for offset in range(4)]
    assert got == [
        [[1, 2, 3, 4], [5, 6, 7, 8], [-100, -100, 9, -100], [-100, -100, -100, 10]],
        [[1, 2, 3, -100], [4, 5, 6, 7], [-100, 8, 9, -100], [-100, -100, -100, 10]],
        [[1, 2, -100, -100], [3, 4, 5, 6], [7, 8, 9, -100], [-100, -100, -100, 10]],
        [[1, -100, -100, -100], [2, 3, 4, 5], [6, 7, 8, 9], [-100, -100, -100, 10]],
    ]


@given(st.integers(2, 60), st.integers(1, 20), st.data())
def test_each_target_once_whatever_the_offset(n_tokens: int, seq_length: int, data: st.DataObject) -> None:
    if n_tokens < seq_length + 1:
        return
    rows = JitteredRows(stream(n_tokens), seq_length)
    for offset in range(seq_length):
        numbers = np.arange(len(rows))
        got = rows.gather(numbers, np.full(len(rows), offset))
        asked = got["labels"] != -100
        assert sorted(got["labels"][asked].tolist()) == list(range(1, n_tokens))
        assert (got["labels"] - got["input_ids"])[asked].tolist() == [1] * (n_tokens - 1)
        assert asked.any(axis=1).all(), "no row without a target"
        assert np.array_equal(rows.positions(numbers, np.full(len(rows), offset)), got["input_ids"])
    assert len(rows) == -(-(n_tokens - 1) // seq_length) + (seq_length > 1)


def test_jittered_rows_can_be_turned() -> None:
    """What follows a row that ends early is not known to it, and stays where it is."""
    store = TokenStore.from_token_ids(np.arange(10, 75), vocab_size=340)
    dataset = TransformerDataset(store, TOKENIZER, 16, augment=[OffsetJitter(), FillInTheMiddle(rate=1)])
    numbers = np.arange(20 * len(dataset))
    batch = dataset.gather(numbers)
    assert batch["input_ids"].min() == MASK
    first = batch["labels"][:: len(dataset)]
    assert (first[:, -1] == -100).float().mean() > 0.5, "most first rows are shorter"


@pytest.mark.parametrize("n_tokens", [1000, 1001, 1017])
def test_the_audit_sees_each_target_once_an_epoch_and_other_cuts_each(n_tokens: int) -> None:
    def create(corpus: CountingCorpus, **ranks: int) -> TokenLoader:
        dataset = TransformerDataset(corpus.store(), seq_length=16, augment=[OffsetJitter()], seed=4)
        return TokenLoader(dataset, batch_size=8, shuffle=True, seed=4, **ranks)

    corpus = counting_corpus(n_tokens, n_documents=1)
    for factory, ranks in ((create, None), (create, 2), (interrupted(create, after=3), None)):
        report = audit(factory, corpus, epochs=3, world_size=ranks)
        assert all(epoch.once == n_tokens - 1 and not epoch.repeated and not epoch.never for epoch in report.epochs)
        assert report.wrong_labels == 0
    firsts = []
    loader = create(corpus)
    for _ in range(20):
        firsts.append(min(int(n) for batch in loader for n in batch["input_ids"][:, 0] if n))
    assert len(set(firsts)) > 8, "the cuts move from epoch to epoch"


# -- BPE dropout --------------------------------------------------------------------------------------------


# Parts of the words that merges were learned from, or anything at all.
parts = st.sampled_from(
    ["low", "lowe", "ower", "lowest", "est", "we", "mat", "at", "cat", "sat", "The", "he", " ", "lon"]
)
written = st.lists(parts, max_size=12).map("".join) | st.text(st.characters(codec="utf-8"), max_size=60)


@given(written)
def test_without_dropout_the_ids_are_the_tokenizers(text: str) -> None:
    assert ENCODER(text, 0.0, random.Random(0)) == TOKENIZER.encode(text)["input_ids"]


@given(written, st.floats(0, 1), st.integers(0, 99))
def test_however_words_are_split_they_are_the_same_text(text: str, rate: float, seed: int) -> None:
    ids = ENCODER(text, rate, random.Random(seed))
    assert TOKENIZER.decode(ids) == text and ids == ENCODER(text, rate, random.Random(seed))
    if rate == 1:
        assert len(ids) == len(text.encode("utf-8")) + 2


WORDS = ["The cat sat on the mat.", "a lower low lowest mat cat", "Größe 你好, 12 cats   aren't here"]
TOKENIZER = MicroTransformerTokenizer.train(WORDS * 3, vocab_size=340)
ENCODER = DropoutEncoder(TOKENIZER)


def test_a_word_by_hand() -> None:
    """aab, with merges for ab and then aab: while the first is left out, nothing else can be merged."""
    tokenizer = MicroTransformerTokenizer.train(["aab aab", "ab ab ab"], vocab_size=262)
    assert tokenizer.merges == [("a", "b"), ("a", "ab")]
    encoder, pieces = DropoutEncoder(tokenizer), tokenizer.token_bytes()
    found = Counter(tuple(pieces[i] for i in encoder("aab", 0.5, random.Random(n))[1:-1]) for n in range(2000))
    shares = {split: count / 2000 for split, count in found.items()}
    assert shares == {
        (b"a", b"a", b"b"): pytest.approx(0.5, abs=0.035),
        (b"a", b"ab"): pytest.approx(0.25, abs=0.03),
        (b"aab",): pytest.approx(0.25, abs=0.03),
    }


def dropout(path: Path, rate: float = 0.3, seq_length: int = 16, **settings: Any) -> TransformerDataset:
    return TransformerDataset(
        path,
        TOKENIZER,
        seq_length,
        tokenize="on-the-fly",
        chunking="per_document",
        augment=[BpeDropout(rate=rate)],
        **settings,
    )


def test_rows_of_split_words(write_jsonl: Callable[..., Path]) -> None:
    texts = [" ".join(WORDS[n % 3] for n in range(k + 1)) for k in range(6)]
    path = write_jsonl("texts.jsonl", texts)
    plain = TransformerDataset(path, TOKENIZER, 16, chunking="per_document")
    unsplit = dropout(path, rate=0)
    assert len(plain) == len(unsplit) == len(dropout(path)) > 10
    for row in range(len(plain)):
        assert all(torch.equal(plain[row][name], unsplit[row][name]) for name in plain[row])
    split, n = dropout(path), len(plain)
    epochs = [split.gather(np.arange(n) + epoch * n) for epoch in range(30)]
    assert not torch.equal(epochs[0]["input_ids"], epochs[1]["input_ids"])
    begins, ends = 0, 0
    for batch in epochs:
        for document, text in enumerate(texts):
            here = batch["document_ids"] == document
            asked = here & (batch["labels"] != -100)
            assert here.any(dim=1).sum() == (plain.gather(np.arange(n))["document_ids"] == document).any(dim=1).sum()
            assert asked.any(dim=1).sum() == here.any(dim=1).sum(), "no row of it is empty"
            ids = [*batch["input_ids"][here].tolist(), int(batch["labels"][here][-1])]
            assert TOKENIZER.decode(ids, skip_special_tokens=True).strip("\ufffd") in text
            begins, ends = begins + (ids[0] == CLS), ends + (ids[-1] == SEP)
    assert 30 < begins < 180 and 30 < ends < 180, "what does not fit is left out at either end"


def test_a_document_too_short_for_its_rows_is_left_as_it_is(write_jsonl: Callable[..., Path]) -> None:
    """Rarely, other merges make a text shorter: a row without targets would have no loss."""
    dataset = dropout(write_jsonl("one.jsonl", [WORDS[0]]), seq_length=4)
    rows = dataset.rows
    assert isinstance(rows, BpeDropoutRows)
    encode, n = rows._encoder, len(dataset)
    for length, left in (((n - 1) * 4 + 1, False), ((n - 1) * 4 + 2, True)):
        rows._split.cache_clear()
        rows._encoder = lambda text, rate, state, length=length: [7] * length if rate else encode(text, 0, state)  # type: ignore
        got = rows.gather(np.arange(n))
        assert (got["input_ids"] == 7).any() == left and (got["labels"][-1] != -100).any()


def test_dropout_goes_with_text_in_per_document_rows(write_jsonl: Callable[..., Path], mapped: TokenStore) -> None:
    path = write_jsonl("texts.jsonl", WORDS)
    with pytest.raises(ValueError, match="BpeDropout splits text anew, and a store holds tokens: use tokenize='on-the"):
        TransformerDataset(path, TOKENIZER, 8, chunking="per_document", augment=[BpeDropout(rate=0.1)])
    with pytest.raises(ValueError, match=r"BpeDropout changes the length of documents.* here are 'contiguous'"):
        TransformerDataset(path, TOKENIZER, 8, tokenize="on-the-fly", augment=[BpeDropout(rate=0.1)])
    with pytest.raises(ValueError, match=r"BpeDropout changes.* and length_buckets=\(4, 8\)"):
        dropout(path, seq_length=8, length_buckets=2)


# -- in the loader ------------------------------------------------------------------------------------------


def augmented(kind: str, tmp_path: Path, provenance: bool = False) -> tuple[TransformerDataset, dict[str, Any]]:
    """A dataset of some kind with augmentations, and settings of its loader."""
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": " ".join(WORDS[: n % 3 + 1]) * (n % 4 + 1)}) + "\n" for n in range(40)]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    order: dict[str, Any] = {"batch_size": 8, "shuffle": True, "seed": 6}
    rows: dict[str, Any] = {"seed": 6, "provenance": provenance}
    small = [FillInTheMiddle(rate=0.5), TokenMasking(rate=0.1), TokenDropping(rate=0.1)]
    if kind == "jitter":
        return TransformerDataset(path, TOKENIZER, 16, augment=[OffsetJitter(), *small], **rows), order
    if kind == "packed":
        return TransformerDataset(path, TOKENIZER, 64, chunking="packed", augment=small, **rows), order
    if kind == "buckets":
        order |= {"token_budget": 256}
        settings = {"chunking": "sliding", "length_buckets": 3}
        return TransformerDataset(path, TOKENIZER, 32, augment=small, **settings, **rows), order
    return dropout(path, **rows), order


KINDS = ["jitter", "packed", "buckets", "dropout"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_every_epoch_is_another_and_can_be_entered_anywhere(kind: str, tmp_path: Path) -> None:
    """Row by row the same, whatever came before it, in this process or after resuming, on one rank or two."""
    dataset, order = augmented(kind, tmp_path)
    loader, n = TokenLoader(dataset, **order), len(dataset)
    epochs = [list(loader) for _ in range(3)]
    assert all(batch["input_ids"].min() >= 0 for epoch in epochs for batch in epoch)
    again = TokenLoader(dataset, **order)
    again.set_epoch(2)
    assert all(same(*pair) for pair in zip(again, epochs[2], strict=True))
    rows = np.arange(n)
    one_by_one = [dataset.gather(np.array([row + 2 * n])) for row in rows]
    for row, whole in zip(rows, one_by_one, strict=True):
        if kind != "buckets":  # a batch of those is cut to its longest row
            at_once = dataset.gather(rows + 2 * n)
            assert all(torch.equal(at_once[name][row], whole[name][0]) for name in whole)
    first, second = (dataset.gather(rows + epoch * n) for epoch in (0, 1))
    assert not torch.equal(first["input_ids"], second["input_ids"])
    assert all(torch.equal(dataset[0][name], dataset.gather(np.array([0]))[name][0]) for name in dataset[0])
    other = TokenLoader(dataset, **order)
    other.set_epoch(1)
    running = iter(other)
    for _ in range(2):
        next(running)
    running.close()
    parts = [TokenLoader(dataset, rank=rank, world_size=2, **order) for rank in range(2)]
    for part in parts:
        part.load_state_dict(json.loads(json.dumps(other.state_dict())))
    if kind != "buckets":
        for step, whole in zip(zip(*parts, strict=True), epochs[1][2:], strict=True):
            together = {name: torch.cat([part[name] for part in step]) for name in whole}
            size = len(whole["labels"])
            assert all(torch.equal(together[name][:size], whole[name]) for name in whole)
            assert (together["labels"][size:] == -100).all()


@starts_workers
def test_workers_that_stay_know_the_epoch(tmp_path: Path) -> None:
    dataset, order = augmented("jitter", tmp_path)
    plain = TokenLoader(dataset, **order)
    expected = [list(plain) for _ in range(2)]
    if sys.platform == "win32":
        order["start_method"] = "spawn"
    workers = TokenLoader(dataset, num_workers=1, **order)
    for epoch in expected:
        assert all(same(*pair) for pair in zip(workers, epoch, strict=True))


def test_seed_epoch_row_and_place_in_the_list_each_matter(tmp_path: Path) -> None:
    rows = {"input_ids": np.full((4, 50), 9), "labels": np.full((4, 50), 9)}
    masks = set()
    for seed in (0, 1):
        for epoch in (0, 1):
            got = TokenMasking(rate=0.5).apply(rows, context(4, seed=seed, epoch=epoch))["input_ids"]
            masks |= {row.tobytes() for row in got}
    assert len(masks) == 16
    store = TokenStore.from_token_ids([9] * 65, vocab_size=340)
    twice = [TokenMasking(rate=0.5), TokenMasking(rate=0.5)]
    hidden = (TransformerDataset(store, TOKENIZER, 64, augment=twice)[0]["input_ids"] == MASK).sum()
    assert 40 < hidden < 57, "the second masks others than the first: three quarters in all"


def test_they_are_applied_in_their_order() -> None:
    """All inputs masked, then none is left to drop: masks are special tokens."""
    store = TokenStore.from_token_ids([9] * 65, vocab_size=340)
    both = [TokenMasking(rate=1), TokenDropping(rate=1)]
    assert TransformerDataset(store, TOKENIZER, 64, augment=both)[0]["input_ids"].tolist() == [MASK] * 64
    assert TransformerDataset(store, TOKENIZER, 64, augment=both[::-1])[0]["input_ids"].tolist() == [PAD] * 64


@pytest.mark.parametrize("kind", KINDS)
def test_provenance_has_row_and_epoch(kind: str, tmp_path: Path) -> None:
    dataset, order = augmented(kind, tmp_path, provenance=True)
    loader = TokenLoader(dataset, **order)
    for epoch in range(2):
        rows = torch.cat([batch["provenance"] for batch in loader])
        assert sorted(rows[:, 0].tolist()) == list(range(len(dataset)))
        assert set(rows[:, 1].tolist()) == {epoch}


def test_positions_follow_the_jitter() -> None:
    jitter = TransformerDataset(stream(50), seq_length=8, augment=[OffsetJitter()], provenance=True)
    numbers = np.array([9, 3 + 2 * len(jitter)])
    batch = jitter.gather(numbers)
    where = jitter.positions(batch["provenance"][:, 0].numpy(), batch["provenance"][:, 1].numpy())
    assert where.tolist() == batch["input_ids"].tolist()


def test_one_line_turns_each_on_for_training_alone(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    train, val = write_jsonl("train.jsonl", WORDS * 20), write_jsonl("val.jsonl", ["The mat sat"] * 20)
    settings: dict[str, Any] = {"tokenizer": TOKENIZER, "batch_size": 4, "seq_length": 16, "seed": 8}
    plain = create_dataloaders(train, val, **settings)
    for one in ALL:
        loaders = create_dataloaders(train, val, **settings, augment=[one])
        assert any(
            not torch.equal(*pair)
            for pair in zip(
                *([b["labels"] + 999 * b["input_ids"] for b in loader] for loader in (loaders[0], plain[0])),
                strict=False,
            )
        )
        assert all(same(*pair) for pair in zip(loaders[1], plain[1], strict=True))
        assert loaders[0].state_dict()["augment"][0]["name"] == type(one).__name__
        json.dumps(loaders[0].state_dict())
    split = create_dataloaders(
        train, val, **settings, chunking="per_document", tokenize="on-the-fly", augment=[BpeDropout(rate=0.1)]
    )
    assert len(list(split[0])) == len(split[0]) and len(list(split[1])) == len(split[1])


def test_resume_with_other_augmentations_is_refused() -> None:
    def loader(*augment: Any) -> TokenLoader:
        return TokenLoader(TransformerDataset(stream(100), TOKENIZER, 8, augment=augment))

    fim = FillInTheMiddle(rate=0.5, markers=(1, 2, 3))
    state = json.loads(json.dumps(loader(fim).state_dict()))
    loader(fim).load_state_dict(state)
    for other in ((), (FillInTheMiddle(rate=0.5),), (fim, TokenMasking(rate=0.1))):
        with pytest.raises(LoaderStateError, match="the state was taken with augment="):
            loader(*other).load_state_dict(state)
        with pytest.raises(LoaderStateError, match="the state was taken with augment="):
            loader(fim).load_state_dict(loader(*other).state_dict())


@pytest.mark.parametrize("kind", [TokenMasking, TokenDropping, FillInTheMiddle, BpeDropout])
@pytest.mark.parametrize("rate", [-0.1, 1.1, "0.5", None, True, float("nan")])
def test_a_rate_is_from_0_to_1(kind: Any, rate: Any) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}\(rate={rate!r}\): a number from 0 to 1 is needed"):
        kind(rate=rate)


def test_what_does_not_go_together() -> None:
    def create(*augment: Any, tokenizer: Any = TOKENIZER, **settings: Any) -> TransformerDataset:
        return TransformerDataset(stream(100), tokenizer, 8, augment=augment, **settings)

    with pytest.raises(ValueError, match="augment holds 'mask': a list of TokenMasking, TokenDropping, Fill"):
        create("mask")
    with pytest.raises(ValueError, match=r"TokenMasking needs the ids of .* pass the tokenizer along with the store"):
        create(TokenMasking(rate=0.1), tokenizer=None)
    create(OffsetJitter(), tokenizer=None)
    with pytest.raises(ValueError, match="FillInTheMiddle turns rows as they stand in the text: put it before"):
        create(TokenMasking(rate=0.1), FillInTheMiddle(rate=0.1))
    with pytest.raises(ValueError, match="OffsetJitter 2 times: once is enough"):
        create(OffsetJitter(), OffsetJitter())
    for settings in ({"stride": 4}, {"chunking": "packed"}):
        with pytest.raises(ValueError, match="OffsetJitter moves the cuts of contiguous rows with the default stride"):
            create(OffsetJitter(), **settings)
    with pytest.raises(ValueError, match=r"markers=\(1, 2\), three token ids are needed"):
        FillInTheMiddle(rate=0.5, markers=(1, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the dataset augments with seed=1, the loader has seed=0: use one"):
        TokenLoader(create(OffsetJitter(), seed=1))
    with pytest.raises(IndexError, match="row -5 does not exist"):
        create(OffsetJitter()).__getitems__([-5])
