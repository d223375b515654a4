"""Fewer runs that make the whole way in longer steps (LoopFormer)."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import segmented
import sweeps
import training
from segmented import BATCH, LENGTH

import tiny
from ease_jax import presets, specs
from ease_jax.checks import ConfigError
from ease_jax.core.gating import GateSpec
from ease_jax.core.objective import LossSpec
from ease_jax.core.shortcut import ShortcutSpec, drawn_way
from ease_jax.evaluate import evaluation, passes
from ease_jax.model import with_segments
from ease_jax.model.attention import positions
from ease_jax.model.sight import Places
from ease_jax.model.walk import RUNNING, Leap, Travel, walk
from ease_jax.train import loss as losses
from ease_jax.train import update

RUNS = 4
A, B = 0.25, 0.5  # weights of the shortcut and of its match


def elastic(runs=RUNS, **changes):
  """One layer, so many times, told how far it goes; one before, one behind."""
  fields = dict(
    num_layers=1,
    segments=runs,
    carry_backprop=runs,
    inject='none',
    per_run='film',
    elastic=True,
    prelude=1,
    coda=1,
  )
  return tiny.refine(**(fields | changes))


def loss_of(runs, weight=0.0, match=0.0):
  return LossSpec(
    (0.0,) * (runs - 1) + (1.0,),
    segments=runs,
    carry_backprop=runs,
    shortcut=ShortcutSpec(weight, match),
  )


@functools.partial(jax.jit, static_argnames=('model', 'spec'))
def gradient(params, model, spec, way=None):
  key = segmented.key_of()
  return losses.grid_gradient(
    params, model, spec, BATCH, 0, key, None, None, way
  )


def way_of(*starts):
  return np.asarray(starts, np.float32)


HALVES = way_of(0, 0.5, 1)
UNEVEN = way_of(0, 0.25, 1)

# --------------------------------------------------------------------- ways


@pytest.mark.parametrize('segments', [2, 3, 4])
def test_ways_are_drawn_evenly(segments):
  """Every number of runs, and every way of cutting in as many."""
  num = 3000
  ways = [drawn_way(1, step, segments) for step in range(num)]
  by_runs = collections.defaultdict(collections.Counter)
  for way in ways:
    assert way[0] == 0 and way[-1] == 1 and (np.diff(way) > 0).all()
    assert (way * segments == np.round(way * segments)).all()
    by_runs[len(way) - 1][tuple(way)] += 1

  assert set(by_runs) == set(range(1, segments))
  for counts in by_runs.values():
    share = sum(counts.values()) / num
    assert share == pytest.approx(1 / (segments - 1), abs=0.04)
    for count in counts.values():
      expected = sum(counts.values()) / len(counts)
      assert count == pytest.approx(expected, rel=0.2)
  cuts = {2: [1], 3: [1, 2], 4: [1, 3, 3]}[segments]
  assert [len(by_runs[runs]) for runs in sorted(by_runs)] == cuts


def test_a_way_is_of_seed_and_step_alone():
  np.testing.assert_array_equal(drawn_way(3, 7, 8), drawn_way(3, 7, 8))
  others = [drawn_way(4, 7, 8), drawn_way(3, 8, 8)]
  assert any(not np.array_equal(drawn_way(3, 7, 8), way) for way in others)


# --------------------------------------------------------------------- loss


def test_equal_steps_are_those_of_a_model_of_as_many_runs():
  """In value, and the gradient of J is the sum of its three parts'."""
  model = elastic()
  params = tiny.params(model)
  grads, metrics = gradient(params, model, loss_of(RUNS, A, B), HALVES)

  short = elastic(runs=2)
  long_grads, long = gradient(params, model, loss_of(RUNS))
  short_grads, shorter = gradient(params, short, loss_of(2))
  np.testing.assert_allclose(metrics['loss_shortcut'], shorter['loss'], 1e-5)
  assert shorter['loss'] != long['loss']

  def end(params, model):
    """The last run's state behind the norm of the head, before the coda."""
    bound = model.bind({'params': params})
    travel = Travel(positions(LENGTH))
    layer = bound.windows(Places(positions(LENGTH)))
    state = bound.start(BATCH['tokens'], travel.position_BxT)
    cells = bound.grid.cells
    walked = walk(bound, cells, state, None, layer=layer, travel=travel)
    return bound.normed(0, walked.state[RUNNING])

  @jax.jit
  def distance(params, fixed):
    return ((end(fixed, model) - end(params, short)) ** 2).mean()

  value, match_grads = jax.value_and_grad(distance)(params, params)
  np.testing.assert_allclose(metrics['shortcut_distance'], value, 1e-5)
  total = long['loss'] + A * shorter['loss'] + B * value
  np.testing.assert_allclose(metrics['loss'], total, 1e-5)

  def weighed(long, short, match):
    return long + A * short + B * match

  expected = jax.tree.map(weighed, long_grads, short_grads, match_grads)
  tiny.assert_trees_close(grads, expected, 1e-4, 1e-5)


def test_the_long_way_is_no_shortcut():
  """Cut as it is, the same loss, and nothing is left to match."""
  model = elastic()
  way = way_of(0, 0.25, 0.5, 0.75, 1)
  spec = loss_of(RUNS, A, B)
  _, metrics = gradient(tiny.params(model), model, spec, way)
  assert metrics['loss_shortcut'] == metrics['loss_final']
  assert metrics['shortcut_distance'] == 0


def test_uneven_steps_are_told_to_the_layers():
  model = elastic()
  params = tiny.params(model)
  spec = loss_of(RUNS, A, B)
  _, halves = gradient(params, model, spec, HALVES)
  _, uneven = gradient(params, model, spec, UNEVEN)
  assert halves['loss_shortcut'] != uneven['loss_shortcut']
  assert halves['loss_final'] == uneven['loss_final']

  bound = with_segments(model, 2).bind({'params': params})
  travel = Travel(positions(LENGTH))
  layer = bound.windows(Places(positions(LENGTH)))
  state = bound.start(BATCH['tokens'], travel.position_BxT)
  state = walk(
    bound, bound.grid.prelude, state, None, layer=layer, travel=travel
  ).state
  for start, step in ((0.0, 0.25), (0.25, 0.75)):
    leap = Leap(jnp.float32(start), jnp.float32(step))
    state = walk(
      bound,
      bound.grid.first,
      state,
      None,
      layer=layer,
      travel=travel._replace(leap=leap),
    ).state
  h_BxTxD = bound.through_coda(state, layer, travel)
  expected = segmented.mean_nll(bound, 0, h_BxTxD, BATCH)
  np.testing.assert_allclose(uneven['loss_shortcut'], expected, 1e-5)


def test_masked_tokens_have_no_distance():
  model = elastic()
  params = tiny.params(model)
  half = {name: x[:1] for name, x in BATCH.items()}
  masked = dict(BATCH)
  masked['mask'] = BATCH['mask'] * np.float32([1, 0, 0])[:, None]

  @functools.partial(jax.jit, static_argnames='spec')
  def metrics_of(batch, spec):
    key = segmented.key_of()
    return losses.grid_loss(
      params, model, spec, batch, 0, key, None, None, UNEVEN
    )[1]

  spec = loss_of(RUNS, A, B)
  alone = metrics_of(half, spec)
  beside = metrics_of(masked, spec)
  for name in ('loss_shortcut', 'shortcut_distance'):
    np.testing.assert_allclose(alone[name], beside[name], 1e-5)


@pytest.mark.parametrize('dropout', [0.0, 0.1])
def test_parts_of_a_batch_take_the_same_shortcut(dropout):
  """With an injection; and with dropout all of it is finite."""
  model = elastic(runs=2, inject='add', carry_init='input', dropout=dropout)
  params = tiny.params(model)
  spec = loss_of(2, A, B)

  @functools.partial(jax.jit, static_argnames='accumulate')
  def mean_of(accumulate):
    key = segmented.key_of()
    return update.mean_gradient(
      params,
      tiny.batch(rows=4),
      0,
      key,
      model=model,
      loss_spec=spec,
      accumulate=accumulate,
      way=way_of(0, 1),
    )

  parts, metrics = mean_of(2)
  assert np.isfinite(metrics['shortcut_distance'])
  if dropout == 0:
    whole, expected = mean_of(1)
    tiny.assert_trees_close(parts, whole, 1e-4, 1e-5)
    tiny.assert_trees_close(metrics, expected, 1e-4, 1e-5)


# --------------------------------------------------------------------- runs


def make_config(**changes):
  c = training.make_plain_config(**changes)
  fields = dict(body='refine', segments=3, carry_backprop=3, per_run='film')
  tiny.update_model(c.model, **fields)
  c.model.refine.inject = 'none'
  c.model.refine.elastic = True
  c.loss.shortcut_weight = A
  return c


def test_a_resumed_run_takes_the_same_shortcuts(tmp_path):
  run_specs = training.make_specs(make_config())
  straight = tmp_path / 'straight'
  training.run(run_specs, straight)
  rows = training.events(straight)
  assert any('loss_shortcut' in row for row in rows)

  resumed = tmp_path / 'resumed'
  with pytest.raises(KeyboardInterrupt):
    training.run(run_specs, resumed, training.dying_task(4))
  training.run(run_specs, resumed)
  training.assert_same_run(run_specs, straight, resumed)


def test_training_counts_the_shortcuts_that_are_drawn():
  c = make_config(steps=20)
  spec = training.make_specs(c)
  c.loss.shortcut_weight = 0.0
  c.model.refine.elastic = False
  plain = training.make_specs(c)

  prices = spec.body.costs(c.data.seq_len)
  runs = [len(drawn_way(c.seed, step, 3)) - 1 for step in range(20)]
  layer = float(prices.block_L[0])
  expected = 3 * (np.mean(runs) * layer + prices.head)
  more = spec.train_flops - plain.train_flops
  assert more == pytest.approx(expected, rel=1e-6)


def test_quality_by_runs_is_that_of_the_whole_way_in_so_many():
  model = elastic(coda=0)
  params = tiny.params(model)
  task = sweeps.task(select=64, test=64)
  spec = sweeps.spec(signals=('max_prob',), policies=('copy_state',))
  rows = evaluation.evaluate(spec, model, params, task, GateSpec()).segments
  assert [row.segments for row in rows] == [1, 2, 3, 4]

  def nll_of(short):
    dump = passes.grid_dump(
      short, params, lambda: task.eval_batches('test', 2, 0), ()
    )
    return dump.nll_KxRxT[-1][dump.mask_RxT > 0].mean()

  # Built for so many runs, each of which makes its part of the way.
  for row in rows[1:]:
    short = elastic(runs=row.segments, coda=0)
    assert row.report.nll == pytest.approx(nll_of(short), rel=1e-5)
  stiff = elastic(elastic=False, coda=0)
  assert rows[1].report.nll != pytest.approx(nll_of(with_segments(stiff, 2)))


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'model.refine.elastic': False},
      'loss.shortcut_weight=0.1 needs runs that know how far they go; use '
      'model.body=refine with model.refine.per_run=film and elastic=True, or '
      '0.0',
    ),
    (
      {'loss.shortcut_weight': 0.0},
      'loss.shortcut_weight=0.0 leaves model.refine.elastic=True without what '
      'teaches it; use 0.1, or elastic=False',
    ),
    (
      {'model.refine.per_run': 'none'},
      'model.refine.elastic=True has no effect: it is read where '
      "model.refine.per_run is film only, and that is 'none'; change that, or "
      'leave elastic at False',
    ),
    (
      {'model.refine.inject': 'lanes', 'model.refine.carry_init': 'input'},
      'model.refine.elastic=True does not fit inject=lanes, whose numbers '
      'belong to runs and not to the way they make; use another one',
    ),
    (
      {'loss.weights': 'uniform'},
      'loss.shortcut_weight=0.1 trains any number of runs by their end alone; '
      'use loss.weights=final, loss.schedule=constant, '
      'loss.token_fraction=1.0, loss.exit_threshold=0.0 and loss.target=label',
    ),
    (
      {'model.carry_backprop': 2, 'model.refine.inject': 'add'},
      'loss.shortcut_weight=0.1 does not fit model.carry_backprop=2 of '
      'model.segments=4: the whole way is learned; use as many',
    ),
    (
      {'train.runs': 'late'},
      'loss.shortcut_weight=0.1 does not fit train.runs=late or '
      'train.backprop=constant: shortcuts draw their own numbers of runs; use '
      'constant for both',
    ),
    (
      {
        'train.layer_dropout': 0.5,
        'model.num_layers': 2,
        'model.readouts': (2,),
      },
      'loss.shortcut_weight=0.1 does not fit a model.router or '
      'train.layer_dropout=0.5: fewer runs have other cells; use none and 0.0',
    ),
    (
      {'loss.gates': ('calm',)},
      'loss.shortcut_weight=0.1 does not fit train.freeze=nothing or '
      "loss.gates=('calm',): all of the model learns; use nothing and no gates",
    ),
    (
      {'loss.shortcut_weight': -1.0},
      'loss.shortcut_weight=-1.0 must be at least 0',
    ),
    (
      {
        'loss.shortcut_weight': 0.0,
        'loss.shortcut_match': 0.5,
        'model.refine.elastic': False,
      },
      'loss.shortcut_match=0.5 has no effect: it is read where '
      'loss.shortcut_weight is on only, and that is 0.0; change that, or leave '
      'shortcut_match at 0.1',
    ),
  ],
)
def test_what_does_not_fit_is_refused(changes, message):
  c = presets.loopformer(presets.small(), segments=4, num_layers=1)
  c.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError) as error:
    specs.from_config(c)
  assert str(error.value) == message


def test_its_preset_makes_a_model_elastic():
  c = presets.loopformer(presets.small(), segments=4, num_layers=1)
  assert specs.from_config(c).body.elastic
