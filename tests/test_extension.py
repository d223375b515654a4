"""README's "Adding a method", executed.

A body, a learned signal, a K/V policy, a router, a target and a task are
defined here, and one config takes all of them from training to the report and
to generated text, without a change to the package.
"""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import config, decode, run, specs
from ease_jax import model as model_lib
from ease_jax.core import policies, routers, signals
from ease_jax.core.gates import Gate, Learned
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.objective import LossSpec
from ease_jax.core.policies import KVPolicy
from ease_jax.core.routers import Route, Router
from ease_jax.core.signals import Signal
from ease_jax.core.spec import ModelConfig
from ease_jax.data import task as tasks
from ease_jax.data import tokenizers
from ease_jax.decode import sampling
from ease_jax.evaluate import passes, traces
from ease_jax.model import Kind, readout
from ease_jax.model.linear_loss import Lesson, differentiated
from ease_jax.model.streams import copied, summed
from ease_jax.train import targets

DIGITS = '0123456789'
LENGTH = 16
ROWS = 64

# ----------------------------------------------------------------- a body


@dataclasses.dataclass(frozen=True)
class AnchoredSpec:
  """Section `model.anchored`."""

  middle: int  # blocks between prelude and coda


def schedule(cfg):
  """A prelude makes x; the middle runs S times on x + z; a coda ends."""
  middle = [Cell(block) for block in range(1, 1 + cfg.options.middle)]
  middle[0] = dataclasses.replace(middle[0], reads=('x', 'z'), readout=0)
  middle[1] = dataclasses.replace(middle[1], router='doubt')
  middle[-1] = dataclasses.replace(middle[-1], writes=('z',), readout=1)
  return Grid(
    tuple(middle),
    cfg.segments,
    prelude=(Cell(0, writes=('x',)),),
    coda=(Cell(1 + cfg.options.middle),),
  )


class Anchored(nn.Module):
  """The prelude's output x and the carried state z."""

  cfg: ModelConfig

  def start(self, x_BxTxD, position_BxT, key):
    del position_BxT, key
    return {'h': x_BxTxD, 'x': x_BxTxD, 'z': jnp.zeros_like(x_BxTxD)}

  def combine(self, cell, state, run):
    del run
    return summed(cell, state)

  def written(self, cell, state, run):
    del run
    return copied(cell, state)

  def flops(self, cell):
    return 0.0


ANCHORED = Kind('anchored', schedule, Anchored, AnchoredSpec)

# ------------------------------------------------- a router of this body


def init_doubt(key, dim):
  return {'kernel': jax.random.normal(key, (dim,))}


def doubt(params, h_BxTxD, position_BxT, key):
  """About half of the tokens run the cell, each by its own state."""
  del position_BxT, key
  logit_BxT = (h_BxTxD * params['kernel'][None, None]).sum(-1)
  return Route(jnp.sin(30 * logit_BxT) > 0, jax.nn.sigmoid(logit_BxT))


DOUBT = Router('doubt', init_doubt, doubt, flops=lambda dim: 2.0 * dim)

# ------------------------------------------------------ a learned signal


def init_knows(key, shape):
  del key
  return {'kernel': jnp.zeros((shape.dim, 1))}


def apply_knows(params, h, k):
  del k
  flat_NxD = h.reshape(-1, h.shape[-1])
  return (flat_NxD @ params['kernel']).reshape(*h.shape[:-1], 1)


def learn_knows(lesson):
  """Binary cross-entropy: is the prediction here right? (CALM, 2207.07061)"""
  total_BxT = 0.0
  for r, output_BxTx1 in enumerate(lesson.output_R):
    right_BxT = lesson.observe(r).argmax == lesson.target_BxT
    sign_BxT = jnp.where(right_BxT, 1.0, -1.0)
    total_BxT -= jax.nn.log_sigmoid(sign_BxT * output_BxTx1[..., 0])
  return Learned(total_BxT)


def step_knows(memory, obs):
  return memory, jax.nn.sigmoid(obs.gate['knows'][..., 0])


KNOWS = Signal(
  'knows',
  step_knows,
  frozenset({signals.STATE, signals.GATE}),
  low=0.0,
  high=1.0,
  sweep=(0.2, 0.5),
  gate=Gate(
    init_knows,
    apply_knows,
    flops=lambda shape, k: 2.0 * shape.dim,
    loss=learn_knows,
  ),
)

# ------------------------------------------------------------ a K/V policy


def first_of_block(cells, i):
  """The first call of the same block, unless this is it."""
  first = next(j for j, c in enumerate(cells) if c.block == cells[i].block)
  return first if first < i else None


EARLIEST = KVPolicy('earliest', source=first_of_block, needs_tied=True)

# ---------------------------------------------------------------- a target


@dataclasses.dataclass(frozen=True)
class LastReadout:
  """The label, and what the model's own last readout says of it."""

  spec: LossSpec
  teacher: targets.Teacher | None

  def prepare(self, bound, batch, answer):
    del bound
    return {'label': batch['targets'], 'teacher': answer()}

  def lesson(self, last_VxD, is_last):
    del is_last
    return Lesson(differentiated(loss_of_last), last_VxD)


def loss_of_last(logits_NxV, prepared_N, last_VxD):
  log_p_NxV = jax.nn.log_softmax(logits_NxV)
  q_NxV = jax.nn.softmax(readout.logits(prepared_N['teacher'], last_VxD))
  label_N = prepared_N['label'][:, None]
  nll_N = -jnp.take_along_axis(log_p_NxV, label_N, 1)[:, 0]
  distance_N = -(q_NxV * log_p_NxV).sum(-1)
  return nll_N + 0.1 * distance_N


# ------------------------------------------------------------------ a task


class Batches:
  """Endless batches of repeated digits; resumes where it stood."""

  def __init__(self, batch_size, seed):
    self.batch_size = batch_size
    self.seed = seed
    self.number = 0

  def __next__(self):
    rng = np.random.default_rng((self.seed, self.number))
    self.number += 1
    return repeated(rng, self.batch_size)

  def get_state(self):
    return {'number': self.number}

  def set_state(self, state):
    self.number = state['number']


def repeated(rng, rows):
  """Rows that say the same digits twice; only the second time counts."""
  half = LENGTH // 2
  digits = rng.integers(2, 12, (rows, half)).astype(np.int32)  # after <eos>
  window = np.concatenate([digits, digits, digits[:, :1]], 1)
  mask = np.zeros((rows, LENGTH), np.float32)
  mask[:, half - 1 :] = 1
  return {'tokens': window[:, :-1], 'targets': window[:, 1:], 'mask': mask}


@dataclasses.dataclass(frozen=True)
class Repeating:
  """Say it again; a row is solved when all of it is right."""

  tokenizer: tokenizers.Tokenizer
  attention = 'causal'
  unit = 'token'
  seq_len = LENGTH
  splits = {'train': 0, 'select': ROWS, 'test': ROWS}

  @classmethod
  def load(cls, spec, workdir):
    del workdir
    assert spec.seq_len == LENGTH
    return cls(tokenizers.Char(DIGITS))

  def save(self, workdir):
    tokenizers.save(self.tokenizer, workdir / tokenizers.FILE)

  @property
  def vocab_size(self):
    return self.tokenizer.vocab_size

  @property
  def eos_id(self):
    return None  # a row is one

  def train_batches(self, batch_size, seed):
    return Batches(batch_size, seed)

  def eval_batches(self, split, batch_size, max_tokens=0):
    del max_tokens
    rng = np.random.default_rng({'select': 1, 'test': 2}[split])
    for _ in range(ROWS // batch_size):
      yield repeated(rng, batch_size)

  def beginning(self, split, num_tokens):
    del split, num_tokens
    return self

  def quality(self, nll_RxT, correct_RxT, mask_RxT, target_RxT):
    del target_RxT
    mask = mask_RxT > 0
    nll = float(nll_RxT[mask].mean())
    solved_R = (correct_RxT | ~mask).all(1)
    return {
      'nll': nll,
      'ppl': float(np.exp(nll)),
      'bits_per_byte': nll / float(np.log(2)),
      'accuracy': float(solved_R.mean()),
    }

  def token_text(self, token):
    return self.tokenizer.token_text(token)

  def to_json(self):
    return {
      'source': 'repeating',
      'tokenizer': self.tokenizer.name,
      'sha256': '',
      'train_tokens': 0,
      'select_tokens': ROWS * LENGTH,
      'test_tokens': ROWS * LENGTH,
    }


# ---------------------------------------------------------------- the config


@pytest.fixture(scope='module', autouse=True)
def registered():
  """All of it is known by name while this file is tested."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(model_lib.BODIES, 'anchored', ANCHORED)
    patch.setitem(routers.ROUTERS, 'doubt', DOUBT)
    patch.setitem(signals.SIGNALS, 'knows', KNOWS)
    patch.setitem(policies.POLICIES, 'earliest', EARLIEST)
    patch.setitem(targets.TARGETS, 'last_readout', LastReadout)
    patch.setitem(tasks.TASKS, 'repeating', Repeating)
    yield


def make_config():
  c = config.with_section(config.base(), 'model.anchored', middle=3)
  c.data.task = 'repeating'
  c.data.seq_len = LENGTH
  tiny.update_model(
    c.model,
    body='anchored',
    segments=2,
    num_layers=5,
    dim=16,
    num_heads=2,
    num_kv_heads=1,
    mlp_dim=32,
  )
  c.loss.weights = 'uniform'
  c.loss.target = 'last_readout'
  c.loss.gates = ('knows',)
  c.optimizer.learning_rate = 0.01
  c.optimizer.warmup_steps = 5
  c.train.steps = 40
  c.train.batch_size = 16
  c.train.eval_every = 40
  c.train.checkpoint_every = 40
  c.evaluate.batch_size = 16
  c.evaluate.speed_tokens = 0  # its decoding is tested below
  c.exit.signals = ('knows',)
  c.exit.policies = ('earliest', 'drop')
  c.exit.policy = 'earliest'
  c.exit.max_ppl_ratio = 2.0
  c.exit.search_points = 1
  c.generate.max_new_tokens = 6
  return c


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('extension') / 'run'
  c = make_config()
  run.run(c, workdir)
  return c, workdir


@pytest.fixture(scope='module')
def trained(finished):
  return run.load_model(*finished)


def test_the_grid_is_what_the_schedule_says(trained):
  grid = trained.model.grid
  assert [cell.block for cell in grid.cells] == [0, 1, 2, 3, 1, 2, 3]
  assert [cell.block for cell in grid.tail] == [4]
  assert grid.depth_K == (3, 5, 6, 8)


def test_every_part_of_it_is_trained(finished, trained):
  c, _ = finished
  before = run.body_of(c, trained.tokenizer.vocab_size).init(
    jax.random.split(jax.random.key(c.seed))[0], jnp.zeros((1, 2), jnp.int32)
  )['params']
  for name in ('gate_knows', 'router_2', 'layer_0', 'layer_4'):
    moved = jax.tree.map(
      lambda a, b: np.abs(a - b).max() > 0, before[name], trained.params[name]
    )
    assert all(jax.tree.leaves(moved)), name


def test_results_and_report_name_all_of_it(finished):
  _, workdir = finished
  results = json.loads((workdir / 'results.json').read_text())
  passage = (workdir / 'passage.json').read_text()
  assert results['model']['body'] == 'anchored'
  assert results['data']['source'] == 'repeating'
  swept = {(row['signal'], row['kv_policy']) for row in results['sweep']}
  assert {('knows', 'earliest'), ('knows', 'drop')} <= swept
  full = next(r for r in results['sweep'] if r['threshold'] is None)
  # The router keeps tokens out of cells, and that is not charged.
  assert 0.5 < full['compute'] < 1
  places = [(row['segment'], row['layer']) for row in results['routers']]
  assert places == [(1, 2), (2, 2)]
  assert all(0 < row['select'] < 1 for row in results['routers'])
  ran = [token['ran'] for token in json.loads(passage)['tokens']]
  assert min(ran) == 0 and max(ran) <= 2
  static = results['readouts'][-1]['compute_static']
  reported = [r for r in results['sweep'] if r['threshold'] is None][-1]
  assert static == pytest.approx(reported['compute'])
  assert 'routed layers' in (workdir / 'report.html').read_text()
  assert 'knows' in (workdir / 'report.html').read_text()
  assert (workdir / 'sweep.csv').read_text().count('earliest') >= 4


def test_it_generates_from_the_command_line(finished, capsys):
  c, workdir = finished
  capsys.readouterr()
  run.run(c, workdir, 'generate', '31415926')
  said = capsys.readouterr()
  assert said.out.startswith('31415926')
  assert '[6 tokens, exits after layer' in said.err


def thresholds(trained, signal):
  batch = repeated(np.random.default_rng(3), 3)
  threshold_K = tiny.thresholds(trained.model, trained.params, signal, batch)
  return batch, tiny.point(signal, 'copy_state', threshold_K)


POLICIES = ['recompute', 'drop', 'earliest']


@pytest.mark.parametrize('policy', POLICIES)
def test_the_parallel_pass_is_what_decoding_does(trained, policy):
  """R9, with prelude, coda, router, learned gate and tied cells."""
  batch, point = thresholds(trained, 'knows')
  point = dataclasses.replace(point, policy=policy)
  model, params = trained.model, trained.params
  parallel = tiny.masked(model, params, point, batch)
  sequential = tiny.decoded(model, params, point, batch)

  assert len(np.unique(parallel.exit_BxT)) >= 3, 'the exits must be mixed'
  np.testing.assert_array_equal(parallel.exit_BxT, sequential.exit_BxT)
  logits_BxTxV = parallel.normed_BxTxD @ np.asarray(params['embed']).T
  np.testing.assert_allclose(
    sequential.logits_BxTxV, logits_BxTxV, rtol=1e-4, atol=1e-4
  )
  dump = passes.grid_dump(model, params, lambda: [batch], ('knows',))
  trace = traces.trace(model, params, lambda: [batch], dump, point)
  np.testing.assert_array_equal(trace.exit_RxT, parallel.exit_BxT)
  np.testing.assert_array_equal(trace.nll_RxT, parallel.observation.nll)
  routed_BxT = parallel.run_LxBxT[2]
  assert 0 < routed_BxT.mean() < 1, 'the router must let some through'


@pytest.mark.parametrize('policy', ['recompute', 'earliest'])
def test_generated_text_is_what_the_evaluation_says(trained, policy):
  """R9 for prompts in one pass, and for cells that are made up later."""
  _, point = thresholds(trained, 'knows')
  point = dataclasses.replace(point, policy=policy)
  warm = decode.Sampling(temperature=1.5)
  options = decode.Options(max_new_tokens=20, context=LENGTH, sampling=warm)
  model, params = trained.model, trained.params
  prompts = [[2, 3, 4], [5], [6, 7, 8, 9, 2]]
  texts, _ = decode.generate(
    model, {'params': params}, prompts, point, options=options
  )
  keys = jax.random.split(jax.random.key(0), len(texts))

  for key, text, prompt in zip(keys, texts, prompts, strict=True):
    tokens = np.zeros((1, LENGTH), np.int32)
    tokens[0, : len(text.tokens)] = text.tokens
    batch = dict(tokens=tokens, targets=tokens, mask=np.ones((1, LENGTH)))
    walked = tiny.masked(model, params, point, batch)
    at_N = np.arange(len(prompt) - 1, len(text.tokens) - 1)
    np.testing.assert_array_equal(text.exits, walked.exit_BxT[0, at_N])
    logits_NxV = walked.normed_BxTxD[0, at_N] @ params['embed'].T
    with jax.debug_key_reuse(False):  # the same draws as in the loop
      fold = functools.partial(jax.random.fold_in, key)
      drawn = sampling.draw(logits_NxV, jax.vmap(fold)(at_N), warm)
    np.testing.assert_array_equal(text.tokens[at_N + 1], drawn)


@pytest.mark.parametrize(
  'field, value, message',
  [
    (
      'exit.signals',
      ('max_prob',),
      "exit signal 'max_prob' looks at logits, which a model with a coda has "
      'only where a token is answered; use a signal that looks at states',
    ),
    (
      'exit.signals',
      ('shortlist',),
      "exit signal 'shortlist' looks at logits, which a model with a coda has "
      'only where a token is answered; use a signal that looks at states',
    ),
    (
      'loss.exit_threshold',
      0.5,
      'loss.exit_threshold=0.5 looks at logits, which model.body=anchored has '
      'behind its coda only; use 0',
    ),
    (
      'model.router',
      'mod',
      'model.router=mod does not fit this model.body, whose cells have routers '
      'of their own; leave it at its default',
    ),
    (
      'model.readout_norm',
      'per_readout',
      'model.readout_norm=per_readout does not fit model.body=anchored, whose '
      'coda reads all readouts alike; use shared',
    ),
  ],
)
def test_what_a_coda_forbids_is_said_before_training(field, value, message):
  c = make_config()
  c.update_from_flattened_dict({field: value})
  with pytest.raises(config.ConfigError) as error:
    specs.from_config(c)
  assert str(error.value) == message


def test_what_a_coda_forbids_is_said(trained):
  batch = repeated(np.random.default_rng(3), 3)
  point = tiny.point('max_prob', 'copy_state', 0.5)
  with pytest.raises(config.ConfigError) as error:
    tiny.masked(trained.model, trained.params, point, batch)
  assert str(error.value) == (
    "exit signal 'max_prob' looks at logits, which a model with a coda has "
    'only where a token is answered; use a signal that looks at states'
  )
  with pytest.raises(config.ConfigError, match='keep tokens out of cells'):
    decode.candidates(trained.model)


def test_a_whole_sequence_exits_at_its_least_sure_token(trained):
  batch, point = thresholds(trained, 'knows')
  whole = dataclasses.replace(point, unit='sequence', threshold=0.3)
  walked = tiny.masked(trained.model, trained.params, whole, batch)
  assert (walked.exit_BxT == walked.exit_BxT[:, :1]).all()
  with pytest.raises(config.ConfigError, match='cannot be decoded'):
    tiny.decoded(trained.model, trained.params, whole, batch)


def test_full_attention_is_evaluated_but_not_decoded(trained):
  cfg = dataclasses.replace(trained.model.cfg, attention='full')
  model = model_lib.build(cfg)
  batch, point = thresholds(trained, 'knows')
  changed = {name: x.copy() for name, x in batch.items()}
  changed['tokens'][:, -1] = (changed['tokens'][:, -1] + 1) % 10 + 2
  a = tiny.masked(model, trained.params, point, batch)
  b = tiny.masked(model, trained.params, point, changed)
  assert (a.normed_BxTxD[:, 0] != b.normed_BxTxD[:, 0]).any()
  with pytest.raises(config.ConfigError, match='sees later tokens'):
    tiny.decoded(model, trained.params, point, batch)
