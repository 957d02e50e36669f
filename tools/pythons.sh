#!/usr/bin/env bash
# Build sdist and wheel from each other, then install and test them on every Python found: the light package
# (`tweetnb-serve`), then the whole one. One environment at a time, removed after: 8 GB are enough.
#     tools/pythons.sh [3.12 3.13]      LIGHT_ONLY=1: without PyTorch      TORCH=torch==2.13.0: another one
set -euo pipefail
cd "$(dirname "$0")/.."
wanted=${*:-3.11 3.12 3.13 3.14}
work=$(mktemp -d)
env=$work/env
LIGHT_ONLY=${LIGHT_ONLY:-}
trap 'rm -rf "$work"' EXIT
export USE_TORCH_XLA=0 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv "$work/build"
"$work/build/bin/pip" install --quiet build
"$work/build/bin/python" -m build --outdir "$work/dist" .                        # the wheel is built from the sdist
tar -xzf "$work"/dist/tweetnb-*.tar.gz -C "$work"
(cd "$work"/tweetnb-*/ && TWEETNB_DIST=serve "$work/build/bin/python" -m build --wheel --outdir "$work/light" .)
tests=$(echo "$work"/tweetnb-*/tests)

say() { echo "$(date +%T) Python $version: $*"; }

find_python() {
    local found
    for found in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        if [ -x "$found" ] && "$found" -c '' 2>/dev/null; then echo "$found"; return; fi
    done
}

light() {               # predicts and serves a linear bundle without PyTorch
    "$python" -m venv "$env" &&
    "$env/bin/pip" install --quiet --no-compile "$work"/light/*.whl &&
    "$env/bin/pip" check &&
    "$env/bin/python" -P "$tests/light_install.py" "$tests/bundles/0.1.0/tfidf" &&
    say "tweetnb-serve answers, $(du -sh "$env" | cut -f1)"
}

whole() {               # the sdist, then the wheel over it; estimators, bundles, the command line, a demo
    "$python" -m venv "$env" &&
    "$env/bin/pip" install --quiet --no-compile "${TORCH:-torch}" "$work"/dist/*.tar.gz pytest hypothesis &&
    say 'the sdist is installed' &&
    "$env/bin/pip" install --quiet --no-compile --no-deps --force-reinstall "$work"/dist/*.whl &&
    "$env/bin/pip" check &&
    (cd "$tests" && "$env/bin/python" -P -m pytest -q -p no:cacheprovider test_{sklearn,bundle,metrics,clean,linear}.py \
        test_cli.py -k 'not (test_two_processes or test_compare or test_recipe or test_demo)') &&
    (cd "$work" && "$env/bin/tweetnb" demo --out demo) &&
    say "tweetnb from the sdist and from the wheel, $(du -sh "$env" | cut -f1)"
}

failed=()
for version in $wanted; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        say 'not on this machine; are there wheels of all that is needed?'
        "$work/build/bin/pip" install --quiet --dry-run --ignore-installed --target "$work/none" --only-binary :all: \
            --python-version "$version" "$work"/dist/*.whl && say 'yes' || failed+=("$version: wheels")
        continue
    fi
    for part in light whole; do
        [ "$part$LIGHT_ONLY" != whole1 ] || continue
        "$part" || failed+=("$version: $part")
        rm -rf "$env" "$work/demo"
    done
done
[ ${#failed[@]} = 0 ] || { printf 'failed: %s\n' "${failed[@]}"; exit 1; }
