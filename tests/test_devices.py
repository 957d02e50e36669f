"Runners and devices: names, precisions, and what they leave behind"
import os

import numpy as np
import pytest
import torch
from runner_script import alone, close

from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.read import read_tweets
from tweetnb.hardware import bf16_unit, default_precision, devices, peak_rss, resolve_device, usable_cores
from tweetnb.text.block import TweetDataLoaders
from tweetnb.train.devices import Autocast, CPURunner, active_runner, runner
from tweetnb.train.distributed import SyncGradients
from tweetnb.train.learner import tweet_learner

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')

# --- devices

def test_devices_by_name(monkeypatch):
    assert resolve_device('cpu') == resolve_device(torch.device('cpu')) == torch.device('cpu')
    assert resolve_device() == torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    assert default_precision('cpu') == ('bf16' if bf16_unit() == 'AMX' else 'fp32')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(devices['cuda'], 'count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (7, 5))
    assert resolve_device() == torch.device('cuda') and resolve_device('cuda:1') == torch.device('cuda:1')
    assert default_precision() == 'fp16'
    with pytest.raises(TweetnbError, match="'cuda:2' is not available: PyTorch finds 2.*device='auto'"):
        resolve_device('cuda:2')

@pytest.mark.parametrize('name,message',
                         [('abacus', 'unknown device'), ('meta', 'unsupported device'), ('cpu:1', 'not available')])
def test_devices_that_are_absent(name, message):
    with pytest.raises(TweetnbError, match=message): resolve_device(name)

def test_cores_without_affinity_and_with_a_quota(monkeypatch, tmp_path):
    import tweetnb.hardware as hardware
    assert 1 <= usable_cores() <= os.cpu_count()
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 8)
    quota = tmp_path/'cpu.max'
    monkeypatch.setattr(hardware, 'Path', lambda _: quota)
    for text,cores in (None, 8), ('max 100000', 8), ('150000 100000', 2), ('10000 100000', 1):
        if text: quota.write_text(text)
        assert usable_cores() == cores

def test_peak_memory_grows_with_an_array():
    before = peak_rss(reset=True)
    np.ones(30_000_000).sum()
    assert peak_rss() > before + 150

# --- names and precisions

def test_names(monkeypatch):
    monkeypatch.setenv('TWEETNB_RUNNER', 'cpu'); assert type(runner()) is CPURunner
    monkeypatch.setenv('TWEETNB_RUNNER', 'moon')
    with pytest.raises(TweetnbError, match="unknown runner 'moon'"): runner()
    monkeypatch.delenv('TWEETNB_RUNNER'); monkeypatch.setenv('WORLD_SIZE', '2'); monkeypatch.setenv('RANK', '1')
    assert runner().name == 'ddp' and runner().rank == 1
    for bad in ('fp8', 'fp16'):
        with pytest.raises(TweetnbError, match='not supported on cpu'): CPURunner(bad)

def test_a_runner_leaves_nothing_behind():
    before = torch.get_num_threads()
    with runner('cpu', threads=1) as r:
        assert active_runner() is r and torch.get_num_threads() == 1
        with runner('cpu') as inner: assert active_runner() is inner
        assert active_runner() is r
    assert active_runner() is None and torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        with runner('cpu'): 1/0
    assert active_runner() is None
    with runner('cpu') as r: assert r.precision == default_precision('cpu')

def test_without_a_runner_all_stays_as_it_was():
    learn = alone('make')()
    assert not any(isinstance(cb, (Autocast, SyncGradients)) for cb in learn.cbs)
    assert learn.dls.device == torch.device('cpu')
    with runner('cpu', 'fp32', threads=1):
        other = alone('make')()
        assert alone('fit')(learn) == alone('fit')(other)

def test_autocast_ends_with_the_forward_pass():
    with runner('cpu', 'bf16', threads=1): learn = alone('make')()
    seen = []
    learn.model.head.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    alone('fit')(learn)
    assert set(seen) == {torch.bfloat16} and not torch.is_autocast_enabled('cpu')
    assert all(p.dtype == torch.float32 for p in learn.model.parameters())
    assert not learn.model._forward_hooks and learn.predict_proba(['so tired']).to_numpy().dtype == np.float32
    def broken(*args): raise RuntimeError('out of memory')
    learn.model.head.forward = broken
    with pytest.raises(RuntimeError): alone('fit')(learn)
    assert not torch.is_autocast_enabled('cpu')

def test_half_the_bits_cost_no_accuracy():
    df = read_tweets(sample_path('tweets.csv'))
    df = df.assign(split=np.where(np.arange(len(df)) % 2, 'train', 'valid'))
    def accuracy(precision, seed):
        with runner('cpu', precision, threads=1):
            learn = tweet_learner(TweetDataLoaders.from_df(df, bs=32), 'gru', n_emb=64, n_hidden=64, metrics=[],
                                  seed=seed)
            with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(4, 5e-3)
            return learn.scores().accuracy
    means = {p: np.mean([accuracy(p, s) for s in range(2)]) for p in ('fp32', 'bf16')}
    assert abs(means['fp32'] - means['bf16']) <= .005 and means['fp32'] > .7


# --- a GPU, where there is one

@gpu
def test_a_gpu_learns_what_a_cpu_learns():
    losses = {}
    for name in 'cpu', 'cuda':
        with runner(name, 'fp32'): losses[name] = alone('fit')(alone('make')())
    close(losses['cpu'], losses['cuda'], 1e-3)

@gpu
@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_the_bits_on_a_gpu(precision):
    with runner('cuda', precision):
        learn = alone('make')()
        losses = alone('fit')(learn, 3)
        assert losses[-1] < losses[0] and next(learn.model.parameters()).is_cuda
