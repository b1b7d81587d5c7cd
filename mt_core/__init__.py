"""MicroTransformer: what happens between a text file and a training step."""

from typing import TYPE_CHECKING, Any

from mt_core.checkpoints import CheckpointError
from mt_core.corpus import CorpusError, CorpusWarning, read_documents
from mt_core.dataset import TransformerDataset
from mt_core.loaders import LoaderStateError, TokenLoader, create_dataloaders
from mt_core.model import MicroTransformer, ModelConfig, generate
from mt_core.store import StoreError, TokenStore, prepare_corpus
from mt_core.tokenizer import MicroTransformerTokenizer, TokenizerError

if TYPE_CHECKING:
    from mt_core.training import TrainConfig, evaluate, fit

__all__ = [
    "CheckpointError",
    "CorpusError",
    "CorpusWarning",
    "LoaderStateError",
    "MicroTransformer",
    "MicroTransformerTokenizer",
    "ModelConfig",
    "StoreError",
    "TokenLoader",
    "TokenStore",
    "TokenizerError",
    "TrainConfig",
    "TransformerDataset",
    "create_dataloaders",
    "evaluate",
    "fit",
    "generate",
    "prepare_corpus",
    "read_documents",
]


def __getattr__(name: str) -> Any:
    # Imported when asked for: `python -m mt_core.training` warns if the package has imported it before.
    if name not in ("TrainConfig", "evaluate", "fit"):
        raise AttributeError(f"module 'mt_core' has no attribute {name!r}")
    from mt_core import training

    return getattr(training, name)
