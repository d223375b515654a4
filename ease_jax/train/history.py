"""What a run was before: where it continues, how it grew, what it took."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ease_jax.train import running
from ease_jax.train.optimizer import OptimizerSpec, schedule
from ease_jax.train.saved import Host


def begin(
  step: int, host: Host, opt_spec: OptimizerSpec, *, over: bool
) -> Iterator[str]:
  """Notes how long a run is to be; says what there is of it already.

  Args:
    step: batches done.
    host: of the newest checkpoint, or fresh; notes an extension.
    opt_spec: the optimizer of the run as it is asked for now.
    over: whether nothing is left to train.
  """
  steps = opt_spec.steps
  if not host.ends or host.ends[-1] != steps:
    host.ends.append(steps)
    if len(host.ends) > 1:
      yield _extension(step, host.ends[-2], opt_spec)

  if step and over:
    yield f'trained already: {step} of {steps} steps'
  elif step:
    yield f'continues at step {step} of {steps}'


def _extension(step: int, end: int, opt_spec: OptimizerSpec) -> str:
  """What happens to the learning rate of a run that goes on."""
  update = step * opt_spec.updates_per_step
  ended = float(schedule(replace(opt_spec, steps=end), update - 1))
  goes_on = float(schedule(opt_spec, update))
  return (
    f'extends the run from {end} to {opt_spec.steps} steps: the learning rate '
    f'ended at {ended:.0%} of its peak and goes on at {goes_on:.0%}, where a '
    f'run of {opt_spec.steps} steps is at step {step}; such a run from the '
    'start would end elsewhere'
  )


def summary(
  step: int,
  host: Host,
  *,
  updates_per_step: int,
  flops_per_token: float,
  once_flops: float = 0.0,
) -> dict[str, Any]:
  """What `results.json` says about training.

  Args:
    step: batches done.
    host: what the run knew then.
    updates_per_step: updates that each batch made.
    flops_per_token: of training on one token, a teacher run left out.
    once_flops: of what no update does: fits, states that are kept.

  Returns:
    steps, updates, best_step (of the lowest select loss), tokens, flops,
    wall_s (everything between start and last checkpoint: compilation,
    updates, evaluations on select), tokens_per_s (tokens over wall_s), of a
    run that was extended, extended_from (its earlier ends, in steps), of one
    that another run taught, teacher, and what `_spent` says.
  """
  extended = {'extended_from': host.ends[:-1]} if host.ends[1:] else {}
  taught = {'teacher': host.teacher} if host.teacher else {}
  if host.teacher:
    flops_per_token += host.teacher['flops']
  return (
    extended
    | taught
    | _spent(host)
    | {
      'steps': step,
      'updates': step * updates_per_step,
      'best_step': host.best_step,
      'tokens': host.tokens,
      'flops': once_flops + flops_per_token * host.tokens,
      'wall_s': host.wall_s,
      'tokens_per_s': host.tokens / host.wall_s if host.wall_s else 0.0,
    }
  )


def _spent(host: Host) -> dict[str, Any]:
  """Where the seconds went, and how much of the devices was used in them.

  Args:
    host: what a run knew at its end.

  Returns:
    seconds of each of `running.PARTS`, devices, flops_per_s and mfu of the
    seconds of updates and of waits for data, mfu where something is published
    of the devices.
    Nothing where an older version did not count them, or nothing was trained.
  """
  working_s = sum(host.seconds.get(part, 0.0) for part in running.WORKING)
  if not (working_s and host.counted_flops):
    return {}
  used: dict[str, float] = {}
  if host.possible_flops is not None:
    used['mfu'] = host.counted_flops / host.possible_flops
  return {
    'seconds': {part: host.seconds.get(part, 0.0) for part in running.PARTS},
    'devices': host.devices,
    'flops_per_s': host.counted_flops / working_s,
  } | used
