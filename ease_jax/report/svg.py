"""The look of the figures, and SVG that takes on the page around it.

Figures are drawn in the light palette below. Inside the page every one of
these colours becomes a CSS variable, so that figures follow dark mode; as
files of their own they keep the colours and only the ink adapts.
"""

import contextlib
import functools
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# CSS variable -> colour on white, colour on black. The series are told apart
# by people with any common colour vision (after Okabe and Ito), and markers
# differ as well.
PALETTE = {
  'paper': ('#ffffff', '#15171c'),
  'depth': ('#4d4ac0', '#9d9bff'),
  's1': ('#0072b2', '#5ab4ec'),
  's2': ('#d55e00', '#ff9150'),
  's3': ('#009e73', '#3ccfa3'),
  's4': ('#b4578f', '#e79cc8'),
  's5': ('#a97b00', '#e8bd4a'),
  's6': ('#5f6f7f', '#a9b7c6'),
}
INK = '#1f2328'
PAPER = PALETTE['paper'][0]
DEPTH = PALETTE['depth'][0]
SERIES = tuple(PALETTE[f's{i}'][0] for i in range(1, 7))

THEME: Any = {
  'svg.fonttype': 'none',
  'svg.hashsalt': 'ease_jax',
  'font.size': 9.5,
  'axes.titlesize': 9.5,
  'axes.titlelocation': 'left',
  'axes.titlepad': 9,
  'axes.facecolor': 'none',
  'figure.facecolor': 'none',
  'savefig.facecolor': 'none',
  'figure.constrained_layout.use': True,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.linewidth': 0.7,
  'axes.edgecolor': INK,
  'axes.labelcolor': INK,
  'axes.axisbelow': True,
  'axes.grid': True,
  'grid.color': INK,
  'grid.alpha': 0.12,
  'grid.linewidth': 0.6,
  'text.color': INK,
  'text.parse_math': False,  # names of variants are text
  'xtick.color': INK,
  'ytick.color': INK,
  'xtick.major.size': 0,
  'ytick.major.size': 0,
  'legend.frameon': False,
  'legend.handlelength': 2.2,
  'lines.solid_capstyle': 'round',
}

_OWN_STYLE = (
  '<style>svg{font-family:system-ui,sans-serif;color:#1f2328}'
  '@media (prefers-color-scheme:dark){svg{color:#d5d8de}}'
  '*{stroke-linejoin:round}</style>'
)
_METADATA = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))


@contextlib.contextmanager
def theme() -> Iterator[None]:
  """The theme alone, whatever the user's own matplotlib settings."""
  with matplotlib.rc_context():
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(THEME)
    yield


def themed(draw: Callable[..., Figure]) -> Callable[..., Figure]:
  """A drawing function that draws in the theme."""

  @functools.wraps(draw)
  def wrapper(*args: Any, **kwargs: Any) -> Figure:
    with theme():
      return draw(*args, **kwargs)

  return wrapper


def shade(readout: int, num: int) -> float:
  """Opacity of the depth colour; a token's ink stays readable on the last.

  Args:
    readout: its number, from 0.
    num: of readouts.
  """
  depth = readout / (num - 1) if num > 1 else 1.0
  return 0.06 + 0.5 * depth


def to_svg(figure: Figure) -> str:
  """A self-contained SVG file; the same figure gives the same bytes."""
  buffer = io.StringIO()
  with theme():  # some settings count when a figure is saved
    figure.savefig(buffer, format='svg', metadata=_METADATA)
  text = buffer.getvalue()
  text = text[text.index('<svg') :].replace(INK, 'currentColor')
  # Fonts come from the page. matplotlib writes them in one of two ways.
  text = re.sub(r'font-family: [^;"]*;? ?', '', text)
  text = re.sub(
    r"font: ([^'\";]*? )?([\d.]+px) '[^;\"]*", r'font-size: \2', text
  )
  text = re.sub(r'<style type="text/css">.*?</style>', _OWN_STYLE, text)
  return text.replace('xlink:href', 'href')


def to_inline(svg: str, kind: str, name: str, title: str) -> str:
  """The same drawing as a part of a page: its colours are CSS variables.

  Args:
    svg: what `to_svg` returned.
    kind: its CSS class.
    name: prefix that keeps ids apart when a page holds several drawings.
    title: one escaped sentence for those who cannot see it.
  """
  svg = svg.replace(_OWN_STYLE, '')
  box = re.search(r'viewBox="[^"]*"', svg)
  assert box
  svg = re.sub(
    r'<svg[^>]*>',
    f'<svg {box.group()} class="{kind}" role="img" aria-label="{title}">',
    svg,
    count=1,
  )
  svg = re.sub(r'\bid="', f'id="{name}-', svg)
  svg = re.sub(r'href="#', f'href="#{name}-', svg)
  svg = re.sub(r'url\(#', f'url(#{name}-', svg)
  for variable, (light, _) in PALETTE.items():
    svg = svg.replace(light, f'var(--{variable})')
  return svg


def css_variables(dark: bool) -> str:
  """The palette as CSS declarations."""
  lines = []
  for name, (on_white, on_black) in PALETTE.items():
    lines.append(f'--{name}:{on_black if dark else on_white};')
  return ''.join(lines)
