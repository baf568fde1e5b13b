#!/usr/bin/env bash
# 100 kills of workers and commands in each engine, a table on the screen. Arguments go to scripts/soak.py; goes on where it was ended.
set -euo pipefail
cd "$(dirname "$0")/.."
python scripts/soak.py --engine local "$@"
python scripts/soak.py --engine ray "$@"
