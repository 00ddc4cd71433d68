#!/usr/bin/env bash
# Runs a command, hands SIGTERM on to it from its first moment (the first process
# of a container is deaf to signals that it has no handler for yet), and exits
# with its exit code.
#
#   interruptible.sh COMMAND...
set -euo pipefail
# shellcheck source=launch/command.sh
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"

run_interruptible "$@"
