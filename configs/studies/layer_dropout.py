"""Layer dropout: the final loss at equal updates and at equal training FLOPs.

  python -m ease_jax.study.main --study=configs/studies/layer_dropout.py \
      --workdir=runs/layer_dropout

Cost: fifteen runs of two to three minutes on one core; not run yet. 360
updates of 16 windows of 128 bytes of the built-in text, eight layers of width
64. `layerskip` drops as LayerSkip does from scratch (2404.16710): deeper layers
more, and more of them with time, a mean of 3 % of the FLOPs. `falling` is the
other way round, as a later finding has it: all layers alike, most at the start,
15 %. Nothing was tuned: rates and learning rates are those of the first try.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 257  # bytes, and the end of a text
STEPS = 360
KINDS = {
  'layerskip': ('rising', 'exponential', 0.2),
  'falling': ('falling', 'uniform', 0.4),
}


def standard() -> Config:
  """Half a quickstart: width 64, fewer updates, the final loss alone."""
  c = presets.standard(8)
  c.model.dim = 64
  c.model.block.mlp.dim = 256
  c.train.steps = STEPS
  c.train.eval_every = 120
  c.train.checkpoint_every = 120
  c.evaluate.max_tokens = 16_384
  c.evaluate.speed_tokens = 0
  c.exit.policies = ('copy_state',)
  return c


def dropping(c: Config, schedule: str, shape: str, most: float) -> Config:
  """Rows of a batch skip layers."""
  c = c.copy_and_resolve_references()
  c.train.layer_dropout = most
  c.train.layer_dropout_shape = shape
  c.train.layer_dropout_schedule = schedule
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  base = standard()
  variants = {'standard': base}
  for name, kind in KINDS.items():
    dropped = dropping(base, *kind)
    variants[name] = dropped
    variants[f'{name}, equal FLOPs'] = with_equal_training(dropped, base, VOCAB)
  return Study(
    'Layer dropout',
    'Does skipping layers in training lower or raise the final loss, after '
    'as many updates and for as many FLOPs?',
    variants,
    seeds=(1, 2, 3),
    pairs=tuple((name, 'standard') for name in variants if name != 'standard'),
  )
