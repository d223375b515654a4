import pytest

from ease_jax import config, validation
from ease_jax.evaluate import sweep
from ease_jax.model.exits import ExitSpec

FULL, INF = 10.0, float('inf')


def row(ppl, compute, policy='copy_state', threshold=0.5):
  return {
    'ppl': ppl,
    'compute': compute,
    'kv_policy': policy,
    'threshold': threshold,
  }


ROWS = [
  row(9.0, 0.2, policy='recompute'),  # another policy's numbers
  row(FULL, 1.0, threshold=None),
  row(10.05, 0.9),
  row(10.099, 0.7),
  row(10.2, 0.6),
  row(10.3, 0.5),
]


def with_rule(**fields):
  c = config.base()
  c.exit.update(fields)
  validation.validate(c)
  return c


@pytest.mark.parametrize(
  'fields, best, rule',
  [
    (
      {'max_ppl_ratio': 1.01},
      3,
      'lowest compute with select ppl <= 1.01 x full',
    ),
    ({'max_ppl_ratio': 1.0}, 1, 'lowest compute with select ppl <= 1 x full'),
    ({'max_compute': 0.65}, 4, 'lowest select ppl at compute <= 0.65'),
  ],
)
def test_the_rule_chooses_among_rows_of_its_policy(fields, best, rule):
  c = with_rule(**fields)
  assert sweep.choose(ROWS, c) == best
  assert str(sweep.Rule.from_config(c)) == rule


def test_a_compute_nobody_reaches_is_an_error():
  with pytest.raises(config.ConfigError, match=r'0\.4 .* 0\.500; raise it'):
    sweep.choose(ROWS, with_rule(max_compute=0.4))


@pytest.mark.parametrize(
  'fields', [{'max_ppl_ratio': 1.01}, {'max_compute': 0.65}]
)
def test_bisecting_on_more_exits_ends_at_the_rules_choice(fields):
  rule = sweep.Rule.from_config(with_rule(**fields))
  low, high = 0.0, 1.0
  for _ in range(30):  # a curve on which a higher price means less compute
    price = (low + high) / 2
    there = row(FULL * (1 + 0.1 * price**2), 1 - 0.6 * price)
    if rule.wants_more_exits(there, FULL):
      low = price
    else:
      high = price
  found = row(FULL * (1 + 0.1 * low**2), 1 - 0.6 * low)
  limit = fields.get('max_compute')
  value, expected = (
    (found['compute'], limit) if limit else (found['ppl'] / FULL, 1.01)
  )
  assert value == pytest.approx(expected)


@pytest.mark.parametrize(
  'signal, share, expected',
  [
    ('max_prob', 1.0, (0.2, INF, 0.6, INF)),
    ('max_prob', 0.5, (0.6, INF, 0.8, INF)),
    ('kl', 0.5, (0.1, INF, 0.3, INF)),
    ('patience', 0.5, (0.2, INF, 0.6, INF)),
  ],
)
def test_tightened_thresholds_are_nearer_to_the_highest_score(
  signal, share, expected
):
  point = sweep.Point(ExitSpec(signal, 'copy_state'), (0.2, INF, 0.6, INF))
  assert sweep.tightened(point, share).threshold == pytest.approx(expected)


class Curve:
  """Stands for a split: exits gain compute and lose quality smoothly."""

  def measure(self, point):
    exits = 1 - point.threshold[0]
    return row(FULL * (1 + 0.1 * exits**2), 1 - 0.6 * exits)


def test_a_jump_across_the_limit_is_drawn_back_to_it():
  rule = sweep.Rule.from_config(with_rule(max_ppl_ratio=1.01))
  spec = ExitSpec('max_prob', 'copy_state')
  beyond = sweep.Point(spec, (0.68, INF))  # 0.32 of exits, 0.316 are allowed
  visited = list(
    sweep._bisect(
      lambda share: sweep.tightened(beyond, share),
      0.75,
      1.0,
      Curve(),
      lambda r: rule.wants_more_exits(r, FULL),
      12,
    )
  )
  assert len(visited) == 12
  assert visited[-1][1]['ppl'] == pytest.approx(1.01 * FULL, rel=1e-4)
