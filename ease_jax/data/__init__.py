"""Text in, batches of windows out: what a model is trained and measured on."""

from ease_jax.data.corpus import Corpus as Corpus
from ease_jax.data.pipeline import Batch as Batch
from ease_jax.data.pipeline import BatchIterator as BatchIterator
from ease_jax.data.pipeline import eval_batches as eval_batches
from ease_jax.data.pipeline import train_iterator as train_iterator
from ease_jax.data.spec import SPLITS as SPLITS
from ease_jax.data.spec import DataSpec as DataSpec
from ease_jax.data.task import TASKS as TASKS
from ease_jax.data.task import LanguageModelling as LanguageModelling
from ease_jax.data.task import Task as Task
from ease_jax.data.task import load as load
from ease_jax.data.tokenizers import Tokenizer as Tokenizer
from ease_jax.data.tokenizers import load as load_tokenizer

__all__ = [
  'SPLITS',
  'TASKS',
  'Batch',
  'BatchIterator',
  'Corpus',
  'DataSpec',
  'LanguageModelling',
  'Task',
  'Tokenizer',
  'eval_batches',
  'load',
  'load_tokenizer',
  'train_iterator',
]
