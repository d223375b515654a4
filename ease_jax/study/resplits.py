"""Do guarantees hold? Documents of a finished run, split anew many times.

  python -m ease_jax.study.resplits --workdir=DIR [--epsilon=0.01 0.02]

The documents of both held-out splits are one pool. Each time a random half of
them certifies a threshold, and its loss is measured on the other half. What is
counted is how often that loss is above epsilon; the other half has a chance of
its own, so that a bound may be exceeded there that holds.

Whole documents change sides. Where windows are what is certified on, those of
a document stay together, which shows what it does that they are alike.
"""

import argparse
import collections
import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from ease_jax import deploy, specs
from ease_jax import workdir as folders
from ease_jax.checks import ConfigError
from ease_jax.data.task import Task
from ease_jax.data.task import load as load_task
from ease_jax.evaluate import guarantee, promises
from ease_jax.evaluate.guarantee import METHODS, RISKS, UNITS, GuaranteeSpec
from ease_jax.evaluate.results import ROLES
from ease_jax.evaluate.sweep import Evaluator, SweepSpec, scalar_points
from ease_jax.model import Body, Params
from ease_jax.progress import stage
from ease_jax.report import tables
from ease_jax.train import saved


def _mean_alone(loss_N: np.ndarray, limit: float, delta: float) -> bool:
  """What corrects nothing, for comparison."""
  del delta
  return float(loss_N.mean()) <= limit


ASKED = {**METHODS, 'no bound': guarantee.Method(_mean_alone)}
HEAD = (
  'risk',
  'units',
  'epsilon',
  'method',
  'above epsilon',
  'exits',
  'mean loss',
  'compute',
)


class Pool(NamedTuple):
  """Losses of units, and which of them stay together.

  Attributes:
    loss_JxN: of each unit at each threshold, from the safest on.
    document_N: number of the document that each unit is of.
    compute_J: of each threshold, over full depth's.
  """

  loss_JxN: np.ndarray
  document_N: np.ndarray
  compute_J: np.ndarray


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a guarantee over all splits.

  Attributes:
    violated: share of the splits whose other half lost more than epsilon.
    exits: share in which a threshold was certified that costs less than all.
    loss: mean on the other half, as epsilon is told.
    compute: mean at the threshold that was taken.
  """

  violated: float
  exits: float
  loss: float
  compute: float


def resplit(
  pool: Pool,
  spec: GuaranteeSpec,
  method: guarantee.Method,
  num: int,
) -> Outcome:
  """Splits the documents of a pool `num` times.

  Args:
    pool: losses of the units that `spec` names.
    spec: limit and chance of failure.
    method: what certifies.
    num: of splits, always the same ones.
  """
  rng = np.random.default_rng(0)
  num_documents = int(pool.document_N.max()) + 1
  # Full depth first, which loses nothing and costs all.
  loss_JxN = np.concatenate(
    [np.zeros((1, len(pool.document_N))), pool.loss_JxN]
  )
  compute_J = np.concatenate([[1.0], pool.compute_J])
  taken_B = np.zeros(num, int)
  loss_B = np.zeros(num)

  for b in range(num):
    side_D = rng.permutation(num_documents) < num_documents // 2
    seen_N = side_D[pool.document_N]
    seen_JxN = rng.permutation(pool.loss_JxN[:, seen_N], axis=1)
    last = guarantee.certified(seen_JxN, spec.limit, spec.delta, method)
    # As a run does: of those that are certified, the cheapest.
    taken_B[b] = compute_J[: last + 1].argmin()
    loss_B[b] = loss_JxN[taken_B[b], ~seen_N].mean()

  return Outcome(
    violated=float((loss_B > spec.limit).mean()),
    exits=float((taken_B > 0).mean()),
    loss=spec.amount(float(loss_B.mean())),
    compute=float(compute_J[taken_B].mean()),
  )


def pools(
  spec: SweepSpec, model: Body, params: Params, task: Task, max_tokens: int
) -> dict[tuple[str, str], Pool]:
  """Losses of all units of both held-out splits, by risk and unit.

  Args:
    spec: of the run; its guarantee names the signal.
    model: of the run.
    params: its parameters.
    task: its data.
    max_tokens: of each split; 0 = all.
  """
  signal = spec.guarantee.signal
  spec = dataclasses.replace(spec, signals=(signal,), policies=(spec.policy,))
  points = list(scalar_points(spec, task.unit))
  parts: dict[tuple[str, str], list[Pool]] = collections.defaultdict(list)

  for role in ROLES:
    split = Evaluator(role, spec, model, params, task, max_tokens)
    walk = promises.walk(spec.guarantee, spec.policy, points)
    traces = [split.trace(points[i]) for i in walk]
    computes = [
      split.cost(points[i], trace).compute
      for i, trace in zip(walk, traces, strict=True)
    ]
    for risk, unit in itertools.product(RISKS, UNITS):
      asked = dataclasses.replace(spec.guarantee, risk=risk, unit=unit)
      losses = [promises.unit_losses(asked, split.dump, t) for t in traces]
      document_N = promises.documents_of(unit, split.dump)
      part = Pool(np.stack(losses), document_N, np.asarray(computes))
      parts[risk, unit].append(part)

  return {name: _joined(both) for name, both in parts.items()}


def _joined(parts: Sequence[Pool]) -> Pool:
  """Two splits as one pool; none of their documents is the same."""
  first, second = parts
  later_N = second.document_N + first.document_N.max() + 1
  document_N = np.concatenate([first.document_N, later_N])
  _, number_N = np.unique(document_N, return_inverse=True)
  return Pool(
    np.concatenate([first.loss_JxN, second.loss_JxN], 1),
    number_N,
    (first.compute_J + second.compute_J) / 2,
  )


def table(
  found: Mapping[tuple[str, str], Pool],
  spec: GuaranteeSpec,
  epsilons: Sequence[float],
  num: int,
) -> str:
  """All risks, units, limits and methods, as Markdown."""
  rows = []
  for (risk, unit), pool in found.items():
    for epsilon, name in itertools.product(epsilons, ASKED):
      asked = dataclasses.replace(spec, risk=risk, unit=unit, epsilon=epsilon)
      outcome = resplit(pool, asked, ASKED[name], num)
      rows.append(
        [
          risk,
          f'{len(pool.document_N)} {unit}s',
          f'{epsilon:g}',
          name,
          f'{outcome.violated:.1%}',
          f'{outcome.exits:.1%}',
          f'{outcome.loss:.2%}',
          f'{outcome.compute:.1%}',
        ]
      )
  return tables.markdown(HEAD, ['---'] * 4 + ['---:'] * 4, rows)


def measure(
  workdir: str,
  fields: Mapping[str, Any],
  thresholds: Sequence[float] | None,
  max_tokens: int | None,
) -> tuple[GuaranteeSpec, dict[tuple[str, str], Pool]]:
  """A guarantee on a finished run, and the losses of the run's units.

  Args:
    workdir: of the run.
    fields: of section `exit.guarantee`, changed.
    thresholds: of its signal; None = those that the run has swept.
    max_tokens: of each split; 0 = all; None = as the run has it.

  Raises:
    ConfigError: there is no such run, its data are others now, or the
      guarantee cannot be asked for.
  """
  folder = folders.locate(workdir)
  config = folders.read_config(folder)
  config.exit.max_compute = 0.0  # the guarantee chooses instead
  config.exit.guarantee.update(fields)
  if thresholds:
    config.exit.thresholds[config.exit.guarantee.signal] = tuple(thresholds)

  checked = specs.from_config(config)
  task = load_task(checked.data, folder)
  checked = specs.from_config(config, task.vocab_size, task.eos_id)
  model = checked.body
  best = deploy.restore_best(config, checked, folder, model)
  saved.check_facts(folder, best.facts, task.to_json())
  params = best.state.params
  if max_tokens is None:
    max_tokens = checked.sweep.max_tokens
  with stage('evaluating'):
    found = pools(checked.sweep, model, params, task, max_tokens)
  return checked.sweep.guarantee, found


def main(argv: Sequence[str] | None = None) -> None:
  """The command line.

  Args:
    argv: arguments without the program's name; None = those of this process.
  """
  parser = argparse.ArgumentParser(
    prog='python -m ease_jax.study.resplits',
    description='Do guarantees hold on new splits of the documents of a run?',
  )
  parser.add_argument('--workdir', required=True, metavar='DIR')
  parser.add_argument('--epsilon', type=float, nargs='+', default=[0.01])
  parser.add_argument('--delta', type=float, default=0.1)
  parser.add_argument('--cap', type=float, default=0.1)
  parser.add_argument('--signal', help="left out: the config's")
  parser.add_argument('--thresholds', type=float, nargs='+')
  parser.add_argument('--splits', type=int, default=500)
  parser.add_argument(
    '--tokens', type=int, help="0 = all; left out: the config's"
  )
  args = parser.parse_args(argv)
  logging.set_verbosity(logging.ERROR)
  fields = {
    'risk': next(iter(RISKS)),
    'epsilon': max(args.epsilon),
    'delta': args.delta,
    'cap': args.cap,
  }
  if args.signal:
    fields['signal'] = args.signal
  try:
    spec, found = measure(args.workdir, fields, args.thresholds, args.tokens)
    print(table(found, spec, args.epsilon, args.splits), end='')
  except (ConfigError, OSError) as error:
    sys.exit(f'ease_jax: {" ".join(str(error).split())}')


if __name__ == '__main__':
  main()
