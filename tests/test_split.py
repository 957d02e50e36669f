"What a notebook cell cannot hold: any table at all, the real data, and the time it takes"
import copy, json, time

import numpy as np
import pandas as pd
import pytest
from conftest import real_tweets
from hypothesis import assume, given, settings, strategies as st

from tweetnb.data.audit import duplicate_key, find_near_duplicates
from tweetnb.core import TweetnbError
from tweetnb.data.read import read_tweets
from tweetnb.data.split import drop_leaks, kfold_tweets, split_indices, split_tweets


def crossing(df, column='split', by=None):
    "The number of texts (or authors) that stand on more than one side"
    key = duplicate_key(df['text']) if by is None else df[by]
    return int((df.groupby(key)[column].nunique() > 1).sum())

def made(n, texts, labels, authors=None, seed=0):
    "`n` rows of that many texts, labels and authors, some of them spelt otherwise"
    rng = np.random.default_rng(seed)
    text = [f"{'So' if rng.random() < .5 else 'so'} tweet {rng.integers(texts)}{'!'*rng.integers(3)}" for _ in range(n)]
    df = pd.DataFrame({'text': text, 'label': pd.Categorical([f'class {int(l)}' for l in rng.zipf(2, n) % labels])})
    return df if authors is None else df.assign(author=[f'@{a}' for a in rng.integers(0, authors, n)])


# --- any table -------------------------------------------------------------------------------------------------------

shares = st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.3])

@settings(max_examples=80, deadline=None)
@given(st.integers(40, 400), st.integers(20, 400), st.integers(1, 12), shares, st.just(0) | shares, st.integers(0, 99))
def test_every_row_is_in_one_split_and_no_text_in_two(n, texts, labels, valid, test, seed):
    df = made(n, texts, labels, seed=seed)
    try: out = split_tweets(df, valid=valid, test=test, seed=seed)
    except TweetnbError as e: assert 'small enough' in str(e); assume(False)
    assert len(out) == n and out['split'].notna().all()
    assert list(out['split'].cat.categories) == ['train', 'valid', 'test']
    assert crossing(out) == 0
    assert set(out['label'][out['split'] == 'train']) == set(df['label'])  # no class that training never sees
    pd.testing.assert_frame_equal(out[['text', 'label']], df)
    pd.testing.assert_frame_equal(out, split_tweets(df, valid=valid, test=test, seed=seed))
    assert out.attrs['split']['rows'] == out['split'].value_counts(sort=False).to_dict()

@settings(max_examples=80, deadline=None)
@given(st.integers(100, 600), st.integers(1, 12), shares, st.just(0) | shares, st.integers(0, 99))
def test_shares_of_each_class_are_near(n, labels, valid, test, seed):
    df = made(n, 10**9, labels, seed=seed)  # hardly a text twice
    out = split_tweets(df, valid=valid, test=test, seed=seed)
    biggest = duplicate_key(df['text']).value_counts().max()
    rows = out.groupby('label', observed=True)['split'].value_counts().unstack(fill_value=0)
    total = rows.sum(axis=1)
    for s,share in (('valid', valid), ('test', test)): assert ((rows[s] - share*total).abs() <= 1 + biggest).all()
    alone = int((total == 1).sum())
    assert abs(rows['valid'].sum() - valid*n) <= 2 + labels*biggest/2 + alone

@settings(max_examples=80, deadline=None)
@given(st.integers(60, 400), st.integers(40, 400), st.integers(1, 6), st.integers(10, 60), st.integers(0, 99))
def test_authors_stay_on_one_side(n, texts, labels, authors, seed):
    df = made(n, texts, labels, authors, seed)
    out = split_tweets(df, valid=0.3, by='author', same_text=False, seed=seed)
    assert crossing(out, by='author') == 0
    try: both = split_tweets(df, valid=0.3, by='author', seed=seed)
    except TweetnbError: return  # all hang together by texts that they share
    assert crossing(both, by='author') == crossing(both) == 0

@settings(max_examples=80, deadline=None)
@given(st.integers(40, 300), st.integers(30, 300), st.integers(1, 6), st.integers(2, 7), st.integers(0, 99))
def test_folds(n, texts, labels, k, seed):
    df = made(n, texts, labels, seed=seed)
    out = kfold_tweets(df, k=k, seed=seed)
    assert set(out['fold']) <= set(range(k)) and crossing(out, 'fold') == 0
    biggest = duplicate_key(df['text']).value_counts().max()
    assert (out['fold'].value_counts().reindex(range(k), fill_value=0) - n/k).abs().max() <= 2*biggest + labels
    held = [split_indices(out, fold=i) for i in sorted(set(out['fold']))]
    assert sorted(np.concatenate([v for _,v in held])) == list(range(n))
    assert all(len(t)+len(v) == n and not set(t) & set(v) for t,v in held)

@settings(max_examples=40, deadline=None)
@given(st.integers(40, 200), st.integers(20, 200), st.integers(0, 99), st.booleans())
def test_a_given_split_is_respected(n, texts, seed, has_valid):
    df = made(n, texts, 3, seed=seed)
    df['split'] = np.random.default_rng(seed).choice(['train', 'train', 'train', 'test'] + ['dev']*has_valid, n)
    assume((df['split'] == 'train').sum() > 20 and ('dev' in set(df['split'])) == has_valid)
    try: out = split_tweets(df, valid=0.3, test=0.2, seed=seed)
    except TweetnbError as e: assert 'small enough' in str(e) or 'may be moved' in str(e); return
    assert ((out['split'] == 'test') == (df['split'] == 'test')).all()
    if has_valid: assert ((out['split'] == 'valid') == (df['split'] == 'dev')).all()
    else:  # what we cut off ourselves knows neither side
        key = duplicate_key(df['text'])
        assert not key[out['split'] == 'valid'].isin(key[out['split'] != 'valid']).any()
    clean = drop_leaks(out)
    assert crossing(clean) == 0 and len(clean) + sum(clean.attrs['drop_leaks'].values()) == n
    assert (clean['split'] == 'test').sum() == (df['split'] == 'test').sum()

@pytest.mark.parametrize('rows', [1, 2, 3])
def test_small_classes(rows):
    "A class of one text is trained on; one of two or three is never only tested"
    df = pd.concat([made(200, 10**9, 1), pd.DataFrame({'text': [f'rare {i}' for i in range(rows)], 'label': 'rare'})],
                   ignore_index=True)
    for seed in range(20):
        out = split_tweets(df, valid=0.3, test=0.3, seed=seed)
        mine = out['split'][out['label'] == 'rare']
        assert (mine == 'train').any()
        report = out.attrs['split']
        for s in ('valid', 'test'):
            assert (mine == s).any() or any(t.startswith(f'{s} has no rows of rare') for t in report['notes'])

def test_a_class_of_one_text_sent_three_times_is_trained_on():
    df = pd.concat([made(100, 10**9, 1), pd.DataFrame({'text': ['rare', 'Rare', 'rare!'], 'label': 'rare'})],
                   ignore_index=True)
    assert all((split_tweets(df, valid=0.4, seed=s)['split'][-3:] == 'train').all() for s in range(20))

def test_groups_larger_than_a_split():
    df = pd.DataFrame({'text': ['happy easter']*50 + [f'tweet {i}' for i in range(50)]})
    out = split_tweets(df, valid=0.1)
    assert out.attrs['split']['rows'] == {'train': 90, 'valid': 10, 'test': 0} and crossing(out) == 0

def test_sizes_that_cannot_be_kept_are_told():
    df = pd.DataFrame({'text': [f'tweet {i}' for i in range(90)], 'author': ['ana', 'bob', 'cleo']*30})
    report = split_tweets(df, valid=0.2, by='author').attrs['split']
    assert report['rows'] == {'train': 60, 'valid': 30, 'test': 0}
    assert 'valid has 30 rows instead of 18: groups are not cut, the largest has 30' in report['notes']
    with pytest.raises(TweetnbError, match='no group of rows is small enough'): split_tweets(df, valid=0.1, by='author')

def test_without_labels_and_with_missing_ones():
    df = made(100, 10**9, 2)
    assert 'not stratified' in split_tweets(df[['text']]).attrs['split']['how']
    df.loc[::2, 'label'] = None
    out = split_tweets(df, valid=0.2)
    assert out.groupby(out['label'].isna())['split'].apply(lambda s: (s == 'valid').sum()).tolist() == [10, 10]

def test_missing_authors_are_strangers():
    df = made(100, 10**9, 2).assign(author=None)
    assert split_tweets(df, valid=0.2, by='author').attrs['split']['rows']['valid'] == 20

def test_equal_texts_may_be_cut_where_that_is_asked():
    df = pd.DataFrame({'text': ['same']*100})
    assert split_tweets(df, valid=0.2, same_text=False).attrs['split']['rows'] == {'train': 80, 'valid': 20, 'test': 0}

def test_near_duplicates_stay_together():
    stories = [f'{"very "*(i%2)}long story about the number {i//2*7919} and nothing else' for i in range(200)]
    df = pd.DataFrame({'text': stories})
    out = split_tweets(df, valid=0.2, near=0.7)
    near = find_near_duplicates(out, 0.7)
    assert len(near) >= 100 and near['same_split'].all()

def test_report_is_plain_and_travels():
    out = split_tweets(made(100, 10**9, 3), valid=0.2)
    report = out.attrs['split']
    assert json.loads(json.dumps(report)) == report and copy.deepcopy(report) is report
    assert out[:10].attrs['split'] is report
    assert repr(report).startswith('100 rows: train 80 (80.0%), valid 20 (20.0%)\n'
                                   'stratified by label; equal texts stay together; seed 42')
    assert report.table[['train', 'valid']].sum().tolist() == [80, 20]

@pytest.mark.parametrize('options,problem',
                         [(dict(valid=1.5), 'neither a share'), (dict(valid=100), 'neither a share'),
                          (dict(valid=.5, test=.5), 'leave nothing for training'),
                          (dict(by='user'), "no column 'user'"), (dict(valid=-.1), 'neither a share'),
                          (dict(near=7), 'threshold')])
def test_bad_wishes(options, problem):
    with pytest.raises(TweetnbError, match=problem): split_tweets(made(100, 10**9, 2), **options)

def test_nothing_to_split():
    with pytest.raises(TweetnbError, match='no rows to split'): split_tweets(made(10, 9, 2)[:0])
    with pytest.raises(TweetnbError, match="no column 'text'"): split_tweets(pd.DataFrame({'tweet': ['a']}))


# --- real data -------------------------------------------------------------------------------------------------------

def test_sentiment140_comes_out_shuffled():
    df = real_tweets('sentiment140', 'training.1600000.processed.noemoticon.head20k.csv')
    assert (np.diff(df['label'].cat.codes) != 0).sum() == 1
    out = split_tweets(df, valid=0.05)
    assert out.attrs['split']['rows'] == {'train': 19000, 'valid': 1000, 'test': 0} and crossing(out) == 0
    train,valid = split_indices(out)
    assert 9000 < (np.diff(out['label'].cat.codes.to_numpy()[train]) != 0).sum() < 10000  # every second row or so
    assert out['label'].iloc[valid].value_counts().tolist() == [500, 500]

def test_sentiment140_by_user():
    df = real_tweets('sentiment140', 'training.1600000.processed.noemoticon.head20k.csv')
    out = split_tweets(df, valid=0.1, test=0.1, by='user')
    assert out.attrs['split']['rows'] == {'train': 16000, 'valid': 2000, 'test': 2000}
    assert crossing(out) == crossing(out, by='user') == 0

def test_emojify_with_a_thousand_classes():
    df = real_tweets('emojify', 'dev.txt.gz')
    out = split_tweets(df, valid=0.1, test=0.1)
    table = out.attrs['split'].table
    assert crossing(out) == 0 and (table['train'] > 0).all()
    assert abs(table['valid'].sum()/len(df) - 0.1) < 0.002 and abs(table['test'].sum()/len(df) - 0.1) < 0.002
    big = table[table.sum(axis=1) > 500]
    assert ((big['valid']/big.sum(axis=1) - 0.1).abs() < 0.01).all()

def test_arabizi_ten_percent():
    out = split_tweets(real_tweets('arabizi', 'Train.csv'), valid=0.1)
    assert out.attrs['split']['rows'] == {'train': 63000, 'valid': 7000, 'test': 0} and crossing(out) == 0

def test_imdb_keeps_its_test():
    out = split_tweets(real_tweets('imdb', 'aclImdb_50k.csv.gz'), valid=0.1)
    assert out.attrs['split']['rows'] == {'train': 22500, 'valid': 2500, 'test': 25000}
    assert any(t.startswith('123 rows of test also occur in train') for t in out.attrs['split']['notes'])
    assert crossing(drop_leaks(out)) == 0

def test_tweeteval_keeps_its_three():
    df = real_tweets('tweeteval', 'sentiment')
    assert split_tweets(df).attrs['split']['rows'] == {'train': 45615, 'valid': 2000, 'test': 12284}

def test_100_000_rows_take_about_a_second():
    df = pd.concat([real_tweets('sentiment140', f'{l}.txt.gz') for l in ('positive', 'negative')], ignore_index=True)
    start = time.perf_counter()
    out = split_tweets(df, valid=0.1, test=0.1)
    assert time.perf_counter()-start < 5  # 0.3 s on an idle core
    assert len(df) == 100_000 and crossing(out) == 0
