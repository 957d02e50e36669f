"The packaged sample: made again byte for byte, of the counts its README gives, learnable and not trivial"
import csv, html, importlib.util, io, re
from collections import Counter
from pathlib import Path

import pytest

from tweetnb.core import sample_path

ROOT = Path(__file__).resolve().parent.parent
FILES = {'tweets.csv', 'tweets_test.csv', 'tweets_test_labelled.csv', 'sample_submission.csv', 'emojify.txt',
         'sentiment140.csv',
         'sentiment140_test.csv', 'tweeteval/pair_text.txt', 'tweeteval/pair_labels.txt', 'tweeteval/mapping.txt'}
FACE = {'person_facepalming', 'rolling_on_the_floor_laughing', 'see-no-evil_monkey', 'weary_face', 'thinking_face'}

@pytest.fixture(scope='module')
def maker():
    spec = importlib.util.spec_from_file_location('make_sample', ROOT/'tools'/'make_sample.py')
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module

def content(name): return sample_path(name).read_bytes()
def rows(name, **kw): return list(csv.DictReader(io.StringIO(content(name).decode('utf-8'), newline=''), **kw))
def readme(): return sample_path('README.md').read_text(encoding='utf-8')
def usable(): return [r for r in rows('tweets.csv') if (r['text'] or '').strip() and r['label']]
def emojify():
    tweets = content('emojify.txt').decode('utf-8').split('\n\n')
    return [[l.rsplit(' ', 1) for l in t.strip('\n').split('\n')] for t in tweets]
def s140(name, encoding):
    return list(csv.reader(io.StringIO(content(name).decode(encoding), newline='')))

def test_made_again_byte_for_byte(maker, tmp_path):
    maker.main(tmp_path)
    made = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    assert made == {name: content(name) for name in FILES}

def test_nothing_else_is_packaged_and_it_is_small():
    found = {p.relative_to(sample_path()).as_posix(): p.stat().st_size for p in sample_path().rglob('*')
             if p.is_file() and '__pycache__' not in p.parts}
    assert set(found) == FILES | {'README.md'}
    assert sum(found.values()) < 600_000

def test_labelled_as_a_sample():
    text = readme()
    assert 'not real tweets' in text and 'CC0' in text and all(name.split('/')[-1] in text for name in FILES)

def test_tweets():
    all_rows = rows('tweets.csv')
    assert list(all_rows[0]) == ['id', 'text', 'label']
    assert (len(all_rows), len(usable())) == (2005, 2000)
    assert all(re.fullmatch(r'\d{19}', r['id']) for r in all_rows) and len({r['id'] for r in all_rows}) == 2005
    counts = Counter(r['label'] for r in usable())
    assert ', '.join(f'{k} {counts[k]}' for k in sorted(counts)) in readme()

def test_duplicates_and_conflicts(maker):
    labels,exact = {},Counter(r['text'] for r in usable())
    for r in usable(): labels.setdefault(maker.key(r['text']), set()).add(r['label'])
    assert 2000 - len(exact) == 40 and 2000 - len(labels) == 110
    assert sum(len(ls) > 1 for ls in labels.values()) == 14

@pytest.mark.parametrize('wart, least', [
    ('\u200d', 20), ('[\U0001F3FB-\U0001F3FF]', 20), ('\ufe0f', 20), (r'@\w+', 200), (r'https://t\.co/\w{10}', 100),
    (r'#[A-Z]\w+[A-Z]', 80),
    (r'([a-z])\1\1', 100), ('&amp;', 50), ('&lt;', 5), ('â€™|Ã©|ðŸ', 12), ('^RT @', 5), (',', 300), ('"', 20),
    ('\n', 60), ('’', 100)])
def test_warts(wart, least): assert sum(bool(re.search(wart, r['text'])) for r in usable()) >= least

def test_no_tweet_is_longer_than_a_tweet():
    # a copy may have a link more
    assert max(len(html.unescape(r['text'])) for r in usable() if not r['text'].startswith('RT ')) <= 280 + 25

def test_test_set_and_submission(maker):
    test,answers,form = rows('tweets_test.csv'),rows('tweets_test_labelled.csv'),rows('sample_submission.csv')
    assert list(test[0]) == ['id', 'text'] and list(form[0]) == ['id', 'label']
    assert len(test) == 200 and [r['id'] for r in test] == [r['id'] for r in form] == [r['id'] for r in answers]
    assert [r['text'] for r in test] == [r['text'] for r in answers]
    assert {r['label'] for r in answers} == {'negative', 'neutral', 'positive'}
    train = usable()
    assert not {r['id'] for r in test} & {r['id'] for r in train}
    assert not {maker.key(r['text']) for r in test} & {maker.key(r['text']) for r in train}

def test_emojify():
    tweets = emojify()
    assert len(tweets) == 600
    assert all(t[0][0] == '<START>' and t[-1] == ['<STOP>', 'O'] for t in tweets)
    assert all(len(l) == 2 and not re.search(r'\s', l[0]) for t in tweets for l in t)
    assert all(tag == 'O' or re.fullmatch(r':[\w-]+:', tag) for t in tweets for _,tag in t)
    tags = [[tag for _,tag in t if tag != 'O'] for t in tweets]
    words = {w for t in tweets for w,_ in t}
    assert {'\u200d', '\ufe0f', '🏽', 'amp'} <= words
    assert any(t[0][1] != 'O' for t in tweets) and any(len(t) == 2 and t[0][1] == 'O' for t in tweets)
    assert sum(len(t) > 1 for t in tags) >= 120 and sum(not t for t in tags) == 24
    first = Counter(t[0].strip(':') for t in tags if t)
    assert FACE == {name for name,_ in first.most_common(5)} and min(first[f] for f in FACE) >= 80

def test_sentiment140():
    raw,train = content('sentiment140.csv'),s140('sentiment140.csv', 'latin-1')
    with pytest.raises(UnicodeDecodeError): raw.decode('utf-8')
    assert raw.count(b'\r\n') == raw.count(b'\n') == 799 and not raw.endswith(b'\n')
    assert len(train) == 800 and all(len(r) == 6 for r in train)
    assert [r[0] for r in train] == sorted(r[0] for r in train) and {r[0] for r in train} == {'0', '4'}
    texts = [r[5] for r in train]
    assert all(any(w in t for t in texts) for w in ('&amp;', '&quot;', 'ï¿½',
                                                    '\x92')) and any(t.endswith(' ') for t in texts)
    assert not any(re.search('[\U0001F000-\U0001FAFF]', t) for t in texts)

def test_sentiment140_test(maker):
    train,test = s140('sentiment140.csv', 'latin-1'),s140('sentiment140_test.csv', 'utf-8')
    assert len(test) == 120 and {r[0] for r in test} == {'0', '2', '4'} and all(len(r) == 6 for r in test)
    assert not {maker.key(r[5]) for r in test} & {maker.key(r[5]) for r in train}

def test_tweeteval_lines_belong_together():
    texts,labels = (content(f'tweeteval/pair_{n}.txt').decode('utf-8') for n in ('text', 'labels'))
    assert texts.count('\n') == labels.count('\n') == 700 and texts.endswith('\n')
    assert set(labels.split()) == {'0', '1', '2'}
    assert content('tweeteval/mapping.txt') == b'0\tnegative\n1\tneutral\n2\tpositive\n'
    # the empty tweet, and what follows the last newline
    assert len(texts.splitlines()) == 702 and texts.split('\n').count('') == 2
    assert '\\u2019' in texts and set(re.findall(r'@\w+', texts)) == {'@user'}

def test_learnable_and_not_trivial(maker):
    "The README's baseline, over the README's seeds; scikit-learn's versions may differ in the third digit"
    np = pytest.importorskip('numpy')
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    x,y = (np.array([r[c] for r in usable()], dtype=object) for c in ('text', 'label'))
    groups,accuracy,f1 = [maker.key(t) for t in x],[],[]
    for seed in range(5):
        train,valid = next(StratifiedGroupKFold(10, shuffle=True, random_state=seed).split(x, y, groups))
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
                              LogisticRegression(C=10, max_iter=2000))
        said = model.fit(x[train], y[train]).predict(x[valid])
        accuracy.append((said == y[valid]).mean()); f1.append(f1_score(y[valid], said, average='macro'))
    stated = [float(v) for v in re.search(r'mean of five seeds \| ([\d.]+) \| ([\d.]+)', readme()).groups()]
    assert .80 <= np.mean(accuracy) <= .88
    assert np.allclose([np.mean(accuracy), np.mean(f1)], stated, atol=.01)

@pytest.mark.parametrize('name, fmt, read, kept', [
    ('tweets.csv', 'csv', 2005, 2000), ('tweets_test_labelled.csv', 'csv', 200, 200),
    ('emojify.txt', 'emojifydata', 600, 570),
    ('sentiment140.csv', 'sentiment140', 800, 800), ('sentiment140_test.csv', 'sentiment140', 120, 120),
    ('tweeteval', 'tweeteval', 700, 699)])
def test_every_reader_has_something_to_read(name, fmt, read, kept):
    df = pytest.importorskip('tweetnb.data.read').read_tweets(sample_path(name))
    report = df.attrs['read']
    assert (report['format'], report['read'], report['kept'], len(df)) == (fmt, read, kept, kept)
    assert read == kept + sum(report['rejected'].values()) and {'text', 'label'} <= set(df.columns)
    counts = df.label.value_counts()
    if fmt == 'sentiment140': assert ', '.join(f'{k}: {counts[k]}' for k in df.label.cat.categories) in readme()
