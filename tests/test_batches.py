"Batches: every tweet once, in proportion, in order, as narrow as can be"
import os
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
import fastai.callback.progress                   # adds no_bar
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import ColReader
from fastai.learner import Learner
from fastai.metrics import accuracy, skm_to_fastai
from hypothesis import given, settings, strategies as st

from tweetnb.text import block
from tweetnb.text.batches import BucketSampler, deal, find_widths, pad_rows, padding_share, to_width
from tweetnb.text.block import TweetBlock, TweetDataLoaders, TweetDataset, TweetDL, label_numbers, trained_labels
from tweetnb.data.clean import Cleaner
from tweetnb.core import TweetnbError, data_path, sample_path
from tweetnb.data.read import read_tweets
from tweetnb.data.split import split_indices
from tweetnb.text.store import build_store
from tweetnb.text.tokens import TokenStore, TweetTokenizer

settings.register_profile('batches', deadline=None, max_examples=60)
settings.load_profile('batches')

real = pytest.mark.skipif(not os.environ.get('TWEETNB_DATA'), reason='needs TWEETNB_DATA/emojify and sentiment140')
lengths_of = st.lists(st.integers(1, 40), max_size=120)
remainders = st.sampled_from(['keep', 'drop', 'fill'])

def store_of(lengths, seed=0):
    lengths = np.asarray(lengths, dtype=int)
    ids = np.random.default_rng(seed).integers(2, 99, lengths.sum()).astype(np.int32)
    return TokenStore(ids, np.r_[0, lengths.cumsum()].astype(np.int64))

# --- rectangles

@given(lengths_of.filter(len), st.integers(1, 50) | st.none(), st.data())
def test_pad_rows_equals_a_loop(lengths, width, data):
    store = store_of(lengths)
    rows = data.draw(st.lists(st.integers(0, len(lengths)-1), max_size=20))
    ids,n = pad_rows(store, rows, width, pad_id=7)
    w = width or max((lengths[i] for i in rows), default=1)
    assert ids.shape == (len(rows), w) and ids.dtype == n.dtype == torch.int64
    for got,size,i in zip(ids.tolist(), n.tolist(), rows):
        want = store[i].tolist()[:w]
        assert got == want + [7]*(w-len(want)) and size == len(want)

def test_a_mapped_store_gives_the_same_batches(tmp_path):
    texts = ['one', 'two words', 'three words here']*20
    tok = TweetTokenizer.word(texts)
    mapped,plain = build_store(texts, tok, dir=tmp_path), tok.encode(texts)
    for rows,width in BucketSampler(plain.lengths, bs=7).epoch():
        assert torch.equal(pad_rows(mapped, rows, width)[0], pad_rows(plain, rows, width)[0])

# --- widths

@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 3))
def test_find_widths_is_optimal(lengths, n, multiple):
    found = find_widths(lengths, n, multiple)
    assert len(found) <= n and list(found) == sorted(set(found)) and all(w % multiple == 0 for w in found)
    top = -(-max(lengths)//multiple)*multiple
    def cells(widths): return int(to_width(lengths, widths).sum())
    below = range(multiple, top, multiple)
    best = min(cells((*some, top)) for k in range(n) for some in combinations(below, k))
    assert found[-1] == top and cells(found) == best

def test_find_widths_without_tweets():
    with pytest.raises(TweetnbError, match='no tweets'): find_widths([])

# --- who goes together

@given(st.lists(st.integers(0, 60), max_size=8), st.integers(1, 30))
def test_deal_to_within_one(counts, n):
    batch = deal(counts, n)
    assert len(batch) == sum(counts)
    hands = np.array([np.bincount(part, minlength=n) for part in np.split(batch, np.cumsum(counts)[:-1])] or [[0]*n])
    assert (np.ptp(hands, axis=1) <= 1).all() and np.ptp(hands.sum(0)) <= 1

def processes(lengths, n, **kw): return [BucketSampler(lengths, rank=r, world_size=n, **kw) for r in range(n)]

def accepted(n, world_size, remainder): return remainder != 'keep' or n == 0 or n >= world_size

@given(lengths_of, st.integers(1, 20), st.integers(1, 5), remainders, st.booleans(), st.booleans(), st.integers(0, 3),
       st.data())
def test_together_every_tweet_exactly_once(lengths, bs, world_size, remainder, shuffle, stratify, epoch, data):
    n = len(lengths)
    labels = data.draw(st.lists(st.integers(-1, 4), min_size=n, max_size=n)) if stratify else None
    if not accepted(n, world_size, remainder):
        with pytest.raises(TweetnbError, match='too few'): BucketSampler(lengths, world_size=world_size)
        return
    samplers = processes(lengths, world_size, bs=bs, remainder=remainder, shuffle=shuffle, labels=labels)
    parts = [s.plan(epoch) for s in samplers]
    assert {len(p) for p in parts} == {len(samplers[0])}                       # no process waits for another
    rows = np.concatenate([[], *(r for p in parts for r,_ in p)]).astype(int)
    size,steps = bs*world_size,len(samplers[0])
    if remainder == 'drop': assert len(rows) == n//size*size == len(set(rows))
    elif remainder == 'keep' or steps*world_size <= n: assert sorted(rows) == list(range(n))
    else: assert set(rows) == set(range(n))
    sizes = [len(r) for p in parts for r,_ in p]
    assert all(sizes) and np.ptp(sizes or [0]) <= 1
    assert max(sizes, default=0) <= bs + (remainder == 'keep' and bs == 1 and world_size > 1)
    for step in zip(*parts):
        assert len({w for _,w in step}) == 1 and step[0][1] == max(lengths[i] for r,_ in step for i in r)
    for s in samplers:
        if remainder != 'keep': assert all(len(r) == bs for r,_ in s.epoch(epoch))

@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 16), st.integers(1, 6), remainders,
       st.booleans())
def test_stratified_in_every_batch_of_every_process(counts, bs, world_size, remainder, free):
    labels = np.repeat(np.arange(len(counts)), counts)
    if not accepted(len(labels), world_size, remainder): return
    lengths = np.random.default_rng(0).integers(1, 30, len(labels))
    samplers = processes(lengths, world_size, bs=bs, remainder=remainder, labels=labels,
                         widths=None if free else (8, 16, 32))
    hands = [np.bincount(labels[rows], minlength=len(counts)) for s in samplers for rows,_ in s.plan(1)]
    if hands: assert np.ptp(hands, axis=0).max() <= 1
    if hands and remainder == 'keep': assert (np.abs(np.array(hands) - np.array(counts)/len(hands)) < 1).all()

@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 16), st.integers(1, 3), remainders)
def test_balanced_in_every_batch(counts, bs, world_size, remainder):
    labels = np.repeat(np.arange(len(counts)), counts)
    kw = dict(bs=bs, labels=labels, balance=True, remainder=remainder)
    if not accepted(len(counts)*max(counts), world_size, remainder): return
    parts = [rows for s in processes(np.ones(len(labels), int), world_size, **kw) for rows,_ in s.plan()]
    hands = [np.bincount(labels[rows], minlength=len(counts)) for rows in parts]
    if not hands: return
    assert np.ptp(hands, axis=0).max() <= 1
    if remainder == 'keep':
        assert set(np.concatenate(parts)) == set(range(len(labels)))
        assert (np.sum(hands, axis=0) == max(counts)).all() and np.ptp(hands, axis=1).max() <= 1

@given(lengths_of, st.integers(1, 20), remainders, st.integers(0, 5))
def test_the_seed_and_the_epoch_decide(lengths, bs, remainder, seed):
    def flat(seed, epoch, **kw):
        sampler = BucketSampler(lengths, bs, remainder=remainder, seed=seed, **kw)
        return [(r.tolist(), w) for r,w in sampler.epoch(epoch)]
    assert flat(seed, 2) == flat(seed, 2)
    assert flat(seed, 1, shuffle=False) == flat(seed, 7, shuffle=False)
    widths = [w for _,w in flat(seed, 0, shuffle=False)]
    assert widths == sorted(widths, reverse=True)

def test_epochs_differ():
    s = BucketSampler([5]*100, bs=10)
    assert len({tuple(np.concatenate([r for r,_ in s.epoch(e)])) for e in range(20)}) == 20
    drop = BucketSampler(range(1, 14), bs=4, remainder='drop')
    left_out = {i for e in range(150) for i in set(range(13)) - set(np.concatenate([r for r,_ in drop.epoch(e)]))}
    assert left_out == set(range(13))                                           # not always the longest

@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 10),
       st.lists(st.integers(1, 70), min_size=1, max_size=5))
def test_only_the_given_widths(lengths, bs, widths):
    for rows,width in BucketSampler(lengths, bs, widths).epoch():
        assert width in widths and (width >= max(lengths[i] for i in rows) or width == max(widths))

@pytest.mark.parametrize('kw',
                         [dict(remainder='pad'), dict(bs=0), dict(rank=2, world_size=2), dict(balance=True),
                          dict(world_size=9)])
def test_wrong_settings(kw):
    with pytest.raises(TweetnbError): BucketSampler([1, 2, 3], **kw)

# --- a real Learner

class Echo(torch.nn.Module):
    "Scores that tell which tweet it was: the first token's id"
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1))
    def forward(self, ids, lengths): return torch.stack([ids[:,0].float(), lengths.float()], 1)*self.w

words = [f'w{i}' for i in range(101)]
texts = [' '.join([w]*(1 + i*7 % 23)) for i,w in enumerate(words)]
tok = TweetTokenizer.word(words, min_freq=1)
y = np.arange(101) % 2
ds = TweetDataset(texts, y, ['no', 'yes'], tok)
first = torch.tensor([ds.store[i][0] for i in range(101)]).float()

def learner(train, val=None, metrics=accuracy):
    dls = TweetDataLoaders(train, val or TweetDL(ds, bs=16), device=torch.device('cpu'))
    return Learner(dls, Echo(), metrics=metrics)

loaders = dict(sorted=dict(), shuffled=dict(shuffle=True), dropped=dict(shuffle=True, drop_last=True),
               filled=dict(remainder='fill'),
               filled_shuffled=dict(remainder='fill', shuffle=True), stratified=dict(shuffle=True, stratify=True),
               balanced=dict(shuffle=True, balance=True), few_widths=dict(widths=(8, 16, 23), shuffle=True),
               balanced_filled=dict(shuffle=True, balance=True, remainder='fill'))

@pytest.mark.parametrize('name', loaders)
@pytest.mark.parametrize('bs', [1, 16, 500])
def test_predictions_come_in_the_order_of_the_input(name, bs):
    dl = TweetDL(ds, bs=bs, **loaders[name])
    learn = learner(dl)
    with learn.no_bar(), learn.no_logging():
        for got in learn.get_preds(dl=dl, act=lambda o: o), learn.get_preds(ds_idx=0, act=lambda o: o):
            assert torch.equal(got[0][:,0], first) and torch.equal(got[1], ds.y)
        inp,preds,targs,dec,losses = learn.get_preds(dl=dl, act=lambda o: o, with_input=True, with_decoded=True,
                                                     with_loss=True)
    assert torch.equal(preds[:,0], first) and torch.equal(targs, ds.y) and len(dec) == 101
    assert torch.allclose(losses, torch.nn.functional.cross_entropy(preds, targs, reduction='none'))
    assert torch.equal(torch.stack([o[0] for o in inp[0]]).float(), first)
    assert inp[1].tolist() == ds.store.lengths.tolist()

def test_order_after_some_epochs_and_an_order_from_outside():
    dl = TweetDL(ds, bs=16, shuffle=True)
    for _ in range(3): list(dl)
    learn = learner(dl)
    with learn.no_bar(): assert torch.equal(learn.get_preds(dl=dl, act=lambda o: o)[0][:,0], first)
    assert dl.new().get_idxs().tolist() == dl.get_idxs().tolist()
    given = dl.new(get_idxs=lambda: np.arange(101))
    assert torch.equal(torch.cat([b[0][:,0] for b in given]).float(), first)

def test_filling_up_changes_shapes_and_nothing_else():
    plain,full = TweetDL(ds, bs=16), TweetDL(ds, bs=16, remainder='fill')
    assert {len(b[0]) for b in full} == {16}
    figures = []
    for val in plain, full:
        learn = learner(TweetDL(ds, bs=16), val, metrics=[skm_to_fastai(lambda y, p: (y == p).mean())])
        with learn.no_bar(), learn.no_logging(): figures.append(list(learn.validate()))
    assert figures[0] == pytest.approx(figures[1], rel=.02) and figures[0][1] == figures[1][1]
    real_rows = sum(int((b[2] >= 0).sum()) for b in full)
    assert real_rows == 101

def test_new_tweets_with_and_without_labels():
    learn = learner(TweetDL(ds, bs=16))
    table = pd.DataFrame({'text': texts[:40], 'label': ['yes', 'no']*19 + ['never seen', None]})
    for items,labelled in (texts[:40], False), (table[['text']], False), (table, True):
        dl = learn.dls.test_dl(items)
        with learn.no_bar(): preds,targs = learn.get_preds(dl=dl, act=lambda o: o)
        assert torch.equal(preds[:,0], first[:40]) and (targs is not None) == labelled
    assert targs.tolist() == [1, 0]*19 + [-100, -100]
    with learn.no_bar(): losses = learn.get_preds(dl=dl, with_loss=True)[2]
    assert losses[38:].tolist() == [0, 0] and (losses[:38] >= 0).all()
    assert len(learn.dls.test_dl([])) == 0

def test_labels_never_seen_do_not_count_in_training():
    some = TweetDataset(texts, np.where(y == 1, -100, 0), ['no', 'yes'], tok)
    for b in TweetDL(some, bs=8, stratify=True, shuffle=True): assert abs((b[2] == 0).sum() - (b[2] < 0).sum()) <= 2

def test_unlabelled_tweets_cannot_be_stratified():
    for kw in dict(stratify=True), dict(balance=True):
        with pytest.raises(TweetnbError, match='need labels'): TweetDL(TweetDataset(texts, None, ['a', 'b'], tok), **kw)

def test_two_processes_with_loaders():
    parts = [TweetDL(ds, bs=8, shuffle=True, stratify=True, rank=r, world_size=2) for r in range(2)]
    assert len(parts[0]) == len(parts[1])
    assert sorted(np.concatenate([p.get_idxs() for p in parts])) == list(range(101))
    for a,b in zip(*parts): assert a[0].shape[1] == b[0].shape[1] and abs(len(a[0]) - len(b[0])) <= 1

# --- labels

@pytest.mark.parametrize('labels', [[-1, 0, 1], ['-1', '0', '1'], [0, 2, 10], [False, True], ['no', 'yes']])
def test_labels_keep_the_values_of_the_table(labels):
    table = pd.DataFrame({'text': texts, 'label': [labels[i % len(labels)] for i in range(len(texts))]})
    dls = TweetDataLoaders.from_df(table, min_freq=1)
    assert dls.labels == labels and [type(o) for o in dls.labels] == [type(o) for o in labels]
    assert dls.c == len(labels) and dls.vocab[1] == labels
    for i, label in enumerate(labels):
        for form in label, str(label), np.array([label])[0]:
            assert dls.test_dl(pd.DataFrame({'text': ['w1'], 'label': [form]})).dataset.y.tolist() == [i]

def test_a_missing_label_is_not_the_word_for_it():
    values = pd.Series([None, 'nan', 'None', float('nan')], dtype=object)
    assert label_numbers(values, ['None', 'nan']).tolist() == [-100, 1, 0, -100]

def test_integers_with_a_missing_label():
    assert label_numbers(pd.Series([1, None, 0]), ['0', '1']).tolist() == [1, -100, 0]
    assert label_numbers(pd.Series(['1', None, '7']), [0, 1]).tolist() == [1, -100, -100]
    assert label_numbers(pd.Series([1, None, 0], dtype='Int64'), [0, 1]).tolist() == [1, -100, 0]

def test_labels_in_the_order_of_the_categories():
    moods = pd.Categorical(['sad', 'glad', 'sad'], ['sad', 'so-so', 'glad'])
    assert trained_labels(pd.DataFrame({'label': moods})) == ['sad', 'glad']
    assert trained_labels(pd.DataFrame({'label': [10, 9, 10]})) == [9, 10]

# --- the ways in

def test_what_a_fastai_learner_shows(monkeypatch):
    shown = []
    monkeypatch.setattr(block, 'display_df', shown.append)
    learn = learner(TweetDL(ds, bs=16))
    with learn.no_bar(): learn.show_results(max_n=3)
    learn.dls.show_batch(max_n=2)
    assert [list(o.columns) for o in shown] == [['text', 'tokens', 'label', 'predicted'], ['text', 'tokens', 'label']]
    assert [len(o) for o in shown] == [3, 2] and set(shown[0]['predicted']) <= {'no', 'yes'}

def test_a_learner_can_be_exported_and_loaded(tmp_path):
    from fastai.learner import load_learner
    learn = learner(TweetDL(ds, bs=16))
    learn.path = tmp_path
    learn.export('model.pkl')
    again = load_learner(tmp_path/'model.pkl')
    with learn.no_bar(), again.no_bar():
        assert again.predict(texts[3])[2].tolist() == learn.predict(texts[3])[2].tolist()

def test_hub_datasets_by_name(tmp_path, monkeypatch):
    datasets = pytest.importorskip('datasets')
    table = pd.DataFrame({'text': texts, 'label': [i % 3 for i in range(len(texts))]})
    for split, part in ('train', table), ('validation', table[:20]), ('test', table[:10]):
        part.to_csv(tmp_path/f'{split}.csv', index=False)
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path/'cache')
    dls = TweetDataLoaders.from_hf(str(tmp_path), min_freq=1)
    assert (len(dls.train_ds), len(dls.valid_ds), dls.c) == (101, 20, 3)
    with pytest.raises(TweetnbError, match='cannot be loaded.*pass a Dataset'):
        TweetDataLoaders.from_hf('tweetnb/no-such-dataset')

@pytest.mark.parametrize('option, answer', [('label_delim', 'label_delim is 1'), ('valid_col', 'column split'),
                                            ('seq_len', 'max_len'), ('is_lm', 'pretrain')])
def test_other_options_of_fastai_are_explained(option, answer):
    table = pd.DataFrame({'text': texts, 'label': ['a', 'b', 'c']*33 + ['a', 'b']})
    with pytest.raises(TweetnbError, match=answer): TweetDataLoaders.from_df(table, **{option: 1})

def test_the_data_block_gives_what_the_loaders_give():
    df = read_tweets(sample_path('tweets.csv'))
    df = df.assign(split=np.where(np.arange(len(df)) % 5 == 0, 'valid', 'train'))
    cleaner = Cleaner.preset('sentiment140')
    one = TweetDataLoaders.from_df(df, cleaner=cleaner, bs=32, widths=(8, 16, 32, 64))
    data_block = DataBlock(blocks=(TweetBlock(cleaner=cleaner, min_freq=2, widths=(8, 16, 32, 64)), CategoryBlock),
                           get_x=ColReader('text'), get_y=ColReader('label'), splitter=split_indices)
    two = data_block.dataloaders(df, bs=32, val_bs=64, drop_last=False)
    assert one.vocab == [one.tokenizer.vocab, list(two.vocab[1])] and one.vocab[0] == two.vocab[0]
    for a,b in zip(one, two):
        assert len(a) == len(b)
        for x,z in zip(a, b): assert all(torch.equal(u, v) for u,v in zip(x, z))

def test_no_tweet_is_cut_by_a_width():
    df = pd.DataFrame({'text': [f'a b{i} c'[:7 - i%2*2] for i in range(40)], 'label': ['x', 'y']*20})
    dls = TweetDataLoaders.from_df(df, max_len=64, min_freq=1)
    assert dls.train.one_batch()[0].shape[1] <= 3
    assert dls.test_dl(['a b '*20]).one_batch()[1].tolist() == [40]

# --- real tweets

@real
@pytest.mark.parametrize('file,max_len,options', [('emojify/dev.txt.gz', 32, {}),
                                                  ('emojify/dev.txt.gz', 48, dict(policy='all')),
                                                  ('sentiment140/training.1600000.processed.noemoticon.head20k.csv',
                                                   128, {})])
def test_padding_of_real_tweets(file, max_len, options):
    path = data_path(file)
    if not path.exists(): pytest.skip(f'needs {file}')
    texts = read_tweets(path, limit=20_000, **options)['text']
    lengths = TweetTokenizer.word(texts).encode(texts, max_len=max_len).lengths
    six = find_widths(lengths, 6)
    least = 1 - lengths.sum()/to_width(lengths, six).sum()                       # a tweet at the width that holds it
    for bs in 32, 64:
        assert padding_share(lengths, BucketSampler(lengths, bs).epoch()) <= .10
        assert padding_share(lengths, BucketSampler(lengths, bs, six).epoch()) <= min(.20, least + .01)


@pytest.mark.parametrize('kw', [dict(shuffle=False), dict(), dict(remainder='drop'), dict(remainder='fill')])
def test_an_epoch_planned_in_pieces_has_every_tweet_once(kw):
    lengths = np.random.default_rng(0).integers(1, 40, 105_000)
    seen = []
    for rank in 0, 1:
        sampler = BucketSampler(lengths, 64, [10, 20, 40], piece=30_000, rank=rank, world_size=2, **kw)
        steps = list(sampler.epoch(1))
        assert len(sampler.pieces) == 4 and len(steps) == len(sampler)
        assert all(lengths[rows].max() <= width for rows, width in steps)
        assert kw != dict(remainder='fill') or all(len(rows) == 64 for rows, _ in steps)
        seen += [rows for rows, _ in steps]
    rows = np.concatenate(seen)
    left_out = 105_000 - len(np.unique(rows))
    assert left_out == 0 or kw == dict(remainder='drop') and left_out < 4*128
    assert padding_share(lengths, steps) < .3


def test_pieces_are_other_ones_in_each_epoch():
    sampler = BucketSampler(np.full(102_400, 5), 64, piece=30_000)
    first, second = (np.concatenate([rows for rows, _ in list(sampler.epoch(n))[:40]]) for n in (0, 1))
    assert set(first) != set(second) and len({o//4096 for o in first}) < 10
