"""Generated tokens as text for a terminal, piece by piece."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ease_jax.core.policies import OperatingPoint
from ease_jax.data.tokenizers import Tokenizer, prompt_tokens
from ease_jax.decode import charges, loop, speculation
from ease_jax.decode.adaptive import Way
from ease_jax.decode.drafts import NOTHING, Tally
from ease_jax.decode.options import Options
from ease_jax.model import Body, Params

LIGHTEST = 255  # of the greys among 256 colours
DARKEST = 243
BLACK = 16
WHITE = 231
PALE = 247  # from here up black is easier to read


class Trained(NamedTuple):
  """A trained model and what makes text of its tokens."""

  model: Body
  params: Params
  tokenizer: Tokenizer


def shaded(text: str, depth: float, color: bool) -> str:
  """Text on a background that darkens with depth.

  Args:
    text: what is written.
    depth: from 0 to 1.
    color: False leaves the text as it is.
  """
  if not color:
    return text
  shade = LIGHTEST - round(depth * (LIGHTEST - DARKEST))
  ink = BLACK if shade > PALE else WHITE
  return f'\x1b[48;5;{shade}m\x1b[38;5;{ink}m{text}\x1b[0m'


class Speech:
  """Text of tokens as they come; a character may be made of several.

  Args:
    tokenizer: of the tokens.
    before: tokens of the text that they continue.
  """

  def __init__(self, tokenizer: Tokenizer, before: Sequence[int]):
    self._tokenizer = tokenizer
    self._said = list(before[-1:])  # the newest of all that was
    self._waiting: list[int] = []

  def say(self, token: int) -> str:
    """What can be written now that there is one more token."""
    if token == self._tokenizer.eos_id:
      return self.rest() + self._tokenizer.token_text(token)

    self._waiting.append(token)
    text = self._new()
    if text.endswith('\ufffd'):  # half a character, or none at all
      return ''
    self._said = self._waiting
    self._waiting = []
    return text

  def rest(self) -> str:
    """What is left, whole or not."""
    text = self._new()
    self._waiting = []
    return text

  def _new(self) -> str:
    """The text of what waits; some tokenizers drop the space before it all."""
    whole = self._tokenizer.decode([*self._said, *self._waiting])
    return whole[len(self._tokenizer.decode(self._said)) :]


def exit_text(
  trained: Trained,
  prompt: str,
  point: OperatingPoint | None,
  options: Options,
  *,
  color: bool,
  say: Callable[[str], None],
) -> Iterator[str]:
  """A continuation, each token shaded by the depth it took.

  Args:
    trained: the model.
    prompt: what is continued; it comes first.
    point: where tokens exit; None = nowhere.
    options: how to generate.
    color: whether to shade.
    say: hears what it took, in the end.
  """
  model = trained.model
  tokenizer = trained.tokenizer
  depth_K = np.asarray(model.grid.depth_K)
  depth = model.grid.depth
  exits = []
  passed = []
  layers_run = 0

  tokens = prompt_tokens(tokenizer, prompt)
  speech = Speech(tokenizer, tokens)
  steps = loop.stream(
    model,
    {'params': trained.params},
    [tokens],
    point,
    options=options,
  )
  for number, step in enumerate(steps):
    if number == 0:  # not before the prompt turned out to be one
      yield prompt
    answered_by = int(step.exit_B[0])
    text = speech.say(int(step.token_B[0]))
    yield shaded(text, depth_K[answered_by] / depth, color)
    exits.append(answered_by)
    layers_run += int(step.layers_run)
    if step.passed_BxL is not None:
      passed.append(step.passed_BxL[0])

  yield speech.rest() + '\n'
  # The last token of the prompt is the first to be decoded.
  compute = charges.compute_decoder(
    model,
    point,
    np.asarray([exits]),
    np.asarray([passed]) if passed else None,
    before=len(tokens) - 1,
  )
  how = 'no exits'
  if point is not None:
    how = f'{point.signal}, {point.policy}'
  say(
    f'[{len(exits)} tokens, exits after layer {depth_K[exits].mean():.2f} '
    f'of {depth} on average ({layers_run / len(exits):.2f} run), '
    f'compute_decoder {compute:.1%} of a full pass, {how}'
    f'{_end(len(tokens) + len(exits), options)}]'
  )


def _end(num: int, options: Options) -> str:
  """Whether a text of so many tokens could have gone on."""
  if num < options.context:
    return ''
  return f'; the context of {options.context} tokens (data.seq_len) is full'


def speculative_text(
  trained: Trained,
  prompt: str,
  draft: Way,
  options: Options,
  *,
  say: Callable[[str], None],
) -> Iterator[str]:
  """The full model's continuation in blocks of drafts.

  Args:
    trained: the model.
    prompt: what is continued; it comes first.
    draft: how drafts are made.
    options: how to generate.
    say: hears what it took, in the end.
  """
  model = trained.model
  tokenizer = trained.tokenizer
  total = NOTHING
  num = 0

  before = prompt_tokens(tokenizer, prompt)
  speech = Speech(tokenizer, before)
  blocks = speculation.stream(
    model,
    {'params': trained.params},
    before,
    draft,
    options=options,
  )
  for tokens, tally in blocks:
    if num == 0:
      yield prompt
    yield ''.join(speech.say(int(token)) for token in tokens)
    total = total.plus(tally)
    num += len(tokens)

  yield speech.rest() + '\n'
  say(
    f'[{num} tokens of the full model, {total.accepted} of {total.drafted} '
    f'drafts accepted, drafted after {_drafters(model, draft, total)}; '
    f'{total.layers_run / num:.2f} of {model.grid.depth} layers run for a token'
    f'{_end(len(before) + num, options)}]'
  )


def _drafters(model: Body, draft: Way, tally: Tally) -> str:
  """The readouts that drafted, with their rounds where there is a choice."""
  readouts = draft.readouts(model.grid)
  rounds_C = np.asarray(tally.chosen_CxN).sum(1)
  words = []

  for k, rounds in zip(readouts, rounds_C, strict=True):
    segment, layer = model.grid.names_K[k]
    place = f'layer {layer}'
    if model.grid.segments > 1:
      place = f'segment {segment} {place}'
    if len(readouts) > 1:
      place += ' (1 round)' if rounds == 1 else f' ({rounds} rounds)'
    if rounds:
      words.append(place)

  return ', '.join(words)
