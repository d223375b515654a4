"""A run as a folder that `transformers` loads."""

from typing import Any, cast

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save

from ease_jax import config as config_lib
from ease_jax import deploy
from ease_jax import workdir as folders
from ease_jax.checks import ConfigError, need
from ease_jax.config import Config
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.spec import CAUSAL, ModelConfig
from ease_jax.data.tokenizers import Tokenizer
from ease_jax.decode.text import Trained
from ease_jax.files import write_together
from ease_jax.model.own import merged
from ease_jax.pretrained import (
  FAMILIES,
  Said,
  their_tensors,
)

CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'
TOKENIZER = 'tokenizer.json'
TOKENIZER_CONFIG = 'tokenizer_config.json'
EXITS = 'exits.safetensors'
LAYERS = 'num_hidden_layers'
# Fields outside of blocks that an architecture may have.
OUTSIDE = ('embedding_scale', 'positions', 'logit_cap')
TABLES = ('embed', 'positions', 'unembed')

Json = dict[str, Any]
Arrays = dict[str, np.ndarray]  # parameters, by a/b/c


def export_model(workdir: str, target: str, layers: int = 0) -> None:
  """Writes a run's config, weights and tokenizer, and its exits beside them.

  Args:
    workdir: of a run.
    target: folder that is made, or is empty.
    layers: of the model, up to one of its readouts; 0 = all.

  Raises:
    ConfigError: the run is of no model that `transformers` has, there is no
      such readout, or the folder has something in it.
    OSError: something cannot be written.
  """
  folder = folders.locate(workdir)
  place = folders.locate(target, '--to')
  need(
    not place.exists() or not any(place.iterdir()),
    f'--to={place} has something in it; choose another folder',
  )
  config = folders.read_config(folder)
  trained = deploy.load_model(config, folder)
  grid = trained.model.grid
  _check_plain(config, grid)
  said = folders.read_origin(folder) or _said(config, trained)
  family = said.family
  _check_same(said, config, trained.model.cfg)
  readout = _readout(grid, layers)
  adapters = trained.model.cfg.readout_adapters
  need(
    not adapters or readout == grid.num_readouts - 1,
    f'--layers={layers} ends at a readout with adapters, {adapters}, which '
    'transformers has not; export all layers',
  )
  up_to_there = grid.cells[: grid.reach_K[readout]]
  cells = tuple(cell for cell in up_to_there if not cell.aside)

  flat = flatten_dict(merged(trained.params), sep='/')
  params = {path: np.asarray(value) for path, value in flat.items()}
  model, beside = _divided(params, cells, readout)
  weights = their_tensors(
    family, model, trained.model.cfg.block.attention.num_heads
  )
  entries = said.entries | {
    family.called.get(LAYERS, LAYERS): len(cells),
    'vocab_size': trained.model.cfg.vocab_size,
    'tie_word_embeddings': trained.model.cfg.tie_embeddings,
    'dtype': 'float32',
  }
  entries.pop('torch_dtype', None)  # what older versions call that
  if 'layer_types' in entries:
    entries['layer_types'] = entries['layer_types'][: len(cells)]

  contents = {
    CONFIG: folders.dumps(entries),
    WEIGHTS: save(weights, {'format': 'pt'}),
    TOKENIZER: trained.tokenizer.to_hugging_face(),
    TOKENIZER_CONFIG: folders.dumps(_special(trained.tokenizer)),
  }
  if beside:
    contents[EXITS] = save(beside)
  place.mkdir(parents=True, exist_ok=True)
  write_together({place / file: content for file, content in contents.items()})
  print(
    f'Exported: {said.architecture}, {len(cells)} layers, to {place.resolve()}'
  )


def _check_plain(config: Config, grid: Grid) -> None:
  """Raises ConfigError unless layers stand on each other and run once."""
  plain = not (grid.carried or grid.routed or grid.prelude or grid.coda)
  need(
    plain and grid.segments == 1,
    f'model.body={config.model.body} with model.segments={grid.segments} and '
    f'model.router={config.model.router} is none that transformers has; only '
    'plain stacks can be exported',
  )


def _architecture(config: Config) -> str:
  """The first architecture that has the block of a run made here.

  Raises:
    ConfigError: there is none; says how the block differs from Llama's.
  """
  for name, family in FAMILIES.items():
    same = [_field(config.model, at) == v for at, v in family.fixed.items()]
    if all(same) and family.made_here:
      return name
  fixed = FAMILIES['LlamaForCausalLM'].fixed
  differing = [
    f'model.{at}={_field(config.model, at)!r} there, {value!r} in Llama'
    for at, value in fixed.items()
    if _field(config.model, at) != value
  ]
  raise ConfigError(
    f'transformers has no model with such blocks: {"; ".join(differing)}; '
    'train with those of one that it has'
  )


def _check_same(said: Said, config: Config, cfg: ModelConfig) -> None:
  """Refuses a run that is not what its exported config would say.

  Raises:
    ConfigError: names every field that differs.
  """
  base = config_lib.base().model
  wanted = flatten_dict({'block': base.block.to_dict()}, sep='/')
  wanted |= {name: base[name] for name in OUTSIDE}
  wanted |= {
    name.replace('.', '/'): value
    for name, value in said.model_fields(said.family).items()
  }
  here: Json = dict(flatten_dict(config.model.to_dict(), sep='/'))
  here['block/attention/head_dim'] = cfg.head_dim
  differing = [
    f'model.{name.replace("/", ".")}={here[name]} here, {value} there'
    for name, value in wanted.items()
    if here[name] != value
  ]
  need(
    not differing and cfg.attention == CAUSAL,
    f'this run is no {said.architecture} as {said.where} says: '
    f'{"; ".join(differing)}; train with the fields of that',
  )


def _field(section: Any, dotted: str) -> Any:
  """A field of nested sections."""
  for part in dotted.split('.'):
    section = section[part]
  return section


def _readout(grid: Grid, layers: int) -> int:
  """The readout behind so many layers; 0 = the last."""
  ends = list(grid.depth_K)
  if not layers:
    return len(ends) - 1
  need(
    layers in ends,
    f'--layers={layers} ends at no readout; use one of {ends}',
  )
  return ends.index(layers)


def _divided(
  params: Arrays, cells: tuple[Cell, ...], readout: int
) -> tuple[Arrays, Arrays]:
  """What a plain model has, and what else there is.

  Args:
    params: of the run.
    cells: those that are kept, in order; a block that runs twice is there
      twice.
    readout: the one behind them, whose norm is that of the model.
  """
  groups = unflatten_dict(params, sep='/')
  model = {name: groups.pop(name) for name in TABLES if name in groups}
  for i, cell in enumerate(cells):
    model[f'layer_{i}'] = groups[f'layer_{cell.block}']

  norms = [name for name in groups if name.startswith('readout_norm')]
  own = f'readout_norm_{readout}'
  model['readout_norm'] = groups.pop(own if own in norms else norms[0])
  beside = {
    name: group
    for name, group in groups.items()
    if not name.startswith('layer_')
  }
  return (
    cast(Arrays, flatten_dict(model, sep='/')),
    cast(Arrays, flatten_dict(beside, sep='/')),
  )


def _said(config: Config, trained: Trained) -> Said:
  """The `config.json` of a model that was made here."""
  name = _architecture(config)
  family = FAMILIES[name]
  tokenizer = trained.tokenizer
  cfg = trained.model.cfg
  attention = cfg.block.attention
  entries = {
    entry: _field(config.model, at) for entry, at in family.fields.items()
  }
  entries |= {
    'architectures': [name],
    'model_type': family.model_type,
    'head_dim': cfg.head_dim,
    'num_key_value_heads': cfg.num_kv_heads,
    'hidden_act': 'silu',
    'max_position_embeddings': config.data.seq_len,
    'rope_theta': attention.rope_base,
    'rope_parameters': {
      'rope_type': 'default',
      'rope_theta': attention.rope_base,
    },
    'sliding_window': attention.window or None,
    'bos_token_id': tokenizer.bos_id,
    'eos_token_id': tokenizer.eos_id,
  }
  return Said(entries, f'config.json of {name}')


def _special(tokenizer: Tokenizer) -> Json:
  """`tokenizer_config.json`: which tokens begin and end texts."""
  named = {'bos_token': tokenizer.bos_id, 'eos_token': tokenizer.eos_id}
  return {'tokenizer_class': 'PreTrainedTokenizerFast'} | {
    name: tokenizer.token_name(token)
    for name, token in named.items()
    if token is not None
  }
