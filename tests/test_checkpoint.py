"""Killed at any moment, a run resumes and ends with the same bits

The killed processes are forks of one helper (this file, run as a script) that has imported everything and
has one thread."""
import json, os, random, signal, subprocess, sys, time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

EPOCHS,BS,LR = 3,16,5e-3

def make(folder=None, n=400, bs=BS, n_hidden=16, steps=5, monitor='valid_loss', more=(), opt=None, seconds=None,
         seed=42, **kw):
    from fastai.metrics import accuracy
    from tweetnb.text.block import TweetDataLoaders
    from tweetnb.train.callbacks import EvaluateEvery
    from tweetnb.train.checkpoint import Checkpoint, ResumableLearner
    from tweetnb.core import sample_path, seed_everything
    from tweetnb.train.learner import fused_adamw, tweet_splitter
    from tweetnb.data.read import read_tweets
    from tweetnb.models.recurrent import create_model
    global table
    if 'table' not in globals(): table = read_tweets(sample_path('tweets.csv'))
    seed_everything(seed)
    dls = TweetDataLoaders.from_df(table[:n], bs=bs, device='cpu', stratify=True, min_freq=1)
    model = create_model('gru', len(dls.vocab[0]), len(dls.labels), n_emb=16, n_hidden=n_hidden)
    cbs = [EvaluateEvery(11, sample=50), *more]
    if folder: cbs.insert(1, Checkpoint(folder, steps=steps, seconds=seconds, monitor=monitor, **kw))
    return ResumableLearner(dls, model, opt_func=opt or fused_adamw, splitter=tweet_splitter, metrics=accuracy, cbs=cbs)

def train(learn, epochs=EPOCHS, lr=LR, how='fit_one_cycle', **kw):
    with learn.no_bar(), learn.no_logging(): getattr(learn, how)(epochs, lr, **kw)
    return learn

def outcome(learn):
    "All that must be equal to the last bit, as one digest for each part"
    from tweetnb.train.checkpoint import pack
    from tweetnb.core import fingerprint
    from tweetnb.train.callbacks import rng_state
    r,digests = learn.recorder,{}
    history = dict(losses=r.losses, lrs=r.lrs, values=[list(o) for o in r.values], iters=list(r.iters))
    parts = dict(weights=learn.model.state_dict(), optimizer=learn.opt.state_dict(), rng=rng_state(),
                 epoch=learn.dls.train.epoch, history=history, evaluations=learn.evaluate_every.rows)
    for k,v in parts.items():
        tensors = {}
        digests[k] = fingerprint(json.dumps(pack(v, tensors)))
        for name,t in sorted(tensors.items()):
            digests[k] = fingerprint(digests[k], name, t.reshape(-1).numpy().view('uint8'))
    return digests

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-2**40, 2**40) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda o: (st.lists(o, max_size=12) | st.lists(o, max_size=3).map(tuple)
               | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), o, max_size=4)), max_leaves=40)

@settings(deadline=None, max_examples=50)
@given(plain)
def test_pack_keeps_everything(o):
    from tweetnb.train.checkpoint import pack, unpack
    tensors = {}
    back = unpack(json.loads(json.dumps(pack(o, tensors))), tensors)
    assert back == o and repr(back) == repr(o)

def test_a_run_goes_on_from_a_store_when_its_machine_is_lost(tmp_path, monkeypatch):
    import shutil
    from tweetnb.train import checkpoint
    monkeypatch.setenv('TWEETNB_CACHE', str(tmp_path/'cache'))
    calm,url = outcome(train(make(tmp_path/'calm'))), f'file://{tmp_path}/store/run'
    send,sent = checkpoint._send, []
    def die_in_the_fifth(*args):
        sent.append(args)
        if len(sent) == 5: raise KeyboardInterrupt
        send(*args)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(checkpoint, '_send', die_in_the_fifth)
        train(make(url))
    shutil.rmtree(tmp_path/'cache')
    assert outcome(train(make(url))) == calm
    kinds = sorted(o.name.partition('-')[0] for o in (tmp_path/'store'/'run').iterdir())
    assert kinds == ['best', 'checkpoint']                  # what is older is deleted there as well

# --- the helper: forks a child for every line on its standard input

def child(job):
    import torch, tweetnb.train.checkpoint as cp
    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY); os.dup2(null, 1)
    if job.get('die_at'): die_at(job['die_at'], cp)
    if job.get('limit'):
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (job['limit'], job['limit']))
    try:
        learn = make(job.get('folder'), **job.get('make', {}))
        for how,epochs in job.get('fits', [['fit_one_cycle', EPOCHS]]):
            if how in ('freeze', 'unfreeze'): getattr(learn, how)()
            else: train(learn, epochs, how=how)
        res = outcome(learn)
    except Exception as e: res = {'error': f'{type(e).__name__}: {e}'}
    Path(job['out']).write_text(json.dumps(res))

def die_at(n, cp):
    "Kill this process at the n-th thing that writing checkpoints does to the disk"
    import shutil, tweetnb.core as core
    left = [n]
    def deadly(f, half=None):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                if half: half(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return f(*args, **kwargs)
        return wrapped
    def half_a_file(_, path): Path(path).write_bytes(b'\x10\0\0\0\0\0\0\0{"half')
    def half_a_folder(path, **kw):
        if Path(path).exists(): next(Path(path).iterdir()).unlink()
    cp.save_file,cp._flush,core._fsync = deadly(cp.save_file, half_a_file),deadly(cp._flush),deadly(core._fsync)
    cp.os.link,cp.shutil.rmtree = deadly(os.link),deadly(shutil.rmtree, half_a_folder)
    cp.os.replace = deadly(os.replace)

def helper():
    import torch
    torch.set_num_threads(1)
    outcome(train(make()))                                   # import and read everything once
    for line in sys.stdin:
        job = json.loads(line)
        Path(job['out']).unlink(missing_ok=True)
        start,pid = time.monotonic(),os.fork()
        if not pid:
            try: child(job)
            finally: os._exit(0)
        end = start + (job.get('kill_after') or 1e9)
        while True:
            done,status = os.waitpid(pid, os.WNOHANG)
            if done: break
            if time.monotonic() >= end:
                os.kill(pid, signal.SIGKILL)
                status = os.waitpid(pid, 0)[1]; break
            time.sleep(.002)
        print(json.dumps(dict(killed=os.WIFSIGNALED(status), seconds=time.monotonic() - start)), flush=True)

if __name__ == '__main__': helper(); sys.exit()

# --- the tests

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    p = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    out = tmp_path_factory.mktemp('run')/'out.json'
    def run(folder=None, **job):
        p.stdin.write(json.dumps(dict(job, folder=folder and str(folder), out=str(out))) + '\n'); p.stdin.flush()
        answer = json.loads(p.stdout.readline())
        return {**answer, **(json.loads(out.read_text()) if out.exists() and not answer['killed'] else {})}
    yield run
    p.stdin.close(); p.wait(20)

def bits(result): return {k: v for k,v in result.items() if k not in ('killed', 'seconds')}

@pytest.fixture(scope='module')
def whole(run):
    "What an undisturbed run ends with, without any checkpoint, and how long it takes with checkpoints"
    return run()

def test_checkpoints_disturb_nothing(run, whole, tmp_path):
    assert 'error' not in whole
    assert bits(run(tmp_path/'run')) == bits(whole) == bits(run())

def test_killed_at_random_moments(run, whole, tmp_path):
    rng,kills,folder = random.Random(), 0, None
    seconds = run(tmp_path/'timed')['seconds']
    for i in range(40):
        if folder is None: folder = tmp_path/f'run{i}'
        got = run(folder, kill_after=rng.uniform(.1, .8)*seconds)
        if got['killed']: kills += 1; continue
        assert bits(got) == bits(whole), f'after {kills} kills'
        folder = None
        if kills >= 20: break
    assert kills >= 20
    if folder: assert bits(run(folder)) == bits(whole)

# --- killed while a checkpoint is written: at each thing that is done to the disk

small = dict(n=200, bs=32, steps=2)

@pytest.fixture(scope='module')
def short(run): return run(make=small, fits=[['fit_one_cycle', 1]])

def test_killed_while_writing(run, short, tmp_path):
    stages = set()
    for n in range(1, 56, 3):
        folder = tmp_path/str(n)
        assert run(folder, make=small, fits=[['fit_one_cycle', 1]], die_at=n)['killed'], f'nothing happens {n} times'
        stages.add(tuple(sorted(o.name.split('-')[0] for o in folder.iterdir())))
        assert bits(run(folder, make=small, fits=[['fit_one_cycle', 1]])) == bits(short), f'killed at {n}'
        left = sorted(o.name for o in folder.iterdir())
        assert len(left) == 3 and left[1].startswith('best') and left[2].startswith('checkpoint'), left
    assert len(stages) >= 4                       # nothing, half of the first, one and half of the next, two

# --- several fits in one script, early stopping, fastai's own optimiser

def test_freeze_and_unfreeze(run, tmp_path):
    job = dict(make=small,
               fits=[['freeze', 0], ['fit_one_cycle', 1], ['unfreeze', 0], ['fit_one_cycle', 2], ['fit', 1]])
    want,killed = run(tmp_path/'whole', **job),0
    assert 'error' not in want
    for n in 8, 45, 80, 120, 160:
        folder = tmp_path/str(n)
        killed += run(folder, die_at=n, **job)['killed']
        got = run(folder, **job)
        assert {k: got[k] for k in ('weights', 'rng', 'epoch')} == {k: want[k] for k in ('weights', 'rng', 'epoch')}, n
    assert killed >= 4

def stopper():
    from fastai.callback.tracker import EarlyStoppingCallback
    return EarlyStoppingCallback(monitor='accuracy', patience=2)

class Cut(Exception): pass

def power_cut(at):
    from fastai.callback.core import Callback
    class PowerCut(Callback):
        order = 99
        def after_batch(self):
            if self.training and self.train_iter == at: raise Cut('gone')
    return PowerCut()

def ended(folder=None, cut=None, **kw):
    learn = make(folder, **{**small, **kw})
    if cut: learn.add_cb(power_cut(cut))
    return learn

def adam(*args, **kw):
    from fastai.optimizer import Adam
    return Adam(*args, **kw)

def accumulate():
    from fastai.callback.training import GradientAccumulation
    return GradientAccumulation(64)

@pytest.mark.parametrize('name', ['adam', 'stop', 'accumulate', 'plain fit'])
@pytest.mark.parametrize('cut', [1, 7, 12])
def test_other_trainings(tmp_path, name, cut):
    kw = dict(adam=dict(opt=adam), stop=dict(more=[stopper]), accumulate=dict(more=[accumulate])).get(name, {})
    def go(folder=None, cut=None):
        learn = ended(folder, cut, **{**kw, 'more': [o() for o in kw.get('more', ())]})
        return train(learn, 8 if name == 'stop' else 3, how='fit' if name == 'plain fit' else 'fit_one_cycle')
    with pytest.raises(Cut): go(tmp_path/'run', cut)
    assert outcome(go(tmp_path/'run')) == outcome(go())

def test_interrupted_in_a_notebook_and_run_again(tmp_path):
    learn = ended(tmp_path/'run', 9)
    with pytest.raises(Cut): train(learn)
    learn.remove_cb(learn.power_cut)
    assert outcome(train(learn)) == outcome(train(ended()))

def test_what_is_done_is_not_done_again(tmp_path):
    one = train(ended(tmp_path/'run'))
    at = sorted((o.name, o.stat().st_mtime_ns) for o in (tmp_path/'run').glob('*-*'))
    two = ended(tmp_path/'run', cut=1)            # a single step would end it
    assert outcome(train(two)) == outcome(one)
    assert at == sorted((o.name, o.stat().st_mtime_ns) for o in (tmp_path/'run').glob('*-*'))

# --- best and last

@pytest.mark.parametrize('monitor', ['valid_loss', 'accuracy'])
def test_the_best_weights(tmp_path, monitor):
    learn = train(ended(tmp_path/'run', monitor=monitor, load_best=True), 6, 3e-2)
    from tweetnb.train.callbacks import history
    from tweetnb.train.checkpoint import load_checkpoint
    table = history(learn)
    best = table[monitor].idxmin() if monitor == 'valid_loss' else table[monitor].idxmax()
    expected = table.loc[best, ['valid_loss', 'accuracy']].tolist()
    with learn.no_bar(), learn.no_logging(): assert list(learn.validate()) == pytest.approx(expected)
    assert load_checkpoint(learn, tmp_path/'run', best=True)['epoch'] == best
    assert load_checkpoint(learn, tmp_path/'run')['done']

# --- refusals

@pytest.mark.parametrize('kw,says', [(dict(bs=16), 'batch size was 32, is now 16'), (dict(n=150), 'tweets was'),
                                     (dict(n_hidden=8), 'model: '), (dict(opt=adam), 'training: optimiser')])
def test_another_run_is_refused(tmp_path, kw, says):
    from tweetnb.core import TweetnbError
    with pytest.raises(Cut): train(ended(tmp_path/'run', 5))
    with pytest.raises(TweetnbError, match=says): train(ended(tmp_path/'run', **kw))
    for epochs,lr,says in (4, LR, 'epochs was 3, is now 4'), (EPOCHS, 1e-3, 'schedule'):
        with pytest.raises(TweetnbError, match=says): train(ended(tmp_path/'run'), epochs, lr)

def test_damage_is_reported(tmp_path):
    from tweetnb.core import TweetnbError
    with pytest.raises(Cut): train(ended(tmp_path/'run', 5))
    last = next((tmp_path/'run').glob('checkpoint-*'))
    for file in 'optimizer.safetensors', 'model.safetensors', 'more.safetensors', 'state.json':
        whole = (last/file).read_bytes()
        (last/file).write_bytes(whole[:len(whole)//2])
        with pytest.raises(TweetnbError, match='cannot read the checkpoint'): train(ended(tmp_path/'run'))
        (last/file).write_bytes(whole)
    assert outcome(train(ended(tmp_path/'run'))) == outcome(train(ended()))

def test_two_processes_do_not_share_a_folder(run, tmp_path):
    from filelock import FileLock
    (tmp_path/'run').mkdir()
    with FileLock(tmp_path/'run'/'.lock'):
        assert 'another process is training' in run(tmp_path/'run', make=small)['error']
    assert 'error' not in run(tmp_path/'run', make=small)

# --- a full disk, a folder that cannot be written

def test_a_full_disk_loses_nothing(run, short, tmp_path):
    folder,job = tmp_path/'run',dict(make=small, fits=[['fit_one_cycle', 1]])
    assert 'cannot write the checkpoint' in run(tmp_path/'none', limit=2000, **job)['error']
    train(ended(tmp_path/'size'), 1)
    size = max(o.stat().st_size for o in (tmp_path/'size').rglob('model.safetensors'))
    got = run(folder, limit=size + 1000, **job)   # the first checkpoint has no averages yet, and fits
    assert 'cannot write the checkpoint (' in got['error'] and 'resumes from checkpoint-000001' in got['error']
    assert 'Exception occured' not in got['error']
    assert sorted(o.name for o in folder.iterdir()) == ['.lock', 'checkpoint-000001']
    assert bits(run(folder, **job)) == bits(short)

def test_too_little_space_is_reported_before_training(tmp_path, monkeypatch):
    import shutil
    from tweetnb.core import TweetnbError
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: usage._replace(free=1000))
    with pytest.raises(TweetnbError, match='checkpoints need .* MB'): train(ended(tmp_path/'run', cut=1))

def test_a_folder_that_cannot_be_written(tmp_path):
    from tweetnb.core import TweetnbError
    (tmp_path/'file').touch()
    for folder in tmp_path/'file', tmp_path/'file'/'run':
        with pytest.raises(TweetnbError, match='writable'): train(ended(folder, cut=1))

def test_a_nan_loss_is_not_saved(tmp_path):
    from tweetnb.train.checkpoint import load_checkpoint
    learn = ended(tmp_path/'run')
    train(learn, 2, lr=float('nan'))
    import torch
    assert load_checkpoint(learn, tmp_path/'run')['train_iter'] <= 1
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())

def test_unknown_metric(tmp_path):
    from tweetnb.core import TweetnbError
    with pytest.raises(TweetnbError, match='unknown metric'): train(ended(tmp_path/'run', monitor='f1'))

def test_looking_for_a_rate_and_validating_leave_no_checkpoint(tmp_path):
    learn = ended(tmp_path/'run')
    with learn.no_bar(), learn.no_logging(): learn.validate()
    assert not (tmp_path/'run').exists()

def test_a_learner_that_cannot_resume_is_refused(tmp_path):
    from fastai.learner import Learner
    from tweetnb.core import TweetnbError
    learn = ended(tmp_path/'run')
    other = Learner(learn.dls, learn.model, cbs=learn.checkpoint)
    with pytest.raises(TweetnbError, match='a Learner cannot resume.*ResumableLearner'): train(other)
