"""The files of a finished run, made up, for tests of what reads them."""

import dataclasses
import json
import math

from ease_jax.core.policies import OperatingPoint
from ease_jax.evaluate.facts import (
  DataFacts,
  ModelFacts,
  Provenance,
  TrainFacts,
)
from ease_jax.evaluate.passage import Passage, PassageToken
from ease_jax.evaluate.results import (
  REPORT,
  ROLES,
  SELECT,
  Bin,
  BreakEven,
  Calibration,
  Chosen,
  ChosenSide,
  ClairvoyantRow,
  Cost,
  Intervals,
  Quality,
  ReadoutRow,
  Results,
  Speed,
  SpeedPoint,
  SweepRow,
)
from ease_jax.evaluate.windows import Interval

NEVER = math.inf
CLAIRVOYANT = (
  (0.0, 2.71, 0.62),
  (0.1, 2.73, 0.55),
  (1.0, 2.9, 0.42),
  (10.0, 3.6, 0.3),
  (100.0, 4.6, 0.27),
)
LAYERS = (2, 4, 6, 8)
FULL_PPL = 3.22
SIGNALS = ('max_prob', 'margin', 'entropy')
SOURCE = (
  'class Stack(list[int]):\n'
  '\tdef push(self, x: int) -> "Stack":\n'
  '\t\tif x < 0 && x & 1:  # <script>alert(1)</script>\n'
  "\t\t\traise ValueError('a<b & c>d http://example.org')\n"
  '\t\tself.append(x)\n\t\treturn self\r\n\n'
  'def total(stack: Stack) -> int:\n'
  '\t"""The sum of what was pushed so far."""\n'
  '\treturn sum(value for value in stack if value is not None)\n'
)


def quality(ppl):
  nll = math.log(ppl)
  return Quality(nll, ppl, nll / math.log(2), accuracy=0.9 - 0.16 * nll)


def cost(compute):
  early = max(0.0, 1.3 * (1 - compute))
  return Cost(
    compute=compute,
    layer_fraction=compute - 0.02,
    mean_readout=3 - 2 * early,
    exit_fraction=(0.2 * early, 0.5 * early, 0.3 * early, 1 - early),
  )


def row(split, point, compute, excess):
  """A setting whose perplexity is `excess` times that of full depth."""
  ppl = FULL_PPL * excess * (1.01 if split == SELECT else 1)
  spent = cost(compute)
  if point is not None and point.policy == 'recompute':
    spent = dataclasses.replace(spent, compute_uncharged=0.8 * compute)
  return SweepRow(split, point, quality(ppl), spent)


def sweep(split):
  rows = [row(split, None, 1.0, 1.0)]

  for policy, penalty in (('copy_state', 1.4), ('recompute', 0.9)):
    for s, signal in enumerate(SIGNALS):
      for threshold in (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98):
        compute = 0.45 + 0.55 * threshold**1.5 + 0.01 * s
        if policy == 'recompute':
          compute = min(1.02, compute + 0.08)
        excess = 1 + penalty * (1 - threshold) ** 2 * (0.5 - 0.06 * s)
        point = OperatingPoint(signal, policy, threshold)
        rows.append(row(split, point, compute, excess))

  for s, signal in enumerate(SIGNALS):
    for i in range(6):
      threshold = (0.9 - 0.1 * i, 0.8, NEVER, NEVER)
      point = OperatingPoint(signal, 'copy_state', threshold)
      compute = 0.86 - 0.05 * i - 0.01 * s
      rows.append(row(split, point, compute, 1.001 + 0.003 * i**2))

  return rows


def is_good_searched_point(row):
  point = row.point
  return (
    point is not None
    and point.signal == 'entropy'
    and isinstance(point.threshold, tuple)
    and row.quality.ppl > 1.002 * FULL_PPL
  )


def chosen():
  best = next(filter(is_good_searched_point, sweep(REPORT)))
  return Chosen(
    rule='lowest compute with select ppl <= 1.01 x full',
    policy='copy_state',
    point=best.point,
    select_split='select',
    report_split='test',
    select=ChosenSide(
      quality(3.27), cost(0.73), ppl_vs_full=1.009, tokens=32_768
    ),
    report=ChosenSide(
      best.quality,
      best.cost,
      ppl_vs_full=best.quality.ppl / FULL_PPL,
      tokens=32_768,
      intervals=Intervals(
        full_ppl=Interval(3.1, 3.34),
        ppl=Interval(3.12, 3.36),
        ppl_vs_full=Interval(1.002, 1.006),
        compute=Interval(0.78, 0.8),
      ),
    ),
  )


def readouts():
  costs = (0.27, 0.52, 0.76, 1.0)
  ppls = (4.6, 3.55, 3.3, FULL_PPL)
  return tuple(
    ReadoutRow(
      segment=1,
      layer=layer,
      flops_static=1e6 * cost,
      compute_static=cost,
      layer_fraction=layer / 8,
      select=quality(1.01 * ppl),
      report=quality(ppl),
      ppl_vs_full=ppl / FULL_PPL,
      ppl_vs_full_interval=Interval(
        ppl / FULL_PPL - 0.01, ppl / FULL_PPL + 0.01
      ),
    )
    for layer, cost, ppl in zip(LAYERS, costs, ppls)
  )


def calibration(k):
  centres = [(b + 0.5) / 15 for b in range(15)]
  bins = [
    Bin(confidence=x, accuracy=x ** (1 + 0.15 * k), count=100 + b**3)
    for b, x in enumerate(centres)
  ]
  return Calibration(1, LAYERS[k], ece=0.01 + 0.004 * k, bins=tuple(bins))


def results(**changes):
  """`results.json`, with these fields changed."""
  made_up = Results(
    seed=0,
    model=ModelFacts(1_234_567, 'stack', segments=1, layers=8, vocab_size=257),
    data=DataFacts(
      source='stdlib',
      tokenizer='byte',
      sha256='ab' * 32,
      train_tokens=9_300_000,
      select_tokens=510_000,
      test_tokens=498_123,
    ),
    train=TrainFacts(
      steps=1500,
      updates=1500,
      best_step=1400,
      tokens=3_072_000,
      flops=2.4e13,
      wall_s=212.4,
      tokens_per_s=14463.2,
      seconds={
        'updates': 180.0,
        'data': 1.5,
        'compiling': 18.0,
        'evaluation': 11.9,
        'checkpoints': 1.0,
      },
      devices='1 x NVIDIA L4',
      flops_per_s=1.32e11,
      mfu=0.0022,
    ),
    readouts=readouts(),
    sweep=(*sweep(SELECT), *sweep(REPORT)),
    chosen=chosen(),
    clairvoyant=tuple(
      ClairvoyantRow(split, 'copy_state', price, quality(ppl), cost(compute))
      for split in ROLES
      for price, ppl, compute in CLAIRVOYANT
    ),
    calibration=tuple(calibration(k) for k in range(len(LAYERS))),
    segments=(),
    speed=None,
    provenance=Provenance(
      command=(
        'python -m ease_jax.main --config=configs/quickstart.py '
        '--workdir=runs/quickstart'
      ),
      versions={'jax': '0.10.2', 'ease_jax': '0.1.0'},
      commit='2a71f64',
      date='2026-01-01T00:00:00+00:00',
      platform='Linux x86_64, cpu',
    ),
  )
  return dataclasses.replace(made_up, **changes)


def with_report_side(compute, ppl_vs_full):
  """Results whose chosen point is like this on the split that reports."""
  before = chosen()
  spent = dataclasses.replace(before.report.cost, compute=compute)
  side = dataclasses.replace(before.report, cost=spent, ppl_vs_full=ppl_vs_full)
  return results(chosen=dataclasses.replace(before, report=side))


def speed_point(threshold, excess, rate, expected, is_chosen=False):
  point = None
  if threshold is not None:
    point = OperatingPoint('entropy', 'copy_state', threshold)
  return SpeedPoint(
    point=point,
    ppl=FULL_PPL * excess,
    ppl_vs_full=excess,
    tokens_per_second=rate,
    tokens_per_second_low=rate - 90,
    tokens_per_second_high=rate + 110,
    speedup=rate / 6100,
    expected_speedup=expected,
    compute_decoder=1 / expected,
    chosen=is_chosen,
  )


def speed(chosen_rate=7400.4):
  searched = (0.95, 0.74, NEVER, NEVER)
  return Speed(
    tokens=1016,
    rounds=5,
    batch_size=1,
    context=127,
    device='cpu <A&B>',
    head_layers=0.33,
    points=(
      speed_point(None, 1.0, 6100.0, 1.0),
      speed_point(0.9, 1.002, 6600.0, 1.16),
      speed_point(searched, 1.008, chosen_rate, 1.36, is_chosen=True),
      speed_point(0.2, 1.6, 12345.6, 3.1),
    ),
    break_even=(
      BreakEven(1, 2, needed=0.05, stopped=0.31, active=True),
      BreakEven(1, 4, needed=0.35, stopped=0.3, active=True),
      BreakEven(1, 6, needed=0.1, stopped=0.2, active=False),
    ),
  )


def metrics():
  train = [
    {
      'step': step,
      'time': 1.0 * step,
      'split': 'train',
      'tokens_per_s': 14e3,
      'loss': 1.3 + 4.2 * math.exp(-step / 150) + 0.05 * math.sin(step),
    }
    for step in range(20, 1501, 20)
  ]
  select = [
    {
      'step': step,
      'time': 1.0 * step,
      'split': 'select',
      'loss': 1.25 + 3.9 * math.exp(-step / 160),
    }
    for step in range(200, 1501, 200)
  ]
  return train + select


def passage():
  tokens = []
  for i, char in enumerate(SOURCE):
    nll = 2.5 * abs(math.sin(0.7 * i)) ** 4
    k = min(3, int(2.5 * nll))
    tokens.append(PassageToken(char, math.exp(-nll), k, 1, LAYERS[k], nll))
  return Passage('test', tuple(tokens))


def write_run(workdir, of_results=None):
  """Writes the files of a finished run into a directory."""
  lines = [json.dumps(event) + '\n' for event in metrics()]
  files = {
    'config.json': json.dumps({'seed': 0, 'note': '</pre><b>', 'exit': {}}),
    'results.json': json.dumps((of_results or results()).to_json()),
    'passage.json': json.dumps(passage().to_json()),
    'metrics.jsonl': ''.join(lines),
  }
  for name, text in files.items():
    (workdir / name).write_text(text, encoding='utf-8')
  return workdir
