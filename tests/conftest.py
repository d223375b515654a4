"""Strict JAX for every test, and programs that compile in half the time.

All processes of a run, also those that tests start, share one cache of
compiled programs, which is empty at first and gone afterwards. XLA optimises
little, which halves its own time, nearly all that a test takes.
`tests/test_exact.py` wants programs as users run them.
"""

import gc
import os
import tempfile

import jax
import pytest
from absl import flags

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_debug_key_reuse', True)
jax.config.update('jax_legacy_prng_key', 'error')

if 'PYTEST_XDIST_WORKER' not in os.environ:  # a worker has its parent's
  COMPILED = tempfile.TemporaryDirectory(prefix='ease_jax_tests_')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = COMPILED.name

QUICK = {
  'jax_compilation_cache_dir': os.environ['JAX_COMPILATION_CACHE_DIR'],
  # Without a size: with one, every new entry looks at all others. Who reads
  # half an entry compiles; pyproject.toml allows the warning.
  'jax_compilation_cache_max_size': -1,
  'jax_persistent_cache_min_compile_time_secs': 0,
  'jax_persistent_cache_min_entry_size_bytes': -1,
  # JAX_DISABLE_MOST_OPTIMIZATIONS=0 make test: everything as users run it.
  'jax_disable_most_optimizations': int(
    os.environ.get('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  ),
}
for name, value in QUICK.items():
  jax.config.update(name, value)
  os.environ[name.upper()] = str(value)  # for processes that tests start


# Files that take longest.
SLOW = (
  'test_checkpoint',
  'test_clock',
  'test_decode',
  'test_decode_costs',
  'test_docs',
  'test_evaluate',
  'test_distillation',
  'test_exact',
  'test_exits',
  'test_export',
  'test_extension',
  'test_fuzz_config',
  'test_fuzz_files',
  'test_generate_mode',
  'test_halting',
  'test_loss_segments',
  'test_losses',
  'test_main',
  'test_optimizer',
  'test_readout',
  'test_refine',
  'test_resume',
  'test_run_files',
  'test_speculate',
  'test_study',
  'test_teacher',
  'test_train_flops',
  'test_train_loop',
)


def pytest_collection_modifyitems(items):
  """`make check` leaves them out."""
  for item in items:
    if item.path.stem in SLOW:
      item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope='session')
def parsed_flags():
  if not flags.FLAGS.is_parsed():  # TFDS and grain read absl flags
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope='session')
def finished_run(tmp_path_factory):
  """(text, workdir) of a run with everything that a run leaves behind.

  Tests change copies of it.
  """
  import small_run

  from ease_jax import run

  folder = tmp_path_factory.mktemp('finished_run')
  text = folder / 'text.txt'
  text.write_text(small_run.TEXT)
  run.run(small_run.make_full_config(text), folder / 'run')
  return text, folder / 'run'


@pytest.fixture(autouse=True, scope='module')
def forgotten():
  """A process that keeps the programs of all files becomes slow."""
  yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture(scope='module')
def optimized():
  """Programs of this file are compiled as users run them."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', False)
  jax.clear_caches()
  yield
  jax.config.update('jax_disable_most_optimizations', before)
  jax.clear_caches()
