"""What is equal to the last bit: `test_exact.py` runs it as users would.

The other tests compile with few optimisations. Equal bits of two different
programs are a promise about the optimised ones.
"""

import compiled
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import decode
from ease_jax.core.objective import LossSpec
from ease_jax.decode import step as steps
from ease_jax.evaluate import passes, traces

FINAL = dict(num_layers=3, readouts=(1, 2, 3))
BATCH = tiny.batch()


def test_all_weight_on_the_last_readout_is_a_plain_model():
  """The program of a model that has no other readout."""
  grid = tiny.stack(**FINAL)
  plain = tiny.stack(**FINAL | dict(readouts=(3,)))
  # The same tree: a standard checkpoint loads into a model with readouts.
  tiny.assert_trees_equal(tiny.params(grid), tiny.params(plain))
  got = tiny.grid_step(
    tiny.params(grid), BATCH, model=grid, spec=LossSpec((0.0, 0.0, 1.0))
  )
  expected = tiny.grid_step(
    tiny.params(plain), BATCH, model=plain, spec=LossSpec((1.0,))
  )
  tiny.assert_trees_equal(got, expected)


def test_the_last_logits_are_those_of_the_standard_model():
  grid = tiny.stack(**FINAL)
  plain = tiny.stack(**FINAL | dict(readouts=(3,)))
  params = tiny.params(grid)
  every = tiny.logits(params, BATCH['tokens'], model=grid)
  assert every.shape == (3, 3, 12, tiny.VOCAB)
  last = tiny.logits(params, BATCH['tokens'], model=plain)
  np.testing.assert_array_equal(every[-1], last[0])
  assert not np.allclose(every[0], every[-1], atol=0.1)


def test_one_segment_is_the_stack():
  stack = tiny.stack(num_layers=2)
  refine = tiny.refine(segments=1)
  params = tiny.params(stack)
  spec = LossSpec((0.3, 0.7))
  tiny.assert_trees_equal(
    tiny.grid_step(params, BATCH, model=stack, spec=spec),
    tiny.grid_step(params, BATCH, model=refine, spec=spec),
  )
  tiny.assert_trees_equal(
    tiny.logits(params, BATCH['tokens'], model=stack),
    tiny.logits(params, BATCH['tokens'], model=refine),
  )


@pytest.mark.parametrize('policy', ['recompute', 'copy_state', 'drop'])
def test_thresholds_at_infinity_are_the_first_and_the_last_readout(policy):
  model = tiny.stack(**FINAL)
  params = tiny.params(model)

  def batches():
    return [BATCH]

  dump = passes.grid_dump(model, params, batches, ('max_prob',))
  off = traces.trace(model, params, batches, dump, None)
  for threshold, k in ((np.inf, 2), (-np.inf, 0)):
    point = tiny.point('max_prob', policy, threshold)
    walk = tiny.masked(model, params, point, BATCH)
    assert (walk.exit_BxT == k).all()
    np.testing.assert_array_equal(walk.observation.nll, dump.nll_KxRxT[k])
    if threshold > 0:
      # Off is not a special program: the trace takes the last readout.
      np.testing.assert_array_equal(off.nll_RxT, walk.observation.nll)
      np.testing.assert_array_equal(off.exit_RxT, walk.exit_BxT)


def test_the_last_threshold_cannot_matter():
  model = tiny.stack(**FINAL)
  params = tiny.params(model)
  walks = [
    tiny.masked(
      model,
      params,
      tiny.point('max_prob', 'copy_state', (0.5, 0.5, last)),
      BATCH,
    )
    for last in (np.inf, -np.inf)
  ]
  tiny.assert_trees_equal(*walks)


def test_remat_changes_no_bit_of_the_loss():
  model = tiny.stack(**FINAL)
  remat = tiny.stack(**FINAL, remat=True)
  params = tiny.params(remat)
  tiny.assert_trees_equal(params, tiny.params(model))
  spec = LossSpec((1.0,) * 3)
  got = tiny.grid_step(params, BATCH, model=remat, spec=spec)
  expected = tiny.grid_step(params, BATCH, model=model, spec=spec)
  np.testing.assert_array_equal(got[0], expected[0])
  tiny.assert_trees_close(got[1], expected[1])


@pytest.mark.parametrize('policy', ['copy_state', 'drop'])
def test_a_step_multiplies_no_matrix_but_in_a_branch(policy):
  """R22: of the program that is executed, not by its own count.

  A program that runs every layer and then selects among the results has its
  products where they are always run.
  """
  model = tiny.stack(**FINAL)
  point = tiny.point('max_prob', policy, (0.5, 0.5, np.inf))
  rows = steps.Rows(
    token_B=jnp.zeros(1, jnp.int32),
    position_B=jnp.full(1, 2),
    end_B=jnp.full(1, 9),
    done_B=jnp.zeros(1, bool),
    key_B=jax.random.split(jax.random.key(0), 1),
  )
  text = (
    steps.step.lower(
      tiny.params(model),
      decode.init_cache(model, 1, 8),
      rows,
      point.threshold_K(3),
      np.int32(-1),
      model=model,
      rule=point.rule,
      sampling=decode.Sampling(),
    )
    .compile()
    .as_text()
  )
  assert compiled.products_always_run(text) == []
  heads = 3
  assert compiled.products_in_branches(text) >= model.grid.depth + heads
