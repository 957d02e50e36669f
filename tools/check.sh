#!/usr/bin/env bash
# Fail if exporting, cleaning or making the README changes anything (notebooks, modules and README are then out of step), if a
# module imports one of a higher number or uses a name that nothing defines, or if a line is too long.
set -euo pipefail
cd "$(dirname "$0")/.."
state() {
    find nbs tweetnb README.md README_files -type f -not -path '*/__pycache__/*' -not -path '*/.ipynb_checkpoints/*' \
        -not -path '*/runs/*' -print0 2>/dev/null | sort -z | xargs -0 sha256sum
}
before=$(state)
nbdev_export
nbdev_clean
python tools/readme.py
if ! changed=$(diff <(echo "$before") <(state)); then
    echo "Out of step (run nbdev_export, nbdev_clean and make readme, and commit the result):"
    echo "$changed" | awk '{print $3}' | sed '/^$/d' | sort -u
    exit 1
fi
echo "Notebooks, modules and README are in step."
python tools/imports.py
python tools/style.py
ruff check --quiet --isolated --select F821 --exclude _modidx.py tweetnb tools   # names that nothing defines
