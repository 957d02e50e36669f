"""Training on a local Ray: two processes learn what those of torchrun learn, a killed one is
replaced, and a comparison and a search are the same as in sequence"""
import importlib.util, json, subprocess, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from runner_script import SCRIPT, alone, close
from safetensors.torch import load_file

from tweetnb.auto import Search, _try_on_ray, ladder, make_splits, try_candidate
from tweetnb.core import sample_path
from tweetnb.data.read import read_tweets
from tweetnb.data.split import split_tweets
from tweetnb.evaluate.compare import compare
from tweetnb.train.distributed import launch

pytestmark = pytest.mark.skipif(importlib.util.find_spec('ray') is None, reason="needs the extra 'ray'")

CODE = '''
import sys, ray
from pathlib import Path
import pandas as pd
from tweetnb.evaluate.compare import compare
from tweetnb.train.distributed import launch_on_ray
from tweetnb.train.fit import default_config
home = Path(sys.argv[1])
sys.path.insert(0, sys.argv[2])
from test_ray import tried
ray.init(num_cpus=2, log_to_driver=False)
launch_on_ray(home/'script.py', 'single', home/'ray', processes=2, storage=str(home/'notes'))
df = pd.read_parquet(home/'df.parquet')
for name, how in ('calm', 'live'), ('killed', 'die'):
    launch_on_ray(home/'script.py', 'killed', home/name, how, processes=2, storage=str(home/'notes'))
res = compare(df, ['tfidf', 'lstm'], seeds=2, folder=home/'on-ray', engine='ray', epochs=1)
search = tried(df, 'ray')
search.table.to_parquet(home/'tried.parquet')
for name, o in search.found.items(): o.probs.to_parquet(home/f'{name}.parquet')
search = tried(df, 'ray', at_once=True)
search.table.to_parquet(home/'at-once.parquet')
for name, o in search.found.items(): o.probs.to_parquet(home/f'{name}-at-once.parquet')
'''


def tried(df, engine, at_once=False):
    "A search with two candidates, each trained on five folds"
    search = Search(make_splits(df.drop(columns='split').head(600)), 'macro_f1', 10, engine=engine)
    if at_once: _try_on_ray(search, ladder(), 0.)
    else:
        for candidate in ladder(): try_candidate(search, candidate)
    return search


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "What a process with a Ray of its own left"
    home = tmp_path_factory.mktemp('ray')
    for name in 'ray', 'torchrun', 'calm', 'killed': (home/name).mkdir()
    (home/'script.py').write_text(SCRIPT)
    (home/'killed'/'in-store').touch()
    split_tweets(read_tweets(sample_path('tweets.csv'))).to_parquet(home/'df.parquet')
    (home/'job.py').write_text(CODE)
    command = [sys.executable, home/'job.py', home, Path(__file__).parent]
    res = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert res.returncode == 0, res.stderr
    return home


def test_two_processes_of_ray_train_learn_what_those_of_torchrun_learn(home):
    launch(home/'script.py', 'single', home/'torchrun', processes=2)
    losses = alone('fit')(alone('make')())
    for rank in 0, 1:
        mine, other = (json.loads((home/o/f'single{rank}.json').read_text()) for o in ('ray', 'torchrun'))
        assert mine['losses'] == other['losses'] and mine['rank'] == rank
        assert [o['describe']['runner'] for o in (mine, other)] == ['ray', 'ddp'] and mine['describe']['processes'] == 2
        close(mine['losses'], losses)
        mine, other = (load_file(home/o/f'single{rank}.safetensors') for o in ('ray', 'torchrun'))
        for k, v in other.items(): assert (mine[k] == v).all(), k


def test_a_comparison_on_ray_is_the_one_in_sequence(home):
    df = pd.read_parquet(home/'df.parquet')
    compare(df, ['tfidf', 'lstm'], seeds=2, folder=home/'in-sequence', epochs=1)
    for path in (home/'in-sequence'/'runs').glob('*.parquet'):
        mine, other = (pd.read_parquet(o) for o in (home/'on-ray'/'runs'/path.name, path))
        np.testing.assert_allclose(mine, other, atol=1e-6)
    assert len(list((home/'on-ray'/'runs').glob('*.parquet'))) == 4


def test_a_killed_process_is_replaced_and_the_weights_are_those_of_an_undisturbed_run(home):
    "The killed one's checkpoints lie in a store, those of the other in a folder"
    assert (home/'killed'/'died').exists() and not (home/'calm'/'died').exists()
    for rank in 0, 1:
        mine, other = (load_file(home/o/f'killed{rank}.safetensors') for o in ('killed', 'calm'))
        for k, v in other.items(): assert (mine[k] == v).all(), k


@pytest.mark.parametrize('table, suffix', [('tried', ''), ('at-once', '-at-once')])
def test_a_search_on_ray_is_the_one_in_sequence(home, table, suffix):
    "Also where the candidates, and not only their folds, are trained at the same time"
    search = tried(pd.read_parquet(home/'df.parquet'), 'local')
    assert list(search.found) == ['TF-IDF', 'n-grams']
    table = pd.read_parquet(home/f'{table}.parquet')
    assert table['candidate'].tolist() == search.table['candidate'].tolist()
    np.testing.assert_allclose(table['score'], search.table['score'], atol=1e-6)
    for name, o in search.found.items():
        np.testing.assert_allclose(pd.read_parquet(home/f'{name}{suffix}.parquet'), o.probs, atol=1e-6)
