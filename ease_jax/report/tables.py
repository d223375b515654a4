"""The tables: rows of plain values, written as CSV or as Markdown."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

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


def sweep_columns(rows: Sequence[Row]) -> list[str]:
  """The columns that at least one row fills, in a fixed order."""
  return [c for c in COLUMNS if any(c in row for row in rows)]


def to_csv(rows: Sequence[Row]) -> str:
  """Full precision; lists as JSON; exits off as an empty threshold."""
  columns = sweep_columns(rows)
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  writer.writerow(columns)
  for row in rows:
    writer.writerow([_exact(row.get(c)) for c in columns])
  return buffer.getvalue()


def to_markdown(rows: Sequence[Row]) -> str:
  """Four digits, for reading."""
  columns = [c for c in sweep_columns(rows) if c not in _CSV_ONLY]
  return markdown(
    [c.replace('_', ' ') for c in columns],
    ['---:' if c in _NUMERIC else '---' for c in columns],
    [[_rounded(c, row.get(c)) for c in columns] for row in rows],
  )


def markdown(
  head: Sequence[str], rule: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
  """A table of finished cells; `rule` says how columns are aligned."""
  return ''.join(f'| {" | ".join(line)} |\n' for line in (head, rule, *rows))


def threshold_text(threshold: Any) -> str:
  """A threshold for people: `off`, `0.8` or `0.31, never, last`."""
  if threshold is None:
    return 'off'
  if not isinstance(threshold, list):
    return f'{threshold:.4g}'
  *early, _ = threshold
  parts = ['never' if t is None else f'{t:.4g}' for t in early]
  return ', '.join([*parts, 'last'])


def readout_rows(results: Row) -> list[Row]:
  """One row per readout: its cost, its quality, and how often it answers."""
  ece = {
    (item['segment'], item['layer']): item['ece']
    for item in results.get('calibration', [])
  }
  fractions = results['chosen']['test'].get('exit_fraction')
  return [
    {
      'k': k,
      'segment': r['segment'],
      'layer': r['layer'],
      'cost': r['cost'],
      'select_ppl': r['select']['ppl'],
      'ppl': r['test']['ppl'],
      'bits_per_byte': r['test']['bits_per_byte'],
      'accuracy': r['test']['accuracy'],
      'ece': ece.get((r['segment'], r['layer'])),
      'share': fractions[k] if fractions else None,
    }
    for k, r in enumerate(results['readouts'])
  ]


def _exact(value: Any) -> Any:
  if value is None:
    return ''
  return json.dumps(value) if isinstance(value, list) else value


def _rounded(column: str, value: Any) -> str:
  if column == 'threshold':
    return threshold_text(value)
  if value is None:
    return ''
  text = f'{value:.4f}' if isinstance(value, float) else str(value)
  return text.replace('|', r'\|')
