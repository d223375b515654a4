"""`--mode=generate`, `report` and `export` on a finished run."""

import dataclasses
import re

import jax.export
import numpy as np
import pytest

import tiny
from ease_jax import config, decode, specs
from ease_jax import run as run_lib
from ease_jax.data import tokenizers
from ease_jax.decode import text as decode_text
from ease_jax.evaluate import clock
from ease_jax.notebook import load_run

PROMPT = 'the cat '


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """(config, workdir) of a run with exits, its first readout near the last."""
  folder = tmp_path_factory.mktemp('finished')
  path = folder / 'text.txt'
  path.write_text('the cat sat on the mat. ' * 80)
  c = config.base()
  c.data.update(
    source='text',
    path=(str(path),),
    seq_len=32,
    select_fraction=0.2,
    test_fraction=0.2,
  )
  tiny.update_model(
    c.model, num_layers=2, dim=16, num_heads=2, num_kv_heads=1, mlp_dim=16
  )
  c.loss.weights = 'uniform'
  c.optimizer.update(learning_rate=0.01, warmup_steps=5)
  c.train.update(
    steps=60, batch_size=8, eval_every=60, checkpoint_every=60, log_every=60
  )
  c.evaluate.max_tokens, c.evaluate.speed_tokens = 128, 0
  c.exit.update(
    signals=('max_prob',),
    policies=('copy_state',),
    search_points=0,
    max_ppl_ratio=2.0,
  )
  c.generate.max_new_tokens = 15
  run_lib.run(c, folder / 'run', 'train')
  run_lib.run(c, folder / 'run', 'evaluate')
  return c, folder / 'run'


def with_(c, **changes):
  c = c.copy_and_resolve_references()
  c.generate.update(changes)
  return c


def printed(capsys, c, workdir, prompt=PROMPT):
  """(notes before the text, the text, the note after it)."""
  capsys.readouterr()
  run_lib.run(c, workdir, 'generate', prompt)
  said = capsys.readouterr()
  *before, after = said.err.splitlines(keepends=True)
  assert said.out.startswith(prompt) and said.out.endswith('\n')
  return ''.join(before), said.out[:-1], after


def wanted(c, workdir, point):
  trained = run_lib.load_model(c, workdir)
  tokenizer = trained.tokenizer
  (text,), _ = decode.generate(
    trained.model,
    {'params': trained.params},
    [tokenizer.encode(PROMPT)],
    point,
    options=specs.from_config(c).generate.options(
      context=c.data.seq_len, eos_id=tokenizer.eos_id
    ),
  )
  return tokenizer.decode(text.tokens), text.exits


def test_tokens_exit_as_the_run_chose(finished, capsys):
  c, workdir = finished
  _, text, after = printed(capsys, c, workdir)
  expected, exits = wanted(c, workdir, run_lib.chosen_point(workdir))
  assert text == expected
  depth = exits.mean() + 1
  assert 1 <= depth < 2
  assert f'15 tokens, exits after layer {depth:.2f} of 2' in after
  assert 'max_prob, copy_state' in after

  # Each token sees the prompt and what was written before it.
  trained = run_lib.load_model(c, workdir)
  num_prompt = len(trained.tokenizer.encode(PROMPT))
  prices = trained.model.costs(np.mean(num_prompt + np.arange(15)))
  cost_K = prices.exit_K(run_lib.chosen_point(workdir).rule)
  share = prices.relative(cost_K[exits].mean())
  assert 0.3 < share < 1
  assert f', compute_decoder {share:.1%} of a full pass, ' in after


def test_full_depth_and_its_drafts_print_the_same(finished, capsys):
  c, workdir = finished
  expected, _ = wanted(c, workdir, None)
  full = printed(capsys, with_(c, method='full'), workdir)
  assert full[1] == expected
  assert '2.00 run), compute_decoder 100.0% of a full pass, no exits' in full[2]
  drafted = with_(c, method='speculative', draft=(0, 3, 0.0))
  before, text, after = printed(capsys, drafted, workdir)
  assert (before, text) == ('', expected)
  found = re.match(
    r'\[(\d+) tokens of the full model, (\d+) of (\d+) drafts accepted, '
    r'drafted after segment 1 layer 1; ',
    after,
  )
  num, accepted, made = map(int, found.groups())
  assert num == 15 and 0 < accepted <= made


@pytest.mark.parametrize('faster', [True, False])
def test_the_draft_is_the_fastest_on_other_text(
  finished, capsys, monkeypatch, faster
):
  c, workdir = finished
  asked = {}

  def fastest(model, variables, prompts, drafts, *, options):
    asked.update(prompts=prompts, drafts=drafts)
    seconds = {d: 2.0 + d.length for d in drafts} | {None: 6.0 if faster else 2}
    return drafts[0] if faster else None, seconds

  monkeypatch.setattr(clock, 'fastest_draft', fastest)
  before, text, after = printed(capsys, with_(c, method='speculative'), workdir)
  assert text == wanted(c, workdir, None)[0]
  assert before == (
    '[text: 1 files, 1,920 characters]\n'
    '[timing 3 ways to draft]\n'
    '[generate.draft=(0, 2, 0.0) is the fastest of 3: '
    f'{"1.50" if faster else "0.50"} times as fast as plain decoding on 4 '
    f'prompts of select; {"used" if faster else "plain decoding is used"}]\n'
  )
  assert ('drafts accepted' in after) == faster
  assert [len(p) for p in asked['prompts']] == [8] * 4
  assert len(asked['drafts']) == 3


def test_a_full_context_is_said(finished, capsys):
  c, workdir = finished
  for method, draft in (('exits', ()), ('speculative', (0, 3, 0.0))):
    longer = with_(c, method=method, draft=draft, max_new_tokens=99)
    _, text, after = printed(capsys, longer, workdir)
    assert len(text.encode()) == c.data.seq_len
    assert 'the context of 32 tokens (data.seq_len) is full' in after
    assert 'is full' not in printed(capsys, with_(c, method='full'), workdir)[2]


def test_nobody_may_listen(finished, monkeypatch, capfd):
  c, workdir = finished
  capfd.readouterr()
  monkeypatch.setattr('sys.stdout', None)  # as in a process that closed it
  run_lib.run(with_(c, max_new_tokens=1), workdir, 'generate', PROMPT)
  said = capfd.readouterr()
  assert said.out == ''
  assert said.err.startswith('[1 tokens, exits after layer ')


def test_a_prompt_that_is_not_utf8_is_refused(finished):
  c, workdir = finished
  with pytest.raises(config.ConfigError) as error:
    run_lib.run(c, workdir, 'generate', 'caf\udce9')
  assert str(error.value) == (
    '--prompt is not UTF-8 at character 3; give it in UTF-8'
  )


def test_a_seed_draws_another_text(finished, capsys):
  c, workdir = finished
  texts = [
    printed(capsys, with_(c, temperature=2.0, seed=seed), workdir)[1]
    for seed in (0, 1, 0)
  ]
  assert texts[0] == texts[2] != texts[1]


@pytest.mark.parametrize('kind', ['byte', 'char', 'bpe'])
def test_text_comes_in_whole_characters(kind):
  text = 'Caf\u00e9 \u65e5\u672c \U0001f600\n'
  tokenizer = tokenizers.fit(kind, [text * 9], 300)
  speech = decode_text.Speech(tokenizer)
  ids = tokenizer.encode(text).tolist()
  pieces = [speech.say(token) for token in ids]
  assert ''.join(pieces) == text
  assert speech.rest() == ''
  assert [p for p in pieces if p == ''] or kind != 'byte'
  first = tokenizer.decode(ids[:1])
  spoken = speech.say(ids[0]) + speech.say(tokenizer.eos_id)
  assert spoken == f'{first}<eos>'
  if kind == 'byte':  # half a character is not lost
    assert speech.say(0xC3) == ''
    assert speech.rest() == '\ufffd'
    assert speech.say(0xC3) + speech.say(ord('a')) == '\ufffda'


def test_a_report_says_where_it_is(finished, capsys):
  c, workdir = finished
  capsys.readouterr()
  run_lib.run(c, workdir, 'report')
  page = workdir.resolve() / 'report.html'
  assert capsys.readouterr().out == f'Report: {page}\n'
  assert page.exists()


def test_what_is_exported_is_what_is_generated(finished, capsys):
  c, workdir = finished
  prompt_1xC = np.zeros((1, 32), np.int32)
  prompt_1xC[0, -len(PROMPT) :] = np.frombuffer(PROMPT.encode(), np.uint8)
  for method, point in (
    ('exits', run_lib.chosen_point(workdir)),
    ('full', None),
  ):
    capsys.readouterr()
    run_lib.run(with_(c, method=method), workdir, 'export')
    assert capsys.readouterr().out == (
      f'Decoder: {workdir.resolve() / "decoder.jax"}\n'
    )
    run = jax.export.deserialize(
      bytearray((workdir / 'decoder.jax').read_bytes())
    ).call
    token_1xN, exit_1xN, _ = run(
      prompt_1xC, np.asarray([len(PROMPT)], np.int32), np.uint32(0)
    )
    expected, exits = wanted(c, workdir, point)
    new = bytes(np.asarray(token_1xN[0, :15], np.uint8)).decode()
    assert PROMPT + new == expected
    np.testing.assert_array_equal(exit_1xN[0, :15], exits)


@pytest.mark.parametrize(
  'changes, mode, message',
  [
    (
      {'method': 'fast'},
      'generate',
      "generate.method='fast' is unknown; use one of: exits, full, speculative",
    ),
    (
      {'draft': (1, 2)},
      'generate',
      'generate.draft=(1, 2) has 2 values; give readout, length and threshold, '
      'or () for the fastest',
    ),
    (
      {'method': 'speculative', 'draft': (1, 2, 0.5)},
      'generate',
      'generate.draft: readout=1 of a model with 2 readouts; only 0 to 0 are '
      'before the last',
    ),
    (
      {'method': 'speculative'},
      'export',
      "generate.method='speculative' can not be exported; use exits or full",
    ),
  ],
)
def test_what_cannot_be(finished, changes, mode, message):
  c, workdir = finished
  with pytest.raises(config.ConfigError) as error:
    run_lib.run(with_(c, **changes), workdir, mode, PROMPT)
  assert str(error.value) == message


def test_no_draft_is_timed_for_a_bad_prompt(finished, monkeypatch):
  c, workdir = finished
  monkeypatch.setattr(clock, 'fastest_draft', None)
  with pytest.raises(config.ConfigError, match='--prompt has 0 tokens'):
    run_lib.run(with_(c, method='speculative'), workdir, 'generate', '')


# ------------------------------------------------------------ in a notebook


@pytest.fixture(scope='module')
def loaded(finished):
  return load_run(finished[1])


def test_a_run_is_loaded_from_its_folder_alone(finished, loaded):
  c, workdir = finished
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


def test_a_notebook_continues_texts_like_the_command_line(finished, loaded):
  expected, _ = wanted(*finished, loaded.point)
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
