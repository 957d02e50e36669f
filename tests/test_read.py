"""Tests of reading too large for a notebook cell: real files and their counts, a plain-loop oracle, fuzzing, memory"""
import gzip, json, random, subprocess, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import real_path
from hypothesis import HealthCheck, given, settings, strategies as st

from tweetnb.core import TweetnbError, data_path
from tweetnb.data.read import READERS, iter_tweets, read_tweets, sniff_format
from tweetnb.data.textio import ReadReport


def adds_up(report, rows=True):
    assert report['read'] == report['kept'] + sum(report['rejected'].values())
    if not rows: return
    assert len(report.rejected_rows()) == sum(report['rejected'].values())
    assert len(report.noted_rows()) == sum(report['noted'].values())
    json.dumps(report)

def is_table(df, rows=True):
    adds_up(df.attrs['read'], rows)
    assert len(df) == df.attrs['read']['kept'] and isinstance(df.index, pd.RangeIndex)
    assert df.columns[0] == 'text' and df['text'].notna().all() and df.columns.is_unique
    if 'label' in df:
        assert df['label'].notna().all()
        if df['label'].dtype == 'Float64': return          # fractions are numbers, not classes
        assert {type(c) for c in df['label'].cat.categories.tolist()} in ({str}, {int})


# ---- every count of the data's README, on the real files ----

FILES = { # file: format, rows read, kept, labels (or how many)
    'emojify/original_head.txt': ('emojifydata', 4, 3,
                                  {'face_with_tears_of_joy': 1, 'purple_heart': 1, 'weary_face': 1}),
    'emojify/dev.txt.gz': ('emojifydata', 83_010, 76_484, 973),
    'emojify/test.txt.gz': ('emojifydata', 83_011, 76_339, 953),
    'emojify/results_emoji.csv': ('csv', 10_000, 9_996, 5),
    'sentiment140/training.1600000.processed.noemoticon.head20k.csv':
        ('sentiment140', 20_000, 20_000, {0: 9_999, 4: 10_001}),
    'sentiment140/testdata.manual.2009.06.14.csv': ('sentiment140', 498, 498, {0: 177, 2: 139, 4: 182}),
    'sentiment140/positive.txt.gz': ('lines', 50_000, 50_000, {'positive': 50_000}),
    'sentiment140/negative.txt.gz': ('lines', 50_000, 50_000, {'negative': 50_000}),
    'arabizi/Train.csv': ('csv', 70_000, 70_000, {-1: 29_295, 0: 2_466, 1: 38_239}),
    'arabizi/Test.csv': ('csv', 30_000, 30_000, None),
    'arabizi/TUNIZI-Dataset.txt': ('tunizi', 3_000, 3_000, {-1: 1_500, 1: 1_500}),
    'imdb/aclImdb_50k.csv.gz': ('csv', 50_000, 50_000, {'negative': 25_000, 'positive': 25_000}),
    'authors/raw_tweets.csv': ('csv', 9_000, 9_000, 6),
    'authors/train_tweets.csv': ('csv', 7_200, 7_200, 6),
    'authors/test_tweets.csv': ('csv', 1_800, 1_800, 6),
    'tweeteval/emoji': ('tweeteval', 100_000, 100_000, 20),
    'tweeteval/sentiment': ('tweeteval', 59_899, 59_899, {'negative': 11_377, 'neutral': 27_479, 'positive': 21_043}),
}

@pytest.mark.parametrize('name', FILES)
def test_real_counts(name):
    path,(format,read,kept,labels) = real_path(*name.split('/')),FILES[name]
    assert sniff_format(path) == format
    df = read_tweets(path)
    is_table(df)
    report = df.attrs['read']
    assert (report['read'], report['kept']) == (read, kept)
    assert report['encoding'] == 'utf-8'
    if labels is None: assert 'label' not in df
    elif isinstance(labels, int): assert len(df['label'].cat.categories) == labels
    else: assert df['label'].value_counts(sort=False).to_dict() == labels

def test_emojify_train():
    df = read_tweets(real_path('emojify', 'train.txt.gz'))
    is_table(df)
    assert df.attrs['read']['read'] == 664_080
    assert df.attrs['read']['rejected'] == {'nothing before the first emoji': 53_259, 'no emoji': 23}
    n = df['label'].value_counts()
    assert len(n) == 1_394 and (n > 3_000).sum() == 43                     # "about 1,400 aliases, 43 of them frequent"

def test_emojify_all():
    path = real_path('emojify', 'dev.txt.gz')
    first,every = read_tweets(path),read_tweets(path, policy='all')
    n = every['emojis'].str.count(' ') + 1
    # more than half of all emoji share their tweet with another
    assert n[n > 1].sum() > 0.5*n.sum()
    assert (every['emojis'].str.split(' ').str[0] == every['label'].astype('str')).all()
    for df in first, every:
        assert not df['text'].str.contains('[\U0001f3fb-\U0001f3ff]').any()
        assert not df['label'].isin(['male_sign', 'female_sign']).any()
        assert not df['text'].str.split(' ').map(lambda ws: any(w in ('', '\u200d', '\ufe0f') for w in ws)).any()
    assert not every['emojis'].str.contains(r'\b(?:fe)?male_sign\b').any()

def test_emojify_subset():
    path,five = real_path('emojify', 'dev.txt.gz'),['person_facepalming', ':rolling_on_the_floor_laughing:',
                                               'see-no-evil_monkey', 'weary_face', 'thinking_face']
    df,whole = read_tweets(path, emojis=five),read_tweets(path)
    assert df.attrs['read']['read'] == 83_010
    mine = whole[whole['label'].isin([e.strip(':') for e in five])].reset_index(drop=True)
    pd.testing.assert_frame_equal(df.astype('str'), mine.astype('str'))

def test_emojify_predictions():
    df = read_tweets(real_path('emojify', 'results_emoji.csv'), keep_empty=True)
    assert (df['label'] == df['y_pred']).mean() == 0.4993
    assert ((df['label'] == df['y_pred']) | (df['label'] == df['y_pred_2'])).mean() == 0.6893
    assert (df['text'] == '').sum() == 4 and df['text'].duplicated().sum() == 1_285
    kept = df[df['text'] != '']
    assert (kept.groupby('text')['label'].nunique() > 1).sum() == 12

def test_sentiment140():
    folder = real_path('sentiment140')
    df = read_tweets([folder/'positive.txt.gz', folder/'negative.txt.gz'])
    assert len(df) == 100_000 and df['label'].value_counts().to_dict() == {'negative': 50_000, 'positive': 50_000}
    # "17 texts in both" counts what follows the last newline
    assert df.groupby('text')['label'].nunique().gt(1).sum() == 16
    breaks = sum(len(t.splitlines()) > 1 for t in df['text'])
    assert breaks == 6                                                     # lines that `str.splitlines` would break
    train = read_tweets(folder/'training.1600000.processed.noemoticon.head20k.csv')
    assert train['label'].cat.codes.is_monotonic_increasing                # sorted by label
    assert train['id'].iloc[0] == '1467810369' and not train['text'].str.contains('[\r\n]').any()
    assert train['text'].str.contains('&amp;|&quot;|&lt;').any() and train['text'].str.endswith(' ').any()
    assert train.attrs['read']['noted']['U+FFFD'] == train['text'].str.contains('\ufffd').sum() == 93

def test_sentiment140_is_latin1(tmp_path):
    "The full file is latin-1: the head, written like that, comes back the same"
    text = real_path('sentiment140',
                'training.1600000.processed.noemoticon.head20k.csv').read_bytes().decode('utf-8').replace('\ufffd', 'é')
    (tmp_path/'t.csv').write_bytes(text.encode('latin-1', 'replace'))
    df = read_tweets(tmp_path/'t.csv')
    assert len(df) == 20_000 and df.attrs['read']['encoding'] == 'latin-1' and not df.attrs['read']['noted']
    assert df['text'].str.contains('é').sum() > 90

def test_arabizi():
    train = read_tweets(real_path('arabizi', 'Train.csv'), label=True)
    test = read_tweets(real_path('arabizi', 'Test.csv'))
    assert train['text'].duplicated().sum() == 249
    assert train.groupby('text')['label'].nunique().gt(1).sum() == 10
    assert train['text'].str.split().str.len().max() == 1_713
    ids = [l.split(b',')[0].decode() for l in real_path('arabizi', 'Test.csv').read_bytes().split(b'\n')[1:-1]]
    assert test['ID'].tolist() == ids                                      # order and IDs come back exactly
    sample = read_tweets(real_path('arabizi', 'SampleSubmission.csv'), text='ID', label='label')['text']
    # the published sample lost two zeros
    assert (sample != test['ID']).sum() == 2 and (sample == test['ID'].str.lstrip('0')).any()
    tunizi = read_tweets(real_path('arabizi', 'TUNIZI-Dataset.txt'))
    assert tunizi.attrs['read'].noted_rows()['line'].tolist() == [5, 1_179]
    assert tunizi['text'].iloc[[4, 1_178]].tolist() == ['merci beaucoup salime',
                                                        'Bonne chance pour tout le monde ,elfaida tkadmou bel bled']
    assert tunizi['text'].str.contains('\xa0').any()
    assert tunizi['text'].isin(train['text']).sum() == 1_037 + 1          # line 5, which is mended, is one too

def test_imdb():
    df = read_tweets(real_path('imdb', 'aclImdb_50k.csv.gz'))
    assert df.groupby(['split', 'label'], observed=True).size().tolist() == [12_500]*4
    assert df['text'].str.contains('<br />', regex=False).any() and df['text'].str.contains('"').any()
    train,test = (set(df.loc[df['split'] == s, 'text']) for s in ('train', 'test'))
    assert len(train & test) == 123

def test_authors():
    df = read_tweets(real_path('authors', 'raw_tweets.csv'))
    assert df['label'].value_counts().eq(1_500).all()
    assert df['id'].str.fullmatch(r'\d{15,19}').all() and df['id'].iloc[0] == '1091806418569695237'
    assert df['text'].str.contains('\n').sum() == df.attrs['read']['noted']['several lines'] == 387
    assert read_tweets(real_path('authors', 'train_tweets.csv'))['id'].iloc[0] == '1091806418569695200'

def test_tweeteval():
    for task,sizes,classes in ('emoji', (45_000, 5_000, 50_000), 20), ('sentiment', (45_615, 2_000, 12_284), 3):
        df = read_tweets(real_path('tweeteval', task))
        assert df['split'].value_counts()[['train', 'valid', 'test']].tolist() == list(sizes)
        assert len(df['label'].cat.categories) == classes
        texts = real_path('tweeteval', task, 'test_text.txt').read_bytes().decode().removesuffix('\n').split('\n')
        test = read_tweets(real_path('tweeteval', task), split='test')
        # line N of one belongs to line N of the other
        assert test['text'].tolist() == texts
        labels = real_path('tweeteval', task, 'test_labels.txt').read_text().split()
        assert test['label'].cat.codes.astype(str).tolist() == labels      # the classes stand in the mapping's order
    assert df['text'].str.contains(r'\u2019', regex=False).any()


# ---- the plain line loop says what the fast path must say ----

TONES = 'light', 'medium-light', 'medium', 'medium-dark', 'dark'
PARTS = {'male_sign', 'female_sign', *(f'{t}_skin_tone' for t in TONES)}
MODIFIERS = set('\u200d\ufe0e\ufe0f\u20e3') | {chr(c) for c in range(0x1f3fb, 0x1f400)}

def parse_line(line):
    "A line's word and emoji ('' for none), or None if it is broken"
    if line.endswith(' O'): return line[:-2], ''
    word,colon,tag = line.rpartition(' :')
    return (word, tag[:-1]) if colon and len(tag) > 1 and tag.endswith(':') else None

def plain_loop(text, every=False, wanted=None):
    "emojifydata line by line: rows and rejections as sorted lists"
    rows,out,inside,start,bad,words,stray = [],[],False,0,0,[],0
    for no,line in enumerate([*text.replace('\r\n', '\n').split('\n'), None], 1):
        parsed = None if line is None else parse_line(line)
        word = parsed[0] if parsed else line
        if line is None or word == '<START>':
            if inside: out.append((start, 'no <STOP>'))
            elif stray: out.append((stray, 'outside <START> and <STOP>'))
            inside,start,bad,stray,words = True,no,0 if parsed else no,0,[parsed and ('', parsed[1])]
        elif word == '<STOP>':
            if not inside: out.append((no, 'no <START>'))
            elif bad: out.append((bad, 'line without a tag'))
            else: one_tweet(start, words, every, wanted, rows, out)
            inside,stray = False,0
        elif line and inside:
            words.append(parsed); bad = bad or (0 if parsed else no)
        elif line: stray = stray or no
    return rows, sorted(out)

def one_tweet(start, words, every, wanted, rows, out):
    emoji = [(i, e) for i,(_,e) in enumerate(words) if e and e not in PARTS]
    if not emoji: return out.append((start, 'no emoji'))
    i,label = emoji[0]
    if wanted is not None:
        hits = [e for _,e in emoji if e in wanted] if every else [label] if label in wanted else []
        if not hits: return out.append((start, 'other emoji'))
        label = hits[0]
    text = ' '.join(w for w,_ in (words if every else words[:i+1]) if w and not set(w) <= MODIFIERS)
    if not text: return out.append((start, 'no words' if every else 'nothing before the first emoji'))
    rows.append((start, text, label, *([' '.join(e for _,e in emoji)] if every else [])))

def fast(path, **options):
    "The same from the reader, with the lines of the rejected"
    try: df = read_tweets(path, format='emojifydata', **options)
    except TweetnbError as e:
        assert 'rows could be used' in str(e) or 'is empty' in str(e) or 'no rows' in str(e), e
        return None
    is_table(df)
    def rows(df): return list(df.itertuples(index=False, name=None))
    return rows(df.astype('str')), sorted(rows(df.attrs['read'].rejected_rows()[['line', 'reason']]))

@pytest.mark.parametrize('options', [{}, dict(policy='all'), dict(emojis=['fire', 'red_heart']),
                                     dict(policy='all', emojis=['fire', 'red_heart'])])
def test_fast_path_is_the_plain_loop(options):
    path = real_path('emojify', 'dev.txt.gz')
    rows,out = plain_loop(gzip.open(path, 'rt', encoding='utf-8', newline='').read(), options.get('policy') == 'all',
                          options.get('emojis'))
    assert fast(path, **options) == ([r[1:] for r in rows], out)

LINES = st.sampled_from(['<START> O', '<START> O', '<STOP> O', '<STOP> O', '', 'good O', 'morning O',
                         'Mother :red_heart:', 'day :fire:', '<START> :fire:', '<STOP> :fire:',
    '\ufe0f O', '\u200d :male_sign:', 'x :female_sign:', '🏽 :fire:', '\u200d\u200d O', '️️x O', '<STOP>', '<START>',
    'bad', ' O', ' :fire:', 'two words O', 'a ::', 'a :b', 'é O', '… :sun:',
    ':) O', '< O', '<STARTS> O', 'O', ':fire:', 'a :b c: :fire:', '\u2019s O', '🤦 O', 'z\r O'])

@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, min_size=1, max_size=40), every=st.booleans(), wanted=st.sampled_from([None, ['fire']]),
       end=st.sampled_from(['\n', '\r\n']))
def test_fast_path_on_broken_lines(tmp_path, lines, every, wanted, end):
    text = end.join(lines) + end
    (tmp_path/'e.txt').write_text(text, encoding='utf-8', newline='')
    rows,out = plain_loop(text, every, wanted)
    found = fast(tmp_path/'e.txt', policy='all' if every else 'first', emojis=wanted)
    assert found == ([r[1:] for r in rows], out) if found else not rows

@pytest.mark.parametrize('name, lines', [('authors/raw_tweets.csv', 300), ('imdb/aclImdb_50k.csv.gz', 30),
                                         ('sentiment140/training.1600000.processed.noemoticon.head20k.csv', 300)])
def test_csv_blocks_may_end_anywhere(name, lines, tmp_path, monkeypatch):
    "The size of a block changes nothing, whether it is clean and goes the fast way or not"
    text = head(real_path(*name.split('/')), lines)
    for damage in b'', b'x,"never closes\n', b'a,b\n5" tall,"so" she said\n', b'"two\nlines","and\r\nmore"\n':
        path = tmp_path/'t.csv'
        path.write_bytes(text + damage + text)
        whole = read_tweets(path)
        for size in 13, 500, 5_001:
            monkeypatch.setattr('tweetnb.data.textio.raw_blocks.__defaults__', (size,))
            df = read_tweets(path)
            monkeypatch.undo()
            pd.testing.assert_frame_equal(df, whole)
            some,every = df.attrs['read'],whole.attrs['read']
            assert some.rejected_rows().equals(every.rejected_rows()) and some['noted'] == every['noted']

CSV_CELLS = st.sampled_from(['', 'a', 'good morning', '"', '""', 'a,b', 'two\nlines', 'x\r\ny', 'é 🎉', ' ', '"q"',
                             'NULL', 'nan', "it's", '\t', ';'])

@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(CSV_CELLS, min_size=2, max_size=3), min_size=1, max_size=12),
       end=st.sampled_from(['\n', '\r\n']), cut=st.integers(0, 6), quoting=st.sampled_from([0, 1]))
def test_fast_csv_is_careful_csv(tmp_path, rows, end, cut, quoting):
    "Arrow and Python's csv give the same table and the same report, line numbers and all"
    import csv, io
    from tweetnb.data import read as module
    f = io.StringIO(newline='')
    csv.writer(f, lineterminator=end, quoting=quoting).writerows(rows)
    path = tmp_path/'t.csv'
    path.write_bytes(('id,text\n' + f.getvalue())[:len(f.getvalue()) + 8 - cut].encode())
    def read():
        try: df = read_tweets(path, keep_empty=True, label=False)
        except TweetnbError as e: return str(e)
        report = df.attrs['read']
        tables = df, report.rejected_rows(), report.noted_rows()
        return report, *(t.to_dict('records') for t in tables)
    quick = read()
    with pytest.MonkeyPatch.context() as m:
        m.setattr(module, '_fast', lambda *_: None)
        assert read() == quick

def test_blocks_may_end_anywhere(tmp_path, monkeypatch):
    "The size of a block changes nothing"
    text = '<START> O\ngood O\nmorning :fire:\n️ O\n<STOP> O\n\n'*200 + '<START> O\ncut'
    (tmp_path/'e.txt').write_text(text, encoding='utf-8')
    whole = fast(tmp_path/'e.txt')
    for size in 7, 40, 1_001:
        monkeypatch.setattr('tweetnb.data.textio.raw_blocks.__defaults__', (size,))
        assert fast(tmp_path/'e.txt') == whole


# ---- nothing but its own error: thousands of damaged files ----

SEEDS = { # format: files of a small set of that format
    'csv': {'t.csv': 'text,label\ngood morning,happy\n"my laptop, again",sad\n"two\nlines",sad\n'
                     'd\xe9j\xe0 vu 🎉,happy\n'},
    'tsv': {'t.tsv': 'id\ttweet\tlabel\n1\tgood "morning"\thappy\n2\t"quoted"\tsad\n3\tno\tsad\n'},
    'sentiment140': {'t.csv': '"0","1467810369","Mon Apr 06 22:19:45 PDT 2009","NO_QUERY","me","good &amp; bad "\r\n'
                              '"4","1467810370","Mon Apr 06 22:19:46 PDT 2009","NO_QUERY","me","love it"\r\n'},
    'jsonl': {'t.jsonl': '{"id": 1091806418569695237, "text": "good \\ud83c\\udf89", "label": 1}\n'
                         '{"text": "bad", "label": "0", "geo": {"x": [1]}}\n'},
    'lines': {'positive.txt': 'good morning\nlove it\u2028so much\n'},
    'tweeteval': {'train_text.txt': 'good\nbad\nugly\n', 'train_labels.txt': '1\n0\n0\n',
                  'mapping.txt': '0\tno\n1\tyes\n'},
    'tunizi': {'t.txt': '1;aslema\n-1;barra\n%1;behi\n"1;quoted"\n'},
    'emojifydata': {'t.txt': '<START> O\ngood O\nmorning :fire:\n\ufe0f O\n<STOP> O\n\n<START> :sun:\n<STOP> O\n\n'
                             '<START> O\nno O\n🏽 :male_sign:\nway :fire:\n<STOP> O\n'},
    'folders': {'pos/1_9.txt': 'A film.<br />Really.', 'neg/2_1.txt': 'No.', 'neg/3_2.txt': 'Never again.'},
}
REAL = {'csv': ['authors/raw_tweets.csv', 'imdb/aclImdb_50k.csv.gz', 'arabizi/Train.csv', 'emojify/results_emoji.csv'],
        'emojifydata': ['emojify/dev.txt.gz'],
    'sentiment140': ['sentiment140/testdata.manual.2009.06.14.csv',
                     'sentiment140/training.1600000.processed.noemoticon.head20k.csv'],
    'lines': ['sentiment140/positive.txt.gz'], 'tunizi': ['arabizi/TUNIZI-Dataset.txt'],
    'tweeteval': ['tweeteval/emoji/val_text.txt', 'tweeteval/emoji/val_labels.txt', 'tweeteval/emoji/mapping.txt']}

def head(path, lines):
    with (gzip.open if path.suffix == '.gz' else open)(path, 'rb') as f:
        return b''.join(f.readline() for _ in range(lines))

def seeds(format):
    "Small sets of files: our own, and the heads of the real ones"
    sets = [{k: v.encode() for k,v in SEEDS[format].items()}] if format != 'parquet' else []
    paths = [data_path(*p.split('/')) for p in REAL.get(format, [])]
    if format == 'tweeteval' and all(p.exists() for p in paths): sets.append({p.name: head(p, 20) for p in paths})
    elif format == 'parquet':
        df = pd.DataFrame({'text': ['good', 'bad', None], 'label': ['1', '0', '1'], 'n': [1, 2, 3]})
        sets += [{'t.parquet': df.to_parquet(compression=c)} for c in (None, 'snappy')]
    else:
        lines = {'emojifydata': 60, 'csv': 6}.get(format, 12)
        sets += [{p.name.removesuffix('.gz'): head(p, lines)} for p in paths if p.exists()]
    return sets

def mutate(b, rng):
    "One to four kinds of damage that files meet"
    for _ in range(rng.randint(1, 4)):
        lines,i,j = b.split(b'\n'),rng.randrange(len(b) + 1),rng.randrange(len(b) + 1)
        k = rng.randrange(len(lines))
        kind = rng.randrange(12)
        if kind == 0: b = b[:i]
        elif kind == 1: b = b[:min(i, j)] + b[max(i, j):]
        elif kind == 2: b = b[:i] + bytes(rng.randrange(256) for _ in range(rng.randint(1, 6))) + b[i:]
        elif kind == 3: b = bytes(c ^ (1 << rng.randrange(8)) if rng.random() < 0.01 else c for c in b)
        elif kind == 4: b = b'\n'.join(lines[:k] + lines[k+1:])
        elif kind == 5: b = b'\n'.join(lines[:k] + [lines[rng.randrange(len(lines))]] + lines[k:])
        elif kind == 6:
            b = b[:i] + rng.choice([b'"', b'\0', b'\r', b'\xe9', b',', b';', b'\t', b'\n', b'\xff\xfe',
                                    b'\xed\xa0\xbd', b'\\ud83d', b'<START> O\n', b'<STOP> O\n']) + b[i:]
        elif kind == 7: b = b.replace(b'\n', b'\r\n' if i % 2 else b'\r')
        elif kind == 8: b = b.replace(rng.choice([b'"', b'O', b':', b',', b'e']), b'')
        elif kind == 9:
            b = b.decode('utf-8', 'replace').encode(rng.choice(['utf-16', 'utf-8-sig', 'latin-1', 'utf-16-be']),
                                                    'replace')
        elif kind == 10: b = b'\n'.join(rng.sample(lines, len(lines)))
        else: b = b[:min(i, j)]*2 + b[max(i, j):]
    return b

def reads_or_explains(path, rows=True, **options):
    "Read a file: a table whose counts add up, or our own error; returns whether it was read"
    try: df = read_tweets(path, **options)
    except TweetnbError as e:
        assert '\n' not in str(e).strip() or len(str(e)) < 2_000
        return False
    is_table(df, rows)
    return True

@pytest.mark.parametrize('format', [*SEEDS, 'parquet'])
def test_fuzz(format, tmp_path):
    "2,000 damaged sets of files a format, read by that format's reader, half of them packed or as they are sniffed"
    rng,sets = random.Random(f'fuzz {format}'),seeds(format)
    read,folder = 0,format in ('tweeteval', 'folders')
    for i in range(2_000):
        files = dict(rng.choice(sets))
        for name in files:
            p = tmp_path/name
            p.parent.mkdir(exist_ok=True)
            b = mutate(files[name], rng) if len(files) == 1 or rng.random() < 0.6 else files[name]
            if i % 8 == 7: b = gzip.compress(b, 1)
            if i % 16 == 15: b = b[:rng.randrange(len(b) + 1)]
            p.write_bytes(b)
        read += reads_or_explains(tmp_path if folder else p, rows=i % 10 == 0, format=None if i % 4 == 3 else format)
    assert read > {'parquet': 20, 'tweeteval': 100}.get(format, 300)                     # damage is mostly survived

@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=400) | st.text(max_size=200).map(lambda s: s.encode('utf-8', 'surrogatepass')),
       format=st.sampled_from([None, *READERS][:-2]),
       name=st.sampled_from(['a.txt', 'a.csv', 'a.tsv', 'a_text.txt', 'a.jsonl', 'a.txt.gz']),
       keep_empty=st.booleans(), limit=st.sampled_from([None, 1, 3]))
def test_random_bytes(tmp_path, content, format, name, keep_empty, limit):
    (tmp_path/name).write_bytes(content)
    (tmp_path/'a_labels.txt').write_bytes(content[::-1])
    reads_or_explains(tmp_path/name, format=format, keep_empty=keep_empty, limit=limit)

CELLS = st.one_of(st.none(), st.text(max_size=8), st.integers(-5, 5), st.floats(allow_nan=True), st.booleans(),
                  st.binary(max_size=3))

@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=8), keep_empty=st.booleans())
def test_random_frames(rows, keep_empty):
    reads_or_explains(pd.DataFrame(rows, columns=['text', 'label', 'text'], dtype=object), keep_empty=keep_empty)


# ---- other things that come ----

@pytest.mark.parametrize('content, says', [
    (b'', 'is empty'), (b'\n\n \n', 'is empty'), (b'\xff\xfe', 'is empty'),
    (b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR', 'binary file'), (bytes(range(256))*9, 'binary file'),
    (b'PK\3\4\x14\0\0\0', 'Unpack it first'), (b'<!DOCTYPE html>\n<html><body>text,label</body>', 'web page'),
    (b'PAR1 but no more', 'Parquet file is corrupt'),
    (b'id,label\n1,2\n', 'no text column found'), (b'text,label\n', 'it has no rows'),
    (b'text,label\n,1\n \t,0\nnan,1\n', r'none of 3 rows could be used \(no text: 3\)'),
    (b'text,label\n1,2\n3,4\n', 'holds only numbers'),
    (b'text,label\nonly\nthree,columns,here\n', 'wrong number of columns: 2'),
    (gzip.compress(b'text,label\n' + b'good,1\n'*99_999, mtime=0)[:-20], 'truncated'),
    (gzip.compress(b'text\nhello\n', mtime=0)[:12] + b'\1\2\3', 'corrupt'), (b'\x1f\x8b', 'corrupt')])
def test_an_unreadable_file_is_reported_in_one_line(tmp_path, content, says):
    path = tmp_path/'t.csv'
    path.write_bytes(content)
    with pytest.raises(TweetnbError, match=says) as e: read_tweets(path)
    assert str(e.value).startswith(str(path)) and '\n' not in str(e.value)

def test_paths_that_are_none(tmp_path):
    (tmp_path/'train.csv').write_text('text\nhi there\n')
    with pytest.raises(TweetnbError, match='Did you mean train.csv'): read_tweets(tmp_path/'trian.csv')
    with pytest.raises(TweetnbError, match='tweetnb.data.datasets'): read_tweets('https://example.org/tweets.csv')
    with pytest.raises(TweetnbError, match='no format'): read_tweets(tmp_path/'train.csv', format='xls')
    frame = pd.DataFrame({'text': ['hi there']})
    for wrong in (dict(path=tmp_path/'train.csv', format='frame'), dict(path=frame, format='csv'),
                  dict(path=3), dict(path=None), dict(path={'text': ['hi']})):
        with pytest.raises(TweetnbError, match='does not apply to a|cannot read a'): read_tweets(**wrong)
    with pytest.raises(TweetnbError, match='no rows'): read_tweets([])
    (tmp_path/'a.json').write_text('[\n{"text": "hi there"}\n]\n')
    assert read_tweets(tmp_path/'a.json').attrs['read']['rejected'] == {'not JSON': 2}
    with pytest.raises(TweetnbError, match="no option 'sep'. Its options: delimiter"):
        read_tweets(tmp_path/'train.csv', sep=',')
    (tmp_path/'sub').mkdir(); (tmp_path/'sub'/'a.csv').write_text('x'); (tmp_path/'sub'/'b.txt').write_text('x')
    with pytest.raises(TweetnbError, match='Name one of its files: a.csv, b.txt'): read_tweets(tmp_path/'sub')
    (tmp_path/'void').mkdir()
    with pytest.raises(TweetnbError, match='unrecognised folder layout. It is empty'): read_tweets(tmp_path/'void')
    (tmp_path/'labelled.csv').write_text('text,label\nhi there,1\n')
    with pytest.raises(TweetnbError, match='some of these files have labels and some have none'):
        read_tweets([tmp_path/'train.csv', tmp_path/'labelled.csv'])
    assert len(read_tweets([tmp_path/'train.csv', tmp_path/'labelled.csv'], label=False)) == 2

def test_labels_wanted_or_not(tmp_path):
    (tmp_path/'t.csv').write_text('label,id,text\na,1,good morning\nb,2,good night\n')
    assert list(read_tweets(tmp_path/'t.csv', label=False)) == ['text', 'label_', 'id']
    assert read_tweets(tmp_path/'t.csv', label='ID')['label'].tolist() == [1, 2]
    (tmp_path/'u.csv').write_text('id,text\n1,good morning\n')
    with pytest.raises(TweetnbError, match='no label column found'): read_tweets(tmp_path/'u.csv', label=True)
    with pytest.raises(TweetnbError, match="no label column 'mood'"): read_tweets(tmp_path/'u.csv', label='mood')
    (tmp_path/'happy.txt').write_text('good morning\n')
    assert read_tweets(tmp_path/'happy.txt', label=True)['label'].tolist() == ['happy']
    assert read_tweets(tmp_path/'happy.txt', label_value='joy')['label'].tolist() == ['joy']
    assert 'label' not in read_tweets(tmp_path/'happy.txt')

@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'latin-1', 'cp1252'])
def test_encodings(tmp_path, encoding):
    # the first letter beyond ASCII comes late
    text = 'text,label\n' + 'plain ascii,0\n'*200_000 + 'déjà vu à Tunis,1\n'*3
    (tmp_path/'t.csv').write_bytes(text.encode(encoding))
    df = read_tweets(tmp_path/'t.csv')
    assert df['text'].iloc[-1] == 'déjà vu à Tunis' and len(df) == 200_003

def test_damage_is_counted_and_does_not_change_the_encoding(tmp_path):
    lines = [f'{i} déjà vu 🎉'.encode() for i in range(50)]
    lines[3] += b'\xe9'
    (tmp_path/'t.txt').write_bytes(b'\n'.join(lines))
    df = read_tweets(tmp_path/'t.txt')
    assert df.attrs['read']['noted'] == {'U+FFFD': 1} and df.attrs['read'].noted_rows()['line'].tolist() == [4]
    assert df['text'].iloc[4] == '4 déjà vu 🎉'

def test_a_quote_that_never_closes_loses_no_row(tmp_path):
    rows = [f'{i},"tweet {i}, with a comma",pos' for i in range(5_000)]
    rows[1_000] = '1000,"tweet 1000 never closes,pos'
    rows[4_999] = '4999,"nor does the last,pos'
    (tmp_path/'t.csv').write_text('id,text,label\n' + '\n'.join(rows))
    df = read_tweets(tmp_path/'t.csv')
    assert len(df) >= 4_998 and df.attrs['read']['read'] == 5_000
    assert df.set_index('id').loc['4999', 'text'] == '"nor does the last'

@pytest.mark.parametrize('name', ['emojify/dev.txt.gz', 'tweeteval/sentiment', 'authors/raw_tweets.csv',
                                  'sentiment140/positive.txt.gz'])
def test_pieces_are_the_whole(name):
    path = real_path(*name.split('/'))
    whole = read_tweets(path)
    for rows in 1_777, 60_000:
        parts = list(iter_tweets(path, rows=rows))
        assert max(map(len, parts)) <= rows
        pd.testing.assert_frame_equal(pd.concat([p.astype('str') for p in parts], ignore_index=True),
                                      whole.astype('str'))
        assert parts[0].attrs['read'] == whole.attrs['read']
    for limit in 1, 1_000, len(whole), len(whole) + 1:
        some = read_tweets(path, limit=limit)
        is_table(some)
        pd.testing.assert_frame_equal(some.astype('str'), whole[:limit].astype('str'))

def test_files_side_by_side_are_files_in_a_row(tmp_path):
    files = [real_path('emojify', n) for n in ('dev.txt.gz', 'test.txt.gz')]
    one,two = read_tweets(files, workers=1),read_tweets(files, workers=2)
    pd.testing.assert_frame_equal(one, two)
    is_table(two)
    report = two.attrs['read']
    assert report['read'] == 166_021 and set(report.rejected_rows()['path']) == set(map(str, files))

def test_huggingface_datasets(tmp_path):
    datasets = pytest.importorskip('datasets')
    ds = datasets.Dataset.from_dict({'tweet': ['good', None, 'bad', 'worse'], 'label': [2, 1, 0, -1],
                                     'n': [1, 2, 3, 4]},
        features=datasets.Features(tweet=datasets.Value('string'),
                                   label=datasets.ClassLabel(names=['negative', 'neutral', 'positive']),
                                   n=datasets.Value('int64')))
    for d in ds, ds.to_iterable_dataset():
        df = read_tweets(d)
        is_table(df)
        assert df['label'].tolist() == ['positive', 'negative'] and df['n'].tolist() == [1, 3]
        assert df.attrs['read']['rejected'] == {'no text': 1, 'no label': 1}
    df = read_tweets(datasets.DatasetDict(train=ds, validation=ds.select([2, 0])))
    is_table(df)
    assert df['split'].tolist() == ['train', 'train', 'valid',
                                    'valid'] and df['label'].cat.categories.tolist() == ['negative', 'positive']

MEMORY = '''
import sys
from tweetnb.data.read import read_tweets
def peak(): return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])//1024
read_tweets(sys.argv[1])
before = peak()
df = read_tweets(sys.argv[2])
print(len(df), peak() - before)
'''

@pytest.mark.skipif(sys.platform != 'linux', reason='counts memory as Linux does')
def test_eight_copies_of_emojify_in_less_than_600_MB(tmp_path):
    train = real_path('emojify', 'train.txt.gz').read_bytes()
    with open(tmp_path/'eight.txt.gz', 'wb') as f:
        # gzip files in a row are one gzip file: 840 MB unpacked
        for _ in range(8): f.write(train)
    command = [sys.executable, '-c', MEMORY, real_path('emojify', 'original_head.txt'), tmp_path/'eight.txt.gz']
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    rows,growth = map(int, out.stdout.split())
    assert rows == 8*610_798 and 200 < growth < 600


# ---- labels keep their values ----

def labels_of(df): return df['label'].cat.categories.tolist()

def test_whole_numbers_are_integers_only_if_all_labels_are(tmp_path):
    path = tmp_path/'t.csv'
    path.write_text('text,label\n' + 'good,10\n'*30_000 + 'bad,-1\n' + 'so,4\n'*60_000)
    df = read_tweets(path)
    assert labels_of(df) == [-1, 4, 10] and df['label'].cat.categories.dtype == np.int64
    parts = list(iter_tweets(path, rows=40_000))
    assert all(isinstance(c, str) for p in parts for c in labels_of(p))    # a part cannot know what comes
    path.write_text(path.read_text() + 'odd,n/a\n')
    assert labels_of(read_tweets(path)) == ['-1', '10', '4', 'n/a']
    assert labels_of(read_tweets([path, path])) == ['-1', '10', '4', 'n/a']

def test_names_are_strings_and_match_numbers_and_strings(tmp_path):
    path = tmp_path/'t.csv'
    path.write_text('text,label\ngood,1\nbad,0\n')
    for names in {0: 'neg', 1: 'pos'}, {'0': 'neg', '1': 'pos'}:
        assert labels_of(read_tweets(path, label_names=names)) == ['neg', 'pos']
    assert labels_of(read_tweets(path, label_names={0: '3', 1: '7'})) == ['3', '7']

@pytest.mark.parametrize('given, come', [
    ([1, 0, 1], [0, 1]), ([1., 0., None], [0, 1]), (['1', '0', '1'], ['0', '1']),
    ([True, False, True], ['False', 'True']),
    (['0.5', '1', '0'], ['0', '0.5', '1']), (pd.Categorical([4, 0, 4], [4, 0]), [4, 0]),
    (pd.Categorical(['1', '0', '1']), ['0', '1'])])
def test_labels_of_a_frame_keep_their_kind(given, come):
    assert labels_of(read_tweets(pd.DataFrame({'text': ['good day', 'bad day', 'so so'], 'label': given}))) == come

def test_a_pattern_is_the_list_of_its_files(tmp_path):
    for day in '2024-02', '2024-01': (tmp_path/f'{day}.csv').write_text(f'text,label\nrain in {day},sad\n')
    (tmp_path/'notes.txt').write_text('not a tweet')
    df = read_tweets(tmp_path/'2024-*.csv')
    assert df['text'].tolist() == ['rain in 2024-01', 'rain in 2024-02']
    assert df.attrs['read']['path'] == str(tmp_path/'2024-*.csv')
    with pytest.raises(TweetnbError, match=r'2023-\*\.csv'): read_tweets(tmp_path/'2023-*.csv')
    starred = tmp_path/'a*b.csv'
    starred.write_text('text,label\nmy own star,glad\n')
    assert read_tweets(starred)['text'].tolist() == ['my own star']

def test_rejected_lines_of_several_files_name_their_file(tmp_path):
    (tmp_path/'one.csv').write_text('text,label\nhello there,a\n,b\nbye,b\n')
    (tmp_path/'two.csv').write_text('text,label\nhey you,a\nfine,b\n,b\n')
    summary = read_tweets(tmp_path/'*.csv').attrs['read'].summary()
    assert summary.endswith('2 rejected: no text (one.csv line 3, two.csv line 4)')
    assert read_tweets(tmp_path/'two.csv').attrs['read'].summary().endswith('1 rejected: no text (line 4)')
    total,part = ReadReport('two.csv', 'csv'), ReadReport(Path('two.csv').absolute(), 'csv')
    part.reject(4, 'no text')
    assert total.add(part).summary().endswith('1 rejected: no text (line 4)')

def test_labels_of_parquet_and_shards(tmp_path):
    from tweetnb.data.datasets import convert
    pd.DataFrame({'text': ['good day', 'bad day'], 'label': [1, -1]}).to_parquet(tmp_path/'t.parquet')
    assert labels_of(read_tweets(tmp_path/'t.parquet')) == [-1, 1]
    (tmp_path/'t.csv').write_text('text,label\n' + 'good,10\nbad,9\n'*50)
    convert(tmp_path/'t.csv', tmp_path/'shards', rows_per_shard=30)
    assert labels_of(read_tweets(tmp_path/'shards')) == [9, 10]


# ---- the columns people have ----

@pytest.mark.parametrize('header, text, label', [
    ('tweet,airline_sentiment', 'tweet', 'airline_sentiment'),
    ('tweet_id,airline_sentiment,airline_sentiment_confidence,negativereason,airline,name,text,retweet_count', 'text',
     'airline_sentiment'),
    ('UserName,ScreenName,Location,TweetAt,OriginalTweet,Sentiment', 'OriginalTweet', 'Sentiment'),
    ('count,hate_speech,offensive_language,neither,class,tweet', 'tweet', 'class'),
    ('ItemID,Sentiment,SentimentSource,SentimentText', 'SentimentText', 'Sentiment'),
    ('Tweet ID,entity,sentiment,Tweet content', 'Tweet content', 'sentiment'),
    ('clean_text,category', 'clean_text', 'category'), ('text_,sentiment_label', 'text_', 'sentiment_label'),
    ('textID,text,selected_text,sentiment', 'text', 'sentiment'), ('Text,Emotion', 'Text', 'Emotion'),
    ('id,name,created,text', 'text', 'name'), ('id,author,tweet,target_class', 'tweet', 'target_class'),
    ('ID,text', 'text', None)])
def test_columns_found_by_name(tmp_path, header, text, label):
    (tmp_path/'t.csv').write_text(f'{header}\n' + ','.join(f'value {i}' for i in range(header.count(',') + 1)) + '\n')
    df = read_tweets(tmp_path/'t.csv')
    columns = header.split(',')
    assert df['text'].tolist() == [f'value {columns.index(text)}']
    if label is None: assert 'label' not in df
    else: assert df['label'].tolist() == [f'value {columns.index(label)}']

def test_columns_found_by_content(tmp_path):
    rows = [f'{i},http://t.co/{i},I went to see show number {i} again,{i % 2},{"en fr"[i % 2*3:][:2]}'
            for i in range(40)]
    (tmp_path/'t.csv').write_text('key,link,utterance,is_fun,lang\n' + '\n'.join(rows))
    df = read_tweets(tmp_path/'t.csv', label=True)
    assert df['text'][3] == 'I went to see show number 3 again' and labels_of(df) == [0, 1]
    assert df.attrs['read']['guessed'] == {'text': 'utterance', 'label': 'is_fun'}
    assert str(df.attrs['read']).endswith("guessed text='utterance', label='is_fun'")
    # only names tell without label=True
    assert json.dumps(df.attrs['read']) and 'label' not in read_tweets(tmp_path/'t.csv')
    for rows in 7, 50: assert next(iter_tweets(tmp_path/'t.csv', label=True, rows=rows))['text'][0] == df['text'][0]

def test_ambiguous_columns_are_named(tmp_path):
    rows = [f'{i % 2},{i % 3},{"raw "*5}{i},{"clean "*4}{i}' for i in range(40)]
    (tmp_path/'t.csv').write_text('mood,topic,one,two\n' + '\n'.join(rows))
    with pytest.raises(TweetnbError, match='several columns may hold the text: one, two. Choose one with text=…'):
        read_tweets(tmp_path/'t.csv')
    with pytest.raises(TweetnbError, match='several columns may hold the label: mood, topic. Choose one with label=…'):
        read_tweets(tmp_path/'t.csv', text='one', label=True)

def test_without_a_header(tmp_path):
    (tmp_path/'t.csv').write_text('what a long and lovely day,pos\nI miss the bus every day,neg\n'
                                  'so tired of this rain,neg\nwhat a view this is,pos\n')
    with pytest.raises(TweetnbError, match='the first line looks like data, not a header'):
        read_tweets(tmp_path/'t.csv', label=True)
    df = read_tweets(tmp_path/'t.csv', columns=['text', 'label'])
    assert len(df) == 4 and labels_of(df) == ['neg', 'pos'] and 'guessed' not in df.attrs['read']

def test_xlsx(tmp_path):
    pytest.importorskip('openpyxl')
    sheet = pd.DataFrame({'ID': ['1', '2', '3'], 'Tweet': ['good day', None, 'so so'], 'mood class': [1, 0, 0]})
    with pd.ExcelWriter(tmp_path/'t.xlsx') as w:
        sheet.to_excel(w, index=False)
        sheet.to_excel(w, sheet_name='bare', index=False, header=False)
    for df in read_tweets(tmp_path/'t.xlsx'), read_tweets(tmp_path/'t.xlsx', sheet='bare',
                                                          columns=['ID', 'text', 'label']):
        is_table(df)
        assert df['text'].tolist() == ['good day', 'so so'] and df['ID'].tolist() == ['1', '3']
        assert labels_of(df) == [0, 1]
    assert read_tweets(tmp_path/'t.xlsx').attrs['read'].rejected_rows()['line'].tolist() == [3]
    with pytest.raises(TweetnbError, match='unreadable workbook'): read_tweets(tmp_path/'t.xlsx', sheet='none')
    with pytest.raises(TweetnbError, match='2 names for 3 columns'):
        read_tweets(tmp_path/'t.xlsx', columns=['text', 'label'])
    (tmp_path/'t.xlsx').write_bytes((tmp_path/'t.xlsx').read_bytes()[:900])
    with pytest.raises(TweetnbError, match='unreadable workbook'): read_tweets(tmp_path/'t.xlsx')
