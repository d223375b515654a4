"""A run of a model that was trained elsewhere."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ease_jax import config as config_lib
from ease_jax import deploy, fields, specs
from ease_jax import workdir as folders
from ease_jax.checks import need
from ease_jax.config import Config
from ease_jax.data import tokenizers
from ease_jax.data.files import say
from ease_jax.data.pretrained import Pretrained
from ease_jax.files import expanded, write_atomic
from ease_jax.lock import LOCK, locked
from ease_jax.model import Params
from ease_jax.pretrained import Source, params_of
from ease_jax.specs import Specs
from ease_jax.train import optimizer, saved
from ease_jax.train.checkpoint import Checkpoints
from ease_jax.train.paths import leaves
from ease_jax.train.update import TrainState, abstract_state

SAMPLE = 'Stra\u00dfe 1 \u2192 na\u00efve'  # characters of one to three bytes
SLACK = 2**20  # bytes: what is counted in gigabytes is rounded


def import_model(
  origin: str, workdir: str, context: int, readouts: Sequence[int] = ()
) -> None:
  """Writes config.json, tokenizer.json and a checkpoint of step 0.

  Args:
    origin: folder of the model, as `transformers` saves it, or a GGUF file.
    workdir: of the run; made when missing.
    context: T, tokens of a window.
    readouts: layers that are read; () = all.

  Raises:
    ConfigError: something of the model is missing, damaged, or nothing that a
      block can be; or the directory has a run already.
    OSError: something cannot be written.
  """
  deploy.check_jax()
  folder = folders.locate(workdir)
  need(
    not folders.is_bound(folder),
    f'--workdir={folder} has a run already; choose another directory',
  )
  folders.check_places(folder, (LOCK, *folders.WRITTEN['import']))
  folders.check_foreign(folder, folders.CONFIG, folders.FILES)

  source = Source.at(expanded(origin, '--from'))
  eos_id, *others = source.said.eos_ids
  tokenizer = Pretrained(
    source.tokenizer_json, eos_id, source.vocab_size, source.folder
  )
  _check_bytes(tokenizer, source.folder)
  config = config_of(source, context)
  config.model.readouts = tuple(readouts)
  run_specs = specs.from_config(config, source.vocab_size, eos_id)
  state = _state(source, run_specs)

  with locked(folder):
    folders.write_config(config, folder)
    tokenizers.save(tokenizer, folder / tokenizers.FILE)
    write_atomic(folder / folders.ORIGIN, folders.dumps(source.said.entries))
    facts = tokenizers.vocabulary(tokenizer)
    made_by = fields.of_training(config)
    at_once = _largest(state.params) + SLACK
    with Checkpoints(folder, 1, facts, made_by, at_once) as checkpoints:
      checkpoints.save(0, state, data={}, host=saved.Host())
  if others:
    say(f'token {eos_id} ends a text here, for the model also {others}')
  print(f'Imported: {_described(source, state.params)} to {folder.resolve()}')


def _check_bytes(tokenizer: Pretrained, where: object) -> None:
  """Refuses a tokenizer whose tokens do not say how many bytes they are.

  Some put a space before a text, which is one more.
  """
  tokens = tokenizer.encode(SAMPLE)
  if tokenizer.decode(tokens).strip() != SAMPLE:  # it has not all characters
    return
  found = int(tokenizer.token_bytes[tokens].sum())
  wanted = len(SAMPLE.encode('utf-8'))
  need(
    0 <= found - wanted <= 1,
    f'the tokenizer of {where} makes {found} bytes of {SAMPLE!r}, which has '
    f'{wanted}, so that bits per byte would be wrong; import another model',
  )


def config_of(source: Source, context: int) -> Config:
  """The config of a run that has a model as it was downloaded.

  A readout is read by the norm and head of the last one.

  Args:
    source: the model.
    context: T, tokens of a window.

  Raises:
    ConfigError: the model is none that can be had here, or sees fewer tokens.
  """
  most = source.said.context
  need(
    most is None or context <= most,
    f'--context={context} is more than the {most} tokens that the model was '
    'made for; lower it',
  )
  c = config_lib.base()
  for name, value in source.model_fields.items():
    *sections, field = name.split('.')
    section = c.model
    for part in sections:
      section = section[part]
    section[field] = value

  c.data.tokenizer = Pretrained.name
  c.data.seq_len = context
  c.train.steps = 0
  c.optimizer.warmup_steps = 0
  return c


def _state(source: Source, run_specs: Specs) -> TrainState:
  """What the checkpoint holds."""
  abstract = abstract_state(run_specs.body, run_specs.optimizer)
  shapes = {name: x.shape for name, x in leaves(abstract.params).items()}
  params = params_of(source, shapes)
  opt_state = optimizer.build(run_specs.optimizer).init(params)
  return TrainState(jnp.zeros((), jnp.int32), params, opt_state)


def _largest(params: Params) -> int:
  """Bytes of the largest array."""
  return max(x.nbytes for x in jax.tree.leaves(params))


def _described(source: Source, params: Params) -> str:
  """The model in a few words."""
  numbers = sum(x.size for x in jax.tree.leaves(params))
  return f'{source.said.architecture}, {numbers:,} parameters'
