"""Text in, batches of windows out."""

from ease_jax.data.corpus import Corpus as Corpus
from ease_jax.data.corpus import load as load
from ease_jax.data.pipeline import eval_batches as eval_batches
from ease_jax.data.pipeline import train_iterator as train_iterator
from ease_jax.data.tokenizers import load as load_tokenizer

__all__ = ['Corpus', 'eval_batches', 'load', 'load_tokenizer', 'train_iterator']
