#!/usr/bin/env bash
# Runs a command, hands SIGTERM on to it, and exits with its exit code, but with
# 75 where that is 0 after a SIGTERM: the run then saved and left unfinished,
# which Kubernetes would take for a success.
#
#   interruptible.sh COMMAND...
set -euo pipefail
# shellcheck source=launch/command.sh
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"

run_interruptible "$@"
