"""What the figures of a report are made of: one look, a few kinds of marks."""

import dataclasses
import io
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.report.inputs import Stage

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

INK, FAINT = '#222222', '#8a8a8a'
WIDTH, HEIGHT = 4.8, 3.5  # inches
STYLE: dict[Any, Any] = {
  'axes.axisbelow': True,
  'axes.edgecolor': FAINT,
  'axes.grid': True,
  'axes.labelsize': 9.5,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'axes.titlesize': 10,
  'font.size': 9,
  'grid.color': '#e8e8e8',
  'legend.fontsize': 8.5,
  'legend.frameon': False,
  'text.parse_math': False,  # a column may be called '$'
  'xtick.color': '#444444',
  'ytick.color': '#444444',
}


@dataclasses.dataclass(frozen=True)
class Panel:
  """A figure; its name is that of its file."""

  name: str
  caption: str
  png: bytes


@dataclasses.dataclass(frozen=True)
class Section:
  """Figures about one thing, and what they have in common."""

  title: str
  text: str
  panels: Sequence[Panel]


Panels = Iterator[tuple[str, str, 'Figure']]  # name, caption, figure


def draw(
  sections: Iterable[tuple[str, str, Callable[[Any], Panels]]], shown: Any
) -> list[Section]:
  """Sections (title, text, what draws panels of `shown`) that have panels."""
  import matplotlib  # slow to import, and only a report needs it

  drawn = []
  with matplotlib.rc_context(STYLE):
    for title, text, panels in sections:
      made = [
        Panel(name, caption, png(figure))
        for name, caption, figure in panels(shown)
      ]
      if made:
        drawn.append(Section(title, text, made))
  return drawn


def panel(height: float = HEIGHT) -> tuple['Figure', 'Axes']:
  """A figure with one pair of axes, `height` in inches."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(WIDTH, height), layout='constrained')
  return figure, figure.subplots()


def png(figure: 'Figure') -> bytes:
  """The file of a figure; the same figure gives the same bytes."""
  buffer = io.BytesIO()
  with warnings.catch_warnings():
    # A name may use letters that the font lacks: boxes will do.
    warnings.filterwarnings('ignore', 'Glyph .* missing')
    figure.savefig(buffer, format='png', dpi=200, metadata={'Software': None})
  return buffer.getvalue()


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
    ncols=len(labels) if sum(map(len, labels)) < 40 else 1,
    borderaxespad=0,
    borderpad=0.2,
    columnspacing=1.2,
    handlelength=1.2,
  )


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
