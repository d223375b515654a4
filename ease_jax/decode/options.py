"""How texts are generated, as a frozen spec of the config's `generate`."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from ease_jax.checks import (
  Count,
  OneOf,
  ReadIf,
  Seed,
  check_fields,
  check_value,
  need,
  plain,
)
from ease_jax.decode.adaptive import Adaptive, Way
from ease_jax.decode.drafts import Draft, check_model
from ease_jax.decode.sampling import Sampling
from ease_jax.model import Body

PREFILLS = ('exits', 'full')
SPECULATIVE = 'speculative'
METHODS = ('exits', 'full', SPECULATIVE)
FIXED = 'fixed'
ADAPTIVE = 'adaptive'
# How drafts are made -> what reads the section of that name, if there is one.
DRAFTINGS: dict[str, type | None] = {FIXED: None, ADAPTIVE: Adaptive}


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

  max_new_tokens: Count
  context: Count
  sampling: Sampling = Sampling()
  eos_id: int | None = None
  seed: Seed = 0
  prefill: Annotated[str, OneOf(PREFILLS)] = 'exits'
  chunk: Count = 32

  def __post_init__(self):
    check_fields('generate', self)


@dataclasses.dataclass(frozen=True)
class GenerateSpec:
  """What the section `generate` says besides `Options`.

  Attributes:
    method: exits, full (none), or speculative (none, with drafts).
    drafting: fixed, one readout drafts as `draft` says; or adaptive.
    draft: how drafts are made; None = the fastest fixed way.
    max_new_tokens: most tokens of a continuation.
    sampling: how tokens are drawn.
    seed: of what is drawn.
    prefill: what prompt tokens do.
  """

  method: Annotated[str, OneOf(METHODS)]
  drafting: Annotated[str, OneOf(DRAFTINGS), ReadIf('method', (SPECULATIVE,))]
  draft: Annotated[
    Way | None,
    ReadIf('method', (SPECULATIVE,)),
    ReadIf('drafting', (FIXED,)),
  ]
  max_new_tokens: Count
  sampling: Sampling
  seed: Annotated[Seed, ReadIf('temperature')]
  prefill: Annotated[str, OneOf(PREFILLS), ReadIf('method', ('exits',))]

  def __post_init__(self):
    check_fields('generate', self)

  @classmethod
  def from_config(cls, section: Mapping[str, Any]) -> 'GenerateSpec':
    """The spec of a config's section `generate`.

    Raises:
      ConfigError: a field has a value that cannot be used.
    """
    fields = plain(section)
    draft = fields.pop('draft')
    check_value('generate.draft', draft, tuple[float, ...])
    need(
      len(draft) in (0, 3),
      f'generate.draft={draft} has {len(draft)} values; give readout, length '
      'and threshold, or () for the fastest',
    )
    names = [field.name for field in dataclasses.fields(Sampling)]
    sampling = Sampling(**{name: fields.pop(name) for name in names})
    way: Way | None = Draft(*draft) if draft else None
    adaptive = Adaptive(**fields.pop(ADAPTIVE))
    if fields['drafting'] == ADAPTIVE:
      way = adaptive
    return cls(draft=way, sampling=sampling, **fields)

  def check(self, model: Body) -> None:
    """Raises ConfigError if a model cannot draft as this says."""
    if self.method != SPECULATIVE:
      return
    if self.draft is None:
      check_model(model)
    else:
      self.draft.check(model)

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
