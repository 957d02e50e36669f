"What a notebook cell cannot hold: the facts of the real data, any text at all, speed, and the other library's opinion"
import json, re, time

import numpy as np
import pandas as pd
import pytest
from conftest import real_tweets
from hypothesis import given, settings, strategies as st

from tweetnb.data.audit import (audit, class_balance, duplicate_key, find_conflicts, find_damage, find_duplicates,
                                find_hints, find_label_marks,
                           find_leaks, find_near_duplicates, join_splits, near_pairs, text_lengths)
from tweetnb.core import TweetnbError
from tweetnb.data.read import read_tweets



# --- the facts of the data -------------------------------------------------------------------------------------------

@pytest.mark.parametrize('exact,copies,conflicts', [(True, 249, 10), (False, 410, 14)])
def test_arabizi_duplicates_and_conflicts(exact, copies, conflicts):
    df = real_tweets('arabizi', 'Train.csv')
    assert (find_duplicates(df, exact)['rows']-1).sum() == copies
    assert len(find_conflicts(df, exact)) == conflicts

def test_tunizi_in_arabizi_training():
    tunizi = real_tweets('arabizi', 'TUNIZI-Dataset.txt')
    df = join_splits({'train': real_tweets('arabizi', 'Train.csv'), 'test': tunizi})
    # Train.csv as it is: it has no edges to strip
    stripped = df.assign(text=df['text'].where(df['split'] == 'train', df['text'].str.strip()))
    assert find_leaks(stripped, exact=True)['rows'].tolist() == [1037]
    same = find_leaks(df).iloc[0]
    assert same['rows'] == 1161 and 0 < same['other_label'] < same['rows']/10

def test_sentiment140_texts_in_both_files():
    both = {l: real_tweets('sentiment140', f'{l}.txt.gz') for l in ('positive', 'negative')}
    assert len(find_conflicts(join_splits(both), exact=True)) == 16
    for df in both.values(): df['text'] = df['text'].str.strip()
    assert len(find_conflicts(join_splits(both), exact=True)) == 17
    assert len(find_conflicts(join_splits(both))) == 107

def test_imdb_leaks():
    leaks = find_leaks(real_tweets('imdb', 'aclImdb_50k.csv.gz'))
    assert leaks[['seen', 'split', 'rows', 'exact', 'other_label']].values.tolist() == [['train', 'test', 123, 123, 0]]

@pytest.mark.parametrize('task,rows', [('emoji', [220, 81, 39]), ('sentiment', [14, 0, 0])])
def test_tweeteval_leaks(task, rows):
    df = real_tweets('tweeteval', task)
    leaks = find_leaks(df)
    assert leaks['rows'].tolist() == rows
    # more than half of what leaks into the test is labelled otherwise there
    if task == 'emoji': assert leaks['other_label'].tolist() == [7, 48, 28]

def test_published_emoji_predictions():
    df = real_tweets('emojify', 'results_emoji.csv', text='tweets', label='y_true', keep_empty=True)
    assert text_lengths(df).loc['all', 'blank'] == 4
    assert (find_duplicates(df, exact=True)['rows']-1).sum() == 1285
    assert len(find_conflicts(df, exact=True)) == 12

def test_tweeteval_left_half_of_its_red_hearts():
    df = real_tweets('tweeteval', 'emoji')
    found = find_damage(df)
    assert found.loc['part of an emoji', 'rows'] > 19000
    hearts = df['text'].str.contains(r'(?:^|\s)\ufe0f')
    assert df['label'][hearts].value_counts(normalize=True).head(2).sum() > .99      # of twenty labels

def test_celebrities_thank_the_same_people():
    tables = {s: real_tweets('authors', f'{s}_tweets.csv', label='name') for s in ('train', 'test')}
    found = audit(tables)
    assert found.leaks['rows'].tolist() == [33] and not found.ok
    assert '@apachearrow' in found.hints['token'].tolist()

def test_sentiment140_training_file():
    found = audit(real_tweets('sentiment140', 'training.1600000.processed.noemoticon.head20k.csv'))
    assert found.damage.loc['replacement character U+FFFD', 'rows'] == 93
    assert any('sorted' in p.what for p in found.problems)

def test_neutral_is_never_seen_in_training():
    train = real_tweets('sentiment140', 'training.1600000.processed.noemoticon.head20k.csv')
    found = audit({'train': train, 'test': real_tweets('sentiment140', 'testdata.manual.2009.06.14.csv')})
    assert [p.examples for p in found.problems if 'never occur' in p.what] == [[2]]
    assert json.loads(json.dumps(found.to_dict()))['problems'] and '| 2 |' in found.to_markdown()

def test_imdb_is_damaged_and_sorted():
    df = real_tweets('imdb', 'aclImdb_50k.csv.gz')
    damage = find_damage(df)['rows']
    assert damage['HTML tag'] == 29198 and damage['C1 control character'] == 1571


# --- any text at all -------------------------------------------------------------------------------------------------

texts = st.lists(st.text(max_size=30) | st.sampled_from(['good morning', 'Good  MORNING!', '@bob hi', '😂', ':-)', '',
                                                         'a|b\nc', '\ud800x']), min_size=1, max_size=25)

@settings(max_examples=150, deadline=None)
@given(texts)
def test_any_text_has_a_key(ts):
    key = duplicate_key(ts)
    assert len(key) == len(ts) and key.notna().all()
    assert all((k != '') or not t.strip() for t,k in zip(ts, key))
    assert duplicate_key(ts + ts).tolist() == key.tolist()*2
    assert duplicate_key(ts[::-1]).tolist() == key.tolist()[::-1]

@settings(max_examples=150, deadline=None)
@given(st.text('abcdefgxyz0379😂é', min_size=1, max_size=30),
       st.sampled_from(['!', ' ', '... ', ' #', '\n', ' "', '️']), st.integers(0, 30))
def test_key_ignores_case_space_and_punctuation(t, mark, at):
    other = f'RT @bob: {t[:at]}{mark}{t[at:].upper()} https://t.co/a1b @ana'
    assert duplicate_key([t]).tolist() == duplicate_key([other]).tolist()

@settings(max_examples=60, deadline=None)
@given(texts, st.integers(0, 2**16), st.booleans(), st.booleans())
def test_any_table_has_an_audit(ts, seed, labelled, parted):
    rng = np.random.default_rng(seed)
    ts = [t.replace('\ud800', '?') for t in ts]
    df = pd.DataFrame({'text': pd.Series(ts, dtype='str')})
    if labelled: df['label'] = pd.Categorical(rng.choice(['a', 'b', '😂', None], len(df)))
    if parted: df['split'] = rng.choice(['train', 'test', 'dev'], len(df))
    before = df.copy(deep=True)
    found = audit(df)
    pd.testing.assert_frame_equal(df, before)
    assert (found.duplicates['rows']-1).sum() == len(df) - duplicate_key(df['text']).nunique()
    if labelled: assert found.balance['rows'].sum() == df['label'].notna().sum()
    if parted:
        for c in 'other_label', 'exact': assert (found.leaks[c] <= found.leaks['rows']).all()
    blocks = [b.splitlines() for b in found.to_markdown().split('\n\n') if b.startswith('|')]
    for lines in blocks: assert len({len(re.findall(r'(?<!\\)\|', l)) for l in lines}) == 1  # no text breaks a table
    assert str(found) and found.to_dict()['rows'] == len(df)

@pytest.mark.parametrize('make', [lambda t: pd.Series(t, dtype=object), lambda t: pd.Series(t, dtype='string'),
                                  lambda t: pd.Series(t, dtype='str'), list, tuple, np.array])
def test_any_kind_of_column(make):
    assert duplicate_key(make(['Good morning!', '@ana good morning'])).tolist() == ['goodmorning']*2

def test_index_is_kept():
    assert duplicate_key(pd.Series(['a', 'b'], index=[7, 3])).index.tolist() == [7, 3]

def test_index_of_the_table_does_not_matter():
    df = pd.DataFrame({'text': ['so sad', 'So sad!', 'glad'], 'label': ['0', '1', '1'],
                       'split': ['train', 'test', 'test']}, index=[5, 5, 9])
    found = audit(df)
    assert found.leaks['other_label'].tolist() == [1] and len(found.conflicts) == 1

@pytest.mark.parametrize('bad', [[None, 'a'], ['a', float('nan')], [1, 2], pd.Series(['a', None])])
def test_texts_that_are_none(bad):
    with pytest.raises(TweetnbError): duplicate_key(bad)


# --- checks ----------------------------------------------------------------------------------------------------------

def test_a_key_column_is_used_and_not_required():
    df = pd.DataFrame({'text': ['a b', 'A  B'], 'label': ['x', 'y']})
    keyed = df.assign(duplicate_key=duplicate_key(df['text']))
    pd.testing.assert_frame_equal(find_conflicts(df), find_conflicts(keyed))

def test_unlabelled_test_rows_are_no_error():
    train = pd.DataFrame({'text': ['so sad', 'so glad'], 'label': ['0', '1']})
    found = audit({'train': train, 'test': pd.DataFrame({'text': ['so sad', 'meh']})})
    assert found.leaks.iloc[0][['rows', 'other_label']].tolist() == [1, 0]
    assert [p.severity for p in found.problems if 'no label' in p.what] == ['note']
    some = audit(train.assign(label=['0', None]))
    assert [p.severity for p in some.problems if 'no label' in p.what] == ['error']

def test_labels_of_any_kind():
    for labels in ([0, 1, 1], ['0', '1', '1'], [True, False, False], pd.Categorical(['a', 'b', 'b']),
                   pd.Categorical([-1, 4, 4])):
        df = pd.DataFrame({'text': ['one', 'two', 'Two'], 'label': labels})
        assert class_balance(df)['rows'].tolist() == [2, 1] and len(audit(df).conflicts) == 0
        json.dumps(audit(df).to_dict())

def test_rejected_rows_are_told():
    df = pd.DataFrame({'text': ['one']})
    df.attrs['read'] = {'rejected': {'no text': 4}}
    assert str(audit(df).problems[0]) == 'note: 4 rows were rejected by the reader: no text'

def test_planted_footer_is_found():
    rng = np.random.default_rng(0)
    words = np.array('the a cat dog rain sun day night run sleep eat'.split())
    df = pd.DataFrame({'text': [' '.join(rng.choice(words, 8)) for _ in range(2000)],
                       'label': pd.Categorical(['bot', 'human']*1000)})
    assert len(find_hints(df)) == 0
    df.loc[df['label'] == 'bot', 'text'] += ' ¶'
    hint = find_hints(df).iloc[0]
    assert hint[['token', 'label', 'rows', 'purity', 'coverage']].tolist() == ['¶', 'bot', 1000, 1, 1]
    assert any('¶' in p.what and p.severity == 'warning' for p in audit(df).problems)

def test_a_rare_class_is_no_proof():
    df = pd.DataFrame({'text': ['rain today']*98 + ['sun today']*2, 'label': ['sad']*98 + ['glad']*2})
    assert len(find_hints(df)) == 0  # nearly every token is 'sad': that says nothing

def test_emotion_words_are_no_emoji_labels():
    df = pd.DataFrame({'text': ['haha 😂', *'abcd'], 'label': ['joy', 'anger', 'fear', 'optimism', '-1']})
    assert len(find_label_marks(df)) == 0

def test_emojify_emoji_are_gone():
    df = real_tweets('emojify', 'dev.txt.gz')
    assert find_label_marks(df)['own_rows'].sum() == 0
    spoilt = df.assign(text=df['text'] + ' 😂')
    tears = find_label_marks(spoilt).set_index('label').loc['face_with_tears_of_joy']
    assert tears['own_rows'] == (df['label'] == 'face_with_tears_of_joy').sum()


# --- near-duplicates -------------------------------------------------------------------------------------------------

def jaccard(a, b): a,b = ({s[i:i+5] for i in range(len(s)-4)} for s in (a, b)); return len(a & b)/len(a | b)

def mutated(n, seed=0):
    "`n` made-up keys, a third of them a few letters away from another"
    rng = np.random.default_rng(seed)
    words = np.array([''.join(rng.choice(list('abcdefghijklmnop'), rng.integers(2, 8))) for _ in range(3000)])
    keys = [''.join(rng.choice(words, rng.integers(4, 16))) for _ in range(n*2//3)]
    for k in rng.choice(keys, n-len(keys)):
        at = rng.integers(0, len(k))
        keys.append(k[:at] + 'zq'[:rng.integers(0, 3)] + k[at+rng.integers(0, 3):])
    return pd.unique(np.array(keys, dtype=object))

@pytest.mark.parametrize('threshold', [0.6, 0.8, 0.95])
def test_near_pairs_beside_all_pairs(threshold):
    keys = mutated(500)
    truth = {(i, j) for i in range(len(keys)) for j in range(i+1, len(keys)) if jaccard(keys[i], keys[j]) >= threshold}
    i,j,sim = near_pairs(keys, threshold)
    found = set(zip(i.tolist(), j.tolist()))
    assert found <= truth and len(found) >= 0.99*len(truth) > (50 if threshold < 0.9 else 2)
    assert all(s == jaccard(keys[a], keys[b]) for a,b,s in zip(i, j, sim))

def test_near_pairs_do_not_depend_on_blocks():
    keys = mutated(500, seed=1)
    for block in (1, 1000, 10**9):
        for a,b in zip(near_pairs(keys, 0.8), near_pairs(keys, 0.8, block=block)): assert (a == b).all()

@pytest.mark.parametrize('keys', [[], ['a'], ['abcd', 'abce'], ['abcde', 'abcdf'], ['', 'abcdefgh']])
def test_near_pairs_of_next_to_nothing(keys): assert len(near_pairs(keys, 0.8)[0]) == 0

def test_near_pairs_beside_datasketch():
    "Another implementation finds the same pairs"
    datasketch = pytest.importorskip('datasketch')
    df = real_tweets('sentiment140', 'positive.txt.gz', limit=8000)
    keys = [k for k in duplicate_key(df['text']).unique() if len(k) >= 5]
    hashes = datasketch.MinHash.bulk([[k[i:i+5].encode() for i in range(len(k)-4)] for k in keys], num_perm=56)
    lsh = datasketch.MinHashLSH(params=(14, 4), num_perm=56)
    for i,m in enumerate(hashes): lsh.insert(i, m)
    pairs = {(min(i, j), max(i, j)) for i,m in enumerate(hashes) for j in lsh.query(m) if i != j}
    theirs = {(i, j) for i,j in pairs if jaccard(keys[i], keys[j]) >= 0.8}
    i,j,_ = near_pairs(keys, 0.8)
    assert len(theirs) > 5 and len(theirs ^ set(zip(i.tolist(), j.tolist()))) <= 1

def test_near_duplicates_of_100_000_tweets_take_seconds():
    keys = mutated(100_000)
    start = time.perf_counter()
    assert len(near_pairs(keys, 0.8)[0]) > 10_000
    assert time.perf_counter()-start < 60  # about 3 s; the bar is two minutes

def test_a_crowd_of_copies_stays_linear():
    "Ten thousand texts that are all nearly the same must not make fifty million pairs"
    df = pd.DataFrame({'text': [f'please retweet to win this wonderful phone, friend number {i}'
                                for i in range(10_000)]})
    start = time.perf_counter()
    found = find_near_duplicates(df)
    assert time.perf_counter()-start < 30
    assert len(found) <= 80_000 and len(set(found['row']) | set(found['other'])) > 9_900  # all of them are in some pair


# --- speed -----------------------------------------------------------------------------------------------------------

def test_keys_of_a_million_texts():
    df = real_tweets('sentiment140', 'positive.txt.gz')
    once,many = duplicate_key(df['text']),duplicate_key(pd.concat([df['text']]*20, ignore_index=True))
    assert (np.asarray(many) == np.tile(np.asarray(once), 20)).all()


def test_the_language_of_each_text():
    pytest.importorskip('lingua', reason="needs pip install 'tweetnb[languages]'")
    texts = ['what a lovely morning it is', 'I am so tired of all this rain and of trains that never come',
             'je suis tellement fatigué', 'صباح الخير',
             '今天天气很好', 'สวัสดีครับ', 'आज मौसम बहुत अच्छा है', '😂 @slim', 'http://t.co/x']
    df = pd.DataFrame({'text': texts}, index=range(5, 14))
    found = audit(df, languages=True)
    assert found.df['language'].tolist() == ['en', 'en', 'fr', 'ar', 'zh', 'th', 'hi', 'unknown', 'unknown']
    assert found.languages['rows'].to_dict()['en'] == 2 and 'languages' not in audit(df).tables
    assert "5 rows are in other languages than 'en'" in str(found) and '### Languages' in found.to_markdown()
    assert '\u2068صباح الخير\u2069' in found.to_markdown()
