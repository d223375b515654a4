"""Runs as models of lm-evaluation-harness, which must be installed.

The harness brings tasks, prompts and metrics. What a model says of a text is
scored by `evaluate.likelihoods`, what it writes by `decode.until`.
"""

import dataclasses
import importlib.metadata
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lm_eval.api import instance  # pyright: ignore[reportMissingImports]
from lm_eval.api import model as api  # pyright: ignore[reportMissingImports]
from lm_eval.evaluator import (  # pyright: ignore[reportMissingImports]
  simple_evaluate,
)
from lm_eval.models.utils import (  # pyright: ignore[reportMissingImports]
  normalize_gen_kwargs,
)
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
  get_rolling_token_windows,
  make_disjoint_window,
)

from ease_jax import deploy, workdir
from ease_jax.checks import ConfigError, need
from ease_jax.core.policies import OperatingPoint
from ease_jax.data.tokenizers import last_tokens, prompt_tokens
from ease_jax.decode import Options, Sampling
from ease_jax.decode.charges import Bill
from ease_jax.decode.text import Trained
from ease_jax.decode.until import continue_until
from ease_jax.evaluate import likelihoods
from ease_jax.evaluate.likelihoods import Likelihood, Request, Scorer
from ease_jax.evaluate.task_scores import (
  READ,
  WRITTEN,
  Found,
  TaskScores,
  rows,
)
from ease_jax.progress import stage
from ease_jax.version import __version__

MOST_NEW = 256  # tokens of a text whose task says nothing
# Draws of a bootstrap, for standard errors that have no formula.
DRAWS = 1000
# What a task may say of how texts are generated.
SETTINGS = ('until', 'max_gen_toks', 'do_sample', 'temperature')
DRAWN = ('top_k', 'top_p')


class Writing(NamedTuple):
  """How a task wants texts to be generated."""

  stops: tuple[str, ...]
  max_new_tokens: int
  sampling: Sampling


class RunLM(api.TemplateLM):
  """A run at one setting of the exits.

  Args:
    trained: its model.
    scorer: of the same model; its points are the settings.
    which: of them.
    options: how texts are generated; tasks say how many tokens, and how they
      are drawn.
  """

  def __init__(
    self, trained: Trained, scorer: Scorer, which: int, options: Options
  ):
    super().__init__()
    self.bills: dict[str, dict[str, Bill]] = defaultdict(dict)
    self._trained = trained
    self._scorer = scorer
    self._which = which
    self._options = options

  @property
  def point(self) -> OperatingPoint | None:
    """Where tokens exit; None = nowhere."""
    return self._scorer.points[self._which]

  @property
  def max_length(self) -> int:
    """Tokens that the model may read."""
    return self._options.context

  @property
  def eot_token_id(self) -> int:
    return self._trained.tokenizer.eos_id

  @property
  def prefix_token_id(self) -> int:
    return likelihoods.first_id(self._trained.tokenizer)

  @property
  def tokenizer_name(self) -> str:
    return self._trained.tokenizer.name

  def tok_encode(
    self, string: str, add_special_tokens: bool | None = None, **kwargs: object
  ) -> list[int]:
    """Tokens of a text, begun as texts are unless that is not wanted."""
    del kwargs
    if add_special_tokens is False:
      return self._trained.tokenizer.encode(string).tolist()
    return prompt_tokens(self._trained.tokenizer, string)

  def loglikelihood(
    self, requests: Sequence[instance.Instance], disable_tqdm: bool = False
  ) -> list[tuple[float, bool]]:
    del disable_tqdm
    for one in requests:
      need(
        bool(one.args[1]), f'task {one.task_name} asks for a continuation of ""'
      )
    answers = super().loglikelihood(requests, disable_tqdm=True)
    for one, answer in zip(requests, answers, strict=True):
      self._charge(one, READ, answer.bill)
    return [(answer.value, answer.is_greedy) for answer in answers]

  def _loglikelihood_tokens(
    self,
    requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
    disable_tqdm: bool = False,
    **kwargs: object,
  ) -> list[Likelihood]:
    del disable_tqdm, kwargs
    return self._answers(
      self._request(context, continuation)
      for _, context, continuation in requests
    )

  def _request(self, context: list[int], continuation: list[int]) -> Request:
    tokenizer = self._trained.tokenizer
    return likelihoods.request(
      tokenizer, context, continuation, self.max_length
    )

  def _answers(self, requests: Iterable[Request]) -> list[Likelihood]:
    with stage('scoring'):
      return [found[self._which] for found in self._scorer.answer(requests)]

  def loglikelihood_rolling(
    self, requests: Sequence[instance.Instance], disable_tqdm: bool = False
  ) -> list[float]:
    del disable_tqdm
    windows = [self._windows(*one.args) for one in requests]
    answers = iter(self._answers(sum(windows, [])))
    totals = []
    for one, own in zip(requests, windows, strict=True):
      total = 0.0
      for _ in own:
        answer = next(answers)
        total += answer.value
        self._charge(one, READ, answer.bill)
      totals.append(total)
    return totals

  def _windows(self, text: str) -> list[Request]:
    """Windows in which every token of a text is scored once."""
    rolling = get_rolling_token_windows(
      token_list=self.tok_encode(text, add_special_tokens=False),
      prefix_token=self.prefix_token_id,
      max_seq_len=self.max_length,
      context_len=1,
    )
    pairs = map(make_disjoint_window, rolling)
    return [self._request(context, rest) for context, rest in pairs]

  def generate_until(
    self, requests: Sequence[instance.Instance], disable_tqdm: bool = False
  ) -> list[str]:
    del disable_tqdm
    together: dict[Writing, list[int]] = defaultdict(list)
    for place, one in enumerate(requests):
      together[self._writing(one.args[1])].append(place)

    texts: dict[int, str] = {}
    for writing, places in together.items():
      prompts = [
        self._prompt(requests[place].args[0], writing) for place in places
      ]
      options = dataclasses.replace(
        self._options,
        max_new_tokens=writing.max_new_tokens,
        sampling=writing.sampling,
      )
      with stage('generating'):
        found = continue_until(
          self._trained, prompts, writing.stops, self.point, options
        )
      for place, one in zip(places, found, strict=True):
        texts[place] = one.text
        self._charge(requests[place], WRITTEN, one.bill)
    return [texts[place] for place in range(len(requests))]

  def _writing(self, said: Mapping[str, Any]) -> Writing:
    """What a task says of how texts are generated.

    Raises:
      ConfigError: no decoder here does that.
    """
    most = min(MOST_NEW, self.max_length // 2)
    said = dict(normalize_gen_kwargs(dict(said), default_max_gen_toks=most))
    for name in said:
      need(
        name in (*SETTINGS, *DRAWN),
        f'generation_kwargs.{name} of a task is not known here; use '
        f'{", ".join((*SETTINGS, *DRAWN))}',
      )
    new = said['max_gen_toks']
    need(
      0 < new < self.max_length,
      f'max_gen_toks={new} of a task leaves no token for a prompt: the model '
      f'was trained on windows of data.seq_len={self.max_length}; lower it',
    )
    temperature = float(said.get('temperature', 0.0))
    drawn = {name: said[name] for name in DRAWN if name in said and temperature}
    sampling = Sampling(temperature=temperature, **drawn)
    return Writing(tuple(said['until']), new, sampling)

  def _prompt(self, text: str, writing: Writing) -> list[int]:
    """The end of a text that leaves room for what is written."""
    tokens = self.tok_encode(text) or [self.prefix_token_id]
    room = self.max_length - writing.max_new_tokens
    return last_tokens(self._trained.tokenizer, tokens, room)

  def _charge(self, one: instance.Instance, counted: str, bill: Bill) -> None:
    own = self.bills[one.task_name]
    own[counted] = own.get(counted, Bill()).plus(bill)


def evaluate(
  folder: str,
  tasks: Sequence[str],
  include_path: str | None = None,
  limit: int | None = None,
) -> TaskScores:
  """Evaluates a run on tasks, with exits off and at its operating point.

  Args:
    folder: the `--workdir` of the run.
    tasks: their names, or patterns such as 'arc_*'.
    include_path: a folder with files of further tasks; None = no others.
    limit: documents of each task; None = all.

  Raises:
    ConfigError: a task cannot be had, or the run was not trained and evaluated.
  """
  place = workdir.locate(folder)
  config = workdir.read_config(place)
  point = deploy.chosen_point(place, config)

  # The harness's bootstrap would fork, which JAX's threads do not survive.
  os.environ['DISABLE_MULTIPROC'] = '1'
  logging.getLogger('lm_eval').setLevel(logging.WARNING)
  manager = TaskManager(include_path=include_path)
  names = _names(manager, tasks)
  trained = deploy.load_model(config, place)

  points = (None,) if point is None else (None, point)
  length = config.data.seq_len
  scorer = Scorer(trained.model, trained.params, points, length)
  options = Options(
    max_new_tokens=1,  # tasks say how many
    context=length,
    eos_id=trained.tokenizer.eos_id,
    seed=config.generate.seed,
    prefill=config.generate.prefill,
  )
  found = []
  for which in range(len(points)):
    model = RunLM(trained, scorer, which, options)
    harness = simple_evaluate(
      model=model,
      tasks=names,
      task_manager=manager,
      limit=limit,
      log_samples=False,
      bootstrap_iters=DRAWS,
    )
    found.append(Found(harness, model.bills))

  return TaskScores(
    run=folder,
    ease_jax=__version__,
    lm_eval=importlib.metadata.version('lm_eval'),
    limit=limit,
    point=point,
    rows=rows(*found),
  )


def _names(manager: TaskManager, tasks: Sequence[str]) -> list[str]:
  """Names of the tasks that are meant; each was loaded once.

  Raises:
    ConfigError: there is none, or its file or data cannot be used.
  """
  names: list[str] = []
  for task in tasks:
    matching = manager.match_tasks([task])
    need(
      len(matching) > 0,
      f'--tasks={task} is no task of lm-eval, nor of a file in --include_path; '
      'python -m lm_eval ls tasks lists the former',
    )
    names += [name for name in matching if name not in names]

  for name in names:
    try:
      manager.load([name])
    except Exception as error:  # whatever reads YAML, code and data there
      words = str(error).strip().partition('\n')[0]
      raise ConfigError(
        f'task {name} cannot be loaded ({type(error).__name__}: {words}); '
        'correct its file, or get its data'
      ) from error
  return names
