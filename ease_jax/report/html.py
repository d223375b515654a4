"""Pages and drawings as text, and numbers as people read them."""

import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jinja2
import markupsafe
from matplotlib.figure import Figure

from ease_jax.files import write_atomic
from ease_jax.report import drawing, svg

NARROW_SPACE = '\u202f'

Drawings = dict[str, tuple[str, str]]  # name -> wide and narrow SVG text
Data = TypeVar('Data')


def fill(template: str, **values: Any) -> str:
  """A page of `base.html`'s look from a template of this package."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('ease_jax', 'report'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    'percent': percent,
    'number': number,
    'ppl': perplexity,
    'rate': rate,
  }
  return environment.get_template(template).render(
    light=markupsafe.Markup(svg.css_variables(False)),
    dark=markupsafe.Markup(svg.css_variables(True)),
    **values,
  )


def percent(value: float) -> str:
  """0.347 -> 34.7 %, kept on one line."""
  return f'{100 * value:.1f}{NARROW_SPACE}%'


def number(value: float) -> str:
  """Large counts in groups of three, others with four digits."""
  if float(value).is_integer() and abs(value) < 1e12:
    return f'{int(value):,}'.replace(',', NARROW_SPACE)
  return f'{value:.4g}'


def perplexity(value: float) -> str:
  """Enough digits to see one part in a thousand."""
  return f'{value:.3f}' if value < 100 else f'{value:.1f}'


def rate(value: float) -> str:
  """Tokens per second: whole ones, or three digits of a few."""
  return number(round(value)) if value >= 100 else f'{value:.3g}'


def write(path: pathlib.Path, text: str) -> None:
  """Writes UTF-8, whatever the text is made of."""
  # A token can be half a character; a page must still be valid UTF-8.
  write_atomic(path, text.encode('utf-8', errors='replace'))


def draw(
  figure: Callable[[Data, float], Figure], data: Data
) -> tuple[str, str]:
  """The SVG text of a figure for screens, and that for phones.

  Args:
    figure: data and width in inches -> the figure.
    data: what it shows.
  """
  wide = svg.to_svg(figure(data, drawing.WIDE))
  narrow = svg.to_svg(figure(data, drawing.NARROW))
  return wide, narrow


def write_figures(workdir: pathlib.Path, drawings: Drawings) -> None:
  """The drawings for screens, as files of their own."""
  folder = workdir / 'figures'
  folder.mkdir(exist_ok=True)
  for name, (wide, _) in drawings.items():
    write(folder / f'{name}.svg', wide)


def inline(drawings: Drawings) -> dict[str, markupsafe.Markup]:
  """Each drawing as a part of a page, which shows the one that fits."""
  parts = {}
  for name, (wide, narrow) in drawings.items():
    title = name.replace('_', ' ')
    wide = svg.to_inline(wide, 'wide', f'{name}-wide', title)
    narrow = svg.to_inline(narrow, 'narrow', f'{name}-narrow', title)
    parts[name] = markupsafe.Markup(wide + narrow)
  return parts
