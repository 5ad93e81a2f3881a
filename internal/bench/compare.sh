#!/usr/bin/env bash
# compare.sh BENCHSTAT [COMMIT] compares the micro-benchmarks of the working tree
# with those of a commit: of HEAD, or, where nothing was changed since, of its
# parent. BENCH, COUNT and BENCHTIME say which, how often and for how long each.
# The two take turns, so that what else the machine does meets both.
set -euo pipefail
benchstat=$(realpath "$1")
cd "$(git rev-parse --show-toplevel)"
last=HEAD
[[ -n $(git status --porcelain) ]] || last=HEAD~1
base=$(git rev-parse --short --verify "${2:-$last}^{commit}")
packages=(events hostup ledger provision)

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
git archive "$base" | tar -x -C "$dir/src"

# Both are built first, and run where their package is.
for p in "${packages[@]}"; do
  (cd "$dir/src" && go test -c -o "$dir/$p.$base" "./internal/$p")
  go test -c -o "$dir/$p.tree" "./internal/$p"
done
for _ in $(seq "${COUNT:-10}"); do
  for side in "$base" tree; do
    root=$PWD
    [[ $side == tree ]] || root=$dir/src
    for p in "${packages[@]}"; do
      (cd "$root/internal/$p" && "$dir/$p.$side" -test.run '^$' -test.benchmem -test.benchtime "${BENCHTIME:-100ms}" \
        -test.bench "${BENCH:-^Benchmark(Decode|Encode|Faults|Judge|Record|Same)\$}") >>"$dir/$side"
    done
  done
done
cd "$dir"
"$benchstat" "$base" tree
