"What watches and what tries: neither changes training; figures against plain loops"
import json, math, os

import numpy as np
import pandas as pd
import pytest
import torch
import fastai.callback.progress, fastai.callback.schedule
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.learner import Learner
from fastai.metrics import accuracy
from hypothesis import given, settings, strategies as st
from sklearn.metrics import accuracy_score, f1_score, recall_score

from tweetnb.text.block import TweetDataLoaders
from tweetnb.train.callbacks import EvaluateEvery, SaveHistory, evaluate, kept_rng, plot_evaluations, rng_state
from tweetnb.train.checkpoint import Checkpoint, pack, unpack
from tweetnb.core import TweetnbError, sample_path, seed_everything
from tweetnb.train.finders import BatchSizes, trial
from tweetnb.train.callbacks import Logger, TensorBoard, WandB
from tweetnb.train.learner import tweet_learner
from tweetnb.train.losses import IgnoringFocalLoss, class_weights, tweet_loss
from tweetnb.metrics import Scores, calibration_error, reliability, top_k, tweeteval_score
from tweetnb.data.read import read_tweets
from tweetnb.models.recurrent import create_model
import tweetnb.train.timing

settings.register_profile('callbacks', deadline=None, max_examples=50)
settings.load_profile('callbacks')

table = read_tweets(sample_path('tweets.csv'))[:400]

def learner(*cbs, bs=32, metrics=accuracy, path='.', **kw):
    seed_everything(42)
    dls = TweetDataLoaders.from_df(table, bs=bs, device='cpu', min_freq=1, path=path)
    return Learner(dls, create_model('gru', len(dls.vocab[0]), len(dls.labels), n_emb=16, n_hidden=16), lr=3e-3, metrics=metrics, cbs=cbs, **kw)

def train(learn, epochs=2):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 5e-3)
    return learn

def weights(learn): return [p.detach().clone() for p in learn.model.parameters()]
def same(a, b): return all(torch.equal(x, y) for x,y in zip(a, b))

@pytest.fixture(scope='module')
def alone(): return weights(train(learner()))

# --- metrics

predictions = st.lists(st.tuples(st.lists(st.floats(.01, 1), min_size=3, max_size=3), st.integers(-1, 2)), min_size=1, max_size=60)

@given(predictions, st.integers(1, 20))
def test_calibration_error_by_a_loop(rows, bins):
    probs = np.array([o for o,_ in rows]); probs /= probs.sum(1, keepdims=True)
    true,want = [o for _,o in rows],0
    for b in range(bins):
        mine = [(p.max(), p.argmax() == y) for p,y in zip(probs, true) if min(int(p.max()*bins), bins-1) == b]
        if mine: want += len(mine)/len(rows)*abs(np.mean([o for o,_ in mine]) - np.mean([o for _,o in mine]))
    assert calibration_error(probs, true, bins) == pytest.approx(want, abs=1e-12)
    assert reliability(probs, true, bins)['tweets'].sum() == len(rows)

@given(st.lists(st.tuples(st.sampled_from('abcd'), st.sampled_from('abc')), min_size=1, max_size=60))
def test_intervals_hold_the_figures(pairs):
    true,pred = zip(*pairs)
    s = Scores(true, pred, ['a', 'b', 'c'])
    t = s.interval(n=200)
    assert t['value'].tolist() == pytest.approx([s.accuracy, s.macro_f1, s.macro_recall])
    assert (t['low'] <= t['high']).all() and t[['low', 'high']].stack().between(0, 1).all() and not t.isna().any(axis=None)

@given(predictions, st.integers(1, 5))
def test_top_k_by_a_loop(rows, k):
    probs,y = torch.tensor([[p + i*1e-3 for i,p in enumerate(o)] for o,_ in rows]),torch.tensor([max(o, 0) for _,o in rows])
    want = np.mean([int(t) in p.topk(min(k, 3)).indices.tolist() for p,t in zip(probs, y)])
    assert float(top_k(k)(probs, y)) == pytest.approx(want, abs=1e-6)

def test_tweeteval():
    rng = np.random.default_rng(0)
    true,pred = rng.integers(0, 3, 90).astype(str),rng.integers(0, 3, 90).astype(str)
    s = Scores(true, pred, ['0', '1', '2'])
    assert tweeteval_score('sentiment', s) == pytest.approx(recall_score(true, pred, average='macro'))
    assert tweeteval_score('stance_abortion', s) == pytest.approx(f1_score(true, pred, average=None)[1:].mean())
    for task in 'emoji', 'emotion', 'hate', 'offensive': assert tweeteval_score(task, s) == pytest.approx(f1_score(true, pred, average='macro'))

# --- watching

def test_watching_changes_no_bit(alone, tmp_path):
    learn = learner(EvaluateEvery(3, sample=40, csv=tmp_path/'steps.csv'), SaveHistory(tmp_path/'epochs.csv'), TensorBoard(tmp_path/'board', every=2),
                    Checkpoint(tmp_path/'run', steps=4))
    assert same(weights(train(learn)), alone)
    rows = learn.evaluate_every.table
    assert len(rows) == 2*(2*len(learn.dls.train)//3) and set(rows['set']) == {'train', 'valid'}
    assert pd.read_csv(tmp_path/'steps.csv')['loss'].tolist() == pytest.approx(rows['loss'].tolist())
    assert len(pd.read_csv(tmp_path/'epochs.csv')) == 2
    assert [o for o in tmp_path.iterdir() if o.name.startswith('.')] == []

@pytest.mark.parametrize('last', ['keep', 'fill'])
def test_evaluate_is_what_the_predictions_say(last):
    learn = learner()
    dl = learn.dls.valid.new(last=last)
    with learn.no_bar(): probs,y,losses = learn.get_preds(dl=dl, with_loss=True)
    got = evaluate(learn, dl)
    assert got['accuracy'] == pytest.approx(accuracy_score(y, probs.argmax(1))) and got['loss'] == pytest.approx(float(losses.mean()), rel=1e-5)

def test_labels_never_trained_are_never_right():
    learn = learner()
    odd = table[:50].assign(label='neither')
    both = pd.concat([table[:50].assign(label=table['label'][:50].astype(str)), odd], ignore_index=True)
    part = evaluate(learn, learn.dls.test_dl(table[:50]))
    got = evaluate(learn, learn.dls.test_dl(both))
    assert got['accuracy'] == pytest.approx(part['accuracy']/2) and got['loss'] == pytest.approx(part['loss'], rel=1e-4)

def test_the_sample_is_the_same_each_time():
    look = EvaluateEvery(2, sample=30)
    learn = train(learner(look))
    assert all(len(dl.get_idxs()) == 30 and len(set(dl.get_idxs())) == 30 for dl in look.loaders.values())
    assert {k: dl.get_idxs().tolist() for k,dl in look.loaders.items()} == {k: dl.get_idxs().tolist() for k,dl in look.loaders.items()}
    last = look.table.groupby('set').last()
    assert last.loc['valid', 'loss'] == pytest.approx(evaluate(learn, look.loaders['valid'])['loss'], rel=.2)

def test_a_set_without_labels_is_told():
    with pytest.raises(ValueError, match="'test' has no labels"): train(learner(EvaluateEvery(2, dict(test=table[['text']]))))

def test_train_validation_and_test_every_five_steps():
    test = table[:60].assign(text=table['text'][:60].str.upper())
    learn = learner()
    learn.add_cb(EvaluateEvery(5, dict(train=learn.dls.train, valid=learn.dls.valid, test=test), sample=50))
    t = train(learn).evaluate_every.table
    assert set(t['step']) == set(range(5, len(learn.recorder.losses) + 1, 5))
    assert t.groupby('step', sort=False)['set'].agg(list).map(lambda o: o == ['train', 'valid', 'test']).all() and t.notna().all(axis=None)

def test_early_stopping_ends_a_run():
    learn = learner(EarlyStoppingCallback(monitor='valid_loss', min_delta=10., patience=1))
    train(learn, 5)
    assert len(learn.recorder.values) == 2

def test_metrics_of_your_own():
    look = EvaluateEvery(5, metrics=dict(half=lambda true, pred: accuracy_score(true, pred)/2))
    train(learner(look))
    assert list(look.table) == ['step', 'epoch', 'set', 'loss', 'half'] and look.table['half'].max() <= .5
    assert len(plot_evaluations(look.table, ['loss', 'half'])) == 2

def test_kept_rng_after_an_error():
    before = rng_state()
    with pytest.raises(ZeroDivisionError):
        with kept_rng(): torch.rand(3); np.random.rand(); 1/0
    assert all(torch.equal(v, before[k]) for k,v in rng_state().items())

# --- states as JSON and tensors

plain = st.recursive(st.none() | st.booleans() | st.integers(-2**40, 2**40) | st.floats(allow_nan=False) | st.text(max_size=5),
                     lambda o: st.lists(o, max_size=12) | st.lists(o, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), o, max_size=4), max_leaves=40)

@given(plain)
def test_pack_keeps_everything(o):
    tensors = {}
    back = unpack(json.loads(json.dumps(pack(o, tensors))), tensors)
    assert back == o and repr(back) == repr(o)

# --- trying

@pytest.mark.parametrize('try_it', [lambda l: l.find_lr(plot=False, steps=20), lambda l: l.find_clip(steps=8, plot=False),
                                    lambda l: l.find_bs((16, 64), epochs=1), lambda l: l.profile(5, 2)], ids=['lr', 'clip', 'bs', 'profile'])
def test_trying_leaves_no_trace(alone, try_it, tmp_path):
    learn = learner(Checkpoint(tmp_path/'run'), TensorBoard(tmp_path/'board'), EvaluateEvery(3), EarlyStoppingCallback(patience=1), path=tmp_path)
    learn.remove_cb(learn.early_stopping)
    state = rng_state()
    try_it(learn)
    assert all(torch.equal(v, state[k]) for k,v in rng_state().items())
    assert list(tmp_path.iterdir()) == [] and learn.dls.train.bs == 32 and learn.model.training
    assert same(weights(train(learn)), alone)

def test_an_error_in_a_trial_leaves_no_trace(alone):
    learn = learner()
    with pytest.raises(ZeroDivisionError):
        with trial(learn): learn.fit(1); 1/0
    assert same(weights(train(learn)), alone)

def test_a_trial_in_the_middle_of_a_life():
    one,two = train(learner()),train(learner())
    seed_everything(1); two.find_lr(plot=False, steps=10)
    seed_everything(1); train(two); seed_everything(1); train(one)
    assert same(weights(one), weights(two)) and one.recorder.values == two.recorder.values

def test_batch_sizes():
    t = pd.DataFrame(dict(bs=[8, 32, 128], tweets_per_s=[100., 300, 900], accuracy=[.80, .795, .70]))
    assert (BatchSizes(t).suggestion, BatchSizes(t).fastest) == (32, 128) and '3.0 times as fast as 32' in BatchSizes(t).warning
    found = learner().find_bs((16, 64, 10**5), epochs=1)
    assert found.table['bs'].tolist() == [16, 64] and found.table['lr'].tolist() == pytest.approx([3e-3/2**.5, 3e-3*2**.5])

def test_infinite_gradients_are_told():
    with pytest.raises(TweetnbError, match='infinite'): learner().find_clip(steps=3, lr=float('nan'), plot=False)

# --- losses

@given(st.lists(st.integers(-1, 2), min_size=1, max_size=20), st.floats(0, 5), st.booleans())
def test_focal_loss_by_a_loop(y, gamma, weighted):
    if max(y) < 0: return
    logits = torch.from_numpy(np.random.default_rng(len(y)).normal(size=(len(y), 3))).float()
    weight = torch.tensor([1., 2, .5]) if weighted else torch.ones(3)
    targ = torch.tensor([o if o >= 0 else -100 for o in y])
    p = logits.softmax(1)
    want = [float(weight[t]*(1 - p[i,t])**gamma*-math.log(p[i,t])) for i,t in enumerate(y) if t >= 0]
    got = IgnoringFocalLoss(gamma=gamma, weight=weight if weighted else None)(logits, targ)
    assert float(got) == pytest.approx(sum(want)/float(sum(weight[t] for t in y if t >= 0)), rel=1e-3, abs=1e-5)

@pytest.mark.parametrize('kw', [dict(weighted=True), dict(gamma=2), dict(smoothing=.1), dict(weighted=.5, gamma=1)])
def test_every_loss_trains_and_predicts(kw):
    learn = learner()
    learn.loss_func = tweet_loss(learn.dls, **kw)
    first = [float(evaluate(train(learn, 1), learn.dls.train.new(shuffle=False))['loss']), float(evaluate(train(learn, 4), learn.dls.train.new(shuffle=False))['loss'])]
    assert first[1] < first[0]
    with learn.no_bar():
        probs,_,losses = learn.get_preds(with_loss=True)
    assert probs.sum(1).tolist() == pytest.approx([1]*len(probs), abs=1e-5) and len(losses) == len(probs)

@given(st.lists(st.integers(1, 50), min_size=2, max_size=6), st.floats(0, 2))
def test_class_weights_have_mean_one(counts, power):
    y = np.repeat(np.arange(len(counts)), counts)
    w = class_weights(y, power).numpy()
    assert w[y].mean() == pytest.approx(1, rel=1e-4)
    assert w*np.array(counts, float)**power == pytest.approx(np.full(len(counts), w[0]*counts[0]**power), rel=1e-3)

# --- logs

def test_a_log_gets_lines_and_no_bars(capsys):
    dls = TweetDataLoaders.from_df(table, bs=32, device='cpu', min_freq=1)
    learn = tweet_learner(dls, 'gru', n_emb=8, n_hidden=8)
    learn.fit(2)
    out,err = capsys.readouterr()
    lines = [o for o in out.splitlines() if o.strip()]
    assert len(lines) == 2 and [o[:3] for o in lines] == ['[0,', '[1,'] and not err and '\r' not in out and '█' not in out

def test_tensorboard_that_cannot_be_written(tmp_path):
    (tmp_path/'file').touch()
    with pytest.raises(ValueError, match='writable'): train(learner(TensorBoard(tmp_path/'file'/'run')))

def test_weights_and_biases_offline(tmp_path, alone, monkeypatch):
    wandb = pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    learn = learner(WandB('mood', tmp_path, every=5, name='one'))
    assert same(weights(train(learn)), alone)
    wandb.teardown()                                    # its service closes the file after `finish` has returned: wait for it
    runs = list((tmp_path/'wandb').glob('offline-run-*/*.wandb'))
    logs = [o.read_text(errors='replace') for o in (tmp_path/'wandb').glob('offline-run-*/logs/*.log')]
    assert len(runs) == 1 and b'step/loss' in runs[0].read_bytes(), '\n'.join(logs)

def test_missing_packages_are_named(monkeypatch, tmp_path):
    import sys
    for name,log,extra in ('torch.utils.tensorboard', TensorBoard(tmp_path), 'tensorboard'), ('wandb', WandB(folder=tmp_path), 'wandb'):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(TweetnbError, match=rf'tweetnb\[{extra}\]'): log.open()

def test_importing_stays_quick():
    import subprocess, sys
    code = 'import sys, tweetnb.train.callbacks, tweetnb.train.checkpoint, tweetnb.train.finders, tweetnb.train.timing, tweetnb.train.losses; print([o for o in ("wandb", "tensorboard", "torchvision", "torch_xla") if o in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120).stdout.strip() == '[]'
