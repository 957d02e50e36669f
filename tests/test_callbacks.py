"What watches training does not change it"
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.metrics import accuracy
from sklearn.metrics import accuracy_score
from small_learner import learner, same, table, train, weights

from tweetnb.core import TweetnbError
from tweetnb.evaluate.plots import plot_history
from tweetnb.text.block import TweetDataLoaders
from tweetnb.train.callbacks import (EvaluateEvery, MLflow, SaveHistory, Stopwatch, TensorBoard, WandB, evaluate,
                                     history, preserve_rng, rng_state)
from tweetnb.train.checkpoint import Checkpoint
from tweetnb.train.learner import tweet_learner

@pytest.fixture(scope='module')
def alone(): return weights(train(learner()))

# --- watching

def test_watching_changes_no_bit(alone, tmp_path):
    learn = learner(
        EvaluateEvery(3, sample=40, csv=tmp_path/'steps.csv'), SaveHistory(tmp_path/'epochs.csv'),
        TensorBoard(tmp_path/'board', every=2), Checkpoint(tmp_path/'run', steps=4), Stopwatch())
    assert same(weights(train(learn)), alone)
    rows = learn.evaluate_every.table
    assert len(rows) == 2*(2*len(learn.dls.train)//3) and set(rows['set']) == {'train', 'valid'}
    assert pd.read_csv(tmp_path/'steps.csv')['loss'].tolist() == pytest.approx(rows['loss'].tolist())
    saved = pd.read_csv(tmp_path/'epochs.csv')
    assert saved['valid_loss'].tolist() == pytest.approx(history(learn)['valid_loss'].tolist())
    assert [o for o in tmp_path.iterdir() if o.name.startswith('.')] == []

@pytest.mark.parametrize('remainder', ['keep', 'fill'])
def test_evaluate_is_what_the_predictions_say(remainder):
    learn = learner()
    dl = learn.dls.valid.new(remainder=remainder)
    with learn.no_bar(): probs,y,losses = learn.get_preds(dl=dl, with_loss=True)
    got = evaluate(learn, dl)
    assert got['accuracy'] == pytest.approx(accuracy_score(y, probs.argmax(1)))
    assert got['loss'] == pytest.approx(float(losses.mean()), rel=1e-5)

def test_labels_never_trained_are_never_right():
    learn = learner()
    odd = table[:50].assign(label='neither')
    both = pd.concat([table[:50].assign(label=table['label'][:50].astype(str)), odd], ignore_index=True)
    part = evaluate(learn, learn.dls.test_dl(table[:50]))
    got = evaluate(learn, learn.dls.test_dl(both))
    assert got['accuracy'] == pytest.approx(part['accuracy']/2) and got['loss'] == pytest.approx(part['loss'], rel=1e-4)

def test_of_several_processes_one_evaluates_every_tweet():
    learn,look = learner(), EvaluateEvery(2, sample=None)
    shared = learn.dls.valid.new(rank=0, world_size=2, gathered=True)
    look.sets = dict(valid=shared)
    learn.add_cb(look)
    look.before_fit()
    assert sum(len(y) for *_,y in shared) < sum(len(y) for *_,y in look.loaders['valid']) == len(shared.dataset)

def test_the_sample_is_the_same_each_time():
    look = EvaluateEvery(2, sample=30)
    learn = train(learner(look))
    assert all(len(dl.get_idxs()) == 30 and len(set(dl.get_idxs())) == 30 for dl in look.loaders.values())
    for dl in look.loaders.values(): assert dl.get_idxs().tolist() == dl.get_idxs().tolist()
    last = look.table.groupby('set').last()
    assert last.loc['valid', 'loss'] == pytest.approx(evaluate(learn, look.loaders['valid'])['loss'], rel=.2)

def test_a_set_without_labels_is_reported():
    look = EvaluateEvery(2, dict(test=table[['text']]))
    with pytest.raises(ValueError, match="'test' has no labels"): train(learner(look))

def test_train_validation_and_test_every_five_steps():
    test = table[:60].assign(text=table['text'][:60].str.upper())
    learn = learner()
    learn.add_cb(EvaluateEvery(5, dict(train=learn.dls.train, valid=learn.dls.valid, test=test), sample=50))
    t = train(learn).evaluate_every.table
    assert set(t['step']) == set(range(5, len(learn.recorder.losses) + 1, 5))
    for sets in t.groupby('step', sort=False)['set'].agg(list): assert sets == ['train', 'valid', 'test']
    assert t.notna().all(axis=None)

def test_early_stopping_ends_a_run():
    learn = learner(EarlyStoppingCallback(monitor='valid_loss', min_delta=10., patience=1))
    train(learn, 5)
    assert len(learn.recorder.values) == 2

def test_metrics_of_your_own():
    look = EvaluateEvery(5, metrics=dict(half=lambda true, pred: accuracy_score(true, pred)/2))
    train(learner(look))
    assert list(look.table) == ['step', 'epoch', 'set', 'loss', 'half'] and look.table['half'].max() <= .5
    assert len(plot_history(look.table, ['loss', 'half'])) == 2

def test_generators_are_restored_after_an_error():
    before = rng_state()
    with pytest.raises(ZeroDivisionError):
        with preserve_rng():
            torch.rand(3)
            np.random.rand()
            1/0
    assert all(torch.equal(v, before[k]) for k,v in rng_state().items())

# --- logs

def test_a_log_gets_lines_and_no_bars(capsys):
    dls = TweetDataLoaders.from_df(table, bs=32, device='cpu', min_freq=1)
    learn = tweet_learner(dls, 'gru', n_emb=8, n_hidden=8)
    learn.fit(2)
    out,err = capsys.readouterr()
    lines = [o for o in out.splitlines() if o.strip()]
    assert [o[:3] for o in lines] == ['[0,', '[1,'] and not err and '\r' not in out and '█' not in out

def test_tensorboard_that_cannot_be_written(tmp_path):
    (tmp_path/'file').touch()
    with pytest.raises(ValueError, match='writable'): train(learner(TensorBoard(tmp_path/'file'/'run')))

def test_weights_and_biases_offline(tmp_path, alone, monkeypatch):
    wandb = pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    learn = learner(WandB('mood', tmp_path, every=5, name='one'))
    assert same(weights(train(learn)), alone)
    wandb.teardown()                                    # its service closes the file only after `finish`
    runs = list((tmp_path/'wandb').glob('offline-run-*/*.wandb'))
    logs = [o.read_text(errors='replace') for o in (tmp_path/'wandb').glob('offline-run-*/logs/*.log')]
    assert len(runs) == 1 and b'step/loss' in runs[0].read_bytes(), '\n'.join(logs)

def test_mlflow_in_a_file(tmp_path, alone):
    "Written without a server or a network, and read back by MLflow"
    mlflow = pytest.importorskip('mlflow')
    log = MLflow('mood', tmp_path, every=5, params=dict(lr=.1), run_name='one')
    learn = train(learner(log, EvaluateEvery(5, sample=50)))
    assert same(weights(learn), alone)
    client = mlflow.MlflowClient(f'sqlite:///{tmp_path}/mlflow.db')
    run, = client.search_runs([client.get_experiment_by_name('mood').experiment_id])
    assert (run.info.status, run.info.run_name, run.data.params) == ('FINISHED', 'one', dict(lr='0.1'))
    steps = [o.step for o in client.get_metric_history(run.info.run_id, 'step/loss')]
    assert steps == list(range(5, len(learn.recorder.losses) + 1, 5))
    assert {'epoch/valid_loss', 'train/accuracy', 'valid/accuracy'} <= set(run.data.metrics)

def test_missing_packages_are_named(monkeypatch, tmp_path):
    import sys
    loggers = (('torch.utils.tensorboard', TensorBoard(tmp_path), 'tensorboard'),
               ('wandb', WandB(folder=tmp_path), 'wandb'), ('mlflow', MLflow(folder=tmp_path), 'mlflow'))
    for name,log,extra in loggers:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(TweetnbError, match=rf'tweetnb\[{extra}\]'): log.open()

def test_importing_stays_quick():
    import subprocess, sys
    code = ('import sys, tweetnb.train.timing, tweetnb.train.losses\n'
            'print([o for o in ("wandb", "mlflow", "tensorboard", "torchvision", "torch_xla") if o in sys.modules])')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == '[]', done.stderr

# --- the stopwatch

def test_a_stopwatch_counts_tweets_and_leaves_out_validation():
    watch,validated = Stopwatch(),Stopwatch(steps=3, validate=False)
    learn = train(learner(watch))
    n = len(learn.dls.train.dataset)
    assert [o['tweets'] for o in watch.epochs] == [n, n]
    assert [o['steps'] for o in watch.epochs] == [len(learn.dls.train)]*2
    learn = train(learner(validated))
    assert [o['steps'] for o in validated.epochs] == [3, 3] and len(learn.recorder.losses) == 6
    assert all(0 <= o['input'] < o['seconds'] for o in watch.epochs + validated.epochs)
