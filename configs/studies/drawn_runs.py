"""A fixed number of runs, or a drawn one: full depth, fewer runs, exits.

  python -m ease_jax.study.main --study=configs/studies/drawn_runs.py \
      --workdir=runs/drawn_runs --jobs=2

Cost: 15 runs of one to four minutes each on one core. Built-in text, bytes,
width 64, 360 updates. Two layers run up to four times, between one layer of
their own before and one behind (injection, norm, one loss at the end); those
called fixed are trained for so many runs, `drawn` for one to four (Huginn's
sampler, 2502.05171). Each number of runs is held against the model that was
trained for it.

Expected before the first run: `drawn` is 0.3 % to 1 % above `fixed 4` after
four runs, and within 2 % of each twin after fewer, while `fixed 4` is far above
them; so that exits (relative change of the state) work on `drawn` alone.
"""

from ease_jax import presets
from ease_jax.study.study import Config, Study

MOST = 4


def fixed(runs: int) -> Config:
  """Trained for so many runs."""
  c = presets.brief(presets.small())
  c = presets.recurrent(c, segments=runs, num_layers=2, own=1)
  if runs > 1:
    c.exit.policies = ('latest',)
    c.exit.policy = 'latest'
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  drawn = fixed(MOST)
  drawn.train.runs = 'drawn'
  drawn.train.runs_most = 1
  twins = {f'fixed {runs}': fixed(runs) for runs in range(1, MOST + 1)}
  return Study(
    'A fixed or a drawn number of runs',
    'What does it cost to draw the number of runs, and what does it bring?',
    twins | {'drawn': drawn},
    seeds=(1, 2, 3),
    pairs=(
      ('drawn', 'fixed 4'),
      ('fixed 4', 'fixed 1'),
      ('fixed 4', 'fixed 2'),
    ),
    frontier=tuple(twins),
    depths=(('drawn', tuple(twins)), ('fixed 4', tuple(twins))),
  )
