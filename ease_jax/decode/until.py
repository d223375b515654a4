"""Continuations that end where certain words come, however many tokens spell
them."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ease_jax.core.policies import OperatingPoint
from ease_jax.data.tokenizers import Tokenizer
from ease_jax.decode import charges, loop
from ease_jax.decode.charges import Bill
from ease_jax.decode.options import Options
from ease_jax.decode.text import Speech, Trained


class Continuation(NamedTuple):
  """New text, and what it took.

  Attributes:
    text: up to the first of the words, which is left out.
    exits: the readout of each token that was written, from 0.
    bill: of these tokens, as `compute_decoder` counts.
  """

  text: str
  exits: tuple[int, ...]
  bill: Bill


def cut(text: str, stops: Sequence[str]) -> str | None:
  """What comes before the first of some words; None where none is there."""
  found = [text.index(stop) for stop in stops if stop and stop in text]
  return text[: min(found)] if found else None


class _Row:
  """A row as it is written."""

  def __init__(
    self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Sequence[str]
  ):
    self.before = len(prompt) - 1  # its last token is decoded
    self.exits: list[int] = []
    self.passed: list[np.ndarray] = []
    self.done = False
    self.text = ''
    self._eos_id = tokenizer.eos_id
    self._speech = Speech(tokenizer, prompt)
    self._stops = stops

  def hear(self, token: int) -> None:
    """One more token; eos is no text."""
    if token == self._eos_id:
      self.end()
    else:
      self._add(self._speech.say(token))

  def end(self) -> None:
    """No token comes any more."""
    if not self.done:
      self._add(self._speech.rest())
      self.done = True

  def _add(self, text: str) -> None:
    self.text += text
    short = cut(self.text, self._stops)
    if short is not None:
      self.text = short
      self.done = True


def continue_until(
  trained: Trained,
  prompts: Sequence[Sequence[int]],
  stops: Sequence[str],
  point: OperatingPoint | None,
  options: Options,
  batch_size: int = 8,
) -> list[Continuation]:
  """Continues prompts of like lengths together; the answers are in order.

  Args:
    trained: the model.
    prompts: token ids.
    stops: words that end a text; so do eos, the most tokens, the context.
    point: where tokens exit; None = nowhere.
    options: how to generate.
    batch_size: B, rows that are decoded at a time.

  Raises:
    ConfigError: a prompt is empty or fills the context.
  """
  order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
  found: dict[int, Continuation] = {}

  for first in range(0, len(order), batch_size):
    places = order[first : first + batch_size]
    some = [prompts[i] for i in places]
    # As many rows as in every batch: that is one program.
    some += some[-1:] * (batch_size - len(some))
    # Another seed for each batch, as the same prompt may come again.
    seed = (options.seed + first) % 2**32
    seeded = dataclasses.replace(options, seed=seed)
    texts = _together(trained, some, stops, point, seeded)
    found |= dict(zip(places, texts))

  return [found[i] for i in range(len(prompts))]


def _together(
  trained: Trained,
  prompts: Sequence[Sequence[int]],
  stops: Sequence[str],
  point: OperatingPoint | None,
  options: Options,
) -> list[Continuation]:
  """Continues prompts as rows of one batch."""
  model = trained.model
  rows = [_Row(trained.tokenizer, prompt, stops) for prompt in prompts]
  steps = loop.stream(
    model, {'params': trained.params}, prompts, point, options=options
  )
  for step in steps:
    for b, row in enumerate(rows):
      if row.done or not step.live_B[b]:
        continue
      row.exits.append(int(step.exit_B[b]))
      if step.passed_BxL is not None:
        row.passed.append(np.asarray(step.passed_BxL[b]))
      row.hear(int(step.token_B[b]))
    if all(row.done for row in rows):
      break  # the loop computes no further

  return [_continuation(trained, row, point) for row in rows]


def _continuation(
  trained: Trained, row: _Row, point: OperatingPoint | None
) -> Continuation:
  row.end()
  bill = charges.written(
    trained.model,
    point,
    np.asarray(row.exits),
    np.asarray(row.passed) if row.passed else None,
    row.before,
  )
  return Continuation(row.text, tuple(row.exits), bill)
