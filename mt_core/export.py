"""A model as a folder that `transformers` opens as Llama, and such a folder as a model. Does not train or download.

A folder holds JSON and safetensors, so nothing is ever unpickled, here or by others. Weights keep their values and
their type: only their names change, by a "model." in front.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mt_core.model import MicroTransformer, ModelConfig
from mt_core.tokenizer import MicroTransformerTokenizer, TokenizerError, parse_backend

_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Llama's names of our settings.
_SIZES = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
}


class PretrainedError(ValueError):
    """A model folder cannot be written or read as asked."""


def export_pretrained(
    model: MicroTransformer,
    tokenizer: MicroTransformerTokenizer | None,
    out_dir: str | os.PathLike[str],
    *,
    seq_length: int = 2048,
) -> Path:
    """Write a folder for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`; returns its path.

    The tokenizer there puts [CLS] and [SEP] around a text as ours does. To have a text continued, leave [SEP] off:
    `model.generate(tokenizer(text, return_tensors="pt").input_ids[:, :-1])`.

    Args:
        tokenizer: None leaves the tokenizer's files out.
        out_dir: a folder that does not exist yet. It gets its name when it is whole.
        seq_length: the longest row that others should give the model, in tokens; ours takes any.

    Raises:
        PretrainedError: `out_dir` exists, the tokenizer has ids that the model lacks, or the weights are not of
            one floating type.
        TypeError: model is something else, such as a compiled or parallel wrapper.
        OSError: the folder cannot be written. Nothing is left behind.
    """
    if not isinstance(model, MicroTransformer):
        raise TypeError(
            f"model is {type(model).__name__}, a MicroTransformer is needed: "
            "pass compiled_model._orig_mod, or parallel_model.module"
        )
    out_dir = Path(out_dir)
    if out_dir.exists():
        raise PretrainedError(f"{out_dir} exists already: choose another folder, or remove it first")
    if isinstance(seq_length, bool) or not isinstance(seq_length, int) or seq_length < 1:
        raise PretrainedError(f"seq_length={seq_length!r}, a whole number of at least 1 is needed")
    config = model.config
    _check_vocabulary(tokenizer, config.vocab_size)
    weights = {_llama_name(name): tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    dtype = _one_dtype(weights, "the model")
    if config.tie_embeddings:
        _drop_tied(weights, "the model")
    partial = out_dir.with_name(f"{out_dir.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        save_file(weights, partial / _WEIGHTS, metadata={"format": "pt"})
        special = _write_tokenizer(tokenizer, partial)
        _write_json(partial / _CONFIG, _llama_config(config, dtype, seq_length) | special)
        _write_json(partial / "generation_config.json", special)
        shutil.copymode(partial / _CONFIG, partial / _WEIGHTS)  # safetensors lets the owner alone read its files
        for file in partial.iterdir():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        partial.rename(out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out_dir


def load_pretrained(path: str | os.PathLike[str]) -> tuple[MicroTransformer, MicroTransformerTokenizer | None]:
    """A model from a local folder of `transformers`' Llama, ours or another's, with weights as they are there.

    The tokenizer is None where the folder has none, or one that is not a `MicroTransformerTokenizer`. Weights may be
    split over several files. The random state is left alone.

    Raises:
        PretrainedError: the folder is not there, incomplete or damaged, its weights are not safetensors, or its model
            has something `MicroTransformer` has not: grouped heads, biases, scaled rotary positions.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise PretrainedError(
            f"{folder} is not a folder: load_pretrained reads local folders alone, with {_CONFIG} and {_WEIGHTS}"
        )
    config = _read_config(folder / _CONFIG)
    weights = _read_weights(folder)
    stored = sum(tensor.numel() for tensor in weights.values())
    if config.n_parameters() > 16 * stored + (1 << 20):  # making it would take as long as its size says
        raise PretrainedError(
            f"{folder}: {_CONFIG} asks for {config.n_parameters():,} parameters, the weights are {stored:,}: "
            "they belong to different models"
        )
    with torch.device("meta"):  # shapes without memory, and without drawing random numbers
        model = MicroTransformer(**asdict(config))
    needed = {_llama_name(name): tensor.shape for name, tensor in model.state_dict().items()}
    if config.tie_embeddings and "lm_head.weight" not in weights:
        del needed["lm_head.weight"]
    _check_shapes(weights, needed, folder)
    _one_dtype(weights, str(folder))
    if config.tie_embeddings:
        _drop_tied(weights, str(folder))
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict({name: weights[_llama_name(name)] for name in model.state_dict()}, assign=True)
    if config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight  # one parameter again, not two that share memory
    tokenizer = _read_tokenizer(folder / "tokenizer.json")
    _check_vocabulary(tokenizer, config.vocab_size)
    return model, tokenizer


# -- config.json -------------------------------------------------------------------------------------------


def _llama_config(config: ModelConfig, dtype: torch.dtype, seq_length: int) -> dict[str, Any]:
    """The fields of `transformers.LlamaConfig`, in the spelling of version 5 and in that of older programs."""
    dtype_name = str(dtype).removeprefix("torch.")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "num_key_value_heads": config.n_head,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": seq_length,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": dtype_name,
        "torch_dtype": dtype_name,
    }


def _read_config(file: Path) -> ModelConfig:
    """The shape a Llama config describes. What is left out has the value `transformers.LlamaConfig` gives it."""
    raw = _read_json(file)

    def need(name: str, got: Any, needed: Any, why: str) -> None:
        if got != needed:
            raise PretrainedError(f"{file}: {name} is {got!r}, {needed!r} is needed: {why}")

    need("model_type", raw.get("model_type"), "llama", "MicroTransformer has the architecture of Llama alone")
    architectures = raw.get("architectures") or ["LlamaForCausalLM"]
    need("architectures", architectures, ["LlamaForCausalLM"], "the model must end in logits over the vocabulary")
    missing = [name for name in _SIZES if name not in raw]
    if missing:
        raise PretrainedError(f"{file}: {missing[0]} is missing: without it the model's shape is not known")
    sizes = {ours: raw[theirs] for theirs, ours in _SIZES.items()}
    need("hidden_act", raw.get("hidden_act", "silu"), "silu", "the feed-forward layers are SwiGLU")
    for name in ("attention_bias", "mlp_bias"):
        need(name, raw.get(name, False), False, "MicroTransformer has no biases")
    need("quantization_config", raw.get("quantization_config"), None, "weights must be plain floating-point numbers")
    given = raw.get("rope_scaling") or raw.get("rope_parameters") or {}  # the older and the newer spelling
    kind = given.get("rope_type", given.get("type", "default")) if isinstance(given, dict) else given
    need("rope_type", kind, "default", "rotary positions are not scaled here")
    rope = {**raw, **given} if isinstance(given, dict) else raw
    need("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0), 1.0, "whole heads are rotated here")
    try:
        config = ModelConfig(
            **sizes,
            rope_theta=rope.get("rope_theta", 10000.0),
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            tie_embeddings=raw.get("tie_word_embeddings", False),
        )
    except (ValueError, TypeError) as error:
        raise PretrainedError(f"{file} describes a shape that is not possible here: {error}") from None
    groups = raw.get("num_key_value_heads")
    why = "every query head has a key and a value head of its own here (no grouped heads)"
    need("num_key_value_heads", config.n_head if groups is None else groups, config.n_head, why)
    size = raw.get("head_dim")
    why = "heads share the width evenly here"
    need("head_dim", config.head_size if size is None else size, config.head_size, why)
    return config


# -- weights -----------------------------------------------------------------------------------------------


def _llama_name(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


def _read_weights(folder: Path) -> dict[str, Tensor]:
    files = [folder / _WEIGHTS]
    if not files[0].is_file() and (folder / _INDEX).is_file():
        names = _read_json(folder / _INDEX).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise PretrainedError(f"{folder / _INDEX} has no weight_map, which says where each weight is")
        files = [folder / str(name) for name in sorted(set(names.values()), key=str)]
        strange = [file for file in files if file.parent != folder or file.suffix != ".safetensors"]
        if strange:
            raise PretrainedError(f"{folder / _INDEX} points to {strange[0]}: a .safetensors file beside it is needed")
    weights: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            found = ", ".join(sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt")))
            raise PretrainedError(
                f"{file} is not there (found: {found or 'no weights'}): weights are read from safetensors alone; "
                "have the program that made them save that format, or copy the folder again"
            )
        try:
            # copied, so that the file is not held open
            weights |= {name: tensor.clone() for name, tensor in load_file(file).items()}
        except Exception as error:  # safetensors raises its own type or OSError
            raise PretrainedError(f"{file} cannot be read ({error}): copy it again") from None
    # Early Llama folders store these frequencies, which follow from the config.
    return {name: tensor for name, tensor in weights.items() if not name.endswith("rotary_emb.inv_freq")}


def _check_shapes(weights: dict[str, Tensor], needed: dict[str, torch.Size], folder: Path) -> None:
    for name in [*needed, *weights]:
        got = tuple(weights[name].shape) if name in weights else "nothing"
        shape = tuple(needed[name]) if name in needed else "nothing"
        if got != shape:
            raise PretrainedError(
                f"{folder}: the weight {name} is {got}, {_CONFIG} asks for {shape}: they belong to different models"
            )


def _one_dtype(weights: dict[str, Tensor], what: str) -> torch.dtype:
    first = next(iter(weights.values())).dtype
    for name, tensor in weights.items():
        if tensor.dtype != first or tensor.dtype not in _FLOATS:
            raise PretrainedError(
                f"{what}: the weight {name} has type {tensor.dtype}, the first {first}: one floating-point type for "
                "all is needed; convert with model.float() where it was made"
            )
    return first


def _drop_tied(weights: dict[str, Tensor], what: str) -> None:
    """Drop the output matrix, if it is there: with tied embeddings it is the embedding table."""
    table = weights["model.embed_tokens.weight"]
    if not torch.equal(weights.pop("lm_head.weight", table), table):
        raise PretrainedError(
            f"{what}: lm_head.weight and the embedding table differ although embeddings are tied: "
            "one of them would be lost; make the model with tie_embeddings=False (tie_word_embeddings in config.json)"
        )


# -- the tokenizer, and JSON -------------------------------------------------------------------------------


def _write_tokenizer(tokenizer: MicroTransformerTokenizer | None, folder: Path) -> dict[str, int | None]:
    """Write the tokenizer's files; returns the ids that begin, end and fill a text, under their names in Llama."""
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    tokenizer.save_pretrained(folder)
    settings = _read_json(folder / _TOKENIZER_CONFIG)
    # Llama's forward and generate refuse token_type_ids, so the tokenizer beside it must not give them.
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    _write_json(folder / _TOKENIZER_CONFIG, settings)
    named = {name: token for name, token in settings.items() if name.endswith("_token") and isinstance(token, str)}
    _write_json(folder / "special_tokens_map.json", named)
    return {
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _read_tokenizer(file: Path) -> MicroTransformerTokenizer | None:
    if not file.is_file():
        return None
    try:
        backend = parse_backend(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PretrainedError(f"{file} is not a tokenizer ({error}): copy it again, or remove it") from None
    try:
        return MicroTransformerTokenizer(backend)
    except TokenizerError:
        return None  # a sound tokenizer of another kind


def _check_vocabulary(tokenizer: MicroTransformerTokenizer | None, vocab_size: int) -> None:
    if tokenizer is not None and len(tokenizer) > vocab_size:
        raise PretrainedError(
            f"the tokenizer has {len(tokenizer)} entries, the model {vocab_size}: "
            "use the tokenizer the model was trained with"
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PretrainedError(f"{file} cannot be read ({error}): a model folder of `transformers` has it") from None
    if not isinstance(content, dict):
        raise PretrainedError(f"{file} holds a {type(content).__name__}, a JSON object is needed")
    return content


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")
