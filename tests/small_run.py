"""The config of a run of a second, and what commands do to its files."""

import pytest

from ease_jax import config, data, decode, specs
from ease_jax import run as run_lib
from ease_jax.config import ConfigError

PROMPT = 'the cat '
TEXT = 'the quick brown fox jumps over the lazy dog\n' * 100


def make_config(path, layers=1, **train):
  c = config.base()
  c.data.update(
    source='text',
    path=(str(path),),
    seq_len=8,
    select_fraction=0.2,
    test_fraction=0.2,
  )
  c.model.update(num_layers=layers, dim=8)
  c.model.block.attention.update(num_heads=1, num_kv_heads=1)
  c.model.block.mlp.dim = 8
  c.train.update(
    steps=4, batch_size=2, eval_every=2, checkpoint_every=2, log_every=1
  )
  c.train.update(train)
  c.optimizer.warmup_steps = 2
  c.evaluate.max_tokens = 64
  c.exit.update(signals=('max_prob',), policies=('copy_state',))
  c.exit.search_points = 1
  return c


def make_full_config(path):
  """One whose files are all of some interest."""
  c = make_config(path, layers=2)
  c.data.tokenizer = 'char'
  c.evaluate.speed_tokens = 0
  c.generate.max_new_tokens = 3
  return c


def make_beside(finished_run, freeze='exits', fit_tokens=0):
  """Of a run that starts from a finished one; fits alone need no steps."""
  text, source = finished_run
  c = make_full_config(text)
  c.train.init_from = str(source)
  c.train.freeze = freeze
  c.train.fit_tokens = fit_tokens
  if fit_tokens:
    c.train.steps = 0
    c.optimizer.warmup_steps = 0
  return c


def make_spec(*paths, **fields):
  """Section `data` of texts in windows of 8 tokens."""
  section = config.base().data
  section.source = 'text'
  section.path = tuple(map(str, paths))
  section.seq_len = 8
  section.update(fields)
  return data.DataSpec.from_config(section)


def snapshot(folder):
  return {
    p.relative_to(folder): p.read_bytes()
    for p in sorted(folder.rglob('*'))
    if p.is_file()
  }


def refusal(config, workdir, *args, **arguments):
  """The message of a command that fails and changes nothing."""
  before = snapshot(workdir) if workdir.exists() else None
  with pytest.raises(ConfigError) as caught:
    run_lib.run(config, workdir, *args, **arguments)
  assert (snapshot(workdir) if workdir.exists() else None) == before
  text = str(caught.value)
  assert '\n' not in text
  return text


def wanted(c, workdir, point):
  """Text and exits of PROMPT's continuation by a run."""
  trained = run_lib.load_model(c, workdir)
  tokenizer = trained.tokenizer
  (text,), _ = decode.generate(
    trained.model,
    {'params': trained.params},
    [tokenizer.encode(PROMPT)],
    point,
    options=specs.from_config(c).generate.options(
      context=c.data.seq_len, eos_id=tokenizer.eos_id
    ),
  )
  return tokenizer.decode(text.tokens), text.exits
