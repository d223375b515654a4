"""Text to folders of prepared tokens, by several processes.

A first pass scans the files, so that it is known where each split begins; then
each shard is written by one process, which holds a piece of its text at a time.
What is written does not depend on the number of processes.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import pathlib
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ease_jax.checks import (
  ConfigError,
  need,
)
from ease_jax.data import corpus, text_pieces, text_plan, token_files
from ease_jax.data import tokenizers as tokenizers_lib
from ease_jax.data.files import say
from ease_jax.data.pretrained import Pretrained
from ease_jax.data.recipe import Recipe
from ease_jax.data.spec import SPLITS
from ease_jax.data.text_pieces import Piece, Scanned
from ease_jax.data.token_files import Shard, Split
from ease_jax.data.tokenizers import Tokenizer
from ease_jax.files import expanded, write_atomic

# A piece of TFDS opens the dataset anew.
_TFDS_PIECES = 16

Map = Callable[..., Iterable[Any]]  # like the built-in one


class Job(NamedTuple):
  """A shard to write.

  Attributes:
    path: of its file.
    pieces: its text.
    is_first: nothing of the split is before it.
    tokenizer: as JSON.
    dtype: of the file.
  """

  path: pathlib.Path
  pieces: tuple[Piece, ...]
  is_first: bool
  tokenizer: str
  dtype: str


class Written(NamedTuple):
  """A shard that was written.

  Attributes:
    shard: what the index says of it.
    start_D: where documents start in it, uint64.
  """

  shard: Shard
  start_D: np.ndarray


def write(recipe: Recipe, folder: pathlib.Path) -> None:
  """Writes a folder of tokens; the index comes last.

  Args:
    recipe: which text, and how.
    folder: exists, and is empty.

  Raises:
    ConfigError: the text or the tokenizer cannot be read, or there is too
      little text.
    OSError: a file cannot be written.
  """
  given = recipe.tokenizer_from
  tokenizer = tokenizer_of(given, '--tokenizer_from') if given else None
  with mapping(recipe.workers) as run:
    splits = _pieces(recipe, tokenizer, run)
    for name, pieces in splits.items():
      need(len(pieces) > 0, _nothing(name))
    if tokenizer is None:
      tokenizer = _fitted(recipe, splits['train'], run)
    # As it will be read again.
    tokenizers_lib.save(tokenizer, folder / tokenizers_lib.FILE)
    written = {
      name: _write_split(recipe, name, splits[name], tokenizer, folder, run)
      for name in SPLITS
    }

  index = {
    'format': token_files.FORMAT,
    'source': recipe.source,
    'dtype': token_files.dtype_of(tokenizer),
    'byte_order': 'little',
    'tokenizer': {
      **tokenizers_lib.vocabulary(tokenizer),
      'eos_id': tokenizer.eos_id,
      'sample_bytes': recipe.sample_bytes if recipe.tokenizer == 'bpe' else 0,
      'sha256': token_files.sha256_of(folder / tokenizers_lib.FILE),
    },
    'splits': {name: split.to_json() for name, split in written.items()},
  }
  index['sha256'] = token_files.index_sha256(index)
  write_atomic(folder / token_files.INDEX, json.dumps(index, indent=1))


def _nothing(split: str) -> str:
  return (
    f'FILE leaves less than two tokens for the split {split}; give more text '
    'or other fractions'
  )


def tokenizer_of(path: str, field: str) -> Tokenizer:
  """The tokenizer of a file, or of a folder that has one."""
  place = expanded(path, field)
  if place.is_dir():
    place /= tokenizers_lib.FILE
  need(place.exists(), f'{field}: {str(place)!r} does not exist; correct it')
  return tokenizers_lib.load(place)


@contextlib.contextmanager
def mapping(workers: int) -> Iterator[Map]:
  """A map that several processes work at; results come in order.

  Args:
    workers: processes; with 1 it is this one.

  Raises:
    ConfigError: one of them died.
  """
  if workers == 1:
    yield map
    return
  # Threads of JAX do not survive a fork.
  context = multiprocessing.get_context('spawn')
  pool = concurrent.futures.ProcessPoolExecutor(
    workers, context, initializer=_ignore_interrupts
  )
  try:
    yield pool.map
  except concurrent.futures.BrokenExecutor as error:
    raise ConfigError(
      f'one of --workers={workers} processes was killed, perhaps for want of '
      'memory; use fewer'
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
  """Ctrl-C reaches all processes; the first one ends the others."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)


def _pieces(
  recipe: Recipe, tokenizer: Tokenizer | None, run: Map
) -> text_plan.Splits:
  """The text of each split."""
  if recipe.source == 'tfds':
    size = _TFDS_PIECES * recipe.piece_bytes
    return text_plan.of_tfds(recipe.paths[0], size)

  # What a tokenizer of others makes of a piece may not be what it makes of the
  # whole.
  whole = tokenizer is not None and tokenizer.name == Pretrained.name

  def scan_all(paths: Sequence[pathlib.Path], field: str) -> Iterable[Scanned]:
    scan = functools.partial(
      text_pieces.scan,
      field=field,
      whole=whole,
      piece_bytes=recipe.piece_bytes,
    )
    return run(scan, paths)

  return text_plan.of_files(
    {
      'train': recipe.paths,
      'select': recipe.select_path,
      'test': recipe.test_path,
    },
    {'select': recipe.select_fraction, 'test': recipe.test_fraction},
    scan_all,
  )


def _fitted(recipe: Recipe, train: Sequence[Piece], run: Map) -> Tokenizer:
  """A new tokenizer, of train alone."""
  if recipe.tokenizer == 'char':
    groups = text_plan.grouped(train, recipe.shard_bytes)
    texts: Iterable[str] = run(_characters, groups)
  elif recipe.tokenizer == 'bpe':
    texts = text_plan.sampled(train, recipe.sample_bytes)
  else:
    texts = ()
  return tokenizers_lib.fit(recipe.tokenizer, list(texts), recipe.vocab_size)


def _characters(pieces: Iterable[Piece]) -> str:
  """All characters of pieces, each once."""
  found: set[str] = set()
  for piece in pieces:
    for text, _ in piece.texts():
      found.update(text)
  return ''.join(found)


def _write_split(
  recipe: Recipe,
  name: str,
  pieces: Sequence[Piece],
  tokenizer: Tokenizer,
  folder: pathlib.Path,
  run: Map,
) -> Split:
  """Writes the files of a split."""
  groups = list(text_plan.grouped(pieces, recipe.shard_bytes))
  jobs = [
    Job(
      path=folder / f'{name}-{number:05}.tokens',
      pieces=group,
      is_first=number == 0,
      tokenizer=tokenizer.to_json(),
      dtype=token_files.dtype_of(tokenizer),
    )
    for number, group in enumerate(groups)
  ]
  shards: list[Shard] = []
  before = 0
  path = folder / f'{name}.documents'
  digest = hashlib.sha256()
  with open(path, 'wb') as file:
    for shard, start_D in run(write_shard, jobs):
      raw = (start_D + np.uint64(before)).astype(token_files.START_DTYPE)
      file.write(raw.data)
      digest.update(raw.data)
      before += shard.tokens
      shards.append(shard)
      say(f'{name}: {len(shards)} of {len(jobs)} files, {before:,} tokens')

  need(before > 1, _nothing(name))
  split = Split(tuple(shards), token_files.facts_of(path, digest.hexdigest()))
  unknown = split.total('unknown')
  if unknown:
    say(
      f'{name}: {unknown:,} of {before:,} characters are not in the vocabulary '
      f'and read as {tokenizers_lib.UNK}'
    )
  return split


def write_shard(job: Job) -> Written:
  """Writes a file of tokens, piece by piece."""
  tokenizer = tokenizers_lib.from_json(job.tokenizer)
  dtype = np.dtype(job.dtype).newbyteorder('<')
  eos = np.array([tokenizer.eos_id], dtype)
  digest = hashlib.sha256()
  starts: list[int] = []
  tokens = 0
  size = 0
  unknown = 0

  with open(job.path, 'wb') as file:
    for piece in job.pieces:
      for text, is_start in piece.texts():
        token_N = tokenizer.encode(text)
        sized_N = corpus.with_sizes(tokenizer, text, token_N).astype(dtype)
        if is_start:
          ends_another = bool(starts) or not job.is_first
          if ends_another:
            sized_N = np.concatenate([eos, sized_N])
          starts.append(tokens + ends_another)
        file.write(sized_N.data)
        digest.update(sized_N.data)
        tokens += len(sized_N)
        size += len(text.encode())
        unknown += int(np.sum(sized_N >= tokenizer.vocab_size))

  facts = token_files.facts_of(job.path, digest.hexdigest())
  shard = Shard(
    **dataclasses.asdict(facts),
    tokens=tokens,
    documents=len(starts),
    bytes=size,
    unknown=unknown,
  )
  return Written(shard, np.array(starts, np.uint64))
