"""The memo's threshold sweep, trained to convergence on WikiText-2.

  python -m ease_jax.main --config=configs/memo_threshold_sweep.py \
      --workdir=runs/memo \
      --config.data.path="('DIR/train.txt',)" \
      --config.data.select_path="('DIR/valid.txt',)" \
      --config.data.test_path="('DIR/test.txt',)"

Cost: 6 minutes on one core, 30 s of it evaluation. Expect, on test, a
perplexity of 5.41 at full depth (with AdamW 6.87) and 5.80 at 67.5 % of the
compute: means of three seeds, `docs/results.md`.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.memo_sweep('data/wikitext2')
  c.exit.signals = ('max_prob', 'margin', 'entropy')
  return config.with_argument(c, argument)
