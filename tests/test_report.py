"""The report: complete, self-contained, safe, repeatable, honest."""

import copy
import csv
import io
import json
import math
import re

import pytest

from ease_jax.report import page as page_lib
from ease_jax.report import write_report

LAYERS = (2, 4, 6, 8)
FULL_PPL = 3.22
SOURCE = (
  'class Stack(list[int]):\n'
  '\tdef push(self, x: int) -> "Stack":\n'
  '\t\tif x < 0 && x & 1:  # <script>alert(1)</script>\n'
  "\t\t\traise ValueError('a<b & c>d http://example.org')\n"
  '\t\tself.append(x)\n\t\treturn self\r\n\n'
  'def total(stack: Stack) -> int:\n'
  '\t"""The sum of what was pushed so far."""\n'
  '\treturn sum(value for value in stack if value is not None)\n'
)


def _quality(ppl):
  nll = math.log(ppl)
  return {
    'nll': nll,
    'ppl': ppl,
    'bits_per_byte': nll / math.log(2),
    'accuracy': 0.9 - 0.16 * nll,
  }


def _row(split, signal, policy, threshold, compute, excess):
  early = max(0.0, 1.3 * (1 - compute))
  row = {
    'split': split,
    'signal': signal,
    'kv_policy': policy,
    'threshold': threshold,
    'compute': compute,
    'layer_fraction': compute - 0.02,
    'mean_readout': 3 - 2 * early,
    'exit_fraction': [0.2 * early, 0.5 * early, 0.3 * early, 1 - early],
    **_quality(FULL_PPL * excess * (1.01 if split == 'select' else 1)),
  }
  if policy == 'recompute':
    row['compute_uncharged'] = 0.8 * compute
  return row


def _sweep(split):
  rows = []
  for policy, penalty in (('copy_state', 1.4), ('recompute', 0.9)):
    rows.append(_row(split, 'max_prob', policy, None, 1.0, 1.0))
    for s, signal in enumerate(('max_prob', 'margin', 'entropy')):
      for threshold in (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98):
        compute = 0.45 + 0.55 * threshold**1.5 + 0.01 * s
        if policy == 'recompute':
          compute = min(1.02, compute + 0.08)
        excess = 1 + penalty * (1 - threshold) ** 2 * (0.5 - 0.06 * s)
        rows.append(_row(split, signal, policy, threshold, compute, excess))
  for s, signal in enumerate(('max_prob', 'margin', 'entropy')):
    for i in range(6):
      rows.append(
        _row(
          split,
          signal,
          'copy_state',
          [0.9 - 0.1 * i, 0.8, None, None],
          0.86 - 0.05 * i - 0.01 * s,
          1.001 + 0.003 * i**2,
        )
      )
  return rows


def _results():
  sweep = _sweep('select') + _sweep('test')
  chosen = next(
    r
    for r in sweep
    if r['split'] == 'test'
    and r['signal'] == 'entropy'
    and isinstance(r['threshold'], list)
    and r['ppl'] > 1.002 * FULL_PPL
  )
  costs, ppls = (0.27, 0.52, 0.76, 1.0), (4.6, 3.55, 3.3, FULL_PPL)
  return {
    'seed': 0,
    'model': {
      'params': 1_234_567,
      'segments': 1,
      'layers': 8,
      'vocab_size': 257,
    },
    'data': {
      'source': 'stdlib',
      'tokenizer': 'byte',
      'sha256': 'ab' * 32,
      'train_tokens': 9_300_000,
      'select_tokens': 510_000,
      'test_tokens': 498_123,
    },
    'train': {
      'steps': 1500,
      'tokens': 3_072_000,
      'flops': 2.4e13,
      'wall_s': 212.4,
      'tokens_per_s': 14463.2,
    },
    'readouts': [
      {
        'segment': 1,
        'layer': layer,
        'cost_flops': 1e6 * cost,
        'cost': cost,
        'layer_fraction': layer / 8,
        'select': _quality(1.01 * ppl),
        'test': _quality(ppl),
      }
      for layer, cost, ppl in zip(LAYERS, costs, ppls)
    ],
    'sweep': sweep,
    'chosen': {
      'rule': 'lowest compute with select ppl <= 1.01 x full',
      'signal': 'entropy',
      'threshold': chosen['threshold'],
      'kv_policy': 'copy_state',
      'select': {'ppl': 3.27, 'compute': 0.73, 'ppl_vs_full': 1.009},
      'test': {
        'ppl': chosen['ppl'],
        'compute': chosen['compute'],
        'ppl_vs_full': chosen['ppl'] / FULL_PPL,
        'exit_fraction': chosen['exit_fraction'],
      },
    },
    'oracle': [
      {
        'split': split,
        'kv_policy': 'recompute',
        'nll': math.log(2.71),
        'ppl': 2.71,
        'compute': 0.58,
        'layer_fraction': 0.55,
        'exit_fraction': [0.4, 0.3, 0.2, 0.1],
      }
      for split in ('select', 'test')
    ],
    'calibration': [
      {
        'segment': 1,
        'layer': layer,
        'ece': 0.01 + 0.004 * k,
        'bins': [
          {
            'confidence': (b + 0.5) / 15,
            'accuracy': ((b + 0.5) / 15) ** (1 + 0.15 * k),
            'count': 100 + b**3,
          }
          for b in range(15)
        ],
      }
      for k, layer in enumerate(LAYERS)
    ],
    'provenance': {
      'command': 'python -m ease_jax.main --config=configs/quickstart.py '
      '--workdir=runs/quickstart',
      'versions': {'jax': '0.10.2', 'ease_jax': '0.1.0'},
      'commit': '2a71f64',
      'date': '2026-01-01T00:00:00+00:00',
      'platform': 'Linux x86_64, cpu',
    },
  }


def _metrics():
  lines = [
    {
      'step': s,
      'time': 1.0 * s,
      'split': 'train',
      'tokens_per_s': 14e3,
      'loss': 1.3 + 4.2 * math.exp(-s / 150) + 0.05 * math.sin(s),
    }
    for s in range(20, 1501, 20)
  ]
  return lines + [
    {
      'step': s,
      'time': 1.0 * s,
      'split': 'select',
      'loss': 1.25 + 3.9 * math.exp(-s / 160),
    }
    for s in range(200, 1501, 200)
  ]


def _passage():
  tokens = []
  for i, char in enumerate(SOURCE):
    nll = 2.5 * abs(math.sin(0.7 * i)) ** 4
    exit = min(3, int(2.5 * nll))
    tokens.append(
      {
        'text': char,
        'prob': math.exp(-nll),
        'exit': exit,
        'layer': LAYERS[exit],
        'nll': nll,
      }
    )
  return {'split': 'test', 'tokens': tokens}


def _speed_point(threshold, excess, rate, expected, chosen=False):
  off = threshold is None
  return {
    'threshold': threshold,
    'signal': None if off else 'entropy',
    'kv_policy': None if off else 'copy_state',
    'ppl': FULL_PPL * excess,
    'ppl_vs_full': excess,
    'tokens_per_second': rate,
    'tokens_per_second_low': rate - 90,
    'tokens_per_second_high': rate + 110,
    'speedup': rate / 6100,
    'expected_speedup': expected,
    'compute': 1 / expected,
    'chosen': chosen,
  }


def _speed():
  searched = [0.95, 0.74, None, None]
  readouts = ((2, 0.05, 0.31, True), (4, 0.35, 0.3, True), (6, 0.1, 0.2, False))
  return {
    'tokens': 1016,
    'rounds': 5,
    'batch_size': 1,
    'device': 'cpu <A&B>',
    'split': 'test',
    'head_layers': 0.33,
    'points': [
      _speed_point(None, 1.0, 6100.0, 1.0),
      _speed_point(0.9, 1.002, 6600.0, 1.16),
      _speed_point(searched, 1.008, 7400.4, 1.36, True),
      _speed_point(0.2, 1.6, 12345.6, 3.1),
    ],
    'break_even': [
      {
        'segment': 1,
        'layer': layer,
        'needed': needed,
        'stopped': stopped,
        'active': active,
      }
      for layer, needed, stopped, active in readouts
    ],
  }


def make_run(workdir, results=None):
  """Writes the files of a finished run into a directory."""
  files = {
    'config.json': json.dumps({'seed': 0, 'note': '</pre><b>', 'exit': {}}),
    'results.json': json.dumps(results or _results()),
    'passage.json': json.dumps(_passage()),
    'metrics.jsonl': ''.join(json.dumps(m) + '\n' for m in _metrics()),
  }
  for name, text in files.items():
    (workdir / name).write_text(text, encoding='utf-8')
  return workdir


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = make_run(tmp_path_factory.mktemp('run'))
  write_report(workdir)
  return workdir


@pytest.fixture(scope='module')
def html(run):
  return (run / 'report.html').read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def timed(tmp_path_factory):
  """The same run with a measured decoder."""
  workdir = tmp_path_factory.mktemp('timed')
  write_report(make_run(workdir, {**_results(), 'speed': _speed()}))
  return workdir


def _words(html):
  """What is read: no tags, no drawings, every space the same."""
  html = re.sub(r'<svg.*?</svg>|<[^>]*>', ' ', html, flags=re.S)
  return ' '.join(page_lib.markupsafe.Markup(html).unescape().split())


def _speed_section(workdir):
  html = (workdir / 'report.html').read_text(encoding='utf-8')
  return re.search(r'<section>\s*<h2>Speed</h2>.*?</section>\s*', html, re.S)


def _outputs(workdir):
  names = {'report.html', 'sweep.csv', 'sweep.md'}
  files = [workdir / n for n in names] + list(workdir.glob('figures/*.svg'))
  return {f.relative_to(workdir).as_posix(): f.read_bytes() for f in files}


def test_every_file_of_the_contract_is_written(run):
  assert sorted(_outputs(run)) == [
    'figures/exit_histogram.svg',
    'figures/quality_vs_compute.svg',
    'figures/reliability.svg',
    'figures/training_curves.svg',
    'report.html',
    'sweep.csv',
    'sweep.md',
  ]


@pytest.mark.parametrize('name', ['run', 'timed'])
def test_page_asks_the_network_for_nothing(name, request):
  html = (request.getfixturevalue(name) / 'report.html').read_text('utf-8')
  assert not re.search(r'\b(src|href)\s*=\s*(?!"#)', html)
  assert not re.search(r'url\((?!#)', html)
  assert '@import' not in html and '<script src' not in html
  # The only address left is one that the passage's own text contains.
  assert 'http' not in re.sub(r'<span class="t.*?</span>', '', html)


@pytest.mark.parametrize('name', ['run', 'timed'])
def test_ids_of_the_page_are_unique_and_references_resolve(name, request):
  html = (request.getfixturevalue(name) / 'report.html').read_text('utf-8')
  ids = re.findall(r'\bid="([^"]*)"', html)
  assert len(ids) == len(set(ids))
  assert set(re.findall(r'(?:href="|url\()#([\w-]+)', html)) <= set(ids)


def test_text_of_the_run_is_escaped_and_kept(html):
  shown = re.search(r'aria-label="Passage">(.*?)</div>', html, re.S)
  spans = re.findall(r'<span class="t[^>]*>(.*?)</span>', shown[1], re.S)
  assert '<' not in ''.join(spans)
  text = ''.join(page_lib.markupsafe.Markup(s).unescape() for s in spans)
  assert text == SOURCE.replace('\r', '\u240d')
  # Nothing between the tokens, or pre-wrap would show it.
  assert re.sub(r'<span.*?</span>', '', shown[1], flags=re.S) == ''
  assert '</pre><b>' not in html and '&lt;/pre&gt;&lt;b&gt;' in html


def test_page_says_what_was_kept_and_saved_and_where(html):
  title = re.search(r'<h1>(.*?)</h1>', html)[1]
  assert title == '21.0\u202f% less compute, 0.4\u202f% higher perplexity'
  for fact in (
    'entropy',
    'copy_state',
    'select split',
    'test split',
    'ab' * 32,
    '2a71f64',
    'configs/quickstart.py',
  ):
    assert fact in html, fact


def test_same_run_gives_the_same_bytes(run):
  before = _outputs(run)
  write_report(run)
  assert _outputs(run) == before


def test_figures_take_colours_and_fonts_from_the_page(run, html):
  svg = (run / 'figures' / 'quality_vs_compute.svg').read_text()
  assert 'currentColor' in svg and 'DejaVu' not in svg
  inline = re.search(r'<svg.*?</svg>', html, re.S)[0]
  assert 'var(--s1)' in inline
  assert html.count('<style') == 1  # a drawing's own would restyle the page
  assert not re.search('#[0-9a-f]{6}"', inline)


def test_csv_holds_every_row_of_the_sweep(run):
  rows = list(csv.DictReader(io.StringIO((run / 'sweep.csv').read_text())))
  expected = _results()['sweep']
  assert len(rows) == len(expected)
  assert float(rows[3]['ppl']) == expected[3]['ppl']
  assert rows[0]['threshold'] == ''
  assert [
    json.loads(r['threshold']) for r in rows if '[' in r['threshold']
  ] == [r['threshold'] for r in expected if isinstance(r['threshold'], list)]


def test_markdown_is_one_table(run):
  lines = (run / 'sweep.md').read_text().splitlines()
  cells = [re.split(r'(?<!\\)\|', line)[1:-1] for line in lines]
  assert len(lines) == 2 + len(_results()['sweep'])
  assert {len(c) for c in cells} == {11}
  assert all(re.fullmatch(' ---:? ', c) for c in cells[1])


@pytest.mark.parametrize(
  'threshold, compute',
  [
    (None, 1.0),
    ([None] * 4, 1.0),
    (0.9, 1.03),
    (0.9, 0.99999),
  ],
)
def test_no_saving_is_said_plainly(tmp_path, threshold, compute):
  results = _results()
  results['chosen']['threshold'] = threshold
  results['chosen']['test'] |= {'compute': compute, 'ppl_vs_full': 1.0}
  html = write_report(make_run(tmp_path, results)).read_text(encoding='utf-8')
  assert '<h1>No saving</h1>' in html
  assert 'less compute' not in html


def test_better_quality_is_not_called_a_loss():
  results = copy.deepcopy(_results())
  results['chosen']['test'] |= {'compute': 0.8, 'ppl_vs_full': 0.99}
  assert page_lib.headline(results)['title'] == (
    '20.0\u202f% less compute, 1.0\u202f% lower perplexity'
  )
  results['chosen']['test']['ppl_vs_full'] = 1.0001
  assert page_lib.headline(results)['title'].endswith('the same perplexity')


@pytest.mark.parametrize('name, mode', page_lib.INPUTS.items())
def test_missing_file_is_one_line_with_the_fix(tmp_path, name, mode):
  (make_run(tmp_path) / name).unlink()
  with pytest.raises(FileNotFoundError) as error:
    write_report(tmp_path)
  assert str(error.value) == (
    f'{tmp_path / name} is missing; make it with --mode={mode}'
  )


def test_damaged_file_is_one_line(tmp_path):
  (make_run(tmp_path) / 'results.json').write_text('{"seed": ')
  with pytest.raises(ValueError, match=r'results.json is not JSON') as error:
    write_report(tmp_path)
  assert '\n' not in str(error.value)


def test_minimal_results_still_make_a_page(tmp_path):
  results = _results()
  for key in ('oracle', 'calibration', 'provenance'):
    del results[key]
  write_report(make_run(tmp_path, results))
  assert not (tmp_path / 'figures' / 'reliability.svg').exists()


def test_speed_is_told_beside_what_was_expected(timed):
  words = _words(_speed_section(timed)[0])
  for fact in (
    'At the chosen thresholds the decoder writes 7 400 tokens a second '
    'instead of 6 100: 1.21 times as fast, where the FLOPs promise 1.36 '
    'times.',
    '1 016 tokens per point and round, 5 rounds, batch size 1, on cpu <A&B>',
    'off 3.220 6 100 (6 010–6 210) 1.00 1.00 100.0 %',
    '0.95, 0.74, never, last (chosen) 3.246 7 400 (7 310–7 510) 1.21 1.36 '
    '89.2 %',
    '0.2 5.152 12 346 (12 256–12 456) 2.02 3.10 65.3 %',
    'One head costs as much as 0.33 layers.',
  ):
    assert fact in words, fact
  assert 'No saving' not in words


def test_readout_pays_where_enough_tokens_stop(timed):
  words = _words(_speed_section(timed)[0])
  assert words.endswith(
    'layer 2 5.0 % 31.0 % pays layer 4 35.0 % 30.0 % does '
    'not pay layer 6 10.0 % – never asked'
  )


@pytest.mark.parametrize('speedup', [0.93, 1.0199])
def test_no_saving_on_the_clock_is_said_plainly(tmp_path, speedup):
  speed = _speed()
  speed['points'][2] |= {
    'tokens_per_second': 6100 * speedup,
    'speedup': speedup,
  }
  write_report(make_run(tmp_path, {**_results(), 'speed': speed}))
  words = _words(_speed_section(tmp_path)[0])
  assert (
    f'{speedup:.2f} times as fast, where the FLOPs promise 1.36 times.' in words
  )
  assert words.startswith('Speed No saving on the clock: at the chosen')


def test_speed_of_a_run_that_never_exits(tmp_path):
  speed = _speed()
  speed['points'] = [{**speed['points'][0], 'chosen': True}]
  speed['break_even'] = []
  write_report(make_run(tmp_path, {**_results(), 'speed': speed}))
  words = _words(_speed_section(tmp_path)[0])
  assert words.startswith('Speed No saving on the clock: no token stops early')
  assert 'instead of' not in words and 'One head' not in words


def test_speed_figure_shows_every_point_of_use(timed):
  wide = (timed / 'figures' / 'speed.svg').read_text(encoding='utf-8')
  for text in (
    'tokens per second',
    'perplexity (test)',
    'measured speed-up',
    'as expected',
    'without exits',
    'chosen point',
  ):
    assert f'>{text}</text>' in wide, text
  section = _speed_section(timed)[0]
  assert section.count('<svg') == 2 and 'class="narrow"' in section
  # 0.2 is off the figure, and the page says so.
  assert 'only in the table' in _words(section)


@pytest.mark.parametrize('without', [{}, {'speed': None}])
def test_page_without_speed_is_the_page_as_before(tmp_path, timed, without):
  page = write_report(make_run(tmp_path, {**_results(), **without}))
  assert _speed_section(tmp_path) is None
  assert not (tmp_path / 'figures' / 'speed.svg').exists()
  timed_html = (timed / 'report.html').read_text(encoding='utf-8')
  rest = timed_html.replace(_speed_section(timed)[0], '')
  assert page.read_text(encoding='utf-8') == rest
