"""Fixed, drawn or shortened runs: full depth, fewer runs, exits.

  python -m ease_jax.study.main --study=configs/studies/drawn_runs.py \
      --workdir=runs/drawn_runs --jobs=2

Cost: 24 runs of two to eight minutes each on one core. Test perplexity on three
seeds (`docs/results.md`): fixed 4 4.559, drawn 4.604, shortened 4.589, layers
4.377. Built-in text, bytes, width 64, 360 updates. Two layers run up to four
times, between one layer of their own before and one behind, with one loss at
the end. Those called fixed are trained for so many runs (injection, norm),
`drawn` for one to four (Huginn's sampler, 2502.05171). `timed` goes on from
state to state and is told the time, four runs; `shortened` as well, and learns
to make the way in fewer, longer runs (LoopFormer, 2602.11451). `layers` are ten
layers of their own, as many cells as `fixed 4`, with a loss where that ends
each run. Each number of runs is held against the model that was trained for it.

Expected before the first run: `drawn` is 0.3 % to 1 % above `fixed 4` after
four runs, and within 2 % of each twin after fewer, while `fixed 4` is far above
them; so that exits (relative change of the state) work on `drawn` alone.
`shortened` costs 1.4 times the FLOPs of `timed` (counted: 1.49), is within 1 %
of it after four runs and within 3 % of `fixed 1` and `fixed 2` after one and
two; exits over `layers` save more than exits over any runs.
"""

from ease_jax import presets
from ease_jax.study.study import Config, Study

MOST = 4
LAYERS, OWN = 2, 1
SIGNALS = ('state_change', 'max_prob')


def fixed(runs: int) -> Config:
  """Trained for so many runs."""
  c = presets.brief(presets.small())
  c = presets.recurrent(c, segments=runs, num_layers=LAYERS, own=OWN)
  return with_latest(c) if runs > 1 else c


def with_latest(c: Config) -> Config:
  """Tokens that stop show what their last run made."""
  c.exit.policies = ('latest',)
  c.exit.policy = 'latest'
  return c


def layers() -> Config:
  """As many cells, each a layer of its own, a loss after each two."""
  c = presets.brief(presets.standard(MOST * LAYERS + 2 * OWN))
  ends = [OWN + (run + 1) * LAYERS for run in range(MOST)]
  c.model.readouts = (*ends[:-1], c.model.num_layers)
  c.loss.weights = 'linear'
  c.exit.signals = SIGNALS
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  drawn = fixed(MOST)
  drawn.train.runs = 'drawn'
  drawn.train.runs_most = 1
  brief = presets.brief(presets.small())
  shape = dict(segments=MOST, num_layers=LAYERS, own=OWN)
  twins = {f'fixed {runs}': fixed(runs) for runs in range(1, MOST + 1)}
  others = {
    'drawn': drawn,
    'timed': with_latest(presets.timed(brief, **shape)),
    'shortened': with_latest(presets.loopformer(brief, **shape)),
  }
  by_runs = ('fixed 4', *others)
  return Study(
    'Fixed, drawn or shortened runs',
    'What does it cost to answer after any number of runs, and what does it '
    'bring?',
    twins | others | {'layers': layers()},
    seeds=(1, 2, 3),
    pairs=(
      ('drawn', 'fixed 4'),
      ('fixed 4', 'fixed 1'),
      ('fixed 4', 'fixed 2'),
      ('timed', 'fixed 4'),
      ('shortened', 'timed'),
      ('layers', 'fixed 4'),
    ),
    frontier=tuple(twins),
    depths=tuple((name, tuple(twins)) for name in by_runs),
  )
