"""A tokenized corpus: what a `DataSpec` stands for."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ease_jax.checks import ConfigError, need
from ease_jax.data import (
  files,
  library,
  text,
  tfds_source,
  token_files,
  token_views,
  tokenizers,
)
from ease_jax.data.pipeline import Tokens
from ease_jax.data.spec import JOINED, SPLITS, TOKENS, DataSpec

# The sources of text, and what reads their documents.
READERS: dict[str, Callable[[DataSpec], text.Splits]] = {
  'stdlib': library.read,
  'text': text.read_files,
  'tfds': tfds_source.read,
}


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Token arrays and the tokenizer that made them.

  Attributes:
    source: where the text is from, one of SOURCES.
    tokenizer: of all splits; fitted on train alone.
    splits: the tokens of train, select and test, each [N] int32, in memory or
      in files.
    sha256: of all these arrays, in hexadecimal digits.
    sized: the same tokens of a split that has unknown characters, where one
      of n bytes is V - 1 + n: what the bytes of a text are counted with.
    numbers: the document of each token of a split, [N] int32, where that is
      known without reading the tokens.
    mixture: several texts whose windows train is, each with the share of its
      windows; () = it is those of `splits`.
  """

  source: str
  tokenizer: tokenizers.Tokenizer
  splits: Mapping[str, Tokens]
  sha256: str
  sized: Mapping[str, Tokens] = dataclasses.field(default_factory=dict)
  numbers: Mapping[str, Tokens] = dataclasses.field(default_factory=dict)
  mixture: tuple[tuple[Tokens, float], ...] = ()


def load(
  spec: DataSpec, workdir: str | os.PathLike[str] | None = None
) -> Corpus:
  """Reads, splits and encodes the text of a spec; writes nothing.

  Args:
    spec: which text, and how.
    workdir: of a run, whose `tokenizer.json` encodes the text; None, or none
      there: one is fitted on train.

  Raises:
    ConfigError: the data is missing, unreadable or too short.
  """
  if spec.source == TOKENS:
    return _of_folders(spec, workdir)

  documents = READERS[spec.source](spec)
  for name, max_chars in spec.max_chars.items():
    if max_chars:
      documents[name], _ = text.cut(documents[name], max_chars)

  tokenizer = _tokenizer(spec, documents['train'], workdir)
  check_beginning(spec, tokenizer)
  splits = {name: encode(tokenizer, documents[name]) for name in SPLITS}
  _check_sizes(splits, spec.seq_len)
  sized = {
    name: sized_unknowns(name, tokenizer, documents[name], splits[name])
    for name in SPLITS
    if tokenizer.unk_id in splits[name]
  }
  return Corpus(spec.source, tokenizer, splits, _sha256(splits), sized)


def encode(
  tokenizer: tokenizers.Tokenizer, documents: Sequence[str]
) -> np.ndarray:
  """Documents as one array of tokens [N] int32, one eos between two."""
  if not documents:
    return np.zeros(0, np.int32)

  eos = np.array([tokenizer.eos_id], np.int32)
  pieces: list[np.ndarray] = []
  for document in documents:
    pieces.append(eos)
    pieces.append(tokenizer.encode(document))
  return np.concatenate(pieces[1:])


def sized_unknowns(
  split: str,
  tokenizer: tokenizers.Tokenizer,
  documents: Sequence[str],
  tokens: np.ndarray,
) -> np.ndarray:
  """Tokens of single characters, the unknown ones by their size in bytes.

  Says how many there are.

  Args:
    split: its name.
    tokenizer: of characters.
    documents: of the split.
    tokens: it encoded, [N] int32.
  """
  # One token for each character, and for what stands between documents.
  text = '\0'.join(documents)
  code_N = np.frombuffer(text.encode('utf-32-le'), np.uint32)
  is_unknown_N = tokens == tokenizer.unk_id

  unknown = sorted({chr(code) for code in code_N[is_unknown_N]})
  some = ''.join(unknown[:10])
  files.say(
    f'{split}: {is_unknown_N.sum():,} of {len(tokens):,} characters are not in '
    f'the vocabulary of train and read as {tokenizers.UNK}; {len(unknown)} '
    f'kinds, such as {some!r}'
  )
  return with_sizes(tokenizer, text, tokens)


def with_sizes(
  tokenizer: tokenizers.Tokenizer, text: str, token_N: np.ndarray
) -> np.ndarray:
  """Tokens in which an unknown character of n bytes is V - 1 + n.

  Args:
    tokenizer: of them.
    text: of which each character is a token, where some are unknown.
    token_N: it encoded, [N] int32.
  """
  if tokenizer.unk_id is None:
    return token_N
  is_unknown_N = token_N == tokenizer.unk_id
  if not is_unknown_N.any():
    return token_N
  code_N = np.frombuffer(files.encoded(text, 'utf-32-le'), np.uint32)
  bytes_N = 1 + sum(code_N >= least for least in (0x80, 0x800, 0x10000))
  sized_N = np.where(is_unknown_N, tokenizer.vocab_size - 1 + bytes_N, token_N)
  return sized_N.astype(np.int32)


def check_beginning(spec: DataSpec, tokenizer: tokenizers.Tokenizer) -> None:
  """Documents that are apart begin with eos, and alone as the model knows."""
  bos_id = tokenizer.bos_id
  need(
    spec.documents == JOINED or bos_id in (None, tokenizer.eos_id),
    f'data.documents={spec.documents} begins texts with eos, token '
    f"{tokenizer.eos_id}, and this tokenizer's model with token {bos_id}; use "
    f'{JOINED}',
  )


def _of_folders(
  spec: DataSpec, workdir: str | os.PathLike[str] | None
) -> Corpus:
  """The tokens of prepared folders, of which nothing is read but an index.

  Train is their mixture; select and test are those of all of them, end to end.
  """
  folders = [token_files.open_folder(path) for path in spec.path]
  tokenizer = folders[0].tokenizer
  _check_same(spec, folders, workdir)
  check_beginning(spec, tokenizer)
  unk_id = tokenizer.unk_id

  splits: dict[str, Tokens] = {}
  sized: dict[str, Tokens] = {}
  numbers: dict[str, Tokens] = {}
  for name in SPLITS:
    parts = [folder.parts(name) for folder in folders]
    arrays = token_views.with_breaks(parts, tokenizer.eos_id)
    stored = token_views.TokenFiles(arrays, tokenizer.vocab_size, None)
    splits[name] = dataclasses.replace(stored, unk_id=unk_id)
    if any(folder.splits[name].total('unknown') for folder in folders):
      sized[name] = stored
    numbers[name] = token_files.numbers(folders, name, len(stored))

  mixture = []
  for folder, weight in zip(folders, spec.mixture_weights):
    train = token_views.TokenFiles(
      folder.parts('train'), tokenizer.vocab_size, unk_id
    )
    where = f'{str(folder.path)!r}: the train split'
    _check_train(len(train), spec.seq_len, where)
    mixture.append((train, weight))

  _check_sizes(splits, spec.seq_len)
  sha256 = _of_mixture(folders, spec.mixture_weights)
  return Corpus(
    spec.source, tokenizer, splits, sha256, sized, numbers, tuple(mixture)
  )


def _check_same(
  spec: DataSpec,
  folders: Sequence[token_files.TokenFolder],
  workdir: str | os.PathLike[str] | None,
) -> None:
  """Refuses folders of another tokenizer than the run's, or than others."""
  first, *others = folders
  need(
    first.tokenizer.name == spec.tokenizer,
    f'data.tokenizer={spec.tokenizer!r}, but the tokens of {first.path} are of '
    f'kind {first.tokenizer.name!r}; set data.tokenizer to that',
  )
  expected = tokenizers.vocabulary(first.tokenizer)
  for other in others:
    _check_vocabulary(other, expected, first.path)
  path = None if workdir is None else pathlib.Path(workdir, tokenizers.FILE)
  if path is not None and path.exists():
    expected = tokenizers.vocabulary(tokenizers.load(path))
    _check_vocabulary(first, expected, path)


def _check_vocabulary(
  folder: token_files.TokenFolder,
  expected: Mapping[str, str | int],
  path: pathlib.Path,
) -> None:
  for name, here in tokenizers.vocabulary(folder.tokenizer).items():
    need(
      here == expected[name],
      f'data.path: the tokens of {folder.path} are of another tokenizer than '
      f'{path} ({name}={here} there, {expected[name]} here); prepare the text '
      f'with --tokenizer_from={path}',
    )


def _of_mixture(
  folders: Sequence[token_files.TokenFolder], weights: Sequence[float]
) -> str:
  """The hash of a folder, or of several with their weights."""
  hashes = [folder.sha256 for folder in folders]
  if len(hashes) == 1:
    return hashes[0]
  said = json.dumps([hashes, list(weights)])
  return hashlib.sha256(said.encode()).hexdigest()


def _tokenizer(
  spec: DataSpec,
  train: Sequence[str],
  workdir: str | os.PathLike[str] | None,
) -> tokenizers.Tokenizer:
  """The one of a run, or a new one."""
  path = None if workdir is None else pathlib.Path(workdir, tokenizers.FILE)
  if path is None or not path.exists():
    return tokenizers.fit(spec.tokenizer, train, spec.vocab_size)

  saved = tokenizers.load(path)
  need(
    saved.name == spec.tokenizer,
    f'data.tokenizer={spec.tokenizer!r}, but {path} is of kind '
    f'{saved.name!r}; use another workdir',
  )
  return saved


def _check_sizes(splits: Mapping[str, Tokens], seq_len: int) -> None:
  _check_train(len(splits['train']), seq_len, 'the train split')
  for name in ('select', 'test'):
    num_tokens = len(splits[name])
    if num_tokens < 2:
      raise ConfigError(
        f'data: the {name} split has {num_tokens} tokens, fewer than '
        f'2; give more text or raise data.{name}_fraction'
      )


def _check_train(num_tokens: int, seq_len: int, where: str) -> None:
  need(
    num_tokens > seq_len,
    f'data: {where} has {num_tokens} tokens, fewer than data.seq_len + 1 = '
    f'{seq_len + 1}; give more text or lower data.seq_len',
  )


def _sha256(splits: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name in SPLITS:
    # The length keeps a moved boundary from going unseen.
    digest.update(f'{name} {len(splits[name])}\n'.encode())
    digest.update(splits[name].astype('<i4', copy=False).data)
  return digest.hexdigest()
