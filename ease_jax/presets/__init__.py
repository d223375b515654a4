"""Settings that several configs share."""

import copy

from ease_jax import config
from ease_jax.config import Config
from ease_jax.presets.memo import (
  memo as memo,
)
from ease_jax.presets.memo import (
  memo_hrm as memo_hrm,
)
from ease_jax.presets.memo import (
  memo_irt as memo_irt,
)
from ease_jax.presets.memo import (
  memo_sweep as memo_sweep,
)
from ease_jax.presets.memo import (
  origin as origin,
)
from ease_jax.presets.memo import (
  wikitext2 as wikitext2,
)
from ease_jax.presets.recurrence import (
  hrm as hrm,
)
from ease_jax.presets.recurrence import (
  hrm_text as hrm_text,
)
from ease_jax.presets.recurrence import (
  huginn as huginn,
)
from ease_jax.presets.recurrence import (
  lanes as lanes,
)
from ease_jax.presets.recurrence import (
  loopformer as loopformer,
)
from ease_jax.presets.recurrence import (
  middle_repeat as middle_repeat,
)
from ease_jax.presets.recurrence import (
  ouro as ouro,
)
from ease_jax.presets.recurrence import (
  parcae as parcae,
)
from ease_jax.presets.recurrence import (
  recurrent as recurrent,
)
from ease_jax.presets.recurrence import (
  refinement as refinement,
)
from ease_jax.presets.recurrence import (
  relaxed as relaxed,
)
from ease_jax.presets.recurrence import (
  repeated as repeated,
)
from ease_jax.presets.recurrence import (
  tah as tah,
)
from ease_jax.presets.recurrence import (
  timed as timed,
)
from ease_jax.presets.recurrence import (
  trm as trm,
)


def small() -> Config:
  """Byte level on the standard library, minutes on two cores.

  8 layers of width 96 (0.8 M parameters), 1,200 updates of 16 windows of 128
  bytes (2.5 MB of text), Muon. `docs/lab_notes.md` tells how it was found.
  """
  c = config.base()
  c.model.num_layers = 8
  c.model.dim = 96
  c.model.block.mlp.dim = 384
  c.model.block.attention.num_heads = 2
  c.model.block.attention.num_kv_heads = 1
  c.model.readouts = (2, 3, 5, 8)

  c.optimizer.name = 'muon'
  c.optimizer.learning_rate = 0.05
  c.optimizer.muon_learning_rate = 0.03
  c.optimizer.warmup_steps = 50
  c.optimizer.final_fraction = 0.05
  c.optimizer.weight_decay = 0.01

  c.train.steps = 1200
  c.train.batch_size = 16
  c.train.eval_every = 400
  c.train.checkpoint_every = 400
  c.evaluate.max_tokens = 32_768

  # Entropy found nearly the same points and doubled the time of the sweep.
  c.exit.signals = ('max_prob',)
  c.exit.search_points = 4
  c.exit.thresholds.max_prob = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
  return c


def exits() -> Config:
  """`small`, trained to be read after layers 2, 3, 5 and 8, and on exits."""
  c = small()
  c.loss.weights = 'chosen'
  c.loss.chosen = ((2, 0.15), (3, 0.3), (5, 0.15), (8, 0.4))
  c.loss.exit_threshold = 0.8
  return c


def quickstart() -> Config:
  """`exits` with a gate at each readout that learns what going on would bring.

  40 updates fewer pay for the training of the gates.
  """
  c = exits()
  c.loss.gates = ('gain',)
  c.exit.signals = ('max_prob', 'gain')

  c.train.steps = 1160
  c.train.eval_every = 290
  c.train.checkpoint_every = 290
  return c


def mod() -> Config:
  """`exits` with Mixture-of-Depths on every other layer (2404.02258)."""
  c = exits()
  c.model.router = 'mod'
  return c


def mor() -> Config:
  """`exits` with Mixture-of-Recursions (2507.10524).

  Of eight layers the middle six are two, three times: readouts stand within
  the first run, behind the first two, and at the end.
  """
  c = exits()
  c.model.body = 'cycle'
  c.model.router = 'mor'
  return c


def layerskip() -> Config:
  """`small` as LayerSkip trains from scratch, and drafts (2404.16710).

  Rows skip layers, more of them deeper and later on; one early readout after
  the other has a loss beside the last.
  """
  c = small()
  c.model.readouts = ()  # all layers
  c.train.layer_dropout = 0.2
  c.train.layer_dropout_schedule = 'rising'
  c.loss.weights = 'layerskip'
  c.loss.schedule = 'rotate'
  c.loss.rotate_every = 7
  return c


def standard(layers: int) -> Config:
  """`small` with so many layers and the final loss alone, read at its end."""
  c = small()
  c.model.num_layers = layers
  c.model.readouts = (layers,)
  c.loss.weights = 'final'
  return c


def brief(c: Config) -> Config:
  """A copy of a `small` one for studies: narrower, and trained for minutes.

  Width 64, 360 updates, 16,384 tokens to evaluate on, one K/V policy.
  """
  c = copy.deepcopy(c)
  c.model.dim = 64
  c.model.block.mlp.dim = 256
  c.train.steps = 360
  c.train.eval_every = 120
  c.train.checkpoint_every = 120
  c.evaluate.max_tokens = 16_384
  c.exit.policies = ('copy_state',)
  return c


def _beside(c: Config, source: str, freeze: str) -> Config:
  """A copy that learns for 600 updates what stands beside a finished run."""
  c = copy.deepcopy(c)
  c.train.init_from = source
  c.train.freeze = freeze
  c.train.steps = 600
  c.train.eval_every = 300
  c.train.checkpoint_every = 300
  c.optimizer.name = 'adamw'
  c.optimizer.learning_rate = 3e-3
  c.optimizer.muon_learning_rate = config.base().optimizer.muon_learning_rate
  c.optimizer.weight_decay = 0.0
  return c


def gates(c: Config, source: str) -> Config:
  """A copy that learns gates on a finished run of `c`, which is kept.

  Args:
    c: config of the run.
    source: its directory.
  """
  c = _beside(c, source, 'model')
  c.loss.gates = ('calm', 'dat', 'gain', 'ouro')
  c.exit.signals = ('max_prob', 'state_change', *c.loss.gates)
  c.exit.policies = ('copy_state',)
  return c


def late_exits(
  c: Config, source: str, adapters: tuple[str, ...] = ('map', 'mlp')
) -> Config:
  """A copy that makes exits for a finished run of `c`, which is kept.

  Before their norm, readouts get a map that is fitted in closed form, and an
  MLP (EE-Tuning, 2402.00518), or other adapters, such as a whole block
  (Balcony, 2503.05005). All learn what the last readout says.

  Args:
    c: config of the run.
    source: its directory.
    adapters: of readouts before the last; maps among them are fitted first.
  """
  c = _beside(c, source, 'exits')
  c.model.readout_norm = 'per_readout'
  c.model.readout_adapters = adapters
  c.loss.weights = 'uniform'
  c.loss.target = 'distill'
  c.loss.teacher_weight = 1.0
  c.train.fit_tokens = 65_536 if 'map' in adapters else 0
  return c


def lora(c: Config, source: str, rank: int = 16) -> Config:
  """A copy that teaches a finished run of `c` to exit, at little cost.

  Products of a low rank beside all matrices of its layers learn (LoRA,
  2106.09685), from the losses of all readouts as in LayerSkip's continued
  training (2404.16710). The matrices themselves stay as they are.

  Args:
    c: config of the run.
    source: its directory.
    rank: of the products.
  """
  c = _beside(c, source, 'lora')
  c.model.lora_rank = rank
  c.model.readout_norm = 'per_readout'
  c.loss.weights = 'uniform'
  return c


def larger() -> Config:
  """Twelve layers of width 128 on pieces of words.

  2.7 M parameters, a vocabulary of 4,096: the head is a sixth of what a token
  costs. 1,600 updates of 8 windows of 256 tokens, the final loss alone; layers
  3, 6, 9 and 12 can be read.
  """
  c = small()
  c.data.tokenizer = 'bpe'
  c.data.vocab_size = 4096
  c.data.seq_len = 256
  c.model.num_layers = 12
  c.model.dim = 128
  c.model.block.mlp.dim = 512
  c.model.readouts = (3, 6, 9, 12)

  c.optimizer.learning_rate = 0.03
  c.optimizer.muon_learning_rate = 0.02
  c.train.steps = 1600
  c.train.batch_size = 8
  c.train.eval_every = 400
  c.train.checkpoint_every = 200
  c.evaluate.batch_size = 8
  c.exit.policies = ('copy_state',)
  return c


def every_layer(c: Config) -> Config:
  """A copy with a readout behind every layer, all losses alike."""
  c = c.copy_and_resolve_references()
  c.model.readouts = ()
  c.loss.weights = 'uniform'
  return c
