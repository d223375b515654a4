"""What a study is: variants, seeds, and who is held against whom."""

import collections
import dataclasses
import re
from typing import Any

from ease_jax.checks import ConfigError

Config = Any  # a ConfigDict, whose attributes no type checker can know


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

  Raises:
    ConfigError: seeds repeat, a variant is named that there is none of, or two
      variants would share a folder.
  """

  title: str
  question: str
  variants: dict[str, Config]
  seeds: tuple[int, ...]
  pairs: tuple[tuple[str, str], ...]
  frontier: tuple[str, ...] = ()

  def __post_init__(self):
    if not self.seeds or len(set(self.seeds)) != len(self.seeds):
      raise ConfigError(
        f'seeds={self.seeds} must be different ones, at least one'
      )

    folders = collections.Counter(folder_of(name) for name in self.variants)
    for folder, number in folders.items():
      if number > 1 or not folder:
        names = [n for n in self.variants if folder_of(n) == folder]
        raise ConfigError(
          f'variants {", ".join(map(repr, names))} would run in the folder '
          f'{folder!r}; rename one'
        )

    named = [*self.frontier]
    for pair in self.pairs:
      named += pair
    for name in named:
      if name not in self.variants:
        raise ConfigError(
          f'the study names {name!r}, which is none of its variants: '
          f'{", ".join(self.variants)}'
        )


def folder_of(variant: str) -> str:
  """The name of the folder that a variant runs in."""
  return re.sub(r'\W+', '_', variant).strip('_')
