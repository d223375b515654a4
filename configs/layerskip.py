"""LayerSkip: layer dropout, a loss at early readouts in turn, own drafts.

  python -m ease_jax.main --config=configs/layerskip.py --workdir=runs/layerskip

Of the paper (Elhoushi et al. 2404.16710, from scratch): p_max 0.2, rising with
depth and with time; e_scale 0.2; a rotation in which one early readout at a
time has a loss; greedy text by self-speculation. Of 16 rows, 0 to 3 skip the
last layer: 3 % fewer training FLOPs than without (counted). Its own drafts,
four tokens from behind layer 2 at a time (timing all ways takes long):

  ... --workdir=runs/layerskip --mode=generate --prompt='def main(' \
      --config.generate.method=speculative \
      --config.generate.draft="(1, 4, 0.0)"

Cost: never run at full length. In a shorter study (`studies/layer_dropout.py`,
three seeds, final loss alone) dropout raised the test perplexity of the last
layer by 10.6 % at equal updates, by 7.2 % at equal FLOPs. Published, of
Llama2-7B: a perplexity of 4.30 at the last layer, 4.32 without the recipe, and
of 8.12 in place of 1900 in the middle; drafts make text 1.8 to 2.2 times as
fast.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  return config.with_argument(presets.layerskip(), argument)
