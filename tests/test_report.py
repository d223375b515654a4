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
  return {'nll': nll, 'ppl': ppl, 'bits_per_byte': nll / math.log(2),
          'accuracy': 0.9 - 0.16 * nll}  # pyformat: disable


def _row(split, signal, policy, threshold, compute, excess):
  early = max(0.0, 1.3 * (1 - compute))
  row = {
      'split': split, 'signal': signal, 'kv_policy': policy,
      'threshold': threshold, 'compute': compute,
      'layer_fraction': compute - 0.02, 'mean_readout': 3 - 2 * early,
      'exit_fraction': [0.2 * early, 0.5 * early, 0.3 * early, 1 - early],
      **_quality(FULL_PPL * excess * (1.01 if split == 'select' else 1)),
  }  # pyformat: disable
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
      rows.append(_row(
          split, signal, 'copy_state', [0.9 - 0.1 * i, 0.8, None, None],
          0.86 - 0.05 * i - 0.01 * s, 1.001 + 0.003 * i**2))
  return rows


def _results():
  sweep = _sweep('select') + _sweep('test')
  chosen = next(r for r in sweep if r['split'] == 'test'
                and r['signal'] == 'entropy'
                and isinstance(r['threshold'], list)
                and r['ppl'] > 1.002 * FULL_PPL)  # pyformat: disable
  costs, ppls = (0.27, 0.52, 0.76, 1.0), (4.6, 3.55, 3.3, FULL_PPL)
  return {
      'seed': 0,
      'model': {'params': 1_234_567, 'segments': 1, 'layers': 8,
                'vocab_size': 257},
      'data': {'source': 'stdlib', 'tokenizer': 'byte', 'sha256': 'ab' * 32,
               'train_tokens': 9_300_000, 'select_tokens': 510_000,
               'test_tokens': 498_123},
      'train': {'steps': 1500, 'tokens': 3_072_000, 'flops': 2.4e13,
                'wall_s': 212.4, 'tokens_per_s': 14463.2},
      'readouts': [
          {'segment': 1, 'layer': layer, 'cost_flops': 1e6 * cost,
           'cost': cost, 'layer_fraction': layer / 8,
           'select': _quality(1.01 * ppl), 'test': _quality(ppl)}
          for layer, cost, ppl in zip(LAYERS, costs, ppls)
      ],
      'sweep': sweep,
      'chosen': {
          'rule': 'lowest compute with select ppl <= 1.01 x full',
          'signal': 'entropy', 'threshold': chosen['threshold'],
          'kv_policy': 'copy_state',
          'select': {'ppl': 3.27, 'compute': 0.73, 'ppl_vs_full': 1.009},
          'test': {'ppl': chosen['ppl'], 'compute': chosen['compute'],
                   'ppl_vs_full': chosen['ppl'] / FULL_PPL,
                   'exit_fraction': chosen['exit_fraction']},
      },
      'oracle': [
          {'split': split, 'kv_policy': 'recompute', 'nll': math.log(2.71),
           'ppl': 2.71, 'compute': 0.58, 'layer_fraction': 0.55,
           'exit_fraction': [0.4, 0.3, 0.2, 0.1]}
          for split in ('select', 'test')
      ],
      'calibration': [
          {'segment': 1, 'layer': layer, 'ece': 0.01 + 0.004 * k,
           'bins': [{'confidence': (b + 0.5) / 15,
                     'accuracy': ((b + 0.5) / 15) ** (1 + 0.15 * k),
                     'count': 100 + b**3} for b in range(15)]}
          for k, layer in enumerate(LAYERS)
      ],
      'provenance': {
          'command': 'python -m ease_jax.main --config=configs/quickstart.py '
                     '--workdir=runs/quickstart',
          'versions': {'jax': '0.10.2', 'ease_jax': '0.1.0'},
          'commit': '2a71f64', 'date': '2026-01-01T00:00:00+00:00',
          'platform': 'Linux x86_64, cpu',
      },
  }  # pyformat: disable


def _metrics():
  lines = [
      {'step': s, 'time': 1.0 * s, 'split': 'train', 'tokens_per_s': 14e3,
       'loss': 1.3 + 4.2 * math.exp(-s / 150) + 0.05 * math.sin(s)}
      for s in range(20, 1501, 20)
  ]  # pyformat: disable
  return lines + [
      {'step': s, 'time': 1.0 * s, 'split': 'select',
       'loss': 1.25 + 3.9 * math.exp(-s / 160)}
      for s in range(200, 1501, 200)
  ]  # pyformat: disable


def _passage():
  tokens = []
  for i, char in enumerate(SOURCE):
    nll = 2.5 * abs(math.sin(0.7 * i)) ** 4
    exit = min(3, int(2.5 * nll))
    tokens.append({'text': char, 'prob': math.exp(-nll), 'exit': exit,
                   'layer': LAYERS[exit], 'nll': nll})  # pyformat: disable
  return {'split': 'test', 'tokens': tokens}


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


def _outputs(workdir):
  names = {'report.html', 'sweep.csv', 'sweep.md'}
  files = [workdir / n for n in names] + list(workdir.glob('figures/*.svg'))
  return {f.relative_to(workdir).as_posix(): f.read_bytes() for f in files}


def test_every_file_of_the_contract_is_written(run):
  assert sorted(_outputs(run)) == [
      'figures/exit_histogram.svg', 'figures/quality_vs_compute.svg',
      'figures/reliability.svg', 'figures/training_curves.svg',
      'report.html', 'sweep.csv', 'sweep.md',
  ]  # pyformat: disable


def test_page_asks_the_network_for_nothing(html):
  assert not re.search(r'\b(src|href)\s*=\s*(?!"#)', html)
  assert not re.search(r'url\((?!#)', html)
  assert '@import' not in html and '<script src' not in html
  # The only address left is one that the passage's own text contains.
  assert 'http' not in re.sub(r'<span class="t.*?</span>', '', html)


def test_ids_of_the_page_are_unique_and_references_resolve(html):
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
  for fact in ('entropy', 'copy_state', 'select split', 'test split',
               'ab' * 32, '2a71f64', 'configs/quickstart.py'):
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
  assert [json.loads(r['threshold']) for r in rows if '[' in r['threshold']] \
      == [r['threshold'] for r in expected if isinstance(r['threshold'], list)]


def test_markdown_is_one_table(run):
  lines = (run / 'sweep.md').read_text().splitlines()
  cells = [re.split(r'(?<!\\)\|', line)[1:-1] for line in lines]
  assert len(lines) == 2 + len(_results()['sweep'])
  assert {len(c) for c in cells} == {11}
  assert all(re.fullmatch(' ---:? ', c) for c in cells[1])


@pytest.mark.parametrize('threshold, compute', [
    (None, 1.0), ([None] * 4, 1.0), (0.9, 1.03), (0.9, 0.99999),
])  # pyformat: disable
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
      '20.0\u202f% less compute, 1.0\u202f% lower perplexity')
  results['chosen']['test']['ppl_vs_full'] = 1.0001
  assert page_lib.headline(results)['title'].endswith('the same perplexity')


@pytest.mark.parametrize('name, mode', page_lib.INPUTS.items())
def test_missing_file_is_one_line_with_the_fix(tmp_path, name, mode):
  (make_run(tmp_path) / name).unlink()
  with pytest.raises(FileNotFoundError) as error:
    write_report(tmp_path)
  assert str(error.value) == (
      f'{tmp_path / name} is missing; make it with --mode={mode}')


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


# -------------------------------------------------------------------- speed


def _speed(speedup=1.21):
  def point(threshold, rate, gain, **fields):
    return dict(
        threshold=threshold, signal='max_prob', kv_policy='copy_state',
        ppl=3.2, ppl_vs_full=1.01, tokens_per_second=rate,
        tokens_per_second_low=rate - 100.0, tokens_per_second_high=rate + 150.0,
        speedup=gain, expected_speedup=1.36, compute=0.735,
        chosen=False) | fields  # pyformat: disable

  readout = lambda layer, needed, stopped, active: dict(
      segment=1, layer=layer, needed=needed, stopped=stopped, active=active)
  return {
      'tokens': 1016, 'rounds': 5, 'batch_size': 1, 'device': 'abacus',
      'split': 'test', 'head_layers': 0.33,
      'points': [
          point(None, 6123.0, 1.0, expected_speedup=1.0, ppl_vs_full=1.0),
          point(0.9, 6123.0 * speedup, speedup, chosen=True),
          point(0.3, 9000.0, 1.5, expected_speedup=2.0, ppl_vs_full=1.5),
      ],
      'break_even': [
          readout(2, 0.05, 0.31, True), readout(4, 0.08, 0.02, True),
          readout(6, 0.11, 0.0, False)],
  }  # pyformat: disable


def _speed_page(folder, speed):
  write_report(make_run(folder, _results() | {'speed': speed}))
  html = (folder / 'report.html').read_text(encoding='utf-8')
  section = re.search(r'<h2>Speed</h2>.*?</section>', html, re.S)
  plain = lambda x: ' '.join(re.sub('<[^>]*>', ' ', x).split())
  return section and section[0], section and plain(section[0])


def test_measured_speed_stands_beside_the_expected_one(tmp_path):
  section, text = _speed_page(tmp_path, _speed())
  assert (
      'the decoder writes 7 409 tokens a second instead of 6 123: '
      '1.21 times as fast, where the FLOPs promise 1.36 times.') in text
  for fact in ('1 016 tokens per point and round', '5 rounds',
               'batch size 1', 'on abacus', '(chosen)', '89.0 %'):
    assert fact in text, fact
  assert (tmp_path / 'figures' / 'speed.svg').exists()
  assert '<svg' in section
  rows = re.findall(r'(?:pays|does not pay|never asked)</td>', section)
  assert rows == ['pays</td>', 'does not pay</td>', 'never asked</td>']
  assert '0.33 layers' in text


def test_no_saving_on_the_clock_is_said(tmp_path):
  _, text = _speed_page(tmp_path, _speed(1.01))
  assert 'No saving on the clock: at the chosen thresholds' in text
  assert '1.01 times as fast, where the FLOPs promise 1.36 times.' in text


def test_without_a_clock_there_is_no_section(tmp_path, html):
  for number, results in enumerate([_results(), _results() | {'speed': None}]):
    folder = tmp_path / str(number)
    folder.mkdir()
    write_report(make_run(folder, results))
    page = (folder / 'report.html').read_text(encoding='utf-8')
    assert '<h2>Speed</h2>' not in page and page == html
    assert not (folder / 'figures' / 'speed.svg').exists()
