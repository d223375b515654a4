"""Does running layers again pay? Eight cells deep, three seeds.

  python -m ease_jax.study.main --study=configs/studies/recurrence.py \
      --workdir=runs/recurrence --jobs=2

Cost: 45 runs of two to five minutes each on one core. Test perplexity of all is
in `docs/results.md`: standard_4 4.638, standard_8 4.376, normed 4.450 ± 0.076,
lanes 4.508 ± 0.019, recurrent 4.555 ± 0.118, middle_late 4.471 ± 0.017.
Built-in text, bytes, width 64, 16 windows of 128 bytes an update. Runs of eight
cells make 360 updates, and so do the smaller standard models, which cost less;
those that say FLOPs are trained for as many FLOPs as `standard_8`.

Expected before the first run: `irt`, as it was here (a loss after each run, no
gradient between them), is worse than its twin of four layers at equal FLOPs;
one loss and one gradient (`joined`) bring it near `standard_4`; injection and
norm (`recurrent`) half of the way to `standard_8`; two repeated layers in the
middle (`middle`) 50 to 70 % of two layers of their own, switched on late more,
lanes most of all.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 257  # bytes, and the end of a text


def irt(c: Config) -> Config:
  """Four layers twice, a loss after each run, no gradient between them."""
  c = presets.refinement(c, segments=2, num_layers=4)
  c.model.readouts = (4,)
  c.loss.weights = 'segment_ends'
  return c


def joined(c: Config) -> Config:
  """One loss and one gradient, and nothing else changed."""
  c = irt(c)
  c.model.carry_backprop = 2
  c.loss.weights = 'final'
  return c


def unnormed(c: Config) -> Config:
  """The input as it is: at first a fiftieth of the size of the state."""
  c.model.refine.input_norm = False
  return c


def late(c: Config) -> Config:
  """The second run begins when 40 % of the updates are done."""
  c = c.copy_and_resolve_references()
  c.train.runs = 'late'
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  deep = presets.brief(presets.standard(8))
  flat = {n: presets.brief(presets.standard(n)) for n in (4, 6)}

  def equal(c: Config) -> Config:
    return with_equal_training(c, deep, VOCAB)

  normed = presets.recurrent(deep, segments=2, num_layers=4)
  middle = presets.middle_repeat(deep)
  variants = {
    'standard_8': deep,
    'standard_4': flat[4],
    'standard_6': flat[6],
    'irt': irt(deep),
    'joined': joined(deep),
    'recurrent': unnormed(presets.recurrent(deep, segments=2, num_layers=4)),
    'normed': normed,
    'normed_late': late(normed),
    'lanes': presets.lanes(deep, segments=2, num_layers=4),
    'middle': middle,
    'middle_injected': unnormed(
      presets.recurrent(deep, segments=2, num_layers=2, own=2)
    ),
    'middle_late': late(middle),
    'standard_4_FLOPs': equal(flat[4]),
    'standard_6_FLOPs': equal(flat[6]),
    'middle_late_FLOPs': equal(late(middle)),
  }
  all_again = ('irt', 'joined', 'recurrent', 'normed', 'normed_late', 'lanes')
  some_again = ('middle', 'middle_injected', 'middle_late')
  return Study(
    'Does running layers again pay?',
    'What do layers that run twice bring, beside layers of their own?',
    variants,
    seeds=(1, 2, 3),
    pairs=(
      ('irt', 'standard_4'),
      ('joined', 'standard_4'),
      ('recurrent', 'standard_4'),
      ('recurrent', 'standard_8'),
      ('recurrent', 'standard_4_FLOPs'),
      ('normed', 'recurrent'),
      ('normed', 'standard_4'),
      ('normed_late', 'normed'),
      ('lanes', 'normed'),
      ('middle', 'standard_6'),
      ('middle', 'standard_8'),
      ('middle', 'standard_6_FLOPs'),
      ('middle_injected', 'middle'),
      ('middle_late', 'middle'),
      ('middle_late_FLOPs', 'middle'),
      ('middle_late_FLOPs', 'standard_6_FLOPs'),
    ),
    recoveries=(
      *((name, 'standard_4', 'standard_8') for name in all_again),
      *((name, 'standard_6', 'standard_8') for name in some_again),
    ),
  )
