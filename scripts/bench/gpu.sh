#!/usr/bin/env bash
# All that is to be measured on a GPU, in one call under eight minutes; each part has a limit of its own.
#   scripts/bench/gpu.sh OUT [cuda]     JSON and what each part printed go to the folder OUT
#   scripts/bench/gpu.sh OUT --quick    the same on the CPU with tiny shapes: shows that it works
set -uo pipefail
out=${1:?usage: scripts/bench/gpu.sh OUT [cuda|cuda:<index>|--quick]}
device=${2:-cuda}
cd "$(dirname "$0")/../.." && mkdir -p "$out"
out=$(cd "$out" && pwd)
python=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
if [ "$device" = --quick ]; then words=(--quick) longer=4; else words=(--device "$device") longer=1; fi

part() {  # part NAME SECONDS COMMAND...
  local name=$1 limit=$(($2 * longer)) start=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  printf '%-8s exit %3d after %3d s of %3d: %s\n' "$name" $? $((SECONDS - start)) "$limit" \
    "$(grep -v '^ *$' "$out/$name.log" | tail -n 1 | cut -c1-90)"
}

bench() {  # bench NAME SECONDS [WORDS...]
  part "$1" "$2" "$python" "scripts/bench/$1.py" "${words[@]}" --json "$out/bench_$1_cuda.json" "${@:3}"
}

if [ "$device" = --quick ]; then
  part tests 60 "$python" -m pytest -n 0 -m gpu --collect-only tests
else
  part tests 80 "$python" -m pytest -n 0 -m gpu tests
fi
bench graphs 150
bench grouped 30
bench maml 80 --goals
bench resnet12 80
bench memory 50
"$python" scripts/bench/goals.py "$out"
