"""What a training step needs, by shapes alone: `planned(config)`."""

import collections
import dataclasses
import re

import jax

from ease_jax import specs as specs_lib
from ease_jax.checks import need
from ease_jax.config import Config
from ease_jax.core.costs import CostModel
from ease_jax.data.tokenizers import Byte
from ease_jax.sharding import REST, MeshSpec, local_shape
from ease_jax.specs import Specs
from ease_jax.train import optimizer
from ease_jax.train.freezing import Learned, learned_of
from ease_jax.train.kept import Activations, activations
from ease_jax.train.paths import leaves
from ease_jax.train.stages import Plan, Stage, plan, planned, tells
from ease_jax.train.update import TrainState, abstract_state

TAKEN = 0.75  # of a GPU's memory, if XLA is told nothing else


@dataclasses.dataclass(frozen=True)
class ReadoutNeeds:
  """What a readout adds to an update.

  Attributes:
    segment: in which it stands, from 1.
    layer: of the segment, from 1.
    weight: of its loss, before a schedule and normalisation.
    flops: of one device in an update.
    memory: bytes that one device keeps for its backward pass; one segment is
      kept at a time, the last is as large as any.
  """

  segment: int
  layer: int
  weight: float
  flops: float
  memory: int


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a training step needs.

  Attributes:
    mesh: devices along each axis.
    batch_size: windows of an update, on all devices together.
    accumulate: micro-batches.
    tokens: of an update, on all devices together.
    vocab_size: V.
    parameters: number of parameters by group; numbered groups are one.
    groups: how many groups each of them stands for.
    memory: bytes of one device, by what they hold.
    flops: of one device in an update with the most runs, by what they do.
    mean_flops: of one device, mean over all updates; nothing is made anew.
    readouts: in order.
    head_tokens: those that a head of one device works on at a time.
    left_out: what is in none of the numbers.
  """

  mesh: MeshSpec
  batch_size: int
  accumulate: int
  tokens: int
  vocab_size: int
  parameters: dict[str, int]
  groups: dict[str, int]
  memory: dict[str, int]
  flops: dict[str, float]
  mean_flops: float
  readouts: tuple[ReadoutNeeds, ...]
  head_tokens: int
  left_out: tuple[str, ...]

  @property
  def total_parameters(self) -> int:
    """All parameters."""
    return sum(self.parameters.values())

  @property
  def total_memory(self) -> int:
    """Bytes of one device; none is thought to use the place of another."""
    return sum(self.memory.values())

  @property
  def total_flops(self) -> float:
    """Of one device in an update with the most runs."""
    return sum(self.flops.values())


def needs(
  config: Config, vocab_size: int = 0, memory: int | None = None
) -> Needs:
  """What a training step of a config needs; nothing is run or allocated.

  Args:
    config: of a run.
    vocab_size: V; 0 = what the tokenizer says before it has seen data.
    memory: bytes of a device, of which XLA takes `TAKEN`; None = it is not
      known.

  Raises:
    ConfigError: the config cannot run, or not on its mesh.
  """
  size = vocab_size or _vocab_size(config)
  specs = specs_lib.from_config(config, size, specs_lib.ANY_TOKEN)
  need(
    specs.mesh.data != REST,
    f'mesh.data={REST} is what the devices of a machine leave, and none is '
    'asked here; say how many, as in --mesh=data:8',
  )
  specs = specs_lib.on_devices(specs, specs.mesh.size)
  need(
    not specs.train.imported,
    'train.steps=0 trains nothing, so that there is nothing to plan; raise it',
  )
  state = abstract_state(specs.body, specs.optimizer)
  shapes = leaves(state.params)
  learned = learned_of(specs.loss.freeze, shapes)
  now = _largest_stage(specs)
  kept = activations(
    now,
    state.params,
    specs.train.batch_size // specs.train.accumulate // specs.mesh.rows,
    specs.data.seq_len,
    learned,
    tensor=specs.mesh.tensor,
    fsdp=specs.mesh.fsdp,
    memory=None if memory is None else int(TAKEN * memory),
  )
  readouts = _readouts(specs, now, learned, kept)
  tokens = specs.train.batch_size * specs.data.seq_len
  names = [_group(name) for name in shapes]
  sizes = collections.Counter[str]()
  for name, shape in zip(names, shapes.values(), strict=True):
    sizes[name] += shape.size
  numbered = set(map(_part, shapes))

  return Needs(
    mesh=specs.mesh,
    batch_size=specs.train.batch_size,
    accumulate=specs.train.accumulate,
    tokens=tokens,
    vocab_size=specs.model.vocab_size,
    parameters=dict(sizes),
    groups=dict(collections.Counter(map(_group, numbered))),
    memory=_memory(specs, now, state, kept),
    flops=_flops(specs, now, readouts),
    mean_flops=specs.train_flops * tokens / specs.mesh.size,
    readouts=readouts,
    head_tokens=kept.tokens,
    left_out=_left_out(specs),
  )


def _vocab_size(config: Config) -> int:
  """What the tokenizer has before it has seen data.

  Raises:
    ConfigError: it depends on them.
  """
  data = config.data
  known = {'byte': Byte.vocab_size, 'bpe': data.vocab_size}
  need(
    data.task == 'language' and data.tokenizer in known,
    f'the vocabulary of data.task={data.task} with data.tokenizer='
    f'{data.tokenizer} depends on the data; give --vocab-size=V',
  )
  return known[data.tokenizer]


def _part(name: str) -> str:
  """`layer_12/query/kernel` -> `layer_12`."""
  return name.partition('/')[0]


def _group(name: str) -> str:
  """`layer_12/query/kernel` -> `layer`."""
  return re.sub(r'_\d+$', '', _part(name))


def _largest_stage(specs: Specs) -> Stage:
  """Of the updates that run and reach the most."""
  plans = {
    plan(specs.train, specs.body, step, specs.seed)
    for step in range(specs.train.steps)
  }

  def reached(one: Plan) -> tuple[int, int]:
    return one.runs, one.reach or 0

  return planned(specs.body, specs.loss, max(plans, key=reached))


# ------------------------------------------------------------------ of memory


def _memory(
  specs: Specs, now: Stage, state: TrainState, kept: Activations
) -> dict[str, int]:
  """Bytes of one device."""
  mesh = specs.mesh
  params = leaves(state.params)
  gradients = sum(
    _local(name, x, mesh)
    for name, x in params.items()
    if specs.loss.freeze.learns(name)
  )
  one_by_one = now.loss.one_by_one and not now.loss.per_segment
  if specs.train.accumulate > 1 or one_by_one:
    gradients *= 2  # those of a part, and the sum of the parts before

  together = 0
  if mesh.fsdp > 1:
    of_group = collections.Counter[str]()
    for name, x in params.items():
      of_group[_part(name)] += _local(name, x, MeshSpec(tensor=mesh.tensor))
    # The backward pass needs them again, and gathers anew what it makes anew.
    at_once = max if now.model.cfg.remat else sum
    together = at_once(of_group.values())

  opt_state = leaves(state.opt_state)
  return {
    'parameters': sum(_local(name, x, mesh) for name, x in params.items()),
    'optimizer state': sum(_local(n, x, mesh) for n, x in opt_state.items()),
    'gradients': gradients,
    'parameters, put together': together,
    'kept by layers': sum(kept.cell_L),
    'kept between segments': kept.carries,
    'kept by readouts': sum(kept.readout_R),
    'gradients of unembeddings': kept.tables,
    'layer that is made anew': kept.anew,
    'head at work': kept.head,
  }


def _local(name: str, x: jax.Array, mesh: MeshSpec) -> int:
  """Bytes that one device holds of an array."""
  size = x.dtype.itemsize
  for length in local_shape(name, x.shape, mesh):
    size *= length
  return size


# ------------------------------------------------------------------- of FLOPs


def _flops(
  specs: Specs, now: Stage, readouts: tuple[ReadoutNeeds, ...]
) -> dict[str, float]:
  """Of one device in an update."""
  devices = specs.mesh.size
  tokens = specs.train.batch_size * specs.data.seq_len / devices
  heads = sum(readout.flops for readout in readouts)
  updates = optimizer.update_flops(specs.optimizer, specs.shapes)
  updates *= specs.optimizer.updates_per_step
  return {
    'layers, forward and backward': specs.flops_of(now) * tokens - heads,
    'readouts, forward and backward': heads,
    'matrices of the optimizer': updates / devices,
    'made anew in the backward pass': _anew(specs, now) * tokens,
  }


def _prices(specs: Specs, now: Stage) -> CostModel:
  return now.model.costs(specs.data.seq_len, tells(specs.train, now))


def _anew(specs: Specs, now: Stage) -> float:
  """FLOPs of a token that a backward pass spends on what was not kept."""
  prices = _prices(specs, now)
  body_L = (prices.trained_L + prices.extra_L)[: len(now.model.grid.cells)]
  anew = 0.0
  if now.model.cfg.remat:
    anew += float(body_L.sum())
  joined = not (now.loss.one_by_one or now.loss.per_segment)
  if now.loss.segments > 1 and joined:  # train.scan keeps what they hand on
    anew += float(body_L[len(now.model.grid.prelude) :].sum())
    anew += sum(now.loss.trained_K) * prices.whole_head
  return anew


def _readouts(
  specs: Specs, now: Stage, learned: Learned, kept: Activations
) -> tuple[ReadoutNeeds, ...]:
  """What each readout of an update adds."""
  prices = _prices(specs, now)
  tokens = specs.train.batch_size * specs.data.seq_len / specs.mesh.size
  share_K = now.loss.trained_K

  def taught(*numbers: int) -> float:
    some_K = [share if k in numbers else 0.0 for k, share in enumerate(share_K)]
    return prices.train_per_token(
      some_K,
      cell_passes=learned.cell_passes,
      head_passes=learned.head_passes,
      early_passes=learned.early_passes,
    )

  found = []
  per_segment = now.model.grid.per_segment
  for k, (segment, layer) in enumerate(now.model.grid.names_K):
    r = k % per_segment
    is_kept = segment == now.loss.segments  # one segment is, at a time
    found.append(
      ReadoutNeeds(
        segment=segment,
        layer=layer,
        weight=now.loss.weight_K[k],
        flops=(taught(k) - taught()) * tokens,
        memory=kept.readout_R[r] if is_kept else 0,
      )
    )
  return tuple(found)


def _left_out(specs: Specs) -> tuple[str, ...]:
  """What is in none of the numbers of memory."""
  found = {
    'gates': bool(specs.loss.gating.learned),
    'a shortcut': specs.loss.shortcut.on,
    'the teacher': specs.loss.teaching.on,
  }
  return tuple(name for name, is_there in found.items() if is_there)
