"Losses against plain loops, and in training"
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from small_learner import learner, train

from tweetnb.train.callbacks import evaluate
from tweetnb.train.losses import IgnoringFocalLoss, class_weights, tweet_loss

settings.register_profile('losses', deadline=None, max_examples=50)
settings.load_profile('losses')

@given(st.lists(st.integers(-1, 2), min_size=1, max_size=20), st.floats(0, 5), st.booleans())
def test_focal_loss_by_a_loop(y, gamma, weighted):
    if max(y) < 0: return
    logits = torch.from_numpy(np.random.default_rng(len(y)).normal(size=(len(y), 3))).float()
    weight = torch.tensor([1., 2, .5]) if weighted else torch.ones(3)
    targ = torch.tensor([o if o >= 0 else -100 for o in y])
    p = logits.softmax(1)
    expected = [float(weight[t]*(1 - p[i,t])**gamma*-math.log(p[i,t])) for i,t in enumerate(y) if t >= 0]
    loss = IgnoringFocalLoss(gamma=gamma, weight=weight if weighted else None)(logits, targ)
    assert float(loss) == pytest.approx(sum(expected)/float(sum(weight[t] for t in y if t >= 0)), rel=1e-3, abs=1e-5)

@pytest.mark.parametrize('kw', [dict(weighted=True), dict(gamma=2), dict(smoothing=.1), dict(weighted=.5, gamma=1)])
def test_every_loss_trains_and_predicts(kw):
    learn = learner()
    learn.loss_func = tweet_loss(learn.dls, **kw)
    losses = []
    for epochs in 1, 4: losses.append(evaluate(train(learn, epochs), learn.dls.train.new(shuffle=False))['loss'])
    assert losses[1] < losses[0]
    with learn.no_bar(): probs,_,losses = learn.get_preds(with_loss=True)
    assert probs.sum(1).tolist() == pytest.approx([1]*len(probs), abs=1e-5) and len(losses) == len(probs)

@given(st.lists(st.integers(1, 50), min_size=2, max_size=6), st.floats(0, 2))
def test_class_weights_have_mean_one(counts, power):
    y = np.repeat(np.arange(len(counts)), counts)
    w = class_weights(y, power).numpy()
    assert w[y].mean() == pytest.approx(1, rel=1e-4)
    assert w*np.array(counts, float)**power == pytest.approx(np.full(len(counts), w[0]*counts[0]**power), rel=1e-3)
