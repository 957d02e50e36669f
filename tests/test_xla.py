"""Real XLA on the CPU: agreement, compilations, several devices.

Each job of `xla_jobs.py` runs once, in a process of its own, two at a time."""
import importlib.metadata, importlib.util, json, os, signal, subprocess, sys, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tweetnb.ship.bundle import load
from tweetnb.core import TweetnbError
from tweetnb.train.xla import XLARunner, import_xla, pip_line

needs_xla = pytest.mark.skipif(importlib.util.find_spec('torch_xla') is None,
                               reason="needs torch_xla: pip install 'tweetnb[tpu]'")

def job(name, *args):
    env = {**os.environ, 'PJRT_DEVICE': 'CPU', 'USE_TORCH_XLA': '0', 'OMP_NUM_THREADS': '1',
           'TF_CPP_MIN_LOG_LEVEL': '3'}
    command = [sys.executable, '-X', 'faulthandler', '-W', 'ignore', str(Path(__file__).with_name('xla_jobs.py')), name,
               *map(str, args)]
    res = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800)
    if name == 'shared' and res.returncode == -signal.SIGSEGV:   # torch_xla 2.9, now and then, on four devices
        warnings.warn(f'{name}: torch_xla crashed, and is run again\n{res.stderr[-5000:]}')
        res = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800)
    assert res.returncode == 0, res.stderr[-5000:]
    return json.loads(res.stdout.splitlines()[-1])

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('xla')/'bundle'

@pytest.fixture(scope='module')
def jobs(folder):
    with ThreadPoolExecutor(2) as pool:
        yield {name: [pool.submit(job, *o) for o in what] for name,what in dict(
            graphs=[('graphs', folder)], agree=[('agree', 0, 2), ('agree', 1, 2)], shared=[('shared',)],
            late=[('late',)]).items()}
        pool.shutdown(cancel_futures=True)

@pytest.fixture(scope='module')
def agree(jobs): return {k: v for o in jobs['agree'] for k,v in o.result().items()}

@pytest.fixture(scope='module')
def graphs(jobs): return jobs['graphs'][0].result()

@pytest.fixture(scope='module')
def shared(jobs): return jobs['shared'][0].result()


@needs_xla
def test_every_model_agrees_with_the_cpu_over_20_steps(agree):
    from tweetnb.models.recurrent import models
    import tweetnb.train.learner                                            # registers the models of other modules
    assert set(models) <= set(agree)
    for name,res in agree.items():
        assert res['steps'] == 20 and res['first'] != res['last'], name
        assert max(res['losses'], res['probs'], res['weights']) < 1e-4, (name, res)
        assert res['compiled'] == 2, (name, res)                     # one width × {train, eval}

@needs_xla
def test_graphs_are_widths_times_two_and_nothing_compiles_after_the_first_epoch(graphs):
    assert graphs['steps'] == 60
    assert graphs['seen'] == [6, 6, 6]                                # three widths × {train, eval}
    assert graphs['after'] == len(graphs['graphs']) == 6

@needs_xla
def test_round_trips_are_rare(graphs):
    assert graphs['trips'] <= 1 + 3*(3 + 1)                            # of 20 + 6 batches an epoch

@needs_xla
def test_an_lstm_of_128_tokens_compiles_in_under_ten_seconds(graphs): assert graphs['first_step'] < 10

@needs_xla
def test_losses_metrics_and_predictions_are_those_of_the_cpu(graphs):
    one = graphs['one']
    assert one['steps'] == 40 and max(one['losses'], one['probs'], one['weights']) < 1e-4 and one['compiled'] == 4
    assert len(one['values']) == 2 and 0 < one['values'][-1][2] < 1

@needs_xla
def test_bf16_stays_close(graphs): assert 0 < graphs['bf16']['losses'] < .05

@needs_xla
def test_several_steps_in_one_graph_are_the_same_steps(graphs):
    res = graphs['steps_per_graph']
    assert res['steps'] == 40 and max(res['losses'], res['probs'], res['weights']) < 1e-5
    assert res['graphs'] == [[False, 16, 40, 1], [True, 16, 40, 4]] and res['compiled'] <= 2

@needs_xla
def test_the_guard_raises(graphs):
    assert 'graphs after 1 training steps' in graphs['guard'] and "remainder='fill'" in graphs['guard']

@needs_xla
def test_gru_is_unchanged(graphs):
    assert graphs['gru_same'] and graphs['gru_shape'] == [2, 5, 8]

@needs_xla
def test_weights_trained_there_load_on_the_cpu(graphs, folder):
    probs = load(folder, 'cpu').predict_proba(['what a lovely day', 'worst service ever', 'meh'])
    assert np.abs(np.asarray(probs) - np.load(folder/'probs.npy')).max() < 1e-5

@needs_xla
def test_four_devices_share_a_batch_with_equal_losses(graphs, shared):
    assert shared['devices'] == 4 and len(shared['losses']) == 40
    assert np.abs(np.subtract(shared['losses'], graphs['one']['all_losses'])).max() < 1e-5
    assert np.abs(np.subtract(shared['values'], graphs['one']['values'])).max() < 1e-5
    assert shared['compiled'] == 4
    assert 'cannot be shared by 4 devices' in shared['uneven']

@needs_xla
def test_importing_tweetnb_leaves_torch_xla_alone_and_a_late_start_is_reported(jobs):
    res = jobs['late'][0].result()
    assert not res['imported']
    assert "enter runner('xla') first" in res['error']


def test_pip_lines():
    assert pip_line('2.9.1+cpu', '2.9.0') is None
    assert pip_line('2.13.0+cpu', '2.9.0') == "pip install 'torch==2.9.*' 'torch_xla[tpu]==2.9.*'"
    assert pip_line('2.9.0', '2.10.1') == "pip install 'torch==2.10.*' 'torch_xla[tpu]==2.10.*'"
    assert pip_line('2.9.0', None) == "pip install 'tweetnb[tpu]'"

@pytest.mark.parametrize('version,line',
                         [('2.7.0', "pip install 'torch==2.7.*' 'torch_xla[tpu]==2.7.*'"),
                          (None, "pip install 'tweetnb[tpu]'")])
def test_a_wrong_or_missing_torch_xla_is_reported_with_the_pip_line(monkeypatch, version, line):
    def found(name):
        if version is None: raise importlib.metadata.PackageNotFoundError(name)
        return version
    monkeypatch.setattr(importlib.metadata, 'version', found)
    with pytest.raises(TweetnbError, match='torch_xla') as e: import_xla()
    assert line in str(e.value) and 'torch_xla' not in sys.modules

def test_unknown_precision():
    with pytest.raises(TweetnbError, match='not supported on xla'): XLARunner(precision='fp8')
