"""`--mode=generate`, `report` and `export` on a finished run."""

import re

import jax.export
import numpy as np
import pytest
from small_run import PROMPT, wanted

from ease_jax import config
from ease_jax import run as run_lib
from ease_jax.data import tokenizers
from ease_jax.decode import text as decode_text
from ease_jax.evaluate import clock


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


def test_tokens_exit_as_the_run_chose(exiting_run, capsys):
  c, workdir = exiting_run
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


def test_full_depth_and_its_drafts_print_the_same(exiting_run, capsys):
  c, workdir = exiting_run
  expected, _ = wanted(c, workdir, None)
  full = printed(capsys, with_(c, method='full'), workdir)
  assert full[1] == expected
  assert '2.00 run), compute_decoder 100.0% of a full pass, no exits' in full[2]
  drafted = with_(c, method='speculative', draft=(0, 3, 0.0))
  before, text, after = printed(capsys, drafted, workdir)
  assert (before, text) == ('', expected)
  found = re.match(
    r'\[(\d+) tokens of the full model, (\d+) of (\d+) drafts accepted, '
    r'drafted after layer 1; ',
    after,
  )
  num, accepted, made = map(int, found.groups())
  assert num == 15 and 0 < accepted <= made

  adapting = with_(c, method='speculative', drafting='adaptive')
  adapting.generate.adaptive.lengths = (1, 3)
  before, text, after = printed(capsys, adapting, workdir)
  assert (before, text) == ('', expected)
  assert 'drafts accepted, drafted after layer 1; ' in after


@pytest.mark.parametrize('faster', [True, False])
def test_the_draft_is_the_fastest_on_other_text(
  exiting_run, capsys, monkeypatch, faster
):
  c, workdir = exiting_run
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


def test_a_full_context_is_said(exiting_run, capsys):
  c, workdir = exiting_run
  for method, draft in (('exits', ()), ('speculative', (0, 3, 0.0))):
    longer = with_(c, method=method, draft=draft, max_new_tokens=99)
    _, text, after = printed(capsys, longer, workdir)
    assert len(text.encode()) == c.data.seq_len
    assert 'the context of 32 tokens (data.seq_len) is full' in after
    assert 'is full' not in printed(capsys, with_(c, method='full'), workdir)[2]


def test_nobody_may_listen(exiting_run, monkeypatch, capfd):
  c, workdir = exiting_run
  capfd.readouterr()
  monkeypatch.setattr('sys.stdout', None)  # as in a process that closed it
  run_lib.run(with_(c, max_new_tokens=1), workdir, 'generate', PROMPT)
  said = capfd.readouterr()
  assert said.out == ''
  assert said.err.startswith('[1 tokens, exits after layer ')


def test_a_prompt_that_is_not_utf8_is_refused(exiting_run):
  c, workdir = exiting_run
  with pytest.raises(config.ConfigError) as error:
    run_lib.run(c, workdir, 'generate', 'caf\udce9')
  assert str(error.value) == (
    '--prompt is not UTF-8 at character 3; give it in UTF-8'
  )


def test_a_seed_draws_another_text(exiting_run, capsys):
  c, workdir = exiting_run
  texts = [
    printed(capsys, with_(c, temperature=2.0, seed=seed), workdir)[1]
    for seed in (0, 1, 0)
  ]
  assert texts[0] == texts[2] != texts[1]


@pytest.mark.parametrize('kind', ['byte', 'char', 'bpe'])
def test_text_comes_in_whole_characters(kind):
  text = 'Caf\u00e9 \u65e5\u672c \U0001f600\n'
  tokenizer = tokenizers.fit(kind, [text * 9], 300)
  speech = decode_text.Speech(tokenizer, [])
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


def test_a_report_says_where_it_is(exiting_run, capsys):
  c, workdir = exiting_run
  capsys.readouterr()
  run_lib.run(c, workdir, 'report')
  page = workdir.resolve() / 'report.html'
  assert capsys.readouterr().out == f'Report: {page}\n'
  assert page.exists()


def test_what_is_exported_is_what_is_generated(exiting_run, capsys):
  c, workdir = exiting_run
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
def test_what_cannot_be(exiting_run, changes, mode, message):
  c, workdir = exiting_run
  with pytest.raises(config.ConfigError) as error:
    run_lib.run(with_(c, **changes), workdir, mode, PROMPT)
  assert str(error.value) == message


def test_no_draft_is_timed_for_a_bad_prompt(exiting_run, monkeypatch):
  c, workdir = exiting_run
  monkeypatch.setattr(clock, 'fastest_draft', None)
  with pytest.raises(config.ConfigError, match='--prompt has 0 tokens'):
    run_lib.run(with_(c, method='speculative'), workdir, 'generate', '')
