"""Presets of layers that run again."""

import copy

from ease_jax.config import Config


def refinement(c: Config, segments: int, num_layers: int) -> Config:
  """A copy with the same layers run several times (IRT)."""
  c = copy.deepcopy(c)
  c.model.body = 'refine'
  c.model.segments = segments
  c.model.num_layers = num_layers
  return c


def repeated(c: Config, segments: int, num_layers: int, own: int) -> Config:
  """A copy whose layers in the middle run several times, as one stack.

  One loss, at the end, and one gradient through all of it. Where layers of
  their own stand behind, only signals that look at states may ask.

  Args:
    c: a config.
    segments: how often they run.
    num_layers: in the middle.
    own: layers before and behind them, each, that run once.
  """
  c = refinement(c, segments, num_layers)
  c.model.readouts = (num_layers,)
  c.model.carry_backprop = segments
  c.model.refine.prelude = own
  c.model.refine.coda = own
  c.model.refine.inject = 'none'
  c.loss.weights = 'final'
  if own:
    c.exit.signals = ('state_change',)
  return c


def recurrent(
  c: Config, segments: int, num_layers: int, own: int = 0
) -> Config:
  """`repeated` as recurrent depth has it: with its input, and a norm.

  The state and the input are normed and meet by a projection that starts as
  the input alone; the first state is the input (2604.21106).
  """
  c = repeated(c, segments, num_layers, own)
  c.model.refine.inject = 'concat'
  c.model.refine.carry_init = 'input'
  c.model.refine.carry_norm = True
  c.model.refine.input_norm = True
  return c


def lanes(c: Config, segments: int, num_layers: int, own: int = 0) -> Config:
  """`recurrent` with two lanes between the runs in place of the projection."""
  c = recurrent(c, segments, num_layers, own)
  c.model.refine.inject = 'lanes'
  return c


def tah(c: Config, num_layers: int) -> Config:
  """`recurrent` whose second run is for hard tokens (TaH, 2511.08577).

  In training those are the ones whose next token the first run does not find;
  it answers the others. A gate learns beside the model, and without moving it,
  for which tokens the second run finds what the first does not, and decides at
  inference.
  """
  c = recurrent(c, segments=2, num_layers=num_layers)
  c.loss.exit_threshold = 1.0
  c.loss.exit_score = 'correct'
  c.loss.gates = ('dat',)
  c.loss.gate_oracle = 'correctness'
  c.loss.gate_gradient = False
  c.exit.signals = ('max_prob', 'dat')
  return c


def relaxed(
  c: Config, segments: int, num_layers: int, own: int = 0, rank: int = 16
) -> Config:
  """`recurrent` with products of a low rank in each run but the first.

  Relaxed recursion (2410.20672); the rank is that of Think-at-Hard
  (2511.08577), whose later passes alone have some.
  """
  c = recurrent(c, segments, num_layers, own)
  c.model.refine.per_run = 'lora'
  c.model.refine.rank = rank
  return c


def timed(c: Config, segments: int, num_layers: int, own: int = 0) -> Config:
  """`repeated` whose runs know their time and step (2602.11451)."""
  c = repeated(c, segments, num_layers, own)
  c.model.refine.per_run = 'film'
  return c


def loopformer(
  c: Config, segments: int, num_layers: int, own: int = 0
) -> Config:
  """`timed` that learns to make the way in fewer, longer runs (2602.11451).

  Weights of the shortcut and of its match as published, 0.1 each.
  """
  c = timed(c, segments, num_layers, own)
  c.model.refine.elastic = True
  c.loss.shortcut_weight = 0.1
  c.loss.shortcut_match = 0.1
  return c


def middle_repeat(c: Config) -> Config:
  """A copy of six layers that runs eight: 0 1 2 3 2 3 4 5 (parameter-golf)."""
  return repeated(c, segments=2, num_layers=2, own=2)


def hrm(c: Config, segments: int, num_layers: int) -> Config:
  """A copy that is HRM with halting by Q-learning.

  Its states are normed after each sum and start as one fixed vector each, as
  in the official code (2506.21734).
  """
  c = copy.deepcopy(c)
  c.model.body = 'hrm'
  c.model.segments = segments
  c.model.num_layers = num_layers
  c.model.readouts = ()
  c.model.block.norm = 'post'
  c.model.hrm.carry_init = 'fixed'
  c.loss.weights = 'segment_ends'
  c.loss.gates = ('q_halt',)
  return c


def trm(c: Config, segments: int, num_layers: int) -> Config:
  """A copy that is TRM without halting (2510.04871).

  One network updates both states, and gradients reach all of the last cycle.
  """
  c = hrm(c, segments, num_layers)
  c.model.hrm.shared = True
  c.model.hrm.cycle_steps = 3
  c.model.hrm.backprop = 4
  c.loss.gates = ()
  return c


def hrm_text(c: Config, num_layers: int) -> Config:
  """A copy that is HRM-Text (2605.20613).

  One segment, the input as first high state, pre-norm with a norm on states;
  gradients reach two updates at first, and five after a fifth of the steps.
  """
  c = hrm(c, segments=1, num_layers=num_layers)
  c.model.block.norm = 'pre'
  c.model.hrm.cycle_steps = 3
  c.model.hrm.backprop = 5
  c.model.hrm.carry_init = 'input'
  c.model.hrm.carry_norm = True
  c.train.backprop = 'growing'
  c.train.backprop_first = 2
  c.loss.weights = 'final'
  c.loss.gates = ()
  return c


def huginn(c: Config, segments: int, num_layers: int, own: int) -> Config:
  """A copy with a drawn number of runs from a random state (2502.05171).

  Gradients reach the last half of the runs that the model says.
  """
  c = recurrent(c, segments, num_layers, own)
  c.model.refine.carry_init = 'random'
  c.model.carry_backprop = max(1, segments // 2)
  c.train.runs = 'drawn'
  return c


def parcae(c: Config, segments: int, num_layers: int, own: int) -> Config:
  """`huginn` whose state decays, each row a number of runs (2604.12946)."""
  c = huginn(c, segments, num_layers, own)
  c.model.refine.inject = 'decay'
  c.model.refine.carry_norm = False
  c.train.runs = 'drawn_rows'
  return c


def ouro(c: Config, segments: int, num_layers: int) -> Config:
  """A copy whose runs a learned distribution weighs (2510.25741).

  Its first stage: the loss that the distribution expects, less its entropy.
  """
  c = recurrent(c, segments, num_layers)
  c.loss.weights = 'segment_ends'
  c.loss.gates = ('ouro',)
  c.loss.gate_weight = 1.0
  c.loss.gate_weighs = True
  c.exit.signals = ('max_prob', 'ouro')
  return c
