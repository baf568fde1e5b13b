#!/usr/bin/env bash
# Sets up .venv and builds the documentation's site; arguments go to sphinx-build. A warning is an error.
source "$(dirname "$0")/setup.sh"
python -m sphinx -W --keep-going -q -b html docs out/docs "$@"
echo "wrote out/docs/index.html"
