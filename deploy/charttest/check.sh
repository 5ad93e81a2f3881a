#!/usr/bin/env bash
# Has the tools that operators use judge the chart and what Kustomize makes of it,
# for the defaults and for every file of testdata/values. They are expected in
# .bin/; `make deploy-check-k8s` builds them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bin=$PWD/.bin
chart=deploy/helm/deploy-worker
kubernetes=1.30.0 # the newest that kubectl-validate knows
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# validate FILE: does the cluster's API take it, and that of the operators?
validate() {
  "$bin/kubectl-validate" --version "${kubernetes%.*}" --local-crds "$out/crds" "$1"
}

# score FILE [IGNORED...]: nothing critical.
score() {
  local file=$1 test flags=()
  shift
  # A version is never built twice, and a registry that is away must not keep a
  # worker from starting again: so the image is not pulled always.
  for test in container-image-pull-policy "$@"; do flags+=(--ignore-test "$test"); done
  "$bin/kube-score" score --kubernetes-version "v${kubernetes%.*}" "${flags[@]}" -o ci "$file" | grep -vE '^\[(OK|SKIPPED)\]' || true
  "$bin/kube-score" score --kubernetes-version "v${kubernetes%.*}" "${flags[@]}" "$file" >/dev/null
}

# normal NAME FILE: the objects as Kustomize writes them, to be compared.
normal() {
  mkdir -p "$out/$1"
  cp "$2" "$out/$1/objects.yaml"
  printf 'resources: [objects.yaml]\n%s\n' "${3:-}" >"$out/$1/kustomization.yaml"
  "$bin/kustomize" build "$out/$1"
}

mkdir "$out/crds"
cp deploy/charttest/crds/*.yaml "$out/crds"
: >"$out/defaults.yaml"

for values in "$out/defaults.yaml" deploy/charttest/testdata/values/*.yaml; do
  set=$(basename "$values" .yaml)
  echo "--- values: $set"
  "$bin/helm" lint --strict --quiet --kube-version "$kubernetes" -f "$values" "$chart"
  "$bin/helm" template deploy-worker "$chart" --kube-version "$kubernetes" -f "$values" >"$out/$set.rendered.yaml"
  validate "$out/$set.rendered.yaml"
  case $set in
    bare) score "$out/$set.rendered.yaml" pod-networkpolicy ;; # it has none, which is what it is for
    *) score "$out/$set.rendered.yaml" ;;
  esac
done

echo "--- kustomize: base"
"$bin/kustomize" build deploy/kustomize/base >"$out/base.yaml"
validate "$out/base.yaml"
score "$out/base.yaml"
diff <(normal defaults "$out/defaults.rendered.yaml") "$out/base.yaml"

echo "--- kustomize: overlays/production"
"$bin/kustomize" build deploy/kustomize/overlays/production >"$out/production.yaml"
validate "$out/production.yaml"
score "$out/production.yaml"
"$bin/helm" template deploy-worker "$chart" --kube-version "$kubernetes" \
  --set image.repository=images.example.test/deploy-worker,monitoring.enabled=true,keda.enabled=true,nack.enabled=true >"$out/production.rendered.yaml"
diff <(normal production "$out/production.rendered.yaml" "namespace: deploy-worker") "$out/production.yaml"
echo "Helm, kubectl-validate, kube-score and Kustomize agree"
