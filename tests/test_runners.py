"Runners: the same learning on one process and on several, every row predicted once, a clear end where a process dies"
import json
import os
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tweetnb.text.block import TweetDataLoaders
from tweetnb.core import TweetnbError, sample_path
from tweetnb.train.devices import active_runner
from tweetnb.train.learner import tweet_learner
from tweetnb.data.read import read_tweets
from tweetnb.train.distributed import SyncGradients, first_failure, free_port, label_weight, launch, launch_cli, torchrun_args
from tweetnb.train.devices import Autocast, CPURunner, bf16_unit, runner, usable_cores

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')

# --- what all processes do, and one alone as well: it is a script for torchrun and a module for the tests

SCRIPT = r'''
import json, os, signal, sys
import numpy as np
import torch
from safetensors.torch import save_file
from fastai.callback.core import Callback
from tweetnb.text.block import TweetDataLoaders
from tweetnb.train.checkpoint import Checkpoint
from tweetnb.core import sample_path
from tweetnb.train.learner import tweet_learner
from tweetnb.data.read import read_tweets
from tweetnb.train.devices import runner

def table():
    df = read_tweets(sample_path('tweets.csv'))[:420]
    return df.assign(split=['train']*317 + ['valid']*103)

def make(model='gru', seed=1, n_widths=3, **kw):
    dls = TweetDataLoaders.from_df(table(), bs=32, n_widths=n_widths, **kw)
    dls.train.dataset.y[::7] = -100                           # tweets without a label, in uneven numbers
    dls = type(dls)(*[dl.new() for dl in dls.loaders], path=dls.path)
    return tweet_learner(dls, model, n_emb=16, n_hidden=16, dropout=0., seed=seed)

class Steps(Callback):
    order,losses = 60,()
    def after_step(self): self.losses = [*self.losses, self.learn.loss.item()]

class DieAt(Callback):
    order = 99
    def __init__(self, step, rank): self.step,self.rank = step,rank
    def after_batch(self):
        if self.training and self.train_iter == self.step and int(os.environ.get('RANK', 0)) == self.rank: os.kill(os.getpid(), signal.SIGKILL)

def fit(learn, epochs=1, cbs=(), lr=3e-3):
    steps = Steps()
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr, cbs=[steps, *cbs])
    return steps.losses

def experiments():
    res,weights = {},{}
    for name,kw in dict(plain={}, stratified=dict(stratify=True), filled=dict(last='fill'), balanced=dict(balance=True, drop_last=True)).items():
        learn = make(**kw)
        res[f'{name} losses'] = fit(learn)
        weights.update({f'{name}.{k}': v for k,v in learn.model.state_dict().items()})
        with learn.no_bar(), learn.no_logging():
            res[f'{name} validated'] = [float(o) for o in learn.validate()]
            preds,targs = learn.get_preds()
        res[f'{name} preds'],res[f'{name} targs'] = preds.tolist(),targs.tolist()
    res['few'] = learn.predict_proba(['so tired']).values.tolist()
    res['three'] = learn.predict_proba(['so tired', 'what a day', 'great great great concert']).values.tolist()
    res['odd'] = learn.predict_proba(table()[:41]).values.tolist()
    res['scores'] = learn.scores(table()[:41]).to_dict()
    res['predict'] = learn.predict('so tired')[2].tolist()
    return res,weights

if __name__ == '__main__':
    what,out = sys.argv[1],sys.argv[2]
    with runner('auto', 'fp32', threads=1): pass                  # a runner can be entered more than once
    with runner('auto', 'fp32', threads=1) as r:
        if what == 'experiments':
            res,weights = experiments()
            dls = make(stratify=True).dls
            res['hands'] = [np.bincount(b[2][b[2] >= 0], minlength=3).tolist() for b in dls.train]
            res['shown'] = make().logger is print
            print(f'only the first process is heard, {r.rank}')
        elif what == 'killed':
            learn = make()
            fit(learn, 2, [Checkpoint(f'{out}/run', steps=3), *([DieAt(8, 1)] if sys.argv[3] == 'die' else [])])
            res,weights = {},dict(learn.model.state_dict())
        else:
            learn = make()
            res,weights = dict(losses=fit(learn)),dict(learn.model.state_dict())
        res.update(describe=r.describe(), rank=r.rank)
    save_file({k: v.contiguous() for k,v in weights.items()}, f'{out}/{what}{r.rank}.safetensors')
    with open(f'{out}/{what}{r.rank}.json', 'w') as f: json.dump(res, f)
'''

def alone(name):
    "The functions of the script, in this process"
    space = {'__name__': 'alone'}
    exec(compile(SCRIPT, 'script', 'exec'), space)
    return space[name]

def close(a, b, eps=1e-5): np.testing.assert_allclose(np.asarray(a, dtype=float), np.asarray(b, dtype=float), atol=eps, rtol=0)

@pytest.fixture(scope='module')
def together(tmp_path_factory):
    "What two processes did"
    out = tmp_path_factory.mktemp('two')
    (out/'script.py').write_text(SCRIPT)
    launch(out/'script.py', 'experiments', out, processes=2)
    return [(json.loads((out/f'experiments{r}.json').read_text()), load_file(out/f'experiments{r}.safetensors')) for r in range(2)]

@pytest.fixture(scope='module')
def single(): return alone('experiments')()

@pytest.mark.parametrize('way', ['plain', 'stratified', 'filled', 'balanced'])
def test_two_processes_learn_what_one_learns(together, single, way):
    (res,weights),(other,others) = together
    mine = {k: v for k,v in weights.items() if k.startswith(way)}
    assert len(res[f'{way} losses']) >= 9                    # ten steps, nine where the last tweets are left out
    for k,v in mine.items():
        assert torch.equal(v, others[k])                        # to the bit, in both
        close(v, single[1][k])
    close(res[f'{way} losses'], single[0][f'{way} losses'])
    assert res[f'{way} losses'] == other[f'{way} losses']

@pytest.mark.parametrize('way', ['plain', 'filled'])
def test_metrics_are_those_of_all_rows(together, single, way):
    for res,_ in together: close(res[f'{way} validated'], single[0][f'{way} validated'], 1e-5 if way == 'plain' else .02)
    assert together[0][0][f'{way} validated'] == together[1][0][f'{way} validated']

@pytest.mark.parametrize('what', ['plain preds', 'filled preds', 'plain targs', 'filled targs', 'few', 'three', 'odd', 'predict'])
def test_every_row_once_and_in_order_everywhere(together, single, what):
    for res,_ in together:
        assert np.shape(res[what]) == np.shape(single[0][what])
        close(res[what], single[0][what])

def test_scores_and_reports(together, single):
    for rank,(res,_) in enumerate(together):
        assert res['scores'] == single[0]['scores'] and res['rank'] == rank
        assert res['describe']['processes'] == 2 and res['describe']['backend'] == 'gloo' and res['describe']['nodes'] == 1

def test_each_process_has_its_share_of_every_class(together):
    hands = [np.array(res['hands']) for res,_ in together]
    assert hands[0].shape == hands[1].shape == (10, 3)
    assert np.ptp(np.concatenate(hands), axis=0).max() <= 1 and (hands[0] + hands[1]).sum() == 317 - 46      # 46 have no label

def test_only_the_first_process_is_heard(together):
    assert [res['shown'] for res,_ in together] == [True, False]

# --- ends

def test_a_killed_process_ends_the_run_and_the_run_resumes(tmp_path):
    (tmp_path/'script.py').write_text(SCRIPT)
    started = time.monotonic()
    with pytest.raises(TweetnbError, match='process 1 failed: was killed by SIGKILL.*resume'): launch(tmp_path/'script.py', 'killed', tmp_path, 'die')
    assert time.monotonic() - started < 60                     # start and imports included
    assert [p.name for p in tmp_path.glob('run/checkpoint-*')] and not list(tmp_path.glob('*.json'))
    launch(tmp_path/'script.py', 'killed', tmp_path, 'live')
    learn = alone('make')()
    assert len(alone('fit')(learn, 2)) == 20
    for r in range(2):
        for k,v in load_file(tmp_path/f'killed{r}.safetensors').items(): close(v, learn.model.state_dict()[k])

def test_an_error_in_one_process_is_told_in_one_line(tmp_path, capfd):
    script = "import os, sys, time\nprint('heard', os.environ['RANK'])\nprint('seen', file=sys.stderr, flush=True)\n" \
             "if os.environ['RANK'] == '1': time.sleep(.5); raise KeyError('no such tweet')\ntime.sleep(60)"
    with pytest.raises(TweetnbError, match="^process 1 failed: KeyError: 'no such tweet'"): launch(script)
    out,err = capfd.readouterr()
    assert out.strip() == 'heard 0' and err.strip() == 'seen'

def test_two_machines(tmp_path):
    (tmp_path/'script.py').write_text(SCRIPT)
    master,errors = f'127.0.0.1:{free_port()}', []
    def node(i):
        try: launch(tmp_path/'script.py', 'nodes', tmp_path, processes=1, nodes=2, node_rank=i, master=master)
        except Exception as e: errors.append(e)
    nodes = [threading.Thread(target=node, args=(i,)) for i in range(2)]
    for t in nodes: t.start()
    for t in nodes: t.join()
    assert not errors
    res = [json.loads((tmp_path/f'nodes{i}.json').read_text()) for i in range(2)]
    assert [o['rank'] for o in res] == [0, 1] and res[0]['describe']['nodes'] == 2
    learn = alone('make')()
    close(res[0]['losses'], alone('fit')(learn))
    for i in range(2):
        for k,v in load_file(tmp_path/f'nodes{i}.safetensors').items(): close(v, learn.model.state_dict()[k])

def test_what_cannot_be_started():
    with pytest.raises(TweetnbError, match='no such script'): launch('nowhere.py')
    with pytest.raises(TweetnbError, match='cannot import'): launch(lambda: None)
    with pytest.raises(TweetnbError, match='where the first machine is'): torchrun_args(2, nodes=2, master='somewhere')
    with pytest.raises(TweetnbError, match='do not fit'): torchrun_args(1, nodes=2, node_rank=2, master='a:1')
    with pytest.raises(TweetnbError, match='not one of several'): runner('ddp')

def test_no_launch_within_a_launch(monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'x')
    with pytest.raises(TweetnbError, match='already one of several'): launch('print()\n')

def test_a_batch_that_does_not_divide(monkeypatch):
    monkeypatch.setenv('RANK', '0'); monkeypatch.setenv('WORLD_SIZE', '3')
    dls = TweetDataLoaders.from_df(read_tweets(sample_path('tweets.csv'))[:100], bs=32)
    with pytest.raises(TweetnbError, match='32 tweets does not divide among 3.*multiple of 3'): runner('ddp').place(dls)
    placed = runner('ddp').place(TweetDataLoaders.from_df(read_tweets(sample_path('tweets.csv'))[:100], bs=30, val_bs=50))
    assert (placed.train.bs, placed.valid.bs) == (10, 17) and runner('ddp').place(placed).train.bs == 10

# --- names and precisions

def test_names(monkeypatch):
    monkeypatch.setenv('TWEETNB_RUNNER', 'cpu'); assert type(runner()) is CPURunner
    monkeypatch.setenv('TWEETNB_RUNNER', 'moon')
    with pytest.raises(TweetnbError, match="no runner 'moon'"): runner()
    monkeypatch.delenv('TWEETNB_RUNNER'); monkeypatch.setenv('WORLD_SIZE', '2'); monkeypatch.setenv('RANK', '1')
    assert runner().name == 'ddp' and runner().rank == 1
    for bad in ('fp8', 'fp16'):
        with pytest.raises(TweetnbError, match='does not train in'): CPURunner(bad)

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
    assert runner('cpu').precision == ('bf16' if bf16_unit() == 'AMX' else 'fp32') and 1 <= usable_cores() <= os.cpu_count()

def test_without_a_runner_all_stays_as_it_was():
    learn = alone('make')()
    assert not any(isinstance(cb, (Autocast, SyncGradients)) for cb in learn.cbs) and learn.dls.device == torch.device('cpu')
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
            learn = tweet_learner(TweetDataLoaders.from_df(df, bs=32), 'gru', n_emb=64, n_hidden=64, metrics=[], seed=seed)
            with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(4, 5e-3)
            return learn.scores().accuracy
    means = {p: np.mean([accuracy(p, s) for s in range(2)]) for p in ('fp32', 'bf16')}
    assert abs(means['fp32'] - means['bf16']) <= .005 and means['fp32'] > .7

def test_weights_of_rows():
    y = torch.tensor([0, -100, 1, 1])
    assert label_weight(torch.nn.CrossEntropyLoss(), y) == 3 and label_weight(None, torch.full((4,), -100)) == 0
    assert label_weight(torch.nn.CrossEntropyLoss(weight=torch.tensor([2., .5])), y) == 3.

def test_the_one_to_blame(tmp_path):
    def log(name, text): (tmp_path/name).write_text(text); return str(tmp_path/name)
    lost = log('lost', '[rank0]: RuntimeError: [../gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:31')
    own = log('own', 'Traceback\n[rank1]: ValueError: bad tweet\n[W1121 07:00 warning.cpp:1] Warning: never destroyed\n')
    assert first_failure([dict(rank=0, code=1, log=lost), dict(rank=1, code=1, log=own)]) == 'process 1 failed: ValueError: bad tweet'
    assert first_failure([dict(rank=0, code=1, log=lost), dict(rank=3, code=-11, log='')]).endswith('process 3 failed: was killed by SIGSEGV')
    assert 'ended with code 7' in first_failure([dict(rank=2, code=7, log='')])

def test_threads_and_environment_of_children(tmp_path, capfd):
    launch("import os, sys\nprint(os.environ['USE_TORCH_XLA'], os.environ['TWEETNB_RUNNER'], os.environ['WORLD_SIZE'], *sys.argv[1:])", 'a', 7, processes=1)
    assert capfd.readouterr().out.split() == ['0', 'ddp', '1', 'a', '7']

def test_the_command_line_in_several_processes(monkeypatch, capfd):
    launch_cli(['--version', '--processes', '2'], processes=1)
    assert capfd.readouterr().out.startswith('tweetnb')
    seen = []
    monkeypatch.setattr('tweetnb.train.distributed.launch', lambda *args, **kw: seen.append((args[1:], kw)))
    for argv in (['train', 'x.csv', '--processes', '2', '--bs', '8'], ['--processes=12', 'train', 'x.csv', '--bs', 8]):
        launch_cli(argv, processes=3)
    assert seen == [(('train', 'x.csv', '--bs', '8'), dict(processes=3))]*2

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
