"""The tables: rows of plain values, written as CSV or as Markdown."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ease_jax.core.policies import UNREACHED
from ease_jax.evaluate.records import Json
from ease_jax.evaluate.results import Results, SweepRow
from ease_jax.evaluate.windows import Interval
from ease_jax.report.comparison import Spread

COLUMNS = (
  'split',
  'signal',
  'kv_policy',
  'threshold',
  'nll',
  'ppl',
  'bits_per_byte',
  'accuracy',
  'compute',
  'compute_uncharged',
  'layer_fraction',
  'mean_readout',
  'exit_fraction',
)
# Left out of the Markdown table, which is for reading.
_CSV_ONLY = ('nll', 'exit_fraction')
_NUMERIC = frozenset(COLUMNS[4:])


def to_csv(sweep: Sequence[SweepRow]) -> str:
  """Full precision; lists as JSON; exits off as an empty threshold."""
  rows = [row.to_json() for row in sweep]
  columns = _columns(rows)

  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  writer.writerow(columns)
  for row in rows:
    writer.writerow([_exact(row.get(column)) for column in columns])
  return buffer.getvalue()


def to_markdown(sweep: Sequence[SweepRow]) -> str:
  """Four digits, for reading."""
  rows = [row.to_json() for row in sweep]
  columns = [name for name in _columns(rows) if name not in _CSV_ONLY]

  head = [name.replace('_', ' ') for name in columns]
  rule = ['---:' if name in _NUMERIC else '---' for name in columns]
  cells = [[_rounded(name, row.get(name)) for name in columns] for row in rows]
  return markdown(head, rule, cells)


def markdown(
  head: Sequence[str], rule: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
  """A table of finished cells; `rule` says how columns are aligned."""
  lines = [
    f'| {" | ".join(map(_cell, cells))} |\n' for cells in (head, rule, *rows)
  ]
  return ''.join(lines)


def _cell(text: str) -> str:
  """Text that can neither end its cell nor its row."""
  return ' '.join(text.split('\n')).replace('|', r'\|')


LOWEST = float(np.finfo(np.float32).min)  # every score reaches it
DIGITS = (4, 6, 9, 17)  # of a threshold; 17 tell any two numbers apart


def threshold_texts(thresholds: Sequence[Any]) -> list[str]:
  """Thresholds for people, different ones with different texts."""
  texts = []
  for digits in DIGITS:
    texts = [threshold_text(t, digits) for t in thresholds]
    if len(set(texts)) == len(texts):
      break
  return texts


def threshold_text(threshold: Any, digits: int = DIGITS[0]) -> str:
  """A threshold for people: `off`, `0.8` or `0.31, never, last`.

  Args:
    threshold: as `results.json` has it.
    digits: that are shown.
  """
  if threshold is None:
    return 'off'
  if threshold == UNREACHED:
    return 'asked, not taken'
  if not isinstance(threshold, list):
    return f'{threshold:.{digits}g}'
  *early, _ = threshold
  texts = [reached_text(t, digits) for t in early]
  return ', '.join([*texts, 'last'])


def reached_text(threshold: float | None, digits: int) -> str:
  """What a readout asks for: `never`, `always`, or a number.

  Args:
    threshold: of the readout; None or infinity is reached by nobody.
    digits: that are shown.
  """
  if threshold is None or threshold == math.inf:
    return 'never'
  if threshold <= LOWEST:
    return 'always'
  return f'{threshold:.{digits}g}'


@dataclasses.dataclass(frozen=True)
class ReadoutCells:
  """A row of the page's table of readouts.

  Attributes:
    k: which readout, from 0.
    cost: compute, divided by that of full depth.
    select_ppl: perplexity on the split that chooses.
    ppl: perplexity on the split that reports, as all that follows.
    ppl_vs_full: the same, divided by that of full depth.
    interval: of this ratio.
    bits_per_byte: of the text.
    accuracy: share of the tokens that were the most likely ones.
    ece: expected calibration error; None where it was not measured.
  """

  k: int
  cost: float
  select_ppl: float
  ppl: float
  ppl_vs_full: float
  interval: Interval
  bits_per_byte: float
  accuracy: float
  ece: float | None


def readout_rows(results: Results) -> list[ReadoutCells]:
  """One row per readout."""
  ece = {(c.segment, c.layer): c.ece for c in results.calibration}
  return [
    ReadoutCells(
      k=k,
      cost=row.compute_static,
      select_ppl=row.select.ppl,
      ppl=row.report.ppl,
      ppl_vs_full=row.ppl_vs_full,
      interval=row.ppl_vs_full_interval,
      bits_per_byte=row.report.bits_per_byte,
      accuracy=row.report.accuracy,
      ece=ece.get((row.segment, row.layer)),
    )
    for k, row in enumerate(results.readouts)
  ]


def _columns(rows: Sequence[Json]) -> list[str]:
  """The columns that at least one row fills, in a fixed order."""
  return [name for name in COLUMNS if any(name in row for row in rows)]


def _exact(value: Any) -> Any:
  if value is None:
    return ''
  return json.dumps(value) if isinstance(value, list) else value


def _rounded(column: str, value: Any) -> str:
  if column == 'threshold':
    return threshold_text(value)
  if value is None:
    return ''
  return f'{value:.4f}' if isinstance(value, float) else str(value)


def spread(value: Spread, digits: int = 3, scale: float = 1) -> str:
  """Mean ± standard deviation; one value has none."""
  text = f'{scale * value.mean:.{digits}f}'
  if value.sd is None:
    return text
  return f'{text} ± {scale * value.sd:.{digits}f}'
