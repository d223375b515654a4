"""A plain decoder in NumPy that the package's models must agree with.

It is written from the equations, runs one token after the other in float64,
and shares nothing with the package but the names of the parameters. A model is
a list of cells; the functions at the end write those of the three bodies.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Params = Mapping[str, Any]
# Rotated keys and values, [G, D/H] each, and the position of the token.
KV = tuple[np.ndarray, np.ndarray, int]
INPUT = 'x'  # the stream that holds the embedded token


class Cell(NamedTuple):
  """One call of one block.

  Attributes:
    block: number, or name, of the block whose parameters it uses.
    reads: streams combined to its input; none = what the cell before made.
    writes: the stream that its result becomes, if any.
    readout: number of the norm through which its result is read, if it is.
    routed: whether tokens pass it by whose router's number is not above 0.
    column: of a router that decides on a whole run of tied layers, of which
      this is the first.
    follows: whether it is another layer of such a run.
    aside: whether its result is for its readout alone.
  """

  block: int | str
  reads: tuple[str, ...] = ()
  writes: str | None = None
  readout: int | None = None
  routed: bool = False
  column: int | None = None
  follows: bool = False
  aside: bool = False


@dataclasses.dataclass(frozen=True)
class Decoder:
  """A model: its parameters, its cells, and what the shapes do not tell.

  Attributes:
    params: the tree of the package, in float64.
    cells: in the order in which a token runs them.
    num_heads: query heads.
    num_kv_heads: heads of keys and values.
    rope_share: how much of a head turns.
    rope_base: base of the rotary frequencies.
    rope_factors: by which the wavelength of each pair grows; () = 1.
    local_blocks: those whose positions have another base.
    local_rope_base: that base.
    window_of: how many tokens a block sees, itself included; others see all.
    query_width: scores are divided by its root; 0 = that of a head's width.
    score_cap: a soft limit of scores; 0 = none.
    logit_cap: the same of logits.
    screen_candidates: logits that are exact, where others are not.
    norm: 'pre', on the input of each branch, 'post', on each sum, 'branch', on
      what each adds, or 'sandwich', on its input and on what it adds.
    parallel: whether both branches are given the same state.
    unit: what the MLP does to each number.
    inject: 'add', 'concat', 'gate' or 'decay': how two streams are combined.
    embed_scale: factor on embedded tokens.
  """

  params: Params
  cells: Sequence[Cell]
  num_heads: int
  num_kv_heads: int
  rope_share: float = 1.0
  rope_base: float = 10000.0
  rope_factors: Sequence[float] = ()
  local_blocks: Sequence[int] = ()
  local_rope_base: float = 10000.0
  window_of: Mapping[int, int] = dataclasses.field(default_factory=dict)
  query_width: int = 0
  score_cap: float = 0.0
  logit_cap: float = 0.0
  screen_candidates: int = 0
  norm: str = 'pre'
  parallel: bool = False
  unit: str = 'gelu'
  inject: str = 'add'
  embed_scale: float = 1.0


class Token(NamedTuple):
  """What became of one token."""

  readout: int  # that answered, counted from 0 through all cells
  normed_D: np.ndarray  # the state that it read, after its norm
  state_K: list[np.ndarray]  # before the norm, of the readouts that were passed


def float64(tree: Any) -> Any:
  """The same tree with float64 leaves."""
  if isinstance(tree, Mapping):
    return {name: float64(branch) for name, branch in tree.items()}
  return np.asarray(tree, np.float64)


# ---------------------------------------------------------------- one block


def softmax(x: np.ndarray) -> np.ndarray:
  e = np.exp(x - x.max())
  return e / e.sum()


def capped(x: np.ndarray, cap: float) -> np.ndarray:
  """With a soft limit; 0 = none."""
  return cap * np.tanh(x / cap) if cap else x


def sigmoid(x: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(-x))


def norm(params: Params, x_D: np.ndarray) -> np.ndarray:
  """RMSNorm; where it has a bias, LayerNorm."""
  if 'bias' in params:
    x_D = x_D - np.mean(x_D)
  x_D = x_D / np.sqrt(np.mean(x_D**2) + 1e-6)
  return x_D * params['scale'] + params.get('bias', 0)


def rotated(
  model: Decoder, block: int, x_HxD: np.ndarray, position: int
) -> np.ndarray:
  """Turns the pairs (i, i + D/2) of each head by position * base^(-2i/D).

  D is the width of a head, or of that share of it.
  """
  half = round(x_HxD.shape[-1] * model.rope_share) // 2
  is_local = block in model.local_blocks
  base = model.local_rope_base if is_local else model.rope_base
  factors = () if is_local else model.rope_factors
  angle = position * base ** (-np.arange(half) / half)
  angle = angle / np.asarray(factors or 1.0)
  pairs = x_HxD[:, :half] + 1j * x_HxD[:, half : 2 * half]
  turned = pairs * np.exp(1j * angle)
  rest = x_HxD[:, 2 * half :]
  return np.concatenate([turned.real, turned.imag, rest], axis=-1)


def linear(params: Params, x_D: np.ndarray) -> np.ndarray:
  return x_D @ params['kernel'] + params.get('bias', 0)


def made(block: Params, name: str, x_D: np.ndarray) -> np.ndarray:
  """What a matrix of a block makes of x, and what stands beside it."""
  part = block if name in block else block['mlp']
  y = linear(part[name], x_D)
  if 'lora' not in block:
    return y
  beside = block['lora'][name]
  return y + x_D @ beside['into'] @ beside['out_of']


def projected(
  block: Params, name: str, x_D: np.ndarray, num_heads: int
) -> np.ndarray:
  """[H, D/H]."""
  return made(block, name, x_D).reshape(num_heads, -1)


def normed_heads(params: Params, name: str, x_HxD: np.ndarray) -> np.ndarray:
  """Heads, each normed where the block has a norm for them."""
  if name not in params:
    return x_HxD
  if len(params[name]['scale']) == x_HxD.size:  # all of them together
    return norm(params[name], x_HxD.ravel()).reshape(x_HxD.shape)
  return np.stack([norm(params[name], x_D) for x_D in x_HxD])


def branch_input(model: Decoder, params: Params, h_D: np.ndarray) -> np.ndarray:
  return norm(params, h_D) if model.norm in ('pre', 'sandwich') else h_D


def added(model: Decoder, block: Params, name: str, x_D: np.ndarray):
  """What a branch adds."""
  norms = {'branch': f'{name}_norm', 'sandwich': f'{name}_out_norm'}
  if model.norm in norms:
    return norm(block[norms[model.norm]], x_D)
  return x_D


def branch_sum(model: Decoder, params: Params, h_D: np.ndarray) -> np.ndarray:
  return norm(params, h_D) if model.norm == 'post' else h_D


def name_of(block: int | str) -> str:
  return block if isinstance(block, str) else f'layer_{block}'


def key_value(model: Decoder, block: int, h_D: np.ndarray, position: int) -> KV:
  """What other tokens see of a token with this state, in this block."""
  params = model.params[name_of(block)]
  x_D = branch_input(model, params['attention_norm'], h_D)
  key_GxD = projected(params, 'key', x_D, model.num_kv_heads)
  key_GxD = normed_heads(params, 'key_norm', key_GxD)
  value_GxD = projected(params, 'value', x_D, model.num_kv_heads)
  return rotated(model, block, key_GxD, position), value_GxD, position


def attention(
  model: Decoder, block: int, h_D: np.ndarray, position: int, seen: list[KV]
) -> np.ndarray:
  """The attention branch of one token that sees a list of keys and values."""
  params = model.params[name_of(block)]
  x_D = branch_input(model, params['attention_norm'], h_D)
  query_HxD = projected(params, 'query', x_D, model.num_heads)
  query_HxD = normed_heads(params, 'query_norm', query_HxD)
  query_HxD = rotated(model, block, query_HxD, position)

  window = model.window_of.get(block, np.inf)
  seen = [kv for kv in seen if position - kv[2] < window]
  queries_per_group = model.num_heads // model.num_kv_heads
  mixed = []
  for head, query_D in enumerate(query_HxD):
    group = head // queries_per_group
    key_CxD = np.stack([key[group] for key, _, _ in seen])
    value_CxD = np.stack([value[group] for _, value, _ in seen])
    width = model.query_width or len(query_D)
    score_C = capped(key_CxD @ query_D / np.sqrt(width), model.score_cap)
    weight_C = softmax(score_C)
    mixed.append(weight_C @ value_CxD)
  return made(params, 'out', np.concatenate(mixed))


def gelu(x: np.ndarray) -> np.ndarray:
  """In its tanh form."""
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def exact_gelu(x: np.ndarray) -> np.ndarray:
  return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def silu(x: np.ndarray) -> np.ndarray:
  return x * sigmoid(x)


UNITS = {
  'gelu': gelu,
  'gelu_exact': exact_gelu,
  'geglu': gelu,
  'swiglu': silu,
}


def mlp(block: Params, x_D: np.ndarray, unit: str) -> np.ndarray:
  """With a gate where it has the matrix for one."""
  inner_F = made(block, 'up', x_D)
  if 'gate' in block['mlp']:
    gate_F = made(block, 'gate', x_D)
    inner_F = inner_F * UNITS[unit](gate_F)
  else:
    inner_F = UNITS[unit](inner_F)
  return made(block, 'down', inner_F)


def through_block(
  model: Decoder, block: int, h_D: np.ndarray, position: int, seen: list[KV]
) -> np.ndarray:
  """The state of a token after a block."""
  params = model.params[name_of(block)]
  given_D = h_D
  x_D = attention(model, block, h_D, position, seen)
  h_D = h_D + added(model, params, 'attention', x_D)
  h_D = branch_sum(model, params['attention_norm'], h_D)
  x_D = given_D if model.parallel else h_D
  x_D = branch_input(model, params['mlp_norm'], x_D)
  h_D = h_D + added(model, params, 'mlp', mlp(params, x_D, model.unit))
  return branch_sum(model, params['mlp_norm'], h_D)


def router_number(
  model: Decoder, cell: Cell, h_D: np.ndarray, before: float = 1.0
) -> float:
  """What a token's result of a cell is multiplied with; it runs above 0.

  Args:
    model: the model.
    cell: the cell.
    h_D: the state that comes to it.
    before: the number of the run of tied layers that was decided on last.
  """
  if cell.follows:
    return before
  if not cell.routed:
    return 1.0
  kernel = model.params[f'router_{cell.block}']['router']['kernel']
  w_D = kernel[:, cell.column or 0]
  x_D = h_D / np.sqrt(np.mean(h_D**2) + 1e-6)
  number = x_D @ w_D / np.sqrt(len(w_D))
  if cell.column is None:
    return number
  return sigmoid(number) if number > 0 and before > 0 else 0.0


# ------------------------------------------------------- streams and readouts


def combined(model: Decoder, values: Sequence[np.ndarray]) -> np.ndarray:
  """One input from the streams that a cell reads."""
  streams = model.params.get('streams', {})
  if 'norm' in streams:
    x_D, z_D = values
    values = x_D, norm(streams['norm'], z_D)
  if len(values) == 1 or model.inject == 'add':
    return np.sum(values, axis=0)
  x_D, z_D = values
  if model.inject == 'decay':
    step_D = np.log1p(np.exp(streams['step_bias']))
    left_D = np.exp(-step_D * np.exp(streams['log_rate']))
    return left_D * z_D + step_D * (x_D @ streams['inject']['kernel'])
  inject_2DxD = streams['inject']['kernel']
  injected_D = np.concatenate([x_D, z_D]) @ inject_2DxD
  if model.inject == 'concat':
    return injected_D
  return x_D + sigmoid(injected_D) * z_D


def adapted(kind: str, params: Any, h_D: np.ndarray) -> np.ndarray:
  """A state with what an adapter adds to it."""
  if kind == 'map':
    return h_D + h_D @ params['linear']['kernel']
  if kind == 'low_rank':
    return h_D + h_D @ params['down']['kernel'] @ params['up']['kernel']
  size = np.sqrt(np.mean(h_D**2) + 1e-6)
  inner = gelu(h_D / size @ params['up']['kernel'])
  return h_D + size * (inner @ params['down']['kernel'])


def normed(model: Decoder, readout: int, h_D: np.ndarray) -> np.ndarray:
  """Through its adapters and the one norm of all readouts, or its own."""
  adapters = model.params.get(f'readout_adapter_{readout}', {})
  for kind, params in adapters.items():
    h_D = adapted(kind, params, h_D)
  shared = model.params.get('readout_norm')
  own = model.params[f'readout_norm_{readout}'] if shared is None else shared
  return norm(own, h_D)


def logits(
  model: Decoder, normed_D: np.ndarray, readout: int | None = None
) -> np.ndarray:
  """[V], from the unembedding, which is the embedding where they are tied.

  Readouts before the last of a segment may have one of their own.
  """
  shared_VxD = model.params.get('unembed', model.params['embed'])
  table_VxD = model.params.get(f'readout_head_{readout}', shared_VxD)
  exact_V = capped(table_VxD @ normed_D, model.logit_cap)
  if 'screen' not in model.params:
    return exact_V

  screen = model.params['screen']
  rough_V = screen['out_of'] @ (normed_D @ screen['into'])
  rough_V = capped(rough_V, model.logit_cap)
  found_C = np.argsort(-rough_V)[: model.screen_candidates]
  raised_V = rough_V + screen['shift']
  raised_V[found_C] = exact_V[found_C]
  return raised_V


# ------------------------------------------------------------------- decoding


def left_behind(
  model: Decoder,
  policy: str,
  block: int,
  exit_state_D: np.ndarray,
  position: int,
  made: dict[int, KV],
) -> KV | None:
  """What a cell of this block shows of a token that exited before it, if any.

  `made` has the keys and values that each block has last made of the token.
  """
  if policy == 'drop':
    return None
  if policy == 'latest' and block in made:
    return made[block]
  return key_value(model, block, exit_state_D, position)


def decode_token(
  model: Decoder,
  stream: dict[str, np.ndarray],
  position: int,
  caches: list[list[KV]],
  threshold_K: Sequence[float],
  policy: str,
) -> Token:
  """Runs one token and adds its keys and values to each cell's cache.

  Args:
    model: the model.
    stream: what the token's streams hold at first.
    position: of the token.
    caches: what each cell sees of the tokens before.
    threshold_K: a readout answers if its highest probability is at least its
      threshold; the last one answers in any case.
    policy: recompute, copy_state, drop or latest.
  """
  stream = dict(stream)
  h_D = stream[INPUT]
  exit_state_D = None
  answer = None
  made: dict[int, KV] = {}
  state_K: list[np.ndarray] = []
  gate = 1.0  # of the run of tied layers that was decided on last

  for cell, cache in zip(model.cells, caches, strict=True):
    given_D = h_D
    if answer is not None and policy != 'recompute':
      number = router_number(model, cell, exit_state_D, gate)
      gate = number if cell.column is not None else gate
      if number <= 0:
        continue
      kv = left_behind(model, policy, cell.block, exit_state_D, position, made)
      if kv is not None:
        cache.append(kv)
      continue

    if cell.reads:
      h_D = combined(model, [stream[name] for name in cell.reads])
    number = router_number(model, cell, h_D, gate)
    gate = number if cell.column is not None else gate
    if number > 0:
      made[cell.block] = key_value(model, cell.block, h_D, position)
      cache.append(made[cell.block])
      new_D = through_block(model, cell.block, h_D, position, cache)
      h_D = h_D + number * (new_D - h_D)
    if cell.writes is not None:
      stream[cell.writes] = h_D

    if cell.readout is None:
      continue
    k = len(state_K)
    state_K.append(h_D)
    normed_D = normed(model, cell.readout, h_D)
    confidence = softmax(logits(model, normed_D, cell.readout)).max()
    is_last = k == len(threshold_K) - 1
    if answer is None and (is_last or confidence >= threshold_K[k]):
      answer = k, normed_D
      exit_state_D = given_D if cell.aside else h_D
    if cell.aside:
      h_D = given_D

  return Token(*answer, state_K)


def decode(
  model: Decoder,
  token_T: Sequence[int],
  threshold_K: Sequence[float],
  policy: str,
  start: Mapping[str, np.ndarray] | None = None,
) -> list[Token]:
  """Runs the tokens of one row after each other.

  Args:
    model, threshold_K, policy: as for `decode_token`.
    token_T: the row.
    start: [T, D] of each stream besides the input; a stream that is not given
      begins with the parameter `first` of the streams, or else with zeros.
  """
  caches: list[list[KV]] = [[] for _ in model.cells]
  names = {name for cell in model.cells for name in cell.reads} - {INPUT}
  tokens = []
  for position, token in enumerate(token_T):
    x_D = model.params['embed'][token] * model.embed_scale
    if 'positions' in model.params:
      x_D = x_D + model.params['positions'][position]
    first_D = model.params.get('streams', {}).get('first', np.zeros_like(x_D))
    stream = {INPUT: x_D}
    for name in names:
      given = start is not None and name in start
      stream[name] = start[name][position] if given else first_D
    tokens.append(
      decode_token(model, stream, position, caches, threshold_K, policy)
    )
  return tokens


def every_state(
  model: Decoder,
  token_T: Sequence[int],
  start: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
  """States of all readouts when no token exits, [K, T, D]."""
  num = sum(cell.readout is not None for cell in model.cells)
  tokens = decode(model, token_T, [np.inf] * num, 'recompute', start)
  return np.stack([token.state_K for token in tokens], axis=1)


# ------------------------------------------------------------- lists of cells


def stack_cells(
  num_layers: int, readouts: Sequence[int], routed_every: int | None = None
) -> list[Cell]:
  """Blocks on each other, read after some of them (counted from 1)."""
  number = {layer: r for r, layer in enumerate(readouts)}
  cells = [Cell(i, readout=number.get(i + 1)) for i in range(num_layers)]
  for i in range(num_layers):
    if routed_every and (i + 1) % routed_every == 0:
      cells[i] = cells[i]._replace(routed=True)
  return cells


def with_asides(cells: Sequence[Cell]) -> list[Cell]:
  """The same cells; readouts but the last have a block of their own."""
  *others, last = cells
  found = []
  for cell in others:
    found.append(cell._replace(readout=None))
    if cell.readout is not None:
      name = f'readout_block_{cell.readout}'
      found.append(Cell(name, readout=cell.readout, aside=True))
  return [*found, last]


def cycle_cells(
  num_layers: int, readouts: Sequence[int], times: int, own: int
) -> list[Cell]:
  """Tied layers that run `times` times; a router before each run but one."""
  number = {layer: r for r, layer in enumerate(readouts)}
  length = (num_layers - 2 * own) // times
  blocks = [*range(own), *[own + i for i in range(length)] * times]
  blocks += [own + length + i for i in range(own)]
  cells = [Cell(b, readout=number.get(i)) for i, b in enumerate(blocks, 1)]

  for run in range(1, times):
    first = own + run * length
    cells[first] = cells[first]._replace(routed=True, column=run - 1)
    for i in range(first + 1, first + length):
      cells[i] = cells[i]._replace(follows=True)
  return cells


def refine_cells(
  num_layers: int,
  readouts: Sequence[int],
  segments: int,
  blocks: Sequence[int] = (),
) -> list[Cell]:
  """The stack again and again: h = stack(x combined with z), z = h.

  Its layers have the parameters of `blocks`, if some are named.
  """
  segment = stack_cells(num_layers, readouts)
  for i, block in enumerate(blocks):
    segment[i] = segment[i]._replace(block=block)
  segment[0] = segment[0]._replace(reads=(INPUT, 'z'))
  segment[-1] = segment[-1]._replace(writes='z')
  return segment * segments


def hrm_cells(
  num_layers: int, cycles: int, cycle_steps: int, segments: int
) -> list[Cell]:
  """Cycles of some updates of the low state and one of the high state.

  low = L(low + high + x) and high = H(high + low), where L is the first
  `num_layers` blocks and H the rest; a segment ends with a readout of high.
  """

  def module(first: int, reads: tuple[str, ...], writes: str) -> list[Cell]:
    cells = [Cell(first + i) for i in range(num_layers)]
    cells[0] = cells[0]._replace(reads=reads)
    cells[-1] = cells[-1]._replace(writes=writes)
    return cells

  low = module(0, ('low', 'high', INPUT), 'low')
  high = module(num_layers, ('high', 'low'), 'high')
  segment = (low * cycle_steps + high) * cycles
  segment[-1] = segment[-1]._replace(readout=0)
  return segment * segments
