"""Distillation: how far a student is from its teacher, token by token.

A readout that is taught has, for each token,

  (1 - w) * cross-entropy(label) + w * T^2 * D(teacher, student),

both distributions softened by the temperature T; T^2 keeps the gradient's size
when T changes (Hinton et al. 1503.02531). D is one of DIVERGENCES.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated

import jax
import jax.numpy as jnp

from ease_jax.checks import (
  OneOf,
  Range,
  ReadIf,
  Share,
  Size,
  check_fields,
  need,
)

NAME = 'distill'  # of the target
# A ratio of probabilities beyond exp of this is of no weight in float32.
MAX_LOG_RATIO = 80.0

# log p of the teacher and log q of the student, [N, V], to the divergence, [N],
# and its derivative by the student's logits, [N, V]. Both are 0 where p is q,
# to the last bit.
Divergence = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def forward_kl(
  log_p_NxV: jax.Array, log_q_NxV: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """KL(p | q): the student covers all that the teacher thinks possible."""
  p_NxV = jnp.exp(log_p_NxV)
  q_NxV = jnp.exp(log_q_NxV)
  kl_N = (p_NxV * (log_p_NxV - log_q_NxV)).sum(-1)
  return kl_N, q_NxV - p_NxV


def reverse_kl(
  log_p_NxV: jax.Array, log_q_NxV: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """KL(q | p): the student keeps to what the teacher thinks likely."""
  q_NxV = jnp.exp(log_q_NxV)
  ratio_NxV = log_q_NxV - log_p_NxV
  kl_N = (q_NxV * ratio_NxV).sum(-1)
  return kl_N, q_NxV * (ratio_NxV - kl_N[:, None])


def jensen_shannon(
  log_p_NxV: jax.Array, log_q_NxV: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """(KL(p | m) + KL(q | m)) / 2 with m = (p + q) / 2; at most log 2."""
  p_NxV = jnp.exp(log_p_NxV)
  q_NxV = jnp.exp(log_q_NxV)
  ratio_NxV = log_p_NxV - log_q_NxV
  ratio_NxV = jnp.clip(ratio_NxV, -MAX_LOG_RATIO, MAX_LOG_RATIO)

  # log(p / m) and log(q / m), without a rounding error where p is q.
  over_p_NxV = -jnp.log1p(jnp.expm1(-ratio_NxV) / 2)
  over_q_NxV = -jnp.log1p(jnp.expm1(ratio_NxV) / 2)
  kl_p_N = (p_NxV * over_p_NxV).sum(-1)
  kl_q_N = (q_NxV * over_q_NxV).sum(-1)
  slope_NxV = q_NxV * (over_q_NxV - kl_q_N[:, None]) / 2
  return (kl_p_N + kl_q_N) / 2, slope_NxV


DIVERGENCES: dict[str, Divergence] = {
  'forward_kl': forward_kl,
  'reverse_kl': reverse_kl,
  'jensen_shannon': jensen_shannon,
}

_Read = ReadIf('target', (NAME,))


@dataclasses.dataclass(frozen=True)
class TeachingSpec:
  """The fields of section `loss` that say what readouts learn, and of whom.

  Attributes:
    target: what a readout is trained to say, a name of `train.targets`.
    teacher: folder of a trained run, which teaches every readout; '' = the
      model's own last readout teaches the others.
    teacher_weight: w, its share of the loss; the rest is the label's.
    teacher_temperature: T, of both distributions.
    teacher_divergence: of DIVERGENCES.
    teacher_top_k: so many of the teacher's likeliest tokens are compared, and
      both distributions are renormalised on them; 0 = all.
  """

  target: str = 'label'
  teacher: Annotated[str, _Read] = ''
  teacher_weight: Annotated[Share, _Read] = 0.5
  teacher_temperature: Annotated[float, Range(0.01, 100), _Read] = 1.0
  teacher_divergence: Annotated[str, OneOf(DIVERGENCES), _Read] = 'forward_kl'
  teacher_top_k: Annotated[Size, _Read] = 0

  def __post_init__(self):
    check_fields('loss', self)
    need(
      self.teacher_top_k != 1,
      'loss.teacher_top_k=1 teaches nothing: on one token all distributions '
      'are the same; use 2 or more, or 0 for all tokens',
    )
    need(
      not self.teacher_top_k or self.teacher_weight < 1,
      f'loss.teacher_top_k={self.teacher_top_k} with loss.teacher_weight=1 '
      'leaves it to nobody how likely all other tokens are; give the label a '
      'share, or use loss.teacher_top_k=0',
    )

  @property
  def on(self) -> bool:
    """Whether a teacher has a say."""
    return self.target == NAME and self.teacher_weight > 0

  @property
  def run(self) -> str:
    """Folder of the run that teaches; '' = none does."""
    return self.teacher if self.on else ''

  @property
  def own(self) -> bool:
    """Whether the model's own last readout teaches the others."""
    return self.on and not self.teacher

  def taught(self, trained_K: Sequence[float]) -> list[float]:
    """Share of tokens on which each readout is taught.

    Args:
      trained_K: share of tokens on which it is trained at all.
    """
    if not self.on:
      return [0.0] * len(trained_K)
    return [*trained_K[:-1], 0.0 if self.own else trained_K[-1]]

  def heads(self, taught_K: Sequence[float]) -> float:
    """Heads that the teacher runs for a token: one for each readout taught.

    Its likeliest tokens are found once for all of them.
    """
    heads = float(sum(taught_K))
    return float(heads > 0) if self.teacher_top_k else heads

  def distance(
    self, teacher_NxV: jax.Array, student_NxV: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """T^2 * D of each token, [N], and its derivative by the student's logits.

    Args:
      teacher_NxV: its logits, float32.
      student_NxV: the student's of the same tokens of the vocabulary.
    """
    temperature = self.teacher_temperature
    compare = DIVERGENCES[self.teacher_divergence]
    far_N, slope_NxV = compare(
      jax.nn.log_softmax(teacher_NxV / temperature),
      jax.nn.log_softmax(student_NxV / temperature),
    )
    return temperature * temperature * far_N, temperature * slope_NxV
