"""A finished run in a notebook: its model, scores of texts, continuations."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ease_jax import decode, deploy, run, workdir
from ease_jax.checks import need
from ease_jax.config import Config
from ease_jax.core.policies import OperatingPoint
from ease_jax.data.pipeline import eval_batches
from ease_jax.data.tokenizers import Tokenizer, prompt_tokens
from ease_jax.evaluate import passes, traces
from ease_jax.evaluate import results as results_lib
from ease_jax.model import Body, Params

BATCH_SIZE = 8  # windows that are scored at a time


class TokenTable(NamedTuple):
  """One entry for each predicted token of some texts, N in all.

  The first token of a text is seen, never predicted. K is the number of
  readouts; `nll_KxN` and the two after it are read at every readout, as if
  nobody had exited.

  Attributes:
    text_N: which text it belongs to, from 0.
    position_N: its place in the text, in tokens, from 1.
    token_N: its id.
    piece_N: its text.
    nll_KxN: -log p(token), nats.
    max_prob_KxN: probability of the likeliest token.
    correct_KxN: whether the likeliest token is this one.
    exit_N: the readout that answers it, 0-based.
    exit_nll_N: -log p(token) there, by the exit-consistent pass.
  """

  text_N: np.ndarray
  position_N: np.ndarray
  token_N: np.ndarray
  piece_N: np.ndarray
  nll_KxN: np.ndarray
  max_prob_KxN: np.ndarray
  correct_KxN: np.ndarray
  exit_N: np.ndarray
  exit_nll_N: np.ndarray


@dataclasses.dataclass(frozen=True)
class LoadedRun:
  """A trained model and what belongs to it.

  Attributes:
    config: of the run.
    model: a body; `model.grid` knows its readouts, `model.costs_of_windows`
      its prices.
    params: the parameters of the lowest select loss.
    tokenizer: makes tokens of text and text of tokens.
    point: where tokens exit, as the evaluation chose; None = nowhere, or the
      run was not evaluated.
  """

  config: Config
  model: Body
  params: Params
  tokenizer: Tokenizer
  point: OperatingPoint | None

  def score(
    self, texts: Sequence[str], point: OperatingPoint | None = None
  ) -> TokenTable:
    """Every token of some texts, at every readout and where it exits.

    Texts are read in windows of the length that the model was trained on.

    Args:
      texts: at least one, of two tokens or more each.
      point: where tokens exit; None = the run's own point.

    Raises:
      ConfigError: a text has nothing to predict, or the point is none.
    """
    _need_texts(texts, 'score', 'text')
    need(
      point is None or isinstance(point, OperatingPoint),
      f'point={point!r} is {type(point).__name__}; give an OperatingPoint',
    )
    tables = [
      self._score(number, text, point or self.point)
      for number, text in enumerate(texts)
    ]
    return TokenTable(
      *(np.concatenate(column, -1) for column in zip(*tables, strict=True))
    )

  def _score(
    self, number: int, text: str, point: OperatingPoint | None
  ) -> TokenTable:
    bos_id = self.tokenizer.bos_id
    tokens = np.asarray(prompt_tokens(self.tokenizer, text))
    need(
      len(tokens) > 1,
      f'text {number} has {len(tokens)} tokens; the first is never predicted, '
      'so give two or more',
    )
    length = self.config.data.seq_len

    def batches():
      return eval_batches(tokens, length, BATCH_SIZE, bos_id=bos_id)

    names = () if point is None else (point.signal,)
    dump = passes.grid_dump(self.model, self.params, batches, names)
    trace = traces.trace(self.model, self.params, batches, dump, point)
    mask = dump.mask_RxT > 0
    token_N = dump.target_RxT[mask]
    pieces = [self.tokenizer.token_text(int(token)) for token in token_N]
    return TokenTable(
      text_N=np.full(len(token_N), number),
      position_N=np.arange(1, 1 + len(token_N)),
      token_N=token_N,
      piece_N=np.asarray(pieces),
      nll_KxN=dump.nll_KxRxT[:, mask],
      max_prob_KxN=dump.max_prob_KxRxT[:, mask],
      correct_KxN=dump.correct_KxRxT[:, mask],
      exit_N=trace.exit_RxT[mask],
      exit_nll_N=trace.nll_RxT[mask],
    )

  def generate(
    self,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    seed: int = 0,
  ) -> list[str]:
    """Continuations of some prompts, prompts included.

    Tokens exit at the run's own point.

    Args:
      prompts: texts of one token or more.
      max_new_tokens: most tokens that are added.
      temperature: 0 takes the likeliest token.
      seed: of what is drawn.

    Raises:
      ConfigError: a prompt is no text, has no token or fills the context.
    """
    _need_texts(prompts, 'generate', 'prompt')
    options = decode.Options(
      max_new_tokens=max_new_tokens,
      context=self.config.data.seq_len,
      sampling=decode.Sampling(temperature=temperature),
      eos_id=self.tokenizer.eos_id,
      seed=seed,
      prefill=self.config.generate.prefill,
    )
    texts, _ = decode.generate(
      self.model,
      {'params': self.params},
      [prompt_tokens(self.tokenizer, prompt) for prompt in prompts],
      self.point,
      options=options,
    )
    return [self.tokenizer.decode(text.tokens) for text in texts]


def _need_texts(texts: Sequence[object], taker: str, name: str) -> None:
  """Raises ConfigError unless these are texts, one at least."""
  need(
    isinstance(texts, Sequence) and not isinstance(texts, (str, bytes)),
    f'{taker} takes a list of {name}s, not {type(texts).__name__}',
  )
  need(len(texts) > 0, f'no {name}s; give at least one')
  for number, text in enumerate(texts):
    deploy.need_text(text, f'{name} {number}')


def load_run(
  folder: str | pathlib.Path, config: Config | None = None
) -> LoadedRun:
  """A finished run from its directory alone.

  Args:
    folder: the `--workdir` of the run.
    config: of the run; None = its `config.json`, which is enough unless the
      config has a section of a method of your own.

  Raises:
    ConfigError: a file of the run is missing or does not fit.
  """
  folder = workdir.locate(folder)
  if config is None:
    config = workdir.read_config(folder)
  trained = run.load_model(config, folder)
  evaluated = (folder / results_lib.FILE).exists()
  point = run.chosen_point(folder) if evaluated else None
  return LoadedRun(
    config, trained.model, trained.params, trained.tokenizer, point
  )
