"""Twenty TALENT tasks, every method: the comparison that claims are made from.

    python -m genre2_jax.benchmark --config=configs/talent_twenty.py \
      --config.root=TALENT --workdir=runs/talent_twenty

Seventeen methods on twenty tasks are 340 runs; several processes can share
them: --index=0 --count=4.

The tasks follow a rule that looks at nothing but row counts. Of the 44 tasks of
a folder of TALENT tasks, ordered by training rows (at equal rows by name), the
26 with at most 6,500 training rows; of those, numbered from 0, the twenty at
round(i · 25 / 19), i = 0 .. 19. No task is left out for its results, nor for
being akin to another.
"""

from ml_collections import ConfigDict

TASKS = (  # training rows
  'chscase_foot',  # 336
  'housing_price_prediction',  # 348
  'qsar_fish_toxicity',  # 580
  'concrete_compressive_strength',  # 659
  'treasury',  # 671
  'Moneyball',  # 788
  'airfoil_self_noise',  # 961
  'Wine_Quality_red',  # 1023
  'us_crime',  # 1276
  'CPMP-2015-regression',  # 1348
  'NHANES_age_prediction',  # 1457
  'analcatdata_supreme',  # 2592
  'SAT11-HAND-runtime-regression',  # 2841
  'wine+quality',  # 4157
  'wind',  # 4207
  'Bias_correction_r_2',  # 4944
  'bank8FM',  # 5242
  'cpu_act',  # 5242
  'puma32H',  # 5242
  'combined_cycle_power_plant',  # 6123
)
METHODS = (
  'ce',
  'ntl_was',
  'ntl_mse',
  'dist2',
  'raft',
  'crps',
  'remax',
  'grpo',
  'rloo',
  'exact',
  'genre2',
  'best',
  'pointwise',
  'riemann',
  'catboost',
  'xgboost',
  'random_forest',
)
# A small model and few steps: sizes that finish on 2 CPU cores. Fixed before
# any of these tasks was run at them.
SIZES = (
  ('batch_size', 64),
  ('model.width', 64),
  ('model.num_layers', 2),
  ('model.feedforward', 128),
  ('model.encoder_hidden', 256),
  ('model.encoder_layers', 2),
  ('model.head_hidden', 256),
  ('tokenizer.base', 4),
  ('tokenizer.digits', 4),
  ('pretrain.learning_rate', 1e-3),
  ('pretrain.max_steps', 1200),
  ('pretrain.patience', 15),
  ('finetune.learning_rate', 3e-4),
  ('finetune.epochs', 100),
  ('finetune.max_steps', 240),
  ('finetune.patience', 8),
  ('report', False),
)


def get_config():
  """Tasks, methods and what all runs have in common."""
  config = ConfigDict()
  config.root = ''  # folder of TALENT tasks
  config.tasks = TASKS
  config.methods = METHODS
  config.seed = 0  # seed, seed + 1, ... go through one program
  config.num_seeds = 1
  config.fields = SIZES  # (field, value) for every recipe
  # Method -> module in configs/, and (field, value) for it alone.
  config.recipes = ConfigDict(
    {method: (f'{method}_talent', ()) for method in METHODS}
  )
  config.lock()
  return config
