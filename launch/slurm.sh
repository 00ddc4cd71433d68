# shellcheck shell=bash
# What the Slurm scripts share; sourced after command.sh, never run.

# parse ARGUMENT...: DRY_RUN; there is nothing else to say.
parse() {
  DRY_RUN=0
  local word
  for word in "$@"; do
    if [[ $word != --dry-run ]]; then
      fail "unknown word $word: the only one is --dry-run" 2
    fi
    DRY_RUN=1
  done
}

# srun makes SIGTERM a SIGKILL of its tasks; scancel --signal leaves it as it is
# and spares the batch script.
forward() {
  scancel --quiet --signal=TERM "$SLURM_JOB_ID"
}

# run_step: COMMAND in all tasks of the job; at the time limit it saves and the
# job goes back into the queue. After a preemption Slurm does that by itself.
run_step() {
  local step=(srun --kill-on-bad-exit=1) code=0
  # srun does not take it over from sbatch.
  if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then
    step+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
  fi
  execute cd "$ROOT"
  if [[ $DRY_RUN == 1 ]]; then
    quote "${step[@]}" "${COMMAND[@]}"
    echo '# before the time limit (SIGUSR1):'
    echo "scancel --quiet --signal=TERM \"\$SLURM_JOB_ID\""
    echo "scontrol requeue \"\$SLURM_JOB_ID\""
    return
  fi
  run_interruptible "${step[@]}" "${COMMAND[@]}" || code=$?
  if [[ $SIGNAL == USR1 ]]; then
    say 'time limit: back into the queue'
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
}
