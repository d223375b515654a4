import math

import pytest

from ease_jax import config, specs


def valid():
  c = config.base()
  c.model.num_layers = 4
  return c


REFINE = {
  'model.body': 'refine',
  'model.segments': 3,
  'loss.weights': 'segment_ends',
}
HRM = {'model.body': 'hrm', 'model.segments': 3}
ERRORS = [
  (
    {'data.source': 'web'},
    "data.source='web' is unknown; use one of: stdlib, text, tfds, tokens",
  ),
  (
    {'data.tokenizer': 'word'},
    "data.tokenizer='word' is unknown; use one of: byte, char, bpe, pretrained",
  ),
  (
    {'data.select_fraction': 0.5},
    'data.select_fraction=0.5 must be below 0.5',
  ),
  ({'data.test_fraction': 0.0}, 'data.test_fraction=0.0 must be above 0'),
  ({'data.seq_len': 0}, 'data.seq_len=0 must be at least 1'),
  (
    {'train.steps': 0},
    'train.steps=0 trains nothing, as an imported model has it; raise it',
  ),
  ({'train.steps': -1}, 'train.steps=-1 must be at least 0'),
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
    'change one of them, or give heads a width: '
    'model.block.attention.head_dim',
  ),
  (
    {'model.block.attention.head_dim': 33},
    'heads are 33 wide (model.dim=128, model.block.attention.num_heads=4, '
    'head_dim=33), and rotary positions need an even width; change one of them',
  ),
  (
    {'model.block.attention.rope_share': 0.1},
    'model.block.attention.rope_share=0.1 of a head of 32 are 3 numbers, and '
    'rotary positions need an even width; change it, or use 0 for none',
  ),
  (
    {
      'model.block.attention.rope_share': 0.0,
      'model.block.attention.rope_base': 50.0,
    },
    'model.block.attention.rope_base=50.0 has no effect: it is read where '
    'model.block.attention.rope_share is on only, and that is 0.0; change '
    'that, or leave rope_base at 10000.0',
  ),
  (
    {'model.positions': 100},
    'data.seq_len=128 is more than model.positions=100, of which each token '
    'has one; lower it, or raise that',
  ),
  (
    {'model.block.attention.rope_factors': (2.0,)},
    'model.block.attention.rope_factors has 1 numbers, and a head of 32 has 16 '
    'pairs; give one for each, or ()',
  ),
  (
    {'model.block.attention.local_rope_base': 50.0},
    'model.block.attention.local_rope_base=50.0 has no effect: it is read '
    'where model.block.attention.global_every is on only, and that is 0; '
    'change that, or leave local_rope_base at 10000.0',
  ),
  (
    REFINE | {'model.block.attention.global_every': 2},
    'model.block.attention.global_every=2 counts layers, which in '
    'model.body=refine with model.blocks=() are not in order of their blocks; '
    'use 0, or model.body=stack',
  ),
  (
    {'model.block.attention.num_heads': 128},
    'heads are 1 wide (model.dim=128, model.block.attention.num_heads=128, '
    'head_dim=0), and rotary positions need an even width; change one of them',
  ),
  (
    {'model.block.attention.num_kv_heads': 3},
    'model.block.attention.num_heads=4 is not divisible by num_kv_heads=3; '
    'change one of them',
  ),
  (
    {'model.block.mlp.kind': 'relu'},
    "model.block.mlp.kind='relu' is unknown; use one of: gelu, gelu_exact, "
    'swiglu, geglu',
  ),
  (
    {'model.block.mlp.dim': 0},
    'model.block.mlp.dim=0 must be at least 1',
  ),
  (
    {'model.block.norm': 'post', 'model.block.parallel': True},
    'model.block.parallel=True makes one sum of both branches, and '
    'model.block.norm=post norms that of each; use False, or another norm',
  ),
  (
    {'model.block.norm': 'mid'},
    "model.block.norm='mid' is unknown; use one of: pre, post, "
    'branch, sandwich',
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
    'state_steadiness, kl, patience, calm, dat, dat_multinomial, frequent, '
    'gain, q_halt, ouro, shortlist',
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
    "model.body='rnn' is unknown; use one of: stack, refine, hrm, cycle",
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
    'random, learned, input',
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
    'random, input',
  ),
  (
    HRM | {'model.readouts': (2, 4)},
    'model.readouts=(2, 4) does not fit model.body=hrm, which is read at the '
    'end of a segment only; use ()',
  ),
  (
    HRM | {'model.carry_backprop': 2},
    'model.carry_backprop=2 does not fit model.body=hrm, whose gradient ends '
    'in its segment; use 1, and model.hrm.backprop',
  ),
  (
    HRM | {'model.hrm.cycle_steps': 0},
    'model.hrm.cycle_steps=0 must be at least 1',
  ),
  (
    HRM | {'loss.gate_weight': -1.0},
    'loss.gate_weight=-1.0 must be at least 0',
  ),
]


def check_refused(changes, message):
  """A config with these changes is refused in this line."""
  c = valid()
  c.update_from_flattened_dict(changes)
  with pytest.raises(config.ConfigError) as error:
    specs.from_config(c)
  assert str(error.value) == message
  assert '\n' not in message


@pytest.mark.parametrize(
  'changes, message', ERRORS, ids=[' '.join(e[0]) for e in ERRORS]
)
def test_an_error_is_one_line_that_names_the_field(changes, message):
  check_refused(changes, message)
