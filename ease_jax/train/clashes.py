"""What sections `train`, `loss` and `model` cannot know of each other."""

import numpy as np

from ease_jax import model as model_lib
from ease_jax.checks import MOST_DEPTH, need
from ease_jax.core.objective import LossSpec
from ease_jax.core.reach import GROWS
from ease_jax.core.runs import CONSTANT, DRAWING, DRAWN_ROWS
from ease_jax.core.spec import BLOCK, HEAD, MAP
from ease_jax.model import Body
from ease_jax.train.spec import BY_LORA, TrainSpec


def check(train: TrainSpec, loss: LossSpec, body: Body) -> None:
  """Raises ConfigError where a model cannot be trained like this."""
  _check_exit_rows(train, loss)
  _check_layer_dropout(train, body)
  _check_reach(train, body)
  _check_runs(train, loss, body)
  _check_shortcut(train, loss, body)
  _check_fitted(train, body)
  _check_learning(train, loss, body)
  _check_cached(train, loss, body)
  _check_documents(loss, body)


def _check_documents(loss: LossSpec, body: Body) -> None:
  """Nothing is learned from tokens of another document."""
  width = loss.gating.gate_smoothing
  need(
    not width or body.cfg.document_start is None,
    f'loss.gate_smoothing={width} learns from neighbours of any document, and '
    'data.documents=apart keeps them from each other; use 0',
  )


def _check_cached(train: TrainSpec, loss: LossSpec, body: Body) -> None:
  """A batch has the same states at its readouts in each update."""
  if not train.cached_batches:
    return
  cfg = body.cfg
  grid = body.grid
  for fixed, fields in (
    (cfg.dropout == 0, f'model.dropout={cfg.dropout}'),
    (not train.layer_dropout, f'train.layer_dropout={train.layer_dropout}'),
    (not grid.has_asides, f'model.readout_adapters={cfg.readout_adapters}'),
    (not loss.exit_threshold, f'loss.exit_threshold={loss.exit_threshold}'),
    (not grid.routed, 'model.router'),
    (
      grid.segments == 1 and not grid.carried and not grid.tail,
      f'model.body={cfg.body} with model.segments={grid.segments}',
    ),
  ):
    need(
      fixed,
      f'train.cached_batches={train.cached_batches} keeps states that are the '
      f'same in each update, which {fields} does not promise; use 0',
    )


def _check_fitted(train: TrainSpec, body: Body) -> None:
  """There is something to fit, and it is fitted."""
  adapters = body.cfg.readout_adapters
  rank = body.cfg.screen_rank
  frequent = body.cfg.frequent_tokens
  need(
    train.fit_tokens == 0 or MAP in adapters or rank > 0 or frequent > 0,
    f'train.fit_tokens={train.fit_tokens} fits maps, and '
    f'model.readout_adapters={adapters} has none; add {MAP!r}, a '
    'model.screen_rank or model.frequent_tokens, or use 0',
  )
  need(
    rank == 0 or train.fit_tokens > 0,
    f'model.screen_rank={rank} is of a factor that is fitted, and '
    'train.fit_tokens=0 fits none; give tokens, or use 0 for both',
  )
  need(
    rank == 0 or HEAD not in adapters,
    f'model.screen_rank={rank} is of the head of all readouts, and '
    f'model.readout_adapters={adapters} gives them heads of their own; use one '
    'of both',
  )
  need(
    rank == 0 or train.frozen,
    f'model.screen_rank={rank} is of a head that stays, and train.freeze='
    f'{train.freeze} changes it; use exits, and fit it behind all training',
  )
  need(
    frequent == 0 or train.fit_tokens > 0,
    f'model.frequent_tokens={frequent} are counted in the training text, and '
    'train.fit_tokens=0 reads none of it; give tokens and train.init_from, or '
    'use 0 for both',
  )
  vocab_size = body.cfg.vocab_size  # 1: not known yet
  most = vocab_size if vocab_size > 1 else frequent
  need(
    frequent == 0 or 2 <= frequent <= most,
    f'model.frequent_tokens={frequent} must be at least 2, for a share to say '
    f'anything, and no more than the {most} that there are; change it',
  )


def _check_learning(train: TrainSpec, loss: LossSpec, body: Body) -> None:
  """What readouts have of their own learns, or was learned before."""
  adapters = body.cfg.readout_adapters
  need(
    train.freeze != BY_LORA or body.cfg.lora_rank > 0,
    f'train.freeze={train.freeze} trains products beside the matrices of '
    f'layers, and model.lora_rank={body.cfg.lora_rank} has none; give a rank, '
    'or use exits',
  )
  is_last_K = body.grid.is_last_K
  early = [w for w, is_last in zip(loss.weight_K, is_last_K) if not is_last]
  need(
    train.freeze != 'exits'
    or train.steps == 0
    or any(early)
    or bool(body.cfg.gates),
    f'train.freeze={train.freeze} trains readouts before the last of a '
    f'segment, and the weights of all are {loss.weight_K}; use loss.weights='
    'uniform',
  )

  per_segment = body.grid.per_segment
  weight_SxR = np.reshape(loss.weight_K, (-1, per_segment))
  all_learn = bool(weight_SxR[:, :-1].any(0).all())
  random = {BLOCK, HEAD} & set(adapters)
  need(
    not random or train.init_from != '' or all_learn,
    f'model.readout_adapters={adapters} begin at random, and loss.weights '
    f'{loss.weight_K} leave some readouts like that; use loss.weights=uniform, '
    'or train.init_from',
  )


def _check_exit_rows(train: TrainSpec, loss: LossSpec) -> None:
  """The rows that exit are the same in one update or in micro-batches."""
  if not loss.exit_threshold:
    return
  batch_size = train.batch_size
  parts = train.accumulate
  rows = round(loss.exit_rows * batch_size)
  need(
    rows > 0 and rows % parts == 0,
    f'loss.exit_rows={loss.exit_rows} of train.batch_size={batch_size} '
    f'are {rows} rows, which train.accumulate={parts} micro-batches cannot '
    'share evenly; change one of them',
  )


def _check_layer_dropout(train: TrainSpec, body: Body) -> None:
  """Some row skips some layer, and some row is left to each."""
  phases = [model_lib.routed(body, phase) for phase in train.phases]
  need(
    not train.layer_dropout or any(phase.grid.routed for phase in phases),
    f'train.layer_dropout={train.layer_dropout} of train.batch_size='
    f'{train.batch_size} in train.accumulate={train.accumulate} parts rounds '
    'to no row in any layer; raise one of them, or use 0',
  )


def _check_reach(train: TrainSpec, body: Body) -> None:
  """Gradients can go less far at first."""
  if train.backprop != GROWS:
    return
  reach = body.kind.reach
  need(
    reach is not None,
    f'train.backprop={train.backprop} does not fit model.body='
    f'{body.cfg.body}, whose gradient goes through all that is run; use '
    'constant',
  )
  assert reach is not None
  full = reach.full(body.cfg)
  need(
    train.backprop_first <= full,
    f'train.backprop_first={train.backprop_first} is more than {reach.field}='
    f'{full}, which gradients reach in the end; lower it',
  )


def _check_runs(train: TrainSpec, loss: LossSpec, body: Body) -> None:
  """Any number of segments can be trained, and all parameters learn."""
  runs = train.runs
  need(
    runs == CONSTANT or loss.segments > 1,
    f'train.runs={runs} has no effect with model.segments=1: nothing runs '
    f'again; use {CONSTANT}, or raise model.segments',
  )
  need(
    runs == CONSTANT or loss.fits_any_segments,
    f'train.runs={runs} needs a loss for any number of segments: loss.schedule='
    'constant, loss.token_fraction=1.0, loss.exit_threshold=0.0, loss.target='
    f'label and a weight on the last readout; use these, or {CONSTANT}',
  )
  goes_on = not any(cell.reads for cell in body.grid.segment)
  need(
    not (loss.unreached and goes_on),
    f'model.carry_backprop={body.cfg.carry_backprop} of model.segments='
    f'{loss.segments} leaves what is before the first run without a '
    'gradient, as no run sees the input again; use as many, or another '
    'model.refine.inject',
  )
  most = loss.segments * train.runs_most
  need(
    runs not in DRAWING or most <= MOST_DEPTH,
    f'train.runs_most={train.runs_most} times model.segments='
    f'{loss.segments} is more than {MOST_DEPTH} runs; lower one of them',
  )
  need(
    runs == CONSTANT or not body.cfg.gates,
    f'train.runs={runs} changes how many readouts there are, and loss.gates='
    f'{body.cfg.gates} know them by number; use {CONSTANT}, or no gates',
  )
  if runs == DRAWN_ROWS:
    _check_rows(train, loss, body)


def _check_rows(train: TrainSpec, loss: LossSpec, body: Body) -> None:
  """Rows have one loss each, and draw nothing but their number of runs."""
  runs = train.runs
  need(
    not body.kind.runs_differ(body.cfg),
    f'train.runs={runs} lets rows begin late, and runs of this model have '
    'parameters of their own, by their number; use drawn',
  )
  need(
    not any(loss.weight_K[:-1]),
    f'train.runs={runs} reads a row after its last run alone, and the weights '
    f'are {loss.weight_K}; use loss.weights=final',
  )
  need(
    body.cfg.dropout == 0 and not body.grid.routed,
    f'train.runs={runs} does not fit model.dropout={body.cfg.dropout} or a '
    'model.router, for which a program would be made for each number; use 0.0 '
    'and none',
  )


def _check_shortcut(train: TrainSpec, loss: LossSpec, body: Body) -> None:
  """Runs know how far they go, and the last one alone is read."""
  field = f'loss.shortcut_weight={loss.shortcut.shortcut_weight}'
  need(
    loss.shortcut.on or not body.elastic or train.init_from != '',
    f'{field} leaves model.refine.elastic=True without what teaches it; use '
    '0.1, or elastic=False',
  )
  if not loss.shortcut.on:
    return
  need(
    body.elastic,
    f'{field} needs runs that know how far they go; use model.body=refine with '
    'model.refine.per_run=film and elastic=True, or 0.0',
  )
  need(
    loss.fits_any_segments and not any(loss.weight_K[:-1]),
    f'{field} trains any number of runs by their end alone; use loss.weights='
    'final, loss.schedule=constant, loss.token_fraction=1.0, '
    'loss.exit_threshold=0.0 and loss.target=label',
  )
  need(
    loss.carry_backprop == loss.segments,
    f'{field} does not fit model.carry_backprop={loss.carry_backprop} of '
    f'model.segments={loss.segments}: the whole way is learned; use as many',
  )
  need(
    train.runs == CONSTANT and train.backprop != GROWS,
    f'{field} does not fit train.runs={train.runs} or train.backprop='
    f'{train.backprop}: shortcuts draw their own numbers of runs; use '
    f'{CONSTANT} for both',
  )
  need(
    train.freeze == 'nothing' and not body.cfg.gates,
    f'{field} does not fit train.freeze={train.freeze} or loss.gates='
    f'{body.cfg.gates}: all of the model learns; use nothing and no gates',
  )
  need(
    not body.grid.routed and not train.layer_dropout,
    f'{field} does not fit a model.router or train.layer_dropout='
    f'{train.layer_dropout}: fewer runs have other cells; use none and 0.0',
  )
