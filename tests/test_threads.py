"""Waiting threads sleep, whenever torch is imported, and small models use one thread"""
import os, subprocess, sys

import pytest

from tweetnb.threads import thread_limit

names = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME'

def python(code, **env):
    "What a fresh Python prints"
    base = {k: v for k,v in os.environ.items() if k not in names}
    done = subprocess.run([sys.executable, '-c', code], env={**base, **env}, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()

call = 'import os, sys, threading; from tweetnb.threads import set_wait_policy; set_wait_policy(); '

def test_the_policy_is_set_before_torch_is_loaded():
    said = python(call + "print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'], threading.active_count())")
    assert said == ['False', 'PASSIVE', '1']

@pytest.mark.parametrize('name,value', [('OMP_WAIT_POLICY', 'ACTIVE'), ('GOMP_SPINCOUNT', '5'), ('KMP_BLOCKTIME', '3')])
def test_a_choice_in_the_environment_stands(name, value):
    said = python(call + f"print(os.environ[{name!r}], os.environ.get('OMP_WAIT_POLICY'))", **{name: value})
    assert said == [value, value if name == 'OMP_WAIT_POLICY' else 'None']

@pytest.mark.skipif(sys.platform != 'linux', reason='only GNU OpenMP needs a second pool')
def test_torch_imported_first_gets_a_sleeping_pool_once():
    code = 'import torch; ' + call + "set_wait_policy(); "
    code += "print([o.name for o in threading.enumerate()].count('tweetnb-idle-pool'))"
    assert python(code) == ['1']

def test_a_program_ends_although_the_pool_sleeps():
    assert python('import torch; ' + call + "print('end')") == ['end']

def test_the_module_needs_the_standard_library_only():
    assert python(call + "print('numpy' in sys.modules)") == ['False']

def test_a_limit_ends_with_its_block_even_after_an_error():
    import torch
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        with thread_limit(1):
            assert torch.get_num_threads() == 1
            raise RuntimeError
    assert torch.get_num_threads() == before
