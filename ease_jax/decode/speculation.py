"""Texts by self-speculation: the model's own, drafted by its early cells."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from ease_jax.decode import cache as caches
from ease_jax.decode import loop
from ease_jax.decode.adaptive import Way
from ease_jax.decode.drafts import NOTHING, Tally
from ease_jax.decode.options import Options
from ease_jax.decode.rounds import rounds
from ease_jax.model import Body


def speculate(
  model: Body,
  variables: loop.Variables,
  prompts: Sequence[Sequence[int]],
  draft: Way,
  *,
  options: Options,
) -> tuple[list[loop.Generated], Tally]:
  """The full model's tokens, drafted by its own early cells.

  Greedy tokens are those of `generate` without exits; sampled ones have the
  same distribution. Prompts are continued one after another.

  Args:
    model, variables, prompts, options: as in `generate`; prompt tokens go
      through all cells.
    draft: how drafts are made.

  Raises:
    ConfigError: the model cannot draft like this.
  """
  texts = []
  total = NOTHING
  last = model.grid.num_readouts - 1

  for number, prompt in enumerate(prompts):
    new: list[int] = []
    for tokens, tally in stream(
      model, variables, prompt, draft, options=options, number=number
    ):
      new.extend(tokens.tolist())
      total = total.plus(tally)
    tokens = np.asarray([*prompt, *new], np.int32)
    exits = np.full(len(new), last, np.int32)
    texts.append(loop.Generated(tokens, exits))

  return texts, total


def stream(
  model: Body,
  variables: loop.Variables,
  prompt: Sequence[int],
  draft: Way,
  *,
  options: Options,
  number: int = 0,
) -> Iterator[tuple[np.ndarray, Tally]]:
  """New tokens of one prompt, and what they took, as programs end.

  Args:
    model, variables, prompt, draft, options: as in `speculate`.
    number: of the prompt; each has its own random numbers.
  """
  draft.check(model)
  params = variables['params']
  cache, slot = loop.prefilled(model, params, [prompt], None, options)
  position = len(prompt) - 1
  end = loop.end(np.int32(len(prompt)), options)
  key = jax.random.fold_in(jax.random.key(options.seed), number)
  token = prompt[-1]
  room = options.chunk + max(draft.lengths)
  memory = draft.begin(model.grid)
  done = False

  while not done:
    if slot + room > cache.capacity:
      cache = caches.grow(cache, slot + room)
    row = rounds(
      params,
      cache,
      memory,
      np.int32(token),
      np.int32(position),
      np.int32(slot),
      key,
      end,
      loop.eos(options),
      num=options.chunk,
      model=model,
      draft=draft,
      sampling=options.sampling,
    )
    cache = row.cache
    memory = row.memory
    key = row.key
    token, position, slot, done, new_N, count, tally = jax.device_get(
      (
        row.token,
        row.position,
        row.slot,
        row.done,
        row.new_N,
        row.count,
        row.tally,
      )
    )
    yield new_N[:count], jax.tree.map(_plain, tally)


def _plain(x: np.ndarray) -> int | np.ndarray:
  """A count as Python's, which never overflows; an array as it is."""
  return x if x.ndim else int(x)
