"""Temperature scaling, coverage and the reject option, on random probabilities."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from tweetnb.evaluate.calibrate import RejectOption, Temperature, confidence, coverage, strength, with_neutral
from tweetnb.metrics import calibration_error, log_loss
from tweetnb.models.linear import LinearClassifier


def some_probs(seed, n=200, k=3, sharp=1.):
    "Probabilities and labels that agree with them more or less"
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, k))*2
    p = np.exp(z)/np.exp(z).sum(1, keepdims=True)
    y = np.array([rng.choice(k, p=o) for o in p])
    q = p**sharp/(p**sharp).sum(1, keepdims=True)
    return pd.DataFrame(q, columns=list('abcdefgh'[:k])), np.array(list('abcdefgh'))[y]

@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), k=st.integers(2, 5),
       sharp=st.sampled_from([.01, .3, 1., 3., 30., 300.]))
def test_a_temperature_never_makes_it_worse(seed, n, k, sharp):
    "On the tweets that it was fitted on; answers never change"
    probs, true = some_probs(seed, n, k, sharp)
    t = Temperature.fit(probs, true)
    assert log_loss(t(probs), true) <= log_loss(probs, true) + 1e-9
    np.testing.assert_allclose(t(probs).sum(axis=1), 1, atol=1e-9)
    found = t(probs).to_numpy()[np.arange(n), probs.to_numpy().argmax(1)]
    assert (found >= t(probs).max(axis=1).to_numpy() - 1e-12).all()

@pytest.mark.parametrize('sharp', [.5, 1., 2., 4.])
def test_the_temperature_is_found(sharp):
    "Probabilities that were sharpened `sharp` times want that temperature"
    probs, true = some_probs(3, 20_000, 3, sharp)
    assert abs(Temperature.fit(probs, true).value/sharp - 1) < .05
    assert calibration_error(Temperature.fit(probs, true)(probs), true) < .02

@settings(max_examples=60, deadline=None)
@given(scores=arrays(float, st.integers(1, 50), elements=st.floats(0, 1, width=32)), share=st.floats(0, 1))
def test_the_stated_share_is_rejected(scores, share):
    "Never more than stated, and where no scores are equal less than one tweet fewer"
    n = (RejectOption.at_share(scores, share)(['a']*len(scores), scores) == 'neutral').sum()
    assert n <= np.ceil(share*len(scores)) + 1e-9
    if len(set(scores)) == len(scores): assert n >= share*(len(scores) - 1) - 1e-6

def test_coverage_and_neutral():
    probs, true = some_probs(5, 400, 2)
    right = probs.idxmax(axis=1).to_numpy() == true
    curve = coverage(confidence(probs), right)
    for i in 0, 99, 399:
        kept = confidence(probs) >= curve['threshold'][i]
        assert abs(curve['accuracy'][i] - right[kept].mean()) < 1e-9 and curve['answered'][i] == (i + 1)/400
    answers = with_neutral(probs)
    assert abs((answers == 'neutral').mean() - 1/3) < .01
    assert (answers[answers != 'neutral'] == probs.idxmax(axis=1).to_numpy()[answers != 'neutral']).all()
    assert confidence(probs)[answers == 'neutral'].max() < confidence(probs)[answers != 'neutral'].min()
    assert strength([SimpleNamespace(weights=[-3, 1, 2, .5])])[0] == 6

def test_neutral_gains_where_neutral_words_say_little():
    "A tweet without any trained word is the one that is rejected; the benchmark measures real tweets"
    said = dict(positive='good great lovely happy', negative='bad awful sad angry', neutral='table train seven blue')
    rng = np.random.default_rng(0)
    rows = [(' '.join(['the', *rng.choice(words.split(), 3)]), label) for label,words in said.items()
            for _ in range(60)]
    table = pd.DataFrame(rows, columns=['text', 'label'])
    two = table[table['label'] != 'neutral']
    model = LinearClassifier().fit(two['text'], two['label'])
    probs, true = model.predict_proba(table['text']), table['label'].to_numpy()
    assert (probs.idxmax(axis=1).to_numpy() == true).mean() <= 2/3
    for scores in None, strength(model.explain(table['text'])):
        assert (with_neutral(probs, scores) == true).mean() > .95
