#!/usr/bin/env bash
# Sets up .venv, generates six views of the built-in scene with the embedded model, and says where the picture is.
source "$(dirname "$0")/setup.sh"
exec drivegen generate --out out/demo "$@"
