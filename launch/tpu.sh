#!/usr/bin/env bash
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/command.sh
source "$ROOT/launch/command.sh"

usage() {
  cat <<'END'
A run on a slice of Cloud TPU, one host or many, by a queued resource.

  tpu.sh [--dry-run] create   asks for the slice, waits until it is there
  tpu.sh [--dry-run] setup    copies the commit HEAD to all hosts, installs
  tpu.sh [--dry-run] run      runs to the end; after a preemption deletes,
                              creates, sets up, and goes on from the workdir
  tpu.sh [--dry-run] logs     follows the output of host 0
  tpu.sh [--dry-run] stop     ends the run, which saves; the slice stays
  tpu.sh [--dry-run] delete   gives the slice back: nothing else ends the bill

--dry-run prints the commands and runs none.

Variables that must be set:
  PROJECT          project of Google Cloud          my-project
  ZONE             zone that has the accelerator    us-west4-a
  ACCELERATOR      create, run: type and size       v5litepod-8, v5p-32
  BUCKET           setup, run: for the workdir      my-bucket

Variables that may be set:
  NAME             of slice and run                 genre2
  RUNTIME_VERSION  image of the VMs                 by ACCELERATOR
  SPOT             1: cheap, may be taken away      1
  CONFIG           recipe                           configs/remax_talent.py
  WORKDIR          path below /mnt/genre2, where BUCKET is mounted
                                                    /mnt/genre2/runs/NAME
  ARGS             more flags, quoted as for a shell
  DISTRIBUTED      1: all hosts are one run         1
  MAX_RESTARTS     new slices that run may ask for  20
  MAX_FAILURES     tries of run on a slice that is there  5
  POLL_SECONDS     between looks at its state       30
END
}

set_variables() {
  require PROJECT 'the project of Google Cloud that pays' my-project
  require ZONE 'a zone that has the accelerator' us-west4-a
  NAME=${NAME:-genre2}
  CONFIG=${CONFIG:-configs/remax_talent.py}
  WORKDIR=${WORKDIR:-$MOUNT/runs/$NAME}
  SPOT=${SPOT:-1}
  DISTRIBUTED=${DISTRIBUTED:-1}
  MAX_RESTARTS=${MAX_RESTARTS:-20}
  MAX_FAILURES=${MAX_FAILURES:-5}
  POLL_SECONDS=${POLL_SECONDS:-30}
  require_flag SPOT
  require_flag DISTRIBUTED
  require_number MAX_RESTARTS
  require_number MAX_FAILURES
  require_number POLL_SECONDS
  require_path WORKDIR
  ARCHIVE=${TMPDIR:-/tmp}/genre2_jax-$NAME.tar.gz
}

require_accelerator() {
  require ACCELERATOR 'type and size of the slice' v5litepod-8
  if [[ -n ${RUNTIME_VERSION:-} ]]; then return; fi
  case $ACCELERATOR in
    v5litepod-*) RUNTIME_VERSION=v2-alpha-tpuv5-lite ;;
    v5p-*) RUNTIME_VERSION=v2-alpha-tpuv5 ;;
    v6e-*) RUNTIME_VERSION=v2-alpha-tpuv6e ;;
    v[234]-*) RUNTIME_VERSION=tpu-ubuntu2204-base ;;
    *) fail "ACCELERATOR=$ACCELERATOR: no image is known for it, set \
RUNTIME_VERSION to one of https://cloud.google.com/tpu/docs/runtimes" 2 ;;
  esac
}

require_bucket() {
  require BUCKET 'the bucket of the workdir, without gs://' my-bucket
  BUCKET=${BUCKET#gs://}
  if [[ $WORKDIR != "$MOUNT"/* ]]; then
    fail "WORKDIR=$WORKDIR: the disks of a slice go when it goes, give a path \
below $MOUNT" 2
  fi
}

# tpus GROUP VERB ARGUMENT...: a gcloud command on the project and zone.
tpus() {
  execute gcloud compute tpus "$@" "--project=$PROJECT" "--zone=$ZONE"
}

# on_workers WHICH COMMAND: by a shell on these hosts.
on_workers() {
  tpus tpu-vm ssh "$NAME" "--worker=$1" "--command=$2"
}

ask() {
  require_accelerator
  local options=(
    "--node-id=$NAME"
    "--accelerator-type=$ACCELERATOR"
    "--runtime-version=$RUNTIME_VERSION"
  )
  if [[ $SPOT == 1 ]]; then options+=(--spot); fi
  tpus queued-resources create "$NAME" "${options[@]}"
}

describe() {
  tpus queued-resources describe "$NAME" '--format=value(state.state)'
}

# find_state: sets NOW to the state of the queued resource, NONE without one,
# UNKNOWN if gcloud does not tell.
find_state() {
  local errors
  errors=$(mktemp)
  if ! NOW=$(describe 2>"$errors"); then
    NOW=NONE
    if ! grep -q -e NOT_FOUND -e 'was not found' "$errors"; then
      NOW=UNKNOWN
      cat "$errors" >&2
    fi
  fi
  rm -f "$errors"
}

pause() {
  sleep "$POLL_SECONDS"
}

create() {
  ask
  if [[ $DRY_RUN == 1 ]]; then
    describe
    return
  fi
  while find_state; [[ $NOW != ACTIVE ]]; do
    case $NOW in
      FAILED | SUSPENDED | NONE | UNKNOWN)
        fail "the slice is $NOW: look at gcloud compute tpus queued-resources \
describe $NAME --project=$PROJECT --zone=$ZONE, then tpu.sh delete" ;;
    esac
    say "$NOW: waiting, which costs nothing"
    pause
  done
  say 'ACTIVE: billed until tpu.sh delete'
}

setup() {
  require_bucket
  execute git -C "$ROOT" archive --format=tar.gz --prefix=genre2_jax/ \
    "--output=$ARCHIVE" HEAD &&
    tpus tpu-vm scp "$ARCHIVE" "$NAME:genre2_jax.tar.gz" --worker=all &&
    on_workers all "tar -xzf genre2_jax.tar.gz && $(
      quote env "BUCKET=$BUCKET" genre2_jax/launch/worker.sh setup
    )"
}

join() {
  on_workers all "cd genre2_jax || exit 127; $(
    quote env "BUCKET=$BUCKET" launch/worker.sh run "${COMMAND[@]}"
  )"
}

# run.json appears when a run is finished, and only then.
is_finished() {
  on_workers 0 "$(quote test -e "$WORKDIR/run.json")"
}

stop() {
  on_workers all 'genre2_jax/launch/worker.sh stop'
}

logs() {
  on_workers 0 'genre2_jax/launch/worker.sh logs'
}

delete() {
  tpus queued-resources delete "$NAME" --force --quiet
}

run() {
  require_accelerator
  require_bucket
  build_training python
  if [[ $DRY_RUN == 1 ]]; then
    print_run
    return
  fi
  local restarts=0 failures=0 fresh=0
  while true; do
    find_state
    case $NOW in
      ACTIVE)
        if attend; then
          say 'finished; billed until tpu.sh delete'
          return
        fi
        count_failure
        ;;
      UNKNOWN) count_failure ;;
      NONE)
        say 'no slice: asking for one'
        ask
        fresh=1
        ;;
      SUSPENDED | FAILED)
        if ((++restarts > MAX_RESTARTS)); then
          fail "$NOW again after $MAX_RESTARTS restarts: tpu.sh delete"
        fi
        say "$NOW: restart $restarts of $MAX_RESTARTS"
        delete
        ask
        fresh=1 failures=0
        ;;
      *) say "$NOW: waiting" ;;
    esac
    pause
  done
}

count_failure() {
  if ((++failures > MAX_FAILURES)); then
    fail "$failures failures; what there is, is billed until tpu.sh delete"
  fi
}

# attend: the run on a slice that is there; true once it is finished.
attend() {
  local code=0
  if ((fresh)); then
    setup || return 1
    fresh=0
  fi
  join || code=$?
  case $code in
    0) is_finished ;;
    2) fail 'the run refuses its input; billed until tpu.sh delete' 2 ;;
    127)
      fresh=1
      return 1
      ;;
    255) return 1 ;; # The connection; the run goes on and is joined again.
    *)
      say "exit code $code"
      stop || true # Hosts that wait for one that failed.
      return 1
      ;;
  esac
}

print_run() {
  describe
  echo '# where it is ACTIVE:'
  join
  is_finished
  echo '# after a failure with another exit code than 255, then again:'
  stop
  echo '# where it is SUSPENDED or FAILED, then again (without one: no delete):'
  delete
  ask
  setup
}

DRY_RUN=0
verb=''
for word in "$@"; do
  case $word in
    --dry-run) DRY_RUN=1 ;;
    -h | --help)
      usage
      exit
      ;;
    create | setup | run | logs | stop | delete)
      if [[ -n $verb ]]; then fail "one of $verb and $word" 2; fi
      verb=$word
      ;;
    *) fail "unknown word $word: see tpu.sh --help" 2 ;;
  esac
done
if [[ -z $verb ]]; then
  usage >&2
  exit 2
fi
set_variables
# gcloud answers Ctrl-C with an exit code, which is not a failure of the run.
trap 'trap - INT; kill -INT $$' INT
"$verb"
