"""The device prefetcher: the same batches, in the same order, one ahead on CUDA, and a state that counts what was
handed out. The order of calls is tested with stand-ins for CUDA's streams; where there is a GPU, it is used too."""

from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from mt_core import LoaderStateError, TokenLoader, TokenStore, TransformerDataset
from mt_core.prefetch import prefetch_to_device

Pair = namedtuple("Pair", "x y")
REAL = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


class Tape:
    """Writes down what is asked of CUDA's streams, instead of doing it: a copy is the tensor itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.current = "main"
        tape = self

        class Stream:
            def __init__(self, device: Any = None, name: str = "side") -> None:
                self.name = name

            def wait_stream(self, other: "Stream") -> None:
                tape.calls.append(f"{self.name} waits for {other.name}")

        @contextmanager
        def stream(entered: Stream) -> Iterator[None]:
            before, tape.current = tape.current, entered.name
            yield
            tape.current = before

        def to(tensor: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
            assert device.type == "cuda"
            how = "ordered" if non_blocking else "awaited"
            tape.calls.append(f"copy {tensor.flatten()[0]} {how} on {tape.current}")
            return tensor

        def record_stream(tensor: torch.Tensor, user: Stream) -> None:
            tape.calls.append(f"{tensor.flatten()[0]} is used on {user.name}")

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream(name=tape.current))
        monkeypatch.setattr(torch.Tensor, "to", to)
        monkeypatch.setattr(torch.Tensor, "record_stream", record_stream)


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    """CUDA's streams, replaced by a tape."""
    return Tape(monkeypatch)


def loader(n_tokens: int = 100, **settings: Any) -> TokenLoader:
    store = TokenStore.from_token_ids(range(n_tokens), vocab_size=n_tokens)
    settings = {"batch_size": 4, "shuffle": True, "seed": 3} | settings
    return TokenLoader(TransformerDataset(store, seq_length=4), **settings)


def rows(batches: Any) -> list[list[list[int]]]:
    return [batch["input_ids"].tolist() for batch in batches]


@pytest.mark.parametrize("device", REAL)
def test_the_batches_are_those_of_the_loader_in_its_order(device: str) -> None:
    batches = prefetch_to_device(loader(), device)
    assert len(batches) == len(loader()) == 7
    ours, wanted = list(batches), list(loader())
    assert [batch.keys() for batch in ours] == [batch.keys() for batch in wanted]
    assert {tensor.device.type for batch in ours for tensor in batch.values()} == {device}
    assert rows(ours) == rows(wanted)
    assert rows(batches) == rows(list(_epoch_two())), "a second pass is the loader's second epoch"


def _epoch_two() -> TokenLoader:
    second = loader()
    second.set_epoch(1)
    return second


def test_on_a_processor_nothing_is_copied_or_taken_ahead() -> None:
    given = [{"input_ids": torch.tensor([i])} for i in range(3)]
    taken = []
    batches = prefetch_to_device((taken.append(batch) or batch for batch in given), "cpu")
    for i, batch in enumerate(batches):
        assert batch is given[i] and len(taken) == i + 1


def test_on_another_accelerator_each_batch_is_copied_in_its_turn() -> None:
    taken: list[int] = []
    batches = prefetch_to_device((taken.append(i) or (torch.tensor([i]), "name") for i in range(3)), "meta")
    for i, (tensor, name) in enumerate(batches):
        assert tensor.device.type == "meta" and name == "name" and len(taken) == i + 1


def test_on_cuda_the_next_copy_is_ordered_before_a_batch_is_handed_out_and_the_step_does_not_wait_for_it(
    tape: Tape,
) -> None:
    for number, batch in enumerate(
        prefetch_to_device([torch.tensor([10]), torch.tensor([11]), torch.tensor([12])], "cuda")
    ):
        assert batch.item() == 10 + number
        tape.calls.append(f"step {number}")
    assert tape.calls == [
        "copy 10 ordered on side",
        "main waits for side",  # here the side stream has the copy of 10 alone
        "10 is used on main",
        "copy 11 ordered on side",
        "step 0",
        "main waits for side",
        "11 is used on main",
        "copy 12 ordered on side",
        "step 1",
        "main waits for side",
        "12 is used on main",
        "step 2",
    ]


def test_the_stream_that_waits_is_the_one_the_step_runs_on(tape: Tape) -> None:
    batches = iter(prefetch_to_device([torch.tensor([0]), torch.tensor([1])], "cuda"))
    tape.current = "the reader's own"
    next(batches)
    assert tape.calls[1:3] == ["the reader's own waits for side", "0 is used on the reader's own"]


def test_every_tensor_of_a_batch_is_copied_and_recorded_whatever_holds_it(tape: Tape) -> None:
    given = {"a": torch.tensor([1]), "b": [torch.tensor([2]), (torch.tensor([3]), "word")], "c": None}
    batch, pair = prefetch_to_device([given, Pair(torch.tensor([4]), 5)], "cuda")
    assert batch == given and isinstance(pair, Pair) and pair.y == 5
    for number in (1, 2, 3, 4):
        assert f"copy {number} ordered on side" in tape.calls and f"{number} is used on main" in tape.calls


def test_one_batch_and_none(tape: Tape) -> None:
    assert [batch.item() for batch in prefetch_to_device([torch.tensor([7])], "cuda")] == [7]
    assert list(prefetch_to_device([], "cuda")) == []


@pytest.mark.parametrize("drop_last", [False, True])
def test_resuming_after_any_batch_gives_the_rest(tape: Tape, drop_last: bool) -> None:
    whole = prefetch_to_device(loader(drop_last=drop_last), "cuda")
    wanted = rows(whole) + rows(whole)
    for handed_out in range(len(whole) + 1):
        first = prefetch_to_device(loader(drop_last=drop_last), "cuda")
        batches = iter(first)
        seen = rows(next(batches) for _ in range(handed_out))
        state = first.state_dict()
        assert state["samples_delivered"] == 4 * handed_out
        for device in ("cuda", "cpu"):  # with one that looks ahead or one that does not
            second = prefetch_to_device(loader(drop_last=drop_last), device)
            second.load_state_dict(state)
            assert second.state_dict()["samples_delivered"] % (4 * len(whole)) == 4 * handed_out % (4 * len(whole))
            rest = rows(second)
            assert wanted[: len(seen) + len(rest)] == seen + rest
            assert len(rest) == (len(whole) - handed_out or len(whole))


def test_what_a_loop_left_early_did_not_get_is_not_counted(tape: Tape) -> None:
    batches = prefetch_to_device(loader(), "cuda")
    for _ in batches:
        break
    assert batches.state_dict()["samples_delivered"] == 4
    assert batches.loader.state_dict()["samples_delivered"] == 8, "the loader gave one more"


def test_a_failing_loader_leaves_the_state_of_the_last_batch_handed_out(tape: Tape) -> None:
    class Failing:
        def __init__(self, last: int) -> None:
            self.given, self.last = 0, last

        def __iter__(self) -> Iterator[torch.Tensor]:
            while self.given < self.last:
                self.given += 1
                yield torch.tensor([self.given])
            raise OSError("the disk is gone")

        def state_dict(self) -> dict[str, int]:
            return {"given": self.given}

    for last, handed_out in ((0, 0), (1, 0), (2, 1)):
        batches, seen = prefetch_to_device(Failing(last), "cuda"), []
        with pytest.raises(OSError, match="the disk is gone"):
            for batch in batches:
                seen.append(batch.item())
        assert batches.state_dict() == {"given": len(seen)} == {"given": handed_out}


def test_a_state_is_refused_while_a_pass_is_running(tape: Tape) -> None:
    batches = prefetch_to_device(loader(), "cuda")
    running = iter(batches)
    next(running)
    with pytest.raises(LoaderStateError, match="before iter"):
        batches.load_state_dict(batches.state_dict())


def test_a_pass_that_begins_later_starts_its_own_count(tape: Tape) -> None:
    batches = prefetch_to_device(loader(), "cuda")
    list(batches)
    second = iter(batches)
    assert batches.state_dict() | {"epoch": 1, "samples_delivered": 0} == batches.state_dict()
    next(second)
    assert batches.state_dict() | {"epoch": 1, "samples_delivered": 4} == batches.state_dict()


def test_a_state_that_was_loaded_is_the_state_before_any_batch(tape: Tape) -> None:
    batches = prefetch_to_device(loader(), "cuda")
    state = loader().state_dict() | {"samples_delivered": 8}
    list(batches)
    batches.load_state_dict(state)
    assert batches.state_dict() == state


def test_a_loader_without_a_state_says_so() -> None:
    batches = prefetch_to_device(DataLoader(torch.arange(4)), "cpu")
    with pytest.raises(TypeError, match="DataLoader has no state_dict"):
        batches.state_dict()
    with pytest.raises(TypeError, match="DataLoader has no load_state_dict"):
        batches.load_state_dict({})
