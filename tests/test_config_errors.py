import math

import pytest

from ease_jax import config, specs


def valid():
  c = config.base()
  c.model.num_layers = 4
  return c


MOD = {'model.router': 'mod'}
REFINE = {
  'model.body': 'refine',
  'model.segments': 3,
  'loss.weights': 'segment_ends',
}
HRM = {'model.body': 'hrm', 'model.segments': 3}
DISTILL = {'loss.target': 'distill', 'loss.weights': 'uniform'}
ERRORS = [
  (
    {'data.source': 'web'},
    "data.source='web' is unknown; use one of: stdlib, text, tfds",
  ),
  (
    {'data.tokenizer': 'word'},
    "data.tokenizer='word' is unknown; use one of: byte, char, bpe",
  ),
  (
    {'data.select_fraction': 0.5},
    'data.select_fraction=0.5 must be below 0.5',
  ),
  ({'data.test_fraction': 0.0}, 'data.test_fraction=0.0 must be above 0'),
  ({'data.seq_len': 0}, 'data.seq_len=0 must be at least 1'),
  ({'train.steps': 0}, 'train.steps=0 must be at least 1'),
  ({'train.keep': -1}, 'train.keep=-1 must be at least 1'),
  ({'evaluate.batch_size': 0}, 'evaluate.batch_size=0 must be at least 1'),
  (
    {'generate.max_new_tokens': 0},
    'generate.max_new_tokens=0 must be at least 1',
  ),
  (
    {'train.accumulate': 3},
    'train.batch_size=8 is not divisible by train.accumulate=3; change one '
    'of them',
  ),
  (
    {'model.block.attention.num_heads': 3},
    'model.block.attention.num_heads=3 is not divisible by num_kv_heads=4; '
    'change one of them',
  ),
  (
    {
      'model.block.attention.num_heads': 3,
      'model.block.attention.num_kv_heads': 1,
    },
    'model.dim=128 is not divisible by model.block.attention.num_heads=3; '
    'change one of them',
  ),
  (
    {'model.block.attention.num_heads': 128},
    'model.dim=128 / model.block.attention.num_heads=128 is odd; rotary '
    'positions need an even head width',
  ),
  (
    {'model.block.attention.num_kv_heads': 3},
    'model.block.attention.num_heads=4 is not divisible by num_kv_heads=3; '
    'change one of them',
  ),
  (
    {'model.block.mlp.kind': 'relu'},
    "model.block.mlp.kind='relu' is unknown; use one of: gelu, swiglu",
  ),
  (
    {'model.block.mlp.dim': 0},
    'model.block.mlp.dim=0 must be at least 1',
  ),
  (
    {'model.block.norm': 'mid'},
    "model.block.norm='mid' is unknown; use one of: pre, post",
  ),
  (
    {'model.readout_norm': 'none'},
    "model.readout_norm='none' is unknown; use one of: shared, per_readout",
  ),
  (
    {'model.dtype': 'float16'},
    "model.dtype='float16' is unknown; use one of: float32, bfloat16",
  ),
  ({'model.dropout': 1.0}, 'model.dropout=1.0 must be below 1'),
  (
    {'model.readouts': (2, 5)},
    'model.readouts=(2, 5) must be increasing layers from 1 to '
    'model.num_layers=4',
  ),
  (
    {'model.readouts': (0, 4)},
    'model.readouts=(0, 4) must be increasing layers from 1 to '
    'model.num_layers=4',
  ),
  (
    {'model.readouts': (2, 2, 4)},
    'model.readouts=(2, 2, 4) must be increasing layers from 1 to '
    'model.num_layers=4',
  ),
  (
    {'model.readouts': (1, 3)},
    'model.readouts=(1, 3) must end with model.num_layers=4: the last layer '
    'always answers',
  ),
  ({'loss.exit_threshold': 1.5}, 'loss.exit_threshold=1.5 must be at most 1'),
  ({'loss.exit_rows': -0.1}, 'loss.exit_rows=-0.1 must be at least 0'),
  (
    {'exit.max_compute': -1.0},
    'exit.max_compute=-1.0 must be at least 0',
  ),
  (
    {'optimizer.name': 'sgd'},
    "optimizer.name='sgd' is unknown; use one of: adamw, muon",
  ),
  (
    {'loss.weights': 'best'},
    "loss.weights='best' is unknown; use one of: final, segment_ends, "
    'uniform, linear, layerskip, chosen, matrix',
  ),
  (
    {'loss.schedule': 'never'},
    "loss.schedule='never' is unknown; use one of: constant, linear_warmup, "
    'cosine_warmup, rotate, gradual, switch_off',
  ),
  (
    {'loss.normalize': 'max'},
    "loss.normalize='max' is unknown; use one of: none, sum_to_one",
  ),
  ({'loss.token_fraction': 0.0}, 'loss.token_fraction=0.0 must be above 0'),
  ({'loss.token_fraction': 1.5}, 'loss.token_fraction=1.5 must be at most 1'),
  ({'loss.weights': 'chosen'}, 'loss.weights=chosen needs loss.chosen'),
  (
    {'loss.weights': 'chosen', 'loss.chosen': ((5, 0.3), (4, 0.7))},
    'loss.chosen names layer 5, which is not in model.readouts=(1, 2, 3, '
    '4); add it there',
  ),
  (
    {
      'loss.weights': 'chosen',
      'loss.chosen': ((3, 1.0),),
      'model.readouts': (2, 4),
    },
    'loss.chosen names layer 3, which is not in model.readouts=(2, 4); add '
    'it there',
  ),
  (
    {'loss.weights': 'matrix', 'loss.matrix': ((0.5, 0.5),)},
    'loss.matrix has rows of [2] weights; it must have model.segments=1 rows '
    'of 4, a weight for each layer that a segment runs',
  ),
  (
    {'loss.weights': 'matrix', 'loss.matrix': ((1.0,) * 4, (1.0,) * 4)},
    'loss.matrix has rows of [4, 4] weights; it must have model.segments=1 '
    'rows of 4, a weight for each layer that a segment runs',
  ),
  (
    {
      'loss.weights': 'matrix',
      'loss.matrix': ((0.5, 0.0, 0.0, 1.0),),
      'model.readouts': (2, 4),
    },
    'loss.matrix weighs layer 1 with 0.5, which is not in '
    'model.readouts=(2, 4); add it there',
  ),
  (
    {'loss.schedule': 'gradual'},
    'loss.schedule=gradual needs loss.schedule_steps >= 1, got 0',
  ),
  ({'loss.rotate_every': 0}, 'loss.rotate_every=0 must be at least 1'),
  (
    {'exit.signals': ('max_prob', 'vibes')},
    "exit.signals=('max_prob', 'vibes') holds 'vibes', which is unknown; use "
    'one of: max_prob, margin, entropy, state_cosine, state_change, '
    'state_steadiness, kl, patience, calm, dat, gain, q_halt, ouro',
  ),
  (
    {'exit.thresholds.max_prob': (0.5, 1.5)},
    'exit.thresholds.max_prob contains 1.5, outside the range [0.0, 1.0] of '
    'signal max_prob',
  ),
  (
    {'exit.thresholds.max_prob': (math.nan,)},
    'exit.thresholds.max_prob=(nan,) holds nan, which must be a finite number',
  ),
  (
    {'exit.signals': ('kl',), 'exit.thresholds.kl': (0.1,)},
    'exit.thresholds.kl contains 0.1, outside the range [-inf, 0.0] of '
    'signal kl',
  ),
  (
    {'exit.signals': ('patience',), 'exit.thresholds.patience': (-1.0,)},
    'exit.thresholds.patience contains -1.0, outside the range [0.0, inf] '
    'of signal patience',
  ),
  ({'exit.policies': ()}, 'exit.policies=() names no K/V policy'),
  (
    {'exit.policies': ('copy',)},
    "exit.policies=('copy',) holds 'copy', which is unknown; use one of: "
    'recompute, copy_state, drop, latest',
  ),
  (
    {'exit.policy': 'drop'},
    "exit.policy='drop' is not in exit.policies=('recompute', "
    "'copy_state'); add it there",
  ),
  ({'exit.max_ppl_ratio': 0.9}, 'exit.max_ppl_ratio=0.9 must be at least 1'),
  (
    {'evaluate.select_split': 'dev'},
    "evaluate.select_split='dev' is unknown; use one of: train, select, test",
  ),
  (
    {'evaluate.select_split': 'test'},
    "evaluate.select_split='test' equals evaluate.report_split='test': "
    'thresholds may not be reported on the split they were chosen on; use '
    'two splits',
  ),
  (
    {'model.body': 'rnn'},
    "model.body='rnn' is unknown; use one of: stack, refine, hrm",
  ),
  (
    {'model.body': 'refine', 'model.segments': 0},
    'model.segments=0 must be at least 1',
  ),
  (
    {'model.segments': 2},
    'model.body=stack has no state to carry through model.segments=2; use '
    'model.body=refine, or model.segments=1',
  ),
  (
    REFINE | {'model.carry_backprop': 4},
    'model.carry_backprop=4 is more than model.segments=3; lower it',
  ),
  (
    REFINE | {'model.refine.carry_init': 'ones'},
    "model.refine.carry_init='ones' is unknown; use one of: zeros, fixed, "
    'random, learned',
  ),
  (
    REFINE | {'model.hrm.cycles': 3},
    'model.hrm.cycles=3 has no effect: it is read where model.body is hrm '
    "only, and that is 'refine'; change that, or leave cycles at 2",
  ),
  (
    REFINE | {'evaluate.segments': -1},
    'evaluate.segments=-1 must be at least 0',
  ),
  (
    REFINE | {'train.updates': 'per_segment', 'model.carry_backprop': 2},
    'train.updates=per_segment does not fit model.carry_backprop=2: an '
    'update per segment ends the gradient there; use '
    'model.carry_backprop=1 or train.updates=joint',
  ),
  (
    REFINE | {'train.updates': 'per_segment', 'train.accumulate': 2},
    'train.updates=per_segment does not fit train.accumulate=2; use 1',
  ),
  (
    REFINE | {'train.updates': 'per_segment', 'loss.weights': 'final'},
    'train.updates=per_segment leaves a segment without a loss: the weights '
    'are ((0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)); '
    'use loss.weights=segment_ends, or give each row of loss.matrix a weight',
  ),
  (
    HRM | {'model.hrm.carry_init': 'learned'},
    "model.hrm.carry_init='learned' is unknown; use one of: zeros, fixed, "
    'random',
  ),
  (
    HRM | {'model.readouts': (2, 4)},
    'model.readouts=(2, 4) does not fit model.body=hrm, which is read at the '
    'end of a segment only; use ()',
  ),
  (
    HRM | {'model.carry_backprop': 2},
    'model.carry_backprop=2 does not fit model.body=hrm, whose gradient is '
    'of one step; use 1',
  ),
  (
    HRM | {'model.hrm.cycle_steps': 0},
    'model.hrm.cycle_steps=0 must be at least 1',
  ),
  (
    HRM | {'loss.gate_weight': -1.0},
    'loss.gate_weight=-1.0 must be at least 0',
  ),
  (
    {'exit.signals': ('q_halt',)},
    'exit.signals names q_halt, which loss.gates=() with loss.gate_weight=0.5 '
    'does not learn; add it there, or use another signal',
  ),
  (
    HRM
    | {
      'exit.signals': ('q_halt',),
      'loss.gates': ('q_halt',),
      'loss.gate_weight': 0.0,
    },
    "exit.signals names q_halt, which loss.gates=('q_halt',) with "
    'loss.gate_weight=0.0 does not learn; add it there, or use another signal',
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
    "model.router='moe' is unknown; use one of: none, mod",
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
def test_an_error_is_one_line_that_names_the_field(changes, message):
  c = valid()
  c.update_from_flattened_dict(changes)
  with pytest.raises(config.ConfigError) as error:
    specs.from_config(c)
  assert str(error.value) == message
  assert '\n' not in message
