"""What a run shows in one line; "no saving" is an allowed result."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ease_jax.evaluate.results import (
  REPORT,
  ChosenSide,
  ReadoutRow,
  Results,
)
from ease_jax.report import drawing, html, words

# A run of less than this says that the code runs, and nothing about exits.
MIN_UPDATES = 200
MIN_SCORED = 10_000  # tokens of the split that reports


@dataclasses.dataclass(frozen=True)
class Headline:
  """What the run shows in one line, and the sentences below it."""

  title: str
  lead: str


def headline(results: Results) -> Headline:
  """Of a run's page; a smoke run is called one before anything else."""
  found = _found(results)
  if not smoke(results):
    return found
  first = found.title[0].lower()
  rest = found.title[1:]
  return Headline(f'Smoke run: {first}{rest}', found.lead)


def smoke(results: Results) -> str:
  """Why a run is too small to say anything; empty where it is not."""
  reasons = []
  updates = results.train.updates
  if updates < MIN_UPDATES and not results.train.imported:
    reasons.append(
      f'{html.number(updates)} updates of the parameters (fewer than '
      f'{MIN_UPDATES})'
    )
  tokens = results.chosen.report.tokens
  if tokens < MIN_SCORED:
    reasons.append(
      f'{html.number(tokens)} tokens scored (fewer than '
      f'{html.number(MIN_SCORED)})'
    )
  return ' and '.join(reasons)


def _found(results: Results) -> Headline:
  chosen = results.chosen
  side = chosen.report
  if not chosen.exits and chosen.guarantee is not None:
    promise, outcome = chosen.promise
    return Headline('No saving', f'Asked for: {promise}. Result: {outcome}.')
  if not chosen.exits:
    return Headline(
      'No saving',
      'No setting of the exits kept the asked-for quality for less than full '
      f'compute on the {chosen.select_split} split: every token goes through '
      'all layers.',
    )
  if not _saves(side):
    return Headline(
      'No saving',
      f'The setting chosen on the {chosen.select_split} split costs '
      f'{_compute(side)} of full compute on the {chosen.report_split} split.',
    )
  better = as_good(results)
  if better is not None:
    name = drawing.cell_name(better, results.model.segments)
    return Headline(
      'No saving over a static exit',
      f'The chosen exits cost {_compute(side)} of full compute at perplexity '
      f'{html.perplexity(side.quality.ppl)} ({chosen.report_split} split). A '
      f'model that is cut off after {name} costs '
      f'{html.percent(better.compute_static)} and has '
      f'{html.perplexity(better.report.ppl)}: no worse, for no more.',
    )
  intervals = side.intervals
  interval = intervals.ppl_vs_full if intervals else None
  return Headline(
    f'{html.percent(1 - side.cost.compute)} less compute, {_quality(side)}',
    f'Compute is {_compute(side)} of full depth, perplexity '
    f'{words.change(side.ppl_vs_full, interval)}; in brackets 95 % intervals '
    'over windows of text, of this one trained model. Every token stops at '
    f'the first of {len(results.readouts)} readouts that is sure enough. The '
    f'thresholds were chosen on the {chosen.select_split} split; the numbers '
    f'here are from the {chosen.report_split} split.{_routed(results)}',
  )


def _routed(results: Results) -> str:
  """What routers spare without any exit, where there are routers."""
  if not results.routers:
    return ''
  without = results.off(REPORT).cost.compute
  return (
    f' Routers alone leave {html.percent(without)} of full depth, where no '
    'token stops early: what is spared beyond that, exits spare.'
  )


def as_good(results: Results) -> ReadoutRow | None:
  """The cheapest static exit that is no worse than the chosen point.

  None where every one that costs no more has a higher perplexity.
  """
  side = results.chosen.report
  rows = [
    row
    for row in results.readouts[:-1]
    if row.compute_static <= side.cost.compute
    and row.report.ppl <= side.quality.ppl
  ]
  return min(rows, key=lambda row: row.compute_static, default=None)


def _saves(side: ChosenSide) -> bool:
  """Whether compute is less than full, beyond display and windows."""
  intervals = side.intervals
  certain = intervals is None or intervals.compute.high < 1
  return certain and 1 - side.cost.compute >= words.SAME


def _compute(side: ChosenSide) -> str:
  intervals = side.intervals
  return words.within(
    side.cost.compute, intervals.compute if intervals else None
  )


def _quality(side: ChosenSide) -> str:
  intervals = side.intervals
  interval = intervals.ppl_vs_full if intervals else None
  direction = words.direction(side.ppl_vs_full, interval)
  if direction in ('higher', 'lower'):
    percent = html.percent(abs(side.ppl_vs_full - 1))
    return f'{percent} {direction} perplexity'
  return f'perplexity {direction}'


def last_fall(metrics: Sequence[dict[str, Any]], split: str) -> str:
  """How much the loss of a split fell between its last two evaluations."""
  loss_of = {
    event['step']: event['loss']
    for event in metrics
    if event.get('split') == split and 'loss' in event
  }
  if len(loss_of) < 2:
    return ''
  (step, before), (last, now) = sorted(loss_of.items())[-2:]
  share = 1 - now / before
  word = 'fell' if share >= 0 else 'rose'
  return (
    f'The {split} loss {word} by {html.percent(abs(share))} between its last '
    f'two evaluations, after {html.number(step)} and {html.number(last)} steps.'
  )
