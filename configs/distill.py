"""Self-distillation: `exits.py`, its last readout teaching the others.

  python -m ease_jax.main --config=configs/distill.py --workdir=runs/distill

A trained run teaches in its place, all readouts of this one:

  ... --workdir=runs/taught --config.loss.teacher=runs/standard

Cost: that of `exits.py` and 2 % of its training FLOPs, for the heads that
teach. No gain was seen: two seeds on one H200, with the gate of the quickstart,
had a test perplexity of 3.224 at full depth, the label alone 3.194 at equal
training FLOPs; a brief training +1.0 % [-2.3, +4.4] (`studies/distillation.py`,
three seeds).
Published, of other models: distilling the detached last output made the
small-coefficient recipe the most stable (2410.20672); exits of a frozen model
are trained on nothing else (2503.05005).
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.exits()
  c.loss.target = 'distill'
  return config.with_argument(c, argument)
