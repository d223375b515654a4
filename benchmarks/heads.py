"""Greedy decoding with a screened head, beside the whole one.

  python benchmarks/heads.py --whole=runs/imported --screened=runs/screened
      [--screened=...] [--text=FILE] [--quick] [--out=FILE]

Runs of one model, which take turns on the same prompts: pieces of a text (the
licence of this project where none is named), exits off. Figures are ratios of
medians, and the share of tokens that are the same up to the first that is not.
"""

import argparse
import functools
import json
import pathlib

from ease_jax import machine

machine.keep_mapped()  # before JAX

import numpy as np  # noqa: E402
from absl import logging  # noqa: E402
from timing import side_by_side  # noqa: E402

from ease_jax import decode, deploy  # noqa: E402
from ease_jax import workdir as folders  # noqa: E402

LICENSE = pathlib.Path(__file__).resolve().parent.parent / 'LICENSE'
CONTEXT = 256
PROMPT = 64
TOKENS = 64
PROMPTS = 8


def decoder_of(workdir):
  """Prompts and a number of tokens -> greedy continuations, exits off."""
  trained = deploy.load_model(folders.read_config(workdir), workdir)
  variables = {'params': trained.params}

  def decoded(prompts, num):
    options = decode.Options(max_new_tokens=num, context=CONTEXT)
    texts, _ = decode.generate(
      trained.model, variables, prompts, options=options
    )
    return np.asarray([text.tokens[PROMPT:] for text in texts])

  return decoded, trained.tokenizer


def same_share(found_NxT, wanted_NxT):
  """Tokens before the first one that differs, of all."""
  same_NxT = np.cumprod(found_NxT == wanted_NxT, axis=1)
  return float(same_NxT.mean())


def prompts_of(tokenizer, text, num):
  """So many pieces of a text, each begun as the tokenizer begins one."""
  tokens = tokenizer.encode(text)
  start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  length = PROMPT - len(start)
  return [[*start, *tokens[i * length : (i + 1) * length]] for i in range(num)]


def figures(whole, screened, text, num, rounds):
  """Figure -> number."""
  decoders = {}
  for workdir in (whole, *screened):
    decoders[str(workdir)], tokenizer = decoder_of(workdir)
  prompts = prompts_of(tokenizer, text, num)
  reference = str(whole)
  wanted_NxT = decoders[reference](prompts, TOKENS)

  contenders = {}
  for name, decoded in decoders.items():
    for more in (1, 1 + TOKENS):
      run = functools.partial(decoded, prompts[:1], more)
      contenders[f'{name}: {more}'] = run
  times = side_by_side(contenders, rounds)

  def seconds(name):
    long, _ = times[f'{name}: {1 + TOKENS}']
    short, _ = times[f'{name}: 1']
    return long - short

  found = {'seconds [median, quartiles apart]': times}
  found[f'{reference}: tokens/s'] = TOKENS / seconds(reference)
  for name in map(str, screened):
    faster = seconds(reference) / seconds(name)
    same = same_share(decoders[name](prompts, TOKENS), wanted_NxT)
    found[f'{name}: times as fast'] = faster
    found[f'{name}: tokens that are the same'] = same
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--whole', type=pathlib.Path, required=True)
  parser.add_argument('--screened', type=pathlib.Path, action='append')
  parser.add_argument('--text', type=pathlib.Path, default=LICENSE)
  parser.add_argument('--quick', action='store_true')
  parser.add_argument('--out', type=pathlib.Path)
  flags = parser.parse_args()

  logging.set_verbosity(logging.ERROR)
  text = flags.text.read_text(encoding='utf-8')
  num, rounds = (2, 3) if flags.quick else (PROMPTS, 9)
  found = figures(flags.whole, flags.screened or [], text, num, rounds)
  for name, value in found.items():
    print(f'{name}: {value}')
  if flags.out:
    flags.out.write_text(json.dumps(found, indent=2))


if __name__ == '__main__':
  main()
