"""MicroTransformer: what happens between a text file and a training step."""

from mt_core.checkpoints import CheckpointError
from mt_core.corpus import CorpusError, CorpusWarning, read_documents
from mt_core.dataset import TransformerDataset
from mt_core.loaders import LoaderStateError, TokenLoader, create_dataloaders
from mt_core.model import MicroTransformer, ModelConfig, generate
from mt_core.store import StoreError, TokenStore, prepare_corpus
from mt_core.tokenizer import MicroTransformerTokenizer, TokenizerError
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
