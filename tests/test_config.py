import json
import math

import pytest

from ease_jax import config, fields, specs, workdir


def valid():
  c = config.base()
  c.model.num_layers = 4
  return c


def test_the_default_is_valid():
  c = config.base()
  assert specs.from_config(c).body.grid.num_readouts == c.model.num_layers


@pytest.mark.parametrize(
  'changes',
  [
    {'model.readouts': (1, 4)},
    {'model.readouts': (4,)},
    {'exit.thresholds.max_prob': (-math.inf, 0.0, 1.0, math.inf)},
    {'exit.signals': ('kl', 'patience', 'state_cosine')},
    {'exit.policies': ('drop',), 'exit.policy': 'drop'},
    {'loss.weights': 'chosen', 'loss.chosen': ((2, 0.3), (4, 0.7))},
    {
      'loss.weights': 'matrix',
      'loss.matrix': ((0.0, 1.0, 0.0, 1.0),),
      'model.readouts': (2, 4),
    },
    {
      'loss.weights': 'uniform',
      'loss.schedule': 'switch_off',
      'loss.schedule_steps': 10,
    },
    {
      'loss.weights': 'uniform',
      'loss.schedule': 'rotate',
      'loss.rotate_every': 3,
    },
  ],
  ids=lambda changes: ' '.join(changes),
)
def test_valid_configs(changes):
  c = valid()
  c.update_from_flattened_dict(changes)
  layers = c.model.readouts or (1, 2, 3, 4)
  checked = specs.from_config(c)
  assert checked.body.grid.names_K == tuple((1, layer) for layer in layers)
  assert checked.sweep.policy == c.exit.policy
  assert checked.sweep.signals == c.exit.signals


def test_a_mistyped_field_is_an_error():
  c = config.base()
  with pytest.raises(AttributeError, match='learning_rat'):
    c.optimizer.learning_rat = 1.0
  with pytest.raises(TypeError):
    c.model.dim = 'wide'


def test_no_readouts_means_every_layer():
  c = valid()
  grid = specs.from_config(c).body.grid
  assert grid.names_K == ((1, 1), (1, 2), (1, 3), (1, 4))

  c.model.readouts = (2, 4)
  checked = specs.from_config(c, vocab_size=11)
  assert checked.body.grid.names_K == ((1, 2), (1, 4))
  assert checked.model.vocab_size == 11
  assert checked.model.head_dim == 32
  assert hash(checked.model) == hash(specs.from_config(c, 11).model)


def test_a_section_of_ones_own_is_added_and_kept():
  base = config.base()
  c = config.with_section(base, 'model.mine', depth=3)
  assert c.model.mine.depth == 3
  assert 'mine' not in base.model
  c.model.mine.depth = 4
  with pytest.raises(AttributeError):
    c.model.mine.width = 1
  with pytest.raises(config.ConfigError, match='section model.mine already'):
    config.with_section(c, 'model.mine')


def test_a_config_comes_back_from_its_file():
  c = config.base()
  c.exit.thresholds.max_prob = (-math.inf, 0.5, math.inf)
  c.loss.chosen = ((1, 0.5), (8, 0.5))
  tree = json.loads(json.dumps(workdir.as_json(c)))
  assert fields.from_json(tree).to_dict() == c.to_dict()


def test_what_is_new_has_its_default():
  c = config.base()
  tree = workdir.as_json(c)
  del tree['model']['mod']
  del tree['model']['block']['norm']
  assert fields.from_json(tree).to_dict() == c.to_dict()
  del tree['model']
  with pytest.raises(config.ConfigError, match='damaged at model;'):
    fields.from_json(tree)


def test_a_config_of_another_version_is_refused():
  tree = workdir.as_json(config.base())
  tree['model']['width'] = tree['model'].pop('dim')
  with pytest.raises(config.ConfigError) as error:
    fields.from_json(tree)
  assert str(error.value) == (
    "config.json has ['model.width']: it was written by another version of "
    'ease_jax, or names a method that is not registered; use that version, '
    'register the method, or make the run again'
  )
