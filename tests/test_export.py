"""The model in other people's tools: `transformers` opens what we export, and we open its Llama folders."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mt_core import MicroTransformer, MicroTransformerTokenizer, generate
from mt_core import export as module
from mt_core.export import PretrainedError, export_pretrained, load_pretrained

V = 320
SHAPES = [
    {"n_layer": 1, "n_head": 1, "n_embd": 8},
    {"n_layer": 3, "n_head": 4, "n_embd": 64, "n_inner": 96, "rope_theta": 500.0, "norm_eps": 1e-3},
    {"n_layer": 4, "n_head": 4, "n_embd": 128},  # the preset "1m"
]


def make(seed: int = 0, **settings: Any) -> MicroTransformer:
    """A model with large weights, so that a wrong mask, position or name shows far above rounding."""
    torch.manual_seed(seed)
    model = MicroTransformer(**{"vocab_size": V, "n_layer": 2, "n_head": 2, "n_embd": 16} | settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3) if parameter.dim() == 2 else parameter.uniform_(0.5, 1.5)
    return model.eval()


def draw(*shape: int, size: int = V) -> Tensor:
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(1))


def theirs(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture
def folder(tmp_path: Path, tokenizer: MicroTransformerTokenizer) -> Path:
    """An exported model of two layers, to be looked at or damaged."""
    return export_pretrained(make(), tokenizer, tmp_path / "model")


@pytest.fixture
def llama(tmp_path: Path) -> Callable[..., Path]:
    """`llama(**settings)` writes the folder of a Llama model of another's making, by `transformers` itself."""

    def write(save: dict[str, Any] | None = None, dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
        torch.manual_seed(0)
        sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        model = LlamaForCausalLM(LlamaConfig(**sizes | {"num_attention_heads": 4} | settings)).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.4) if parameter.dim() == 2 else parameter.uniform_(0.5, 1.5)
        model.save_pretrained(tmp_path / "llama", **save or {})
        return tmp_path / "llama"

    return write


def change(file: Path, **fields: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) | fields
    file.write_text(json.dumps(content), encoding="utf-8", newline="\n")


# -- what we export, opened by transformers ----------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"width {shape['n_embd']}")
def test_the_exported_model_gives_the_same_logits(tmp_path: Path, shape: dict[str, Any], tied: bool) -> None:
    model, ids = make(**shape, tie_embeddings=tied), draw(2, 33)
    llama = theirs(export_pretrained(model, None, tmp_path / "model"))
    ours, others = model(ids), llama(input_ids=ids).logits
    assert type(llama) is LlamaForCausalLM and ours.std() > 0.5
    assert (ours - others).abs().max() < 1e-4
    assert llama.num_parameters() == model.n_parameters()


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_packed_rows_give_the_same_logits(tmp_path: Path, tied: bool) -> None:
    """transformers is told by a mask of four dimensions, or finds the documents where positions start again."""
    model, ids = make(n_layer=3, tie_embeddings=tied), draw(2, 8)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 2, -1], [3, 3, 4, 4, 4, 4, 4, 4]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 0], [0, 1, 0, 1, 2, 3, 4, 5]])
    llama = theirs(export_pretrained(model, None, tmp_path / "model"))
    ours = model(ids, document_ids=documents, position_ids=positions)
    seen = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    for row, t, j in torch.cartesian_prod(torch.arange(2), torch.arange(8), torch.arange(8)).tolist():
        seen[row, 0, t, j] = j <= t and documents[row, t] == documents[row, j]
    masked = llama(input_ids=ids, attention_mask=seen, position_ids=positions).logits
    found = llama(input_ids=ids, position_ids=positions, use_cache=False).logits  # with a cache it does not look
    for others in (masked, found):
        assert (ours - others).abs().max() < 1e-4
    assert (ours - llama(input_ids=ids).logits).abs().max() > 0.1, "documents kept apart must make a difference here"


PROMPTS = ["", "The cat", "It's 10 o'clock, and", "Größe 你好 🙂", "a text that spells [SEP] and", "  two\n\n\t"]


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 3])  # the likeliest token leads the next by 0.007 at least
def test_greedy_text_is_the_same_from_start_to_stop(
    tmp_path: Path, tokenizer: MicroTransformerTokenizer, seed: int
) -> None:
    model = make(seed, vocab_size=len(tokenizer), n_layer=3, n_embd=64, tie_embeddings=False)
    model.lm_head.weight[tokenizer.sep_token_id] *= 1.3  # so that some texts end
    export = export_pretrained(model, tokenizer, tmp_path / "model")
    llama, auto = theirs(export), AutoTokenizer.from_pretrained(export)
    lengths = set()
    for prompt in PROMPTS:
        ours = torch.tensor([tokenizer.encode(prompt)["input_ids"][:-1]])
        others = auto(prompt, return_tensors="pt")
        assert torch.equal(ours, others["input_ids"][:, :-1])
        ours = generate(model, ours, max_new_tokens=40, temperature=0, stop_token_id=tokenizer.sep_token_id)
        others = llama.generate(**{name: tensor[:, :-1] for name, tensor in others.items()}, max_new_tokens=40)
        assert torch.equal(ours, others), prompt
        ours_text, others_text = tokenizer.decode(ours[0]), auto.decode(others[0], skip_special_tokens=True)
        assert ours_text == others_text and ours_text.startswith(prompt)
        lengths.add(ours.size(1) - len(tokenizer.encode(prompt)["input_ids"]) + 1)
    assert max(lengths) == 40 and min(lengths) < 40, f"some texts should end and some not: {lengths}"


def test_the_exported_tokenizer_is_ours(folder: Path, tokenizer: MicroTransformerTokenizer, sentences: list) -> None:
    auto = AutoTokenizer.from_pretrained(folder)
    for text in [*sentences, *PROMPTS, "[CLS][SEP][PAD][MASK]"]:
        ours, encoded = tokenizer.encode(text), auto(text)
        assert list(encoded) == ["input_ids", "attention_mask"]  # Llama refuses token_type_ids
        assert encoded["input_ids"] == ours["input_ids"] and encoded["attention_mask"] == ours["attention_mask"]
        assert set(encoded["input_ids"][1:-1]).isdisjoint(tokenizer.special_token_ids)
        assert auto.decode(encoded["input_ids"], skip_special_tokens=True) == text
    assert (auto.bos_token_id, auto.eos_token_id, auto.pad_token_id) == (1, 2, 0)


def test_the_folder_holds_what_others_look_for(folder: Path, tokenizer: MicroTransformerTokenizer) -> None:
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert list(folder.parent.iterdir()) == [folder]
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1, "who may read one file may read all"
    read = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")}
    assert read["generation_config"] == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    assert read["special_tokens_map"] == {
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    config = read["config"]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    assert config["num_key_value_heads"] == config["num_attention_heads"] == 2
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")  # tied: stored once
    assert MicroTransformerTokenizer.from_pretrained(folder).fingerprint() == tokenizer.fingerprint()


def test_the_longest_row_is_what_the_caller_says(tmp_path: Path) -> None:
    export = export_pretrained(make(), None, tmp_path / "model", seq_length=77)
    assert theirs(export).config.max_position_embeddings == 77
    with pytest.raises(PretrainedError, match="seq_length=0, a whole number of at least 1"):
        export_pretrained(make(), None, tmp_path / "other", seq_length=0)


# -- and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_what_was_exported_comes_back_bit_for_bit(
    tmp_path: Path, tokenizer: MicroTransformerTokenizer, tied: bool, dtype: torch.dtype
) -> None:
    model = make(tie_embeddings=tied, n_inner=24, rope_theta=500.0, norm_eps=3e-6).to(dtype)
    export = export_pretrained(model, tokenizer, tmp_path / "model")
    before = torch.get_rng_state()
    again, loaded = load_pretrained(export)
    assert torch.equal(torch.get_rng_state(), before)
    assert again.config == model.config and loaded is not None and loaded.fingerprint() == tokenizer.fingerprint()
    state = again.state_dict()
    assert list(state) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == dtype and torch.equal(state[name], tensor), name
    assert (again.lm_head.weight is again.embed_tokens.weight) is tied
    again(draw(1, 4)).float().sum().backward()  # it trains on
    assert all(parameter.grad is not None for parameter in again.parameters())


@torch.no_grad()
@pytest.mark.parametrize(
    ("settings", "save"),
    [
        ({}, {}),
        ({"tie_word_embeddings": True, "rms_norm_eps": 1e-3}, {}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}, "num_attention_heads": 2}, {}),
        ({"num_hidden_layers": 5}, {"max_shard_size": "20KB"}),
    ],
    ids=["plain", "tied", "rope", "shards"],
)
def test_a_llama_folder_of_anothers_making_loads(llama: Callable, settings: dict, save: dict) -> None:
    folder = llama(**settings, save=save)
    assert (folder / "model.safetensors.index.json").exists() is bool(save)
    model, loaded = load_pretrained(folder)
    ids = draw(2, 21, size=99)
    ours, others = model(ids), theirs(folder)(input_ids=ids).logits
    assert loaded is None and others.std() > 0.5
    assert (ours - others).abs().max() < 1e-4


def test_an_older_folder_loads(llama: Callable) -> None:
    """The spelling before version 5, frequencies stored as weights, and half precision."""
    folder = llama(dtype=torch.float16)
    config = folder / "config.json"
    change(config, rope_theta=77.0, torch_dtype="float16", rope_scaling=None, rope_parameters=None, head_dim=None)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, folder / "model.safetensors")
    model, _ = load_pretrained(folder)
    assert model.config.rope_theta == 77.0 and model.lm_head.weight.dtype == torch.float16


def test_what_was_loaded_exports_to_the_same_model(llama: Callable, tmp_path: Path) -> None:
    folder = llama()
    model, tokenizer = load_pretrained(folder)
    again = export_pretrained(model, tokenizer, tmp_path / "again")
    before, after = (load_file(f / "model.safetensors") for f in (folder, again))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((again / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"] is None


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral', 'llama' is needed"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures is .*Classification"),
        ({"num_key_value_heads": 1}, "num_key_value_heads is 1, 2 is needed: every query head"),
        ({"head_dim": 16}, "head_dim is 16, 8 is needed"),
        ({"attention_bias": True}, "attention_bias is True, False is needed: .*no biases"),
        ({"mlp_bias": True}, "mlp_bias is True, False"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', 'silu' is needed"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type is 'llama3', 'default' is needed"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear', 'default' is needed"),
        ({"rope_scaling": 2}, "rope_type is 2, 'default' is needed"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, 1.0"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is .*gptq.*, None is needed"),
        ({"hidden_size": 18}, "config.json describes a shape .*n_embd=18 cannot be shared by n_head=2"),
        ({"hidden_size": "16"}, "describes a shape .*n_embd='16'"),
        ({"rms_norm_eps": None}, "config.json describes a shape"),
        ({"vocab_size": 321}, r"model.embed_tokens.weight is \(320, 16\), config.json asks for \(321, 16\)"),
        ({"num_hidden_layers": 3}, "layers.2.input_layernorm.weight is nothing, config.json asks for"),
        ({"num_hidden_layers": 1}, r"layers.1.*.weight is \(.*\), config.json asks for nothing"),
        ({"tie_word_embeddings": False}, r"lm_head.weight is nothing, config.json asks for \(320, 16\)"),
    ],
)
def test_what_the_model_is_not_is_refused_by_field(folder: Path, fields: dict[str, Any], words: str) -> None:
    change(folder / "config.json", **fields)
    with pytest.raises(PretrainedError, match=words):
        load_pretrained(folder)


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"])
def test_a_size_that_is_missing_is_named(folder: Path, field: str) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config[field]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8", newline="\n")
    with pytest.raises(PretrainedError, match=f"{field} is missing"):
        load_pretrained(folder)


def test_what_is_not_a_folder_of_safetensors_is_refused(folder: Path) -> None:
    with pytest.raises(PretrainedError, match=r"is not a folder: load_pretrained reads local folders alone"):
        load_pretrained("someone/some-model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(PretrainedError, match=r"is not there \(found: pytorch_model.bin\): .*safetensors alone"):
        load_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(PretrainedError, match=r"model.safetensors cannot be read"):
        load_pretrained(folder)
    (folder / "config.json").write_text("[]", encoding="utf-8", newline="\n")
    with pytest.raises(PretrainedError, match=r"config.json holds a list, a JSON object is needed"):
        load_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(PretrainedError, match=r"config.json cannot be read"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}, "points to .*elsewhere.safetensors"),
        ({"weight_map": {"model.norm.weight": "model.bin"}}, "points to .*model.bin"),
        ({"weight_map": {"model.norm.weight": "part-2.safetensors"}}, r"part-2.safetensors is not there"),
        ({}, "has no weight_map"),
    ],
)
def test_an_index_may_point_beside_itself_alone(folder: Path, index: dict[str, Any], words: str) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    text = json.dumps(index)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8", newline="\n")
    with pytest.raises(PretrainedError, match=words):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("lm_head.weight", lambda weights: weights["model.embed_tokens.weight"] + 1, "differ although embeddings are"),
        (
            "model.norm.weight",
            lambda weights: weights["model.norm.weight"].half(),
            "norm.weight has type torch.float16",
        ),
        ("model.norm.bias", lambda weights: torch.zeros(16), r"norm.bias is \(16,\), config.json asks for nothing"),
    ],
)
def test_weights_that_would_be_lost_or_changed_are_refused(
    folder: Path, name: str, changed: Callable, words: str
) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {name: changed(weights)}, folder / "model.safetensors")
    with pytest.raises(PretrainedError, match=words):
        load_pretrained(folder)


def test_a_copy_of_tied_weights_does_no_harm(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    copy = weights["model.embed_tokens.weight"].clone()
    save_file(weights | {"lm_head.weight": copy}, folder / "model.safetensors")
    model, _ = load_pretrained(folder)
    assert model.lm_head.weight is model.embed_tokens.weight and torch.equal(model.lm_head.weight, copy)


def test_tokenizers_of_another_kind_are_left_and_broken_ones_refused(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}))).save_pretrained(folder)
    assert load_pretrained(folder)[1] is None
    (folder / "tokenizer.json").write_text("{", encoding="utf-8", newline="\n")
    with pytest.raises(PretrainedError, match=r"tokenizer.json is not a tokenizer"):
        load_pretrained(folder)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path, tokenizer: MicroTransformerTokenizer) -> None:
    size = len(tokenizer)
    with pytest.raises(PretrainedError, match=f"the tokenizer has {size} entries, the model {size - 1}"):
        export_pretrained(make(vocab_size=size - 1), tokenizer, tmp_path / "model")
    folder = export_pretrained(make(vocab_size=size - 1), None, tmp_path / "model")
    tokenizer.save_pretrained(folder)
    with pytest.raises(PretrainedError, match=f"the tokenizer has {size} entries, the model {size - 1}"):
        load_pretrained(folder)


def test_a_folder_that_exists_is_never_written_into(folder: Path, tokenizer: MicroTransformerTokenizer) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(PretrainedError, match="exists already: choose another folder"):
        export_pretrained(make(1), tokenizer, folder)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module, "_write_json", full)
    with pytest.raises(OSError, match=r"."):
        export_pretrained(make(), None, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_exported_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"model is DataParallel, a MicroTransformer is needed: .*\.module"):
        export_pretrained(torch.nn.DataParallel(make()), None, tmp_path / "model")  # type: ignore[arg-type]
    mixed = make()
    mixed.norm.half()
    with pytest.raises(PretrainedError, match=r"the model: the weight model.norm.weight has type torch.float16"):
        export_pretrained(mixed, None, tmp_path / "model")
    untied = make()
    untied.lm_head.weight = torch.nn.Parameter(torch.zeros(V, 16))
    with pytest.raises(PretrainedError, match=r"the model: lm_head.weight and the embedding table differ"):
        export_pretrained(untied, None, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_settings_of_a_loaded_model_make_the_same_shape_again(folder: Path) -> None:
    model, _ = load_pretrained(folder)
    assert MicroTransformer(**model.settings()).config == model.config == make().config
    assert asdict(model.config)["norm_eps"] == 1e-5
