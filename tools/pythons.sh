#!/usr/bin/env bash
# Build sdist and wheel from each other, then install and test them on every Python found: the whole package, and the
# light one (`tweetnb-serve`). One environment at a time, removed after.   tools/pythons.sh [3.12 3.13]
set -euo pipefail
cd "$(dirname "$0")/.."
wanted=${*:-3.11 3.12 3.13 3.14}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export USE_TORCH_XLA=0 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

python3 -m venv "$work/build"
"$work/build/bin/pip" install --quiet build
"$work/build/bin/python" -m build --outdir "$work/dist" .                        # the wheel is built from the sdist
tar -xzf "$work"/dist/tweetnb-*.tar.gz -C "$work"
(cd "$work"/tweetnb-*/ && TWEETNB_DIST=serve "$work/build/bin/python" -m build --wheel --outdir "$work/light" .)
rm -rf "$work/build"

find_python() {
    local found
    for found in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        if [ -x "$found" ] && "$found" -c '' 2>/dev/null; then echo "$found"; return; fi
    done
}

for version in $wanted; do
    python=$(find_python "$version")
    [ -n "$python" ] || { echo "Python $version: not on this machine"; continue; }
    env=$work/env

    "$python" -m venv "$env"
    "$env/bin/pip" install --quiet "$work"/light/*.whl
    "$env/bin/pip" check
    "$env/bin/tweetnb" predict tests/bundles/0.1.0/tfidf --texts 'good morning'
    "$env/bin/python" tests/light_install.py tests/bundles/0.1.0/tfidf
    echo "Python $version: tweetnb-serve answers, $(du -sh "$env" | cut -f1)"
    rm -rf "$env"

    [ -z "${LIGHT_ONLY:-}" ] || continue
    "$python" -m venv "$env"
    "$env/bin/pip" install --quiet "${TORCH:-torch}" "$work"/dist/*.tar.gz pytest
    "$env/bin/pip" install --quiet --no-deps --force-reinstall "$work"/dist/*.whl
    "$env/bin/pip" check
    cp -r "$work"/tweetnb-*/tests "$work/tests"
    (cd "$work" && "$env/bin/python" -P -m pytest -q -p no:cacheprovider tests/test_cli.py tests/test_sklearn.py tests/test_bundle.py)
    (cd "$work" && "$env/bin/tweetnb" demo --out demo --quiet)
    echo "Python $version: tweetnb from the sdist and from the wheel, $(du -sh "$env" | cut -f1)"
    rm -rf "$env" "$work/tests"
done
