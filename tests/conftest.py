"""Strict JAX for every test, and one compilation cache for a whole run."""

import os
import tempfile

# Read by JAX when it is imported, here and in the processes that tests start.
if 'PYTEST_XDIST_WORKER' not in os.environ:  # a worker has its parent's
  COMPILED = tempfile.TemporaryDirectory(prefix='ease_jax_tests_')
  os.environ |= {
    'JAX_COMPILATION_CACHE_DIR': COMPILED.name,  # empty, gone after the run
    'JAX_COMPILATION_CACHE_MAX_SIZE': str(8 << 30),  # with one, it has a lock
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  }

import jax
import pytest
from absl import flags

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_debug_key_reuse', True)
jax.config.update('jax_legacy_prng_key', 'error')


@pytest.fixture(autouse=True, scope='session')
def parsed_flags():
  if not flags.FLAGS.is_parsed():  # TFDS and grain read absl flags
    flags.FLAGS.mark_as_parsed()
