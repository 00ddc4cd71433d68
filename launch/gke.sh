#!/usr/bin/env bash
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/command.sh
source "$ROOT/launch/command.sh"

usage() {
  cat <<'END'
A run on a TPU slice of Google Kubernetes Engine, one host or many, as a JobSet
(gke.yaml). It is restarted after a preemption and goes on from its workdir.

  gke.sh [--dry-run] run      fills gke.yaml and applies it
  gke.sh [--dry-run] logs     follows the output of host 0
  gke.sh [--dry-run] delete   ends the run; nodes that scale to zero then go

--dry-run prints the commands and runs none.

Variables that must be set:
  IMAGE            run: made from launch/Dockerfile
                              us-west4-docker.pkg.dev/my-project/genre2/run:1
  BUCKET           run: for the workdir            my-bucket

Variables that may be set:
  NAME             of JobSet and run               genre2
  TPU_TYPE         gke-tpu-accelerator of nodes    tpu-v5-lite-podslice
  TOPOLOGY         of the slice                    4x4
  CHIPS_PER_HOST   of the machine type             4
  SPOT             1: on spot nodes                1
  CONFIG           recipe                          configs/remax_talent.py
  WORKDIR          path below /mnt/genre2, where BUCKET is mounted
                                                   /mnt/genre2/runs/NAME
  ARGS             more flags, quoted as for a shell
  DISTRIBUTED      1: all hosts are one run        1 with more than one host
  MAX_RESTARTS     of the JobSet                   100
  NAMESPACE        of Kubernetes                   default
  SERVICE_ACCOUNT  of Kubernetes, may use BUCKET   genre2
  QUEUE            of Kueue, as on clusters of XPK: multislice-queue
END
}

set_variables() {
  NAME=${NAME:-genre2}
  NAMESPACE=${NAMESPACE:-default}
  require_name NAME
  require_name NAMESPACE
}

set_run_variables() {
  require IMAGE 'the image made from launch/Dockerfile' \
    us-west4-docker.pkg.dev/my-project/genre2/run:1
  require BUCKET 'the bucket of the workdir, without gs://' my-bucket
  BUCKET=${BUCKET#gs://}
  TPU_TYPE=${TPU_TYPE:-tpu-v5-lite-podslice}
  TOPOLOGY=${TOPOLOGY:-4x4}
  CHIPS_PER_HOST=${CHIPS_PER_HOST:-4}
  SPOT=${SPOT:-1}
  CONFIG=${CONFIG:-configs/remax_talent.py}
  WORKDIR=${WORKDIR:-$MOUNT/runs/$NAME}
  MAX_RESTARTS=${MAX_RESTARTS:-100}
  SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-genre2}
  QUEUE=${QUEUE:-}
  HOSTS=$(count_hosts)
  DISTRIBUTED=${DISTRIBUTED:-$((HOSTS > 1))}
  SPOT_NODES=''
  require_flag SPOT
  require_flag DISTRIBUTED
  require_number MAX_RESTARTS
  require_path WORKDIR
  local variable
  for variable in IMAGE BUCKET TPU_TYPE SERVICE_ACCOUNT QUEUE; do
    require_name "$variable"
  done
  if [[ $SPOT == 1 ]]; then SPOT_NODES=true; fi
}

# require_name NAME: nothing that YAML could take for anything else.
require_name() {
  [[ ${!1} =~ ^[A-Za-z0-9._:/@-]*$ ]] ||
    fail "$1=${!1}: a name has letters, digits and . _ : / @ - only" 2
}

# Hosts of the slice: chips of the topology over chips of a host.
count_hosts() {
  local chips=1 side
  if [[ ! $TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]]; then
    fail "TOPOLOGY=$TOPOLOGY: give one as 4x4 or 2x2x4" 2
  fi
  if [[ ! $CHIPS_PER_HOST =~ ^[1-9]$ ]]; then
    fail "CHIPS_PER_HOST=$CHIPS_PER_HOST: set it to 1, 4 or 8" 2
  fi
  for side in ${TOPOLOGY//x/ }; do chips=$((chips * side)); done
  if ((chips % CHIPS_PER_HOST)); then
    fail "TOPOLOGY=$TOPOLOGY has $chips chips: no multiple of \
CHIPS_PER_HOST=$CHIPS_PER_HOST" 2
  fi
  echo $((chips / CHIPS_PER_HOST))
}

# as_list WORD...: a list of strings in YAML, which JSON is. Kubernetes takes $$
# for a dollar and would fill in $(NAME).
as_list() {
  local word list=''
  for word in "$@"; do
    word=$(printf '%s' "$word" | sed -e 's/[\\"]/\\&/g' -e 's/[$]/&&/g')
    list+="${list:+, }\"$word\""
  done
  printf '[%s]\n' "$list"
}

# fill: gke.yaml with the variables' values.
fill() {
  export NAME QUEUE MAX_RESTARTS HOSTS SERVICE_ACCOUNT TPU_TYPE TOPOLOGY
  export SPOT_NODES IMAGE CHIPS_PER_HOST MOUNT BUCKET WORDS
  awk '
    {
      rest = $0; line = ""; empty = 0
      while (match(rest, /[{][{][A-Z_]+[}][}]/)) {
        value = ENVIRON[substr(rest, RSTART + 2, RLENGTH - 4)]
        if (value == "") empty = 1
        line = line substr(rest, 1, RSTART - 1) value
        rest = substr(rest, RSTART + RLENGTH)
      }
      if (!empty) print line rest
    }' "$ROOT/launch/gke.yaml"
}

run() {
  set_run_variables
  build_training python
  WORDS=$(as_list launch/interruptible.sh "${COMMAND[@]}")
  local apply=(kubectl apply "--namespace=$NAMESPACE" --filename=-)
  if [[ $DRY_RUN == 1 ]]; then
    echo "$(quote "${apply[@]}") <<'END'"
    fill
    echo END
  else
    fill | "${apply[@]}"
  fi
}

logs() {
  local host=batch.kubernetes.io/job-completion-index=0
  execute kubectl logs "--namespace=$NAMESPACE" --container=genre2 --tail=-1 \
    --follow "--selector=jobset.sigs.k8s.io/jobset-name=$NAME,$host"
}

delete() {
  execute kubectl delete jobset "$NAME" "--namespace=$NAMESPACE"
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
    run | logs | delete)
      if [[ -n $verb ]]; then fail "one of $verb and $word" 2; fi
      verb=$word
      ;;
    *) fail "unknown word $word: see gke.sh --help" 2 ;;
  esac
done
if [[ -z $verb ]]; then
  usage >&2
  exit 2
fi
set_variables
"$verb"
