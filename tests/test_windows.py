"""Tokens to rows: each target once, none forgotten, none invented. Checked against plain Python, by brute force."""

from collections import Counter

import numpy as np
import pytest
from helpers import stream
from hypothesis import given
from hypothesis import strategies as st

from mt_core import TokenStore
from mt_core.packing import pack
from mt_core.windows import IGNORE, ContiguousRows, DocumentRows, PackedRows


def all_rows(rows: ContiguousRows | DocumentRows | PackedRows) -> dict[str, np.ndarray]:
    return rows.gather(np.arange(len(rows)))


# -- contiguous ---------------------------------------------------------------------------------------------


def test_rows_worked_out_by_hand() -> None:
    """Nine tokens, rows of 4: they start at 0 and 4 and share token 4, the label of one and an input of the next."""
    rows = ContiguousRows(stream(9), seq_length=4)
    assert all_rows(rows)["input_ids"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert all_rows(rows)["labels"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_the_last_row_moves_back_and_masks_what_was_seen() -> None:
    rows = ContiguousRows(stream(11), seq_length=4)
    assert rows.starts(np.arange(3)).tolist() == [0, 4, 6]
    assert all_rows(rows)["input_ids"].tolist()[2] == [6, 7, 8, 9]
    assert all_rows(rows)["labels"].tolist()[2] == [IGNORE, IGNORE, 9, 10]


@pytest.mark.parametrize("seq_length", range(1, 13))
def test_each_target_is_seen_exactly_once(seq_length: int) -> None:
    """Every N from T + 1 to 40. Blocks of T + 1 without overlap would lose one target in T + 1."""
    for n_tokens in range(seq_length + 1, 41):
        rows = ContiguousRows(stream(n_tokens), seq_length)
        labels = all_rows(rows)["labels"]
        assert sorted(labels[labels != IGNORE].tolist()) == list(range(1, n_tokens)), n_tokens
        assert len(rows) == -(-(n_tokens - 1) // seq_length), n_tokens  # and in as few rows as can be


@pytest.mark.parametrize("seq_length", range(1, 13))
def test_too_few_tokens_for_one_row(seq_length: int) -> None:
    for n_tokens in range(seq_length + 1):
        needed = "at least 2 are needed" if n_tokens < 2 else f"seq_length={seq_length} needs {seq_length + 1}"
        with pytest.raises(ValueError, match=rf"corpus has {n_tokens} tokens?, .*{needed}"):
            ContiguousRows(stream(n_tokens), seq_length)


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 60))
def test_a_label_is_the_token_after_its_input_or_masked(seq_length: int, stride: int, more: int) -> None:
    rows = ContiguousRows(stream(seq_length + 1 + more), seq_length, stride)
    batch = all_rows(rows)
    labels, inputs = batch["labels"], batch["input_ids"]
    assert ((labels == inputs + 1) | (labels == IGNORE)).all()
    assert (inputs == rows.starts(np.arange(len(rows)))[:, None] + np.arange(seq_length)).all()


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 60))
def test_strides(seq_length: int, stride: int, more: int) -> None:
    """Against the definition, in plain Python: rows every `stride` tokens until one reaches the end of the stream;
    a row that runs out of tokens holds its own targets at its end, masked ones before them."""
    n_tokens = seq_length + 1 + more
    expected = []
    for start in range(0, n_tokens - 1, stride):
        own = list(range(start + 1, min(start + seq_length + 1, n_tokens)))
        expected.append([IGNORE] * (seq_length - len(own)) + own)
        if start + seq_length >= n_tokens - 1:
            break
    assert all_rows(ContiguousRows(stream(n_tokens), seq_length, stride))["labels"].tolist() == expected


def test_stride_1_makes_an_epoch_almost_seq_length_times_as_long() -> None:
    labels = all_rows(ContiguousRows(stream(1001), 10, stride=1))["labels"]
    assert labels.shape == (991, 10)
    assert Counter(labels.ravel().tolist())[500] == 10


def test_a_stride_beyond_seq_length_leaves_targets_out() -> None:
    labels = all_rows(ContiguousRows(stream(13), 4, stride=8))["labels"]
    assert labels.tolist() == [[1, 2, 3, 4], [9, 10, 11, 12]]


@pytest.mark.parametrize(
    "n_tokens, seq_length, n_rows",
    [(999_999_489, 512, 1_953_124), (999_999_490, 512, 1_953_125), (2**33 + 2, 1, 2**33 + 1)],
)
def test_counting_stays_exact_where_floats_and_32_bits_do_not(n_tokens: int, seq_length: int, n_rows: int) -> None:
    """999,999,489 tokens once came out one row short; streams of that length cost no memory here."""
    ids = np.broadcast_to(np.zeros(1, dtype=np.uint16), n_tokens)
    rows = ContiguousRows(TokenStore(ids, np.array([n_tokens], dtype=np.uint64), {}), seq_length)
    assert len(rows) == n_rows
    assert rows.starts(np.array([n_rows - 1])).tolist() == [n_tokens - 1 - seq_length]


@given(st.integers(1, 8), st.integers(0, 30), st.data())
def test_a_batch_is_its_rows_one_by_one_in_any_order(seq_length: int, more: int, data: st.DataObject) -> None:
    rows = ContiguousRows(stream(seq_length + 1 + more), seq_length)
    some = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8)))
    batch = rows.gather(some)
    for name, array in batch.items():
        assert array.dtype == np.int64 and array.flags.c_contiguous
        assert array.tolist() == [rows.gather(np.array([row]))[name][0].tolist() for row in some], name


# -- per document -------------------------------------------------------------------------------------------


def test_document_rows_worked_out_by_hand() -> None:
    """Documents of 5, 1 and 3 tokens, rows of 3. The document of one token has no target, so it has no row."""
    store = TokenStore.from_token_ids(range(10, 19), vocab_size=20, document_ends=[5, 6, 9], pad_token_id=0)
    rows = all_rows(DocumentRows(store, seq_length=3))
    assert rows["input_ids"].tolist() == [[10, 11, 12], [13, 0, 0], [16, 17, 0]]
    assert rows["labels"].tolist() == [[11, 12, 13], [14, -100, -100], [17, 18, -100]]
    assert rows["document_ids"].tolist() == [[0, 0, 0], [0, -1, -1], [2, 2, -1]]
    assert rows["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0], [0, 1, 0]]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=10), st.integers(1, 8))
def test_document_rows_hold_each_target_of_each_document_once(lengths: list[int], seq_length: int) -> None:
    ends = np.cumsum(lengths).tolist()
    pad = 5000
    store = TokenStore.from_token_ids(range(ends[-1]), vocab_size=6000, document_ends=ends, pad_token_id=pad)
    expected = []  # (document, input, label), in plain Python
    for document, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        expected += [(document, token, token + 1) for token in range(end - length, end - 1)]
    if not expected:
        with pytest.raises(ValueError, match="no document has two tokens"):
            DocumentRows(store, seq_length)
        return
    rows = DocumentRows(store, seq_length)
    batch = all_rows(rows)
    real = batch["labels"] != IGNORE
    found = zip(*(batch[name][real].tolist() for name in ("document_ids", "input_ids", "labels")), strict=True)
    assert list(found) == expected
    assert (batch["input_ids"][~real] == pad).all() and (batch["document_ids"][~real] == -1).all()
    assert len(rows) == sum(-(-(length - 1) // seq_length) for length in lengths)
    assert all(len(set(ids[ids >= 0])) == 1 for ids in batch["document_ids"])  # a row never crosses a document


@given(st.data())
def test_document_rows_in_any_order(data: st.DataObject) -> None:
    store = TokenStore.from_token_ids(range(30), vocab_size=30, document_ends=[2, 3, 4, 15, 16, 30])
    rows = DocumentRows(store, seq_length=4)
    some = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8)))
    for name, array in rows.gather(some).items():
        assert array.dtype == np.int64 and array.flags.c_contiguous
        assert array.tolist() == all_rows(rows)[name][some].tolist()


# -- sliding windows ----------------------------------------------------------------------------------------


def test_sliding_rows_worked_out_by_hand() -> None:
    """A document of 9 tokens and one of 3, rows of 4, stride 2: what an earlier row asked is -100, and read again."""
    store = TokenStore.from_token_ids(range(12), vocab_size=12, document_ends=[9, 12], pad_token_id=0)
    rows = all_rows(DocumentRows(store, seq_length=4, stride=2))
    assert rows["input_ids"].tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [9, 10, 0, 0]]
    assert rows["labels"].tolist() == [[1, 2, 3, 4], [-100, -100, 5, 6], [-100, -100, 7, 8], [10, 11, -100, -100]]
    moved_back = TokenStore.from_token_ids(range(8), vocab_size=8)
    rows = all_rows(DocumentRows(moved_back, seq_length=4, stride=2))
    assert rows["input_ids"].tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [3, 4, 5, 6]], "the last row is full"
    assert rows["labels"].tolist() == [[1, 2, 3, 4], [-100, -100, 5, 6], [-100, -100, -100, 7]]


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.integers(1, 8), st.data())
def test_sliding_rows_ask_each_target_once_with_enough_before_it(lengths, seq_length, data) -> None:
    stride = data.draw(st.integers(1, seq_length))
    ends = np.cumsum(lengths)
    store = TokenStore.from_token_ids(range(ends[-1]), vocab_size=ends[-1], document_ends=ends)
    rows = DocumentRows(store, seq_length, stride)
    batch = all_rows(rows)
    asked = batch["labels"] != IGNORE
    targets = [t for end, n in zip(ends, lengths, strict=True) for t in range(end - n + 1, end)]
    assert sorted(batch["labels"][asked].tolist()) == targets
    begins = np.repeat(ends - lengths, lengths)
    for row, place in np.argwhere(asked):
        label = batch["labels"][row, place]
        assert place + 1 >= min(seq_length - stride + 1, label - begins[label]), "inputs before it, or its beginning"


def test_a_stride_beyond_the_row_is_refused() -> None:
    with pytest.raises(ValueError, match="stride=5 is more than seq_length=4: targets between the rows"):
        DocumentRows(stream(20), seq_length=4, stride=5)


# -- packing ------------------------------------------------------------------------------------------------


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[int]:
    """One item at a time, by looking at every bin: the room that is left in each."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [b for b, left in enumerate(room) if left >= length]
        if not fitting:
            room.append(capacity)
            fitting = [len(room) - 1]
        room[min(fitting, key=lambda b: room[b])] -= length
    return sorted(room)


@given(st.integers(1, 30), st.data())
def test_packing_equals_the_plain_algorithm(capacity: int, data: st.DataObject) -> None:
    lengths = np.array(data.draw(st.lists(st.integers(1, capacity), max_size=60)), dtype=np.int64)
    bins = pack(lengths, capacity)
    n_bins = bins.max(initial=-1) + 1
    used = np.bincount(bins, weights=lengths, minlength=n_bins)
    assert sorted((capacity - used).tolist()) == best_fit_decreasing(lengths.tolist(), capacity)
    assert len(set(bins.tolist())) == n_bins


def test_what_does_not_fit_a_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="lengths go from 1 to 9, 1 to capacity=8 is needed"):
        pack(np.array([1, 9]), 8)
    with pytest.raises(ValueError, match="lengths go from 0"):
        pack(np.array([0, 3]), 8)


def test_packed_rows_worked_out_by_hand() -> None:
    """Documents of 6, 4, 2 and 1 tokens, rows of 3: 5, 3, 1 and 0 targets, so rows of 3, of 2 + 1 and of 3."""
    store = TokenStore.from_token_ids(range(13), vocab_size=13, document_ends=[6, 10, 12, 13])
    packed = PackedRows(store, seq_length=3)
    rows = all_rows(packed)
    assert sorted(rows["labels"].tolist()) == [[1, 2, 3], [4, 5, 11], [7, 8, 9]]
    row = rows["labels"].tolist().index([4, 5, 11])
    assert rows["input_ids"][row].tolist() == [3, 4, 10]
    assert rows["document_ids"][row].tolist() == [0, 0, 2] and rows["position_ids"][row].tolist() == [0, 1, 0]
    assert packed.fill() == 1.0 and packed.row_lengths().tolist() == [3, 3, 3]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(2, 16))
def test_packed_rows_ask_each_target_once_and_cut_only_what_is_longer_than_a_row(lengths, seq_length) -> None:
    ends = np.cumsum(lengths)
    store = TokenStore.from_token_ids(range(ends[-1]), vocab_size=2000, document_ends=ends, pad_token_id=1999)
    targets = {t: d for d, (end, n) in enumerate(zip(ends, lengths, strict=True)) for t in range(end - n + 1, end)}
    if not targets:
        with pytest.raises(ValueError, match="no document has two tokens"):
            PackedRows(store, seq_length)
        return
    rows = PackedRows(store, seq_length)
    batch = all_rows(rows)
    asked = batch["labels"] != IGNORE
    assert sorted(batch["labels"][asked].tolist()) == sorted(targets)
    assert (batch["labels"][asked] == batch["input_ids"][asked] + 1).all()
    assert [targets[t] for t in batch["labels"][asked]] == batch["document_ids"][asked].tolist()
    assert (batch["input_ids"][~asked] == 1999).all() and (batch["document_ids"][~asked] == -1).all()
    assert (np.diff(asked.astype(int), axis=1) <= 0).all(), "padding stands at the end of a row"
    for document, length in enumerate(lengths):
        if 2 <= length <= seq_length + 1:
            assert (batch["document_ids"] == document).any(axis=1).sum() == 1, "a document that fits is never cut"
    assert rows.fill() == asked.mean() and rows.row_lengths().tolist() == asked.sum(axis=1).tolist()
    assert (rows.positions(np.arange(len(rows)))[asked] == batch["input_ids"][asked]).all()


def test_packing_realistic_lengths_leaves_almost_nothing_empty() -> None:
    lengths = np.exp(np.random.default_rng(0).normal(6, 1.2, 50_000)).astype(np.int64).clip(1, 2048)
    bins = pack(lengths, 2048)
    assert lengths.sum() / ((bins.max() + 1) * 2048) > 0.999


# -- which document a contiguous row's tokens are of --------------------------------------------------------


@given(st.lists(st.integers(1, 12), min_size=2, max_size=10), st.integers(1, 8))
def test_contiguous_rows_can_tell_their_documents_apart(lengths: list[int], seq_length: int) -> None:
    ends = np.cumsum(lengths)
    if ends[-1] < seq_length + 1:
        return
    store = TokenStore.from_token_ids(range(ends[-1]), vocab_size=ends[-1], document_ends=ends)
    rows = all_rows(ContiguousRows(store, seq_length, mask_documents=True))
    assert rows["document_ids"].tolist() == np.repeat(np.arange(len(lengths)), lengths)[rows["input_ids"]].tolist()
    for ids, positions, documents in zip(rows["input_ids"], rows["position_ids"], rows["document_ids"], strict=True):
        begins = [max(ids[0], ends[d] - lengths[d]) for d in documents]
        assert positions.tolist() == [i - begin for i, begin in zip(ids, begins, strict=True)]
