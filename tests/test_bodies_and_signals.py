"""Every body under every K/V policy and kind of signal (R9).

One parallel pass gives exactly what decoding token by token with a cache
gives. The programs are compiled once for each case and shared by the tests.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reference
import tiny
from ease_jax import decode
from ease_jax.core.policies import choices
from ease_jax.evaluate import passes, traces

ROWS = 2
LENGTH = 16
BATCH = tiny.batch(ROWS, LENGTH)
CHANGED = 9  # a position

BODIES = {
  # Its third layer has no readout.
  'stack': tiny.stack(readouts=(1, 2, 4)),
  # What imported models have.
  'foreign': tiny.stack(
    norm='sandwich', mlp='geglu', head_dim=6, qkv_bias=True, qk_norm='head'
  ),
  'local': tiny.stack(
    norm='branch',
    qk_norm='all',
    embedding_scale=3.0,
    rope_factors=(1.0, 4.0),
    global_every=2,
    local_rope_base=50.0,
    window=3,
  ),
  'near': tiny.stack(readouts=(1, 2, 4), window=4, frequent_tokens=7),
  'screened': tiny.stack(
    readouts=(1, 2, 4), screen_rank=3, screen_candidates=9, logit_cap=4.0
  ),
  'capped': tiny.stack(
    readouts=(1, 2, 4), score_cap=0.5, logit_cap=1.5, query_width=7
  ),
  'biased': tiny.stack(
    norm_kind='layer',
    positions=LENGTH,
    rope_share=0.0,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    readout_norm='per_readout',
  ),
  'parallel': tiny.stack(
    norm_kind='layer', parallel=True, mlp='gelu_exact', rope_share=0.5
  ),
  'adapted': tiny.stack(
    readout_adapters=('low_rank', 'map', 'mlp', 'head'),
    readout_dim=3,
    lora_rank=2,
  ),
  # Readouts with a block of their own, beside the layers.
  'aside': tiny.stack(
    readouts=(1, 2, 4), readout_adapters=('block', 'mlp'), readout_dim=3
  ),
  'gated': tiny.stack(
    readouts=(1, 2, 4), gates=('calm', 'dat', 'gain'), gate_dim=8
  ),
  'refine': tiny.refine(
    carry_init='input', gates=('dat_multinomial', 'ouro'), gate_dim=8
  ),
  'learned': tiny.refine(carry_init='learned', inject='gate'),
  'random': tiny.refine(carry_init='random', inject='concat', carry_norm=True),
  # What a layer of its own made meets what the middle ended on; one more ends.
  'core': tiny.refine(
    num_layers=1,
    segments=4,
    prelude=1,
    coda=1,
    carry_init='input',
    inject='concat',
    carry_norm=True,
  ),
  'middle': tiny.refine(
    num_layers=1, segments=4, prelude=1, coda=1, inject='none'
  ),
  'lanes': tiny.refine(
    num_layers=1,
    prelude=1,
    coda=1,
    carry_init='input',
    inject='lanes',
    carry_norm=True,
  ),
  # One layer in two places of each run.
  'named': tiny.refine(
    num_layers=3, segments=2, blocks=(0, 1, 0), readouts=(2, 3), window=5
  ),
  # Runs that differ.
  'lora': tiny.refine(
    num_layers=1, segments=4, prelude=1, inject='none', per_run='lora', rank=2
  ),
  'film': tiny.refine(
    num_layers=1,
    segments=4,
    carry_init='input',
    inject='concat',
    carry_norm=True,
    per_run='film',
  ),
  'hrm': tiny.hrm(cycles=1, segments=2),
  # One network, pre-norm, whose input is the first high state.
  'text': tiny.hrm(
    cycles=1,
    segments=3,
    shared=True,
    norm='pre',
    carry_init='input',
    carry_norm=True,
    gates=(),
  ),
  'mod': tiny.stack(readouts=(1, 3, 4), router='mod'),
  'predictor': tiny.stack(
    readouts=(1, 3, 4), router='mod', choice='predictor', gate='sigmoid'
  ),
  # The second readout stands within a run.
  'mor': tiny.recursions(readouts=(2, 3, 6)),
  'once': tiny.recursions(num_layers=5, own=1, choice='token'),
}
SIGNALS = {
  'stack': (
    'max_prob',
    'kl',
    'state_cosine',
    'patience',
    'shortlist',
  ),
  'refine': ('max_prob', 'dat_multinomial', 'ouro', 'shortlist'),
  'foreign': ('max_prob',),
  'local': ('max_prob',),
  'adapted': ('max_prob', 'shortlist'),
  'aside': ('max_prob', 'state_change', 'patience'),
  'near': ('max_prob', 'frequent'),
  'screened': ('max_prob', 'shortlist'),
  'capped': ('max_prob', 'kl', 'shortlist'),
  'biased': ('max_prob',),
  'parallel': ('max_prob',),
  'gated': ('calm', 'dat', 'gain'),
  'learned': ('kl',),
  'random': ('patience',),
  'core': ('state_change',),
  'middle': ('state_change',),
  'lanes': ('state_change',),
  'named': ('max_prob',),
  'lora': ('kl',),
  'film': ('kl',),
  'hrm': ('max_prob', 'q_halt'),
  'text': ('kl',),
  'mod': ('max_prob',),
  'predictor': ('kl',),
  'mor': ('max_prob',),
  'once': ('kl',),
}
UNTIED = ('recompute', 'copy_state', 'drop')
CASES = [
  *(('stack', 'max_prob', policy) for policy in UNTIED),
  ('foreign', 'max_prob', 'copy_state'),
  ('local', 'max_prob', 'copy_state'),
  ('adapted', 'max_prob', 'copy_state'),
  ('adapted', 'shortlist', 'copy_state'),
  *(('aside', 'max_prob', policy) for policy in ('copy_state', 'drop')),
  ('aside', 'state_change', 'copy_state'),
  ('aside', 'patience', 'copy_state'),
  *(('near', 'max_prob', policy) for policy in UNTIED),
  ('screened', 'max_prob', 'copy_state'),
  ('screened', 'shortlist', 'copy_state'),
  ('capped', 'max_prob', 'copy_state'),
  ('capped', 'kl', 'recompute'),
  ('capped', 'shortlist', 'drop'),
  ('biased', 'max_prob', 'drop'),
  ('parallel', 'max_prob', 'copy_state'),
  ('stack', 'kl', 'copy_state'),
  ('stack', 'state_cosine', 'drop'),
  ('stack', 'patience', 'recompute'),
  ('stack', 'shortlist', 'copy_state'),
  ('refine', 'ouro', 'copy_state'),
  ('refine', 'dat_multinomial', 'latest'),
  ('refine', 'shortlist', 'recompute'),
  *(('refine', 'max_prob', policy) for policy in choices()),
  ('gated', 'calm', 'copy_state'),
  ('gated', 'dat', 'drop'),
  ('gated', 'gain', 'recompute'),
  ('learned', 'kl', 'latest'),
  ('random', 'patience', 'drop'),
  ('core', 'state_change', 'latest'),
  ('middle', 'state_change', 'copy_state'),
  ('lanes', 'state_change', 'latest'),
  ('named', 'max_prob', 'latest'),
  ('lora', 'kl', 'latest'),
  ('lora', 'kl', 'copy_state'),
  ('film', 'kl', 'copy_state'),
  ('hrm', 'max_prob', 'copy_state'),
  ('hrm', 'q_halt', 'recompute'),
  ('hrm', 'q_halt', 'latest'),
  ('text', 'kl', 'latest'),
  *(('mod', 'max_prob', policy) for policy in UNTIED),
  ('predictor', 'kl', 'copy_state'),
  *(('mor', 'max_prob', policy) for policy in choices()),
  ('once', 'kl', 'copy_state'),
]
every_case = pytest.mark.parametrize('name, signal, policy', CASES)


def batches():
  return [BATCH]


def params_of(name):
  return tiny.params(BODIES[name])


@functools.cache
def dump_of(name):
  """Every readout of every token, with the scores of the body's signals."""
  return passes.grid_dump(BODIES[name], params_of(name), batches, SIGNALS[name])


def in_the_widest_gap(score_RxT):
  """Between two scores of the middle half that are far from each other."""
  score_N = np.sort(score_RxT.reshape(-1))
  quarter = len(score_N) // 4
  middle_N = score_N[quarter:-quarter]
  gap = np.diff(middle_N).argmax()
  return middle_N[gap : gap + 2].mean()


def thresholds(name, signal):
  """One for each readout, such that some tokens stop there and some do not."""
  num = BODIES[name].grid.num_readouts
  if signal == 'patience':
    return np.asarray([np.inf, 1, 1, 2, 2, np.inf][:num], np.float32)

  threshold_K = np.full(num, np.inf, np.float32)
  for k, score_RxT in enumerate(dump_of(name).score_KxRxT[signal][:-1]):
    if np.isfinite(score_RxT).all():  # else it has no readout before it
      threshold_K[k] = in_the_widest_gap(score_RxT)
  return threshold_K


def point_of(name, signal, policy):
  return tiny.point(signal, policy, thresholds(name, signal))


def parallel(name, point, batch=BATCH):
  return tiny.masked(BODIES[name], params_of(name), point, batch)


def sequential(name, point, batch=BATCH, cache=None):
  return tiny.decoded(BODIES[name], params_of(name), point, batch, cache)


@functools.cache
def walked(name, signal, policy):
  return parallel(name, point_of(name, signal, policy))


@functools.cache
def decoded(name, signal, policy):
  return sequential(name, point_of(name, signal, policy))


def asides_asked(name, signal, walk):
  """Blocks of readouts that were asked on the way of a step, [T]."""
  asked_K = np.isfinite(thresholds(name, signal))
  if signal != 'max_prob':
    asked_K[:] = True  # they compare with the one before
  asked_K[-1] = False
  reached_KxT = np.arange(len(asked_K))[:, None] <= walk.exit_BxT.max(0)
  return (asked_K[:, None] & reached_KxT).sum(0)


# ------------------------------------------------------ parallel == decoding


@every_case
def test_the_parallel_pass_is_what_decoding_does(name, signal, policy):
  a = walked(name, signal, policy)
  b = decoded(name, signal, policy)
  # Tokens look back at ones that stopped earlier than they do.
  assert (np.diff(a.exit_BxT) > 0).any()
  np.testing.assert_array_equal(a.exit_BxT, b.exit_BxT)

  plain = tiny.plain(BODIES[name], params_of(name))
  readouts = BODIES[name].grid.per_segment
  logits_BxTxV = np.asarray(
    [
      [
        reference.logits(plain, normed_D, k % readouts)
        for normed_D, k in zip(normed_TxD, exit_T)
      ]
      for normed_TxD, exit_T in zip(a.normed_BxTxD, a.exit_BxT)
    ]
  )
  np.testing.assert_allclose(b.logits_BxTxV, logits_BxTxV, 1e-4, 1e-4)
  log_p_BxTxV = np.asarray(jax.nn.log_softmax(b.logits_BxTxV))
  target_BxTx1 = BATCH['targets'][..., None]
  nll_BxT = -np.take_along_axis(log_p_BxTxV, target_BxTx1, -1)[..., 0]
  np.testing.assert_allclose(a.observation.nll, nll_BxT, 1e-4, 1e-4)


@every_case
def test_tokens_stop_at_every_readout_that_may_answer(name, signal, policy):
  may = np.isfinite(thresholds(name, signal))
  may[-1] = True
  stopped = np.unique(walked(name, signal, policy).exit_BxT)
  assert set(stopped) <= set(np.flatnonzero(may))
  assert len(stopped) >= min(3, may.sum())


@every_case
def test_cells_that_no_token_needs_are_not_run(name, signal, policy):
  """R22, by the loop's own count."""
  grid = BODIES[name].grid
  walk = walked(name, signal, policy)
  expected_T = np.asarray(grid.depth_K)[walk.exit_BxT.max(0)]
  if policy == 'recompute':
    expected_T = np.full(LENGTH, grid.depth)
  if grid.routed:
    expected_T = walk.run_LxBxT.any(1).sum(0)
    assert expected_T.min() < expected_T.max()
  if grid.has_asides:  # run where they are asked, and not where others are
    expected_T = expected_T + asides_asked(name, signal, walk)
  layers_run_T = decoded(name, signal, policy).layers_run_T
  np.testing.assert_array_equal(layers_run_T, expected_T)


# ------------------------------------------------------ an independent decoder


@pytest.mark.parametrize(
  'name, policy',
  [(name, policy) for name, signal, policy in CASES if signal == 'max_prob'],
)
def test_the_walk_equals_a_plain_numpy_decoder(name, policy):
  model = BODIES[name]
  plain = tiny.plain(model, params_of(name))
  threshold_K = thresholds(name, 'max_prob')
  walk = walked(name, 'max_prob', policy)

  for b, token_T in enumerate(BATCH['tokens']):
    start = tiny.first_streams(model, params_of(name), token_T)
    tokens = reference.decode(plain, token_T, threshold_K, policy, start)
    exit_T = [token.readout for token in tokens]
    normed_TxD = [token.normed_D for token in tokens]
    np.testing.assert_array_equal(walk.exit_BxT[b], exit_T)
    np.testing.assert_allclose(walk.normed_BxTxD[b], normed_TxD, 1e-4, 1e-4)


@pytest.mark.parametrize(
  'name, policies',
  [
    ('stack', UNTIED),
    ('refine', choices()),
  ],
)
def test_policies_give_different_states(name, policies):
  walks = [walked(name, 'max_prob', policy) for policy in policies]
  for i, a in enumerate(walks):
    for b in walks[:i]:
      difference_BxT = np.abs(a.normed_BxTxD - b.normed_BxTxD).max(-1)
      # The first tokens look back at nobody.
      assert difference_BxT[:, 0].max() < 1e-4
      assert difference_BxT.max() > 1e-2


@pytest.mark.parametrize(
  'name, signal',
  [(name, signal) for name, signal, policy in CASES if policy == 'recompute'],
)
def test_recompute_is_a_reduction_of_the_dump(name, signal):
  point = point_of(name, signal, 'recompute')
  reduced = traces.trace(
    BODIES[name], params_of(name), batches, dump_of(name), point
  )
  walk = walked(name, signal, 'recompute')
  np.testing.assert_array_equal(reduced.exit_RxT, walk.exit_BxT)
  np.testing.assert_allclose(reduced.nll_RxT, walk.observation.nll, 1e-4, 1e-5)
  correct_BxT = walk.observation.argmax == BATCH['targets']
  np.testing.assert_array_equal(reduced.correct_RxT, correct_BxT)


@every_case
def test_never_is_the_last_readout_and_always_the_first(name, signal, policy):
  dump = dump_of(name)
  last = BODIES[name].grid.num_readouts - 1
  for threshold, k in ((np.inf, last), (-np.inf, 0)):
    walk = parallel(name, tiny.point(signal, policy, threshold))
    assert (walk.exit_BxT == k).all()
    np.testing.assert_allclose(
      walk.observation.nll, dump.nll_KxRxT[k], 1e-5, 1e-5
    )


# --------------------------------------------------- causality, independence


def with_other_tokens():
  """Another first row, and another token in the middle of the second."""
  tokens = BATCH['tokens'].copy()
  tokens[0] = (tokens[0] + 5) % tiny.VOCAB
  tokens[1, CHANGED] = (tokens[1, CHANGED] + 1) % tiny.VOCAB
  return BATCH | {'tokens': tokens}


@every_case
def test_no_later_token_and_no_other_row_matters(name, signal, policy):
  point = point_of(name, signal, policy)
  for run in (parallel, sequential):
    a = run(name, point)
    b = run(name, point, with_other_tokens())
    exit_T, other_exit_T = a.exit_BxT[1], b.exit_BxT[1]
    content_TxD, other_content_TxD = a[1][1], b[1][1]  # states, or logits
    np.testing.assert_array_equal(exit_T[:CHANGED], other_exit_T[:CHANGED])
    np.testing.assert_array_equal(
      content_TxD[:CHANGED], other_content_TxD[:CHANGED]
    )
    assert (content_TxD[CHANGED] != other_content_TxD[CHANGED]).any()


@every_case
def test_no_exit_depends_on_what_is_to_be_predicted(name, signal, policy):
  """R6: the targets stand in the batch, and only losses may read them."""
  others = BATCH | {'targets': (BATCH['targets'] + 1) % tiny.VOCAB}
  a = walked(name, signal, policy)
  b = parallel(name, point_of(name, signal, policy), others)
  np.testing.assert_array_equal(a.exit_BxT, b.exit_BxT)
  np.testing.assert_array_equal(a.normed_BxTxD, b.normed_BxTxD)
  assert (a.observation.nll != b.observation.nll).all()

  dump = passes.grid_dump(
    BODIES[name], params_of(name), lambda: [others], SIGNALS[name]
  )
  np.testing.assert_array_equal(
    dump.score_KxRxT[signal], dump_of(name).score_KxRxT[signal]
  )


@every_case
def test_decoding_never_reads_an_unwritten_position(name, signal, policy):
  empty = decode.init_cache(BODIES[name], ROWS, LENGTH)

  def full(blocks):
    return jax.tree.map(lambda x: jnp.full_like(x, 1e3), blocks)

  dirty = empty._replace(key=full(empty.key), value=full(empty.value))
  again = sequential(name, point_of(name, signal, policy), cache=dirty)
  tiny.assert_trees_equal(decoded(name, signal, policy), again)
