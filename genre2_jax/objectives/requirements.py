"""What a loss asks of the run that it is part of."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requirements:
  """A loss declares them as `requires`; one that does not has these defaults.

  Attributes:
    rollout: what the sequence level wants to know of numbers beside their
      rewards, fields that a `Judgement` else leaves out: 'critic' (its values),
      'reference', 'best_tokens', 'last_values'.
    least_group: samples per input below which nothing is learnt.
    single_update: whether only the first update from a rollout is right, there
      being no ratio to the policy that wrote it.
    reads_reward: sequence level: whether the rewards make a difference.
    moves_alone: whether it changes the weights without another term.
    tokenizer: the only one that it works with, by name; '': any.
  """

  rollout: frozenset[str] = frozenset()
  least_group: int = 1
  single_update: bool = False
  reads_reward: bool = True
  moves_alone: bool = True
  tokenizer: str = ''


def of(loss: object) -> Requirements:
  """Those that a loss declares."""
  return getattr(loss, 'requires', Requirements())
