"""Strict JAX, for every test."""

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
