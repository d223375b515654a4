"""Training speed of three shapes, also beside another checkout.

  python benchmarks/train.py [--beside=CHECKOUT] [--rounds=N] [--steps=N]

Each measurement is a training run of its own process, `ease_jax.main` with
`--mode=train`, in its own checkout; checkouts take turns. Tokens per second are
those that the run itself writes down every so many updates, compilation and the
first of them left out. Shapes: the quickstart (a loss at four readouts, tokens
exit while training), the same with the final loss alone, and four layers run
twice (IRT).
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = ('quickstart', 'standard', 'irt')
WINDOW = 20  # updates between two measurements of a run


def tokens_per_second(checkout: pathlib.Path, name: str, steps: int) -> float:
  """Median over a run's windows but the first."""
  with tempfile.TemporaryDirectory() as folder:
    command = [
      sys.executable,
      '-m',
      'ease_jax.main',
      f'--config=configs/{name}.py',
      f'--workdir={folder}/run',
      '--mode=train',
      f'--config.train.steps={steps}',
      f'--config.train.log_every={WINDOW}',
      f'--config.train.eval_every={steps + 1}',
      f'--config.train.checkpoint_every={steps + 1}',
      '--config.evaluate.max_tokens=2048',
    ]
    environment = os.environ | {'PYTHONPATH': str(checkout)}
    subprocess.run(
      command, cwd=checkout, env=environment, check=True, capture_output=True
    )
    lines = pathlib.Path(folder, 'run', 'metrics.jsonl').read_text()

  events = [json.loads(line) for line in lines.splitlines()]
  rates = [e['tokens_per_s'] for e in events if e['split'] == 'train']
  return statistics.median(rates[1:])


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--beside', type=pathlib.Path, default=None)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--steps', type=int, default=100)
  options = parser.parse_args()

  checkouts = [HERE]
  if options.beside is not None:
    checkouts.append(options.beside.resolve())
  print(f'{"config":12} {"tokens/s":>9}  ratio to the other, round by round')

  for name in CONFIGS:
    rates = [[] for _ in checkouts]
    for _ in range(options.rounds):
      for checkout, rate in zip(checkouts, rates, strict=True):
        rate.append(tokens_per_second(checkout, name, options.steps))

    here = statistics.median(rates[0])
    ratios = [a / b for a, b in zip(*rates)] if len(rates) == 2 else []
    text = ', '.join(f'{ratio:.2f}' for ratio in ratios)
    print(f'{name:12} {here:9,.0f}  {text}', flush=True)


if __name__ == '__main__':
  main()
