"""Losses, groups and label errors beside plain loops and the published algorithm."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from test_calibrate import some_probs
from tweetnb.core import sample_path
from tweetnb.data.clean import Cleaner
from tweetnb.data.read import read_tweets
from tweetnb.evaluate.mistakes import (accuracy_by, confident_joint, label_errors, length_bins, out_of_fold, top_losses,
                                       wilson)
from tweetnb.metrics import log_loss
from tweetnb.models.linear import LinearClassifier

df = read_tweets(sample_path('tweets.csv'), label=True)

@pytest.fixture(scope='module')
def baseline(): return LinearClassifier(Cleaner.preset('tweeteval')).fit(df['text'], df['label'])

def published_joint(probs, y):
    "Northcutt et al., 2021, algorithm 1: the thresholds, then each tweet into one cell of the joint"
    n, m = probs.shape
    t = [np.mean([probs[i][j] for i in range(n) if y[i] == j]) if (y == j).any() else np.inf for j in range(m)]
    C = np.zeros((m, m), dtype=int)
    for i in range(n):
        above = [j for j in range(m) if probs[i][j] >= t[j] - 1e-9]
        if above: C[y[i]][max(above, key=lambda j: (probs[i][j], -j))] += 1
    return C

@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), k=st.integers(2, 5), wrong=st.floats(0, .5))
def test_the_confident_joint_is_the_published_one(seed, n, k, wrong):
    rng = np.random.default_rng(seed)
    probs, true = some_probs(seed, n, k)
    y = probs.columns.get_indexer(true)
    y = np.where(rng.random(n) < wrong, rng.integers(0, k, n), y)
    joint, likely = confident_joint(probs.to_numpy(), y)
    assert (joint == published_joint(probs.to_numpy(), y)).all()
    table = pd.DataFrame(dict(text=[f't{i}' for i in range(n)], label=probs.columns.to_numpy()[y]))
    suspects = label_errors(table, probs)
    assert set(suspects.index) <= set(np.flatnonzero(likely != y)) and suspects['margin'].is_monotonic_decreasing
    assert len(suspects) <= joint.sum() - joint.trace()

def test_out_of_fold_has_not_seen_the_tweet():
    "A tweet with a word of its own cannot be known by that word"
    some = df.head(300).reset_index(drop=True)
    p = out_of_fold(some)
    assert p.index.equals(some.index) and np.allclose(p.sum(axis=1), 1, atol=1e-5)
    seen = LinearClassifier().fit(some['text'], some['label']).predict_proba(some['text'])
    assert log_loss(p, some['label']) > log_loss(seen, some['label'])

def test_top_losses_by_a_plain_loop(baseline):
    some = df.sample(200, random_state=0)
    p = baseline.predict_proba(some['text'])
    want = sorted(((-np.log(p[l].iloc[i]), t) for i,(l,t) in enumerate(zip(some['label'].astype(str), some['text']))),
                  reverse=True)[:10]
    found = top_losses(baseline, some, 10)
    np.testing.assert_allclose(found['loss'], [o for o,_ in want], rtol=1e-5)
    assert found['text'].tolist() == [t for _,t in want]
    assert some.loc[found.index, 'text'].tolist() == found['text'].tolist()

@settings(max_examples=30, deadline=None)
@given(n=st.lists(st.integers(1, 30), min_size=1, max_size=60), bins=st.integers(1, 8))
def test_groups_count_every_tweet(n, bins):
    texts = [' '.join(['w']*k) for k in n]
    by = length_bins(texts, bins)
    assert not by.isna().any() and len(by) == len(n)
    for name,k in zip(by.astype(str), n):
        low, _, high = name.partition('–')
        assert int(low) <= k <= int(high or low)
    table = accuracy_by(by, ['a']*len(n), ['a' if k % 2 else 'b' for k in n])
    assert table['tweets'].sum() == len(n) and (table['low'] <= table['accuracy'] + 1e-9).all()
    assert (table['accuracy'] <= table['high'] + 1e-9).all()

def test_wilson_covers():
    "About 95 of 100 intervals hold the true share"
    right = np.random.default_rng(0).binomial(40, .3, 4000)
    low, high = wilson(right, 40)
    assert .93 < ((low <= .3) & (.3 <= high)).mean() < .97

class Fixed:
    "A classifier that gives the same probabilities to every tweet"
    labels = [0, 4]
    def predict_proba(self, tweets): return pd.DataFrame([[.8, .2]]*len(tweets), columns=self.labels)

@pytest.mark.parametrize('labels', [[0, 4, 2], ['0', '4', '2']])
def test_labels_may_be_numbers(labels):
    "Compared by their text, returned as they were"
    table = pd.DataFrame(dict(text=['a', 'b', 'c'], label=labels), index=[7, 8, 9])
    worst = top_losses(Fixed(), table)
    assert worst.index.tolist() == [8, 7, 9] and worst['label'].tolist() == [labels[1], labels[0], labels[2]]
    assert worst['predicted'].tolist() == [0, 0, 0] and np.isnan(worst['loss'].iloc[-1])
    assert accuracy_by(table['label'], table['label'], [0, 0, 0])['accuracy'].sum() == 1

def test_out_of_fold_keeps_numbers():
    table = df.head(120).assign(label=np.tile([0, 1], 60))
    assert out_of_fold(table, k=3).columns.tolist() == [0, 1]
    assert set(label_errors(table, k=3)['likely']) <= {0, 1}
