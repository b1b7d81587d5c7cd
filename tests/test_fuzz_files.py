"""Files that are damaged or invented: what is made of them is right, or refused in our own words, in bounded time."""

import gzip
import json
import shutil
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mt_core import (
    CheckpointError,
    CorpusError,
    MicroTransformer,
    MicroTransformerTokenizer,
    StoreError,
    TokenizerError,
    TokenStore,
    TrainConfig,
    TransformerDataset,
    export,
    prepare_corpus,
    read_documents,
)
from mt_core.checkpoints import load_checkpoint, save_checkpoint
from mt_core.export import PretrainedError, export_pretrained, load_pretrained
from mt_core.on_the_fly import open_text
from mt_core.recipe import create_optimizers

TEXTS = ["The cat sat on the mat.", "a", "It's 10 o'clock: [SEP]\n\nGröße 🙂 " * 3, "the mat " * 9]
CHUNKINGS = ("contiguous", "per_document", "sliding", "packed")

NUMBERS = st.one_of(st.integers(), st.sampled_from([-1, 2**31, 2**63, 10**30, -(10**30), 10**400]), st.floats())
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.sampled_from(["<u4", "|O", "../../x"]))
JSON = st.recursive(SCALARS, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=5), of, max_size=3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Path:
    lines = [json.dumps({"text": text, "n": n}) for n, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return folder / "corpus.jsonl"


@pytest.fixture(scope="module")
def store(folder: Path, corpus: Path, tokenizer: MicroTransformerTokenizer) -> Path:
    prepare_corpus(corpus, folder / "store", tokenizer)
    return folder / "store"


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """What makes other bytes of some bytes: one changed, some cut off or some added."""
    place, value = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 255))
    kind = draw(st.sampled_from(["change", "change", "cut", "add"]))

    def damaged(raw: bytes) -> bytes:
        at = int(place * len(raw))
        return {
            "change": raw[:at] + bytes([raw[at] ^ value]) + raw[at + 1 :],
            "cut": raw[:at],
            "add": raw + raw[: 1 + at],
        }[kind]

    return damaged


def put(original: Path, copy: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """A copy of a folder with one file changed, whose name begins as said; Windows keeps those that are mapped."""
    copy = Path(tempfile.mkdtemp(prefix=copy.name, dir=copy.parent))
    shutil.copytree(original, copy, dirs_exist_ok=True)
    (copy / name).write_bytes(change((original / name).read_bytes()))
    return copy


# -- documents ----------------------------------------------------------------------------------------------

PIECES = [b'{"text": "', b'"}', b"\n", b"\r\n", b"{}", b"[1]", b'{"text": 1e999}', b"\\ud800", b"\xff", b"\xef\xbb\xbf"]
PIECES += [b"\0", b"[" * 2000, b'{"text": ' + b"9" * 5000 + b"}", b"\xfe\xff", b" ", "é🙂".encode(), b"NaN", b"a" * 99]
RAW = st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=12).map(b"".join)


def packers() -> dict[str, Callable[[bytes], bytes]]:
    import io

    import pyarrow
    from pyarrow import parquet

    from mt_core.files import _zstd

    def rows(raw: bytes) -> bytes:
        out = io.BytesIO()
        texts = [piece.decode("utf-8", "replace") for piece in raw.split(b"\n")]
        parquet.write_table(pyarrow.table({"text": texts}), out)
        return out.getvalue()

    pack = _zstd(Path("x.zst")).compress
    return {".jsonl": bytes, ".txt": bytes, ".txt.gz": gzip.compress, ".jsonl.zst": pack, ".parquet": rows}


@settings(max_examples=250)
@given(
    RAW,
    st.none() | damage(),
    st.sampled_from([".jsonl", ".txt", ".txt.gz", ".jsonl.zst", ".parquet"]),
    st.sampled_from(["document", "paragraph", "line"]),
    st.sampled_from(["raise", "skip"]),
    st.booleans(),
)
@example(PIECES[12], None, ".jsonl", "document", "raise", True)
@example(b"[" * 99_999, None, ".jsonl", "document", "skip", True)
def test_any_bytes_are_documents_or_a_corpus_error(
    folder: Path, raw: bytes, change: Any, suffix: str, sample_by: Any, on_error: Any, pack: bool
) -> None:
    file = folder / f"any{suffix}"
    packed = packers()[suffix](raw) if pack else raw
    file.write_bytes(change(packed) if change and packed else packed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that records were skipped
            texts = list(read_documents(file, sample_by=sample_by, on_error=on_error))
    except CorpusError as error:
        assert error.path == file and str(error).startswith(str(file)) and error.reason
    else:
        assert all(text.strip() and text.encode("utf-8") for text in texts)


@settings(max_examples=40)
@given(RAW, st.sampled_from([".jsonl", ".txt"]))
def test_a_store_of_any_bytes_is_whole_or_not_there(
    folder: Path, tokenizer: MicroTransformerTokenizer, raw: bytes, suffix: str
) -> None:
    file, out_dir = folder / f"any{suffix}", folder / "any store"
    file.write_bytes(raw)
    try:
        made = prepare_corpus(file, out_dir, tokenizer)
    except (CorpusError, StoreError):
        assert not list(folder.glob("any store*"))
        return
    found = [tokenizer.decode(made.document(d)) for d in range(made.n_documents)]
    made.verify()
    del made
    shutil.rmtree(out_dir)
    assert found == list(read_documents(file))


@pytest.mark.parametrize("suffix", [".txt.gz", ".jsonl.gz", ".txt.zst"])
def test_a_packed_file_that_grows_a_thousandfold_is_a_stream(folder: Path, suffix: str) -> None:
    line, n = b'{"text": "' + b"a" * 1000 + b'"}\n', 16_000
    packed = packers()[".jsonl.zst" if suffix.endswith("zst") else ".txt.gz"](line * n)
    assert len(packed) < len(line) * n / 300
    file = folder / f"bomb{suffix}"
    file.write_bytes(packed)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_documents(file, sample_by="line")) == n
        assert tracemalloc.get_traced_memory()[1] < 4 << 20  # 16 MB unpacked
    finally:
        tracemalloc.stop()


# -- tokenizers ---------------------------------------------------------------------------------------------


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The ways to all that JSON holds; of long lists and objects the first few."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:12]:
        yield (*path, key)
        yield from places(inner, (*path, key))


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_tokenizer_is_refused_or_its_two_engines_agree(folder: Path, data: st.DataObject) -> None:
    tokenizer = MicroTransformerTokenizer.train(TEXTS, vocab_size=280)
    tokenizer.save_pretrained(folder / "tokenizer")
    file = folder / "tokenizer" / "tokenizer.json"
    raw = file.read_bytes()
    if data.draw(st.booleans()):
        file.write_bytes(data.draw(damage())(raw))
    else:
        rules = inner = json.loads(raw)
        *way, last = data.draw(st.sampled_from(sorted(places(rules), key=str)))
        for key in way:
            inner = inner[key]
        inner[last] = data.draw(JSON)
        file.write_text(json.dumps(rules), encoding="utf-8")
    try:
        loaded = MicroTransformerTokenizer.from_pretrained(folder / "tokenizer")
    except TokenizerError:
        return
    for text in TEXTS:
        ids = loaded.encode(text)["input_ids"]
        assert loaded.token_ids(text) == ids and loaded.decode(ids) is not None
    assert len(loaded.token_byte_lengths()) == len(loaded)


@pytest.mark.parametrize("change", [list.clear, list.reverse, list.pop])
def test_merges_that_do_not_make_the_vocabulary_are_not_left_to_the_fast_engine(
    folder: Path, change: Callable[[list], Any]
) -> None:
    """tiktoken merges to whatever has an id, in the order of ids: it would give other ids without a word."""
    MicroTransformerTokenizer.train(TEXTS, vocab_size=280).save_pretrained(folder / "tokenizer")
    file = folder / "tokenizer" / "tokenizer.json"
    rules = json.loads(file.read_text(encoding="utf-8"))
    change(rules["model"]["merges"])
    file.write_text(json.dumps(rules), encoding="utf-8")
    try:
        loaded = MicroTransformerTokenizer.from_pretrained(folder / "tokenizer")
    except TokenizerError:
        return
    assert [loaded.token_ids(text) for text in TEXTS] == [loaded.encode(text)["input_ids"] for text in TEXTS]


# -- stores -------------------------------------------------------------------------------------------------


def use(found: TokenStore) -> None:
    """All that reads rows of a store."""
    found.fingerprint()
    for chunking in CHUNKINGS:
        dataset = TransformerDataset(found, seq_length=4, chunking=chunking)  # type: ignore[arg-type]
        dataset[0], dataset[len(dataset) - 1]


HEADER_FIELDS = ["format", "version", "dtype", "vocab_size", "pad_token_id", "tokenizer_hash", "n_tokens"]
HEADER_FIELDS += ["n_documents", "token_ids_sha256", "document_ends_sha256", "sources", "reading", "header_sha256"]


@settings(max_examples=150)
@given(st.sampled_from(HEADER_FIELDS), st.just("gone") | JSON)
@example("pad_token_id", 2**63)
@example("tokenizer_hash", "gone")
def test_a_header_that_says_anything_is_refused_or_the_store_can_be_used(
    folder: Path, store: Path, field: str, value: Any
) -> None:
    header = json.loads((store / "header.json").read_text(encoding="utf-8"))
    same = header[field] == value
    header[field] = value
    if value == "gone":
        del header[field]
    text = json.dumps(header)
    copy = put(store, folder / "copy", "header.json", lambda _: text.encode())
    try:
        found = TokenStore.open(copy)
        use(found)
    except StoreError as error:
        assert str(copy) in str(error)
        return
    if not same:
        with pytest.raises(StoreError, match=r"header\.json was changed or damaged"):
            found.verify()


@settings(max_examples=200)
@given(st.sampled_from(["token_ids.bin", "document_ends.bin", "header.json"]), damage())
def test_a_store_changed_by_one_byte_or_cut_or_longer_is_caught(
    folder: Path, store: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    copy = put(store, folder / "copy", name, change)
    sizes_differ = (copy / name).stat().st_size != (store / name).stat().st_size
    try:
        found = TokenStore.open(copy)
        assert name == "header.json" or not sizes_differ  # those open catches
        found.verify()
    except StoreError as error:
        assert name in str(error) or name.removesuffix(".bin") in str(error) or "document ends" in str(error)
    else:  # white space between what the header says, or a number spelled otherwise
        assert name == "header.json" and found.header == TokenStore.open(store).header


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 60), min_size=3, max_size=3))
@example([2**63, 5, 3])
def test_ends_that_do_not_increase_are_refused_where_rows_are_cut(folder: Path, store: Path, ends: list[int]) -> None:
    def other(raw: bytes) -> bytes:
        return b"".join(end.to_bytes(8, "little") for end in ends) + raw[24:]

    found = TokenStore.open(put(store, folder / "copy", "document_ends.bin", other))
    try:
        use(found)
    except ValueError as error:
        assert "document ends do not increase" in str(error)
    else:
        assert ends == sorted(ends)


@settings(max_examples=60)
@given(st.data(), damage())
def test_a_damaged_index_of_a_text_is_made_anew(
    folder: Path, corpus: Path, tokenizer: MicroTransformerTokenizer, data: st.DataObject, change: Any
) -> None:
    whole = open_text(corpus, tokenizer, cache_dir=folder / "index")
    assert whole.path is not None
    expected, before = whole.token_ids[:].tolist(), whole.fingerprint()
    names = ["header.json", "document_ends.bin", "document_places.bin", "tokenizer/tokenizer.json"]
    file = whole.path / data.draw(st.sampled_from(names))
    del whole
    file.write_bytes(change(file.read_bytes()))
    try:
        again = open_text(corpus, tokenizer, cache_dir=folder / "index")
        assert (again.fingerprint(), again.token_ids[:].tolist()) == (before, expected)
        del again
    except (StoreError, TokenizerError) as error:  # the tokenizer in it, which only tokenizing needs
        assert file.name == "tokenizer.json" and str(folder / "index") in str(error)
    shutil.rmtree(folder / "index")


# -- checkpoints and exported models ------------------------------------------------------------------------


def tiny(seed: int = 0) -> MicroTransformer:
    torch.manual_seed(seed)
    return MicroTransformer(vocab_size=8, n_layer=2, n_head=1, n_embd=4, n_inner=8)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    model = tiny()
    optimizers = create_optimizers(model, TrainConfig())
    model(torch.zeros(1, 3, dtype=torch.int64)).sum().backward()
    optimizers[0].step()
    return save_checkpoint(folder / "run", 7, model, optimizers, {"tokens": 5, "seconds": 0.5, "note": ["ä", None]})


@settings(max_examples=150)
@given(st.sampled_from(["model.safetensors", "optimizer.safetensors", "state.json"]), damage())
def test_a_checkpoint_changed_by_one_byte_or_cut_or_longer_is_caught(
    folder: Path, checkpoint: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    copy, model = put(checkpoint, folder / "changed", name, change), tiny(1)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    try:
        state = load_checkpoint(copy, model, create_optimizers(model, TrainConfig()))
    except CheckpointError as error:
        assert str(copy / name) in str(error) and "remove" in str(error)
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before, strict=True))
    else:
        assert name == "state.json"
        assert state == json.loads((checkpoint / name).read_text(encoding="utf-8"))


@settings(max_examples=80)
@given(st.sampled_from(["step", "param_groups", "tokens", "sha256", "all"]), st.just("gone") | JSON)
@example("all", "[" * 100_000)
def test_a_state_that_says_anything_else_is_refused(folder: Path, checkpoint: Path, field: str, value: Any) -> None:
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    other = value if field == "all" else {**state, field: value}
    if value == "gone" and field != "all":
        del other[field]
    text = value if field == "all" and isinstance(value, str) else json.dumps(other)
    if field != "all" and value == state[field]:
        return
    copy = put(checkpoint, folder / "changed", "state.json", lambda _: text.encode("utf-8", "replace"))
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read .*remove"):
        load_checkpoint(copy, tiny(1), create_optimizers(tiny(1), TrainConfig()))


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    return export_pretrained(tiny(), None, folder / "exported")


CONFIG_FIELDS = ["model_type", "architectures", "vocab_size", "num_hidden_layers", "num_attention_heads", "hidden_size"]
CONFIG_FIELDS += ["intermediate_size", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "rope_theta"]
CONFIG_FIELDS += ["rope_parameters", "rope_scaling", "attention_bias", "mlp_bias", "tie_word_embeddings"]


@settings(max_examples=200)
@given(st.sampled_from(CONFIG_FIELDS), JSON)
@example("num_hidden_layers", 10**9)
@example("intermediate_size", 2**70)
@example("rope_scaling", "default")
@example("tie_word_embeddings", "false")
def test_a_config_that_says_anything_is_refused_or_makes_a_model(
    folder: Path, exported: Path, field: str, value: Any
) -> None:
    config = json.dumps(json.loads((exported / "config.json").read_text(encoding="utf-8")) | {field: value})
    copy = put(exported, folder / "model", "config.json", lambda _: config.encode())
    try:
        model, _ = load_pretrained(copy)
    except PretrainedError as error:
        assert str(copy) in str(error)
    else:
        sizes = ("vocab_size", "n_layer", "n_embd", "n_inner")
        assert [asdict(model.config)[name] for name in sizes] == [8, 2, 4, 8]
        assert model(torch.zeros(1, 2, dtype=torch.int64)).shape == (1, 2, 8)


@settings(max_examples=80)
@given(st.sampled_from(["model.safetensors", "config.json"]), damage())
def test_a_damaged_model_folder_is_refused_or_has_the_shape_of_the_model(
    folder: Path, exported: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    try:
        model, _ = load_pretrained(put(exported, folder / "model", name, change))
    except PretrainedError as error:
        assert str(folder / "model") in str(error)
    else:
        assert model.n_parameters() == tiny().n_parameters()


NAMES = st.sampled_from(["..", ".", "/", "\\", "C:", "a", "model.safetensors", "outside.safetensors", "\0", "~", "é"])


@settings(max_examples=150)
@given(st.lists(NAMES | st.text(max_size=4), min_size=1, max_size=6).map("".join))
@example("../outside.safetensors")
@example("sub/../../outside.safetensors")
def test_no_name_in_an_index_leads_out_of_its_folder(folder: Path, exported: Path, name: str) -> None:
    copy = put(exported, folder / "model", "config.json", bytes)
    for target in (folder / "outside.safetensors", folder / name.replace("\0", "")):
        if not target.exists() and target.parent == folder:
            shutil.copy(exported / "model.safetensors", target)
    (copy / "model.safetensors").rename(copy / "a.safetensors")
    index = json.dumps({"weight_map": {"model.norm.weight": name}})
    (copy / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    opened: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "load_file", lambda file: (opened.append(Path(file)), {})[1])
        with pytest.raises(PretrainedError):
            load_pretrained(copy)
    assert all(file.resolve().parent == copy.resolve() for file in opened)
