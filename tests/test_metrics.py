"""Metrics against plain loops and scikit-learn."""
import subprocess, sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn import metrics as sk

from tweetnb.core import TweetnbError
from tweetnb.metrics import (Scores, bootstrap_scores, calibration_error, correct, label_numbers, majority_score,
                             metric_value, reliability, top_k_accuracy, tweeteval_score)

settings.register_profile('metrics', deadline=None, max_examples=50)
settings.load_profile('metrics')

numbers = st.lists(st.floats(.01, 1), min_size=3, max_size=3)
predictions = st.lists(st.tuples(numbers, st.integers(-1, 2)), min_size=1, max_size=60)
pairs = st.lists(st.tuples(st.sampled_from('abcd'), st.sampled_from('abce')), min_size=1, max_size=60)

def table_of(rows):
    "Probabilities with the columns 0, 1, 2, and labels; -1 is none of them"
    probs = np.array([o for o,_ in rows])
    return pd.DataFrame(probs/probs.sum(1, keepdims=True)), [y for _,y in rows]

@given(predictions, st.integers(1, 20))
def test_calibration_error_by_a_loop(rows, bins):
    probs, true = table_of(rows)
    want = 0
    for b in range(bins):
        mine = [(p.max(), p.argmax() == y) for p,y in zip(probs.to_numpy(), true)
                if min(int(p.max()*bins), bins-1) == b]
        if mine: want += len(mine)/len(rows)*abs(np.mean([o for o,_ in mine]) - np.mean([o for _,o in mine]))
    assert calibration_error(probs, true, bins) == pytest.approx(want, abs=1e-12)
    assert reliability(probs, true, bins)['tweets'].sum() == len(rows)

@given(pairs)
def test_scores_are_those_of_scikit_learn(pairs):
    "Also with labels absent from training (d) and predictions that are no label (e)"
    true, pred = zip(*pairs)
    s = Scores(true, pred, ['a', 'b', 'c'])
    occur = sorted(set(true))
    kw = dict(labels=occur, zero_division=0)
    assert s.accuracy == pytest.approx(sk.accuracy_score(true, pred))
    assert s.macro_f1 == pytest.approx(sk.f1_score(true, pred, average='macro', **kw))
    assert s.macro_recall == pytest.approx(sk.recall_score(true, pred, average='macro', **kw))
    assert s.weighted_f1 == pytest.approx(sk.f1_score(true, pred, average='weighted', **kw))
    assert (s.confusion.to_numpy() == sk.confusion_matrix(true, pred, labels=s.labels)).all()
    assert s.unseen == [o for o in occur if o == 'd'] and s.confusion.to_numpy().sum() == s.n == len(pairs)

@given(pairs)
def test_intervals_hold_the_values(pairs):
    s = Scores(*zip(*pairs), ['a', 'b', 'c'])
    t = s.report(draws=200)
    assert t['value'].to_dict() == s.metrics
    assert (t['low'] <= t['high']).all() and t[['low', 'high']].stack().between(0, 1).all()

def test_the_interval_covers():
    "The accuracy of the whole population is in about 95 of 100 intervals"
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        right = rng.random(150) < .7
        low, high = Scores(['a']*150, np.where(right, 'a', 'b'),
                           ['a', 'b']).report(draws=300).loc['accuracy', ['low', 'high']]
        hits += low <= .7 <= high
    assert .89 < hits/200 <= .99

def test_bootstrap_by_a_loop():
    "The same draws as scikit-learn on tweets drawn one by one; several seeds are averaged"
    rng = np.random.default_rng(3)
    true, pred = rng.integers(0, 3, 80), rng.integers(0, 3, (2, 80))
    draws = np.random.default_rng(7)
    rows = [draws.integers(80, size=80) for _ in range(20)]
    for metric,average in ('macro_f1', 'macro'), ('weighted_f1', 'weighted'):
        want = [np.mean([sk.f1_score(true[i], p[i], average=average) for p in pred]) for i in rows]
        np.testing.assert_allclose(bootstrap_scores(true, pred, metric, 20, 7), want)

@given(predictions, st.integers(1, 5))
def test_top_k_by_a_loop(rows, k):
    probs, true = table_of(rows)
    want = np.mean([y in np.argsort(-p, kind='stable')[:k] for p,y in zip(probs.to_numpy(), true)])
    assert top_k_accuracy(probs, true, k) == pytest.approx(want)
    assert top_k_accuracy(probs, true, 1) == pytest.approx(correct(probs, true).mean())

def test_labels_keep_their_type():
    for true in [0, 4, 4], ['0', '4', '4'], np.array([0, 4, 4]), pd.Series(['0', '4', '4'], dtype='category'):
        s = Scores(true, ['0', 4, 0], [0, 4])
        assert s.labels == [0, 4] and s.accuracy == pytest.approx(2/3)
        assert s.by_label.index.tolist() == s.confusion.columns.tolist() == [0, 4]
        assert s.most_confused()['true'].tolist() == [4]
        assert majority_score([4, 4, 0], true) == pytest.approx(2/3)
    assert label_numbers([True, 'x'], [False, True]).tolist() == [1, -1]

def test_tweeteval():
    rng = np.random.default_rng(0)
    true, pred = rng.integers(0, 3, 90), rng.integers(0, 3, 90)
    s = Scores(true, pred, [0, 1, 2])
    assert tweeteval_score('sentiment', s) == pytest.approx(sk.recall_score(true, pred, average='macro'))
    assert tweeteval_score('stance_abortion', s) == pytest.approx(sk.f1_score(true, pred, average=None)[1:].mean())
    for task in 'emoji', 'emotion', 'hate', 'offensive':
        assert tweeteval_score(task, s) == pytest.approx(sk.f1_score(true, pred, average='macro'))

@pytest.mark.parametrize('names', [['no', 'yes'], [1, 0], list('abc')])
def test_metrics_by_name(names):
    "In the order of the model's labels, whatever their names sort like"
    rng = np.random.default_rng(0)
    y = rng.integers(0, len(names), 60)
    p = rng.dirichlet(np.ones(len(names)), 60)
    true, probs = np.array(names, dtype=object)[y], pd.DataFrame(p, columns=names)
    def value(name): return metric_value(name, true, probs)
    one_hot = np.eye(len(names))[y]
    of = (lambda m: m(y, p[:,1])) if len(names) == 2 else (lambda m: m(one_hot, p, average='macro'))
    assert value('roc_auc') == pytest.approx(of(sk.roc_auc_score))
    assert value('average_precision') == pytest.approx(of(sk.average_precision_score))
    assert value('log_loss') == pytest.approx(sk.log_loss(y, p)) == pytest.approx(-value('neg_log_loss'))
    assert value('accuracy') == pytest.approx((p.argmax(1) == y).mean())
    assert value('matthews_corrcoef') == pytest.approx(sk.matthews_corrcoef(y, p.argmax(1)))
    for i,name in enumerate(names): assert value(f'f1:{name}') == pytest.approx(sk.f1_score(y == i, p.argmax(1) == i))
    if len(names) == 2: assert value('f1') == pytest.approx(value(f'f1:{names[1]}'))

@pytest.mark.parametrize('name', ['', 'f1:', 'f1:nobody', 'max_error_', 'top_k_accuracy_'])
def test_unknown_metrics(name):
    probs = pd.DataFrame(dict(a=[.9, .2], b=[.1, .8]))
    with pytest.raises(TweetnbError, match='unknown'): metric_value(name, ['a', 'b'], probs)

def test_metrics_need_neither_torch_nor_fastai():
    "Beyond what `core` imports itself"
    code = """import sys, tweetnb.core
before = set(sys.modules)
import tweetnb.metrics
new = {o.split('.')[0] for o in set(sys.modules) - before}
assert not new & {'torch', 'fastai', 'matplotlib'}, new"""
    subprocess.run([sys.executable, '-c', code], check=True)
