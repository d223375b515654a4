"""Targets: what a readout is trained to say.

A target is prepared once for a batch, without a gradient, so that it may be
the label, the last readout's distribution or a teacher's.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ease_jax.core.distillation import NAME, TeachingSpec
from ease_jax.core.objective import LossSpec
from ease_jax.evaluate.facts import TeacherFacts
from ease_jax.model import Body, Params, readout
from ease_jax.model.linear_loss import (
  CROSS_ENTROPY,
  Lesson,
  Tree,
  cross_entropy,
)
from ease_jax.model.unembedding import Unembedding

Prepared = Any  # tree of [B, T, ...] arrays


# tokens, targets (the true next ones) int32 and mask float32, each [B, T].
Batch = Mapping[str, jax.Array]


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['params'],
  meta_fields=['model', 'facts'],
)
@dataclasses.dataclass(frozen=True)
class Teacher:
  """A model whose last readout is believed; it is never trained.

  Attributes:
    model: a body.
    params: its parameters.
    facts: what is written down of it, if it is another run.
  """

  model: Body
  params: Params
  facts: TeacherFacts | None = None

  @property
  def _bound(self) -> Body:
    return self.model.bind({'params': jax.lax.stop_gradient(self.params)})

  def answer(self, token_BxT: jax.Array) -> jax.Array:
    """What its last head sees, exits and dropout off, [B, T, D]."""
    bound = self._bound
    last = bound.grid.num_readouts - 1
    return bound.normed(last, bound.states(token_BxT)[-1])

  def unembedding(self) -> Unembedding:
    """Of its head, [V, D]."""
    return self._bound.unembedding()


class Target(Protocol):
  """A loss of a readout, made for a spec and a teacher."""

  def prepare(
    self, bound: Body, batch: Batch, answer: Callable[[], jax.Array]
  ) -> Prepared:
    """What the losses need of a batch; gradients stop here.

    Args:
      bound: the model.
      batch: tokens, targets and mask, each [B, T].
      answer: makes what the model's own last head sees, [B, T, D]. Where there
        is one segment, that is the state of the pass that is trained on;
        otherwise it takes a forward pass, which looks like an evaluation's.
    """
    ...

  def lesson(self, last_VxD: Unembedding, is_last: bool | jax.Array) -> Lesson:
    """How the loss of tokens is made, whose facts are what `prepare` made.

    Args:
      last_VxD: the unembedding of the readout that always answers.
      is_last: whether it is its loss; an array where that is known only when
        the program runs.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Label:
  """The true next token: cross-entropy."""

  spec: LossSpec
  teacher: Teacher | None = None

  def prepare(
    self, bound: Body, batch: Batch, answer: Callable[[], jax.Array]
  ) -> Prepared:
    del bound, answer
    return batch['targets']

  def lesson(self, last_VxD: Unembedding, is_last: bool | jax.Array) -> Lesson:
    del last_VxD, is_last
    return CROSS_ENTROPY


@dataclasses.dataclass(frozen=True)
class Distill:
  """The label, and what a teacher says of it.

  Without a teacher of its own the model's last readout is one: it learns the
  label alone, and no gradient of the others reaches it.
  """

  spec: LossSpec
  teacher: Teacher | None = None

  def prepare(
    self, bound: Body, batch: Batch, answer: Callable[[], jax.Array]
  ) -> Prepared:
    label_BxT = batch['targets']
    if not self.spec.teaching.on:
      return label_BxT, ()
    if self.teacher is None:
      said_BxTxD = answer()
      w_VxD = bound.unembedding()
    else:
      said_BxTxD = self.teacher.answer(batch['tokens'])
      w_VxD = self.teacher.unembedding()

    num = self.spec.teaching.teacher_top_k
    if not num:
      return label_BxT, said_BxTxD
    said_NxD = said_BxTxD.reshape(-1, said_BxTxD.shape[-1])
    said_Nxk = readout.likeliest(said_NxD, w_VxD, num)
    shape = *label_BxT.shape, num
    return label_BxT, tuple(x.reshape(shape) for x in said_Nxk)

  def lesson(self, last_VxD: Unembedding, is_last: bool | jax.Array) -> Lesson:
    teaching = self.spec.teaching
    if self.teacher is not None:
      last_VxD = self.teacher.unembedding()
      is_last = False  # it is taught like all others
    if not teaching.on or is_last is True:
      return Lesson(_label_alone)
    if is_last is False:
      return Lesson(functools.partial(_taught, teaching), last_VxD)
    some_taught = functools.partial(_taught_or_not, teaching)
    return Lesson(some_taught, (last_VxD, is_last))


def _label_alone(
  logits_NxV: jax.Array, prepared_N: Tree, shared: Tree
) -> tuple[jax.Array, jax.Array]:
  del shared
  label_N, _ = prepared_N
  return cross_entropy(logits_NxV, label_N)


def _taught_or_not(
  spec: TeachingSpec,
  logits_NxV: jax.Array,
  prepared_N: Tree,
  shared: tuple[Unembedding, jax.Array],
) -> tuple[jax.Array, jax.Array]:
  """What the readout that always answers learns, or another one."""
  last_VxD, is_last = shared
  taught = functools.partial(_taught, spec)
  return jax.lax.cond(
    is_last, _label_alone, taught, logits_NxV, prepared_N, last_VxD
  )


def _taught(
  spec: TeachingSpec,
  logits_NxV: jax.Array,
  prepared_N: Tree,
  teacher_VxD: Unembedding,
) -> tuple[jax.Array, jax.Array]:
  """The label's and the teacher's share of the loss, and its derivative."""
  label_N, said_N = prepared_N
  nll_N, error_NxV = cross_entropy(logits_NxV, label_N)

  if spec.teacher_top_k:
    ids_Nxk, teacher_Nxk = said_N
    student_Nxk = jnp.take_along_axis(logits_NxV, ids_Nxk, 1)
    far_N, slope_Nxk = spec.distance(teacher_Nxk, student_Nxk)
    rows_Nx1 = jnp.arange(len(label_N))[:, None]
    slope_NxV = jnp.zeros_like(logits_NxV).at[rows_Nx1, ids_Nxk].set(slope_Nxk)
  else:
    teacher_NxV = readout.logits(said_N, teacher_VxD)
    far_N, slope_NxV = spec.distance(teacher_NxV, logits_NxV)

  weight = spec.teacher_weight
  loss_N = (1 - weight) * nll_N + weight * far_N
  return loss_N, (1 - weight) * error_NxV + weight * slope_NxV


def some_tokens(key: jax.Array, fraction: float, tokens_N: Tree) -> Tree:
  """A random share of the tokens, the same ones from every array.

  Args:
    key: of the choice.
    fraction: the share, rounded up to whole tokens.
    tokens_N: tree of arrays [N, ...].
  """
  num = len(jax.tree.leaves(tokens_N)[0])
  order_N = jax.random.permutation(key, num)
  keep = order_N[: math.ceil(fraction * num)]

  def taken(x_N: jax.Array) -> jax.Array:
    return x_N[keep]

  return jax.tree.map(taken, tokens_N)


# What `loss.target` may be; each is made once for a program.
TARGETS: dict[str, Callable[[LossSpec, Teacher | None], Target]] = {
  'label': Label,
  NAME: Distill,
}
