"""What a loss asks of the run that it is part of."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requirements:
  """A loss declares its own as `requires`; without, it has these defaults.

  Attributes:
    rollout: what the sequence level reads of a rollout beside numbers and
      rewards, of 'critic' (its values), 'reference', 'best_tokens' and
      'last_values'; otherwise they are not computed.
    least_group: samples per input below which nothing is learnt.
    single_update: sequence level: whether a second update from the same rollout
      would be wrong, for want of a ratio to the policy that wrote it.
    reads_reward: sequence level: whether the rewards make a difference.
    moves_alone: whether it changes the weights without another term.
    most_targets: that it can learn at once; 0: any number.
    tokenizer: the only one that it works with, by name; '': any.
    covers_text: token level: whether it is a mean of −log p, and so looks at
      the free text before a number too, where there is any.
  """

  rollout: frozenset[str] = frozenset()
  least_group: int = 1
  single_update: bool = False
  reads_reward: bool = True
  moves_alone: bool = True
  most_targets: int = 0
  tokenizer: str = ''
  covers_text: bool = False


def of(loss: object) -> Requirements:
  """Those that a loss declares."""
  return getattr(loss, 'requires', Requirements())
