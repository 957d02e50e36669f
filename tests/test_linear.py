"""TF-IDF counted in whole columns is scikit-learn's, whatever the tweets are"""
import subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from tweetnb.core import sample_path
from tweetnb.data.read import read_tweets
from tweetnb.models.linear import LinearClassifier, Tfidf, _best_strength
from tweetnb.ship.bundle import load

kinds = {'words': dict(ngram_range=(1, 2), token_pattern=r'\w+|[^\w\s]'),
         'characters': dict(analyzer='char_wb', ngram_range=(2, 5))}
words = st.sampled_from(['so', 'SO', 'a', 'good', 'goood', 'İst', 'ß', '😍', '👩‍👩‍👧', '!!', "don't", 'é', 'e\u0301',
                         '3jebni', '日本語', '\ud800', '\u00a0', '\u2003', '\n', '#', '_x_'])
tweets = st.lists(st.one_of(st.lists(words, max_size=8).map(' '.join), st.text(max_size=12)), min_size=1, max_size=80)


@pytest.mark.parametrize('kind', kinds)
@settings(max_examples=80, deadline=None)
@given(tweets, tweets, st.integers(1, 3))
def test_features_and_values_are_those_of_scikit_learn(kind, train, others, min_df):
    ours = Tfidf(kinds[kind].get('token_pattern'), min_df)
    theirs = TfidfVectorizer(**kinds[kind], sublinear_tf=True, min_df=min_df, dtype=np.float32)
    try: expected = theirs.fit_transform(train)
    except ValueError:
        with pytest.raises(ValueError): ours.fit_transform(train)
        return
    found = ours.fit_transform(train)
    assert ours.vocabulary == theirs.vocabulary_ and found.dtype == expected.dtype
    np.testing.assert_array_equal(ours.idf, theirs.idf_)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-6)
    for some in others, others*60:                          # few are counted one by one
        np.testing.assert_allclose(ours.transform(some).toarray(), theirs.transform(some).toarray(), atol=1e-6)


def test_settings_are_those_that_bundles_were_made_with(tmp_path):
    old = load(Path(__file__).parent/'bundles'/'0.1.0'/'tfidf')
    new = LinearClassifier(chars=True).fit(['今日はいい', '今日はひどい']*3, ['good', 'bad']*3)
    for model in old, load(old.save(tmp_path/'old')):       # a word is what it was, also after saving again
        assert model.features[0].pattern == kinds['words']['token_pattern']
    for model in new, load(new.save(tmp_path/'new')):
        words,inside = model.features
        assert '今' in words.vocabulary and inside.pattern is None and inside.lengths == (2, 5)


def test_one_tweet_is_answered_without_the_libraries_that_train(tmp_path):
    new = LinearClassifier(chars=True).fit(['so good', 'so bad']*3, ['good', 'bad']*3)
    new.save(tmp_path/'new')
    code = f"""import sys
from tweetnb.ship.bundle import load
it = load({str(tmp_path/'new')!r})
print(it.predict('so good')['label'][0], it.explain('so good')[0].label)
print([o for o in ('sklearn', 'torch', 'fastai', 'transformers') if o in sys.modules])"""
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split('\n')
    assert said[:2] == ['good good', '[]']


def test_several_threads_may_be_the_first_to_ask(tmp_path):
    "As Dask's do with a bundle that was just loaded"
    df = read_tweets(sample_path('tweets.csv'))
    LinearClassifier().fit(df, df['label']).save(tmp_path/'moods')
    want = load(tmp_path/'moods').predict_proba(df).to_numpy()
    for _ in range(5):
        fresh, start = load(tmp_path/'moods'), threading.Barrier(8)
        def ask(_):
            start.wait()
            return fresh.predict_proba(df).to_numpy()
        with ThreadPoolExecutor(8) as pool:
            for got in pool.map(ask, range(8)): np.testing.assert_array_equal(got, want)


def test_of_strengths_within_a_standard_error_the_strongest_wins():
    "Where a sample stands for many tweets; on all tweets the best mean does"
    from scipy.sparse import csr_matrix
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    rng = np.random.default_rng(0)
    X,y = rng.normal(size=(2000, 40)), rng.integers(0, 2, 2000)
    X[:, 0] += y                                            # one feature says something, the rest are chance
    X,strengths,model = csr_matrix(X), (.01, .1, 1, 10), LogisticRegression(tol=1e-3)
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    def scores(X, y): return np.array([cross_val_score(clone(model).set_params(C=C), X, y, scoring='f1_macro', cv=cv)
                                       for C in strengths])
    some = np.random.default_rng(0).permutation(2000)[:1500]
    found = scores(X[some], y[some])
    best = found.mean(1).argmax()
    near = found.mean(1) >= found[best].mean() - found[best].std(ddof=1)/3**.5
    assert near.sum() > 1 and best != near.argmax()         # or this test would not tell the two rules apart
    assert _best_strength(model, strengths, X, y) == strengths[near.argmax()]
    some = np.random.default_rng(0).permutation(1500)
    best = scores(X[some], y[some]).mean(1).argmax()
    assert _best_strength(model, strengths, X[:1500], y[:1500]) == strengths[best]
