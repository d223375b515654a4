"""The memo's threshold sweep, with the best of what this package has.

  python -m ease_jax.study.main --study=configs/studies/memo_sweep.py \
      --workdir=runs/memo_sweep --data=DIR --jobs=2

Cost: six runs of twenty minutes each on one core; two minutes each, sixteen at
a time, on an H200.
`memo` is the model of `configs/memo_threshold_sweep.py`, a loss after layers 2
and 4. `everything` is as large, and trained for as many updates, with 17 % more
FLOPs: it is read after layer 3 too, with other weights, trained on exits, and
may ask a gate at each readout (`gain`) instead of a head. Both choose, on
select, the best point within 68.7 % of their full depth.

Seeds 0 and 11 on an H200 and seed 1 on two cores had, on test, a perplexity of
5.397 at full depth and 5.797 within 68.7 % (`memo`); 5.333 and 5.632
(`everything`).
"""

from ease_jax import presets
from ease_jax.study.study import Config, Study


def everything(c: Config) -> Config:
  """Three readouts, training on exits, and the gain gate."""
  c = c.copy_and_resolve_references()
  c.model.readouts = (2, 3, 4)
  c.loss.chosen = ((2, 0.4), (3, 0.2), (4, 0.4))
  c.loss.exit_threshold = 0.8
  c.loss.gates = ('gain',)
  c.exit.signals = ('max_prob', 'gain')
  return c


def get_study(data: str) -> Study:
  memo = presets.memo_sweep(data)
  return Study(
    "The memo's sweep",
    'How near to full depth comes a converged model of four layers within '
    "the memo's 68.7 % of the compute?",
    {'memo': memo, 'everything': everything(memo)},
    seeds=(0, 1, 2),
    pairs=(('everything', 'memo'),),
  )
