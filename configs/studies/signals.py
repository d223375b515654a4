"""How far each signal comes on the way to those who know all losses.

  python -m ease_jax.study.main --study=configs/studies/signals.py \
      --workdir=runs/signals

Cost: three runs of the quickstart's length, with ten signals to search in the
place of two; 85 minutes on 2 cores, two at a time, beside other work. All are
read off the same models: the quickstart's, whose gates learn beside them and
change nothing (a test perplexity of 3.169 ± 0.021).

Expected before it ran, as shares of the way at +1 % perplexity: margin and
entropy within 3 % of max_prob, shortlist too; kl -5 to -20 %, as it asks two
readouts; patience and signals of states below -20 %; gain 13 %, as measured in
`quickstart.py`. Seen: margin -1 %, entropy 2 %, shortlist 5 %, kl -19 %,
patience -42 %, states -41 to -46 %, gain 13 % (`docs/results.md`).
"""

from ease_jax import presets
from ease_jax.study.study import Study

SIGNALS = (
  'max_prob',
  'margin',
  'entropy',
  'kl',
  'patience',
  'state_cosine',
  'state_change',
  'state_steadiness',
  'shortlist',
  'gain',
)


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  c = presets.quickstart()
  c.exit.signals = SIGNALS
  c.exit.policies = ('copy_state',)

  return Study(
    'Signals on the way to the clairvoyant',
    'How much of the compute that max_prob spends too much does each signal '
    'spare, at equal perplexity?',
    {'quickstart': c},
    seeds=(1, 2, 3),
    pairs=(),
    signals=('quickstart',),
  )
