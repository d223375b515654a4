"""What a study is: variants, seeds, and who is held against whom."""

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from ease_jax.checks import (
  ConfigError,
  Different,
  Filled,
  Seed,
  check_fields,
  check_value,
  need,
)
from ease_jax.evaluate.results import Results
from ease_jax.evaluate.windows import Windows
from ease_jax.fields import flat

Config = Any  # a ConfigDict, whose attributes no type checker can know


class Evaluated(NamedTuple):
  """What a run of a study has left behind."""

  results: Results
  windows: Windows


Runs = Mapping[int, Evaluated]  # by seed


@dataclasses.dataclass(frozen=True)
class Study:
  """What to run and what to hold against each other.

  Attributes:
    title: of the page.
    question: what it settles, a sentence or two.
    variants: name -> config.
    seeds: each drives initialisation and data order of one run per variant.
    pairs: (variant, baseline), tested over the seeds.
    frontier: variants without exits whose perplexity against compute is what
      exits have to beat; empty = no curves.
    recoveries: (variant that repeats layers, one with these layers once, one
      with layers of its own for all), of which is asked how much of the own
      layers' gain the repeats bring.
    depths: (variant, another one for each of its runs from the first, trained
      for that number), which are held against each other run by run.
    signals: variants of which is asked what each of their signals needs, beside
      `max_prob` and those who know all losses.
    starts: (variant, another one that its runs start from): the run of the
      same seed is made first, and `train.init_from` names it.

  Raises:
    ConfigError: a field is of another kind, seeds repeat, a variant is named
      that there is none of, has a name that no table can hold, or would share
      a folder with another one.
  """

  title: str
  question: str
  variants: dict[str, Config]
  seeds: Annotated[tuple[Seed, ...], Different()]
  pairs: Annotated[tuple[tuple[str, str], ...], Different()]
  frontier: Annotated[tuple[str, ...], Different()] = ()
  recoveries: Annotated[tuple[tuple[str, str, str], ...], Different()] = ()
  depths: Annotated[tuple[tuple[str, tuple[str, ...]], ...], Different()] = ()
  signals: Annotated[tuple[str, ...], Different()] = ()
  starts: Annotated[tuple[tuple[str, str], ...], Different()] = ()

  def __post_init__(self):
    need(
      isinstance(self.variants, dict) and len(self.variants) > 0,
      f'study.variants={self.variants!r} must be a dict of names and configs',
    )
    check_fields('study', self)
    need(len(self.seeds) > 0, 'study.seeds=() names no seed')
    for name in self.variants:
      _check_name(name)

    folders = collections.Counter(folder_of(name) for name in self.variants)
    for folder, number in folders.items():
      if number > 1 or not folder:
        names = [n for n in self.variants if folder_of(n) == folder]
        raise ConfigError(
          f'variants {", ".join(map(repr, names))} would run in the folder '
          f'{folder!r}; rename one'
        )

    for name, baseline in self.pairs:
      need(
        name != baseline,
        f'study.pairs holds {name!r} against itself; name another baseline',
      )

    named = [*self.frontier, *self.signals]
    for together in (*self.pairs, *self.recoveries, *self.starts):
      named += together
    for variant, twins in self.depths:
      named += [variant, *twins]
    for name in named:
      if name not in self.variants:
        raise ConfigError(
          f'the study names {name!r}, which is none of its variants: '
          f'{", ".join(self.variants)}'
        )

    self._check_starts()

  def _check_starts(self):
    sources = dict(self.starts)
    need(
      len(sources) == len(self.starts),
      'study.starts names a variant twice; each starts from one other',
    )
    for variant, source in sources.items():
      need(
        source not in sources,
        f'study.starts has {variant!r} start from {source!r}, which starts '
        'from another one itself; name one that does not',
      )


def _check_name(name: object) -> None:
  """One line of a table; what is markup there is shown as it is."""
  check_value('study.variants: name', name, Annotated[str, Filled()])
  assert isinstance(name, str)
  need(
    name.isprintable(),
    f'study variant {name!r} has a character that cannot be printed; rename it',
  )


def folder_of(variant: str) -> str:
  """The name of the folder that a variant runs in."""
  return re.sub(r'\W+', '_', variant).strip('_')


def changes(variants: Mapping[str, Config]) -> dict[str, tuple[str, ...]]:
  """What sets each variant apart from the first, as `field=value`."""
  flat_of = {name: flat(config) for name, config in variants.items()}
  first = next(iter(flat_of.values()))
  return {
    name: tuple(
      f'{field}={value}'
      for field, value in flat.items()
      if field not in first or first[field] != value
    )
    for name, flat in flat_of.items()
  }
