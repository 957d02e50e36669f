"Finders and profiles leave no trace"
import pandas as pd
import pytest
import torch
from small_learner import learner, same, train, weights

from tweetnb.core import TweetnbError, seed_everything
from tweetnb.train.callbacks import EvaluateEvery, TensorBoard, rng_state
from tweetnb.train.checkpoint import Checkpoint
from tweetnb.train.finders import BatchSizes, find_bs, find_clip, find_lr, trial
from tweetnb.train.timing import profile

@pytest.fixture(scope='module')
def alone(): return weights(train(learner()))

trials = dict(
    lr=lambda learn: find_lr(learn, plot=False, steps=20),
    clip=lambda learn: find_clip(learn, steps=8, plot=False),
    bs=lambda learn: find_bs(learn, (16, 64), epochs=1),
    profile=lambda learn: profile(learn, 5, 2))

@pytest.mark.parametrize('name', trials)
def test_a_trial_leaves_no_trace(alone, name, tmp_path):
    learn = learner(Checkpoint(tmp_path/'run'), TensorBoard(tmp_path/'board'), EvaluateEvery(3), path=tmp_path)
    state = rng_state()
    trials[name](learn)
    assert all(torch.equal(v, state[k]) for k,v in rng_state().items())
    assert list(tmp_path.iterdir()) == [] and learn.dls.train.bs == 32 and learn.model.training
    assert same(weights(train(learn)), alone)

def test_an_error_in_a_trial_leaves_no_trace(alone):
    learn = learner()
    with pytest.raises(ZeroDivisionError):
        with trial(learn):
            learn.fit(1)
            1/0
    assert not hasattr(learn.recorder, 'values') and learn.opt is None
    assert same(weights(train(learn)), alone)

def test_a_trial_between_two_fits():
    one,two = train(learner()),train(learner())
    seed_everything(1)
    find_lr(two, plot=False, steps=10)
    for learn in two, one:
        seed_everything(1)
        train(learn)
    assert same(weights(one), weights(two)) and one.recorder.values == two.recorder.values

def test_batch_sizes():
    t = pd.DataFrame(dict(bs=[8, 32, 128], tweets_per_s=[100., 300, 900], accuracy=[.80, .795, .70]))
    assert (BatchSizes(t).suggestion, BatchSizes(t).fastest) == (32, 128)
    assert '3.0 times as fast as 32' in BatchSizes(t).warning
    found = find_bs(learner(), (16, 64, 10**5), epochs=1)
    assert found.table['bs'].tolist() == [16, 64]
    assert found.table['lr'].tolist() == pytest.approx([3e-3/2**.5, 3e-3*2**.5])

def test_infinite_gradients_are_reported():
    with pytest.raises(TweetnbError, match='infinite'): find_clip(learner(), steps=3, lr=float('nan'), plot=False)

def test_a_profile_of_more_steps_than_an_epoch():
    found = profile(learner(), 25, 2)
    assert list(found.table.index) == ['input', 'forward', 'backward', 'optimiser', 'callbacks']
    assert found.table['share'].sum() == pytest.approx(1) and (found.table['ms'][:4] > 0).all()

def test_fastai_learners_are_left_alone():
    import subprocess, sys
    code = ('import fastai.callback.progress, fastai.callback.schedule\n'
            'from fastai.learner import Learner\n'
            'before = dict(vars(Learner))\n'
            'import tweetnb.train.timing, tweetnb.train.checkpoint\n'
            'print([k for k,v in vars(Learner).items() if before.get(k) is not v])')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == '[]', done.stderr
