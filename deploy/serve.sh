#!/bin/sh
# Start one of the three servers, or any other command: serve.sh page|review|api|COMMAND [OPTIONS]
# Containers and systemd use it; beside the application's folder lies the environment (venv).
set -eu
app=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
bin=$app/../venv/bin
cd "$app"
if [ $# = 0 ]; then
  echo "error: say what to start: page, review, api, or a command of skingpt4" >&2
  exit 2
fi
what=$1
shift
# Secrets of containers are files.
if [ -n "${SKINGPT4_API_KEY_FILE:-}" ]; then
  SKINGPT4_API_KEY=$(cat "$SKINGPT4_API_KEY_FILE")
  export SKINGPT4_API_KEY
fi
case $what in
  page) exec "$bin/python" demo.py "$@" ;;
  review) exec "$bin/python" -m eval.review "$@" ;;
  api) exec "$bin/skingpt4" http-api "$@" ;;
  *) exec "$bin/skingpt4" "$what" "$@" ;;
esac
