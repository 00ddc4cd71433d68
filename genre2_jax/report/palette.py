"""The colours of pages and figures, in light and in dark.

What draws uses the light ones; `themed` turns them into the page's variables,
so that figures follow the reader's scheme. Of text, and of marks with text, all
have a contrast of 4.5 : 1 or more to the background.
"""

import re

INK, SOFT, FAINT = '#1f2328', '#59636e', '#7d868f'
RULE, WASH, PAPER = '#d8dde2', '#f5f6f7', '#ffffff'
# Of stages and methods: they keep apart for colour-blind eyes.
COLORS = ('#0067a5', '#b84a00', '#007a58', '#a0447a', '#5a5fc0', '#7a6200')

# name of the variable -> (light, dark)
_SCHEMES = {
  'ink': (INK, '#e6e8eb'),
  'soft': (SOFT, '#a0a9b3'),
  'faint': (FAINT, '#7f8892'),
  'rule': (RULE, '#343a41'),
  'wash': (WASH, '#1e2226'),
  'paper': (PAPER, '#14171a'),
  **{
    f'series-{number}': pair
    for number, pair in enumerate(
      zip(
        COLORS,
        ('#5ab4f0', '#ff9a52', '#3ccb9b', '#efa0cb', '#aab0ff', '#efc14a'),
        strict=True,
      )
    )
  },
}
_NAMES = {light: name for name, (light, _) in _SCHEMES.items()}


def themed(text: str) -> str:
  """`#0067a5` -> `var(--series-0, #0067a5)`, of every colour in a text."""

  def variable(match: re.Match[str]) -> str:
    color = match[0].lower()
    name = _NAMES.get(color)
    return f'var(--{name}, {color})' if name else color

  return re.sub(r'#[0-9a-fA-F]{6}\b', variable, text)


def variables() -> str:
  """CSS that defines the variables, by what the reader prefers."""
  light, dark = (
    ' '.join(f'--{name}: {pair[place]};' for name, pair in _SCHEMES.items())
    for place in (0, 1)
  )
  return (
    f':root {{ color-scheme: light dark; {light} }}\n'
    f'@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n'
    f'@media print {{ :root {{ color-scheme: light; {light} }} }}'
  )
