"""MicroTransformer: what happens between a text file and a training step."""

import importlib
from typing import TYPE_CHECKING, Any

from mt_core.corpus import CorpusError, CorpusWarning, read_documents
from mt_core.prepare import prepare_corpus
from mt_core.store import StoreError, TokenStore
from mt_core.tokenizer import MicroTransformerTokenizer, TokenizerError

if TYPE_CHECKING:
    from mt_core.adapters import unshift_labels
    from mt_core.augment import BpeDropout, FillInTheMiddle, OffsetJitter, TokenDropping, TokenMasking
    from mt_core.checkpoints import CheckpointError
    from mt_core.dataset import TransformerDataset
    from mt_core.export import PretrainedError, export_pretrained, load_pretrained
    from mt_core.loaders import create_dataloaders
    from mt_core.mixing import MixedDataset
    from mt_core.model import MicroTransformer, ModelConfig, generate
    from mt_core.prefetch import prefetch_to_device
    from mt_core.token_loader import LoaderStateError, TokenLoader
    from mt_core.training import TrainConfig, evaluate, fit

__all__ = [
    "BpeDropout",
    "CheckpointError",
    "CorpusError",
    "CorpusWarning",
    "FillInTheMiddle",
    "LoaderStateError",
    "MicroTransformer",
    "MicroTransformerTokenizer",
    "MixedDataset",
    "ModelConfig",
    "OffsetJitter",
    "PretrainedError",
    "StoreError",
    "TokenDropping",
    "TokenLoader",
    "TokenMasking",
    "TokenStore",
    "TokenizerError",
    "TrainConfig",
    "TransformerDataset",
    "create_dataloaders",
    "evaluate",
    "export_pretrained",
    "fit",
    "generate",
    "load_pretrained",
    "prefetch_to_device",
    "prepare_corpus",
    "read_documents",
    "unshift_labels",
]

# Imported when asked for. They load torch, which takes seconds and 140 MB: the processes of prepare_corpus do without.
# And `python -m mt_core.training` warns if the package has imported it before.
_LATER = {
    "unshift_labels": "adapters",
    "BpeDropout": "augment",
    "FillInTheMiddle": "augment",
    "OffsetJitter": "augment",
    "TokenDropping": "augment",
    "TokenMasking": "augment",
    "CheckpointError": "checkpoints",
    "TransformerDataset": "dataset",
    "PretrainedError": "export",
    "export_pretrained": "export",
    "load_pretrained": "export",
    "LoaderStateError": "token_loader",
    "TokenLoader": "token_loader",
    "create_dataloaders": "loaders",
    "MixedDataset": "mixing",
    "MicroTransformer": "model",
    "ModelConfig": "model",
    "generate": "model",
    "prefetch_to_device": "prefetch",
    "TrainConfig": "training",
    "evaluate": "training",
    "fit": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'mt_core' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mt_core.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    """The names that are imported later, too, so that they can be completed."""
    return sorted({*globals(), *__all__})
