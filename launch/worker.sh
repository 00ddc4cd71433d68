#!/usr/bin/env bash
# What tpu.sh runs on every TPU VM; nobody needs to type it.
#
#   worker.sh setup           installs what the run needs, mounts the bucket
#   worker.sh run COMMAND...  starts the command, or joins it where it runs, and
#                             exits as it does; a lost connection ends nothing
#   worker.sh logs            follows its output
#   worker.sh stop            SIGTERM, and waits for its end
#
# BUCKET names the bucket. Files are in ~/.genre2, Python in ~/genre2_env.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/command.sh
source "$ROOT/launch/command.sh"

STATE=$HOME/.genre2
ENVIRONMENT=$HOME/genre2_env
NOT_SET_UP=127
INTERRUPTED=75 # EX_TEMPFAIL: the same command goes on from its workdir

setup() {
  mkdir -p "$STATE"
  rm -f "$STATE/ready"
  install_gcsfuse
  mount_bucket
  install_python
  touch "$STATE/ready"
}

install_gcsfuse() {
  if command -v gcsfuse >/dev/null; then return; fi
  local key=/usr/share/keyrings/cloud.google.asc
  local site=https://packages.cloud.google.com/apt
  curl -fsSL "$site/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $site gcsfuse-$(lsb_release -c -s) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  # A fresh VM updates itself at first and holds the lock.
  sudo apt-get -q -o DPkg::Lock::Timeout=900 update
  sudo apt-get -q -o DPkg::Lock::Timeout=900 install -y gcsfuse
}

mount_bucket() {
  if mountpoint -q "$MOUNT"; then return; fi
  require BUCKET 'the bucket of the workdir, without gs://' my-bucket
  sudo mkdir -p "$MOUNT"
  sudo chown "$(id -u):$(id -g)" "$MOUNT"
  # Orbax renames folders, which a bucket without a hierarchical namespace does
  # file by file. No cache: other hosts write here as well.
  gcsfuse --implicit-dirs --rename-dir-limit=100000 \
    --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 \
    "$BUCKET" "$MOUNT"
}

install_python() {
  local uv=$HOME/.local/bin/uv # The image's own Python may be below 3.11.
  if [[ ! -x $uv ]]; then
    curl -fsSL https://astral.sh/uv/install.sh | sh
  fi
  "$uv" venv --quiet --allow-existing --python=3.12 "$ENVIRONMENT"
  "$uv" pip install --quiet "--python=$ENVIRONMENT/bin/python" \
    -r "$ROOT/requirements.txt" 'jax[tpu]'
}

run() {
  if [[ ! -e $STATE/ready ]]; then
    fail 'this VM is not set up: tpu.sh setup' "$NOT_SET_UP"
  fi
  mount_bucket
  if ! is_running; then
    start "$@"
  elif [[ $(cat "$STATE/command") != "$(quote "$@")" ]]; then
    fail "another command runs here: tpu.sh stop; $(cat "$STATE/command")" 2
  fi
  join
}

# In a session of its own: it outlives the connection.
start() {
  rm -f "$STATE/exit_code"
  quote "$@" >"$STATE/command"
  PATH="$ENVIRONMENT/bin:$PATH" setsid nohup \
    "$ROOT/launch/worker.sh" supervise "$@" \
    </dev/null >>"$STATE/log" 2>&1 &
  echo "$!" >"$STATE/process"
}

supervise() {
  local code=0
  cd "$ROOT"
  run_interruptible "$@" || code=$?
  echo "$code" >"$STATE/exit_code.new"
  mv "$STATE/exit_code.new" "$STATE/exit_code"
}

is_running() {
  [[ -e $STATE/process ]] &&
    grep -qs supervise "/proc/$(cat "$STATE/process")/cmdline"
}

join() {
  tail -n 20 -F "--pid=$(cat "$STATE/process")" "$STATE/log"
  if [[ ! -e $STATE/exit_code ]]; then exit "$INTERRUPTED"; fi
  exit "$(cat "$STATE/exit_code")"
}

stop() {
  if ! is_running; then return; fi
  kill -TERM "$(cat "$STATE/process")"
  local second
  for ((second = 0; second < 120; second++)); do
    is_running || return 0
    sleep 1
  done
  kill -KILL -- "-$(cat "$STATE/process")"
}

logs() {
  tail -n 100 -F "$STATE/log"
}

verb=${1:-}
case $verb in
  setup | run | logs | stop | supervise) shift && "$verb" "$@" ;;
  *) fail 'setup, run COMMAND..., logs or stop' 2 ;;
esac
