"""Every field of every run, and its default.

A config file calls `base()`, changes fields and returns the result. The base
is locked, so that a mistyped field is an error and never a silent default.
Sections are those of the specs that read them; `with_section` adds your own.
"""

import copy
from typing import Any

import ml_collections

from ease_jax import smoke
from ease_jax.checks import ConfigError as ConfigError
from ease_jax.checks import need
from ease_jax.core.signals import SIGNALS

ConfigDict = ml_collections.ConfigDict
Config = Any  # a ConfigDict, whose fields a type checker cannot know


def base() -> Config:
  """The locked default config; every field a run may change."""
  c = ConfigDict()
  c.seed = 0  # drives initialisation, dropout and data order

  _add_data(c)
  _add_model(c)
  _add_loss(c)
  _add_training(c)
  _add_exits(c)
  _add_mesh(c)
  return c.lock()


def _add_data(c: Config) -> None:
  c.data = ConfigDict()
  c.data.task = 'language'  # what is learned, one of data.task.TASKS
  c.data.source = 'stdlib'  # or text, tfds, tokens
  # Text: files, folders, globs; tfds: name or folder; tokens: prepared folders.
  c.data.path = ()
  c.data.mixture_weights = ()  # tokens: shares of the windows of each folder
  c.data.select_path = ()  # text: own files for select; () = split documents
  c.data.test_path = ()  # text: own files for test; () = split documents
  c.data.select_fraction = 0.05  # share of the documents for select
  c.data.test_fraction = 0.05  # share of the documents for test
  c.data.train_chars = 0  # use only the first so many characters; 0 = all
  c.data.select_chars = 0  # the same for select
  c.data.test_chars = 0  # the same for test
  c.data.tokenizer = 'byte'  # or char, bpe, pretrained: of an imported model
  c.data.vocab_size = 8192  # bpe: from 257, all bytes and eos
  c.data.seq_len = 128  # T: tokens per training and evaluation window
  c.data.documents = 'joined'  # or apart: nobody looks beyond its own document


def _add_model(c: Config) -> None:
  c.model = ConfigDict()
  c.model.body = 'stack'  # one of model.BODIES
  c.model.segments = 1  # S: runs of the body's segment; stack has one
  c.model.num_layers = 8  # L: layers of a segment; hrm: of each module
  c.model.blocks = ()  # whose parameters each layer uses, from 0; () = own
  c.model.dim = 128  # D
  c.model.readouts = ()  # layers where a prediction may be read; () = all
  c.model.readout_norm = 'shared'  # or per_readout: an own norm for each
  c.model.readout_adapters = ()  # block, map, low_rank, mlp, head
  c.model.readout_dim = 64  # rank of low_rank, width of mlp
  c.model.lora_rank = 0  # of products beside matrices of layers; 0 = none
  c.model.screen_rank = 0  # of a factor that screens the logits; 0 = none does
  c.model.screen_candidates = 1000  # of whom logits are exact
  c.model.frequent_tokens = 0  # that a signal asks about; 0 = it may not
  c.model.embedding_scale = 1.0  # of embedded tokens
  c.model.positions = 0  # learned ones, added to embedded tokens; 0 = none
  c.model.logit_cap = 0.0  # soft limit of logits; 0 = none
  c.model.tie_embeddings = True  # unembedding = embedding transposed
  c.model.dropout = 0.0  # on embeddings and on both branches of a block
  c.model.dtype = 'float32'  # compute type; or bfloat16; parameters are fp32
  c.model.remat = False  # recompute activations in the backward pass
  c.model.carry_backprop = 1  # last segments that losses reach through; 1 = own
  c.model.router = 'none'  # of model.ROUTINGS; mod, mor: tokens pass layers

  _add_block(c)

  c.model.refine = ConfigDict()  # read where model.body is refine
  c.model.refine.prelude = 0  # layers of their own, once before all segments
  c.model.refine.coda = 0  # the same, behind the segment that answers
  c.model.refine.inject = 'add'  # or concat, gate, decay, lanes, none
  c.model.refine.carry_init = 'zeros'  # or fixed, random, learned, input
  c.model.refine.carry_norm = False  # RMSNorm on the state before that
  c.model.refine.input_norm = False  # RMSNorm on the input, too
  c.model.refine.lanes = 2  # inject=lanes: how many
  c.model.refine.per_run = 'none'  # or film, lora: own parameters of each run
  c.model.refine.rank = 16  # per_run=lora: of its products
  c.model.refine.elastic = False  # per_run=film: fewer runs make the whole way

  c.model.hrm = ConfigDict()  # read where model.body is hrm
  c.model.hrm.carry_init = 'zeros'  # or fixed, random, input: first states
  c.model.hrm.carry_norm = False  # RMSNorm on states when they are read
  c.model.hrm.cycles = 2  # N: updates of the high state per segment
  c.model.hrm.cycle_steps = 2  # T: updates of the low state in each of them
  c.model.hrm.shared = False  # one module updates both states
  c.model.hrm.backprop = 2  # updates at a segment's end that gradients reach

  c.model.cycle = ConfigDict()  # read where model.body is cycle
  c.model.cycle.times = 3  # N: runs of the layers in the middle
  c.model.cycle.own = 1  # layers before and after them, each, that run once

  c.model.mod = ConfigDict()  # read where model.router is mod
  c.model.mod.capacity = 0.125  # share of tokens that train a layer; 1 = all
  c.model.mod.every = 2  # every so many layers has a router
  c.model.mod.choice = 'auxiliary'  # or predictor, token: who runs at inference
  c.model.mod.gate = 'linear'  # or sigmoid: of the router's number
  c.model.mod.loss_weight = 0.01  # of what the router learns
  c.model.mod.predictor_dim = 32  # choice='predictor': its width

  c.model.mor = ConfigDict()  # read where model.router is mor
  c.model.mor.capacities = ()  # share of tokens that train each run; () = even
  c.model.mor.choice = 'expert'  # before each run; or token: once for all
  c.model.mor.loss_weight = 0.01  # of what the router learns


def _add_block(c: Config) -> None:
  c.model.block = ConfigDict()
  c.model.block.norm = 'pre'  # before each branch; or post, branch, sandwich
  c.model.block.parallel = False  # attention and MLP are given one state
  c.model.block.norm_kind = 'rms'  # or layer: centred, with a bias
  c.model.block.epsilon = 1e-6  # what norms add to a mean square
  c.model.block.attention = ConfigDict()
  c.model.block.attention.num_heads = 4  # H
  c.model.block.attention.num_kv_heads = 4  # G, divides num_heads (GQA)
  c.model.block.attention.head_dim = 0  # width of a head; 0 = dim / num_heads
  c.model.block.attention.rope_share = 1.0  # of a head that turns; 0 = none
  c.model.block.attention.rope_base = 10000.0  # wavelength of rotary positions
  c.model.block.attention.rope_factors = ()  # of each pair's, for long contexts
  c.model.block.attention.global_every = 0  # others are local; 0 = all global
  c.model.block.attention.local_rope_base = 10000.0  # of local layers
  c.model.block.attention.query_width = 0  # scores / its root; 0 = a head's
  c.model.block.attention.score_cap = 0.0  # soft limit of scores; 0 = none
  c.model.block.attention.window = 0  # tokens that (local) layers see; 0 = all
  c.model.block.attention.qkv_bias = False  # of queries, keys and values
  c.model.block.attention.out_bias = False  # of what heads make together
  c.model.block.attention.qk_norm = 'none'  # or head, all: norm what meets
  c.model.block.attention.kernel = 'tiles'  # or cudnn: on a GPU, untried by us
  c.model.block.mlp = ConfigDict()
  c.model.block.mlp.kind = 'gelu'  # or gelu_exact, swiglu, geglu
  c.model.block.mlp.dim = 512  # F
  c.model.block.mlp.bias = False  # of all its matrices


def _add_loss(c: Config) -> None:
  c.loss = ConfigDict()
  c.loss.weights = 'final'  # one of core.weights.WEIGHTS
  c.loss.chosen = ()  # weights='chosen': ((layer, weight), ...)
  c.loss.matrix = ()  # weights='matrix': W[S, L] as a tuple of rows
  c.loss.e_scale = 0.2  # weights='layerskip': scale of early layers
  c.loss.normalize = 'sum_to_one'  # or none: as they are
  c.loss.schedule = 'constant'  # of core.weights.SCHEDULES, but the last weight
  c.loss.schedule_steps = 0  # length of the schedule in updates
  c.loss.rotate_every = 1  # rotate: each readout is on every so many steps
  c.loss.token_fraction = 1.0  # share of tokens for intermediate readouts
  c.loss.exit_threshold = 0.0  # score at which training tokens exit; 0 = off
  c.loss.exit_score = (
    'max_prob'  # which; or correct: 1 where the label is found
  )
  c.loss.exit_rows = 0.5  # share of the rows in which they do
  c.loss.target = 'label'  # what readouts learn, one of train.targets.TARGETS
  c.loss.teacher = ''  # distill: folder of a run; '' = the own last readout
  c.loss.teacher_weight = 0.5  # its share of the loss, the rest is the label's
  c.loss.teacher_temperature = 1.0  # T of both distributions; scaled by T^2
  c.loss.teacher_divergence = 'forward_kl'  # or reverse_kl, jensen_shannon
  c.loss.teacher_top_k = 0  # compare its likeliest so many tokens; 0 = all
  c.loss.shortcut_weight = 0.0  # elastic: of fewer, longer runs; 0 = off
  c.loss.shortcut_match = 0.1  # weight of their distance from all runs
  c.loss.gates = ()  # to train: calm, dat, dat_multinomial, ouro, gain, q_halt
  c.loss.gate_weight = 0.5  # weight of their losses; 0 = off
  c.loss.gate_dim = 64  # width of a gate's hidden layer; 0 = a linear gate
  c.loss.gate_gradient = True  # their losses move the model too
  c.loss.gate_exploration = 0.1  # q_halt: chance that a token must go on long
  c.loss.gate_oracle = 'likelihood'  # dat: or correctness, agreement
  c.loss.gate_price = 0.1  # dat: lambda, what each further cell must bring
  c.loss.gate_smoothing = 0.0  # dat: sigma of the oracle's kernel; 0 = none
  c.loss.gate_objective = 'expected_loss'  # ouro: or improvement (2nd stage)
  c.loss.gate_weighs = False  # ouro: p weighs the losses of the readouts
  c.loss.gate_entropy = 0.05  # ouro: beta, weight of the entropy of p


def _add_training(c: Config) -> None:
  c.optimizer = ConfigDict()
  c.optimizer.name = 'adamw'  # or muon for the matrices inside layers
  c.optimizer.learning_rate = 1e-3  # peak
  c.optimizer.muon_learning_rate = 0.02  # muon: peak of matrices in layers
  c.optimizer.warmup_steps = 100  # linear warm-up
  c.optimizer.final_fraction = 0.1  # cosine decays to this share of the peak
  c.optimizer.b1 = 0.9  # decay of Adam's first moment
  c.optimizer.b2 = 0.95  # decay of its second moment
  c.optimizer.eps = 1e-8  # added to the root of the second moment
  c.optimizer.weight_decay = 0.1  # on matrices only
  c.optimizer.clip_norm = 1.0  # global gradient norm; 0 = off
  c.optimizer.layer_decay = 1.0  # layer l learns at rate layer_decay^(L - l)

  c.train = ConfigDict()
  c.train.steps = 1000  # batches, one update each; 0 = imported, not trained
  c.train.updates = 'joint'  # or per_segment: one update per batch and segment
  c.train.batch_size = 8  # B: windows per update, on all devices together
  c.train.accumulate = 1  # micro-batches per update; divides batch_size
  c.train.runs = 'constant'  # S; or late, curriculum, drawn, drawn_rows
  c.train.runs_share = 0.4  # late, curriculum: of the steps, until S are run
  c.train.runs_most = 4  # drawn, drawn_rows: at most so many times S
  c.train.backprop = 'constant'  # reach of gradients: the model's; or growing
  c.train.backprop_first = 1  # growing: at first, in runs; hrm: in updates
  c.train.backprop_share = 0.2  # growing: of the steps, until the model's
  c.train.layer_dropout = 0.0  # most rows that skip a layer, a share; 0 = off
  c.train.layer_dropout_shape = 'exponential'  # over layers; or uniform
  c.train.layer_dropout_schedule = 'constant'  # or rising, falling: over time
  c.train.log_every = 20  # steps between progress lines and metrics
  c.train.eval_every = 200  # steps between evaluations on select
  c.train.checkpoint_every = 200  # steps between checkpoints
  c.train.keep = 2  # newest checkpoints kept, besides the best one
  c.train.patience = 0  # evaluations without a better select loss; 0 = off
  c.train.tensorboard = False  # also write TensorBoard events
  c.train.profile = False  # trace steps 10 to 15 (docs/performance.md)
  c.train.init_from = ''  # directory of a run to start from; '' = random
  # Or model: only gates learn; exits: also what early readouts have; lora:
  # also products beside the matrices of layers; paths: all but some.
  c.train.freeze = 'nothing'
  c.train.freeze_paths = ()  # paths: what stays, such as 'layer_*'
  c.train.fit_tokens = 0  # on which maps of readouts are fitted; 0 = none are
  c.train.cached_batches = 0  # learned from again, states kept; 0 = new ones
  c.train.fit_ridge = 1e-3  # fit_tokens: what pulls maps to the identity


def _add_exits(c: Config) -> None:
  c.evaluate = ConfigDict()
  c.evaluate.batch_size = 16  # windows per batch, on all devices together
  c.evaluate.select_split = 'select'  # thresholds are chosen here
  c.evaluate.report_split = 'test'  # and reported here
  c.evaluate.max_tokens = 0  # scored per split, spread evenly; 0 = all
  c.evaluate.segments = 0  # perplexity after 1 to so many; 0 = twice model's
  c.evaluate.speed_tokens = 1024  # decoded on the clock at each point; 0 = off

  c.exit = ConfigDict()
  c.exit.signals = ('max_prob', 'margin', 'entropy')  # of core.signals.SIGNALS
  c.exit.policies = ('recompute', 'copy_state')  # of core.policies.POLICIES
  c.exit.thresholds = ConfigDict()  # swept, one scalar each; a field per signal
  for name, signal in SIGNALS.items():
    c.exit.thresholds[name] = signal.sweep
  c.exit.search_points = 6  # bisections of the per-readout search; 0 = off
  c.exit.policy = 'copy_state'  # K/V policy of the chosen operating point
  c.exit.max_ppl_ratio = 1.01  # rule: lowest compute within this select ppl
  c.exit.max_compute = 0.0  # or: lowest select ppl within this compute; 0 = off

  c.exit.guarantee = ConfigDict()  # or: lowest compute that a promise allows
  c.exit.guarantee.risk = 'none'  # what is limited: perplexity, disagreement
  c.exit.guarantee.epsilon = 0.01  # rise of perplexity, or share of tokens
  c.exit.guarantee.delta = 0.1  # chance that the promise fails
  c.exit.guarantee.method = 'betting'  # or hoeffding_bentkus, conformal
  c.exit.guarantee.signal = 'max_prob'  # of exit.signals, whose thresholds
  c.exit.guarantee.unit = 'document'  # drawn independently; or window
  c.exit.guarantee.cap = 0.1  # perplexity: a unit's higher rise counts as this

  c.generate = ConfigDict()
  c.generate.method = 'exits'  # or full: none; speculative: none, with drafts
  c.generate.drafting = 'fixed'  # or adaptive: chosen on the way
  c.generate.draft = ()  # readout, length, threshold; () = the fastest one
  c.generate.max_new_tokens = 200  # at most; a text may end earlier
  c.generate.temperature = 0.0  # 0 = greedy
  c.generate.seed = 0  # of what is drawn
  c.generate.top_k = 0  # draw from so many most likely tokens; 0 = all
  c.generate.top_p = 1.0  # draw from the fewest that hold this probability
  c.generate.prefill = 'exits'  # prompt tokens exit too; or full: they do not

  c.generate.adaptive = ConfigDict()  # of generate.drafting=adaptive
  c.generate.adaptive.lengths = (1, 2, 4, 8)  # most drafts, to choose from
  c.generate.adaptive.decay = 0.9  # what a round counts a round later
  c.generate.adaptive.look_every = 4  # rounds between looks at all readouts
  c.generate.adaptive.early_stop = True  # draft while one more is worth it


def _add_mesh(c: Config) -> None:
  c.mesh = ConfigDict()  # devices of the run along each axis (sharding.py)
  c.mesh.data = 1  # parts of each batch; -1 = what the others leave
  c.mesh.fsdp = 1  # parts of each batch and of the parameters
  c.mesh.tensor = 1  # parts of heads, MLPs and vocabulary


def with_section(c: Config, path: str, **fields: Any) -> Config:
  """A copy with one more section, for the fields of a method of one's own.

  Args:
    c: a config, such as `base()`.
    path: of the section, `model.NAME` for a body that is called NAME.
    **fields: its fields and their defaults.

  Raises:
    ConfigError: there is such a section already.
  """
  c = copy.deepcopy(c)
  *parents, name = path.split('.')
  section = c
  for parent in parents:
    section = section[parent]
  need(name not in section, f'the config has a section {path} already')

  with c.unlocked():
    section[name] = ConfigDict(fields)
  return c.lock()


def with_argument(c: Config, argument: str) -> Config:
  """A copy with the text after the colon of `--config=file.py:argument`.

  `smoke` shrinks any run to seconds on a small model and less of its text,
  keeping its method.

  Raises:
    ConfigError: it is anything else.
  """
  need(
    isinstance(c, ConfigDict),
    f'a config is expected, not a {type(c).__name__}; start from '
    'ease_jax.config.base()',
  )
  c = copy.deepcopy(c)
  if not argument:
    return c
  need(
    argument == 'smoke',
    f'--config argument {argument!r} is unknown; use :smoke or nothing',
  )
  smoke.shrink(c)
  return c
