"""Parameters that a run starts with, from one that is done."""

import pathlib
from collections.abc import Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ease_jax import workdir as folders
from ease_jax.checks import need
from ease_jax.core.freeze import (
  ADAPTER,
  FREQUENT,
  LORA,
  OWN_BLOCK,
  OWN_HEAD,
  OWN_NORM,
  SHARED_NORM,
  is_beside,
  is_of_exits,
)
from ease_jax.core.spec import MAP
from ease_jax.data.task import Task
from ease_jax.deploy import check_tokens, load_model
from ease_jax.model import Params
from ease_jax.progress import stage
from ease_jax.specs import Specs
from ease_jax.train import fitting
from ease_jax.train.paths import leaves


def initial_params(
  run_specs: Specs, folder: pathlib.Path, task: Task
) -> Params:
  """Parameters of the run that `train.init_from` names, by group.

  Args:
    run_specs: of the run that starts from them; gates, what exits have, and
      products beside matrices of layers may be new in it.
    folder: of the run that it names.
    task: of the run that starts.

  Raises:
    ConfigError: that run is of another model or vocabulary.
  """
  source = run_specs.train.init_from
  trained = load_model(folders.read_config(folder), folder)
  check_tokens(f'train.init_from={source}', trained.tokenizer, task)

  wanted = _shapes(run_specs.shapes)
  params = _with_heads(_with_norms(trained.params, wanted), wanted)
  params.pop(FREQUENT, None)  # they are counted anew
  there = _shapes(params)
  _check_learning(run_specs, set(leaves(trained.params)))
  own = {group for group in wanted if is_of_exits(group)}
  for group in sorted(set(there) | set(wanted) - own):
    need(
      there.get(group) in (wanted.get(group), _without_lora(wanted.get(group))),
      f'train.init_from={source} has {group}={there.get(group)}, this model '
      f'{wanted.get(group)}; use its model.* and loss.gates',
    )
  return params


def _check_learning(run_specs: Specs, there: Collection[str]) -> None:
  """Refuses what is new, costs something, and stays as it is at first.

  Args:
    run_specs: of the run that starts.
    there: names of the parameters that it starts from.
  """
  train = run_specs.train
  for name in leaves(run_specs.shapes):
    added = is_beside(name) or name.startswith((ADAPTER, OWN_BLOCK, OWN_HEAD))
    fitted = train.fit_tokens > 0 and f'/{MAP}/' in name
    learns = train.steps > 0 and run_specs.loss.freeze.learns(name)
    need(
      not added or name in there or fitted or learns,
      f'{name} is new beside train.init_from={train.init_from}, and '
      f'train.steps={train.steps} with train.freeze={train.freeze} leave it as '
      'it is at first; let it learn, or leave out what has it '
      '(model.lora_rank, model.readout_adapters)',
    )


def _with_norms(params: Params, wanted: Iterable[str]) -> Params:
  """Parameters in which readouts start with the norm that they shared.

  Args:
    params: of a run.
    wanted: groups of parameters of the run that starts from it.
  """
  own = [group for group in wanted if group.startswith(OWN_NORM)]
  if SHARED_NORM not in params or not own:
    return params
  shared = params[SHARED_NORM]
  rest = {name: params[name] for name in params if name != SHARED_NORM}
  # Each has its own: an update takes over the memory of what it changes.
  return rest | {name: jax.tree.map(jnp.copy, shared) for name in own}


def _with_heads(params: Params, wanted: Iterable[str]) -> Params:
  """Parameters in which readouts start with the head that they shared.

  Args:
    params: of a run.
    wanted: groups of parameters of the run that starts from it.
  """
  shared = params.get('unembed', params['embed'])
  own = [group for group in wanted if group.startswith(OWN_HEAD)]
  return {name: jnp.copy(shared) for name in own} | params


def _without_lora(shapes: Any) -> Any:
  """Of a layer without products beside its matrices; others as they are."""
  if not isinstance(shapes, dict):
    return shapes
  return {name: shape for name, shape in shapes.items() if name != LORA}


def _shapes(params: Params) -> dict[str, Any]:
  """Shapes of the parameters of each group."""
  return {name: jax.tree.map(np.shape, params[name]) for name in params}


def fitted(run_specs: Specs, task: Task, params: Params) -> Params:
  """Parameters with maps of readouts fitted to the last one."""
  train = run_specs.train
  with stage('fitting maps and screen'):
    return fitting.fitted(
      run_specs.body,
      params,
      task.train_batches(train.batch_size, run_specs.seed),
      tokens=train.fit_tokens,
      ridge=train.fit_ridge,
    )
