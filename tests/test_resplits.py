"""Guarantees on documents that are split anew."""

import dataclasses
import math

import numpy as np
import pytest
import sweeps

from ease_jax.evaluate.guarantee import METHODS, PROBABLE
from ease_jax.study import resplits

SPLITS = 300
SPEC = dataclasses.replace(
  sweeps.NOTHING, risk='disagreement', epsilon=0.1, delta=0.1
)
# Above delta by chance once in a thousand times.
MOST = SPEC.delta + 3 * math.sqrt(SPEC.delta * (1 - SPEC.delta) / SPLITS)


def pool(windows=1, documents=200):
  """Documents whose windows are all alike, as units the windows.

  Thresholds lose 2, 4, 8, 9.9, 11 and 20 % in the mean of the pool.
  """
  rng = np.random.default_rng(0)
  share_D = rng.permutation((np.arange(documents) + 0.5) / documents)
  losses = []
  for mean in (0.02, 0.04, 0.08, 0.099, 0.11, 0.2):
    loss_D = share_D ** (1 / mean - 1)
    losses.append(np.repeat(loss_D * mean / loss_D.mean(), windows))
  return resplits.Pool(
    np.stack(losses),
    np.repeat(np.arange(documents), windows),
    np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.5]),
  )


@pytest.mark.parametrize('name', PROBABLE)
def test_documents_keep_the_promise(name):
  found = resplits.resplit(pool(), SPEC, METHODS[name], SPLITS)
  assert found.violated <= MOST
  assert found.exits > 0.9
  assert 0.02 < found.loss < SPEC.epsilon
  assert 0.7 < found.compute < 1


def test_conformal_keeps_it_in_the_mean():
  found = resplits.resplit(pool(), SPEC, METHODS['conformal'], SPLITS)
  assert found.loss <= SPEC.epsilon


def test_windows_of_few_documents_break_it():
  """As they would be independent if nobody looked."""
  few = pool(windows=50, documents=40)
  broken = resplits.resplit(few, SPEC, METHODS['betting'], SPLITS)
  assert broken.violated > MOST
  alone = pool(documents=40)
  kept = resplits.resplit(alone, SPEC, METHODS['betting'], SPLITS)
  assert kept.violated <= MOST


def test_the_mean_alone_breaks_it():
  method = resplits.ASKED['no bound']
  assert resplits.resplit(pool(), SPEC, method, SPLITS).violated > MOST


def test_a_threshold_that_costs_more_than_all_is_not_taken():
  """Of those that are certified, the cheapest."""
  dear = pool()._replace(compute_J=np.array([0.9, 1.1, 1.2, 1.3, 1.4, 1.5]))
  found = resplits.resplit(dear, SPEC, METHODS['betting'], 20)
  assert found.exits == 1
  assert found.compute == pytest.approx(0.9)
  dear = dear._replace(compute_J=dear.compute_J + 1)
  found = resplits.resplit(dear, SPEC, METHODS['betting'], 20)
  assert (found.exits, found.loss, found.compute) == (0, 0, 1)


def test_too_few_documents_are_full_depth():
  found = resplits.resplit(pool(documents=12), SPEC, METHODS['betting'], 20)
  assert (found.violated, found.exits, found.loss, found.compute) == (
    0,
    0,
    0,
    1,
  )


def test_a_finished_run_is_measured(finished_run, capsys):
  _, workdir = finished_run
  resplits.main(['--workdir', str(workdir), '--splits=20', '--tokens=64'])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 2 + 2 * 2 * len(resplits.ASKED)
  assert (
    '| perplexity | 2 documents | 0.01 | betting | 0.0% | 0.0% |' in lines[2]
  )
  assert any('| 16 windows |' in line for line in lines)


def test_a_run_that_is_not_there_is_one_line(tmp_path):
  with pytest.raises(SystemExit, match='^ease_jax: .*config.json'):
    resplits.main(['--workdir', str(tmp_path / 'none')])


def test_a_limit_that_is_none_is_one_line(finished_run):
  _, workdir = finished_run
  with pytest.raises(
    SystemExit, match='^ease_jax: exit.guarantee.epsilon=2.0 '
  ):
    resplits.main(['--workdir', str(workdir), '--epsilon', '2'])
