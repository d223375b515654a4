"""Another text through a finished run: what its exits come to there."""

import dataclasses
import hashlib
import pathlib

import numpy as np

from ease_jax.checks import need
from ease_jax.core.policies import OperatingPoint
from ease_jax.data import corpus as corpora
from ease_jax.data import files
from ease_jax.data.corpus import Corpus
from ease_jax.data.task import TASKS, LanguageModelling
from ease_jax.decode.text import Trained
from ease_jax.evaluate.records import Record
from ease_jax.evaluate.results import REPORT, Quality, SweepRow
from ease_jax.evaluate.sweep import Evaluator
from ease_jax.specs import Specs

FOLDER = 'texts'


@dataclasses.dataclass(frozen=True)
class TextResults(Record):
  """What a run does on a text.

  Attributes:
    path: of the text, as it was given.
    sha256: of its tokens.
    files: read.
    characters: read.
    tokens: scored.
    unknown: tokens of characters that the run's vocabulary lacks.
    readouts: quality of each, if it answered every token.
    full: with exits off.
    chosen: at the run's operating point; None where it has none.
  """

  path: str
  sha256: str
  files: int
  characters: int
  tokens: int
  unknown: int
  readouts: tuple[Quality, ...]
  full: SweepRow
  chosen: SweepRow | None

  @property
  def file(self) -> pathlib.Path:
    """Where they are kept in the run's directory; no two texts share one."""
    stem = pathlib.Path(self.path).stem or 'text'
    return pathlib.Path(FOLDER, f'{stem}-{self.sha256[:8]}.json')

  def __str__(self) -> str:
    """Lines for a terminal."""
    rows = [('full depth', self.full)]
    if self.chosen is not None:
      rows.append(('with exits', self.chosen))
    lines = [
      f'{self.path}: {self.files} files, {self.characters} characters, '
      f'{self.tokens} tokens scored, {self.unknown} of unknown characters'
    ]
    for name, row in rows:
      lines.append(
        f'{name}: perplexity {row.quality.ppl:.3f}, '
        f'{row.quality.bits_per_byte:.3f} bits per byte, '
        f'compute {row.cost.compute:.1%}'
      )
    return '\n'.join(lines)


def evaluate(
  run_specs: Specs, trained: Trained, point: OperatingPoint | None, path: str
) -> TextResults:
  """Reads a text and measures a run on it.

  Args:
    run_specs: of the run.
    trained: its model.
    point: where its tokens exit.
    path: a file, folder or glob.

  Raises:
    ConfigError: the text cannot be read, or is too short.
  """
  need(
    issubclass(TASKS[run_specs.data.task], LanguageModelling),
    f'--text needs a run on text, and data.task={run_specs.data.task}',
  )
  account = files.Account()
  found = files.find((path,), '--text', account)
  documents = files.load(found, '--text', account)
  files.say(f'text: {account}')

  tokenizer = trained.tokenizer
  texts = [document.text for document in documents]
  tokens = corpora.encode(tokenizer, texts)
  need(len(tokens) > 1, f'--text={path} has less than two tokens; give more')

  spec = run_specs.sweep
  sha256 = hashlib.sha256(tokens.tobytes()).hexdigest()
  name = spec.report_split
  unknown = int(np.sum(tokens == tokenizer.unk_id))
  sized = {}
  if unknown:
    sized[name] = corpora.sized_unknowns('--text', tokenizer, texts, tokens)
  corpus = Corpus('text', tokenizer, {name: tokens}, sha256, sized)
  task = LanguageModelling(corpus, run_specs.data.seq_len)
  signals = () if point is None else (point.signal,)
  split = Evaluator(
    REPORT,
    dataclasses.replace(spec, signals=signals or spec.signals),
    trained.model,
    trained.params,
    task,
    max_tokens=0,
  )
  return TextResults(
    path=path,
    sha256=sha256,
    files=len(documents),
    characters=sum(map(len, texts)),
    tokens=len(tokens) - 1,
    unknown=unknown,
    readouts=tuple(
      split.readout(k) for k in range(trained.model.grid.num_readouts)
    ),
    full=split.measure(None),
    chosen=None if point is None else split.measure(point),
  )
