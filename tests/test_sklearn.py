"scikit-learn's own checks of estimators, its tools around ours, and what only a file can hold: processes, containers"
import subprocess, sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

import tweetnb as tn
from matrix import MatrixInput, expected
from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.clean import Cleaner
from tweetnb.data.read import read_tweets

linear = tn.TweetClassifier('tfidf', params={'C': 3., 'chars': False})

@pytest.fixture(scope='module')
def tweets():
    df = read_tweets(sample_path('tweets.csv'), label=True)[:300]
    return df['text'].reset_index(drop=True), df['label'].astype(str).to_numpy()

@parametrize_with_checks([tn.TweetClassifier('tfidf'), tn.TweetClassifier(), tn.CleanTransformer()])
def test_checks(estimator, check):
    "The checks without data; scikit-learn leaves out the others for an input of strings"
    check(estimator)

class Numbers(MatrixInput, tn.TweetClassifier):
    def predict_proba(self, X):
        check_is_fitted(self)
        return super().predict_proba(self.words(X, reset=False))

@parametrize_with_checks([Numbers()], expected_failed_checks=expected)
def test_all_checks(estimator, check):
    check(estimator)

def test_containers(tweets):
    "The same tweets in any container give the same answers"
    X,y = tweets
    model = clone(linear).fit(X, y)
    probs = model.predict_proba(X)
    table = pd.DataFrame({'text': X, 'likes': 0}).set_axis(X.index[::-1])
    array = X.to_numpy(dtype=object)
    for same in (X.tolist(), table, table[['text']], array, array.astype(str), array[:,None], tuple(X)):
        assert np.array_equal(model.predict_proba(same), probs)
        assert np.array_equal(clone(linear).fit(same, y).predict(X), model.predict(X))
    assert np.array_equal(clone(linear).fit(X, pd.Series(y, dtype='category')).predict_proba(X), probs)

@pytest.mark.parametrize('convert', [str, lambda o: len(o), lambda o: o == 'positive', lambda o: float(len(o))])
def test_labels_keep_their_type(tweets, convert, tmp_path):
    X,y = tweets
    y = np.array([convert(o) for o in y])
    model = clone(linear).fit(X, y)
    assert model.classes_.dtype == model.predict(X).dtype == y.dtype
    assert model.score(X, y) > .8
    assert np.array_equal(tn.load(model.save(tmp_path/'bundle')).predict(X)['label'].to_numpy(), model.predict(X))

def test_weights(tweets):
    "Weight 0 leaves a tweet out; a network is trained on tweets drawn by weight; equal weights change nothing"
    X,y = tweets
    kept = y != 'neutral'
    model = clone(linear).fit(X, y, sample_weight=kept.astype(float))
    assert model.classes_.tolist() == ['negative', 'neutral', 'positive']
    assert not model.predict_proba(X)[:,1].any() and 'neutral' not in model.predict(X)
    network = tn.TweetClassifier('ngram', epochs=1, device='cpu')
    plain = clone(network).fit(X, y).predict_proba(X[:20])
    assert np.allclose(clone(network).fit(X, y, sample_weight=np.full(len(y), 2.)).predict_proba(X[:20]), plain)
    without = clone(network).fit(X, y, sample_weight=kept.astype(float))
    assert not without.predict_proba(X)[:,1].any()

@pytest.mark.parametrize('bad, why', [
    (dict(class_weight={'a': 2}), 'for tfidf only'), (dict(tokens='syllables'), 'unknown tokens'),
    (dict(epochs=-1), 'not a number above 0')])
def test_settings_that_cannot_be(tweets, bad, why):
    with pytest.raises(TweetnbError, match=why): tn.TweetClassifier('bilstm', **bad).fit(*tweets)

def test_patience_holds_tweets_out(tweets):
    X,y = tweets
    stopped = tn.TweetClassifier('ngram', epochs=2, patience=1, device='cpu').fit(X, y)
    assert set(stopped.result_.df['split']) == {'train', 'valid'}
    whole = tn.TweetClassifier('ngram', epochs=1, device='cpu').fit(X, y)
    assert set(whole.result_.df['split']) == {'train'} and not whole.result_.scores

def test_a_frozen_encoder_by_its_name(tweets, tmp_path):
    "The packaged encoder with a linear head; a bundle as the encoder; what is learnt is saved like any network"
    X,y = tweets
    model = tn.TweetClassifier('frozen', class_weight='balanced', device='cpu').fit(X, y)
    config = model.result_.config
    assert (config.model, config.probe, model.result_.learner) == ('subword', 'only', None)
    assert (model.predict(X) == y).mean() > .7
    folder = model.classifier_.save(tmp_path/'b')
    assert (tn.load(folder).predict(X[:9])['label'] == model.predict(X[:9])).all()
    again = tn.TweetClassifier('frozen', pretrained=str(folder), class_weight='balanced', device='cpu').fit(X, y)
    assert (again.predict(X) == model.predict(X)).mean() > .95
    with pytest.raises(TweetnbError, match='not on this machine'):
        tn.TweetClassifier('frozen', pretrained='nobody/nothing').fit(X, y)

def test_seeds(tweets):
    X,y = tweets
    model = tn.TweetClassifier('ngram', epochs=1, device='cpu')
    first = clone(model).fit(X, y).predict_proba(X[:9])
    assert np.array_equal(clone(model).fit(X, y).predict_proba(X[:9]), first)
    other = clone(model).set_params(random_state=np.random.RandomState(7)).fit(X, y)
    assert not np.array_equal(other.predict_proba(X[:9]), first)

def test_tools(tweets):
    "scikit-learn's tools around the classifier"
    X,y = tweets
    positive = y == 'positive'
    pipe = make_pipeline(tn.CleanTransformer('sentiment140'), tn.TweetClassifier('tfidf', cleaner=None))
    grid = GridSearchCV(pipe, {'tweetclassifier__params': [{'C': 1}, {'C': 10}], 'cleantransformer__preset': ['imdb']},
                        cv=2, scoring='roc_auc_ovr').fit(X, y)
    assert grid.best_score_ > .6 and grid.best_estimator_.predict(X).shape == y.shape
    assert cross_val_score(linear, X, y, cv=2).min() > .4
    assert cross_val_predict(linear, X, y, cv=2, method='decision_function').shape == (len(y), 3)
    words = make_pipeline(TfidfVectorizer(), LogisticRegression())
    members = [('ours', linear), ('theirs', words)]
    for model in (CalibratedClassifierCV(linear, cv=2), VotingClassifier(members, voting='soft'),
                  BaggingClassifier(linear, 2), StackingClassifier(members, cv=2)):
        data = np.array(X, dtype=object)[:,None] if isinstance(model, BaggingClassifier) else X
        assert (model.fit(data, y).predict(data) == y).mean() > .7, model
    tuned = TunedThresholdClassifierCV(linear, scoring='f1', cv=2).fit(X, positive)
    assert tuned.predict(X).dtype == bool

def test_cleanlab():
    "cleanlab's `CleanLearning` trains the classifier, and trusts labels that were changed on purpose less than others"
    cleanlab = pytest.importorskip('cleanlab.classification', reason='pip install cleanlab')
    df = read_tweets(sample_path('tweets.csv'), label=True)[:900]
    X,given = df['text'].reset_index(drop=True), (df['label'] == 'positive').to_numpy().astype(int)
    given[::25] ^= 1
    cleaner = cleanlab.CleanLearning(linear, cv_n_folds=3, verbose=False, seed=0).fit(X, given)
    found = cleaner.get_label_issues()
    assert found['label_quality'][::25].mean() < found['label_quality'].mean() - .15
    assert found['is_label_issue'][::25].mean() > 2*found['is_label_issue'].mean()
    assert set(cleaner.predict(X)) == {0, 1} and cleaner.predict_proba(X).shape == (900, 2)

def test_clean_transformer(tweets):
    X,_ = tweets
    for preset in 'arabizi', 'tweeteval':
        wanted = Cleaner.preset(preset).apply(X)
        assert tn.CleanTransformer(preset).fit_transform(X.tolist()).tolist() == wanted
        assert clone(tn.CleanTransformer(Cleaner.preset(preset))).fit_transform(X).tolist() == wanted
    series = X.set_axis(X.index + 7)
    assert tn.CleanTransformer().transform(series).index.equals(series.index)
    table = pd.DataFrame({'text': X, 'likes': range(len(X))})
    both = ColumnTransformer([('words', make_pipeline(tn.CleanTransformer(), TfidfVectorizer()), 'text'),
                              ('likes', 'passthrough', ['likes'])])
    assert both.fit_transform(table).shape[0] == len(X)
    assert 'likes__likes' in both.get_feature_names_out()
    framed = tn.CleanTransformer().set_output(transform='pandas').fit_transform(table[['text']])
    assert list(framed) == ['text']

def test_import_is_light():
    "An estimator can be made, copied and printed without PyTorch"
    code = ("import sys, tweetnb as tn; from sklearn.base import clone; print(clone(tn.TweetClassifier())); "
            "assert not {'torch', 'fastai', 'transformers', 'matplotlib'} & set(sys.modules), sys.modules.keys()")
    assert 'TweetClassifier()' in subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                                                 check=True).stdout
