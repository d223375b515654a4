"""A head that makes the logits of the likeliest tokens alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run

import tiny
from ease_jax import run as run_lib
from ease_jax.core.policies import POLICIES, ExitRule
from ease_jax.core.signals import SIGNALS
from ease_jax.model import readout
from ease_jax.model.unembedding import Capped, Screened, found, replaced
from ease_jax.train import fitting
from ease_jax.workdir import read_config

RANK = 3
NUM = 5
MODEL = tiny.stack(screen_rank=RANK, screen_candidates=NUM)
BARE = tiny.stack()
BATCH = tiny.batch(rows=4, length=8)
RNG = np.random.default_rng(0)
H_NXD = RNG.normal(size=(6, 16)).astype(np.float32)
SHIFT = jnp.float32(0.25)
W_VXD = RNG.normal(size=(tiny.VOCAB, 16)).astype(np.float32)


def screened(exact, rank, num):
  into_DxR = RNG.normal(size=(16, rank)).astype(np.float32)
  out_of_VxR = RNG.normal(size=(tiny.VOCAB, rank)).astype(np.float32)
  return Screened(
    exact, jnp.asarray(into_DxR), jnp.asarray(out_of_VxR), SHIFT, num
  )


@pytest.mark.parametrize('exact', [W_VXD, Capped(jnp.asarray(W_VXD), 2.0)])
def test_the_likeliest_are_exact_and_the_others_rough_and_raised(exact):
  head = screened(exact, RANK, NUM)
  found_NxV = np.asarray(readout.logits(H_NXD, head))
  exact_NxV = np.asarray(readout.logits(H_NXD, exact))
  rough_NxV = H_NXD @ np.asarray(head.into_DxR) @ np.asarray(head.out_of_VxR).T
  if isinstance(exact, Capped):
    rough_NxV = 2.0 * np.tanh(rough_NxV / 2.0)

  raised_NxV = rough_NxV + 0.25
  order_NxV = np.argsort(-rough_NxV)
  for place_NxC, wanted_NxV in (
    (order_NxV[:, :NUM], exact_NxV),
    (order_NxV[:, NUM:], raised_NxV),
  ):
    np.testing.assert_allclose(
      np.take_along_axis(found_NxV, place_NxC, 1),
      np.take_along_axis(wanted_NxV, place_NxC, 1),
      rtol=1e-4,
      atol=1e-5,
    )


def test_all_of_them_are_the_whole_head():
  head = screened(jnp.asarray(W_VXD), RANK, tiny.VOCAB)
  np.testing.assert_allclose(
    readout.logits(H_NXD, head), readout.logits(H_NXD, W_VXD), 1e-4, 1e-5
  )


def fitted_to(model, params, batch):
  return fitting.fitted(model, params, iter([batch]), tokens=1, ridge=1.0)


def test_the_factor_is_the_best_of_its_rank():
  """No matrix of this rank is nearer to the logits of the text."""
  params = tiny.params(MODEL)
  screen = fitted_to(MODEL, params, BATCH)['screen']
  bound = MODEL.bind({'params': params})
  h_BxTxD = bound.states(jnp.asarray(BATCH['tokens']))[-1]
  n_NxD = np.asarray(bound.normed(3, h_BxTxD), np.float64).reshape(-1, 16)
  logits_NxV = n_NxD @ np.asarray(params['unembed'], np.float64).T
  rough_NxV = n_NxD @ screen['into'] @ np.asarray(screen['out_of']).T

  values = np.linalg.svd(logits_NxV, compute_uv=False)
  left = np.square(values[RANK:]).sum()
  error = np.square(logits_NxV - rough_NxV).sum()
  assert error == pytest.approx(left, rel=1e-3)
  assert left < 0.9 * np.square(logits_NxV).sum()


def test_tokens_that_stay_rough_are_as_likely_together_as_they_are():
  """On the text that it is fitted to; their own logits say less."""
  params = fitted_to(MODEL, tiny.params(MODEL), BATCH)
  bound = MODEL.bind({'params': params})
  h_BxTxD = bound.states(jnp.asarray(BATCH['tokens']))[-1]
  n_NxD = bound.normed(3, h_BxTxD).reshape(-1, 16)
  head = bound.head()
  looked = found(n_NxD, head)

  def together(logits_NxV):
    """Mean probability of all tokens that are not looked at closely."""
    prob_NxV = jax.nn.softmax(logits_NxV)
    near_NxC = jnp.take_along_axis(prob_NxV, looked.id_NxC, axis=1)
    return 1 - float(near_NxC.sum(1).mean())

  wanted = together(readout.logits(n_NxD, head.exact))
  unshifted = replaced(looked.rough_NxV, looked.id_NxC, looked.exact_NxC)
  assert together(readout.logits(n_NxD, head)) == pytest.approx(wanted, 1e-3)
  assert abs(together(unshifted) / wanted - 1) > 0.01


def test_nothing_is_lost_at_full_rank():
  model = tiny.stack(screen_rank=16, screen_candidates=1)
  params = fitted_to(model, tiny.params(model), BATCH)
  whole = {name: params[name] for name in params if name != 'screen'}
  np.testing.assert_allclose(
    tiny.logits(params, BATCH['tokens'], model=model),
    tiny.logits(whole, BATCH['tokens'], model=BARE),
    rtol=1e-3,
    atol=1e-3,
  )


def test_it_is_charged_for_what_it_does():
  prices = MODEL.costs(8)
  bare = BARE.costs(8)
  head = 2 * RANK * (16 + tiny.VOCAB) + NUM * 2 * 16
  assert bare.head == 2 * 16 * tiny.VOCAB
  assert prices.head == pytest.approx(head)
  assert prices.full == pytest.approx(bare.full - bare.head + head)
  rule = ExitRule(SIGNALS['max_prob'], POLICIES['copy_state'])
  saved_K = bare.exit_K(rule) - prices.exit_K(rule)
  one = bare.head - head
  np.testing.assert_allclose(saved_K, one * np.asarray([1, 2, 3, 4]))
  # Losses want all logits.
  share_K = [1.0] * 4
  assert prices.train_per_token(share_K) == bare.train_per_token(share_K)


def config_of(finished_run, **changes):
  c = small_run.make_beside(finished_run, fit_tokens=64)
  c.model.screen_rank = 4
  c.model.screen_candidates = 8
  c.update_from_flattened_dict(changes)
  return c


def test_a_run_gets_one_and_is_evaluated_by_it(finished_run, tmp_path):
  text, source = finished_run
  run_lib.run(config_of(finished_run), tmp_path / 'run')
  before = run_lib.load_model(read_config(source), source)
  after = run_lib.load_model(read_config(tmp_path / 'run'), tmp_path / 'run')
  own = dict(after.params)
  screen = own.pop('screen')
  tiny.assert_trees_equal(before.params, own)
  assert all(np.asarray(x).any() for x in jax.tree.leaves(screen))
  assert (tmp_path / 'run' / 'report.html').exists()


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'train.fit_tokens': 0}, 'train.fit_tokens=0 fits none'),
    ({'train.freeze': 'nothing'}, 'train.freeze=nothing changes it'),
    (
      {'model.screen_rank': 0, 'train.fit_tokens': 0},
      'model.screen_candidates=8 has no effect',
    ),
    ({'model.screen_rank': -1}, 'model.screen_rank=-1'),
  ],
)
def test_what_cannot_be_is_refused(finished_run, tmp_path, changes, words):
  c = config_of(finished_run, **changes)
  assert words in small_run.refusal(c, tmp_path / 'run')
