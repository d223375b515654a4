"""Specs, tasks and rows of a sweep that several test files share."""

import dataclasses
import math
import types

import numpy as np

import tiny
from ease_jax.core.policies import OperatingPoint
from ease_jax.data.corpus import Corpus
from ease_jax.data.task import LanguageModelling
from ease_jax.evaluate.guarantee import GuaranteeSpec
from ease_jax.evaluate.results import (
  REPORT,
  SELECT,
  Chosen,
  ChosenSide,
  Cost,
  Quality,
  SweepRow,
)
from ease_jax.evaluate.sweep import SweepSpec

NEVER = math.inf
LENGTH = 8

NOTHING = GuaranteeSpec(
  risk='none',
  epsilon=0.01,
  delta=0.1,
  method='betting',
  signal='max_prob',
  unit='document',
  cap=0.1,
)
SPEC = SweepSpec(
  signals=('max_prob',),
  policies=('recompute', 'copy_state'),
  thresholds={'max_prob': (0.3, 0.9)},
  search_points=2,
  policy='copy_state',
  max_ppl_ratio=1.01,
  max_compute=0.0,
  guarantee=NOTHING,
  batch_size=4,
  select_split='select',
  report_split='test',
  max_tokens=0,
  segments=0,
  speed_tokens=0,
)


def spec(**changes):
  return dataclasses.replace(SPEC, **changes)


def task(seq_len=LENGTH, **sizes):
  """Language modelling on random tokens; `sizes` are those of the splits."""
  rng = np.random.default_rng(0)
  splits = {
    name: rng.integers(0, tiny.VOCAB, size).astype(np.int32)
    for name, size in sizes.items()
  }
  tokenizer = types.SimpleNamespace(
    bos_id=None,
    vocab_size=tiny.VOCAB,
    eos_id=0,
    token_bytes=np.ones(tiny.VOCAB, int),
    token_text=chr,
  )
  corpus = Corpus('random', tokenizer, splits, sha256='')
  return LanguageModelling(corpus, seq_len)


def point(threshold, policy='copy_state', signal='max_prob'):
  return OperatingPoint(signal, policy, threshold)


def quality(ppl):
  nll = math.log(ppl)
  return Quality(nll, ppl, bits_per_byte=nll, accuracy=0.5)


def cost(compute, exit_fraction=(0.0, 1.0)):
  return Cost(
    compute,
    layer_fraction=compute,
    mean_readout=1.5,
    exit_fraction=exit_fraction,
  )


def row(at, ppl, compute, split=SELECT):
  """A row of the sweep at a point; None = exits off."""
  return SweepRow(split, at, quality(ppl), cost(compute))


def chosen(at, ppl=3.3, ratio=1.1, exit_fraction=(0.25, 0.5, 0.25)):
  side = ChosenSide(quality(ppl), cost(0.5, exit_fraction), ratio, tokens=100)
  return Chosen(
    rule='by hand',
    policy=at.policy if at else 'copy_state',
    point=at,
    select_split='select',
    report_split='test',
    select=side,
    report=side,
  )


def report_row(at, ppl, compute):
  return row(at, ppl, compute, REPORT)
