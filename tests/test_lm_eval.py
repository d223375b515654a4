"""A run as a model of lm-evaluation-harness, on local tasks."""

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile

import downloads
import local_tasks
import numpy as np
import pytest

from ease_jax import deploy, importing
from ease_jax import workdir as folders
from ease_jax.checks import ConfigError
from ease_jax.core.policies import OperatingPoint
from ease_jax.data import pipeline
from ease_jax.decode import Options
from ease_jax.evaluate import likelihoods, passes, traces
from ease_jax.evaluate.likelihoods import Request, Scorer

INSTALLED = importlib.util.find_spec('lm_eval') is not None
needs_harness = pytest.mark.skipif(
  not INSTALLED, reason="lm-eval is not installed: pip install -e '.[eval]'"
)
# The harness's libraries warn of each other.
pytestmark = pytest.mark.filterwarnings('default')

if INSTALLED:
  CACHE = tempfile.TemporaryDirectory(prefix='ease_jax_tests_')
  os.environ['HF_HOME'] = CACHE.name
  os.environ['HF_HUB_OFFLINE'] = '1'
  from lm_eval.api.instance import Instance

  from ease_jax import harness

LENGTH = 32  # of the windows of `exiting_run`
TEXT = 'the cat sat on the mat. the mat sat on the cat. ' * 4
ALWAYS = OperatingPoint('max_prob', 'copy_state', 0.0)
NEVER = dataclasses.replace(ALWAYS, threshold=np.inf)
OPTIONS = Options(max_new_tokens=1, context=LENGTH, eos_id=0)


@pytest.fixture(scope='module')
def trained(exiting_run):
  return deploy.load_model(*exiting_run)


@pytest.fixture(scope='module')
def models(trained):
  """The run with exits off, never exiting, always exiting."""
  points = None, NEVER, ALWAYS
  scorer = Scorer(trained.model, trained.params, points, LENGTH)
  return [
    harness.RunLM(trained, scorer, which, OPTIONS)
    for which in range(len(points))
  ]


def instances(kind, *arguments):
  return [
    Instance(kind, {}, args, i, ('task', i, 1))
    for i, args in enumerate(arguments)
  ]


def expected(trained, context, continuation):
  """The last readout's answer to texts; the context may be tokens."""
  encode = trained.tokenizer.encode
  tokens = encode(context).tolist() if isinstance(context, str) else context
  rest = encode(continuation).tolist()
  one = Request((*tokens, *rest), len(tokens))
  scorer = Scorer(trained.model, trained.params, [None], LENGTH)
  ((found,),) = scorer.answer([one])
  return found.value, found.is_greedy


@needs_harness
def test_what_belongs_to_the_continuation(models, trained):
  pairs = [
    ('the cat  ', 'sat'),  # spaces of the context's end
    ('', 'sat'),  # nothing before it
    ('  ', 'sat'),  # nothing but spaces
    ('the cat', ' sat'),
  ]
  found = models[0].loglikelihood(instances('loglikelihood', *pairs))
  wanted = [
    expected(trained, 'the cat', '  sat'),
    expected(trained, [0], 'sat'),
    expected(trained, [0], '  sat'),
    expected(trained, 'the cat', ' sat'),
  ]
  for (value, greedy), (other, same) in zip(found, wanted, strict=True):
    assert value == pytest.approx(other, rel=1e-4)
    assert greedy == same


@needs_harness
def test_the_exits_reach_all_three_methods(models):
  """R35: threshold 0 changes what comes out, infinity is full depth."""
  pairs = [('the cat ', 'sat on'), ('on the ', 'mat')]
  texts = [(TEXT,), ('the cat',)]
  written = [('the cat ', {'until': [], 'max_gen_toks': 9})]
  asked = {
    'loglikelihood': pairs,
    'loglikelihood_rolling': texts,
    'generate_until': written,
  }
  for model in models:
    model.bills.clear()
  for kind, arguments in asked.items():
    full, never, always = (
      getattr(model, kind)(instances(kind, *arguments)) for model in models
    )
    assert never == full
    assert always != full

  for model, highest in zip(models, (1, 1, 0.9), strict=True):
    bills = model.bills['task']
    assert set(bills) == {'compute', 'compute_decoder'}
    for bill in bills.values():
      assert bill.share == 1 if highest == 1 else bill.share < highest
    # Two contexts and continuations but their last tokens, and all texts.
    read = sum(len(a) + len(b) - 1 for a, b in pairs)
    # The last window is a whole one that looks back.
    windows = -(-len(TEXT) // LENGTH) * LENGTH + len('the cat')
    assert bills['compute'].tokens == read + windows
    assert bills['compute_decoder'].tokens == 9


@needs_harness
@pytest.mark.parametrize('num', [4 * LENGTH, LENGTH, 7])
def test_a_text_is_as_likely_as_the_evaluation_says(models, trained, num):
  text = TEXT[:num]
  tokens = np.concatenate([[0], trained.tokenizer.encode(text)])

  def batches():
    return pipeline.eval_batches(tokens, LENGTH, 8)

  dump = passes.grid_dump(
    trained.model, trained.params, batches, (ALWAYS.signal,)
  )
  for model in models:
    trace = traces.trace(
      trained.model, trained.params, batches, dump, model.point
    )
    total = trace.nll_RxT[dump.mask_RxT > 0].sum()
    (found,) = model.loglikelihood_rolling(
      instances('loglikelihood_rolling', (text,))
    )
    assert -found == pytest.approx(total, rel=1e-4)


@needs_harness
def test_the_last_window_of_a_text_looks_back(models, trained):
  """One token more than a window has is scored behind all it can see."""
  text = TEXT[: LENGTH + 1]
  first, _ = expected(trained, [0], text[:LENGTH])
  last, _ = expected(trained, text[:LENGTH], text[LENGTH])
  (found,) = models[0].loglikelihood_rolling(
    instances('loglikelihood_rolling', (text,))
  )
  assert found == pytest.approx(first + last, rel=1e-4)
  (nothing,) = models[0].loglikelihood_rolling(
    instances('loglikelihood_rolling', ('',))
  )
  assert nothing == 0


@needs_harness
def test_a_long_context_is_cut_at_its_beginning(models, trained):
  """Both at the longest that fits, and one more."""
  encode = trained.tokenizer.encode
  model = models[0]
  for more in (0, 1):
    context = TEXT[: LENGTH - 2 + more]
    (found,) = model.loglikelihood(instances('loglikelihood', (context, 'sat')))
    assert found[0] == pytest.approx(
      expected(trained, context[more:], 'sat')[0], rel=1e-4
    )

  kwargs = {'until': ['\n'], 'max_gen_toks': 9}
  whole = TEXT[1:24]
  for prompt in (whole, TEXT[:24]):
    (text,) = model.generate_until(
      instances('generate_until', (prompt, kwargs))
    )
    (other,) = model.generate_until(
      instances('generate_until', (whole, kwargs))
    )
    assert text == other and len(encode(text)) == 9


@needs_harness
def test_answers_are_in_the_order_of_the_requests(models):
  kwargs = [
    {'until': until, 'max_gen_toks': most}
    for until, most in [(['a'], 9), ([], 3), ([' t', 'x'], 9)]
  ]
  prompts = ['the mat sat on', 'on', 'the cat ', 'mat. ']
  asked = [(prompt, said) for prompt in prompts for said in kwargs]
  (model, *_) = models
  together = model.generate_until(instances('generate_until', *asked))
  for one, text in zip(asked, together, strict=True):
    (alone,) = model.generate_until(instances('generate_until', one))
    assert alone == text
    assert not any(word in text for word in one[1]['until'])


@needs_harness
@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'num_beams': 4}, 'generation_kwargs.num_beams of a task is not known'),
    ({'max_gen_toks': 32}, 'max_gen_toks=32 of a task leaves no token for a'),
    ({'max_gen_toks': 0}, 'max_gen_toks=0 of a task leaves no token'),
  ],
)
def test_what_no_decoder_here_does(models, kwargs, message):
  with pytest.raises(ConfigError, match=message):
    models[0].generate_until(
      instances('generate_until', ('the', {'until': []} | kwargs))
    )


@needs_harness
def test_an_empty_continuation_is_refused(models):
  with pytest.raises(ConfigError, match='asks for a continuation of ""'):
    models[0].loglikelihood(instances('loglikelihood', ('the', '')))


@needs_harness
@pytest.mark.skipif(
  not all(
    map(importlib.util.find_spec, ('torch', 'transformers', 'accelerate'))
  ),
  reason="accelerate or what '.[reference]' brings is not installed",
)
def test_the_harness_finds_the_same_through_transformers(tmp_path):
  """Its own adapter, on the model that was imported here."""
  import torch
  import transformers
  from lm_eval.models.huggingface import HFLM

  length = 48
  origin = downloads.write(tmp_path / 'origin', 'llama')
  run = tmp_path / 'run'
  importing.import_model(str(origin), str(run), length, ())
  trained = deploy.load_model(folders.read_config(run), run)
  scorer = Scorer(trained.model, trained.params, [None], length)
  options = dataclasses.replace(OPTIONS, context=length)
  ours = harness.RunLM(trained, scorer, 0, options)

  model = transformers.AutoModelForCausalLM.from_pretrained(
    origin, dtype=torch.float32
  )
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(origin / 'tokenizer.json')
  )
  end = tokenizer.convert_ids_to_tokens(ours.eot_token_id)
  tokenizer.add_special_tokens({'eos_token': end, 'pad_token': end})
  theirs = HFLM(
    pretrained=model, tokenizer=tokenizer, max_length=length, device='cpu'
  )

  pairs = [('the cat  ', 'sat'), ('', 'sat'), (TEXT, ' the'), ('a', 'b')]
  asked = instances('loglikelihood', *pairs)
  for one, other in zip(
    ours.loglikelihood(asked), theirs.loglikelihood(asked), strict=True
  ):
    assert one == pytest.approx(other, rel=1e-4)

  asked = instances('loglikelihood_rolling', (TEXT,), ('sat',))
  assert ours.loglikelihood_rolling(asked) == pytest.approx(
    theirs.loglikelihood_rolling(asked), rel=1e-4
  )
  asked = instances(
    'generate_until',
    *[(c, {'until': ['e'], 'max_gen_toks': 12}) for c in ('the', TEXT)],
  )
  assert ours.generate_until(asked) == theirs.generate_until(asked)


@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
  return local_tasks.write(tmp_path_factory.mktemp('tasks'))


def answers(trained, point):
  """Of `which_word`, by the scorer alone: shares of right ones, compute."""
  scorer = Scorer(trained.model, trained.params, [point], LENGTH)
  encode = trained.tokenizer.encode
  right, flops, full = [], 0.0, 0.0
  for document in local_tasks.DOCUMENTS:
    context = encode(document['question'].rstrip()).tolist()
    asked = [
      likelihoods.request(
        trained.tokenizer, context, encode(f'  {c}').tolist(), LENGTH
      )
      for c in document['choices']
    ]
    found = [answer for (answer,) in scorer.answer(asked)]
    best = int(np.argmax([one.value for one in found]))
    right.append(best == document['label'])
    flops += sum(one.bill.flops for one in found)
    full += sum(one.bill.full for one in found)
  return np.mean(right), flops / full


@needs_harness
def test_a_run_is_scored_on_tasks(exiting_run, trained, tasks, tmp_path):
  _, workdir = exiting_run
  names = ['both', 'whole_*']
  scores = harness.evaluate(str(workdir), names, str(tasks))
  assert scores.point == deploy.chosen_point(workdir)
  of_task = {row.task: row for row in scores.rows}
  assert set(of_task) == {'both', *local_tasks.TASKS}

  row = of_task['which_word']
  for score, point in ((row.full, None), (row.chosen, scores.point)):
    right, share = answers(trained, point)
    assert (score.value, score.compute) == pytest.approx((right, share))
  assert of_task['which_text'].counted == 'compute_decoder'
  for row in scores.rows:
    assert row.full.compute == 1 and row.chosen.compute < 1
  both = of_task['both']
  assert both.full.tokens == sum(
    of_task[name].full.tokens for name in ('which_word', 'which_text')
  )

  (limited,) = harness.evaluate(
    str(workdir), ['which_word'], str(tasks), limit=2
  ).rows
  assert limited.documents == 2


@needs_harness
@pytest.mark.parametrize(
  'change, message',
  [
    ('task', '--tasks=nothing is no task of lm-eval, nor of a file in'),
    ('data', 'task which_word cannot be loaded'),
    ('checkpoints', 'has no checkpoint'),
    ('results.json', 'holds the exit thresholds; run --mode=evaluate'),
    ('config.json', 'config.json is missing'),
  ],
)
def test_what_is_missing_is_said_in_a_line(
  exiting_run, tasks, tmp_path, change, message
):
  run = tmp_path / 'run'
  shutil.copytree(exiting_run[1], run)
  names = ['nothing'] if change == 'task' else ['which_word']
  if change == 'checkpoints':
    shutil.rmtree(run / change)
  elif change.endswith('.json'):
    (run / change).unlink()
  elif change == 'data':
    tasks = local_tasks.write(tmp_path)
    (tasks / 'data.json').unlink()
  with pytest.raises(ConfigError, match=message) as caught:
    harness.evaluate(str(run), names, str(tasks))
  assert '\n' not in str(caught.value)


COMMAND = """
import importlib.util, runpy
find = importlib.util.find_spec
def found(name, *package):
  return None if name == {hidden!r} else find(name, *package)
importlib.util.find_spec = found
runpy.run_module('ease_jax.lm_eval', run_name='__main__', alter_sys=True)
"""


def command(*arguments, hidden=''):
  code = COMMAND.format(hidden=hidden)
  return subprocess.run(
    [sys.executable, '-c', code, *arguments],
    capture_output=True,
    text=True,
    check=False,
  )


def test_a_missing_harness_is_said_in_a_line():
  done = command('--workdir=runs/none', '--tasks=a', hidden='lm_eval')
  assert done.returncode == 1 and done.stdout == ''
  assert done.stderr == (
    "ease_jax: lm-eval is not installed; pip install 'ease_jax[eval]'\n"
  )


@needs_harness
def test_the_command_prints_and_writes(exiting_run, tasks, tmp_path):
  out = tmp_path / 'scores.json'
  given = [f'--workdir={exiting_run[1]}', '--tasks=which_word']
  done = command(*given, f'--include_path={tasks}', f'--out={out}')
  assert done.returncode == 0, done.stderr
  (row,) = json.loads(out.read_text())['rows']
  head, line, *_ = done.stdout.splitlines()
  assert head.split()[:3] == ['task', 'metric', 'full']
  for setting in ('full', 'chosen'):
    assert f'{row[setting]["value"]:.4f}' in line
    assert f'{row[setting]["compute"]:.1%}' in line


@needs_harness
@pytest.mark.parametrize('flag', ['--out', '--include_path'])
def test_a_flag_that_names_nothing_usable(tmp_path, flag):
  place = tmp_path if flag == '--out' else tmp_path / 'nowhere'
  done = command('--workdir=runs/none', '--tasks=a', f'{flag}={place}')
  assert done.returncode == 1 and done.stdout == ''
  (line,) = done.stderr.splitlines()
  assert line.startswith(f'ease_jax: {flag}={place} ')
