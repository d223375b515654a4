"""Models that people have: what an import takes, and their clock.

  python benchmarks/imported.py [--from=DIR] [--quick] [--out=FILE]

The same weights here and in `transformers` (`pip install -e '.[reference]'`),
float32, on the same cores, in one process that lets them take turns: a forward
pass of 512 tokens with all logits, and greedy decoding behind a prompt of 128.
Without --from the model is one of random weights in the shape of SmolLM2-135M
(30 layers, width 576, 49,152 tokens). Figures are ratios of medians.
"""

import argparse
import functools
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from ease_jax import machine

machine.keep_mapped()  # before JAX

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from absl import logging  # noqa: E402
from timing import side_by_side  # noqa: E402

from ease_jax import decode, deploy  # noqa: E402
from ease_jax import workdir as folders  # noqa: E402

CONTEXT = 512
PROMPT = 128
TOKENS = 32
SHAPE = dict(
  vocab_size=49_152,
  hidden_size=576,
  intermediate_size=1536,
  num_hidden_layers=30,
  num_attention_heads=9,
  num_key_value_heads=3,
  tie_word_embeddings=True,
  bos_token_id=None,
  eos_token_id=0,
)


def random_model(folder):
  """A Llama of random weights, and a tokenizer of its bytes."""
  import tokenizers

  torch.manual_seed(0)
  cfg = transformers.LlamaConfig(**SHAPE)
  transformers.LlamaForCausalLM(cfg).save_pretrained(folder)

  alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
  tokens = ['<end>', *sorted(alphabet)]
  numbers = {token: number for number, token in enumerate(tokens)}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(numbers, []))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  tokenizer.add_special_tokens(['<end>'])
  tokenizer.save(str(folder / 'tokenizer.json'))
  return folder


def import_figures(source, workdir):
  """Seconds and memory of the command, in a process of its own."""
  command = [sys.executable, '-m', 'ease_jax.import_model']
  said = json.loads((pathlib.Path(source) / 'config.json').read_text())
  flags = [
    f'--from={source}',
    f'--workdir={workdir}',
    f'--context={CONTEXT}',
    f'--readout={said["num_hidden_layers"]}',
  ]
  start = time.perf_counter()
  subprocess.run([*command, *flags], check=True, capture_output=True)
  seconds = time.perf_counter() - start
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
  return seconds, peak


class Ours:
  """The imported run: all logits of a text, and greedy tokens."""

  def __init__(self, workdir):
    trained = deploy.load_model(folders.read_config(workdir), workdir)
    self.model = trained.model
    self.variables = {'params': trained.params}
    self._logits = jax.jit(self.model.apply)

  def logits(self, tokens_1xT):
    """Those of the last readout, [T, V]."""
    return self._logits(self.variables, tokens_1xT)[-1, 0]

  def decoded(self, prompt_1xT, num):
    options = decode.Options(max_new_tokens=num, context=CONTEXT)
    texts, _ = decode.generate(
      self.model, self.variables, prompt_1xT.tolist(), options=options
    )
    return texts[0].tokens[prompt_1xT.shape[1] :]


class Theirs:
  """The same in transformers."""

  def __init__(self, source):
    self.model = transformers.AutoModelForCausalLM.from_pretrained(
      source, dtype=torch.float32
    ).eval()

  def logits(self, tokens_1xT):
    with torch.inference_mode():
      return self.model(torch.from_numpy(tokens_1xT)).logits[0].numpy()

  def decoded(self, prompt_1xT, num):
    prompt = torch.from_numpy(prompt_1xT)
    with torch.inference_mode():
      out = self.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=num,
        min_new_tokens=num,
        pad_token_id=0,
      )
    return out[0, prompt.shape[1] :].tolist()


def figures(source, workdir, rounds):
  """Figure -> number."""
  seconds, peak = import_figures(source, workdir)
  ours = Ours(workdir)
  theirs = Theirs(source)
  numbers = sum(x.size for x in jax.tree.leaves(ours.variables))

  rng = np.random.default_rng(0)
  tokens_1xT = rng.integers(1, 200, (1, CONTEXT))
  prompt_1xT = tokens_1xT[:, :PROMPT]
  apart = np.abs(
    np.asarray(ours.logits(tokens_1xT)) - theirs.logits(tokens_1xT)
  )
  same = np.equal(
    ours.decoded(prompt_1xT, TOKENS), theirs.decoded(prompt_1xT, TOKENS)
  )

  contenders = {}
  for name, model in (('ours', ours), ('theirs', theirs)):
    contenders |= {
      f'{name}: forward': functools.partial(model.logits, tokens_1xT),
      f'{name}: one': functools.partial(model.decoded, prompt_1xT, 1),
      f'{name}: all': functools.partial(model.decoded, prompt_1xT, 1 + TOKENS),
    }
  times = side_by_side(contenders, rounds)
  median = {name: middle for name, (middle, _) in times.items()}
  decoding = {
    name: median[f'{name}: all'] - median[f'{name}: one']
    for name in ('ours', 'theirs')
  }
  forward = median['theirs: forward'] / median['ours: forward']
  return {
    'import: seconds': seconds,
    'import: most memory / parameters in float32': peak / (4 * numbers),
    'logits: largest difference': float(apart.max()),
    'greedy tokens: share that is the same': float(same.mean()),
    'forward: times as fast as transformers': forward,
    'decoding: times as fast as transformers': (
      decoding['theirs'] / decoding['ours']
    ),
    'decoding here: tokens/s': TOKENS / decoding['ours'],
    'seconds [median, quartiles apart]': times,
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--from', dest='source', type=pathlib.Path)
  parser.add_argument('--quick', action='store_true')
  parser.add_argument('--out', type=pathlib.Path)
  flags = parser.parse_args()

  logging.set_verbosity(logging.ERROR)
  with tempfile.TemporaryDirectory() as folder:
    scratch = pathlib.Path(folder)
    source = flags.source or random_model(scratch / 'random')
    found = figures(source, scratch / 'run', 3 if flags.quick else 9)
  for name, value in found.items():
    print(f'{name}: {value}')
  if flags.out:
    flags.out.write_text(json.dumps(found, indent=2))


if __name__ == '__main__':
  main()
