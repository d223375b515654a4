"""What a training step needs, before anything runs or is allocated.

  python -m ease_jax.plan --config=FILE --mesh=data:8,fsdp:32 \
      --config.model.dim=8192 --config.model.num_layers=80

Parameters, memory of a device and FLOPs of a step, and what each readout adds.
Arrays are known by their shapes alone. `docs/scaling.md` says how each number
comes about; `--json` prints them all.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import app, flags
from ml_collections import config_flags

from ease_jax import command, machine
from ease_jax.machine import fail

if TYPE_CHECKING:
  from ease_jax.planning import Needs

Table = list[tuple[str, ...]]

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, or a config.json.', lock_config=True
)
_MESH = flags.DEFINE_string(
  'mesh', None, 'Devices along each axis: data:8,fsdp:32,tensor:1.'
)
_VOCAB = flags.DEFINE_integer(
  'vocab-size', 0, 'V, where only the data know it; 0 = that of the tokenizer.'
)
_MEMORY = flags.DEFINE_string(
  'device-memory', None, 'Memory of a device, such as 80GiB.'
)
_FLOPS = flags.DEFINE_float(
  'device-flops', 0.0, 'Peak FLOPs per second of a device, such as 989e12.'
)
_JSON = flags.DEFINE_boolean('json', False, 'Print numbers as JSON.')

BINARY = {'Ki': 2**10, 'Mi': 2**20, 'Gi': 2**30, 'Ti': 2**40}
DECIMAL = {'k': 1e3, 'M': 1e6, 'G': 1e9, 'T': 1e12}
UNITS = {f'{name}B': size for name, size in (BINARY | DECIMAL).items()}


def bytes_of(text: str) -> int:
  """Bytes of a size such as 80GiB, 141GB or 500MiB.

  Raises:
    ConfigError: it is none.
  """
  from ease_jax.checks import need

  match = re.fullmatch(r'(\d+(?:\.\d+)?) *([A-Za-z]+)', text)
  need(
    match is not None and match[2] in UNITS and float(match[1]) > 0,
    f'--device-memory={text} is no size; give one such as 80GiB or 141GB',
  )
  assert match
  return int(float(match[1]) * UNITS[match[2]])


def axes_of(text: str) -> dict[str, int]:
  """Devices along each axis of `data:8,fsdp:32,tensor:1`.

  Raises:
    ConfigError: it looks otherwise.
  """
  from ease_jax.checks import need
  from ease_jax.sharding import AXES

  axes: dict[str, int] = {}
  for part in text.split(','):
    match = re.fullmatch(r'([a-z]+):(\d{1,9})', part.strip())
    need(
      match is not None and match[1] in AXES and match[1] not in axes,
      f'--mesh={text} has {part!r}; give each of {", ".join(AXES)} once at '
      'most, such as data:8,fsdp:32',
    )
    assert match
    axes[match[1]] = int(match[2])
  return axes


def _facts(found: Needs) -> dict[str, Any]:
  """All numbers, and their sums."""
  return dataclasses.asdict(found) | {
    'total_parameters': found.total_parameters,
    'total_memory': found.total_memory,
    'total_flops': found.total_flops,
  }


def _unit(total: float, units: Mapping[str, float]) -> tuple[float, str]:
  """The largest unit of which there is one at least, and its name."""
  smallest, *larger = units.items()
  found = smallest
  for name, size in larger:
    if size <= total:
      found = name, size
  name, size = found
  return size, name


def _rows(rows: Table) -> list[str]:
  """Aligned: names to the left, numbers to the right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  aligned = []
  for name, *numbers in rows:
    cells = [f'  {name:<{widths[0]}}']
    cells += [f'{x:>{w}}' for x, w in zip(numbers, widths[1:], strict=True)]
    aligned.append('  '.join(cells).rstrip())
  return aligned


def _shared(values: Mapping[str, float], unit: float, total: float) -> Table:
  """Rows of values that are not 0, their sum, and shares of it."""
  rows: Table = [
    (name, f'{value / unit:,.3f}', f'{100 * value / total:.1f} %')
    for name, value in values.items()
    if value
  ]
  return [*rows, ('sum', f'{total / unit:,.3f}', '')]


def lines(found: Needs, memory: int | None, peak: float) -> list[str]:
  """The plan as text.

  Args:
    found: the plan.
    memory: bytes of a device; None = they are not known.
    peak: FLOPs per second of a device; 0 = they are not known.
  """
  mesh = found.mesh
  size = f'{mesh.data} data x {mesh.fsdp} fsdp x {mesh.tensor} tensor'
  windows = f'{found.batch_size:,} windows, {found.tokens:,} tokens'
  said = [
    f'devices: {mesh.size:,} ({size})',
    f'an update: {windows}, {found.accumulate} micro-batches',
    '',
    'parameters',
  ]
  counts: Table = [
    (_named(found, group), f'{number:,}')
    for group, number in found.parameters.items()
  ]
  said += _rows([*counts, ('sum', f'{found.total_parameters:,}')])

  unit, name = _unit(found.total_memory, BINARY)
  said += ['', f'memory of a device, {name}B']
  said += _rows(_shared(found.memory, unit, found.total_memory))
  if memory is not None:
    share = found.total_memory / memory
    verdict = 'fits' if share <= 1 else 'does not fit'
    there = f'{memory / 2**30:,.1f} GiB'
    said.append(f'  {100 * share:.1f} % of {there}: {verdict}')

  unit, name = _unit(found.total_flops, DECIMAL)
  said += ['', f'a device in an update, {name}FLOPs']
  said += _rows(_shared(found.flops, unit, found.total_flops))
  if peak:
    seconds = found.total_flops / peak
    speed = found.tokens / seconds
    said.append(f'  at its peak {seconds:,.3f} s, {speed:,.0f} tokens/s in all')

  said += ['', 'readouts: what each adds to a device in an update']
  said += _rows(_readouts(found))
  said.append(f'  a head works on {found.head_tokens:,} tokens at a time')
  if found.left_out:
    said += ['', f'not counted in memory: {", ".join(found.left_out)}']
  return said


def _named(found: Needs, group: str) -> str:
  number = found.groups[group]
  return group if number == 1 else f'{group} ({number})'


def _readouts(found: Needs) -> Table:
  """A row for each readout, and one for all but the last."""
  flops_unit, flops_name = _unit(found.total_flops, DECIMAL)
  memory_unit, memory_name = _unit(found.total_memory, BINARY)
  units = f'{flops_name}FLOPs', f'{memory_name}B'
  rows: Table = [
    ('segment, layer', 'weight', units[0], 'of all', units[1], 'of all')
  ]
  early = found.readouts[:-1]
  sums = sum(r.flops for r in early), sum(r.memory for r in early)
  named = [
    (f'{r.segment}, {r.layer}', f'{r.weight:g}', r.flops, r.memory)
    for r in found.readouts
  ]
  if early:
    named.append(('all but the last', '', *sums))

  for name, weight, flops, memory in named:
    rows.append(
      (
        name,
        weight,
        f'{flops / flops_unit:,.3f}',
        f'{100 * flops / found.total_flops:.2f} %',
        f'{memory / memory_unit:,.3f}',
        f'{100 * memory / found.total_memory:.2f} %',
      )
    )
  return rows


def main(argv: Sequence[str]) -> None:
  del argv
  # Only now, so that a mistyped flag does not wait for JAX.
  from ease_jax.checks import ConfigError
  from ease_jax.planning import needs

  command.check_config(_CONFIG.value)
  config = _CONFIG.value
  try:
    if _MESH.value is not None:
      for axis in config.mesh:
        config.mesh[axis] = 1
      config.mesh.update(axes_of(_MESH.value))
    memory = bytes_of(_MEMORY.value) if _MEMORY.value is not None else None
    found = needs(config, _VOCAB.value, memory)
  except ConfigError as error:
    fail(error)
  if _JSON.value:
    print(json.dumps(_facts(found), indent=2))
  else:
    print('\n'.join(lines(found, memory, _FLOPS.value)))


def _parse(argv: Sequence[str]) -> list[str]:
  return command.parse(_CONFIG, argv)


if __name__ == '__main__':
  machine.print_anything()
  flags.mark_flag_as_required('config')
  with machine.stopped_in_a_line():
    app.run(main, flags_parser=_parse)
