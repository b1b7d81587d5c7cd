"""The well-known small character model on a CPU, written anew: a GPT-2-like model and the recipe that goes with it.

The sizes, rates and lengths are those of nanoGPT's README for a CPU (github.com/karpathy/nanoGPT, `config/
train_shakespeare_char.py` with its command-line changes): 4 layers, 4 heads, 128 wide, rows of 64 characters, 12 in a
batch, 2,000 steps of AdamW, rows that start anywhere. Does not measure time.

Shapes: B batch, T time, V characters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS, LENGTH, STEPS = 12, 64, 2000
LAYERS, HEADS, WIDTH = 4, 4, 128
RATE, LOWEST_RATE, WARMUP = 1e-3, 1e-4, 100


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # 3, B, heads, T, size
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CharGPT(nn.Module):
    """Characters int64 (B, T) to logits (B, T, V): learned positions, LayerNorm, GELU, tied embeddings."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab_size, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places.weight[: ids.size(1)]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.tokens.weight.T


def create_optimizer(model: CharGPT) -> torch.optim.AdamW:
    """AdamW, decay 0.1 on matrices."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99), fused=True)


def rate_at(step: int) -> float:
    """The learning rate: a linear rise, then a half cosine to a tenth."""
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    return LOWEST_RATE + 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) * (RATE - LOWEST_RATE)


def draw_batch(ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows (B, T) that start anywhere, and their next characters."""
    starts = torch.randint(len(ids) - LENGTH, (ROWS,), generator=generator)
    windows = ids[starts[:, None] + torch.arange(LENGTH + 1)]
    return windows[:, :-1], windows[:, 1:]


def train_step(model: CharGPT, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], step: int) -> None:
    """One step of the recipe."""
    for group in optimizer.param_groups:
        group["lr"] = rate_at(step)
    loss = F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def bits_per_character(model: CharGPT, ids: Tensor) -> float:
    """Over every character but the first, in rows of T that touch; the last row may be shorter."""
    nats = 0.0
    for start in range(0, len(ids) - 1, LENGTH * 256):
        piece = ids[start : start + LENGTH * 256 + 1]
        whole = (len(piece) - 1) // LENGTH * LENGTH
        rows = [(piece[:whole].view(-1, LENGTH), piece[1 : whole + 1].view(-1, LENGTH))] if whole else []
        if whole < len(piece) - 1:
            rows.append((piece[None, whole:-1], piece[None, whole + 1 :]))
        for inputs, labels in rows:
            nats += F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten(), reduction="sum").item()
    return nats / math.log(2) / (len(ids) - 1)
