import functools
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import config, decode
from ease_jax import model as model_lib
from ease_jax.core import costs
from ease_jax.core.objective import LossSpec
from ease_jax.evaluate import passes, sweep
from ease_jax.model import exits
from ease_jax.model.exits import ExitSpec
from ease_jax.train import update
from ease_jax.train.optimizer import OptimizerSpec

INF = np.inf
ROWS, LENGTH = 3, 12
# Layer 3 has no readout; exits skip up to three layers.
MODEL = tiny.stack(readouts=(1, 2, 4))
CFG = MODEL.cfg
PARAMS = tiny.params(MODEL)
BATCH = tiny.batch(ROWS, LENGTH)
SIGNALS = ('max_prob', 'state_cosine', 'kl', 'patience')
POLICIES = config.KV_POLICIES[:3]
PAIRS = [
  *(('max_prob', policy) for policy in POLICIES),
  ('patience', 'recompute'),
  ('patience', 'drop'),
  ('kl', 'copy_state'),
  ('state_cosine', 'drop'),
]


def batches():
  return [BATCH]


@pytest.fixture(scope='module')
def dump():
  return passes.grid_dump(MODEL, PARAMS, batches, SIGNALS)


def thresholds(dump, signal):
  """Per readout, in the widest gap between the scores of the middle tokens."""
  if signal == 'patience':
    return np.asarray([INF, 1.0, INF], np.float32)

  def middle(score_RxT):
    score_N = np.sort(score_RxT.reshape(-1))[ROWS * 4 : -ROWS * 3]
    gap = np.diff(score_N).argmax()
    return score_N[gap : gap + 2].mean()

  finite = [
    middle(s) if np.isfinite(s).all() else INF for s in dump.score_KxRxT[signal]
  ]
  return np.asarray([*finite[:-1], INF], np.float32)


def parallel(spec, threshold_K, batch=BATCH):
  return jax.device_get(
    exits.masked_pass(
      PARAMS, batch, jnp.asarray(threshold_K), model=MODEL, spec=spec
    )
  )


def sequential(spec, threshold_K, batch=BATCH, cache=None):
  """Token by token: exits [B, T], logits [B, T, V] and the counts [T]."""
  return tiny.decoded(MODEL, PARAMS, spec, threshold_K, batch, cache)


# ------------------------------------------------------ parallel == decoding


@pytest.mark.parametrize('signal, policy', PAIRS)
def test_the_parallel_pass_is_what_decoding_does(dump, signal, policy):
  spec, threshold_K = ExitSpec(signal, policy), thresholds(dump, signal)
  a, b = parallel(spec, threshold_K), sequential(spec, threshold_K)
  can = 3 if signal == 'max_prob' else 2
  assert len(np.unique(a.exit_BxT)) == can, 'the exits must be mixed'
  # Tokens look back at ones that stopped earlier than they do.
  assert (np.diff(a.exit_BxT) > 0).any()
  np.testing.assert_array_equal(a.exit_BxT, b.exit_BxT)
  np.testing.assert_allclose(
    b.logits_BxTxV,
    a.normed_BxTxD @ np.asarray(PARAMS['unembed']).T,
    rtol=1e-4,
    atol=1e-5,
  )
  nll = -np.take_along_axis(
    np.asarray(jax.nn.log_softmax(b.logits_BxTxV)),
    BATCH['targets'][..., None],
    -1,
  )[..., 0]
  np.testing.assert_allclose(a.observation.nll, nll, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('policy', POLICIES)
def test_thresholds_at_infinity_are_exact(dump, policy):
  spec = ExitSpec('max_prob', policy)
  never = parallel(spec, np.full(3, INF, np.float32))
  assert (never.exit_BxT == 2).all()
  np.testing.assert_array_equal(never.observation.nll, dump.nll_KxRxT[-1])
  # Off is not a special program: the trace takes the dump's last readout.
  off = passes.trace(MODEL, PARAMS, batches, dump, spec, np.full(3, INF))
  np.testing.assert_array_equal(off.nll_RxT, never.observation.nll)
  np.testing.assert_array_equal(off.exit_RxT, never.exit_BxT)
  first = parallel(spec, np.full(3, -INF, np.float32))
  assert (first.exit_BxT == 0).all()
  np.testing.assert_array_equal(first.observation.nll, dump.nll_KxRxT[0])
  # A last threshold cannot matter.
  threshold_K = thresholds(dump, 'max_prob')
  other_K = threshold_K.copy()
  other_K[-1] = -INF
  tiny.assert_trees_equal(parallel(spec, threshold_K), parallel(spec, other_K))


@pytest.mark.parametrize('signal', ['max_prob', 'patience'])
def test_recompute_is_a_reduction_of_the_dump(dump, signal):
  spec, threshold_K = ExitSpec(signal, 'recompute'), thresholds(dump, signal)
  reduced = passes.trace(MODEL, PARAMS, batches, dump, spec, threshold_K)
  walked = parallel(spec, threshold_K)
  np.testing.assert_array_equal(reduced.exit_RxT, walked.exit_BxT)
  np.testing.assert_allclose(
    reduced.nll_RxT, walked.observation.nll, rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(
    reduced.correct_RxT, walked.observation.argmax == BATCH['targets']
  )


# -------------------------------------------------------- an independent pass


def rms_norm(x, scale):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def rotated(x_HxD, position):
  half = x_HxD.shape[-1] // 2
  angle = position * CFG.rope_base ** (-np.arange(half) / half)
  z = (x_HxD[:, :half] + 1j * x_HxD[:, half:]) * np.exp(1j * angle)
  return np.concatenate([z.real, z.imag], -1)


def key_value(w, h_D, position):
  x = rms_norm(h_D, w['attention_norm']['scale'])
  heads = lambda name: (x @ w[name]['kernel']).reshape(-1, CFG.head_dim)
  return rotated(heads('key'), position), heads('value')


def through_layer(w, h_D, position, seen):
  """One token's state after a layer, looking at a list of (key, value)."""
  x = rms_norm(h_D, w['attention_norm']['scale'])
  query = (x @ w['query']['kernel']).reshape(-1, CFG.head_dim)
  query = rotated(query, position)
  mixed = []
  for head, q in enumerate(query):
    group = head * CFG.num_kv_heads // CFG.num_heads
    keys = np.stack([k[group] for k, _ in seen])
    values = np.stack([v[group] for _, v in seen])
    mixed.append(softmax(keys @ q / np.sqrt(CFG.head_dim)) @ values)
  h_D = h_D + np.concatenate(mixed) @ w['out']['kernel']
  x = rms_norm(h_D, w['mlp_norm']['scale']) @ w['mlp']['up']['kernel']
  x = x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
  return h_D + x @ w['mlp']['down']['kernel']


def oracle(tokens_T, threshold_K, policy):
  """Exits and normed exit states of one row, by the policies' definition."""
  w = jax.tree.map(lambda x: np.asarray(x, np.float64), PARAMS)
  cache = [[] for _ in range(CFG.num_layers)]
  exit_T, state_T = [], []
  for t, token in enumerate(tokens_T):
    h, frozen = w['embed'][token], None
    for number in range(1, CFG.num_layers + 1):
      layer = w[f'layer_{number - 1}']
      if frozen is not None and policy == 'copy_state':
        cache[number - 1].append(key_value(layer, frozen[1], t))
      elif frozen is None or policy == 'recompute':
        cache[number - 1].append(key_value(layer, h, t))
        h = through_layer(layer, h, t, cache[number - 1])
      if frozen is None and number in CFG.readouts:
        k = CFG.readouts.index(number)
        n = rms_norm(h, w['readout_norm']['scale'])
        confidence = softmax(w['unembed'] @ n).max()
        if k == len(CFG.readouts) - 1 or confidence >= threshold_K[k]:
          frozen = k, h, n
    exit_T.append(frozen[0])
    state_T.append(frozen[2])
  return np.asarray(exit_T), np.stack(state_T)


@pytest.mark.parametrize('policy', POLICIES)
def test_the_walk_equals_a_plain_numpy_decoder(dump, policy):
  threshold_K = thresholds(dump, 'max_prob')
  walk = parallel(ExitSpec('max_prob', policy), threshold_K)
  for b in range(ROWS):
    exit_T, state_TxD = oracle(BATCH['tokens'][b], threshold_K, policy)
    np.testing.assert_array_equal(walk.exit_BxT[b], exit_T)
    np.testing.assert_allclose(
      walk.normed_BxTxD[b], state_TxD, rtol=1e-4, atol=1e-5
    )


def test_policies_give_different_states(dump):
  threshold_K = thresholds(dump, 'max_prob')
  walks = [parallel(ExitSpec('max_prob', p), threshold_K) for p in POLICIES]
  for i in range(3):
    # The first tokens that go deep look back at others that did not.
    a, b = walks[i].normed_BxTxD, walks[i - 1].normed_BxTxD
    assert np.abs(a - b).max() > 1e-2
    np.testing.assert_allclose(a[:, 0], b[:, 0], rtol=1e-5, atol=1e-5)


# --------------------------------------------------- causality, independence


def rows_of(*args):
  """What decoding says of each row; the counts are of all rows together."""
  out = sequential(*args)
  return out._replace(layers_run_T=None, heads_run_T=None)


@pytest.mark.parametrize('policy', POLICIES)
@pytest.mark.parametrize('walk', ['parallel', 'sequential'])
def test_a_later_token_changes_nothing(dump, policy, walk):
  spec, threshold_K = ExitSpec('max_prob', policy), thresholds(dump, 'max_prob')
  run = parallel if walk == 'parallel' else rows_of
  changed = {k: v.copy() for k, v in BATCH.items()}
  changed['tokens'][:, 6] = (changed['tokens'][:, 6] + 1) % tiny.VOCAB
  a, b = run(spec, threshold_K), run(spec, threshold_K, changed)
  early = lambda walk: jax.tree.map(lambda x: x[:, :6], walk)
  tiny.assert_trees_equal(early(a), early(b))
  assert (a[1][:, 6] != b[1][:, 6]).any()  # states or logits
  cost_K = costs.readout_costs(CFG, 6.5, policy)
  assert (cost_K[a.exit_BxT] == cost_K[b.exit_BxT])[:, :6].all()
  assert (a.exit_BxT != b.exit_BxT).any()


@pytest.mark.parametrize('policy', POLICIES)
@pytest.mark.parametrize('walk', ['parallel', 'sequential'])
def test_a_row_does_not_know_the_other_rows(dump, policy, walk):
  spec, threshold_K = ExitSpec('max_prob', policy), thresholds(dump, 'max_prob')
  run = parallel if walk == 'parallel' else rows_of
  others = tiny.batch(ROWS, LENGTH, seed=1)
  changed = {k: v.copy() for k, v in others.items()}
  for name in changed:
    changed[name][1] = BATCH[name][1]
  a, b = run(spec, threshold_K), run(spec, threshold_K, changed)
  row = lambda walk: jax.tree.map(lambda x: x[1], walk)
  tiny.assert_trees_equal(row(a), row(b))
  assert (a.exit_BxT[0] != b.exit_BxT[0]).any()


@pytest.mark.parametrize('policy', POLICIES)
def test_decoding_never_reads_an_unwritten_position(dump, policy):
  spec, threshold_K = ExitSpec('max_prob', policy), thresholds(dump, 'max_prob')
  empty = decode.init_cache(CFG, ROWS, LENGTH)
  full = lambda xs: jax.tree.map(lambda x: jnp.full_like(x, 1e3), xs)
  dirty = decode.Cache(full(empty.key), full(empty.value), empty.layers_BxC)
  tiny.assert_trees_equal(
    sequential(spec, threshold_K), sequential(spec, threshold_K, cache=dirty)
  )


# ------------------------------------------------------------- what it costs


def hand_made(exit_RxT, mask_RxT):
  zeros = np.zeros(np.shape(exit_RxT), np.float32)
  trace = passes.Trace(np.asarray(exit_RxT), zeros, zeros)
  return trace, np.asarray(mask_RxT, np.float32)


MIXED = [[0, 2, 1, 0], [1, 0, 0, 2]]
MASK = [[1, 1, 1, 1], [1, 1, 1, 0]]


def hand_computed():
  context = costs.mean_context(4)
  return (
    costs.cell_flops(CFG, context),
    costs.head_flops(CFG),
    costs.kv_flops(CFG),
    costs.full_flops(CFG, context),
  )


def test_compute_by_hand():
  cell, head, fill, full = hand_computed()
  compute = functools.partial(
    passes.compute, CFG, threshold_K=np.asarray([0.5, 0.5, INF])
  )
  trace, mask = hand_made(MIXED, MASK)
  layers = (4 * cell + 2 * 2 * cell + 4 * cell) / 7
  heads = (4 * head + 2 * 2 * head + 3 * head) / 7
  got = compute(ExitSpec('max_prob', 'drop'), trace=trace, mask_RxT=mask)
  assert got['compute'] == pytest.approx((layers + heads) / full)
  assert got['exit_fraction'] == [4 / 7, 2 / 7, 1 / 7]
  assert got['layer_fraction'] == pytest.approx((4 + 4 + 4) / 7 / 4)
  assert got['mean_readout'] == pytest.approx((4 + 4 + 3) / 7)
  assert 'compute_uncharged' not in got
  got = compute(ExitSpec('max_prob', 'copy_state'), trace=trace, mask_RxT=mask)
  fills = (4 * 3 * fill + 2 * 2 * fill) / 7
  assert got['compute'] == pytest.approx((layers + heads + fills) / full)


def test_recompute_charges_the_layers_that_later_tokens_need():
  cell, head, fill, full = hand_computed()
  trace, mask = hand_made(MIXED, MASK)
  got = passes.compute(
    CFG,
    ExitSpec('max_prob', 'recompute'),
    np.asarray([0.5, 0.5, INF]),
    trace,
    mask,
  )
  spent = 12 * cell + 11 * head
  # Only the very first token has a later one that goes deeper: to layer 4,
  # so layers 2 and 3 and the keys and values of layer 4. In the second row
  # the deeper one is padding.
  deferred = 2 * cell + fill
  assert got['compute_uncharged'] == pytest.approx(spent / 7 / full)
  assert got['compute'] == pytest.approx((spent + deferred) / 7 / full)


@pytest.mark.parametrize('policy', POLICIES)
def test_padding_is_in_no_exit_statistic(policy):
  spec, threshold_K = ExitSpec('max_prob', policy), np.asarray([0.5, 0.5, INF])
  rows = []
  for stop in (0, 1, 2):
    trace, mask = hand_made(MIXED, MASK)
    trace.exit_RxT[1, 3] = stop
    rows.append(passes.compute(CFG, spec, threshold_K, trace, mask))
  assert rows[0] == rows[1] == rows[2]


def test_exits_off_cost_exactly_one_full_pass():
  trace, mask = hand_made(np.full((2, 4), 2), MASK)
  for policy in POLICIES:
    for signal in SIGNALS:
      got = passes.compute(
        CFG, ExitSpec(signal, policy), np.full(3, INF), trace, mask
      )
      assert got['compute'] == got['layer_fraction'] == 1
      assert got['mean_readout'] == 3


def test_the_oracle_stops_where_the_loss_is_as_good_as_the_last_one():
  nll = np.asarray([[[1, 3, 2, 5]], [[2, 2, 2, 4]], [[1.5, 2, 2, 3]]])
  dump = types.SimpleNamespace(nll_KxRxT=nll)
  exit_RxT = passes.oracle_exit(dump)
  np.testing.assert_array_equal(exit_RxT, [[0, 1, 0, 2]])
  assert exit_RxT.dtype == np.int32


def test_optimistic_scores_are_labelled_and_are_other_scores(dump, monkeypatch):
  monkeypatch.setattr(sweep, 'eval_batches', lambda *args: [BATCH])
  c = config.base()
  c.exit.signals = SIGNALS
  corpus = types.SimpleNamespace(
    splits={'test': None},
    tokenizer=types.SimpleNamespace(token_bytes=np.ones(tiny.VOCAB)),
  )
  split = sweep.Split('test', c, MODEL, PARAMS, corpus, max_tokens=0)
  threshold = tuple(map(float, thresholds(dump, 'max_prob')))
  rows = {
    policy: split.measure(sweep.Point(ExitSpec('max_prob', policy), threshold))
    for policy in POLICIES
  }
  for policy, row in rows.items():
    assert row['kv_policy'] == policy
    assert ('compute_uncharged' in row) == (policy == 'recompute')
  assert len({row['nll'] for row in rows.values()}) == 3
  charged = rows['recompute']
  assert charged['compute'] > charged['compute_uncharged']
  assert rows['drop']['threshold'] == [*map(float, threshold[:2]), None]


# --------------------------------------------------------- a negative control


@pytest.fixture(scope='module')
def trained():
  """A model that has learned something: the bytes of this file."""
  text = np.frombuffer(pathlib.Path(__file__).read_bytes(), np.uint8)
  c = config.base()
  c.model.update(num_layers=4, dim=32, num_heads=2, num_kv_heads=2, mlp_dim=64)
  c.loss.weights, c.optimizer.name = 'uniform', 'muon'
  c.optimizer.learning_rate, c.optimizer.warmup_steps = 0.02, 20
  c.train.steps = 200
  model = model_lib.build(config.model_config(c, 256))
  specs = dict(
    model=model,
    loss_spec=LossSpec.from_config(c),
    opt_spec=OptimizerSpec.from_config(c),
  )
  state = update.init_state(
    jax.random.key(0), model=model, opt_spec=specs['opt_spec']
  )
  rng, draw = (
    np.random.default_rng(0),
    lambda at: np.stack([text[i : i + 65] for i in at]).astype(np.int32),
  )

  def batch(at):
    window = draw(at)
    return {
      'tokens': window[:, :-1],
      'targets': window[:, 1:],
      'mask': np.ones((len(at), 64), np.float32),
    }

  for step in range(c.train.steps):
    state, _ = update.train_step(
      state,
      batch(rng.integers(0, len(text) - 65, 16)),
      jax.random.key(step),
      accumulate=1,
      **specs,
    )
  return model, state.params, batch(range(0, len(text) - 65, 700))


@pytest.mark.parametrize('threshold', [0.4, 0.7])
def test_projected_keys_and_values_must_not_be_copied(trained, threshold):
  """R11: layers that see another layer's K/V lose; copy_state hardly does."""
  model, params, batch = trained
  nll = {}
  for policy in ('recompute', 'copy_state', 'copy_kv'):
    walk = exits.masked_pass(
      params,
      batch,
      jnp.full(4, threshold),
      model=model,
      spec=ExitSpec('max_prob', policy),
    )
    nll[policy] = float(walk.observation.nll.mean())
    assert 0.1 < (walk.exit_BxT < 3).mean() < 0.9
  lost = nll['copy_state'] - nll['recompute']
  assert nll['copy_kv'] - nll['recompute'] > max(2 * lost, 0.02)
