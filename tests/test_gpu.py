"`make gpu`, end to end on a CPU with tiny models, and the Triton kernels in Triton's interpreter"
import importlib.util, json, os, subprocess, sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent

def python(*args, **env):
    return subprocess.run([sys.executable, *map(str, args)], env={**os.environ, 'PYTHONPATH': str(root), **env},
                          capture_output=True, text=True, timeout=3000)

def test_its_sections_run_and_are_right(tmp_path):
    "The quick ones; those of two more systems, of several processes and of Trainer take minutes on a CPU"
    some = 'machine,correctness,resume,celebrity,gru,prediction'
    res = python(root/'tools'/'gpu.py', '--device', 'cpu', '--quick', '--minutes', 60, '--only', some,
                 '--out', tmp_path/'gpu.json')
    found = json.loads((tmp_path/'gpu.json').read_text())
    assert res.returncode == 0, {k: v.get('error') for k,v in found['sections'].items()}
    sections = found['sections']
    assert found['date'] and sections['machine']['versions']['torch']
    assert sections['correctness']['largest'] == sections['resume']['difference'] == 0
    one = sections['celebrity']
    assert min(one[o] for o in ('tweets_per_s', 'epoch_s', 'share_of_peak', 'peak_memory_mb')) > 0
    assert 0 <= one['input_share'] < 1
    assert sections['gru']['relu / tanh'] > 0
    assert sections['prediction']['seconds_for_a_million'] > 0

def test_a_section_that_takes_too_long_is_ended_and_said(tmp_path):
    out = tmp_path/'gpu.json'
    res = python(root/'tools'/'gpu.py', '--device', 'cpu', '--minutes', .01, '--only', 'gru', '--out', out)
    assert res.returncode == 1
    assert 'ended after' in json.loads(out.read_text())['sections']['gru']['error']

@pytest.mark.skipif(not importlib.util.find_spec('triton'), reason='needs triton')
def test_triton_kernels_are_the_definition():
    code = """
import torch
from tweetnb.models.layers import ReluGRU, triton_gru
for batch,width,n_in,n in (1, 1, 3, 2), (5, 4, 6, 9), (70, 2, 3, 66):
    torch.manual_seed(0)
    rnn,x = ReluGRU(n_in, n), torch.randn(batch, width, n_in, requires_grad=True)
    weight = torch.randn(batch, width, n)
    expected,found = rnn(x)[0], triton_gru(rnn, x)
    assert (found - expected).abs().max() < 1e-5
    wanted = torch.autograd.grad(expected, [x, *rnn.parameters()], weight)
    for a,b in zip(wanted, torch.autograd.grad(found, [x, *rnn.parameters()], weight)):
        assert (a - b).abs().max() < 1e-4*max(1, a.abs().max()), (batch, n)
    with torch.no_grad(), torch.autocast('cpu', torch.float16): half = triton_gru(rnn, x)    # it has no bfloat16
    assert half.dtype == torch.float16 and (half.float() - expected).abs().max() < .005
"""
    res = python('-c', code, TRITON_INTERPRET='1')
    assert res.returncode == 0, res.stderr
