"""Log-likelihoods of continuations, through the exits and without them.

All tokens of a request are read and may exit, those of its context as well,
since that is what a decoder would do; what follows the context is scored.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from ease_jax.checks import need
from ease_jax.core.policies import OperatingPoint
from ease_jax.data.tokenizers import Tokenizer, last_tokens
from ease_jax.decode import heads
from ease_jax.decode.charges import Bill
from ease_jax.evaluate import compute, passes, traces
from ease_jax.evaluate.passes import Batch
from ease_jax.evaluate.traces import Trace
from ease_jax.model import Body, Params

NARROWEST = 32  # tokens of a row; wider ones are twice as wide, and so on


class Request(NamedTuple):
  """Tokens, of which those behind the first `seen` are scored.

  Attributes:
    tokens: at most one more than a window has, since the last is never read.
    seen: how many are context, at least one.
  """

  tokens: tuple[int, ...]
  seen: int


class Likelihood(NamedTuple):
  """What a model says of a request.

  Attributes:
    value: log p(continuation | context), nats.
    is_greedy: whether each of its tokens is the likeliest one.
    bill: of all tokens that were read, as `compute` counts.
  """

  value: float
  is_greedy: bool
  bill: Bill


def request(
  tokenizer: Tokenizer,
  context: Sequence[int],
  continuation: Sequence[int],
  length: int,
) -> Request:
  """A request whose context loses its beginning where a window is too short.

  Args:
    tokenizer: of the model.
    context: tokens; none = whatever texts begin with.
    continuation: tokens that are scored.
    length: T, tokens of a window.

  Raises:
    ConfigError: there is nothing to score, or no window holds it.
  """
  need(len(continuation) > 0, 'a continuation has no tokens to score')
  need(
    len(continuation) <= length,
    f'a continuation has {len(continuation)} tokens, and the model was trained '
    f'on windows of data.seq_len={length}; use a run with longer ones',
  )
  whole = [*(context or [first_id(tokenizer)]), *continuation]
  tokens = last_tokens(tokenizer, whole, length + 1)
  return Request(tuple(tokens), len(tokens) - len(continuation))


def first_id(tokenizer: Tokenizer) -> int:
  """The token behind which a text begins: its own, or the end of another."""
  bos_id = tokenizer.bos_id
  return tokenizer.eos_id if bos_id is None else bos_id


def widths(length: int) -> list[int]:
  """Widths of rows, each a program that is compiled; the last is a window."""
  found = [NARROWEST]
  while found[-1] < length:
    found.append(2 * found[-1])
  return [*found[:-1], length]


class Scorer:
  """Answers requests at several settings of the exits, each request once.

  Args:
    model: a body.
    params: its parameters.
    points: where tokens exit; None = nowhere.
    length: T, tokens of a window.
    batch_size: B, rows that are scored at a time.

  Raises:
    ConfigError: a token of this model sees later ones.
  """

  def __init__(
    self,
    model: Body,
    params: Params,
    points: Sequence[OperatingPoint | None],
    length: int,
    batch_size: int = 8,
  ):
    for point in points:
      heads.check(model, None if point is None else point.rule)
    self._model = model
    self._params = params
    self.points = tuple(points)
    self._widths = widths(length)
    self._batch_size = batch_size
    self._known: dict[Request, tuple[Likelihood, ...]] = {}

  def answer(self, requests: Iterable[Request]) -> list[tuple[Likelihood, ...]]:
    """One likelihood for each point of each request, in their order."""
    requests = list(requests)
    new = dict.fromkeys(r for r in requests if r not in self._known)
    of_width: dict[int, list[Request]] = {width: [] for width in self._widths}
    for one in new:
      of_width[self._width(one)].append(one)

    for width, some in of_width.items():
      for first in range(0, len(some), self._batch_size):
        self._score(some[first : first + self._batch_size], width)

    return [self._known[one] for one in requests]

  def _width(self, one: Request) -> int:
    read = len(one.tokens) - 1
    return next(width for width in self._widths if read <= width)

  def _score(self, requests: Sequence[Request], width: int) -> None:
    """Answers one batch."""
    batch = _stacked(requests, width, self._batch_size)
    points = self.points
    names = dict.fromkeys(point.signal for point in points if point is not None)

    def batches() -> list[Batch]:
      return [batch]

    dump = passes.grid_dump(self._model, self._params, batches, tuple(names))
    traced = [
      traces.trace(self._model, self._params, batches, dump, point)
      for point in points
    ]
    for row, one in enumerate(requests):
      self._known[one] = tuple(
        _likelihood(self._model, point, trace, row, one)
        for point, trace in zip(points, traced, strict=True)
      )


def _stacked(
  requests: Sequence[Request], width: int, batch_size: int
) -> Mapping[str, np.ndarray]:
  """A batch of rows, padded on their right and below."""
  shape = batch_size, width
  token_BxT = np.zeros(shape, np.int32)
  target_BxT = np.zeros(shape, np.int32)
  mask_BxT = np.zeros(shape, np.float32)

  for b, one in enumerate(requests):
    read = len(one.tokens) - 1
    token_BxT[b, :read] = one.tokens[:-1]
    target_BxT[b, :read] = one.tokens[1:]
    mask_BxT[b, :read] = 1
  return {'tokens': token_BxT, 'targets': target_BxT, 'mask': mask_BxT}


def _likelihood(
  model: Body,
  point: OperatingPoint | None,
  trace: Trace,
  row: int,
  one: Request,
) -> Likelihood:
  read = len(one.tokens) - 1
  trace = _row_of(trace, row, read)
  scored = slice(one.seen - 1, read)
  nll_N = trace.nll_RxT[0, scored]

  # At the row's own length, whatever it was padded to.
  mask_1xT = np.ones((1, read), np.float32)
  spent = compute.flops(model, point, trace, mask_1xT).total_RxT
  full = read * model.costs_of_windows(read).full
  return Likelihood(
    value=-float(nll_N.sum(dtype=np.float64)),
    is_greedy=bool(trace.correct_RxT[0, scored].all()),
    bill=Bill(read, float(spent.sum()), full),
  )


def _row_of(trace: Trace, row: int, read: int) -> Trace:
  """The first tokens of one row; its axes are the last two."""

  def cut(x: np.ndarray) -> np.ndarray:
    return x[..., row : row + 1, :read]

  return jax.tree.map(cut, trace)
