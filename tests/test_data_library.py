"""The built-in corpus: always the same, no tables, no copies across splits."""

import itertools
import pathlib

import pytest

from ease_jax.data import library, text
from ease_jax.data.text import Document


@pytest.fixture(scope='module')
def documents():
  return library.documents()


def test_it_is_read_in_one_order_and_without_its_tests(documents, monkeypatch):
  walk = library.os.walk

  def reversed_walk(root):
    for folder, subfolders, names in walk(root):
      yield folder, subfolders, names[::-1]

  monkeypatch.setattr(library.os, 'walk', reversed_walk)
  assert library.documents() == documents
  names = [document.name for document in documents]
  assert names == sorted(set(names))
  assert {'abc.py', 'json/decoder.py'} <= set(names)
  folders = itertools.chain(*(pathlib.Path(name).parts for name in names))
  left_out = {'test', 'tests', 'site-packages', '__pycache__', 'encodings'}
  assert not set(folders) & left_out


def test_no_page_of_lines_is_in_two_splits(documents):
  splits = text.split(documents, select=0.05, test=0.05)
  owner = {}
  for name, texts in splits.items():
    assert texts
    for document in texts:
      lines = [line.strip() for line in document.splitlines() if line.strip()]
      for i in range(len(lines) - library.RUN_LINES + 1):
        run = tuple(lines[i : i + library.RUN_LINES])
        assert owner.setdefault(hash(run), name) == name, run


def page(first, num=library.RUN_LINES):
  """Some lines that nobody else has."""
  return [f'line {first + i}' for i in range(num)]


def kept(**lines_of):
  documents = [Document(n, '\n'.join(lines)) for n, lines in lines_of.items()]
  return [d.name for d in library.without_copies(documents)]


def test_a_module_that_repeats_a_page_of_an_earlier_one_is_left_out():
  original = [*page(0), 'end']
  copy = ['new', '', *(f'    {line}' for line in page(0)), 'other']
  shorter = [*page(100), *page(0)[:-1], *page(200)]
  assert kept(a=original, b=copy, c=shorter) == ['a', 'c']


def test_what_only_a_copy_holds_may_come_again():
  """A module that is left out takes no other one along."""
  assert kept(a=page(0), b=[*page(0), *page(50)], c=page(50)) == ['a', 'c']
