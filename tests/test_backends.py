"""A kernel of the device is asked what attention is, and only what it can."""

import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax.core.routers import Taken
from ease_jax.model import backends
from ease_jax.model.attention import Scoring, attention, positions
from ease_jax.model.sight import Places, Sight, sight_of

LENGTH, WIDTH = 24, 8
# Heads are 8 wide.
MODEL = tiny.stack(
  kernel='cudnn',
  dtype='bfloat16',
  head_dim=8,
  num_layers=2,
  window=5,
  global_every=2,
)
SCORING = Scoring(0.3, 0.0, 'cudnn')
SEEN = jnp.ones((1, LENGTH), bool)
CAUSAL = Sight('causal', 0, positions(LENGTH), gapless=True)
NEAR = CAUSAL.replace(window=5)
FULL = CAUSAL.replace(attention='full')


def tensors(groups, dtype='float32'):
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = [(2, LENGTH, num, WIDTH) for num in (4, groups, groups)]
  return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes)]


@pytest.mark.parametrize(
  ('sight', 'groups'), [(CAUSAL, 2), (NEAR, 1), (FULL, 4)]
)
def test_what_is_asked_of_a_kernel_is_attention(sight, groups):
  """Value and gradient, by the way of the same function that runs here."""

  def asked(q, k, v):
    by = functools.partial(backends.by_cudnn, implementation='xla')
    return by(q, (k, v), sight, SCORING)

  def wanted(q, k, v):
    return attention(q, (k, v), sight.mask(), SCORING)

  def both(run):
    def total(*args):
      mixed = run(*args)
      return (
        mixed * jnp.cos(jnp.arange(mixed.size)).reshape(mixed.shape)
      ).sum()

    return jax.jit(jax.value_and_grad(total, (0, 1, 2)))

  args = tensors(groups)
  assert asked(*args).shape == wanted(*args).shape
  chex.assert_trees_all_close(
    both(asked)(*args), both(wanted)(*args), rtol=1e-4, atol=2e-5
  )


@pytest.mark.parametrize(
  ('can', 'changes'),
  [
    (True, {}),
    (True, dict(dtype='float16')),
    (False, dict(dtype='float32')),
    (True, dict(width=128)),
    (False, dict(width=136)),
    (False, dict(width=12)),
    (False, dict(widest=0)),
    (False, dict(kernel='tiles')),
    (True, dict(width=256, widest=256)),
    (False, dict(cap=50.0)),
    (True, dict(sight=NEAR)),
    (True, dict(sight=FULL)),
    (False, dict(sight=NEAR.replace(gapless=False))),
    (True, dict(sight=CAUSAL.replace(gapless=False))),
    (False, dict(sight=NEAR.replace(attention='full'))),
    (False, dict(sight=CAUSAL.replace(seen_BxT=SEEN))),
    (False, dict(sight=CAUSAL.replace(document_BxT=positions(LENGTH)))),
  ],
)
def test_a_kernel_is_asked_what_it_can(can, changes):
  plain = dict(sight=CAUSAL, dtype='bfloat16', width=64, cap=0.0, widest=128)
  plain['kernel'] = 'cudnn'
  case = types.SimpleNamespace(**(plain | changes))
  q = jnp.zeros((2, LENGTH, 4, case.width), case.dtype)
  scoring = Scoring(1.0, case.cap, case.kernel)
  assert backends.cudnn_can(q, case.sight, scoring, case.widest) is can


@pytest.mark.parametrize(
  ('backend', 'capability', 'widest'),
  [
    ('cpu', None, 0),
    ('tpu', None, 0),
    ('gpu', '7.5', 0),
    ('gpu', '8.6', 128),
    ('gpu', '9.0', 256),
    ('gpu', '12.0', 256),
    ('gpu', 'gfx90a', 0),
  ],
)
def test_the_device_says_how_wide_heads_may_be(
  monkeypatch, backend, capability, widest
):
  device = types.SimpleNamespace()
  if capability is not None:
    device.compute_capability = capability
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  assert backends.cudnn_width() == widest
  monkeypatch.setattr(backends.sharding, 'num_devices', lambda: 2)
  assert backends.cudnn_width() == 0


def test_tokens_that_a_router_takes_have_gaps():
  places = Places(positions(LENGTH))
  taken = Taken(token_NxM=jnp.asarray([[0, 3, 4]]))
  assert sight_of(MODEL.cfg, 0, places, None).gapless
  assert not sight_of(MODEL.cfg, 0, places.of(taken), None).gapless
  apart = places._replace(document_BxT=positions(LENGTH))
  assert not apart.of(taken).gapless
  assert apart.of(Taken(row_N=jnp.asarray([0]))).gapless


def test_windows_go_to_the_kernel_where_there_is_one(monkeypatch):
  """Layers that see all, and those that see the last tokens."""
  params = tiny.params(MODEL)
  tokens = tiny.batch(length=LENGTH)['tokens']
  run = functools.partial(MODEL.apply, {'params': params}, tokens)
  expected = run()
  asked = []

  def kernel(q, kv, sight, scoring):
    asked.append(sight.window)
    return by_cudnn(q, kv, sight, scoring, 'xla')

  by_cudnn = backends.by_cudnn
  monkeypatch.setattr(backends, 'by_cudnn', kernel)
  run()
  assert asked == []
  monkeypatch.setattr(backends, 'cudnn_width', lambda: 128)
  got = run()
  assert asked == [5, 0]
  np.testing.assert_allclose(got, expected, atol=0.1 * np.std(expected))
