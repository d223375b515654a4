"""What `passage.json` holds: some text of the report split, for the page."""

import dataclasses
import pathlib

from ease_jax.evaluate.records import Record, parse, read_json

FILE = 'passage.json'
MODE = 'evaluate'  # of ease_jax.main, which writes it


@dataclasses.dataclass(frozen=True)
class PassageToken(Record):
  """One token of the passage, as the chosen point predicted it.

  Attributes:
    text: of the token.
    prob: that the answering readout gave it.
    readout: which one answered, from 0.
    segment: of this readout, from 1.
    layer: of this readout, from 1.
    nll: negative log-likelihood, nats.
    ran: how many layers with a router it ran before its answer; None in a
      model without.
  """

  text: str
  prob: float
  readout: int
  segment: int
  layer: int
  nll: float
  ran: int | None = None


@dataclasses.dataclass(frozen=True)
class Passage(Record):
  """All of `passage.json`: consecutive text, for the report.

  Attributes:
    split: name of the split of the data that it begins.
    tokens: in order.
  """

  split: str
  tokens: tuple[PassageToken, ...]


def load(path: pathlib.Path) -> Passage:
  """The passage of a run.

  Raises:
    ConfigError: the file is missing, damaged or of an older version.
  """
  return parse(Passage, read_json(path, MODE), path, MODE)
