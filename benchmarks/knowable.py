"""How much of the clairvoyant frontier anybody could know.

  python benchmarks/knowable.py --workdir=runs/quickstart

The clairvoyant frontier (docs/compute.md) answers each token where its own
loss is lowest, and so profits from luck: an early readout that happens to like
the true token is good only by chance. Who knew the last readout's distribution
p_K, but not the token, would stop where KL(p_K || p_k) plus a price of compute
is lowest: no rule can expect to do better if p_K is right. This prints the
compute of both at some perplexities, and that of max_prob with one threshold,
each charged alike: cells, the head that answers, keys and values of skipped
cells, and no question. Deeper states are the true ones.
"""

import logging
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ease_jax import deploy, run, workdir
from ease_jax.core.policies import POLICIES
from ease_jax.data.task import load as load_task
from ease_jax.model import readout
from ease_jax.report.signals import compute_at

_WORKDIR = flags.DEFINE_string('workdir', None, 'A trained run.', required=True)
_TOKENS = flags.DEFINE_integer('tokens', 32_768, 'Tokens of test to read.')
RATIOS = (1.0, 1.005, 1.01, 1.02, 1.05)
PRICES = np.geomspace(1e-4, 1e2, 61)


def read(trained, batch) -> tuple[np.ndarray, ...]:
  """Loss, confidence, and KL from the last readout, each [K, N]."""

  @jax.jit
  def all_readouts(params, tokens, targets):
    bound = trained.model.bind({'params': params})
    log_p_K = []
    for k, h_BxTxD in enumerate(bound.states(tokens)):
      normed_BxTxD = bound.normed(k, h_BxTxD)
      normed_NxD = normed_BxTxD.reshape(-1, normed_BxTxD.shape[-1])
      logits_NxV = readout.logits(normed_NxD, bound.unembedding(k))
      log_p_K.append(jax.nn.log_softmax(logits_NxV))

    log_p_KxNxV = jnp.stack(log_p_K)
    chosen_1xNx1 = targets.reshape(-1)[None, :, None]
    nll_KxN = -jnp.take_along_axis(log_p_KxNxV, chosen_1xNx1, 2)[..., 0]
    last_1xNxV = log_p_KxNxV[-1:]
    kl_KxN = (jnp.exp(last_1xNxV) * (last_1xNxV - log_p_KxNxV)).sum(-1)
    return nll_KxN, jnp.exp(log_p_KxNxV.max(-1)), kl_KxN

  return jax.device_get(
    all_readouts(trained.params, batch['tokens'], batch['targets'])
  )


def curve(nll_KxN, cost_K, exits) -> list[tuple[float, float]]:
  """(compute, perplexity) of several choices of readouts."""
  points = []
  for exit_N in exits:
    nll_N = np.take_along_axis(nll_KxN, exit_N[None], 0)[0]
    points.append((float(cost_K[exit_N].mean()), float(np.exp(nll_N.mean()))))
  return points


def priced(merit_KxN, cost_K):
  """The readout of the lowest merit plus price times cost, at each price."""
  for price in PRICES:
    yield (merit_KxN + price * cost_K[:, None]).argmin(0)


def confident(max_prob_KxN):
  """The first readout that is sure enough, at each of many thresholds."""
  for threshold in np.linspace(0, 1, 61):
    sure_KxN = max_prob_KxN >= threshold
    sure_KxN[-1] = True
    yield sure_KxN.argmax(0)


def main(argv: Sequence[str]) -> None:
  del argv
  logging.disable(logging.INFO)  # of the checkpoints
  folder = workdir.locate(_WORKDIR.value)
  config = workdir.read_config(folder)
  trained = run.load_model(config, folder)
  spec = deploy.specs_of(config, trained.tokenizer)
  task = load_task(spec.data, folder)
  prices = trained.model.costs_of_windows(spec.data.seq_len)
  policy = POLICIES[spec.sweep.policy]
  cost_K = prices.answered_K(policy) / prices.full

  parts = [
    read(trained, batch)
    for batch in task.eval_batches('test', 16, _TOKENS.value)
  ]
  nll_KxN, max_prob_KxN, kl_KxN = map(np.concatenate, zip(*parts), [1, 1, 1])
  full = float(np.exp(nll_KxN[-1].mean()))
  curves = {
    'knows the loss': curve(nll_KxN, cost_K, priced(nll_KxN, cost_K)),
    'knows p_K': curve(nll_KxN, cost_K, priced(kl_KxN, cost_K)),
    'max_prob, asks for free': curve(nll_KxN, cost_K, confident(max_prob_KxN)),
  }
  print(f'full depth: {full:.4f}, {nll_KxN.shape[1]:,} tokens')
  print('perplexity'.ljust(26), *(f'{r - 1:+8.1%}' for r in RATIOS))
  for name, points in curves.items():
    least = [compute_at([*points, (1.0, full)], r * full) for r in RATIOS]
    print(
      name.ljust(26), *('       –' if x is None else f'{x:8.1%}' for x in least)
    )


if __name__ == '__main__':
  app.run(main)
