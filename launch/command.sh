# shellcheck shell=bash
# What all launchers share: variables, the command, printing it, waiting for it.
# Sourced, never run. Bash 3.2, which macOS has, is enough.

MOUNT=/mnt/genre2 # where TPU VMs and pods see the bucket
ABORTED=134       # SIGABRT: how jax ends a process that lost another

# fail MESSAGE [CODE]: one line on stderr, then exits.
fail() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  exit "${2:-1}"
}

say() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
}

# require NAME MEANING EXAMPLE: exits with 2 if the variable is unset or empty.
require() {
  [[ -n ${!1:-} ]] || fail "$1 is not set: $2, as in $1=$3" 2
}

# require_flag NAME: a variable that is 0 or 1.
require_flag() {
  [[ ${!1} == [01] ]] || fail "$1=${!1}: set it to 0 or 1" 2
}

# require_number NAME: a variable that is a whole number from 0 on.
require_number() {
  [[ ${!1} =~ ^[0-9]+$ ]] || fail "$1=${!1}: set it to a whole number" 2
}

# require_path NAME: not an address: the program knows file systems only.
require_path() {
  [[ ${!1} != *://* ]] ||
    fail "$1=${!1}: give a path; gs://BUCKET is mounted at $MOUNT" 2
}

# quote WORD...: one line that a shell reads as these words.
quote() {
  local word line=''
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
      word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'"
    fi
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# execute WORD...: runs them, or prints them under --dry-run.
execute() {
  if [[ $DRY_RUN == 1 ]]; then
    quote "$@"
  else
    "$@"
  fi
}

# build_training PYTHON: COMMAND for one run of CONFIG in WORKDIR.
build_training() {
  COMMAND=(
    "$1" -m genre2_jax.main
    "--config=$CONFIG" "--workdir=$WORKDIR"
  )
  if [[ $DISTRIBUTED == 1 ]]; then COMMAND+=(--distributed); fi
  append_arguments
}

# build_benchmark PYTHON INDEX COUNT: COMMAND for one part of a benchmark.
build_benchmark() {
  COMMAND=(
    "$1" -m genre2_jax.benchmark
    "--config=$CONFIG" "--config.root=$DATA" "--workdir=$WORKDIR"
    "--index=$2" "--count=$3"
  )
  append_arguments
}

# append_arguments: the words of ARGS, quoted as for a shell, to COMMAND.
append_arguments() {
  local words word
  if [[ ! ${ARGS:-} =~ [^[:space:]] ]]; then return; fi
  # xargs splits as a shell would, but runs nothing.
  words=$(printf '%s\n' "$ARGS" | xargs printf '%s\n' 2>/dev/null) ||
    fail "ARGS=$ARGS: a quote is not closed" 2
  while IFS= read -r word; do COMMAND+=("$word"); done <<<"$words"
}

# forward PROCESS: hands SIGTERM on; slurm.sh has another way.
forward() {
  kill -TERM "$1"
}

# run_interruptible WORD...: runs them and returns their exit code, 75 of a
# run that was asked to leave, saved and is not finished. SIGTERM and SIGUSR1 are
# handed on by `forward`. SIGNAL says which came: USR1 stays.
run_interruptible() {
  local child='' count=0 seen code again
  SIGNAL=''
  trap 'receive TERM' TERM
  trap 'receive USR1' USR1
  "$@" &
  child=$!
  if [[ -n $SIGNAL ]]; then forward "$child" || true; fi
  seen=$count code=0
  wait "$child" || code=$?
  while ((count > seen)); do # A signal ended the wait, not the child.
    seen=$count again=0
    wait "$child" || again=$?
    if ((again != 127)); then code=$again; fi # 127: known already
  done
  if ((code == ABORTED)); then
    say "jax lost another process of the run, or had to abort: the same \
command in all processes goes on from the last checkpoint"
  fi
  return "$code"
}

receive() {
  ((count += 1))
  if [[ $SIGNAL != USR1 ]]; then SIGNAL=$1; fi
  if [[ -n $child ]]; then forward "$child" || true; fi
}
