#!/usr/bin/env bash
# Sets up .venv and trains the embedded model within a given time: data, first stage, model. Run again, it goes on.
#   bash scripts/train_embedded.sh --minutes 600
source "$(dirname "$0")/setup.sh"
exec python scripts/train_embedded.py "$@"
