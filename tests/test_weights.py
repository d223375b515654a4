import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ease_jax.core import weights

CELLS = tuple((1, layer) for layer in (1, 2, 3, 4))


@pytest.mark.parametrize(
  'kind, cells, options, expected',
  [
    ('final', CELLS, {}, (0, 0, 0, 1)),
    ('uniform', CELLS, {}, (1, 1, 1, 1)),
    ('linear', CELLS, {}, (0.25, 0.5, 0.75, 1)),
    # e(l) = s * (0 + 1 + .. + l), l from 0, and L - 1 more at the end.
    ('layerskip', CELLS, dict(e_scale=0.5), (0, 0.5, 1.5, 3 + 1.5)),
    ('layerskip', ((1, 2), (1, 4)), dict(e_scale=1.0), (1, 6)),
    ('chosen', CELLS, dict(chosen=((2, 0.3), (4, 0.7))), (0, 0.3, 0, 0.7)),
    (
      'matrix',
      ((1, 2), (1, 3), (2, 1), (2, 3)),
      dict(matrix=((0, 2, 3), (4, 0, 6))),
      (2, 3, 4, 6),
    ),
  ],
)
def test_weights_of_the_readouts(kind, cells, options, expected):
  section = dict(chosen=(), matrix=(), e_scale=0.2) | options
  weight_K = weights.WEIGHTS[kind](cells, section)
  assert weight_K == pytest.approx(expected)


@pytest.mark.parametrize(
  'kind, step, expected',
  [
    ('constant', 0, (1, 1, 1, 1)),
    ('linear_warmup', 0, (0, 0, 0, 1)),
    ('linear_warmup', 2, (0.25, 0.25, 0.25, 1)),
    ('linear_warmup', 8, (1, 1, 1, 1)),
    ('linear_warmup', 99, (1, 1, 1, 1)),
    ('cosine_warmup', 0, (0, 0, 0, 1)),
    ('cosine_warmup', 4, (0.5, 0.5, 0.5, 1)),
    ('cosine_warmup', 2, (0.14644661,) * 3 + (1,)),
    ('cosine_warmup', 8, (1, 1, 1, 1)),
    # Every second readout, shifted by one each step.
    ('rotate', 0, (1, 0, 1, 1)),
    ('rotate', 1, (0, 1, 0, 1)),
    ('rotate', 2, (1, 0, 1, 1)),
    # One more from the top every steps / K updates.
    ('gradual', 0, (0, 0, 0, 1)),
    ('gradual', 2, (0, 0, 1, 1)),
    ('gradual', 3, (0, 0, 1, 1)),
    ('gradual', 4, (0, 1, 1, 1)),
    ('gradual', 8, (1, 1, 1, 1)),
    # Readout k of K stops at k/K of the steps; the last never does.
    ('switch_off', 0, (1, 1, 1, 1)),
    ('switch_off', 1, (1, 1, 1, 1)),
    ('switch_off', 2, (0, 1, 1, 1)),
    ('switch_off', 5, (0, 0, 1, 1)),
    ('switch_off', 6, (0, 0, 0, 1)),
    ('switch_off', 50, (0, 0, 0, 1)),
  ],
)
@pytest.mark.parametrize('jit', [False, True])
def test_schedule_factors(kind, step, expected, jit):
  def factors(step):
    return weights.schedule_factors(kind, step, 4, 8, 2)

  run = jax.jit(factors) if jit else factors
  factor_K = run(jnp.int32(step))
  chex.assert_shape(factor_K, (4,))
  np.testing.assert_allclose(factor_K, expected, rtol=1e-6, atol=1e-7)
