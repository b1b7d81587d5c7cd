"""The examples of the document this project began from run as written there: only their imports differ."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mt_core import MicroTransformerTokenizer

USAGE = """
from mt_core import create_dataloaders
from mt_core import MicroTransformerTokenizer

# Initialize tokenizer
tokenizer = MicroTransformerTokenizer.from_pretrained('path/to/tokenizer')

# Create dataloaders
train_loader, val_loader = create_dataloaders(
    train_path='data/train.jsonl',
    val_path='data/val.jsonl',
    tokenizer=tokenizer,
    batch_size=16,
    seq_length=128
)

# Use in training loop
for batch in train_loader:
    inputs = batch['input_ids']
    labels = batch['labels']
    # Forward pass, loss calculation, etc.
"""

TRAINING = """
import torch
from torch.optim import AdamW
from transformers import get_linear_schedule_with_warmup
from mt_core import MicroTransformer
from mt_core import create_dataloaders
from mt_core import MicroTransformerTokenizer

# Initialize tokenizer
tokenizer = MicroTransformerTokenizer.from_pretrained('path/to/tokenizer')

# Create dataloaders
train_loader, val_loader = create_dataloaders(
    train_path='data/train.jsonl',
    val_path='data/val.jsonl',
    tokenizer=tokenizer,
    batch_size=16,
    seq_length=128,
    num_workers=4
)

# Initialize model
model = MicroTransformer(vocab_size=tokenizer.get_vocab_size())
model.to('cuda')

# Setup optimizer and scheduler
optimizer = AdamW(model.parameters(), lr=5e-5)
scheduler = get_linear_schedule_with_warmup(
    optimizer,
    num_warmup_steps=100,
    num_training_steps=len(train_loader) * 3  # 3 epochs
)

# Training loop
for epoch in range(3):
    model.train()
    for batch in train_loader:
        # Move batch to device
        inputs = batch['input_ids'].to('cuda')
        labels = batch['labels'].to('cuda')

        # Forward pass
        outputs = model(inputs)
        loss = torch.nn.functional.cross_entropy(
            outputs.view(-1, tokenizer.get_vocab_size()),
            labels.view(-1)
        )

        # Backward pass
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()

    # Validation
    model.eval()
    val_loss = 0
    with torch.no_grad():
        for batch in val_loader:
            inputs = batch['input_ids'].to('cuda')
            labels = batch['labels'].to('cuda')
            outputs = model(inputs)
            loss = torch.nn.functional.cross_entropy(
                outputs.view(-1, tokenizer.get_vocab_size()),
                labels.view(-1)
            )
            val_loss += loss.item()

    print(f"Epoch {epoch+1}, Validation Loss: {val_loss/len(val_loader)}")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as the examples expect it: two JSONL files and a trained tokenizer."""
    animals, places = ["The cat", "A dog", "One bird", "My fish"], ["mat", "log", "roof", "lake", "hill"]
    stories = [
        f"{animals[i % 4]} sat on the {places[i * i % 5]} and counted to {i * 37 % 101}. " * (1 + i % 3)
        for i in range(800)
    ]
    (tmp_path / "data").mkdir()
    for name, part in (("train", stories[:720]), ("val", stories[720:])):
        lines = [json.dumps({"text": text}) + "\n" for text in part]
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
    MicroTransformerTokenizer.train(stories, vocab_size=300).save_pretrained(tmp_path / "path" / "to" / "tokenizer")
    return tmp_path


def test_basic_usage_runs_as_written(project, monkeypatch):
    monkeypatch.chdir(project)
    names: dict = {}
    exec(USAGE, names)
    assert names["inputs"].shape == names["labels"].shape == (16, 128)
    assert names["inputs"].dtype == names["labels"].dtype == torch.int64
    assert torch.equal(names["inputs"][:, 1:], names["labels"][:, :-1])
    assert len(names["train_loader"]) == len(names["train_loader"].dataset) // 16 >= 8
    text = names["tokenizer"].decode(names["inputs"][0].tolist())
    assert "sat on the" in text


def test_the_training_example_runs_as_written_and_once(project):
    """It has no `if __name__ == "__main__":`, and four workers that must not run it again.

    Without CUDA nothing can be moved there, so on such a machine the word 'cuda' is 'cpu'. Nothing else changes.
    """
    program = TRAINING if torch.cuda.is_available() else TRAINING.replace("'cuda'", "'cpu'")
    (project / "train.py").write_text(program, encoding="utf-8", newline="\n")
    run = subprocess.run(
        [sys.executable, "train.py"],
        cwd=project,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    found = [re.fullmatch(r"Epoch (\d), Validation Loss: (\d+\.\d+)", line) for line in lines]
    assert len(lines) == 3 and all(found), run.stdout
    assert [match[1] for match in found] == ["1", "2", "3"]
    losses = [float(match[2]) for match in found]
    assert 6 > losses[0] > losses[1] > losses[2] > 0
    assert "Traceback" not in run.stderr  # from a worker, either
