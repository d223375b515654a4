"""Scores of lm-evaluation-harness, with what they cost beside each.

The harness is not needed here: what it returns are dictionaries.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ease_jax.decode.charges import Bill
from ease_jax.evaluate.records import Record
from ease_jax.evaluate.settings import Point

# How tokens are counted (docs/compute.md): all that are read, or written ones.
READ = 'compute'
WRITTEN = 'compute_decoder'
Bills = Mapping[str, Mapping[str, Bill]]  # of each task, by how it is counted

HEADS = (
  'task',
  'metric',
  'full depth',
  'compute',
  'with exits',
  'compute',
  'counted as',
)


@dataclasses.dataclass(frozen=True)
class Found:
  """What an evaluation came to at one setting of the exits.

  Attributes:
    harness: what `simple_evaluate` returned.
    bills: of its tasks.
  """

  harness: Mapping[str, Any]
  bills: Bills


@dataclasses.dataclass(frozen=True)
class Score(Record):
  """A metric at one setting of the exits.

  Attributes:
    value: of the metric; None where it is no finite number.
    stderr: over documents, as the harness has it; None where it has none.
    compute: FLOPs relative to the full pass of the same tokens.
    tokens: that were charged.
  """

  value: float | None
  stderr: float | None
  compute: float
  tokens: int

  def __str__(self) -> str:
    if self.value is None:
      return 'none'
    words = f'{self.value:.4f}'
    return words if self.stderr is None else f'{words} ({self.stderr:.4f})'


@dataclasses.dataclass(frozen=True)
class ScoreRow(Record):
  """A metric of a task or a group of them.

  Attributes:
    task: its name.
    metric: its name.
    filter: what the harness did to the answers first.
    higher_is_better: whether it is; None where the task does not say.
    version: of the task; None where it has none.
    shots: examples before each question.
    documents: that were asked; None of a group.
    counted: how compute is, `compute` or `compute_decoder`.
    full: with exits off.
    chosen: at the run's operating point; None where it has none.
  """

  task: str
  metric: str
  filter: str
  higher_is_better: bool | None
  version: str | None
  shots: int | None
  documents: int | None
  counted: str
  full: Score
  chosen: Score | None

  @property
  def cells(self) -> tuple[str, ...]:
    """For a terminal; without an operating point two of them are empty."""
    metric = self.metric
    if self.filter != 'none':
      metric += f', {self.filter}'
    scores = [self.full] if self.chosen is None else [self.full, self.chosen]
    cells = [self.task, metric]
    for score in scores:
      cells += [str(score), f'{score.compute:.1%}']
    cells += [''] * (len(HEADS) - 1 - len(cells))
    return (*cells, self.counted)


@dataclasses.dataclass(frozen=True)
class TaskScores(Record):
  """All of the JSON file.

  Attributes:
    run: directory of the run, as it was given.
    ease_jax: version of this package.
    lm_eval: version of the harness.
    limit: documents of each task; None = all.
    point: the run's operating point; None = it chose no exits.
    rows: metrics, in the harness's order.
  """

  run: str
  ease_jax: str
  lm_eval: str
  limit: int | None
  point: Point
  rows: tuple[ScoreRow, ...]

  def __str__(self) -> str:
    """A table for a terminal, and what its columns are."""
    return '\n'.join(
      [*_aligned([HEADS, *(r.cells for r in self.rows)]), self._legend()]
    )

  def _legend(self) -> str:
    exits = 'the run chose no exits'
    if self.point is not None:
      exits = f'exits: {self.point.signal}, {self.point.policy}'
    return (
      f'[{exits}; in brackets the standard error over documents; '
      'docs/compute.md says how compute is counted]'
    )


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
  """Lines whose cells stand below each other; numbers end together."""
  width_C = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    cells = [
      cell.rjust(width) if 2 <= c < len(HEADS) - 1 else cell.ljust(width)
      for c, (cell, width) in enumerate(zip(row, width_C, strict=True))
    ]
    yield '  '.join(cells).rstrip()


def rows(full: Found, chosen: Found | None = None) -> tuple[ScoreRow, ...]:
  """One row for each metric of each task and group.

  Args:
    full: with exits off.
    chosen: at the run's operating point; None where it has none.
  """
  found = []
  for task, metrics in _of_tasks(full):
    for key in metrics:
      metric, comma, kind = key.partition(',')
      if not comma or metric.endswith('_stderr'):
        continue
      found.append(_row(task, metric, kind, full, chosen))
  return tuple(found)


def _of_tasks(found: Found) -> Iterator[tuple[str, Mapping[str, Any]]]:
  """Metrics of each task and group."""
  merged = {**found.harness['results'], **found.harness.get('groups', {})}
  yield from merged.items()


def _row(
  task: str, metric: str, kind: str, full: Found, chosen: Found | None
) -> ScoreRow:
  harness = full.harness
  version = harness['versions'].get(task)
  counted = dict.fromkeys(
    how for leaf in _leaves(task, harness) for how in full.bills.get(leaf, {})
  )
  return ScoreRow(
    task=task,
    metric=metric,
    filter=kind,
    higher_is_better=harness['higher_is_better'].get(task, {}).get(metric),
    version=None if version is None else str(version),
    shots=harness['n-shot'].get(task),
    documents=harness['n-samples'].get(task, {}).get('effective'),
    counted=' + '.join(counted),
    full=_score(task, metric, kind, full),
    chosen=None if chosen is None else _score(task, metric, kind, chosen),
  )


def _score(task: str, metric: str, kind: str, found: Found) -> Score:
  metrics = dict(_of_tasks(found))[task]
  bill = Bill()
  for leaf in _leaves(task, found.harness):
    for part in found.bills.get(leaf, {}).values():
      bill = bill.plus(part)
  return Score(
    value=_finite(metrics[f'{metric},{kind}']),
    stderr=_finite(metrics.get(f'{metric}_stderr,{kind}')),
    compute=bill.share,
    tokens=bill.tokens,
  )


def _leaves(task: str, harness: Mapping[str, Any]) -> Iterator[str]:
  """The tasks of a group, and of groups in it; of a task, itself."""
  children = harness.get('group_subtasks', {}).get(task, ())
  for child in children:
    yield from _leaves(child, harness)
  if not children:
    yield task


def _finite(value: object) -> float | None:
  """A number that JSON has; of the harness, where it is one."""
  is_number = isinstance(value, (int, float))
  return float(value) if is_number and math.isfinite(value) else None
