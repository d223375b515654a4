"""Generation: prompts of any length, sampling, streaming, and what it costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import config, decode
from ease_jax.core import costs
from ease_jax.decode import cache, loop, sampling
from ease_jax.decode import step as steps
from ease_jax.evaluate import passes
from ease_jax.evaluate.sweep import Point
from ease_jax.model import exits
from ease_jax.model.exits import ExitSpec

INF = np.inf
LENGTH = 24
MODEL = tiny.stack(readouts=(1, 2, 4))
PARAMS = tiny.params(MODEL)
PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5, 8], [9, 7]]


def point(threshold, signal='max_prob', policy='copy_state'):
  return Point(ExitSpec(signal, policy), threshold)


def generate(prompts, exit=None, model=MODEL, params=PARAMS, **options):
  settings = dict(context=LENGTH, max_new_tokens=100) | options
  return decode.generate(
    model, {'params': params}, prompts, exit, options=decode.Options(**settings)
  )


def one(prompt, threshold, **options):
  texts, _ = generate([prompt], point(threshold), **options)
  return texts[0]


def test_greedy_generation_without_exits_is_the_models_own():
  got = one([3, 1, 4], INF)
  assert len(got.tokens) == LENGTH and (got.exits == 2).all()
  forward = jax.jit(lambda x: MODEL.apply({'params': PARAMS}, x)[-1, 0])
  best = np.asarray(forward(got.tokens[None])).argmax(-1)
  np.testing.assert_array_equal(got.tokens[3:], best[2:-1])
  (off,), counts = generate([[3, 1, 4]])
  tiny.assert_trees_equal(off, got)
  assert counts == (21, 21 * 4, 21, 0)


def test_generation_stops_on_time_and_follows_its_seed():
  free = one([3, 1, 4], -INF)
  assert (free.exits == 0).all() and len(free.exits) == LENGTH - 3
  short = one([3, 1, 4], -INF, max_new_tokens=2)
  np.testing.assert_array_equal(short.tokens, free.tokens[:5])
  eos = int(free.tokens[4])
  end = 3 + free.tokens[3:].tolist().index(eos)
  stopped = one([3, 1, 4], -INF, eos_id=eos)
  np.testing.assert_array_equal(stopped.tokens, free.tokens[: end + 1])
  warm = functools.partial(
    one, [3, 1, 4], INF, sampling=decode.Sampling(temperature=2.0)
  )
  np.testing.assert_array_equal(warm(seed=1).tokens, warm(seed=1).tokens)
  assert (warm(seed=1).tokens != warm(seed=2).tokens).any()


@pytest.mark.parametrize('length', [0, LENGTH, LENGTH + 5])
def test_a_prompt_must_leave_room(length):
  with pytest.raises(config.ConfigError) as error:
    one([1] * length, INF)
  assert str(error.value) == (
    f'--prompt has {length} tokens; it must have 1 to 23 '
    '(data.seq_len=24); change its length'
  )


# ------------------------------------------------- equal to the evaluation


def thresholds(signal):
  """Mixed exits on these prompts, for each signal."""
  return {
    'max_prob': (0.55, 0.6, INF),
    'margin': (0.3, 0.35, INF),
    'entropy': (0.6, 0.6, INF),
    'state_cosine': (INF, 0.75, INF),
    'kl': (INF, -1.0, INF),
    'patience': (INF, 1.0, INF),
  }[signal]


WARM = decode.Sampling(temperature=1.5, top_p=0.95)


def evaluated(text, exit, model=MODEL, params=PARAMS):
  """Exits [T] and logits [T, V] of the exit-consistent pass over a text."""
  tokens = np.zeros((1, LENGTH), np.int32)  # of one length: compiled once
  tokens[0, : len(text.tokens)] = text.tokens
  walk = jax.device_get(
    exits.masked_pass(
      params,
      {'tokens': tokens, 'targets': tokens},
      exit.threshold_K(len(model.cfg.cells)),
      model=model,
      spec=exit.spec,
    )
  )
  return walk.exit_BxT[0], walk.normed_BxTxD[0] @ params['unembed'].T


def assert_as_evaluated(texts, exit, model=MODEL, params=PARAMS):
  """Token for token and exit for exit; the texts were drawn by `WARM`."""
  for key, text in zip(jax.random.split(jax.random.key(0), len(texts)), texts):
    exit_T, logits_TxV = evaluated(text, exit, model, params)
    at_N = np.arange(len(text.tokens) - len(text.exits), len(text.tokens)) - 1
    np.testing.assert_array_equal(text.exits, exit_T[at_N])
    with jax.debug_key_reuse(False):  # the same draws as in the loop
      key_N = jax.vmap(jax.random.fold_in, (None, 0))(key, at_N)
      drawn = sampling.draw(logits_TxV[at_N], key_N, WARM)
    np.testing.assert_array_equal(text.tokens[at_N + 1], drawn)


SIGNALS = [s for s in config.SIGNAL_RANGES if s != 'q_halt']  # HRM learns it
EIGHT = [*PROMPTS, *([p, 2] for p in range(4))]


@pytest.mark.parametrize(
  'signal, policy',
  [
    *(('max_prob', policy) for policy in config.KV_POLICIES[:3]),
    *((signal, 'copy_state') for signal in SIGNALS[1:]),
    ('kl', 'drop'),
    ('patience', 'recompute'),
    ('state_cosine', 'recompute'),
  ],
)
def test_generation_is_what_the_evaluation_says(signal, policy):
  """R9, for eight rows that begin and exit at different places."""
  exit = point(thresholds(signal), signal, policy)
  texts, _ = generate(EIGHT, exit, sampling=WARM)
  assert_as_evaluated(texts, exit)
  assert sum(len(set(t.tokens)) for t in texts) > 40
  seen = np.unique(np.concatenate([t.exits for t in texts]))
  assert len(seen) == sum(t < INF for t in exit.threshold) + 1


SEGMENTED = {
  'refine': dict(body='refine', num_layers=1, segments=4),
  'hrm': dict(
    body='hrm',
    num_layers=1,
    segments=2,
    block_norm='post',
    carry_init='fixed',
    cycles=1,
  ),
}


@pytest.mark.parametrize(
  'name, signal, policy',
  [
    *(('refine', 'max_prob', policy) for policy in config.KV_POLICIES),
    *(
      ('refine', signal, policy)
      for signal, policy in zip(
        SIGNALS[1:], config.KV_POLICIES * 2, strict=False
      )
    ),
    ('hrm', 'q_halt', 'latest'),
    ('hrm', 'q_halt', 'recompute'),
    ('hrm', 'max_prob', 'latest'),
  ],
)
def test_segments_are_decoded_as_evaluated(name, signal, policy):
  model = tiny.body(**SEGMENTED[name])
  params = tiny.params(model)
  threshold_K = tiny.thresholds(model, params, signal, tiny.batch(4, 16))
  exit = point(tuple(threshold_K.tolist()), signal, policy)
  texts, _ = generate(EIGHT, exit, model, params, sampling=WARM)
  assert_as_evaluated(texts, exit, model, params)
  assert len(np.unique(np.concatenate([t.exits for t in texts]))) > 1


@pytest.mark.parametrize('policy', config.KV_POLICIES[:3])
@pytest.mark.parametrize('prefill', ['exits', 'full'])
def test_a_row_is_the_same_alone(policy, prefill):
  """R7, with prompts of different lengths and rows that end early."""
  exit = point(thresholds('max_prob'), policy=policy)
  settings = dict(prefill=prefill, eos_id=11)
  together, _ = generate(PROMPTS, exit, **settings)
  alone = [generate([p], exit, **settings)[0][0] for p in PROMPTS]
  for a, b in zip(together, alone):
    tiny.assert_trees_equal(a, b)
  lengths = [len(t.exits) for t in together]
  assert len(set(lengths)) > 1
  sampled = functools.partial(
    generate, exit=exit, sampling=decode.Sampling(1.0), **settings
  )
  (first, second), _ = sampled(PROMPTS[:2])
  (same, other), _ = sampled([PROMPTS[0], PROMPTS[3]])
  tiny.assert_trees_equal(first, same)
  assert list(second.tokens) != list(other.tokens)


@pytest.mark.parametrize('policy', config.KV_POLICIES[:3])
def test_what_prompt_tokens_do_is_explicit(policy):
  """R12: by the exits' rule, or through all layers, and nothing else."""
  exit = point(thresholds('max_prob'), policy=policy)
  found = {}
  for prefill, spec in (('exits', exit.spec), ('full', None)):
    text = generate([PROMPTS[2]], exit, prefill=prefill, max_new_tokens=1)[0][0]
    cache = tiny.prefilled(
      MODEL, PARAMS, spec, exit.threshold_K(3), PROMPTS[2][:-1], LENGTH
    )
    out, logits, _, _ = tiny.one_step(
      MODEL, PARAMS, exit.spec, exit.threshold_K(3), PROMPTS[2][-1:], 7, cache
    )
    assert text.exits[0] == out.exit_B[0]
    assert text.tokens[-1] == logits[0].argmax()
    found[prefill] = logits
  same = np.allclose(found['exits'], found['full'], rtol=1e-4, atol=1e-4)
  # The keys and values of `recompute` are the true ones anyway.
  assert same == (policy == 'recompute')


# ------------------------------------------------------------ what it costs


@pytest.mark.parametrize(
  'signal, policy',
  [
    ('max_prob', 'copy_state'),
    ('max_prob', 'drop'),
    ('kl', 'copy_state'),
    ('patience', 'drop'),
    ('state_cosine', 'copy_state'),
  ],
)
def test_the_loops_own_counts_are_the_cost_model(signal, policy):
  """R22: layers, heads and fills are counted where they are executed."""
  exit = point(thresholds(signal), signal, policy)
  (text,), counts = generate([PROMPTS[2]], exit)
  cfg, context = MODEL.cfg, 7.0
  cost_K = costs.readout_costs(
    cfg, context, policy, signal=signal, active=exit.threshold_K(3) < INF
  )
  cell, head = costs.cell_flops(cfg, context), costs.head_flops(cfg)
  spent = (
    counts.layers_run * cell
    + counts.heads_run * head
    + counts.fills_run * costs.kv_flops(cfg)
  )
  if signal == 'state_cosine':  # one cosine, before the second readout
    spent += 6 * cfg.dim * (text.exits > 0).sum()
  assert spent == pytest.approx(cost_K[text.exits].sum())
  assert counts.steps == len(text.exits)
  assert counts.layers_run == np.asarray(cfg.depth_K)[text.exits].sum()
  assert counts.layers_run < counts.steps * cfg.depth


@pytest.mark.parametrize('policy', ['copy_state', 'latest', 'drop'])
def test_segments_are_counted_too(policy):
  model = tiny.body(**SEGMENTED['refine'])
  params, cfg = tiny.params(model), model.cfg
  threshold_K = tiny.thresholds(model, params, 'max_prob', tiny.batch(4, 16))
  exit = point(tuple(threshold_K.tolist()), policy=policy)
  (text,), counts = generate([PROMPTS[2]], exit, model, params)
  assert len(np.unique(text.exits)) > 2
  assert counts.layers_run == np.asarray(cfg.depth_K)[text.exits].sum()
  filled_K = costs.filled_layers(cfg, policy)
  assert counts.fills_run == filled_K[text.exits].sum()


@pytest.mark.parametrize('threshold', [-INF, 0.5, (0.45, 0.5, INF), INF])
def test_recompute_makes_up_what_it_is_charged(threshold):
  """How deep each token went stands in the cache."""
  length, cfg = 36, MODEL.cfg
  exit = point(threshold, policy='recompute')
  tokens, threshold_K = tiny.batch(3, length)['tokens'], exit.threshold_K(3)
  zero_B, slot = np.zeros(3, np.int32), loop.least_slot(MODEL, exit)
  out, _, filled = steps.many_steps(
    PARAMS,
    decode.init_cache(cfg, 3, slot + length),
    loop.start(MODEL, exit, tokens[:, 0], zero_B, zero_B + 99, 0),
    np.int32(slot),
    threshold_K,
    np.int32(-1),
    np.roll(tokens, -1, 1).T,
    num=length,
    model=MODEL,
    spec=exit.spec,
    sampling=decode.Sampling(),
  )
  exit_BxT = np.asarray(out.exit_B.T)
  depth_BxT = np.asarray(filled.layers_BxC)[:, slot : slot + length]
  context = costs.mean_context(length)
  heads = np.cumsum(np.append(threshold_K[:-1] < INF, 1))[exit_BxT]
  spent = depth_BxT * costs.cell_flops(cfg, context) + heads * costs.head_flops(
    cfg
  )
  assert passes.compute_of_exits(
    cfg, exit.spec, threshold_K, exit_BxT
  ) == pytest.approx(spent.mean() / costs.full_flops(cfg, context))
  assert (depth_BxT[:, : -costs.MAX_WAITING - 1] == cfg.depth).all()
  # Fewer layers were run than that: each for many tokens at a time.
  if np.max(exit_BxT) < 2:
    assert out.layers_run.sum() < depth_BxT[0].sum() / 2


def test_hrm_is_charged_all_its_layers_under_recompute():
  model = tiny.body(**SEGMENTED['hrm'])
  params, cfg = tiny.params(model), model.cfg
  exit = point(-INF, policy='recompute')
  (text,), counts = generate([PROMPTS[0]], exit, model, params)
  assert (text.exits == 0).all()
  assert counts.layers_run == counts.steps * cfg.depth
  assert counts.heads_run == counts.steps
  assert passes.compute_of_exits(
    cfg, exit.spec, exit.threshold_K(len(cfg.cells)), text.exits[None]
  ) == pytest.approx(1.0)


def test_the_oldest_drags_the_window_through_before_it_leaves():
  """`recompute` at its bound: every ninth token makes up for all nine."""
  exit = point(-INF, policy='recompute')
  (text,), counts = generate([PROMPTS[0]], exit, context=64)
  new, depth = len(text.exits), MODEL.cfg.depth
  assert new == 61 and (text.exits == 0).all()
  assert counts.layers_run == new + new // 9 * (depth - 1)
  assert counts.heads_run == new


def test_long_texts_with_deferred_layers_are_as_evaluated(monkeypatch):
  monkeypatch.setitem(globals(), 'LENGTH', 64)
  exit = point((0.45, 0.5, INF), policy='recompute')
  texts, _ = generate(PROMPTS[:3], exit, sampling=WARM)
  assert_as_evaluated(texts, exit)
  behind = [(t.exits < 2).sum() for t in texts]
  assert max(behind) > costs.MAX_WAITING


def test_rows_share_the_layers_that_are_run():
  exit = point(thresholds('max_prob'))
  texts, counts = generate(PROMPTS, exit)
  longest = max(len(t.exits) for t in texts)
  depth = np.zeros((len(texts), longest), int)
  for b, text in enumerate(texts):
    depth[b, : len(text.exits)] = np.asarray(MODEL.cfg.depth_K)[text.exits]
  assert counts.layers_run == depth.max(0).sum()


def test_blocks_of_rows_change_nothing(monkeypatch):
  exit = point(thresholds('max_prob'))
  a = generate(PROMPTS, exit)
  for blocks in 1, 3:  # 3: not all of one size
    monkeypatch.setattr(cache, 'MAX_BLOCKS', blocks)
    jax.clear_caches()
    tiny.assert_trees_equal(a, generate(PROMPTS, exit))
  jax.clear_caches()


def test_rows_that_exited_do_not_attend():
  """Their keys are not read: what is no number in them does no harm."""
  sizes = [cache.row_blocks(n) for n in (1, 3, 8, 11)]
  assert sizes == [[1], [1, 1, 1], [2, 2, 2, 2], [2, 3, 3, 3]]
  empty = decode.init_cache(MODEL.cfg, 3, 8)
  seen = empty._replace(
    layers_BxC=empty.layers_BxC.at[:, :4].set(4),
    key=tuple(
      tuple(x if b != 1 else x + jnp.nan for b, x in enumerate(blocks))
      for blocks in empty.key
    ),
  )
  at_B = np.full(3, 4, np.int32)
  for done, harmed in (False, [1]), (True, []):
    rows = loop.start(MODEL, None, at_B, at_B, at_B + 9, 0)
    rows = rows._replace(done_B=jnp.asarray([False, done, False]))
    _, logits_BxV, _, _ = steps.step(
      PARAMS,
      seen,
      rows,
      point(1.5).threshold_K(3),
      np.int32(-1),
      model=MODEL,
      spec=ExitSpec(),
      sampling=decode.Sampling(),
    )
    assert np.flatnonzero(np.isnan(logits_BxV).any(1)).tolist() == harmed


def test_a_length_compiles_nothing_and_a_short_text_needs_little_cache():
  exit = point(thresholds('max_prob'))
  run = functools.partial(generate, exit=exit, context=200)
  run([[1] * 30], max_new_tokens=30)
  compiled = steps.many_steps._cache_size(), steps.prefill._cache_size()
  for length, new in (2, 5), (17, 1), (31, 32), (29, 3):
    run([[1] * length], max_new_tokens=new)
  assert compiled == (
    steps.many_steps._cache_size(),
    steps.prefill._cache_size(),
  )
  filled, _ = loop.prefilled(
    MODEL, PARAMS, [[1] * 20], exit, decode.Options(500, 1000)
  )
  assert filled.capacity == 64


def test_the_cache_grows_and_chunks_change_nothing():
  exit = point(thresholds('max_prob'))
  long = dict(context=120, max_new_tokens=200, sampling=WARM)
  a = generate(PROMPTS, exit, **long)
  b = generate(PROMPTS, exit, chunk=7, **long)
  tiny.assert_trees_equal(a, b)
  assert len(a[0][0].tokens) == 120
  sizes = [cache.capacity_for(n) for n in (1, 64, 65, 97, 129, 700)]
  assert sizes == [64, 64, 96, 128, 192, 768]


# ----------------------------------------------------------------- sampling


def test_sampling_keeps_what_it_says():
  logits = jnp.log(jnp.asarray([[0.1, 0.4, 0.2, 0.3]]))

  def kept(**options):
    weights = decode.Sampling(**{'temperature': 1.0} | options)
    p = jax.nn.softmax(sampling.log_weights(logits, weights))[0]
    return np.asarray(p)

  np.testing.assert_allclose(kept(), [0.1, 0.4, 0.2, 0.3], rtol=1e-5)
  np.testing.assert_allclose(kept(top_k=2), [0, 4 / 7, 0, 3 / 7], rtol=1e-5)
  # 0.4 + 0.3 does not hold 0.75 yet.
  np.testing.assert_allclose(
    kept(top_p=0.75), [0, 4 / 9, 2 / 9, 3 / 9], rtol=1e-5
  )
  np.testing.assert_allclose(kept(top_p=0.7), [0, 4 / 7, 0, 3 / 7], rtol=1e-5)
  np.testing.assert_allclose(kept(top_p=1e-6), [0, 1, 0, 0])
  np.testing.assert_allclose(
    kept(temperature=0.5), np.square([1, 4, 2, 3]) / 30, rtol=1e-5
  )
  np.testing.assert_allclose(kept(temperature=0.0), [0, 1, 0, 0])
  np.testing.assert_allclose(kept(top_k=9), kept())


@pytest.mark.parametrize(
  'make, message',
  [
    (
      lambda: decode.Sampling(temperature=-1.0),
      'generate.temperature=-1.0 must be at least 0; 0 is greedy',
    ),
    (
      lambda: decode.Sampling(top_k=-1),
      'generate.top_k=-1 must be at least 0; 0 = all tokens',
    ),
    (
      lambda: decode.Sampling(top_p=0.0),
      'generate.top_p=0.0 must be above 0 and at most 1',
    ),
    (
      lambda: decode.Options(1, 8, prefill='none'),
      "generate.prefill='none' is unknown; use one of ('exits', 'full')",
    ),
    (lambda: decode.Options(1, 8, chunk=0), 'chunk=0 must be at least 1'),
    (
      lambda: generate([[5, -1]]),
      '--prompt has the token -1; the vocabulary has 0 to 22; use the '
      'tokenizer of the run',
    ),
    (
      lambda: decode.Options(0, 8),
      'generate.max_new_tokens=0 must be at least 1',
    ),
    (lambda: generate([]), 'no prompts; give at least one'),
    (
      lambda: ExitSpec('max_prob', 'share'),
      "K/V policy 'share' is unknown; use one of ('recompute', 'copy_state', "
      "'drop', 'latest')",
    ),
    (
      lambda: generate(PROMPTS, point(0.5, policy='copy_kv')),
      "K/V policy 'copy_kv' is a control of the evaluation; decode with "
      'another one',
    ),
    (
      lambda: generate(PROMPTS, point(0.5, signal='q_halt')),
      "exit signal 'q_halt' is learned by model.body=hrm alone; this is stack; "
      'use another signal',
    ),
    (
      lambda: generate(PROMPTS, point((0.5, INF))),
      'exit thresholds (0.5, inf) are 2; the model has 3 readouts; give one '
      'for each, or one number',
    ),
  ],
)
def test_bad_settings_are_refused(make, message):
  with pytest.raises(config.ConfigError) as error:
    make()
  assert str(error.value) == message
