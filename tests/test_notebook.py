"""A finished run in a notebook: scores of texts, and their continuations."""

import dataclasses

import numpy as np
import pytest
from small_run import PROMPT, wanted

from ease_jax import config, decode
from ease_jax import run as run_lib
from ease_jax.notebook import load_run


@pytest.fixture(scope='module')
def loaded(exiting_run):
  return load_run(exiting_run[1])


def test_a_run_is_loaded_from_its_folder_alone(exiting_run, loaded):
  c, workdir = exiting_run
  assert loaded.config.to_dict() == c.to_dict()
  assert loaded.point == run_lib.chosen_point(workdir)
  with pytest.raises(config.ConfigError, match='config.json is missing'):
    load_run(workdir / 'nowhere')


def test_every_token_but_the_first_is_scored_where_it_exits(loaded):
  texts = ['the cat sat on the mat. ' * 3, 'on the mat']
  # A threshold in the midst of what the first readout says, so that some
  # tokens exit there and some do not, on whatever machine it was trained.
  never = dataclasses.replace(loaded.point, threshold=np.inf)
  middle = float(np.median(loaded.score(texts, never).max_prob_KxN[0]))
  point = dataclasses.replace(loaded.point, threshold=middle)

  table = loaded.score(texts, point)
  lengths = [len(text.encode()) - 1 for text in texts]
  np.testing.assert_array_equal(np.bincount(table.text_N), lengths)
  assert ''.join(table.piece_N[table.text_N == 1]) == 'n the mat'
  np.testing.assert_array_equal(
    table.position_N[table.text_N == 1], np.arange(1, 10)
  )

  assert table.nll_KxN.shape == (2, sum(lengths))
  assert set(table.exit_N) == {0, 1}, 'the exits must be mixed'
  # At the first readout nothing that a token looks back at has exited.
  early = table.exit_N == 0
  np.testing.assert_allclose(
    table.exit_nll_N[early], table.nll_KxN[0, early], rtol=1e-4, atol=1e-5
  )


def test_a_notebook_continues_texts_like_the_command_line(exiting_run, loaded):
  expected, _ = wanted(*exiting_run, loaded.point)
  assert loaded.generate([PROMPT], max_new_tokens=15) == [expected]


@pytest.mark.parametrize(
  'texts, message',
  [
    ('one text', 'score takes a list of texts, not str'),
    (3, 'score takes a list of texts, not int'),
    (['fine', 3], 'text 1 is int, not text; give a str'),
    ([], 'no texts; give at least one'),
    (
      ['fine', 'x'],
      'text 1 has 1 tokens; the first is never predicted, so give two or more',
    ),
  ],
)
def test_texts_that_cannot_be_scored(loaded, texts, message):
  with pytest.raises(config.ConfigError) as error:
    loaded.score(texts)
  assert str(error.value) == message


@pytest.mark.parametrize('point', ['max_prob', 0.5])
def test_a_point_that_is_none(loaded, point):
  with pytest.raises(config.ConfigError, match='give an OperatingPoint'):
    loaded.score(['fine'], point)


@pytest.mark.parametrize(
  'prompts, message',
  [
    ('the', 'generate takes a list of prompts, not str'),
    (None, 'generate takes a list of prompts, not NoneType'),
    ([], 'no prompts; give at least one'),
    ([b'the'], 'prompt 0 is bytes, not text; give a str'),
    (
      ['fine', 'caf\udce9'],
      'prompt 1 is not UTF-8 at character 3; give it in ',
    ),
  ],
)
def test_prompts_that_cannot_be_continued(loaded, prompts, message):
  with pytest.raises(config.ConfigError) as error:
    loaded.generate(prompts)
  assert str(error.value).startswith(message)


@pytest.mark.parametrize(
  'prompts, message',
  [
    ('the', 'no prompts; give a list of at least one'),
    (['the'], "the prompt 'the' is no list of token ids"),
    ([1, 2], 'the prompt 1 is no list of token ids'),
  ],
)
def test_the_decoder_says_that_it_wants_tokens(loaded, prompts, message):
  options = decode.Options(max_new_tokens=3, context=32)
  variables = {'params': loaded.params}
  with pytest.raises(config.ConfigError) as error:
    decode.generate(loaded.model, variables, prompts, options=options)
  assert str(error.value).startswith(message)
  with pytest.raises(config.ConfigError, match="have no 'params'"):
    decode.generate(loaded.model, loaded.params, [[1]], options=options)
