"""How texts are generated, as a frozen spec of the config's `generate`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ease_jax.checks import need, one_of
from ease_jax.decode.drafts import Draft
from ease_jax.decode.sampling import Sampling

PREFILLS = ('exits', 'full')
METHODS = ('exits', 'full', 'speculative')


@dataclasses.dataclass(frozen=True)
class Options:
  """How to generate.

  Attributes:
    max_new_tokens: a row stops earlier at `eos_id` or where its context ends.
    context: most positions the model was trained on (C).
    sampling: how tokens are drawn.
    eos_id: token that ends a text, or None.
    seed: of the sampling.
    prefill: what prompt tokens do: exits, they stop by the same rule as
      generated ones, as the exit-consistent evaluation has it; full, they go
      through all cells.
    chunk: steps per program. Fewer come sooner; more cost less, as a call
      takes about as long as a token of a small model.
  """

  max_new_tokens: int
  context: int
  sampling: Sampling = Sampling()
  eos_id: int | None = None
  seed: int = 0
  prefill: str = 'exits'
  chunk: int = 32

  def __post_init__(self):
    need(
      self.prefill in PREFILLS,
      f'generate.prefill={self.prefill!r} is unknown; use one of {PREFILLS}',
    )
    need(
      self.max_new_tokens >= 1,
      f'generate.max_new_tokens={self.max_new_tokens} must be at least 1',
    )
    need(self.chunk >= 1, f'chunk={self.chunk} must be at least 1')


@dataclasses.dataclass(frozen=True)
class GenerateSpec:
  """What the section `generate` says besides `Options`.

  Attributes:
    method: exits, full (none), or speculative (none, with drafts).
    draft: how drafts are made; None = the fastest way.
    max_new_tokens: most tokens of a continuation.
    sampling: how tokens are drawn.
    seed: of what is drawn.
    prefill: what prompt tokens do.
  """

  method: str
  draft: Draft | None
  max_new_tokens: int
  sampling: Sampling
  seed: int
  prefill: str

  def __post_init__(self):
    one_of('generate.method', self.method, METHODS)
    _ = self.options(context=1, eos_id=None)  # checks the rest

  @classmethod
  def from_config(cls, section: Mapping[str, Any]) -> 'GenerateSpec':
    """The spec of a config's section `generate`.

    Raises:
      ConfigError: a field has a value that cannot be used.
    """
    draft = tuple(section['draft'])
    need(
      len(draft) in (0, 3),
      f'generate.draft={draft} has {len(draft)} values; give readout, length '
      'and threshold, or () for the fastest',
    )
    sampling = Sampling(
      section['temperature'], section['top_k'], section['top_p']
    )
    return cls(
      method=section['method'],
      draft=Draft(*draft) if draft else None,
      max_new_tokens=section['max_new_tokens'],
      sampling=sampling,
      seed=section['seed'],
      prefill=section['prefill'],
    )

  def options(self, *, context: int, eos_id: int | None) -> Options:
    """How to generate.

    Args:
      context: positions that the model was trained on.
      eos_id: of the tokenizer.
    """
    return Options(
      max_new_tokens=self.max_new_tokens,
      context=context,
      sampling=self.sampling,
      eos_id=eos_id,
      seed=self.seed,
      prefill=self.prefill,
    )
