"""The cache: its sizes, its blocks of rows, and who reads it."""

import jax
import jax.numpy as jnp
import numpy as np
from generation import PARAMS, PROMPTS, STACK, WARM, generate, point_of, sampled

import tiny
from ease_jax import decode
from ease_jax.decode import cache, loop
from ease_jax.decode import step as steps


def test_capacities_are_few():
  sizes = [cache.capacity_for(slots) for slots in (1, 64, 65, 97, 129, 700)]
  assert sizes == [64, 64, 96, 128, 192, 768]


def test_a_short_text_needs_little_cache():
  point = point_of('stack', 'max_prob', 'copy_state')
  filled, _ = loop.prefilled(
    STACK, PARAMS, [[1] * 20], point, decode.Options(500, 1000)
  )
  assert filled.capacity == 64


def test_blocks_hold_nearly_equal_numbers_of_rows():
  sizes = [cache.row_blocks(rows) for rows in (1, 3, 8, 11)]
  assert sizes == [[1], [1, 1, 1], [2, 2, 2, 2], [2, 3, 3, 3]]


def test_blocks_of_rows_change_nothing(monkeypatch):
  point = point_of('stack', 'max_prob', 'copy_state')
  expected = sampled('stack', 'max_prob', 'copy_state')
  for blocks in 1, 2:  # 2: not of one size
    monkeypatch.setattr(cache, 'MAX_BLOCKS', blocks)
    steps.prefill.clear_cache()  # its caches have the blocks of before
    again = generate(PROMPTS, point, sampling=WARM)
    tiny.assert_trees_equal(expected, again)
  steps.prefill.clear_cache()


def test_rows_that_exited_do_not_attend():
  """Their keys are not read: what is no number in them does no harm."""
  empty = decode.init_cache(STACK, 3, 8)

  def harmed(blocks):
    return tuple(
      block + jnp.nan if b == 1 else block for b, block in enumerate(blocks)
    )

  seen = empty._replace(
    seen_LxBxC=empty.seen_LxBxC.at[:, :, :4].set(True),
    key=tuple(harmed(blocks) for blocks in empty.key),
  )
  at_B = np.full(3, 4, np.int32)
  never = tiny.point('max_prob', 'copy_state', np.inf)

  for done, expected in ((False, [1]), (True, [])):
    rows = loop.start(STACK, None, at_B, at_B, at_B + 9, 0)
    rows = rows._replace(done_B=jnp.asarray([False, done, False]))
    _, logits_BxV, _, _ = steps.step(
      PARAMS,
      seen,
      rows,
      jnp.asarray(never.threshold_K(3)),
      np.int32(-1),
      model=STACK,
      rule=never.rule,
      sampling=decode.Sampling(),
    )
    is_nan_B = np.isnan(jax.device_get(logits_BxV)).any(1)
    assert np.flatnonzero(is_nan_B).tolist() == expected
