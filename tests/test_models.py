"What a notebook cell cannot hold: any batch, every model, against PyTorch's packed sequences, and finite differences"
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import tweetnb.models.ngram                       # registers its model
from tweetnb.core import TweetnbError
from tweetnb.models.layers import (GRU, Dropout, MaskedBatchNorm, Recurrent, gru_scan, join_pairs, length_mask, packed_order, self_attention,
                            to_torch)
from tweetnb.models.recurrent import count_parameters, create_model, models as all_models

models = [o for o in all_models if not o.startswith('bert')]      # those have tests of their own

n_vocab,n_labels = 50, 3
small = {'pyramid': dict(widths=(3, 5, 6, 8)), 'gru_attention': dict(n_emb=9, n_hidden=8, n_last=7), 'ngram': dict(n_emb=6, n_buckets=40)}
variants = [(name, {}) for name in models] + [('gru_attention', dict(attention=False)), ('gru_attention', dict(activation='tanh')),
    ('gru', dict(activation='relu')), ('rnn', dict(activation='relu')), ('gru', dict(bidirectional=True, n_layers=2, pool='concat')),
    ('pyramid', dict(bidirectional=True)), ('ngram', dict(max_n=4)), ('ngram', dict(max_n=1))]

def made(name, seed=0, **kwargs):
    "A small model with weights (and running statistics) large enough for differences to show"
    torch.manual_seed(seed)
    res = create_model(name, n_vocab, n_labels, **{**small.get(name, dict(n_emb=7, n_hidden=6)), 'dropout': 0., **kwargs})
    for name,p in res.named_parameters():
        if 'embedding' in name or 'ngrams' in name: p.data.normal_()
    for module in res.modules():
        if isinstance(module, MaskedBatchNorm): module.running_mean.normal_(); module.running_var.uniform_(.5, 2)
    return res

def batch(lengths, width=None, junk=False, seed=0):
    "Random tweets of these lengths; where `junk`, the padding is not even the padding's id"
    g = torch.Generator().manual_seed(seed)
    ids,lengths = torch.randint(1, n_vocab, (len(lengths), max(lengths)), generator=g), torch.tensor(lengths)
    ids = ids*length_mask(lengths, ids.shape[1])
    ids = F.pad(ids, (0, (width or ids.shape[1]) - ids.shape[1]))
    return ids.where(length_mask(lengths, ids.shape[1]), torch.tensor(17 if junk else 0)), lengths

some_lengths = st.lists(st.integers(1, 21), min_size=1, max_size=9)
def shown(o): return o if isinstance(o, str) else '-'.join(f'{k}={v}' for k,v in o.items())
each = pytest.mark.parametrize('name,kwargs', variants, ids=shown)


# --- every model -----------------------------------------------------------------------------------------------------

@each
@settings(max_examples=12, deadline=None)
@given(lengths=some_lengths, more=st.integers(0, 30), seed=st.integers(0, 99), data=st.data())
def test_logits_belong_to_the_tweet(name, kwargs, lengths, more, seed, data):
    model = made(name, **kwargs).eval()
    ids,n = batch(lengths, seed=seed)
    with torch.no_grad():
        together = model(ids, n)
        wide,_ = batch(lengths, width=max(lengths) + more, junk=True, seed=seed)
        assert (model(wide, n) - together).abs().max() < 1e-5
        alone = torch.cat([model(ids[i:i+1,:k], n[i:i+1]) for i,k in enumerate(lengths)])
        assert (alone - together).abs().max() < 1e-5
        some = torch.tensor(data.draw(st.lists(st.integers(0, len(lengths)-1), min_size=1, max_size=12)))     # any order, repeats
        assert (model(ids[some], n[some]) - together[some]).abs().max() < 1e-5

@each
@settings(max_examples=6, deadline=None)
@given(lengths=some_lengths, more=st.integers(1, 30))
def test_training_does_not_see_the_width(name, kwargs, lengths, more):
    found = []
    for width,junk in (None, False), (max(lengths) + more, True):
        model = made(name, **kwargs).train()
        model(*batch(lengths, width, junk)).square().sum().backward()
        found.append(({n: p.grad for n,p in model.named_parameters()}, dict(model.named_buffers())))
    for a,b in zip(*found):
        for key in a:
            if a[key] is None: assert b[key] is None; continue
            assert torch.isfinite(a[key].float()).all()
            if key == 'embedding.weight': a[key][17],b[key][17] = 0, 0       # its row stands where it is also the junk
            assert (a[key].float() - b[key].float()).abs().max() <= 1e-4*max(1, a[key].float().abs().max()), key

@each
def test_every_weight_learns(name, kwargs):
    model = made(name, **kwargs).train()
    F.cross_entropy(model(*batch([5, 9, 2, 4, 7, 3])), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    for key,p in model.named_parameters():
        if name == 'ngram' and kwargs.get('max_n') == 1 and 'ngrams' in key: continue
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0, key

@each
def test_weights_travel(name, kwargs):
    model = made(name, seed=1, **kwargs).eval()
    again = create_model(**json.loads(json.dumps(model.config))).eval()
    again.load_state_dict(model.state_dict())
    ids,n = batch([5, 9, 2, 4])
    assert torch.equal(again(ids, n), model(ids, n))

@each
def test_bf16(name, kwargs):
    model = made(name, **kwargs)
    ids,n = batch([5, 9, 2, 4, 12, 1])
    model.eval()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16): half = model(ids, n)
    with torch.no_grad(): full = model(ids, n)
    assert (half.float() - full).abs().max() < .1*max(1, full.abs().max())
    with torch.autocast('cpu', torch.bfloat16): loss = F.cross_entropy(model.train()(ids, n).float(), torch.tensor([0, 1, 2, 0, 1, 2]))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)

@each
def test_learns_something(name, kwargs):
    "A word decides; everything must find it"
    model = made(name, seed=2, **kwargs).train()
    ids,n = batch([4, 5, 6, 7]*16, seed=3)
    y = (ids < 25).logical_and(ids > 0).sum(1).mul(2).ge(n).long()
    opt = torch.optim.AdamW(model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        losses.append(F.cross_entropy(model(ids, n), y)); losses[-1].backward(); opt.step(); opt.zero_grad()
    assert losses[-1] < .8*losses[0]


# --- recurrent layers against PyTorch --------------------------------------------------------------------------------

def packed(rnn, x, lengths):
    out,_ = rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])[0]

@pytest.mark.parametrize('kind', ['rnn', 'gru', 'lstm'])
@settings(max_examples=10, deadline=None)
@given(lengths=some_lengths, more=st.integers(0, 5), layers=st.integers(1, 3), both=st.booleans(), seed=st.integers(0, 99))
def test_equal_to_packed(kind, lengths, more, layers, both, seed):
    torch.manual_seed(seed)
    ours = Recurrent(kind, 5, 4, n_layers=layers, bidirectional=both)
    theirs,n = to_torch(ours), torch.tensor(lengths)
    x = torch.randn(len(lengths), max(lengths) + more, 5)
    out,expected = ours(x, n)[0], packed(theirs, x, n)
    assert (out - expected).abs().max() < 1e-5
    weight = torch.randn_like(out)
    (out*weight).sum().backward(); (expected*weight).sum().backward()
    mine = [p.grad for p in ours.parameters()]
    for a,b in zip(mine, [p.grad for p in theirs.parameters()]): assert (a - b).abs().max() < 1e-4*max(1, b.abs().max())

@pytest.mark.parametrize('activation', ['tanh', 'relu'])
@settings(max_examples=6, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), more=st.integers(0, 3), backward=st.booleans(), seed=st.integers(0, 99))
def test_gru_gradients(activation, lengths, more, backward, seed):
    torch.manual_seed(seed)
    rnn,n = GRU(3, 2, activation=activation).double(), torch.tensor(lengths)
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
    rnn,x,n = GRU(3, 2), torch.randn(2, 4, 3), torch.tensor([4, 2])
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

@settings(max_examples=20, deadline=None)
@given(p=st.floats(0, 1), n=st.integers(1, 50))
def test_dropout_keeps_the_mean(p, n):
    torch.manual_seed(0)
    x = torch.ones(n, 1_001, requires_grad=True)
    y = Dropout(p)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach()) and len(y.unique()) <= 2
    if n > 20 and p < .9: assert abs(y.mean().item() - 1) < .08


# --- published sizes, vectors, and mistakes --------------------------------------------------------------------------

def test_published_counts():
    emoji = create_model('gru_attention', 4_096, 5)
    running = sum(b.numel() for n,b in emoji.named_buffers() if 'running' in n)
    assert (count_parameters(emoji), count_parameters(emoji) + running) == (23_878_149, 23_883_269)
    lstm = create_model('lstm', 10, 3, n_emb=300, n_hidden=150)
    assert count_parameters(lstm) - 10*300 == 4*150*(300 + 150 + 2) + 151*3
    assert [o.n_out for o in create_model('pyramid', 10, 3).layers] == [64, 128, 256, 512]

@pytest.mark.parametrize('name', list(models))
def test_vectors(name):
    vectors = torch.randn(n_vocab, 9)
    kwargs = {k: v for k,v in small.get(name, dict(n_hidden=6)).items() if k != 'n_emb'}
    model = create_model(name, n_vocab, n_labels, vectors=vectors, freeze_embedding=True, **kwargs)
    assert torch.equal(model.embedding.weight[1:], vectors[1:]) and model.embedding.weight[0].abs().sum() == 0
    assert json.loads(json.dumps(model.config))['n_emb'] == 9 and 'vectors' not in model.config
    model(*batch([3, 4])).sum().backward()
    assert model.embedding.weight.grad is None and model.head.weight.grad is not None
    again = create_model(**model.config)
    assert not again.embedding.weight.requires_grad
    with pytest.raises(TweetnbError, match='do not fit a vocabulary of 51'): create_model(name, n_vocab + 1, n_labels, vectors=vectors)

def test_mistakes_are_told():
    for wrong,words in [(dict(arch='gru', activation='gelu'), "no activation 'gelu'"), (dict(arch='lstm', activation='relu'), 'no activation'),
                        (dict(arch='lstm', pool='sum'), 'no pooling'), (dict(arch='pyramid', n_hidden=3), 'no parameter'),
                        (dict(arch='elmo'), 'ngram')]:
        with pytest.raises(TweetnbError, match=words): create_model(n_vocab=9, n_labels=2, **wrong)
