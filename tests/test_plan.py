"""The plan of a step against arrays, programs and counts that are real."""

import json
import subprocess
import sys

import jax
import pytest
import training

import tiny
from ease_jax import config, plan, planning, specs
from ease_jax.checks import ConfigError
from ease_jax.train import stages, update

VOCAB = 256
# XLA takes so much of what is planned: it makes anew what is cheap, and puts
# arrays where others were.
LEAST, MOST = 0.6, 1.0


def config_of(changes=None, rows=4, length=64):
  c = training.make_plain_config()
  tiny.update_model(
    c.model, num_layers=2, dim=64, num_heads=4, num_kv_heads=2, mlp_dim=256
  )
  c.loss.weights = 'uniform'
  c.data.seq_len = length
  c.train.batch_size = rows
  c.evaluate.batch_size = rows
  c.update_from_flattened_dict(changes or {})
  return c


def large(**mesh):
  """A model of 70 billion parameters on 256 devices."""
  c = config.base()
  tiny.update_model(
    c.model,
    num_layers=80,
    dim=8192,
    num_heads=64,
    num_kv_heads=8,
    mlp='swiglu',
    mlp_dim=28672,
    readouts=(20, 40, 80),
    tie_embeddings=False,
    remat=True,
  )
  c.loss.weights = 'uniform'
  c.data.seq_len = 4096
  c.train.batch_size = 256
  c.evaluate.batch_size = 256
  c.mesh.update(mesh or {'data': 8, 'fsdp': 32})
  return c


@pytest.mark.parametrize(
  'changes',
  [
    {'model.block.mlp.kind': 'swiglu', 'model.block.norm': 'sandwich'},
    {
      'model.body': 'refine',
      'model.num_layers': 1,
      'model.segments': 4,
      'model.carry_backprop': 4,
    },
  ],
  ids=['stack', 'joined'],
)
def test_memory_is_about_what_xla_takes(changes, optimized):
  c = config_of(changes)
  needs = planning.needs(c, VOCAB)
  run_specs = specs.from_config(c, VOCAB)
  state = update.abstract_state(run_specs.body, run_specs.optimizer)
  now = stages.planned(
    run_specs.body,
    run_specs.loss,
    stages.plan(run_specs.train, run_specs.body, 0, 0),
  )
  batch = tiny.batch(c.train.batch_size, c.data.seq_len)
  lowered = update.train_step.lower(
    state,
    batch,
    jax.random.key(0),
    model=now.model,
    loss_spec=now.loss,
    opt_spec=run_specs.optimizer,
    accumulate=1,
  )
  found = lowered.compile().memory_analysis()

  stays = needs.memory['parameters'] + needs.memory['optimizer state']
  # Token, target and mask; the number of the step; the key, of two numbers.
  given = stays + 3 * 4 * needs.tokens + 4 + 8
  assert found.argument_size_in_bytes in range(given - 8, given + 1)
  comes_and_goes = needs.total_memory - stays
  assert LEAST < found.temp_size_in_bytes / comes_and_goes < MOST


def test_parameters_and_flops_are_those_of_the_run():
  c = config_of({'model.readouts': (1, 2)})
  needs = planning.needs(c, VOCAB)
  run_specs = specs.from_config(c, VOCAB)
  model = run_specs.body
  state = update.init_state(
    jax.random.key(0), model=model, opt_spec=run_specs.optimizer
  )

  sizes = {
    group: sum(x.size for x in jax.tree.leaves(tree))
    for group, tree in state.params.items()
  }
  layers = sizes.pop('layer_0') + sizes.pop('layer_1')
  assert needs.parameters == sizes | {'layer': layers}
  assert needs.groups['layer'] == 2
  for name, tree in (
    ('parameters', state.params),
    ('optimizer state', state.opt_state),
  ):
    assert needs.memory[name] == sum(x.nbytes for x in jax.tree.leaves(tree))

  for name in ('adamw', 'muon'):
    c.optimizer.name = name
    flops = specs.from_config(c, VOCAB).train_flops * c.train.batch_size * 64
    needs = planning.needs(c, VOCAB)
    assert needs.mean_flops == flops
    assert needs.total_flops == pytest.approx(flops, rel=1e-12)


def test_a_readout_adds_what_a_model_without_it_lacks():
  both = planning.needs(config_of({'model.readouts': (1, 2)}), VOCAB)
  one = planning.needs(config_of({'model.readouts': (2,)}), VOCAB)
  early, last = both.readouts
  assert (early.segment, early.layer, last.layer) == (1, 1, 2)
  more = both.total_flops - one.total_flops
  assert early.flops == pytest.approx(more, rel=1e-9)
  assert early.memory == both.total_memory - one.total_memory
  # One product forward and two backward, of each token and each word.
  assert early.flops == 3 * 2 * both.tokens * 64 * VOCAB
  off = planning.needs(
    config_of({'model.readouts': (1, 2), 'loss.weights': 'final'}), VOCAB
  )
  assert (off.readouts[0].flops, off.readouts[0].memory) == (0, 0)


def test_devices_share():
  alone = planning.needs(config_of(), VOCAB)
  rows = planning.needs(config_of({'mesh.data': 2}), VOCAB)
  assert rows.memory['parameters'] == alone.memory['parameters']
  assert rows.memory['kept by layers'] * 2 == alone.memory['kept by layers']
  assert rows.total_flops * 2 == alone.total_flops

  cut = planning.needs(config_of({'mesh.fsdp': 4}), VOCAB)
  for name in ('parameters', 'optimizer state', 'gradients'):
    # Vectors lie whole on every device.
    assert 4 * cut.memory[name] >= alone.memory[name] > 3 * cut.memory[name]
  together = 'parameters, put together'
  assert alone.memory[together] == 0
  assert cut.memory[together] == alone.memory['parameters']
  anew = planning.needs(config_of({'mesh.fsdp': 4, 'model.remat': True}), VOCAB)
  assert 0 < anew.memory[together] < alone.memory['parameters'] / 2

  heads = planning.needs(config_of({'mesh.tensor': 2}), VOCAB)
  kept = heads.memory['kept by layers'] / alone.memory['kept by layers']
  assert 0.5 < kept < 0.7  # states are whole on both
  gradients = 'gradients of unembeddings'
  assert heads.memory[gradients] * 2 == alone.memory[gradients]


def test_what_is_made_anew_is_not_kept():
  plain = planning.needs(config_of(), VOCAB)
  anew = planning.needs(config_of({'model.remat': True}), VOCAB)
  kept = 'kept by layers'
  assert anew.memory[kept] == 2 * 4 * 64 * anew.tokens  # the states before them
  assert anew.memory['layer that is made anew'] * 2 == plain.memory[kept]
  assert plain.flops['made anew in the backward pass'] == 0
  assert anew.mean_flops == plain.mean_flops
  forward = plain.flops['layers, forward and backward'] / 3
  again = anew.flops['made anew in the backward pass']
  assert again == pytest.approx(forward, rel=1e-9)

  parts = planning.needs(config_of({'train.accumulate': 2}), VOCAB)
  assert parts.memory['gradients'] == 2 * plain.memory['gradients']
  assert 2 * parts.memory[kept] == plain.memory[kept]


def test_segments_that_are_joined_keep_what_they_hand_on():
  fields = {'model.body': 'refine', 'model.segments': 3}
  apart = planning.needs(config_of(fields), VOCAB)
  joined = planning.needs(
    config_of(fields | {'model.carry_backprop': 3}), VOCAB
  )
  between = 'kept between segments'
  assert joined.memory[between] == 3 * apart.memory[between]
  kept = 'kept by layers'
  assert joined.memory[kept] == apart.memory[kept]
  assert apart.flops['made anew in the backward pass'] == 0
  assert joined.flops['made anew in the backward pass'] > 0


def test_a_frozen_model_keeps_nothing_for_its_layers():
  frozen = {
    'train.freeze': 'exits',
    'train.init_from': 'runs/x',
    'model.readout_adapters': ('map',),
    'exit.policies': ('copy_state',),
  }
  needs = planning.needs(config_of(frozen), VOCAB)
  whole = sum(needs.parameters.values())
  adapter = needs.parameters['readout_adapter']
  assert needs.memory['kept by layers'] == 0
  assert needs.memory['gradients of unembeddings'] == 0
  assert needs.memory['gradients'] == 4 * adapter < 4 * whole


def test_a_model_of_70_billion_parameters_is_planned():
  needs = planning.needs(large(), 128_256)
  # The number of Llama 3 70B, of the same shape.
  assert needs.total_parameters == 70_553_706_496
  assert needs.mesh.size == 256
  text = '\n'.join(plan.lines(needs, 80 * 2**30, 989e12))
  assert '70,553,706,496' in text and 'of 80.0 GiB: ' in text
  assert max(map(len, text.splitlines())) <= 80


def test_the_command_prints_lines_or_numbers(tmp_path):
  def run(*arguments):
    return subprocess.run(
      [sys.executable, '-m', 'ease_jax.plan', *arguments],
      capture_output=True,
      text=True,
      check=False,
    )

  given = ('--config=configs/quickstart.py', '--mesh=data:2', '--json')
  found = run(*given, '--config.model.dim=64')
  assert (found.returncode, found.stderr) == (0, '')
  numbers = json.loads(found.stdout)
  assert numbers['mesh'] == {'data': 2, 'fsdp': 1, 'tensor': 1}
  assert numbers['total_parameters'] == sum(numbers['parameters'].values())


@pytest.mark.parametrize(
  'text, message',
  [
    ('data:2,data:4', "has 'data:4'"),
    ('rows:2', "has 'rows:2'"),
    ('data=2', "has 'data=2'"),
    ('', "has ''"),
  ],
)
def test_axes_that_are_none_are_refused(text, message):
  with pytest.raises(ConfigError, match=message):
    plan.axes_of(text)


def test_sizes_have_units():
  assert plan.bytes_of('80GiB') == 80 * 2**30
  assert plan.bytes_of('1.5 GB') == 1_500_000_000
  for text in ('80', 'GiB', '80G', '-1GiB', '0GB', ''):
    with pytest.raises(ConfigError, match='is no size'):
      plan.bytes_of(text)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'mesh.data': -1}, 'mesh.data=-1 is what the devices'),
    ({'mesh.data': 3}, 'train.batch_size=4 is not divisible by mesh.data=3'),
    ({'mesh.tensor': 4}, 'num_kv_heads=2 is not divisible by mesh.tensor=4'),
    ({'data.tokenizer': 'char'}, 'give --vocab-size=V'),
    ({'train.steps': 0, 'optimizer.warmup_steps': 0}, 'trains nothing'),
  ],
)
def test_what_cannot_be_planned_is_said(changes, message):
  with pytest.raises(ConfigError, match=message) as error:
    planning.needs(config_of(changes))
  assert str(error.value).isprintable()
