"""What many tests share: real data, a small trained network, a linear bundle, and the command line.

Light enough for the installed wheel: nothing heavy is imported before a fixture asks for it.
"""
import os, subprocess, sys
from functools import cache

import pytest

from tweetnb.core import data_path, sample_path
from tweetnb.data.read import read_tweets

os.environ.setdefault('RAY_worker_niceness', '0')     # or its workers wait behind the other tests, and time out


def real_path(*parts):
    "The path of real data, or a skipped test"
    path = data_path(*parts)
    if not path.exists(): pytest.skip(f"needs TWEETNB_DATA/{'/'.join(parts)}")
    return path

@cache
def _read(path, options): return read_tweets(path, **dict(options))

def real_tweets(*parts, **options):
    "A table of real data, read once, or a skipped test"
    return _read(real_path(*parts), tuple(options.items())).copy()


def tweetnb(*args, ok=True, cwd=None):
    "Run the command line in a process of its own"
    env = {**os.environ, 'COLUMNS': '150', 'OMP_NUM_THREADS': '1'}
    res = subprocess.run([sys.executable, '-c', 'from tweetnb.cli import main; main()', *map(str, args)],
                         capture_output=True, text=True, encoding='utf-8', env=env, cwd=cwd, timeout=600)
    if ok: assert res.returncode == 0, res.stderr
    return res


@pytest.fixture(scope='session')
def sample(): return read_tweets(sample_path('tweets.csv'), label=True)

@pytest.fixture(scope='session')
def moods(sample, tmp_path_factory):
    "A bundle of a small network, trained on the packaged sample"
    import fastai.callback.schedule
    from tweetnb.text.block import TweetDataLoaders
    from tweetnb.train.learner import tweet_learner
    df = sample.head(800)
    learn = tweet_learner(TweetDataLoaders.from_df(df, cleaner='tweeteval', bs=32), 'gru', n_emb=16, n_hidden=16)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(3, 1e-2)
    return learn.classifier().save(tmp_path_factory.mktemp('bundles')/'moods', learn.scores(), df)

@pytest.fixture(scope='session')
def plain(sample, tmp_path_factory):
    "A linear bundle, whose processes start without PyTorch"
    from tweetnb.models.linear import LinearClassifier
    model = LinearClassifier().fit(sample, sample['label'])
    return model.save(tmp_path_factory.mktemp('bundles')/'plain')
