"""Fill `wheels/` with tweetnb's wheel and everything it needs, but for torch, which Colab and Kaggle have.

There, with the folder as a data set: `pip install --no-index --find-links wheels tweetnb`."""
import json, subprocess, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
wheel = max((root/'dist').glob('tweetnb-*.whl'), key=lambda o: o.stat().st_mtime)
out = root/'wheels'
there = ('torch', 'torchvision', 'triton', 'sympy', 'mpmath', 'networkx')        # with torch, and large


def pip(*args):
    return subprocess.run([sys.executable, '-m', 'pip', '--quiet', *args], check=True, capture_output=True,
                          text=True).stdout


report = json.loads(pip('install', '--dry-run', '--ignore-installed', '--report', '-', str(wheel)))
found = {o['metadata']['name'].lower(): o['metadata']['version'] for o in report['install']}
wanted = [f'{name}=={version}' for name, version in sorted(found.items())
          if name not in there and not name.startswith(('nvidia', 'cuda')) and name != 'tweetnb']
out.mkdir(exist_ok=True)
for old in out.glob('tweetnb-*.whl'): old.unlink()
pip('wheel', '--no-deps', '--wheel-dir', str(out), str(wheel), *wanted)
size = sum(o.stat().st_size for o in out.iterdir())
print(f'{len(list(out.iterdir()))} wheels, {size/2**20:.0f} MB, in {out.name}')
