"""Which parameters a run leaves as they are, by their paths."""

import dataclasses
import fnmatch

# How names of groups of parameters begin.
GATE = 'gate_'  # of a learned signal
ADAPTER = 'readout_adapter_'  # of a readout before the last
OWN_BLOCK = 'readout_block_'  # of a readout before the last
OWN_HEAD = 'readout_head_'  # of a readout before the last
OWN_NORM = 'readout_norm_'  # of one readout alone
SHARED_NORM = 'readout_norm'  # of all
SCREEN = 'screen'  # of the head
FREQUENT = 'frequent'  # tokens that a signal asks about
LORA = 'lora'  # inside a layer: products beside its matrices


@dataclasses.dataclass(frozen=True)
class Freeze:
  """Patterns of paths such as `layer_0/query/kernel`; `*` is any text.

  Attributes:
    held: of parameters that stay as they are.
    but: of those among them that learn all the same.
  """

  held: tuple[str, ...] = ()
  but: tuple[str, ...] = ()

  def learns(self, path: str) -> bool:
    """Whether the parameter of a path is trained."""
    return not _matches(path, self.held) or _matches(path, self.but)


NOTHING = Freeze()
MODEL = Freeze(('*',), (f'{GATE}*',))  # only gates learn


def all_but_exits(per_segment: int) -> Freeze:
  """Only what readouts before the last one have of their own learns.

  Args:
    per_segment: readouts of a segment.
  """
  norms = [f'{OWN_NORM}{r}/*' for r in range(per_segment - 1)]
  own = [f'{group}*' for group in (GATE, ADAPTER, OWN_BLOCK, OWN_HEAD)]
  return Freeze(('*',), (*own, *norms))


def all_but_lora(per_segment: int) -> Freeze:
  """What readouts have of their own learns, and products beside matrices.

  Args:
    per_segment: readouts of a segment.
  """
  exits = all_but_exits(per_segment)
  return Freeze(exits.held, (*exits.but, f'*/{LORA}/*'))


def is_beside(path: str) -> bool:
  """Whether a parameter is of a product beside a layer's matrix."""
  return f'/{LORA}/' in path


def is_of_exits(group: str) -> bool:
  """Whether a group of parameters is of exits and not of the model.

  A run that starts from another one may have it and the other one not.
  """
  own = GATE, ADAPTER, OWN_BLOCK, OWN_HEAD, OWN_NORM, SCREEN, FREQUENT
  return group.startswith(own)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
  return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
