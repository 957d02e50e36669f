"Several processes: they learn what one learns, every row is predicted once, and a dead process ends the run clearly"
import json
import threading
import time

import numpy as np
import pytest
import torch
from runner_script import SCRIPT, alone, close
from safetensors.torch import load_file

from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.read import read_tweets
from tweetnb.text.block import TweetDataLoaders
from tweetnb.train.devices import runner
from tweetnb.train.distributed import first_failure, free_port, label_weight, launch, launch_cli, torchrun_args

@pytest.fixture(scope='module')
def together(tmp_path_factory):
    "What two processes did"
    out = tmp_path_factory.mktemp('two')
    (out/'script.py').write_text(SCRIPT)
    launch(out/'script.py', 'experiments', out, processes=2)
    files = [out/f'experiments{r}' for r in range(2)]
    return [(json.loads(o.with_suffix('.json').read_text()), load_file(o.with_suffix('.safetensors'))) for o in files]

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

def test_gradients_sent_during_the_backward_pass_are_the_same(together, single):
    (res,weights),(other,others) = together
    close(res['overlap losses'], single[0]['plain losses'])
    assert res['overlap losses'] == other['overlap losses']
    for k,v in single[1].items():
        if not k.startswith('plain.'): continue
        name = k.replace('plain.', 'overlap.')
        assert torch.equal(weights[name], others[name])
        close(weights[name], v)

@pytest.mark.parametrize('way', ['plain', 'filled'])
def test_metrics_are_those_of_all_rows(together, single, way):
    for res,_ in together:
        close(res[f'{way} validated'], single[0][f'{way} validated'], 1e-5 if way == 'plain' else .02)
    assert together[0][0][f'{way} validated'] == together[1][0][f'{way} validated']

@pytest.mark.parametrize('what',
                         ['plain preds', 'filled preds', 'plain targs', 'filled targs', 'few', 'three', 'odd',
                          'predict'])
def test_every_row_once_and_in_order_everywhere(together, single, what):
    for res,_ in together:
        assert np.shape(res[what]) == np.shape(single[0][what])
        close(res[what], single[0][what])

def test_scores_and_reports(together, single):
    for rank,(res,_) in enumerate(together):
        assert res['scores'] == single[0]['scores'] and res['rank'] == rank
        assert res['describe'].items() >= dict(processes=2, backend='gloo', nodes=1).items()

def test_each_process_has_its_share_of_every_class(together):
    hands = [np.array(res['hands']) for res,_ in together]
    assert hands[0].shape == hands[1].shape == (10, 3)
    assert np.ptp(np.concatenate(hands), axis=0).max() <= 1
    assert (hands[0] + hands[1]).sum() == 317 - 46              # 46 have no label

def test_only_the_first_process_is_heard(together):
    assert [res['shown'] for res,_ in together] == [True, False]

# --- ends

def test_a_killed_process_ends_the_run_and_the_run_resumes(tmp_path):
    (tmp_path/'script.py').write_text(SCRIPT)
    started = time.monotonic()
    with pytest.raises(TweetnbError, match='process 1 failed: was killed by SIGKILL.*resumed'):
        launch(tmp_path/'script.py', 'killed', tmp_path, 'die')
    # not after the 600 s for which a process waits for another
    assert time.monotonic() - started < 300
    assert [p.name for p in tmp_path.glob('run/checkpoint-*')] and not list(tmp_path.glob('*.json'))
    launch(tmp_path/'script.py', 'killed', tmp_path, 'live')
    learn = alone('make')()
    assert len(alone('fit')(learn, 2)) == 20
    for r in range(2):
        for k,v in load_file(tmp_path/f'killed{r}.safetensors').items(): close(v, learn.model.state_dict()[k])

def test_an_error_in_one_process_is_reported_on_one_line(tmp_path, capfd):
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

def test_invalid_launches():
    with pytest.raises(TweetnbError, match='script not found'): launch('nowhere.py')
    with pytest.raises(TweetnbError, match='cannot import'): launch(lambda: None)
    with pytest.raises(TweetnbError, match='not the address of the first machine'):
        torchrun_args(2, nodes=2, master='somewhere')
    with pytest.raises(TweetnbError, match='is invalid'): torchrun_args(1, nodes=2, node_rank=2, master='a:1')
    with pytest.raises(TweetnbError, match='not started by torchrun'): runner('ddp')

def test_no_launch_within_a_launch(monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'x')
    with pytest.raises(TweetnbError, match='inside a launched process'): launch('print()\n')

def test_a_batch_that_does_not_divide(monkeypatch):
    monkeypatch.setenv('RANK', '0'); monkeypatch.setenv('WORLD_SIZE', '3')
    dls = TweetDataLoaders.from_df(read_tweets(sample_path('tweets.csv'))[:100], bs=32)
    with pytest.raises(TweetnbError, match='32 tweets cannot be divided among 3.*multiple of 3'):
        runner('ddp').place(dls)
    other = TweetDataLoaders.from_df(read_tweets(sample_path('tweets.csv'))[:100], bs=30, val_bs=50)
    placed = runner('ddp').place(other)
    assert (placed.train.bs, placed.valid.bs) == (10, 17) and runner('ddp').place(placed).train.bs == 10

def test_weights_of_rows():
    y = torch.tensor([0, -100, 1, 1])
    assert label_weight(torch.nn.CrossEntropyLoss(), y) == 3 and label_weight(None, torch.full((4,), -100)) == 0
    assert label_weight(torch.nn.CrossEntropyLoss(weight=torch.tensor([2., .5])), y) == 3.

def test_which_process_is_blamed(tmp_path):
    def log(name, text): (tmp_path/name).write_text(text); return str(tmp_path/name)
    lost = log('lost',
               '[rank0]: RuntimeError: [../gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:31')
    own = log('own',
              'Traceback\n[rank1]: ValueError: bad tweet\n[W1121 07:00 warning.cpp:1] Warning: never destroyed\n')
    first = dict(rank=0, code=1, log=lost)
    assert first_failure([first, dict(rank=1, code=1, log=own)]) == 'process 1 failed: ValueError: bad tweet'
    assert first_failure([first, dict(rank=3, code=-11, log='')]) == 'process 3 failed: was killed by SIGSEGV'
    assert 'ended with code 7' in first_failure([dict(rank=2, code=7, log='')])

def test_threads_and_environment_of_children(tmp_path, capfd):
    script = "import os, sys\n" \
             "print(*(os.environ[o] for o in ('USE_TORCH_XLA', 'TWEETNB_RUNNER', 'WORLD_SIZE')), *sys.argv[1:])"
    launch(script, 'a', 7, processes=1)
    assert capfd.readouterr().out.split() == ['0', 'ddp', '1', 'a', '7']

def test_the_command_line_in_several_processes(monkeypatch, capfd):
    launch_cli(['--version', '--processes', '2'], processes=1)
    assert capfd.readouterr().out.startswith('tweetnb')
    seen = []
    monkeypatch.setattr('tweetnb.train.distributed.launch', lambda *args, **kw: seen.append((args[1:], kw)))
    for argv in (['train', 'x.csv', '--processes', '2', '--bs', '8'], ['--processes=12', 'train', 'x.csv', '--bs', 8]):
        launch_cli(argv, processes=3)
    assert seen == [(('train', 'x.csv', '--bs', '8'), dict(processes=3))]*2

