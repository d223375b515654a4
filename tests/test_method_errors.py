"""Fields of single methods that clash: gates, teachers, routers, policies."""

import pytest
from test_config_errors import HRM, REFINE, check_refused

MOD = {'model.router': 'mod'}
MOR = {'model.body': 'cycle', 'model.cycle.times': 2, 'model.router': 'mor'}
DISTILL = {'loss.target': 'distill', 'loss.weights': 'uniform'}
ERRORS = [
  (
    {'exit.signals': ('q_halt',)},
    'exit.signals names q_halt, which loss.gates=() with loss.gate_weight=0.5 '
    'does not learn; add it there and train, learn it on a finished run as '
    'configs/gates.py does, or use another signal',
  ),
  (
    HRM
    | {
      'exit.signals': ('q_halt',),
      'loss.gates': ('q_halt',),
      'loss.gate_weight': 0.0,
    },
    "exit.signals names q_halt, which loss.gates=('q_halt',) with "
    'loss.gate_weight=0.0 does not learn; add it there and train, learn it on '
    'a finished run as configs/gates.py does, or use another signal',
  ),
  (
    {'model.router': 'mod', 'generate.method': 'speculative'},
    'speculation checks drafts many at a time; the routers of this model keep '
    "tokens out of cells one by one; use generate.method='exits' or 'full'",
  ),
  (
    {'loss.gates': ('max_prob',)},
    'loss.gates names max_prob, which has nothing to learn; leave it out',
  ),
  (
    REFINE | {'loss.gates': ('q_halt',)},
    'loss.gates names q_halt, which learns at the end of a segment only; let '
    'model.readouts name the last layer alone',
  ),
  (
    {'loss.target': 'teacher'},
    "loss.target='teacher' is unknown; use one of: label, distill",
  ),
  (
    {'loss.target': 'distill'},
    'loss.target=distill has no effect: the last readout teaches, and no '
    'earlier one has a weight; give one of them a weight, or name a '
    'loss.teacher',
  ),
  (
    DISTILL
    | {
      'loss.gates': ('calm',),
      'train.init_from': 'x',
      'train.freeze': 'model',
    },
    'loss.target=distill has no effect with train.freeze=model: no readout '
    'learns; use loss.target=label',
  ),
  (
    DISTILL | {'loss.teacher_weight': 1.5},
    'loss.teacher_weight=1.5 must be at most 1',
  ),
  (
    DISTILL | {'loss.teacher_temperature': 0.0},
    'loss.teacher_temperature=0.0 must be at least 0.01',
  ),
  (
    DISTILL | {'loss.teacher_divergence': 'mse'},
    "loss.teacher_divergence='mse' is unknown; use one of: forward_kl, "
    'reverse_kl, jensen_shannon',
  ),
  (
    DISTILL | {'loss.teacher_top_k': 1},
    'loss.teacher_top_k=1 teaches nothing: on one token all distributions are '
    'the same; use 2 or more, or 0 for all tokens',
  ),
  (
    DISTILL | {'loss.teacher_top_k': 9, 'loss.teacher_weight': 1.0},
    'loss.teacher_top_k=9 with loss.teacher_weight=1 leaves it to nobody how '
    'likely all other tokens are; give the label a share, or use '
    'loss.teacher_top_k=0',
  ),
  (
    {'model.refine.inject': 'gate'},
    "model.refine.inject='gate' has no effect: it is read where model.body is "
    "refine only, and that is 'stack'; change that, or leave inject at 'add'",
  ),
  (
    {'model.router': 'moe'},
    "model.router='moe' is unknown; use one of: none, mod, mor",
  ),
  (MOD | {'model.mod.capacity': 0.0}, 'model.mod.capacity=0.0 must be above 0'),
  (
    MOD | {'model.mod.capacity': 1.5},
    'model.mod.capacity=1.5 must be at most 1',
  ),
  (
    MOD | {'model.mod.every': 5},
    'model.mod.every=5 is more than the 4 layers of the model, so that none '
    'has a router; lower it',
  ),
  (
    MOD | {'model.mod.predictor_dim': 8},
    'model.mod.predictor_dim=8 has no effect: it is read where '
    "model.mod.choice is predictor only, and that is 'auxiliary'; change that, "
    'or leave predictor_dim at 32',
  ),
  (
    {'model.mod.every': 3},
    'model.mod.every=3 has no effect: it is read where model.router is mod '
    "only, and that is 'none'; change that, or leave every at 2",
  ),
  (
    REFINE | MOD | {'model.mod.every': 1},
    'model.router=mod would let tokens pass layer 1, which combines x and z: '
    'their sum would go on as it is; route other layers, or use another '
    'model.body',
  ),
  (
    {'model.router': 'mor'},
    'model.router=mor needs layers that run again within a segment, in the '
    'same order; use model.body=cycle with model.cycle.times=2 or more',
  ),
  (
    REFINE | {'model.router': 'mor'},
    'model.router=mor needs layers that run again within a segment, in the '
    'same order; use model.body=cycle with model.cycle.times=2 or more',
  ),
  (
    MOR | {'model.mor.capacities': (0.5, 0.75)},
    'model.mor.capacities=(0.5, 0.75) grow from 0.5 to 0.75, but who has left '
    'a run does not come back; let them fall',
  ),
  (
    MOR | {'model.mor.capacities': (1.5, 0.5)},
    'model.mor.capacities=(1.5, 0.5) holds 1.5, which must be at most 1',
  ),
  (
    MOR | {'model.mor.capacities': (1.0, 0.0)},
    'model.mor.capacities=(1.0, 0.0) holds 0.0, which must be above 0',
  ),
  (
    MOR | {'model.mor.capacities': (1.0, 0.5, 0.25)},
    'model.mor.capacities=(1.0, 0.5, 0.25) are 3 for 2 runs of the same '
    'layers; give one for each, or () for equal steps',
  ),
  (
    REFINE | {'model.refine.inject': 'none', 'model.refine.carry_norm': True},
    'model.refine.carry_norm=True has no effect: it is read where '
    'model.refine.inject is add or concat or gate or decay or lanes only, and '
    "that is 'none'; change that, or leave carry_norm at False",
  ),
  (
    REFINE
    | {
      'model.refine.inject': 'lanes',
      'model.refine.carry_init': 'input',
      'train.runs': 'drawn_rows',
      'loss.weights': 'final',
    },
    'train.runs=drawn_rows lets rows begin late, and runs of this model have '
    'parameters of their own, by their number; use drawn',
  ),
  (
    REFINE | {'model.refine.coda': -1},
    'model.refine.coda=-1 must be at least 0',
  ),
  (
    {'train.runs': 'late'},
    'train.runs=late has no effect with model.segments=1: nothing runs again; '
    'use constant, or raise model.segments',
  ),
  (
    REFINE | {'train.runs': 'poisson'},
    "train.runs='poisson' is unknown; use one of: constant, late, curriculum, "
    'drawn, drawn_rows',
  ),
  (
    REFINE | {'train.runs': 'late', 'train.runs_share': 0.0},
    'train.runs_share=0.0 must be above 0',
  ),
  (
    REFINE | {'train.runs_share': 0.3},
    'train.runs_share=0.3 has no effect: it is read where train.runs is late '
    "or curriculum only, and that is 'constant'; change that, or leave "
    'runs_share at 0.4',
  ),
  (
    REFINE
    | {
      'train.runs': 'late',
      'train.updates': 'per_segment',
      'loss.weights': 'segment_ends',
    },
    'train.runs=late does not fit train.updates=per_segment, whose updates are '
    'counted by segments; use joint',
  ),
  (
    REFINE | {'train.runs': 'late', 'train.layer_dropout': 0.5},
    'train.runs=late does not fit train.layer_dropout=0.5: both change the '
    'layers that run; use one',
  ),
  (
    REFINE | {'train.runs': 'late', 'loss.gates': ('gain',)},
    'train.runs=late changes how many readouts there are, and loss.gates='
    "('gain',) know them by number; use constant, or no gates",
  ),
  (
    {'train.backprop': 'growing'},
    'train.backprop=growing does not fit model.body=stack, whose gradient goes '
    'through all that is run; use constant',
  ),
  (
    {
      'model.body': 'cycle',
      'model.num_layers': 5,
      'train.backprop': 'growing',
    },
    'train.backprop=growing does not fit model.body=cycle, whose gradient goes '
    'through all that is run; use constant',
  ),
  (
    HRM | {'train.backprop': 'growing', 'train.backprop_first': 3},
    'train.backprop_first=3 is more than model.hrm.backprop=2, which gradients '
    'reach in the end; lower it',
  ),
  (
    REFINE
    | {
      'model.carry_backprop': 2,
      'train.backprop': 'growing',
      'train.backprop_first': 3,
    },
    'train.backprop_first=3 is more than model.carry_backprop=2, which '
    'gradients reach in the end; lower it',
  ),
  (
    REFINE | {'train.backprop': 'growing', 'train.backprop_share': 0.0},
    'train.backprop_share=0.0 must be above 0',
  ),
  (
    REFINE | {'train.backprop': 'growing', 'train.backprop_share': 1.1},
    'train.backprop_share=1.1 must be at most 1',
  ),
  (
    HRM | {'train.backprop': 'growing', 'train.freeze': 'model'},
    'train.backprop=growing has no effect with train.freeze=model: no gradient '
    'reaches the layers; use constant',
  ),
  (
    {
      'loss.gates': ('ouro',),
      'loss.gate_weighs': True,
      'loss.gate_objective': 'improvement',
      'loss.weights': 'uniform',
    },
    'loss.gate_weighs=True does not fit loss.gate_objective=improvement, which '
    'is for a model that no longer learns; use expected_loss, or False',
  ),
  (
    {
      'loss.gates': ('ouro',),
      'loss.gate_weighs': True,
      'loss.weights': 'final',
    },
    'loss.gate_weighs=True spreads a loss over all readouts, whose '
    'loss.weights are (0.0, 0.0, 0.0, 1.0); use uniform, or segment_ends with '
    'one readout in a segment',
  ),
  (
    REFINE
    | {'train.runs': 'late', 'loss.weights': 'final', 'loss.target': 'distill'},
    'loss.target=distill has no effect: the last readout teaches, and no '
    'earlier one has a weight; give one of them a weight, or name a '
    'loss.teacher',
  ),
  (
    REFINE
    | {
      'train.runs': 'late',
      'loss.weights': 'uniform',
      'loss.exit_threshold': 0.9,
    },
    'train.runs=late needs a loss for any number of segments: loss.schedule='
    'constant, loss.token_fraction=1.0, loss.exit_threshold=0.0, loss.target='
    'label and a weight on the last readout; use these, or constant',
  ),
  (
    REFINE
    | {'train.runs': 'drawn', 'loss.weights': 'final', 'train.runs_most': 501},
    'train.runs_most=501 times model.segments=3 is more than 1000 runs; lower '
    'one of them',
  ),
  (
    REFINE
    | {
      'train.runs': 'drawn_rows',
      'loss.weights': 'final',
      'train.runs_most': 501,
    },
    'train.runs_most=501 times model.segments=3 is more than 1000 runs; lower '
    'one of them',
  ),
  (
    REFINE | {'train.runs': 'drawn_rows', 'model.readouts': (4,)},
    'train.runs=drawn_rows reads a row after its last run alone, and the '
    'weights are (1.0, 1.0, 1.0); use loss.weights=final',
  ),
  (
    REFINE
    | {
      'train.runs': 'drawn_rows',
      'loss.weights': 'final',
      'model.dropout': 0.1,
    },
    'train.runs=drawn_rows does not fit model.dropout=0.1 or a model.router, '
    'for which a program would be made for each number; use 0.0 and none',
  ),
  (
    REFINE | {'model.refine.inject': 'none', 'loss.weights': 'final'},
    'model.carry_backprop=1 of model.segments=3 leaves what is before the '
    'first run without a gradient, as no run sees the input again; use as '
    'many, or another model.refine.inject',
  ),
  (
    {'model.body': 'hrm', 'model.hrm.carry_init': 'input'},
    'model.hrm.backprop=2 ends behind the first cycle, where alone model.hrm.'
    'carry_init=input is read, so that embeddings would not learn; use 4 or '
    'more',
  ),
  (
    {'model.body': 'hrm', 'model.hrm.backprop': 7},
    'model.hrm.backprop=7 is more than the 6 updates that model.hrm.cycles and '
    'cycle_steps make; lower it',
  ),
  (
    {'model.body': 'cycle', 'model.cycle.times': 3},
    'model.num_layers=4 less model.cycle.own=1 before and after leave 2 cells, '
    'which are no multiple of model.cycle.times=3; change one of them',
  ),
  (
    {'model.body': 'cycle', 'model.segments': 2},
    'model.body=cycle runs layers again within one segment, and model.segments'
    '=2; use model.cycle.times, or model.body=refine',
  ),
  (
    MOD | {'generate.method': 'speculative', 'generate.draft': (0, 2, 0.0)},
    'speculation checks drafts many at a time; the routers of this model keep '
    "tokens out of cells one by one; use generate.method='exits' or 'full'",
  ),
  (
    {'evaluate.segments': 4},
    'evaluate.segments=4 does not fit model.segments=1, which has nothing to '
    'run again; use 0',
  ),
  (
    {'exit.policies': ('copy_state', 'latest')},
    'exit.policies names latest, which needs layers that run again: '
    'model.segments=1; raise it or use copy_state',
  ),
]


@pytest.mark.parametrize(
  'changes, message', ERRORS, ids=[' '.join(e[0]) for e in ERRORS]
)
def test_an_error_of_a_method_is_one_line(changes, message):
  check_refused(changes, message)
