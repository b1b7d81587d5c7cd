"""Tokens to rows: each target once, none forgotten, none invented. Checked against plain Python, by brute force."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt_core import TokenStore
from mt_core.windows import IGNORE, ContiguousRows, DocumentRows


def stream(n_tokens: int) -> TokenStore:
    """The integers 0 to N - 1 as tokens: a token says where it stands."""
    return TokenStore.from_token_ids(range(n_tokens), vocab_size=max(n_tokens, 1))


def all_rows(rows: ContiguousRows | DocumentRows) -> dict[str, np.ndarray]:
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
    assert rows["position_ids"].tolist() == [[0, 1, 2]] * 3


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
