"""Bodies with segments and programs on them that several test files share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import tiny
from ease_jax.core.gating import GateSpec
from ease_jax.core.objective import LossSpec
from ease_jax.model.attention import positions, rotation
from ease_jax.model.sight import Places
from ease_jax.model.walk import RUNNING, Travel, walk
from ease_jax.train import loss as losses

ROWS = 3
LENGTH = 12
BATCH = tiny.batch(ROWS, LENGTH)

REFINE = tiny.refine()
LEARNED = tiny.refine(carry_init='learned', inject='gate')
RANDOM = tiny.refine(carry_init='random', inject='concat', carry_norm=True)
HRM = tiny.hrm(cycles=1)
BODIES = {
  'refine': REFINE,
  'learned': LEARNED,
  'random': RANDOM,
  'hrm': HRM,
}


def key_of(seed=3):
  """A new one each time: using a key twice is an error in these tests."""
  return jax.random.key(seed)


def spec_of(model, **changes):
  """A loss with another weight on each readout, and with the model's gates."""
  num = model.grid.num_readouts
  gating = dict(gates=model.cfg.gates)
  if model.cfg.gates:
    gating |= dict(gate_weight=0.5, gate_exploration=0.3)
  for field in dataclasses.fields(GateSpec):
    if field.name in changes:
      gating[field.name] = changes.pop(field.name)

  fields = dict(
    weight_K=tuple(1.0 + 0.1 * k for k in range(num)),
    segments=model.grid.segments,
    carry_backprop=model.cfg.carry_backprop,
    gating=GateSpec(**gating),
  )
  return LossSpec(**(fields | changes))


@functools.partial(jax.jit, static_argnames=('model', 'spec'))
def gradient(params, model, spec, batch, step=0):
  return losses.grid_gradient(params, model, spec, batch, step, key_of())


@functools.partial(jax.jit, static_argnames=('model', 'spec'))
def value_and_grad(params, model, spec, batch, step=0):
  run = jax.value_and_grad(losses.grid_loss, has_aux=True)
  return run(params, model, spec, batch, step, key_of())


@functools.partial(jax.jit, static_argnames='model')
def states(params, tokens, *, model):
  """States of all readouts, K of [B, T, D]."""
  return model.bind({'params': params}).states(tokens)


def mean_nll(bound, k, h_BxTxD, batch):
  """Mean loss of a readout on a state, written out."""
  logits_BxTxV = bound.normed(k, h_BxTxD) @ bound.unembedding().T
  log_p_BxTxV = jax.nn.log_softmax(logits_BxTxV)
  target_BxTx1 = batch['targets'][..., None]
  return -jnp.take_along_axis(log_p_BxTxV, target_BxTx1, -1).mean()


def one_segment(bound, state):
  """The streams after a segment, and the state at each of its readouts."""

  def read(r, state, exits):
    del r
    return exits, state[RUNNING]

  walked = walk(
    bound,
    bound.grid.segment,
    state,
    None,
    layer=bound.windows(Places(positions(LENGTH))),
    travel=Travel(positions(LENGTH)),
    read=read,
  )
  return walked.state, walked.reads


def rotation_of(model):
  """The rotary angles of a window."""
  return rotation(model.cfg, positions(LENGTH))


def assert_causal(params, outputs):
  """No gradient flows from a later token, and one from the token itself.

  Args:
    params: of a model.
    outputs: (params, tokens [1, T]) -> [K, T, ...] of the one row.
  """
  token_1xT = jnp.arange(8)[None] + 3  # each token has its own embedding

  def squares(embed):
    found = outputs(params | {'embed': embed}, token_1xT)
    return (found.reshape(*found.shape[:2], -1) ** 2).sum(-1)

  jacobian = jax.jit(jax.jacrev(squares))(params['embed'])
  flow_KxTxT = np.abs(jacobian[:, :, token_1xT[0]]).sum(-1)
  later = np.triu(np.ones((8, 8), bool), 1)
  assert (flow_KxTxT[:, later] == 0).all()
  assert (flow_KxTxT[:, np.eye(8, dtype=bool)] > 0).all()
