#!/usr/bin/env bash
# Fills the GPU table of docs/performance.md: every task on random weights of each shape, against the published
# algorithm. Writes one JSON file for each task and one log for each shape, and prints a Markdown table at the end.
#
#   bash benchmarks/gpu.sh [FOLDER]                                         # on one H100: ten minutes at most
#   SELFJUDGE_SHAPES=tiny DEVICE=cpu SIZE=2 NEW_TOKENS=4 CANDIDATES=4 REPEATS=1 bash benchmarks/gpu.sh   # does it run?
#
# FOLDER is $OUT or build/bench by default. Needs no network and no installation of this package, only torch,
# transformers, peft and accelerate with what they need, and pydantic, PyYAML, typer, rich and jinja2. Where some of
# the latter are missing, carry them in a folder and name it by PACKAGES:
#
#   pip install --target build/packages pydantic PyYAML typer rich jinja2     # with that machine's version of Python
#   PACKAGES=build/packages bash benchmarks/gpu.sh
#
# SELFJUDGE_SHAPES  shapes, in this order ("135m 7b 1b")   BUDGET  seconds in all (580)
# DEVICE            the device (cuda)                      LIMIT   seconds of a shape at most (240)
# REPEATS           timed turns (2)                        PYTHON  the interpreter (python3)
# ITEMS             tasks, with commas (all)
# SIZE, NEW_TOKENS, CANDIDATES: as the options of selfjudge bench; without SIZE, what suits each task
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-${OUT:-$root/build/bench}}
python=${PYTHON:-python3}
end=$((SECONDS + ${BUDGET:-580}))
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}${PACKAGES:+:$PACKAGES}"
# No look-ups of what is there already.
export HF_HUB_OFFLINE=1
mkdir -p "$out"

for shape in ${SELFJUDGE_SHAPES:-135m 7b 1b}; do
  rm -f "$out/$shape"-*.json # of an earlier run
  left=$((end - SECONDS)) limit=${LIMIT:-240}
  ((left < limit)) && limit=$left
  if ((limit < 5)); then
    echo "$shape: no time left"
    continue
  fi
  # --kill-after: a process that waits for its GPU may ignore the first signal.
  timeout --kill-after=5 "$limit" "$python" "$root/benchmarks/gpu.py" "$shape" "$out" --device "${DEVICE:-cuda}" \
    --repeats "${REPEATS:-2}" --new-tokens "${NEW_TOKENS:-128}" --candidates "${CANDIDATES:-16}" \
    ${SIZE:+--size "$SIZE"} ${ITEMS:+--items "$ITEMS"} 2>"$out/$shape.log" | tee "$out/$shape.txt"
  code=${PIPESTATUS[0]}
  ((code == 0)) || echo "$shape: broken off (exit code $code), see $out/$shape.log"
done

"$python" "$root/benchmarks/table.py" "$out"
