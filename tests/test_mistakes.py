"""Losses, groups and label errors beside plain loops and the published algorithm."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from conftest import tweetnb
from scipy.stats import fisher_exact
from test_calibrate import some_probs
from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.clean import Cleaner
from tweetnb.data.read import read_tweets
from tweetnb.evaluate.mistakes import (CHECKS, accuracy_by, checklist, compare_slices, confident_joint, keep_checklist,
                                       label_errors, length_bins, out_of_fold, slices, top_losses, tweet_slices, wilson)
from tweetnb.metrics import log_loss
from tweetnb.models.classifier import Classifier
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

# --- label errors beside cleanlab

@pytest.mark.parametrize('wrong', [0, .15])
def test_label_errors_are_those_of_cleanlab(wrong):
    "The same confident joint, and the same tweets in the same order"
    pytest.importorskip('cleanlab', reason='needs cleanlab')
    from cleanlab.count import compute_confident_joint
    from cleanlab.filter import find_label_issues
    table = df[df['label'].notna()].reset_index(drop=True)
    probs = out_of_fold(table, Cleaner.preset('tweeteval'))
    y = probs.columns.get_indexer(table['label'].astype(str))
    rng = np.random.default_rng(0)
    y = np.where(rng.random(len(y)) < wrong, rng.integers(0, 3, len(y)), y)
    p = probs.to_numpy()/probs.to_numpy().sum(1, keepdims=True)
    ours = label_errors(table.assign(label=probs.columns.to_numpy()[y]), probs)
    assert (ours.attrs['joint'].to_numpy() == compute_confident_joint(y, p, calibrate=False)).all()
    theirs = find_label_issues(y, p, filter_by='confident_learning', return_indices_ranked_by='normalized_margin',
                               n_jobs=1)
    assert set(theirs) == set(ours.index) and len(theirs) > 90
    np.testing.assert_allclose(ours['margin'], ours['margin'].loc[theirs])         # the same order, but for ties

# --- slices

def test_slices_by_plain_loops_and_published_figures():
    "Fisher's test, doubled; Newcombe (1998), method 10, his first example: 56 of 70 and 48 of 80"
    hit, marks = np.repeat([True, False, True, False], [56, 14, 48, 32]), pd.DataFrame(dict(first=np.arange(150) < 70))
    found = compare_slices(hit, marks).loc['first']
    np.testing.assert_allclose(found[['gap', 'gap_low', 'gap_high']].astype(float), [.2, .0524, .3339], atol=5e-5)
    counts = [[56, 14], [48, 32]]
    tails = [fisher_exact(counts, alternative=o).pvalue for o in ('less', 'greater')]
    np.testing.assert_allclose(found['p'], 2*min(tails))

@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(4, 60))
def test_slices_count_every_tweet(seed, n):
    rng = np.random.default_rng(seed)
    hit, marks = rng.random(n) < .6, pd.DataFrame(rng.random((n, 3)) < .5, columns=list('abc'))
    marks.iloc[0], marks.iloc[1] = True, False
    for name,row in compare_slices(hit, marks).iterrows():
        inside = marks[name].to_numpy()
        assert row['tweets'] == inside.sum() and np.isclose(row['share'], hit[inside].mean())
        assert np.isclose(row['rest'], hit[~inside].mean()) and 0 <= row['p'] <= 1
        assert row['low'] - 1e-9 <= row['share'] <= row['high'] + 1e-9
        assert row['gap_low'] - 1e-9 <= row['gap'] <= row['gap_high'] + 1e-9

class Rule(Classifier):
    "A classifier that finds one word"
    def __init__(self, word, lower=False):
        super().__init__(['negative', 'positive'])
        self.word, self.lower = word, lower
    def _probs(self, texts, bs):
        good = np.array([self.word in (o.lower() if self.lower else o) for o in texts])
        return np.stack([np.where(good, .2, .7), np.where(good, .8, .3)], 1)

def groups(n=600, seed=0):
    "Tweets of two regions, one of which says 'ace' where the other says 'good'"
    rng = np.random.default_rng(seed)
    good, north = rng.random(n) < .5, rng.random(n) < .3
    word = np.where(good, np.where(north & (rng.random(n) < .5), 'ace', 'good'), 'bad')
    return pd.DataFrame(dict(text=[f'a {o} day' for o in word], label=np.where(good, 'positive', 'negative'),
                             region=np.where(north, 'north', 'south'), age=rng.integers(18, 90, n)))

def test_a_group_that_is_not_understood_is_found():
    found = slices(Rule('good'), groups(), by=['region', 'age'], label='positive')
    assert found.loc[('recall', 'region: north'), 'verdict'] == 'lower'
    assert found.loc[('accuracy', 'region: north'), 'gap_high'] < 0
    ages = found[found.index.get_level_values('slice').str.startswith('age')]
    assert len(ages) == 16 and (ages['verdict'] == '').all()
    assert not found.loc['false alarms', 'verdict'].any()

def test_authors_and_languages_are_slices_of_their_own():
    table = groups().rename(columns=dict(region='lang')).assign(author='ana')
    names = tweet_slices(table).columns
    assert 'lang: north' in names and not any(o.startswith('author') for o in names)       # all tweets are hers
    table.loc[:99, 'label'] = None
    found = slices(Rule('good'), table)
    assert found.loc[('accuracy', 'lang: north'), 'tweets'] == (table['lang'][100:] == 'north').sum()

def test_languages_that_no_column_tells_are_detected():
    pytest.importorskip('lingua', reason="needs pip install 'tweetnb[languages]'")
    spanish = 'qué buen día hace hoy con mis amigos en la playa', 'no me gusta nada esta película tan larga y aburrida'
    english = 'what a good day at the beach with all of my friends', 'I do not like this long and boring film at all'
    table = pd.DataFrame(dict(text=(spanish + english*2)*20, label=['good', 'bad']*60))
    names = tweet_slices(table)
    assert names['language: es'].sum() == 40 and names['language: en'].sum() == 80
    assert not any(o.startswith('language') for o in tweet_slices(table.assign(lang='x')))

# --- the checklist

def test_only_what_disturbs_it_fails():
    tweets = ['@ana he is a good friend 👍 of Mary #x http://t.co/a', 'a bad day for John and his brother 👎']*20
    found = checklist(Rule('good'), tweets)
    assert found.table.loc['upper case', 'fails'] == 20 and found.table.loc['pronoun', 'fails'] == 0
    assert set(CHECKS) <= set(found.table.index)
    assert found.table.loc['praise negated', 'fails'] == found.table.loc['praise negated', 'tweets'] == 20
    quiet = checklist(Rule('good', lower=True), tweets)
    assert quiet.table.loc['upper case', 'fails'] == 0 and quiet.robustness > found.robustness
    assert set(quiet.examples['check']) <= {'typo', 'praise negated'}
    mine = checklist(Rule('good'), tweets, praise=None, checks=dict(gone=lambda o, rng: o.replace('good', 'fine')))
    assert mine.table.index.tolist() == ['gone'] and mine.robustness == 0

def test_the_card_says_how_robust_it_is(baseline, tmp_path):
    from tweetnb.ship.bundle import load
    folder = baseline.save(tmp_path/'moods')
    found = checklist(folder, df, n=100)
    keep_checklist(folder, found)
    said = f'{found.robustness:.1%} of its answers stay'
    assert said in (folder/'README.md').read_text(encoding='utf-8')
    again = load(folder).save(tmp_path/'again')
    assert said in (again/'README.md').read_text(encoding='utf-8')
    assert load(again).info['robustness'] == found.to_dict()

def test_slices_and_checklist_on_the_command_line(plain, tmp_path):
    import shutil
    folder, file = shutil.copytree(plain, tmp_path/'plain'), tmp_path/'t.csv'
    groups().to_csv(file, index=False)
    said = tweetnb('slices', folder, file, '--by', 'region', '--for', 'positive').stdout
    assert 'region: north' in said and 'false alarms' in said
    said = tweetnb('checklist', folder, sample_path('tweets_test_labelled.csv'), '--keep').stdout
    assert 'upper case' in said and 'Robustness: 0.' in said
    assert '## Robustness' in (folder/'README.md').read_text(encoding='utf-8')
    assert "no column 'town'" in tweetnb('slices', folder, file, '--by', 'town', ok=False).stderr

def test_numbers_have_no_slices():
    numbers = Rule('good')
    numbers.problem_type = 'regression'
    for call in checklist, slices:
        with pytest.raises(TweetnbError, match='not for numbers'): call(numbers, df)
    several = pd.DataFrame(dict(text=['a', 'b'], label=[('x', 'y'), ()]))
    with pytest.raises(TweetnbError, match='one label a tweet'): slices(Rule('good'), several)
