"""Any batch against PyTorch's packed sequences, its batch norm and attention, and finite differences"""
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tweetnb.models import layers
from tweetnb.models.layers import (FastDropout, MaskedBatchNorm, Recurrent, ReluGRU, gru_scan, join_pairs, length_mask,
                                   packed_order, self_attention, to_torch, use_fast_dropout)

some_lengths = st.lists(st.integers(1, 21), min_size=1, max_size=9)


def packed(rnn, x, lengths):
    out,_ = rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])[0]

@pytest.mark.parametrize('kind', ['rnn', 'gru', 'lstm'])
@settings(max_examples=10, deadline=None)
@given(lengths=some_lengths, more=st.integers(0, 5), n_layers=st.integers(1, 3), both=st.booleans(),
       seed=st.integers(0, 99))
def test_equal_to_packed(kind, lengths, more, n_layers, both, seed):
    torch.manual_seed(seed)
    ours = Recurrent(kind, 5, 4, n_layers=n_layers, bidirectional=both)
    theirs,n = to_torch(ours), torch.tensor(lengths)
    x = torch.randn(len(lengths), max(lengths) + more, 5)
    out,expected = ours(x, n)[0], packed(theirs, x, n)
    assert (out - expected).abs().max() < 1e-5
    weight = torch.randn_like(out)
    (out*weight).sum().backward()
    (expected*weight).sum().backward()
    for p,q in zip(ours.parameters(), theirs.parameters()):
        assert (p.grad - q.grad).abs().max() < 1e-4*max(1, q.grad.abs().max())

@pytest.mark.parametrize('activation', ['tanh', 'relu'])
@settings(max_examples=6, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), more=st.integers(0, 3), backward=st.booleans(),
       seed=st.integers(0, 99))
def test_gru_gradients(activation, lengths, more, backward, seed):
    torch.manual_seed(seed)
    rnn = (ReluGRU(3, 2) if activation == 'relu' else nn.GRU(3, 2, batch_first=True)).double()
    n = torch.tensor(lengths)
    x = torch.randn(len(lengths), max(lengths) + more, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *w: gru_scan(rnn, x, n, backward), (x, *rnn.parameters()))
    if not backward:
        mask = length_mask(n, x.shape[1])[:,:,None]
        a,b = gru_scan(rnn, x, n), rnn(x)[0]*mask
        inputs = (x, *rnn.parameters())
        weight = torch.randn_like(a)
        for p,q in zip(torch.autograd.grad((a*weight).sum(), inputs), torch.autograd.grad((b*weight).sum(), inputs)):
            assert (p - q).abs().max() < 1e-10

def test_gru_frozen_or_without_gradients():
    torch.manual_seed(0)                       # with few units, all may be below 0, and then nothing has a gradient
    rnn,x,n = ReluGRU(3, 16), torch.randn(2, 4, 3), torch.tensor([4, 2])
    rnn.requires_grad_(False)
    assert not gru_scan(rnn, x, n).requires_grad
    rnn.weight_ih_l0.requires_grad_(True)
    gru_scan(rnn, x, n).sum().backward()
    assert rnn.weight_hh_l0.grad is None and rnn.weight_ih_l0.grad.abs().sum() > 0

@settings(max_examples=30, deadline=None)
@given(lengths=some_lengths, more=st.integers(0, 5), backward=st.booleans())
def test_packed_order(lengths, more, backward):
    n,width = torch.tensor(lengths), max(lengths) + more
    cells,sizes = packed_order(n, width, backward)
    assert sorted(cells.tolist()) == length_mask(n, width).flatten().nonzero()[:,0].tolist()      # each token once
    assert sum(sizes) == sum(lengths) and sizes == sorted(sizes, reverse=True)

@settings(max_examples=20, deadline=None)
@given(lengths=some_lengths, more=st.integers(0, 5))
def test_pairs_norm_and_attention(lengths, more):
    n = torch.tensor(lengths)
    mask = length_mask(n, max(lengths) + more)
    x = torch.randn(*mask.shape, 4)*mask[:,:,None]
    pairs,halves = join_pairs(x, n)
    assert pairs.sum().isclose(x.sum(), atol=1e-4) and (halves*2 - n).max() <= 1
    assert pairs[~length_mask(halves, pairs.shape[1])].abs().sum() == 0
    y = self_attention(x, n)
    assert y[~mask].abs().sum() == 0
    for i,k in enumerate(lengths):
        expected = F.scaled_dot_product_attention(*[x[i:i+1,:k]]*3, scale=1.)[0]
        assert (y[i,:k] - expected).abs().max() < 1e-5
    if sum(lengths) > 1:
        ours,theirs = MaskedBatchNorm(4), nn.BatchNorm1d(4)
        assert (ours(x + 5, n)[mask] - theirs(x[mask] + 5)).abs().max() < 1e-4
        assert torch.allclose(ours.running_var, theirs.running_var, atol=1e-5)

@contextmanager
def kernels(**found):
    "Register kernels for the CPU, and remove them afterwards"
    layers.kernels.update({(operation, 'cpu'): kernel for operation,kernel in found.items()})
    try: yield
    finally: layers.kernels.clear()

@settings(max_examples=20, deadline=None)
@given(lengths=some_lengths.filter(lambda o: sum(o) > 1), more=st.integers(0, 5), training=st.booleans())
def test_static_batch_norm_is_the_same(lengths, more, training):
    n = torch.tensor(lengths)
    mask = length_mask(n, max(lengths) + more)
    x = torch.randn(*mask.shape, 4) + 3
    usual,static = MaskedBatchNorm(4).train(training), MaskedBatchNorm(4).train(training)
    expected = usual(x, n)
    with kernels(batch_norm=MaskedBatchNorm.forward_static): found = static(x, n)
    assert (found - expected).abs().max() < 1e-4
    for name,buffer in usual.named_buffers(): assert torch.allclose(static.get_buffer(name), buffer, atol=1e-4), name

def test_a_registered_kernel_runs_each_layer_in_each_direction():
    calls = []
    def kernel(rnn, x, lengths, backward):
        calls.append((type(rnn).__name__, backward))
        return x.new_zeros(*x.shape[:2], rnn.hidden_size)
    rnn = Recurrent('gru', 3, 2, n_layers=2, bidirectional=True, activation='relu')
    with kernels(recurrence=kernel): rnn(torch.ones(1, 4, 3), torch.tensor([4]))
    assert calls == [('ReluGRU', False), ('ReluGRU', True)]*2

@settings(max_examples=20, deadline=None)
@given(p=st.floats(0, 1), n=st.integers(1, 50))
def test_dropout_keeps_the_mean(p, n):
    torch.manual_seed(0)
    x = torch.ones(n, 1_001, requires_grad=True)
    y = FastDropout(p)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach()) and len(y.unique()) <= 2
    if n > 20 and p < .9: assert abs(y.mean().item() - 1) < .08

@pytest.mark.parametrize('p', [.1, .3, .5, .996])
def test_dropout_rate_is_the_nearest_256th(p):
    torch.manual_seed(0)
    rate = round(p*256)/256
    y = FastDropout(p)(torch.ones(400_003))
    assert abs((y == 0).float().mean() - rate) < 4*(rate*(1 - rate)/400_003)**.5
    assert torch.allclose(y.max(), torch.tensor(1/(1 - rate)))

def test_dropout_in_bf16_and_at_the_ends():
    half,scale = FastDropout(.25)(torch.ones(1000, dtype=torch.bfloat16)), torch.tensor(1/.75, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and set(half.tolist()) == {0., scale.item()}
    x = torch.ones(100)
    assert torch.equal(FastDropout(0.)(x), x) and not FastDropout(1.)(x).any()

def test_fast_dropout_replaces_only_plain_dropout():
    model = use_fast_dropout(nn.Sequential(nn.Dropout(.2), nn.Dropout1d(.2), nn.ReLU()))
    assert [type(o) for o in model] == [FastDropout, nn.Dropout1d, nn.ReLU] and model[0].p == .2
