"""What a derivative keeps of the forward pass, by shapes alone.

A function is traced, and what `jax.vjp` hands from the forward to the backward
pass is counted, each array once: a view, a cast or a copy along an axis is
what it was made of, and what depends on no argument is made again. This is all
that a derivative asks for; XLA may keep less where making it anew is cheap.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

Shapes = Any  # a tree of jax.ShapeDtypeStruct

# What XLA makes again rather than keep.
VIEWS = (
  'broadcast_in_dim',
  'convert_element_type',
  'expand_dims',
  'reshape',
  'squeeze',
  'transpose',
)
CALLS = ('jit', 'pjit', 'closed_call', 'custom_jvp_call', 'custom_vjp_call')


class Origin(NamedTuple):
  """What an array of a program was made of.

  Attributes:
    number: its own, so that no two are equal.
    size: bytes.
    given: the argument that it is; None = it was made.
    varies: whether it depends on an argument.
  """

  number: int
  size: int
  given: int | None
  varies: bool


class _Tracer:
  """Follows the arrays of a program back to where they were made."""

  def __init__(self):
    self.number = 0

  def origin(self, var, given: int | None = None, varies=True) -> Origin:
    """Of an array that is made here."""
    self.number += 1
    return Origin(self.number, _bytes(var.aval), given, varies)

  def outputs(self, jaxpr, given: Sequence[Origin]) -> list[Origin]:
    """Of the outputs of a program.

    Args:
      jaxpr: the program.
      given: of its arguments.
    """
    known = dict(zip(jaxpr.invars, given, strict=True))
    for var in jaxpr.constvars:
      known[var] = self.origin(var, varies=False)

    def of(var) -> Origin:
      if isinstance(var, Literal):
        return self.origin(var, varies=False)
      return known[var]

    for eqn in jaxpr.eqns:
      inputs = [of(var) for var in eqn.invars]
      name = eqn.primitive.name
      inner = eqn.params.get('jaxpr', eqn.params.get('call_jaxpr'))
      if name in VIEWS:
        known[eqn.outvars[0]] = _viewed(inputs[0], eqn)
      elif name in CALLS and inner is not None:
        closed = getattr(inner, 'jaxpr', inner)
        known |= zip(eqn.outvars, self.outputs(closed, inputs), strict=True)
      else:
        varies = any(origin.varies for origin in inputs)
        for var in eqn.outvars:
          known[var] = self.origin(var, varies=varies)
    return [of(var) for var in jaxpr.outvars]


def _viewed(origin: Origin, eqn) -> Origin:
  """Of a view; a cast to a narrower type is enough to keep."""
  if eqn.primitive.name != 'convert_element_type':
    return origin
  return origin._replace(size=min(origin.size, _bytes(eqn.outvars[0].aval)))


def _bytes(aval) -> int:
  return aval.size * getattr(aval.dtype, 'itemsize', 4)  # 4: of a key


class Kept(NamedTuple):
  """Bytes that a differentiated function keeps.

  Attributes:
    made: of what it made itself.
    given: of its second argument, what it was handed.
  """

  made: int
  given: int


def kept(
  function: Callable[[Shapes, Shapes], Shapes], params: Shapes, state: Shapes
) -> Kept:
  """What the derivative of a function by both arguments asks for.

  Args:
    function: of parameters, which are there anyway, and of a state.
    params: shapes of the parameters.
    state: shapes of the state.
  """

  def backward(params: Shapes, state: Shapes) -> Shapes:
    return jax.vjp(function, params, state)[1]

  jaxpr = jax.make_jaxpr(backward)(params, state).jaxpr
  num_params = len(jax.tree.leaves(params))
  tracer = _Tracer()
  given = [tracer.origin(var, i) for i, var in enumerate(jaxpr.invars)]
  widest: dict[int, Origin] = {}
  for origin in sorted(tracer.outputs(jaxpr, given), key=attrgetter('size')):
    if origin.varies:
      widest[origin.number] = origin
  made = 0
  handed = 0
  for origin in widest.values():
    if origin.given is None:
      made += origin.size
    elif origin.given >= num_params:
      handed += origin.size
  return Kept(made, handed)
