"""Documents of a window that are apart: each is as it is alone."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import config, fields, specs
from ease_jax.checks import ConfigError
from ease_jax.core.gating import GateSpec
from ease_jax.core.objective import LossSpec
from ease_jax.data import corpus
from ease_jax.evaluate import passes
from ease_jax.model import flash
from ease_jax.model.sight import places_of, sight_of
from ease_jax.train import loss as losses

EOS = 0
SIZES = (5, 1, 17, 9)  # tokens of each document, its first one among them
LENGTH = sum(SIZES)
STARTS = np.cumsum((0, *SIZES[:-1]))
APART = dict(document_start=EOS)
STACK = dict(window=6, global_every=2, positions=LENGTH)


def packed():
  """Four documents in one row, then each in a row that nothing else fills.

  No two documents have a token in common, but for the first.
  """
  rng = np.random.default_rng(3)
  shape = 1 + len(SIZES), LENGTH
  batch = {
    'tokens': np.full(shape, EOS, np.int32),
    'targets': np.zeros(shape, np.int32),
    'mask': np.zeros(shape, np.float32),
  }
  batch['mask'][0] = 1
  batch['targets'][0] = rng.integers(0, tiny.VOCAB, LENGTH)
  for number, (start, size) in enumerate(zip(STARTS, SIZES, strict=True)):
    own = rng.integers(1, 5, size) + 5 * number
    own[0] = EOS
    place = slice(start, start + size)
    batch['tokens'][0, place] = own
    batch['tokens'][1 + number, :size] = own
    batch['targets'][1 + number, :size] = batch['targets'][0, place]
    batch['mask'][1 + number, :size] = 1
  return batch


BATCH = packed()


def both(x_BxT):
  """What was made of the one row, and of the rows of each document."""
  alone = [x_BxT[1 + n, :size] for n, size in enumerate(SIZES)]
  return x_BxT[0], np.concatenate(alone)


@pytest.fixture
def tiles(request, monkeypatch):
  """Whether the window is cut into tiles of 16 tokens."""
  if not request.param:
    yield False
    return
  jax.clear_caches()
  monkeypatch.setattr(flash, 'TILE_ELEMENTS', 1)
  monkeypatch.setattr(flash, 'WHOLE_ELEMENTS', 1)
  monkeypatch.setattr(flash, 'MIN_TILE', 16)
  yield True
  jax.clear_caches()


def test_a_document_begins_at_its_first_token():
  model = tiny.stack(**APART)
  tokens = np.asarray([[7, 7, 0, 7, 0, 0], [0, 7, 7, 7, 7, 7]], np.int32)
  places = places_of(model.cfg, jnp.asarray(tokens))
  assert places.position_BxT.tolist() == [[0, 1, 0, 1, 0, 0], [*range(6)]]
  assert places.document_BxT.tolist() == [[0, 0, 1, 1, 2, 3], [1] * 6]
  joined = places_of(tiny.stack().cfg, jnp.asarray(tokens))
  assert joined.position_BxT.tolist() == [[*range(6)]]
  assert joined.document_BxT is None


@pytest.mark.parametrize('window', [0, 3])
def test_a_token_sees_those_of_its_document_before_it(window):
  model = tiny.stack(**APART)
  tokens = BATCH['tokens'][:1]
  places = places_of(model.cfg, jnp.asarray(tokens))
  mask = np.asarray(sight_of(model.cfg, window, places, None).mask())[0]
  document = np.repeat(np.arange(len(SIZES)), SIZES)
  for t in range(LENGTH):
    for s in range(LENGTH):
      near = window == 0 or t - s < window
      sees = s <= t and near and document[s] == document[t]
      assert mask[t, s] == sees


MODELS = {
  'stack': functools.partial(tiny.stack, **STACK),
  'refine': functools.partial(tiny.refine, segments=2, carry_init='random'),
  'hrm': functools.partial(tiny.hrm, segments=2, cycles=1, cycle_steps=1),
  'mod': functools.partial(tiny.stack, router='mod', choice='predictor'),
  'mor': functools.partial(tiny.recursions, choice='token'),
}


@pytest.mark.parametrize(
  ('name', 'tiles'),
  [(name, False) for name in MODELS] + [('stack', True)],
  indirect=['tiles'],
)
def test_logits_are_those_of_each_document_alone(name, tiles):
  model = MODELS[name](**APART)
  params = tiny.params(model)
  logits = tiny.logits(params, BATCH['tokens'], model=model)
  for logits_BxTxV in np.asarray(logits):
    together, alone = both(logits_BxTxV)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)

  joined = MODELS[name]()
  logits = tiny.logits(params, BATCH['tokens'][:1], model=joined)
  assert np.abs(np.asarray(logits)[-1, 0] - together).max() > 0.1


# Of each: the loss, and how many runs come before that learn nothing.
LEARNERS = {
  'stack': (LossSpec((0.5, 0.0, 0.0, 1.0)), None),
  'refine': (LossSpec((0.0, 0.5, 0.0, 1.0), segments=2), 1),
  # Its gate asks what comes a segment later.
  'hrm': (
    LossSpec((1.0, 1.0), segments=2, gating=GateSpec(('q_halt',), 1.0)),
    None,
  ),
}


@functools.partial(jax.jit, static_argnames=('model', 'spec'))
def learned(params, batch, before, *, model, spec):
  def loss(params):
    key = jax.random.key(0)
    return losses.grid_loss(params, model, spec, batch, 0, key, None, before)

  (total, _), grads = jax.value_and_grad(loss, has_aux=True)(params)
  return total, grads


@pytest.mark.parametrize('name', LEARNERS)
def test_what_is_learned_is_what_each_document_teaches(name):
  """The loss and its gradient: targets count alike, in one row or in four."""
  model = MODELS[name](**APART)
  spec, before = LEARNERS[name]
  run = functools.partial(learned, model=model, spec=spec)
  before = None if before is None else jnp.int32(before)
  mask = BATCH['mask']
  together = BATCH | {'mask': mask * (np.arange(len(mask)) == 0)[:, None]}
  alone = BATCH | {'mask': mask * (np.arange(len(mask)) > 0)[:, None]}
  params = tiny.params(model)
  one = run(params, together, before)
  four = run(params, alone, before)
  np.testing.assert_allclose(one[0], four[0], rtol=1e-5)
  tiny.assert_trees_close(one[1], four[1], rtol=1e-3, atol=1e-5)

  # Exact zeros: what the second document says moves no word of another one.
  second = np.zeros_like(mask)
  second[0, STARTS[2] : STARTS[3]] = 1
  _, grads = run(params, BATCH | {'mask': second}, before)
  moved = np.abs(np.asarray(grads['embed'])).sum(1) > 0
  words = np.unique(BATCH['tokens'][0, STARTS[2] : STARTS[3]])
  assert moved.nonzero()[0].tolist() == words.tolist()


def test_exits_are_those_of_each_document_alone():
  model = MODELS['stack'](**APART)
  params = tiny.params(model)
  threshold_K = tiny.thresholds(model, params, 'max_prob', BATCH)
  point = tiny.point('max_prob', 'drop', threshold_K)
  masked = tiny.masked(model, params, point, BATCH)
  together, alone = both(masked.exit_BxT)
  assert len(np.unique(together)) > 2
  np.testing.assert_array_equal(together, alone)
  together, alone = both(masked.observation.nll)
  np.testing.assert_allclose(together, alone, rtol=1e-4)

  # And those of decoding, which knows of one document alone.
  longest = 1 + int(np.argmax(SIZES))
  size = max(SIZES)
  row = {'tokens': BATCH['tokens'][longest : longest + 1, :size]}
  decoded = tiny.decoded(model, params, point, row)
  np.testing.assert_array_equal(
    decoded.exit_BxT[0], masked.exit_BxT[longest, :size]
  )


def test_the_dump_sees_the_same_documents():
  model = MODELS['stack'](**APART)
  params = tiny.params(model)
  dump = passes.grid_dump(model, params, lambda: [BATCH], ('max_prob',))
  for nll_RxT in dump.nll_KxRxT:
    together, alone = both(nll_RxT)
    np.testing.assert_allclose(together, alone, rtol=1e-4)


# From the config.


def apart():
  c = config.base()
  c.data.documents = 'apart'
  c.evaluate.speed_tokens = 0
  return c


def test_the_token_of_the_data_begins_documents():
  assert specs.from_config(apart(), 256, 7).model.document_start == 7
  assert specs.from_config(config.base(), 256, 7).model.document_start is None
  specs.from_config(apart())  # checked before the data are known
  with pytest.raises(ConfigError, match='data.documents=apart asks for a tok'):
    specs.from_config(apart(), 256)


def test_a_model_goes_on_with_documents_as_it_began():
  there = fields.of_training(apart())
  here = fields.of_training(config.base())
  assert fields.differing(there, here) == [
    'data.documents=apart there, joined here'
  ]
  # Runs of older versions do not say.
  old = {name: here[name] for name in here if name != 'data.documents'}
  assert fields.differing(old, here) == []


def test_gates_that_learn_from_their_neighbours_are_refused():
  c = apart()
  c.loss.gates = ('dat',)
  c.loss.gate_weight = 1.0
  specs.from_config(c)
  c.loss.gate_smoothing = 1.0
  with pytest.raises(ConfigError, match='loss.gate_smoothing=1.0 .*=apart'):
    specs.from_config(c)


def test_the_clock_knows_one_document_alone():
  c = apart()
  c.evaluate.speed_tokens = 64
  with pytest.raises(ConfigError, match='speed_tokens=64 decodes .*=apart'):
    specs.from_config(c)


@pytest.mark.parametrize(
  ('bos_id', 'fits'), [(None, True), (2, True), (1, False)]
)
def test_documents_begin_as_a_model_knows_texts_to_begin(bos_id, fits):
  """Those that are apart begin with eos, which is token 2 here."""
  spec = types.SimpleNamespace(documents='apart')
  tokenizer = types.SimpleNamespace(eos_id=2, bos_id=bos_id)
  if fits:
    corpus.check_beginning(spec, tokenizer)
    return
  with pytest.raises(ConfigError, match='with eos, token 2, and .* token 1'):
    corpus.check_beginning(spec, tokenizer)
  corpus.check_beginning(types.SimpleNamespace(documents='joined'), tokenizer)
