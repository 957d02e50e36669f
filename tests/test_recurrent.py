"""Every model by name: any batch, training, weights, sizes, word vectors, invalid arguments"""
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

import tweetnb.models.ngram                       # registers its model
from tweetnb.core import TweetnbError
from tweetnb.models.layers import MaskedBatchNorm, length_mask
from tweetnb.models.recurrent import SubwordClassifier, count_parameters, create_model, models as all_models
from tweetnb.text.batches import pad_rows
from tweetnb.text.tokens import TokenStore, offsets_of

models = [o for o in all_models if not o.startswith(('bert', 'hf_'))]      # those have tests of their own

n_vocab,n_labels = 50, 3
small = {'pyramid': dict(widths=(3, 5, 6, 8)),
         'gru_attention': dict(n_emb=9, n_hidden=8, n_last=7),
         'ngram': dict(n_emb=6, n_buckets=40)}
variants = [(name, {}) for name in models] + [
    ('gru_attention', dict(attention=False)),
    ('gru_attention', dict(activation='tanh')),
    ('gru', dict(activation='relu')),
    ('rnn', dict(activation='relu')),
    ('gru', dict(bidirectional=True, n_layers=2, pool='concat')),
    ('subword', dict(n_layers=2)),
    ('pyramid', dict(bidirectional=True)),
    ('ngram', dict(max_n=4)),
    ('ngram', dict(max_n=1))]

def made(name, seed=0, **kwargs):
    "A small model with weights (and running statistics) large enough for differences to show"
    torch.manual_seed(seed)
    kwargs = {**small.get(name, dict(n_emb=7, n_hidden=6)), 'dropout': 0., **kwargs}
    res = create_model(name, n_vocab, n_labels, **kwargs)
    for name,p in res.named_parameters():
        if 'embedding' in name or 'ngrams' in name: p.data.normal_()
    for module in res.modules():
        if isinstance(module, MaskedBatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(.5, 2)
    return res

def batch(lengths, width=None, junk=False, seed=0):
    "Random tweets of these lengths; with `junk`, padding cells hold a word's id"
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
def test_logits_do_not_depend_on_the_batch(name, kwargs, lengths, more, seed, data):
    model = made(name, **kwargs).eval()
    ids,n = batch(lengths, seed=seed)
    with torch.no_grad():
        together = model(ids, n)
        wide,_ = batch(lengths, width=max(lengths) + more, junk=True, seed=seed)
        assert (model(wide, n) - together).abs().max() < 1e-5
        alone = torch.cat([model(ids[i:i+1,:k], n[i:i+1]) for i,k in enumerate(lengths)])
        assert (alone - together).abs().max() < 1e-5
        some = data.draw(st.lists(st.integers(0, len(lengths)-1), min_size=1, max_size=12))       # any order, repeats
        assert (model(ids[some], n[some]) - together[some]).abs().max() < 1e-5

@pytest.mark.parametrize('name, kwargs', [('lstm', {}), ('lstm', dict(pool='mean')), ('bilstm', {}), ('subword', {})])
@settings(max_examples=12, deadline=None)
@given(lengths=some_lengths, bs=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_store_gets_the_logits_of_its_batch(name, kwargs, lengths, bs, seed):
    model = made(name, seed, **kwargs)
    ids = torch.randint(1, n_vocab, (sum(lengths),), generator=torch.Generator().manual_seed(seed)).numpy()
    store = TokenStore(ids, offsets_of(lengths))
    with torch.no_grad(): expected = model(*pad_rows(store, range(len(store))))
    found = torch.full_like(expected, torch.nan)
    for rows,logits in model.store_batches(store, bs): found[torch.from_numpy(rows)] = logits
    assert torch.allclose(found, expected, atol=1e-5)

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
def test_config_and_state_dict_make_the_same_model(name, kwargs):
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
    with torch.autocast('cpu', torch.bfloat16): logits = model.train()(ids, n)
    F.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() and g.dtype == torch.float32 for g in grads)

@each
def test_learns_something(name, kwargs):
    "The share of certain words decides"
    model = made(name, seed=2, **kwargs).train()
    ids,n = batch([4, 5, 6, 7]*16, seed=3)
    y = (ids < 25).logical_and(ids > 0).sum(1).mul(2).ge(n).long()
    opt = torch.optim.AdamW(model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        losses.append(F.cross_entropy(model(ids, n), y))
        losses[-1].backward()
        opt.step()
        opt.zero_grad()
    assert losses[-1] < .8*losses[0]


# --- published sizes, vectors, invalid arguments ---------------------------------------------------------------------

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
    with pytest.raises(TweetnbError, match='do not fit a vocabulary of 51'):
        create_model(name, n_vocab + 1, n_labels, vectors=vectors)

def test_a_deeper_subword_model_keeps_the_names_of_the_first_layer():
    one,two = [SubwordClassifier(9, 2, n_emb=4, n_hidden=3, n_layers=n).state_dict() for n in (1, 2)]
    assert set(one) < set(two) and {k.split('.')[2] for k in two.keys() - one.keys()} == {'1'}

@pytest.mark.parametrize('arch, kwargs, words', [
    ('gru', dict(activation='gelu'), "does not support activation 'gelu'"),
    ('lstm', dict(activation='relu'), 'does not support activation'),
    ('lstm', dict(pool='sum'), 'unknown pooling'),
    ('pyramid', dict(n_hidden=3), 'no parameter'),
    ('elmo', {}, 'ngram')])
def test_invalid_arguments(arch, kwargs, words):
    with pytest.raises(TweetnbError, match=words): create_model(arch, n_vocab=9, n_labels=2, **kwargs)
