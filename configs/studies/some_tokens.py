"""Deep supervision on some of the tokens, or on some readouts at a time.

  python -m ease_jax.study.main --study=configs/studies/some_tokens.py \
      --workdir=runs/some_tokens

Not run yet. Cost: nine runs of some four minutes on one core, as those of
`layer_dropout.py`. 360 updates of 16 windows of 128 bytes of the built-in text,
eight layers of width 64, all of them read. Intermediate readouts have a loss at
every token, at an eighth of them, or take turns (`loss.schedule=rotate`).

Expected before it ran: perplexity at intermediate readouts 1 to 3 % higher with
an eighth of the tokens, 3 to 10 % with turns; at the last one within 0.5 %.
"""

from ease_jax import presets
from ease_jax.study.study import Config, Study


def supervised() -> Config:
  """A loss at every layer, which weighs more the deeper it is."""
  c = presets.brief(presets.standard(8))
  c.model.readouts = ()  # all layers
  c.loss.weights = 'linear'
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  every = supervised()

  eighth = supervised()
  eighth.loss.token_fraction = 1 / 8

  turns = supervised()
  turns.loss.schedule = 'rotate'

  return Study(
    'Deep supervision on some of the tokens',
    'What does it cost the readouts to learn from fewer tokens?',
    {'every token': every, 'an eighth': eighth, 'in turns': turns},
    seeds=(1, 2, 3),
    pairs=(('an eighth', 'every token'), ('in turns', 'every token')),
  )
