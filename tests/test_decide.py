"Decisions: what they promise, what they refuse, and that everything that answers follows them"
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.read import read_tweets
from tweetnb.models.decide import (Decision, choose_decision, choose_precision, choose_recall, choose_sets,
                                   cost_decision, expected_effect)
from tweetnb.models.linear import LinearClassifier
from tweetnb.ship.bundle import decide, keep_decision, load
from tweetnb.ship.shards import predict_file


def some_probs(n, k=3, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([.4]*k, n)
    true = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    return pd.DataFrame(p, columns=[f'l{i}' for i in range(k)]), np.array([f'l{i}' for i in true])

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 1000), st.floats(.05, .95))
def test_sets_of_the_choosing_tweets_hold_what_is_promised(n, k, seed, coverage):
    probs, true = some_probs(n, k, seed)
    sets = choose_sets(probs, true, coverage).possible(probs)
    inside = sets[np.arange(n), probs.columns.get_indexer(true)]
    assert inside.mean() >= min(1, coverage) - 1e-9

def test_coverage_holds_over_random_splits():
    probs, true = some_probs(3000)
    y, rng, found = probs.columns.get_indexer(true), np.random.default_rng(0), []
    for _ in range(200):
        a, b = np.split(rng.permutation(3000), [300])
        found.append(choose_sets(probs.iloc[a], true[a], .9).possible(probs.iloc[b])[np.arange(2700), y[b]].mean())
    assert np.mean(found) + 2*np.std(found)/200**.5 >= .9

def test_precision_on_new_tweets_is_rarely_below_the_target():
    new, new_true = some_probs(50_000, seed=1)
    missed = []
    for seed in range(100):
        answers = choose_precision(*some_probs(1000, seed=seed + 2), .9, label='l0')(new)['label']
        right = new_true[answers == 'l0'] == 'l0'
        missed.append(len(right) > 0 and right.mean() < .9)
    assert np.mean(missed) <= .2

def test_every_answer_follows_the_rule():
    probs, true = some_probs(500)
    decision = choose_precision(probs, true, .8)
    answers = decision(probs)
    least = dict(zip(probs, decision.least))
    for top, p, label in zip(probs.idxmax(axis=1), probs.max(axis=1), answers['label']):
        assert label == (top if p >= least[top] else 'unsure')
    wins = choose_recall(probs, true, 'l1', .9)
    assert ((wins(probs)['label'] == 'l1') | (probs['l1'] < wins.wins[1])).all()

def test_equal_costs_answer_the_most_probable_label():
    probs, _ = some_probs(300)
    assert (cost_decision(list(probs), {})(probs)['label'] == probs.idxmax(axis=1)).all()
    dear = cost_decision(list(probs), {}, abstain_cost=.3)(probs)
    assert ((dear['label'] == 'unsure') == (probs.max(axis=1) < .7)).all()

def test_impossible_wishes_are_told():
    probs, true = some_probs(50)
    for wanted, problem in [(dict(min_precision=1.5), 'between 0 and 1'), (dict(coverage=0), 'between 0 and 1'),
                            (dict(costs={('l0', 'x'): 2}), "unknown label 'x'"), ({}, 'nothing is wanted'),
                            (dict(min_recall=.999, label='l0'), 'too few'), (dict(min_recall=.9), 'one label')]:
        with pytest.raises(TweetnbError, match=problem): choose_decision(probs, true, **wanted)
    with pytest.raises(TweetnbError, match='has a label that the classifier knows'):
        choose_decision(probs, ['sad']*50, coverage=.9)

def test_tweets_of_unknown_labels_choose_nothing():
    probs, true = some_probs(400)
    some = np.where(np.arange(400) % 4 == 0, 'sad', true)
    kept = some != 'sad'
    assert choose_sets(probs, some).sets == choose_sets(probs[kept], true[kept]).sets
    table, by_label = expected_effect(probs, some, coverage=.9)
    assert .85 < table.loc['decision', 'coverage'] <= 1 and by_label['answers before'].sum() == kept.sum()

@pytest.mark.parametrize('names', [None, {'negative': -1, 'neutral': 0, 'positive': 1}])
def test_a_bundle_is_asked_and_answers(tmp_path, names):
    df = read_tweets(sample_path('tweets.csv'), label=True)
    if names: df['label'] = df['label'].astype(str).map(names)
    model = LinearClassifier(tol=1e-3).fit(df[:300], df['label'][:300])
    folder = model.save(tmp_path/'b')
    before = load(folder).predict_proba(df)
    decision, table, _ = decide(folder, df[300:], min_precision=.7, coverage=.9)
    again = load(folder)
    assert again.decision == decision and again.predict_proba(df).equals(before)
    answers = again.predict(df[300:])
    assert 'unsure' in set(answers['label']) and 0 < table.loc['decision', 'answered'] < 1
    for name in 'out.csv', 'out.parquet': # a column of numbers and words could not be written
        predict_file(again, sample_path('tweets.csv'), tmp_path/name, 'torch')
    out = pd.read_parquet(tmp_path/'out.parquet')
    assert out['label'].equals(pd.read_csv(tmp_path/'out.csv', dtype=str)['label']) and 'set' in out
    assert load(again.save(tmp_path/'c')).decision == decision
    _, table, _ = decide(folder, df[300:], top=2)
    assert (load(folder).predict(df)['set'].str.count('[|]') == 1).all()
    second = [list(before)[o] for o in before.to_numpy().argsort(1)[:, -2]]
    right = (before.idxmax(axis=1) == df['label']) | (pd.Series(second) == df['label'])
    assert abs(table.loc['decision', 'coverage'] - right[300:].mean()) < 1e-9
    keep_decision(folder, Decision())
    assert 'unsure' not in set(load(folder).predict(df)['label'])

def test_a_decision_that_does_not_fit_is_refused(tmp_path):
    df = read_tweets(sample_path('tweets.csv'), label=True)
    model = LinearClassifier(tol=1e-3).fit(df, df['label'])
    model.decision = Decision(least=[.5, .5])
    with pytest.raises(TweetnbError, match='does not fit 3 labels'): load(model.save(tmp_path/'b'))

def test_the_service_follows_the_decision():
    pytest.importorskip('fastapi', reason="needs the extra 'serve'")
    pytest.importorskip('httpx', reason="needs the development requirements")
    from fastapi.testclient import TestClient
    from tweetnb.ship.serve import make_server
    df = read_tweets(sample_path('tweets.csv'), label=True)
    model = LinearClassifier(tol=1e-3).fit(df[:300], df['label'][:300])
    model.decision = Decision(least=[.6]*3, sets=[.3]*3)
    expected = model.predict(df[:20])
    with TestClient(make_server(model, api_key='')) as client:
        found = client.post('/predict', json={'texts': df['text'][:20].tolist()}).json()['predictions']
    assert [o['label'] for o in found] == expected['label'].tolist() and 'unsure' in set(expected['label'])
    assert ['|'.join(o['set']) for o in found] == expected['set'].tolist()
