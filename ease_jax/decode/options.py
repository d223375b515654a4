"""How texts are generated, as a frozen spec of the config's `generate`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ease_jax.checks import need
from ease_jax.decode.sampling import Sampling

PREFILLS = ('exits', 'full')


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

  @classmethod
  def from_config(
    cls, section: Mapping[str, Any], *, context: int, eos_id: int | None
  ) -> 'Options':
    """What the section `generate` of a config says.

    Args:
      section: the section.
      context: positions that the model was trained on.
      eos_id: of the tokenizer.
    """
    return cls(
      max_new_tokens=section['max_new_tokens'],
      context=context,
      sampling=Sampling(
        section['temperature'], section['top_k'], section['top_p']
      ),
      eos_id=eos_id,
      seed=section['seed'],
      prefill=section['prefill'],
    )
