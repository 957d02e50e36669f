"A search over settings: resumed, pruned, and of other tweets a study of its own"
import pandas as pd
import pytest

optuna = pytest.importorskip('optuna', reason="needs pip install 'tweetnb[tune]'")

from tweetnb import tune
from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.read import read_tweets
from tweetnb.data.split import split_tweets
from tweetnb.evaluate.compare import _Pruner
from tweetnb.train.fit import default_config, fit

SPACE = dict(lr=(1e-7, 3e-2), n_hidden=[8, 16])


@pytest.fixture(scope='module')
def df(): return split_tweets(read_tweets(sample_path('tweets.csv')))[:300]


def test_a_search_is_resumed(df, tmp_path):
    tiny = default_config('gru', epochs=2, params=dict(n_emb=16))
    def stop(line):
        if line.startswith('2:'): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): tune(tiny, df, SPACE, folder=tmp_path, trials=5, report=stop)
    lines = []
    found = tune(tiny, df, SPACE, folder=tmp_path, trials=5, report=lines.append)
    assert len(lines) == 2 and len(found.table) == 5 and not list(tmp_path.glob('*.pkl'))
    assert found.table['lr'].nunique() == 5 and set(found.table['n_hidden']) <= {8, 16}
    done = found.table.query("state == 'complete'")
    best = done.loc[done['score'].idxmax()]
    assert found.score == best['score'] and found.config.lr == best['lr']
    assert found.config.params == dict(n_emb=16, n_hidden=best['n_hidden'])
    again = fit(found.config, df).scores['valid'].metrics['macro_f1']
    assert again == pytest.approx(found.score)
    pd.testing.assert_frame_equal(tune(tiny, df, SPACE, folder=tmp_path, trials=5).table, found.table)
    assert len(tune('tfidf', df, dict(C=(.1, 10.)), folder=tmp_path, trials=2).table) == 2


def test_a_search_without_a_finished_run_says_so(df, tmp_path):
    with pytest.raises(TweetnbError, match='no run was finished'): tune('gru', df, SPACE, folder=tmp_path, trials=0)


def test_a_run_that_is_behind_is_ended(df):
    told = []
    class Trial:
        def report(self, value, epoch): told.append((value, epoch))
        def should_prune(self): return len(told) == 2
    config = default_config('gru', epochs=4, params=dict(n_emb=16, n_hidden=8))
    with pytest.raises(optuna.TrialPruned): fit(config, df, cbs=[_Pruner(Trial(), 'macro_f1')])
    assert [epoch for _, epoch in told] == [0, 1] and all(0 <= value <= 1 for value, _ in told)
