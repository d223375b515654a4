"""Attention of whole windows by a kernel of the device, where it has one.

cuDNN's is used where a config asks for it, on one NVIDIA GPU of the Ampere
generation or a later one, for what it can do; the rest, such as tokens that
are hidden, goes by tiles. It was not run on such a device: what it is asked is
compared with `attention` through the same function's `xla` way
(`tests/test_backends.py`), and what cuDNN makes of that was never run.
"""

from typing import Literal

import jax

from ease_jax import sharding
from ease_jax.core.block import CUDNN
from ease_jax.model.attention import KV, Scoring
from ease_jax.model.sight import Sight

HALVES = ('bfloat16', 'float16')
AMPERE = 8  # the first number of a compute capability
HOPPER = 9
STEP = 8  # widths of heads are multiples of it


def cudnn_width() -> int:
  """How wide heads of cuDNN's attention may be here; 0 = there is none.

  On a mesh there is none: who holds which heads and rows is XLA's to say.
  """
  if sharding.num_devices() > 1 or jax.default_backend() != 'gpu':
    return 0
  said = str(getattr(jax.local_devices()[0], 'compute_capability', ''))
  generation = said.partition('.')[0]
  if not generation.isdecimal():  # another maker's
    return 0
  if int(generation) < AMPERE:
    return 0
  return 256 if int(generation) >= HOPPER else 128


def cudnn_can(
  q_BxTxHxD: jax.Array, sight: Sight, scoring: Scoring, widest: int
) -> bool:
  """Whether cuDNN's attention is to do what is asked, and can.

  Args:
    q_BxTxHxD: queries.
    sight: whom each token sees.
    scoring: what products of queries and keys become, and by what.
    widest: head that it takes, `cudnn_width`.
  """
  width = q_BxTxHxD.shape[-1]
  fits = width <= widest and width % STEP == 0
  all_seen = sight.seen_BxT is None and sight.document_BxT is None
  # It counts tokens, and a window positions.
  near = not sight.window or (sight.is_causal and sight.gapless)
  is_half = q_BxTxHxD.dtype.name in HALVES
  can = fits and all_seen and near and is_half and not scoring.cap
  return can and scoring.kernel == CUDNN


def by_cudnn(
  q_BxTxHxD: jax.Array,
  kv: KV,
  sight: Sight,
  scoring: Scoring,
  implementation: Literal['xla', 'cudnn'] = 'cudnn',
) -> jax.Array:
  """`attention` among the tokens of whole windows, [B, T, D].

  Args:
    q_BxTxHxD: queries.
    kv: keys and values of the same tokens.
    sight: whom each token sees, such that `cudnn_can`.
    scoring: what products of queries and keys become; without a cap.
    implementation: who makes it; xla says on any device what is asked.
  """
  before = (sight.window - 1, 0) if sight.window else None
  mixed_BxTxHxD = jax.nn.dot_product_attention(
    q_BxTxHxD,
    *kv,
    scale=scoring.scale,
    is_causal=sight.is_causal,
    local_window_size=before,
    implementation=implementation,
  )
  return mixed_BxTxHxD.reshape(*q_BxTxHxD.shape[:2], -1)
