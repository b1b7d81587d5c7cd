"""What several tests of the data path share: a tiny tokenizer, a tiny corpus, a script run as its own process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from mt_core import MicroTransformerTokenizer, TokenStore, prepare_corpus

# The same examples on every machine and run, and no time limit for a busy one.
settings.register_profile("mt", derandomize=True, deadline=None)
settings.load_profile("mt")

SENTENCES = [
    "The cat sat on the mat.",
    "It's 10 o'clock, and 1234 cats aren't here!",
    "  two leading spaces, then\n\n\ta tab after a blank line",
    "Größe, naïve, Ωmega: 你好 🙂",
    "a text that spells [SEP] and [CLS] and [PAD]",
]


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Five short texts that between them hold what tokenizers get wrong."""
    return list(SENTENCES)


@pytest.fixture(scope="session")
def tokenizer() -> MicroTransformerTokenizer:
    """About 300 entries, learned from five sentences."""
    return MicroTransformerTokenizer.train(SENTENCES * 4, vocab_size=320)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[[str, Iterable[str]], Path]:
    """`write_jsonl(name, texts)` writes a JSONL file into tmp_path and returns its path."""

    def write(name: str, texts: Iterable[str]) -> Path:
        path = tmp_path / name
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
        return path

    return write


@pytest.fixture
def corpus(write_jsonl: Callable[[str, Iterable[str]], Path]) -> Path:
    """A JSONL file of the five sentences."""
    return write_jsonl("train.jsonl", SENTENCES)


@pytest.fixture
def store_folder(tokenizer: MicroTransformerTokenizer, corpus: Path) -> Path:
    """The folder of a store of the five sentences; nothing holds its files open, so a test may damage them."""
    path = prepare_corpus(corpus, corpus.parent / "store", tokenizer).path
    assert path is not None
    return path


@pytest.fixture
def mapped(store_folder: Path) -> TokenStore:
    """The five sentences as a memory-mapped store."""
    return TokenStore.open(store_folder)


@pytest.fixture
def start_script(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start_script(source, *arguments)` runs Python source as a program of its own; its output is text."""

    started: list[subprocess.Popen[str]] = []

    def start(source: str, *arguments: object) -> subprocess.Popen[str]:
        script = tmp_path / f"script_{len(started)}.py"
        script.write_text(source, encoding="utf-8", newline="\n")
        process = subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:  # a test that failed may not have waited
        process.kill()
        process.communicate()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`say(check, answer)` is what the check of an exercise or a prediction prints about an answer."""

    def printed(check: Callable[..., None], *arguments: Any, **named: Any) -> str:
        capsys.readouterr()
        assert check(*arguments, **named) is None
        return capsys.readouterr().out

    return printed
