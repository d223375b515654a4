"""What the decoder's clock says, beside transformers and the cost model.

  python benchmarks/decode.py [--quick] [--run=runs/quickstart] [--out=FILE]

Every figure is a ratio of medians of one run in which all contenders take
turns. Without `transformers` and `torch` their rows are left out; without
--run, a finished run of configs/quickstart.py, those of a trained model are.
`--quick`: the smaller shape and the trained model, in under five minutes.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / 'configs'))

from ease_jax import machine  # noqa: E402

machine.keep_mapped()  # before JAX

import importlib.util  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from timing import side_by_side  # noqa: E402

from ease_jax import config, decode, specs  # noqa: E402
from ease_jax import run as run_lib  # noqa: E402
from ease_jax.core.policies import OperatingPoint  # noqa: E402
from ease_jax.decode import cache as caches  # noqa: E402
from ease_jax.decode import loop  # noqa: E402
from ease_jax.decode import step as steps  # noqa: E402
from ease_jax.evaluate import clock  # noqa: E402

SHAPES = {  # layers, width, heads, vocabulary, cache
  'L=12 D=512 V=8192 C=512': (12, 512, 8, 8192, 512),
  'L=24 D=768 V=32000 C=1024': (24, 768, 12, 32000, 1024),
}
TOKENS = 32
INF = np.inf
RULE = OperatingPoint('max_prob', 'copy_state', INF).rule
NEVER = 1.5  # a threshold that no probability reaches


class Shape:
  """A model of random weights with readouts at each quarter."""

  def __init__(self, layers, dim, heads, vocab, cache, rows):
    c = config.base()
    c.model.num_layers = layers
    c.model.dim = dim
    c.model.block.attention.num_heads = heads
    c.model.block.attention.num_kv_heads = heads
    c.model.block.mlp.dim = 4 * dim
    c.model.readouts = tuple(layers * i // 4 for i in range(1, 5))
    self.model = specs.from_config(c, vocab).body
    self.cfg = self.model.cfg
    self.params = jax.jit(self.model.init)(
      jax.random.key(0), jnp.zeros((1, 4), jnp.int32)
    )['params']
    self.cache, self.rows = cache, rows
    self.prompts = np.random.default_rng(0).integers(
      0, vocab, (rows, cache - 2 * TOKENS)
    )

  def run(self, threshold_K, exits_on=True):
    """TOKENS more tokens of every row, on a cache that is nearly full."""
    options = decode.Options(max_new_tokens=TOKENS, context=self.cache + 1)
    cache, slot = loop.prefilled(
      self.model, self.params, self.prompts, None, options
    )
    full_B = functools.partial(np.full, self.rows, dtype=np.int32)
    start = loop.start(
      self.model,
      None,
      self.prompts[:, -1].astype(np.int32),
      full_B(self.prompts.shape[1] - 1),
      full_B(self.cache),
      0,
    )
    threshold_K = jnp.asarray(threshold_K, jnp.float32)

    def decode_them():
      nonlocal cache  # used up and given back; the same slots every time
      out, _, cache = steps.many_steps(
        self.params,
        cache,
        start,
        np.int32(slot),
        threshold_K,
        np.int32(-1),
        num=TOKENS,
        model=self.model,
        rule=RULE if exits_on else None,
        sampling=decode.Sampling(),
      )
      return jax.block_until_ready(out)

    return decode_them

  def read_everything(self):
    """One pass over all bytes that a token needs: the bandwidth limit."""
    cache = caches.init_cache(self.model, self.rows, self.cache)
    total = jax.jit(lambda *trees: sum(x.sum() for x in jax.tree.leaves(trees)))
    return lambda: [
      total(self.params, cache.key, cache.value) for _ in range(TOKENS)
    ]

  def forced(self, k):
    """Thresholds by which every token stops at readout k, all heads on."""
    return [NEVER] * k + [-INF] + [NEVER] * (2 - k) + [INF]

  def mixed(self):
    """Rows that stop at readouts 0, 0, 1, 1, 2, 2, 3, 3: [K, B, 1]."""
    stop_B = np.arange(self.rows) * 4 // self.rows
    k_Kx1 = np.arange(4)[:, None]
    value_KxB = np.where(k_Kx1 == stop_B[None], -INF, NEVER)
    return value_KxB[..., None], stop_B

  def cost_K(self):
    prices = self.model.costs(self.cache)
    return prices.exit_K(RULE) / prices.full


def transformers_runs(shape):
  """GPT-2 of the same shape: a prompt alone, and with TOKENS more."""
  if not importlib.util.find_spec('transformers'):
    return {}
  import torch
  import transformers

  cfg = shape.cfg
  torch.manual_seed(0)
  model = transformers.GPT2LMHeadModel(
    transformers.GPT2Config(
      vocab_size=cfg.vocab_size,
      n_positions=shape.cache,
      n_embd=cfg.dim,
      n_layer=cfg.num_layers,
      n_head=cfg.num_heads,
      bos_token_id=None,
      eos_token_id=None,
    )
  ).eval()
  tokens = torch.from_numpy(shape.prompts)

  def generate(num):
    with torch.inference_mode():
      return model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=num,
        min_new_tokens=num,
        pad_token_id=0,
      ).numpy()

  return {
    'transformers prompt': lambda: generate(1),
    'transformers': lambda: generate(1 + TOKENS),
  }


def shape_figures(name, sizes, rows, rounds):
  """Figure -> number for one shape and batch size."""
  shape = Shape(*sizes, rows)
  contenders = {
    'full': shape.run([INF] * 4, exits_on=False),
    'never': shape.run([NEVER] * 3 + [INF]),
    'bandwidth': shape.read_everything(),
  } | {f'exit {k + 1}/4': shape.run(shape.forced(k)) for k in range(3)}
  stop_B = None
  if rows > 1:
    thresholds, stop_B = shape.mixed()
    contenders['own exits'] = shape.run(thresholds)
  contenders |= transformers_runs(shape)
  times = side_by_side(contenders, rounds)
  median = {k: v[0] / TOKENS for k, v in times.items()}
  full, cost_K = median['full'], shape.cost_K()
  found = {
    'ms per token': {
      k: [1e3 * m / TOKENS, 1e3 * iqr / TOKENS] for k, (m, iqr) in times.items()
    },
    'full depth: share of the bandwidth limit': median['bandwidth'] / full,
    'exits on, never taken: time over exits off': median['never'] / full,
    '... of which heads, by the cost model': float(cost_K[-1]),
  }
  if 'transformers' in median:
    theirs = median['transformers'] - median['transformers prompt']
    found['full depth: times as fast as transformers'] = theirs / full
  for k in range(3):
    speedup = full / median[f'exit {k + 1}/4']
    found[f'exit at {k + 1}/4: speed-up'] = speedup
    found[f'exit at {k + 1}/4: speed-up / ideal'] = speedup * float(cost_K[k])
  if stop_B is not None:
    found['own exit for each row: time / (compute x full time)'] = (
      median['own exits'] / full / float(cost_K[stop_B].mean())
    )
  return {f'{name} batch {rows}': found}


def drafting_figures(name, tally, prices, num):
  """What a way to draft came to over `num` tokens, by counts."""
  cells = tally.layers_run * float(prices.cell_L.mean())
  called = cells + tally.heads_run * prices.head
  plain = num * prices.full
  return {
    f'{name}: share accepted': tally.accepted / tally.drafted,
    f'{name}: layers run / plain': tally.layers_run / (num * prices.grid.depth),
    f'{name}: cells and heads called / plain, priced': called / plain,
  }


def passage_prompts(workdir, tokenizer):
  """Bytes of a plain text, cut where the context leaves room."""
  passage = json.loads((workdir / 'passage.json').read_text())
  text = ''.join(token['text'] for token in passage['tokens'])
  return [tokenizer.encode(text[i : i + 32]) for i in range(0, 640, 40)]


def quickest_draft(model, variables, prompts, options):
  """Of the fixed ones, whether plain decoding is faster or not."""
  drafts = decode.candidates(model)
  _, seconds = clock.fastest_draft(
    model, variables, prompts, drafts, options=options
  )
  return min(drafts, key=lambda draft: seconds[draft])


def trained_figures(workdir, rounds):
  """The quickstart: its operating point and its drafts, on its own text."""
  import quickstart

  c, workdir = quickstart.get_config(), pathlib.Path(workdir)
  model, params, tokenizer = run_lib.load_model(c, workdir)
  point = run_lib.chosen_point(workdir)
  variables = {'params': params}
  prompts = passage_prompts(workdir, tokenizer)
  options = decode.Options(max_new_tokens=96, context=c.data.seq_len, chunk=96)
  # Drafts are chosen on half of the prompts and measured on the others.
  tried = prompts[::2]
  prompts = prompts[1::2]
  draft = quickest_draft(model, variables, tried, options)
  found = {}

  def generate(name, point, num=options.max_new_tokens):
    some = dataclasses.replace(options, max_new_tokens=num)

    def run():
      found[name] = [
        decode.generate(model, variables, [p], point, options=some)[0][0]
        for p in prompts
      ]

    return run

  def speculate(name, draft):
    def run():
      _, found[name] = decode.speculate(
        model, variables, prompts, draft, options=options
      )

    return run

  times = side_by_side(
    {
      'full': generate('full', None),
      'chosen': generate('chosen', point),
      'drafted': speculate('drafted', draft),
      'adaptive': speculate('adaptive', decode.Adaptive()),
      'full, one token': generate('full 1', None, 1),
      'chosen, one token': generate('chosen 1', point, 1),
    },
    rounds,
  )
  seconds = {name: middle for name, (middle, _) in times.items()}
  exits = np.stack([t.exits for t in found['chosen']])
  expected = 1 / decode.compute_decoder(model, point, exits)
  speedup = (seconds['full'] - seconds['full, one token']) / (
    seconds['chosen'] - seconds['chosen, one token']
  )
  figures = {
    'ms per token': {
      k: [1e3 * x / exits.size for x in both] for k, both in times.items()
    },
    'chosen point: speed-up': speedup,
    'chosen point: speed-up / expected': speedup / expected,
    'chosen point: speed-up, prompts included': (
      seconds['full'] / seconds['chosen']
    ),
    'self-speculation: drafts': (
      f'{draft.length} at most by readout {draft.readout + 1}, while its '
      f'probability is at least {draft.threshold:g}'
    ),
    'self-speculation, adaptive: rounds by readout and length': (
      str(found['adaptive'].chosen_CxN.tolist())
    ),
  }
  prices = model.costs(options.context)
  for way, name in (
    ('drafted', 'self-speculation'),
    ('adaptive', 'self-speculation, adaptive'),
  ):
    figures[f'{name}: speed-up'] = seconds['full'] / seconds[way]
    figures |= drafting_figures(name, found[way], prices, exits.size)
  return {'quickstart': figures}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true')
  parser.add_argument('--run')
  parser.add_argument('--out')
  parser.add_argument('--rounds', type=int, default=9)
  args = parser.parse_args()
  rounds = 5 if args.quick else args.rounds
  found = {'device': jax.devices()[0].device_kind}
  for name, sizes in list(SHAPES.items())[: 1 if args.quick else None]:
    for rows in (1, 8):
      found |= shape_figures(name, sizes, rows, rounds)
      show(found)
  if args.run:
    found |= trained_figures(args.run, rounds)
    show(found)
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(found, indent=2) + '\n')


def show(found):
  """Prints the newest part as a table."""
  name, figures = list(found.items())[-1]
  print(f'\n| {name} | |\n|---|---|')
  for key, value in figures.items():
    if isinstance(value, dict):
      for k, (middle, spread) in value.items():
        print(f'| {k}: ms per token | {middle:.3f} ± {spread:.3f} |')
    else:
      text = value if isinstance(value, str) else f'{value:.2f}'
      print(f'| {key} | {text} |', flush=True)


if __name__ == '__main__':
  main()
