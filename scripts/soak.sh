#!/usr/bin/env bash
# 100 kills of workers and commands in each engine; docs/synthesis.md has the table. Arguments go to scripts/soak.py.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf out/soak
python scripts/soak.py --engine local "$@"
python scripts/soak.py --engine ray "$@"
