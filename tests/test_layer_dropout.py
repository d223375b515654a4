"""Layer dropout: rows of a training batch that skip layers.

That a run with it resumes is in test_resume.py, what an update costs in
test_train_flops.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training

import tiny
from ease_jax.checks import ConfigError
from ease_jax.core.layer_dropout import LayerDropout
from ease_jax.core.objective import LossSpec
from ease_jax.model import attention as attention_lib
from ease_jax.model import routed
from ease_jax.model.sight import Places, Sight
from ease_jax.model.walk import RUNNING, Travel, walk
from ease_jax.train import loss as losses

ROWS = 8
LENGTH = 6
BATCH = tiny.batch(ROWS, LENGTH)
PLAIN = tiny.stack()
PARAMS = tiny.params(PLAIN)
DROPS = LayerDropout(0.5, 'exponential', ROWS)
MODEL = routed(PLAIN, DROPS)


@functools.partial(jax.jit, static_argnames='model')
def trained(key, *, model):
  """States after the last layer, and who ran each, None = everybody."""
  bound = model.bind({'params': PARAMS})
  travel = Travel(attention_lib.positions(LENGTH), key)
  walked = walk(
    bound,
    model.grid.segment,
    bound.start(BATCH['tokens'], travel.position_BxT),
    None,
    layer=bound.windows(Places(attention_lib.positions(LENGTH))),
    travel=travel,
  )
  return walked.state[RUNNING], [call.goes_BxT for call in walked.calls]


@jax.jit
def by_hand(goes_LxB):
  """All rows through all layers, and the results of some thrown away."""
  bound = PLAIN.bind({'params': PARAMS})
  position_1xT = attention_lib.positions(LENGTH)
  rotation = attention_lib.rotation(PLAIN.cfg, position_1xT)
  sight = Sight('causal', 0, position_1xT)
  h_BxTxD = bound.start(BATCH['tokens'], position_1xT)[RUNNING]
  for cell, goes_B in zip(PLAIN.grid.cells, goes_LxB, strict=True):
    new_BxTxD = bound.block(cell, 0)(h_BxTxD, sight, rotation)
    h_BxTxD = jnp.where(goes_B[:, None, None], new_BxTxD, h_BxTxD)
  return h_BxTxD


def rows_of(goes_L):
  """[L, B]: all tokens of a row run a layer, or none does."""
  full = np.ones((ROWS, LENGTH), bool)
  goes_LxBxT = np.stack([full if goes is None else goes for goes in goes_L])
  assert (goes_LxBxT == goes_LxBxT[:, :, :1]).all()
  return goes_LxBxT[:, :, 0]


def test_whole_rows_skip_layers_more_of_them_deeper():
  """p = 0.5 (2^(l / 3) - 1) of 8 rows: 0, 1.04, 2.35, 4."""
  state_BxTxD, goes_L = trained(jax.random.key(0), model=MODEL)
  goes_LxB = rows_of(goes_L)
  np.testing.assert_array_equal((~goes_LxB).sum(1), [0, 1, 2, 4])
  np.testing.assert_allclose(state_BxTxD, by_hand(goes_LxB), 1e-5, 1e-5)


def test_which_rows_is_a_function_of_the_key():
  """R30; no two layers draw the same."""
  uniform = routed(PLAIN, LayerDropout(0.5, 'uniform', ROWS))
  draws = []
  for seed in (0, 0, 1):
    _, goes_L = trained(jax.random.key(seed), model=uniform)
    draws.append(rows_of(goes_L))
  np.testing.assert_array_equal(draws[0], draws[1])
  assert (draws[0] != draws[2]).any()
  assert len({goes_B.tobytes() for goes_B in draws[0]}) == 4
  # Over many keys each row skips as often as the others.
  skips_B = np.zeros(ROWS)
  for seed in range(100):
    _, goes_L = trained(jax.random.key(seed), model=uniform)
    skips_B += (~rows_of(goes_L)).mean(0)
  assert 40 < skips_B.min() and skips_B.max() < 60


def test_evaluation_knows_of_none_of_it():
  c = training.make_plain_config(layer_dropout=0.5)
  c.model.num_layers = 2
  assert not training.make_specs(c).body.grid.routed
  # Also where training itself evaluates, as for a target.
  logits = [
    jax.jit(model.apply)({'params': PARAMS}, BATCH['tokens'])
    for model in (PLAIN, MODEL)
  ]
  np.testing.assert_array_equal(*logits)


def test_dropout_0_is_the_model_itself():
  """Bit for bit, as it is the same program."""
  run_specs = training.plain_specs()
  assert run_specs.train.phases == (None,)
  assert routed(run_specs.body, run_specs.train.layer_dropout_at(3)) == (
    run_specs.body
  )


def test_every_parameter_learns():
  grads, _ = jax.jit(losses.grid_gradient, static_argnums=(1, 2))(
    PARAMS, MODEL, LossSpec((0.0, 0.0, 0.0, 1.0)), BATCH, 0, jax.random.key(0)
  )
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert (np.asarray(grad) != 0).any(), path


def test_a_schedule_has_a_few_phases():
  """S(t) = 2^t - 1 in the middle of each quarter; a step is compiled for it."""
  rising = training.plain_specs(
    layer_dropout=0.8,
    layer_dropout_shape='uniform',
    layer_dropout_schedule='rising',
    steps=8,
  )
  drops = [rising.train.layer_dropout_at(step) for step in range(8)]
  assert drops[::2] == drops[1::2] == list(rising.train.phases)
  middles = 0.8 * (2 ** (np.asarray([1, 3, 5, 7]) / 8) - 1)
  np.testing.assert_allclose([d.most for d in drops[::2]], middles)

  falling = training.plain_specs(
    layer_dropout=0.8,
    layer_dropout_shape='uniform',
    layer_dropout_schedule='falling',
    steps=8,
  )
  back = [drop.most for drop in falling.train.phases]
  np.testing.assert_allclose(back[::-1], middles)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'layer_dropout': 1.0}, 'train.layer_dropout=1.0 must be below 1'),
    ({'layer_dropout': -0.1}, 'train.layer_dropout=-0.1 must be at least 0'),
    (
      {'layer_dropout': 0.1},
      'train.layer_dropout=0.1 of train.batch_size=4 in train.accumulate=1 '
      'parts rounds to no row in any layer; raise one of them, or use 0',
    ),
    (
      {'layer_dropout': 0.9},
      'train.layer_dropout leaves none of the 4 rows that are run at once '
      '(train.batch_size / train.accumulate) to layer 2; lower it, or raise '
      'the rows',
    ),
    (
      {'layer_dropout': 0.5, 'layer_dropout_shape': 'steep'},
      "train.layer_dropout_shape='steep' is unknown; use one of: exponential, "
      'uniform',
    ),
    (
      {'layer_dropout_schedule': 'rising'},
      "train.layer_dropout_schedule='rising' has no effect: it is read where "
      'train.layer_dropout is on only, and that is 0.0; change that, or leave '
      "layer_dropout_schedule at 'constant'",
    ),
  ],
)
def test_what_cannot_be_dropped_is_said_in_a_line(changes, message):
  c = training.make_plain_config(**changes)
  c.model.num_layers = 2
  with pytest.raises(ConfigError) as error:
    training.make_specs(c)
  assert str(error.value) == message


@pytest.mark.parametrize(
  'fields, message',
  [
    (
      dict(router='mod'),
      'train.layer_dropout does not fit model.router=mod: a layer has one '
      'router; leave one of them at its default',
    ),
    (
      dict(body='refine', segments=2),
      'train.layer_dropout would let tokens pass layer 1, which combines x and '
      'z: their sum would go on as it is; route other layers, or use another '
      'model.body',
    ),
  ],
)
def test_layers_that_cannot_be_dropped_are_said_in_a_line(fields, message):
  c = training.make_plain_config(
    layer_dropout=0.5, layer_dropout_shape='uniform'
  )
  tiny.update_model(c.model, num_layers=2, **fields)
  with pytest.raises(ConfigError) as error:
    training.make_specs(c)
  assert str(error.value) == message
