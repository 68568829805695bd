#!/bin/sh
# Counts a training step of the published networks: run.sh [FILE.json]
exec "${PYTHON:-python}" "$(dirname "$0")/steps.py" "$@"
