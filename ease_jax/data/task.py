"""Tasks: what is learned, from which batches, and how well it is done.

A task is all that training and evaluation know about data. Language
modelling is one; another is a class that does what `Task` says and an entry
in `TASKS`, which the config's field `data.task` names.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

import chex
import numpy as np

from ease_jax.checks import one_of
from ease_jax.data import corpus as corpora
from ease_jax.data import pipeline, tokenizers
from ease_jax.data.corpus import Corpus
from ease_jax.data.pipeline import Batch, BatchIterator, Tokens
from ease_jax.data.spec import DataSpec
from ease_jax.data.tokenizers import UNK

UNKNOWN_BYTES = (1, 2, 3, 4)  # of a character in UTF-8


class Task(Protocol):
  """What training, evaluation and reports ask of a task.

  Attributes:
    attention: 'causal' when a token sees only earlier ones, 'full' when it
      sees all.
    unit: what exits at once: a 'token', or a whole 'sequence'.
  """

  attention: ClassVar[str]
  unit: ClassVar[str]

  @classmethod
  def load(
    cls, spec: DataSpec, workdir: str | os.PathLike[str] | None
  ) -> 'Task':
    """The task on the data of a spec; writes nothing.

    Args:
      spec: which data, and the length of a window.
      workdir: of the run that is evaluated or goes on: what `save` wrote there
        encodes the data; None: a new run.

    Raises:
      ConfigError: the data cannot be used.
    """
    ...

  def save(self, workdir: str | os.PathLike[str]) -> None:
    """Writes `tokenizer.json`: what it takes to encode and decode again."""
    ...

  @property
  def vocab_size(self) -> int:
    """Number of token ids, V."""
    ...

  @property
  def eos_id(self) -> int | None:
    """The token between two documents of a row; None where rows have none."""
    ...

  @property
  def seq_len(self) -> int:
    """Positions of each row of a batch, T."""
    ...

  @property
  def splits(self) -> Mapping[str, int]:
    """The names of the splits and their sizes in tokens."""
    ...

  def train_batches(self, batch_size: int, seed: int) -> BatchIterator:
    """Endless batches of the training split; their order follows the seed.

    Args:
      batch_size: B, rows of each batch; of several processes each gets its
        part of them, `arrays.own_share`.
      seed: fixes the order.
    """
    ...

  def eval_batches(
    self, split: str, batch_size: int, max_tokens: int = 0
  ) -> Iterator[Batch]:
    """Batches that hold each target of a split once.

    A task that has more to say to its own `quality` than the model may see
    adds `scored`, which `quality` gets in the place of the targets. One whose
    rows are not documents of their own adds `document`, the number of the
    document that each target is of.

    Args:
      split: its name.
      batch_size: B; the last batch is padded to it, with mask 0.
      max_tokens: about so many targets, spread over the split; 0 = all.
    """
    ...

  def beginning(self, split: str, num_tokens: int) -> 'Task':
    """The task that has this split alone, and of it the first targets.

    Args:
      split: its name.
      num_tokens: targets that are kept, in the order of the split.
    """
    ...

  def quality(
    self,
    nll_RxT: np.ndarray,
    correct_RxT: np.ndarray,
    mask_RxT: np.ndarray,
    target_RxT: np.ndarray,
  ) -> dict[str, float]:
    """How well predictions do; the keys are those of `results.json`.

    Args:
      nll_RxT: loss of each prediction in nats.
      correct_RxT: whether the likeliest token is the target, bool.
      mask_RxT: above 0 where a target counts.
      target_RxT: the targets, int32.
    """
    ...

  def token_text(self, token: int) -> str:
    """How a report displays a token."""
    ...

  def to_json(self) -> dict[str, str | int]:
    """What `results.json` says about the data.

    A run whose data say something else later is not continued or evaluated.
    """
    ...


@dataclasses.dataclass(frozen=True)
class LanguageModelling:
  """Each token of a text is predicted from those before it.

  Attributes:
    corpus: the text as tokens.
    seq_len: T, tokens of a window; no token sees beyond its own.
  """

  attention: ClassVar[str] = 'causal'
  unit: ClassVar[str] = 'token'

  corpus: Corpus
  seq_len: int

  @classmethod
  def load(
    cls, spec: DataSpec, workdir: str | os.PathLike[str] | None
  ) -> 'LanguageModelling':
    """Language modelling on the text of a spec; writes nothing.

    Args:
      spec: which text, and the length of a window.
      workdir: of a run, whose `tokenizer.json` encodes the text; None: one is
        fitted.

    Raises:
      ConfigError: the data is missing, unreadable or too short.
    """
    corpus = corpora.load(spec, workdir)
    return cls(corpus=corpus, seq_len=spec.seq_len)

  def save(self, workdir: str | os.PathLike[str]) -> None:
    path = pathlib.Path(workdir, tokenizers.FILE)
    tokenizers.save(self.corpus.tokenizer, path)

  @property
  def vocab_size(self) -> int:
    return self.corpus.tokenizer.vocab_size

  @property
  def splits(self) -> dict[str, int]:
    tokens = self.corpus.splits
    return {name: len(tokens[name]) for name in tokens}

  @property
  def eos_id(self) -> int:
    """The token between two documents."""
    return self.corpus.tokenizer.eos_id

  def train_batches(self, batch_size: int, seed: int) -> BatchIterator:
    how = self.seq_len, batch_size, seed, self.corpus.tokenizer.bos_id
    if self.corpus.mixture:
      parts, weights = zip(*self.corpus.mixture, strict=True)
      return pipeline.mixed_iterator(parts, weights, *how)
    return pipeline.train_iterator(self.corpus.splits['train'], *how)

  def eval_batches(
    self, split: str, batch_size: int, max_tokens: int = 0
  ) -> Iterator[Batch]:
    tokens = self.corpus.splits[split]
    numbers = self.corpus.numbers.get(split)
    if numbers is None:
      numbers = documents(tokens[:], self.eos_id)
    beside: dict[str, Tokens] = {'document': numbers}
    if split in self.corpus.sized:
      beside['scored'] = self.corpus.sized[split]

    shape = self.seq_len, batch_size, max_tokens
    others = [pipeline.eval_batches(beside[name], *shape) for name in beside]
    bos_id = self.corpus.tokenizer.bos_id
    plain = pipeline.eval_batches(tokens, *shape, bos_id)
    for batch, *own in zip(plain, *others):
      for name, other in zip(beside, own, strict=True):
        batch[name] = other['targets']
      yield batch

  def beginning(self, split: str, num_tokens: int) -> 'LanguageModelling':
    # The first token is seen, never predicted.
    end = num_tokens + 1

    def first(of_splits: Mapping[str, Tokens]) -> dict[str, Tokens]:
      """Of a split that is among some, the beginning."""
      return {
        name: of_splits[name][:end] for name in of_splits if name == split
      }

    corpus = dataclasses.replace(
      self.corpus,
      splits=first(self.corpus.splits),
      sized=first(self.corpus.sized),
      numbers=first(self.corpus.numbers),
      mixture=(),
    )
    return dataclasses.replace(self, corpus=corpus)

  def quality(
    self,
    nll_RxT: np.ndarray,
    correct_RxT: np.ndarray,
    mask_RxT: np.ndarray,
    target_RxT: np.ndarray,
  ) -> dict[str, float]:
    """Mean loss, perplexity, bits per byte and accuracy.

    Sums run over unmasked tokens in float64, so that neither batch size nor a
    ragged last batch changes them.

    Args:
      nll_RxT: loss of each token in nats.
      correct_RxT: whether the likeliest token is the target, bool.
      mask_RxT: above 0 where a target counts.
      target_RxT: the targets, int32; an unknown character of n bytes may be
        V - 1 + n.

    Returns:
      nll (nats per token), ppl (its exponential), bits_per_byte (of UTF-8),
      accuracy (a share).
    """
    chex.assert_rank(nll_RxT, 2)
    chex.assert_equal_shape([nll_RxT, correct_RxT, mask_RxT, target_RxT])
    mask = mask_RxT > 0
    num_tokens = int(mask.sum())
    token_bytes_V = self.corpus.tokenizer.token_bytes
    bytes_of = np.concatenate([token_bytes_V, UNKNOWN_BYTES])
    num_bytes = int(bytes_of[target_RxT[mask]].sum())

    total = float(nll_RxT[mask].sum(dtype=np.float64))
    nll = total / num_tokens
    return {
      'nll': nll,
      'ppl': math.exp(nll),
      'bits_per_byte': total / math.log(2) / num_bytes,
      'accuracy': float(correct_RxT[mask].mean(dtype=np.float64)),
    }

  def token_text(self, token: int) -> str:
    if token >= self.vocab_size:
      return UNK
    return self.corpus.tokenizer.token_text(token)

  def encode(self, text: str) -> np.ndarray:
    """The tokens of a text, [N] int32."""
    return self.corpus.tokenizer.encode(text)

  def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
    """The text of tokens."""
    return self.corpus.tokenizer.decode(tokens)

  def to_json(self) -> dict[str, str | int]:
    sizes = {f'{name}_tokens': size for name, size in self.splits.items()}
    return {
      'source': self.corpus.source,
      'sha256': self.corpus.sha256,
      **tokenizers.vocabulary(self.corpus.tokenizer),
      **sizes,
    }


def documents(tokens: np.ndarray, eos_id: int) -> np.ndarray:
  """Which document each token is of, from 0, [N] int32; eos ends one."""
  is_eos_N = tokens == eos_id
  return (np.cumsum(is_eos_N) - is_eos_N).astype(np.int32)


TASKS: dict[str, type[Task]] = {'language': LanguageModelling}


def load(spec: DataSpec, workdir: str | os.PathLike[str] | None = None) -> Task:
  """The task of a spec, with its data read; writes nothing.

  Args:
    spec: its field `task` names an entry of TASKS.
    workdir: of the run that is evaluated or goes on; None: a new run.

  Raises:
    ConfigError: there is no such task, or its data cannot be used.
  """
  one_of('data.task', spec.task, TASKS)
  return TASKS[spec.task].load(spec, workdir)
