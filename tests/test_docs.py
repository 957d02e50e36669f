"The site is built offline from the notebooks as they stand; broken links and warnings fail it"
import importlib.util, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

without_sphinx = importlib.util.find_spec('myst_nb') is None


@pytest.mark.skipif(without_sphinx, reason="needs the development requirements: pip install 'tweetnb[dev]'")
def test_site():
    res = subprocess.run([sys.executable, 'tools/docs.py'], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert res.returncode == 0, (res.stdout + res.stderr)[-3000:]
    names = next((ROOT/'_docs').glob('api*.html')).read_text(encoding='utf-8')
    for name in 'train', 'fit', 'load', 'tweet_learner', 'TweetDataLoaders', 'Checkpoint', 'compare', 'XLARunner':
        assert f'>{name}</span>' in names, name
    front = (ROOT/'_docs'/'index.html').read_text(encoding='utf-8')
    for chapter in 'Ground and data', 'Text', 'Models', 'Shipping', 'Training', 'Evaluation', 'The ways in':
        assert f'>{chapter}</span>' in front, chapter
    assert (ROOT/'_docs'/'search.html').is_file() and (ROOT/'_docs'/'index.html').stat().st_size > 10_000
