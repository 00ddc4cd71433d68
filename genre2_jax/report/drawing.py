"""What the figures of a report are made of: one look, a few kinds of marks."""

import dataclasses
import html
import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.report import palette
from genre2_jax.report.inputs import Stage
from genre2_jax.report.palette import FAINT, INK, RULE, SOFT

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.8, 3.5  # inches: readable on a phone, two to a row elsewhere
STYLE: dict[Any, Any] = {
  'axes.axisbelow': True,
  'axes.edgecolor': FAINT,
  'axes.facecolor': 'none',
  'axes.grid': True,
  'axes.labelcolor': INK,
  'axes.labelsize': 10,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'axes.titlecolor': INK,
  'axes.titlesize': 10.5,
  'figure.facecolor': 'none',
  'font.size': 9.5,
  'grid.color': RULE,
  'legend.fontsize': 9.5,
  'legend.frameon': False,
  'legend.labelcolor': INK,
  'svg.fonttype': 'none',  # text stays text, in the page's font
  'text.color': INK,
  'text.parse_math': False,  # a column may be called '$'
  'xtick.color': SOFT,
  'ytick.color': SOFT,
}


@dataclasses.dataclass(frozen=True)
class Panel:
  """A figure.

  Attributes:
    name: unique on its page, and that of its file.
    caption: below it.
    says: what is to be seen, for those who do not see it.
    svg: for a page that defines the palette's variables.
  """

  name: str
  caption: str
  says: str
  svg: str

  def file(self) -> str:
    """A file of its own, which follows the reader's scheme as well."""
    style = f'<style>{palette.variables()} svg {{ font-family: sans-serif }}'
    head, body = self.svg.split('>', 1)
    head = head.replace('<svg', '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f'{head}>{style}</style>{body}'


@dataclasses.dataclass(frozen=True)
class Section:
  """Figures about one thing, and what they have in common."""

  title: str
  text: str
  panels: Sequence[Panel]


# name, caption, what is to be seen, figure
Panels = Iterator[tuple[str, str, str, 'Figure']]


def draw(
  sections: Iterable[tuple[str, str, Callable[[Any], Panels]]], shown: Any
) -> list[Section]:
  """Sections (title, text, what draws panels of `shown`) that have panels."""
  import matplotlib  # slow to import, and only a report needs it

  drawn = []
  with matplotlib.rc_context(STYLE):
    for title, text, panels in sections:
      made = [
        Panel(name, caption, says, svg(figure, name, says))
        for name, caption, says, figure in panels(shown)
      ]
      if made:
        drawn.append(Section(title, text, made))
  return drawn


def panel(height: float = HEIGHT) -> tuple['Figure', 'Axes']:
  """A figure with one pair of axes, `height` in inches."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(WIDTH, height), layout='constrained')
  return figure, figure.subplots()


def svg(figure: 'Figure', name: str, says: str) -> str:
  """A figure as an element of a page; the same figure gives the same text."""
  import matplotlib

  buffer = io.StringIO()
  nothing = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
  # Names inside it are unique on the page: they are salted with the figure's.
  with warnings.catch_warnings(), matplotlib.rc_context({'svg.hashsalt': name}):
    # A name may use letters that matplotlib's font lacks; the page has them.
    warnings.filterwarnings('ignore', 'Glyph .* missing')
    figure.savefig(buffer, format='svg', metadata=nothing)
  text = buffer.getvalue()
  (size,) = re.findall(r'viewBox="([^"]*)"', text)
  body = re.sub(
    r'<style.*?</style>', '', text[text.index('<svg') :], flags=re.S
  )
  body = body.split('>', 1)[1].strip()
  used = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
  body = re.sub(r'<[^>]*>', lambda tag: _tag(tag[0], used), body)
  body = re.sub(r'>\s+<', '><', body)
  label = html.escape(says)
  return f'<svg viewBox="{size}" role="img" aria-label="{label}">{body}'


def _tag(tag: str, used: set[str]) -> str:
  """A tag of matplotlib's, without what a page has no use for."""
  tag = ' '.join(tag.split())
  tag = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else '', tag)
  tag = re.sub(r' transform="rotate\(-0 [^"]*"', '', tag)
  tag = re.sub(r'font-family: [^;"]*(; |(?="))', '', tag)
  tag = re.sub(r'-?\d+\.\d{3,}', lambda m: f'{float(m[0]):.2f}', tag)
  return palette.themed(tag.replace('xlink:href', 'href'))


def seed_lines(
  ax: 'Axes',
  x: ArrayLike,
  curves: Sequence[ArrayLike] | np.ndarray,
  label: str,
  **look: Any,
) -> None:
  """A thin line per seed, if there are several, and their mean.

  x is [K], curves are [S, K].
  """
  if len(curves) > 1:
    thin = {'linewidth': 0.6, 'alpha': 0.45, 'marker': None}
    for curve in curves:
      ax.plot(x, curve, **look | thin)
  ax.plot(
    x,
    np.mean(np.asarray(curves), axis=0),
    label=label,
    **{'linewidth': 1.8} | look,
  )


def histograms(
  ax: 'Axes',
  stages: Sequence[Stage],
  values: Sequence[np.ndarray] | np.ndarray,
  span: tuple[float, float],
  labels: Sequence[str],
  num_bins: int = 24,
) -> None:
  """Shares per bin; what lies beyond the span is in the outermost bins."""
  edges = np.linspace(*span, num_bins + 1)
  for stage, numbers, label in zip(stages, values, labels, strict=True):
    counts, _ = np.histogram(np.clip(numbers, *span), edges)
    stairs(ax, counts / len(numbers), edges, stage, label)
  ax.set_xlim(span)
  ax.yaxis.set_major_formatter(percent)


def stairs(
  ax: 'Axes',
  heights: np.ndarray,
  edges: np.ndarray,
  stage: Stage,
  label: str,
) -> None:
  """A filled outline: heights [B] between edges [B + 1]."""
  ax.stairs(heights, edges, color=stage.color, linewidth=1.6, label=label)
  ax.stairs(heights, edges, color=stage.color, alpha=0.15, fill=True)


def legend_above(ax: 'Axes') -> None:
  """Outside the axes, where no line runs through it; long ones in a column."""
  _, labels = ax.get_legend_handles_labels()
  ax.legend(
    loc='lower left',
    bbox_to_anchor=(0, 1),
    ncols=len(labels) if sum(map(len, labels)) < 36 else 1,
    borderaxespad=0,
    borderpad=0.2,
    columnspacing=1.2,
    handlelength=1.2,
  )


def few_ticks(ax: 'Axes', axis: str = 'both', count: int = 5) -> None:
  """So few that their labels do not collide, however long they are."""
  for name in ('x', 'y') if axis == 'both' else (axis,):
    ax.locator_params(axis=name, nbins=count)


def plain_ticks(ax: 'Axes', axis: str) -> None:
  """120,000 rather than 1.2 above 1e5, as the text writes numbers."""
  getattr(ax, f'{axis}axis').set_major_formatter(lambda value, _: _tick(value))


def _tick(value: float) -> str:
  if value and not 1e-4 <= abs(value) < 1e7:
    return f'{value:.3g}'.replace('-', '\N{MINUS SIGN}')
  decimals = 0 if abs(value) >= 1000 else 6
  text = f'{value:,.{decimals}f}'
  text = text.rstrip('0').rstrip('.') if '.' in text else text
  return text.replace('-', '\N{MINUS SIGN}')


def wrapped(text: str) -> str:
  """An axis label that wraps rather than leaves the figure."""
  return textwrap.fill(text, 42)


def padded(low: float, high: float, share: float) -> tuple[float, float]:
  """The range, `share` of its width longer at each end, and never empty."""
  pad = share * (high - low) or max(abs(low), 1.0) * share
  return low - pad, high + pad


def percent(share: float, _: float) -> str:
  """Label of a tick: 0.9 is 90%."""
  return f'{100 * share:.3g}%'
