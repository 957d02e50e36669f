"Which tweets to label: doubtful ones, none twice; and a file of labels that survives undo, skip and coming back"
import threading

import numpy as np
import pandas as pd
import pytest

from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.read import read_tweets
from tweetnb.models.classifier import Classifier
from tweetnb.models.linear import LinearClassifier
from tweetnb.train.suggest import Labelling, doubt, label_tweets, run_label_page, suggest


class Even(Classifier):
    "Doubts everything"
    def _probs(self, texts, bs): return np.full((len(texts), 2), .5)

@pytest.fixture(scope='module')
def df(): return read_tweets(sample_path('tweets.csv'), label=True)

def test_doubt_is_the_distance_of_the_two_best():
    probs = pd.DataFrame([[.5, .5, 0], [1, 0, 0], [.5, .3, .2]])
    assert np.allclose(doubt(probs), [1, 0, .8])

def test_doubtful_tweets_are_chosen_and_keep_their_index(df):
    model = LinearClassifier(tol=1e-3).fit(df[:100], df['label'][:100])
    pool = df[100:600].set_index(np.arange(500)*7)
    found = suggest(model, pool, 10)
    probs = model.predict_proba(pool)
    assert len(found) == 10 and (found['text'] == pool['text'].loc[found.index]).all()
    assert np.allclose(doubt(probs.loc[found.index]), found['doubt'])
    assert found['doubt'].mean() > np.quantile(doubt(probs), .9)

def test_no_two_near_duplicates_and_nothing_known():
    same = [f'the bus to town is late again number {i} today' for i in range(20)]
    other = ['a lovely cup of tea', 'my cat hates thunder', 'exam results tomorrow']
    found = suggest(Even(['a', 'b']), same + other, 10)
    assert found['text'].isin(same).sum() == 1 and set(other) <= set(found['text'])
    assert not suggest(Even(['a', 'b']), other, 10, known=['A lovely cup of tea!'])['text'].str.contains('tea').any()

def test_a_session_with_mistakes(tmp_path, df):
    pool, out, said = df[['text']], tmp_path/'mine.csv', []
    keys = iter('9' 'x' '1' 's' '2' 'u' '1' 'q')
    assert label_tweets(Labelling(pool, out, ['no', 'yes']), lambda: next(keys), said.append) == 2
    table = pd.read_csv(out)
    assert table['label'].tolist() == ['no', 'no'] and table['text'].nunique() == 2
    assert sum('none of the keys' in o for o in said) == 2
    again = Labelling(pool, out, ['no', 'yes'])
    assert len(again.done) == 2 and again.next()[0] not in set(table['text'])

def test_the_end_of_the_pool_ends_the_session(tmp_path):
    pool = pd.DataFrame({'text': ['good morning', 'GOOD morning!', 'wet dog']})
    assert label_tweets(Labelling(pool, tmp_path/'o.csv', ['a', 'b']), lambda: '1', lambda line: None) == 2

def test_after_twenty_labels_the_answers_choose(tmp_path, df):
    work = Labelling(df, tmp_path/'o.csv', sorted(set(df['label'].astype(str))), background=False)
    truth = dict(zip(df['text'], df['label'].astype(str)))
    for _ in range(20): work.answer(truth[work.next()[0]])
    assert ' or ' in work.next()[1]

def test_what_cannot_be_labelled(tmp_path, df):
    with pytest.raises(TweetnbError, match='Name them: --labels'): Labelling(df, tmp_path/'o.csv')
    with pytest.raises(TweetnbError, match='more than there are digits'):
        Labelling(df, tmp_path/'o.csv', list('abcdefghij'))
    (tmp_path/'other.csv').write_text('id,name\n1,x\n')
    with pytest.raises(TweetnbError, match='no file of labelled tweets'):
        Labelling(df, tmp_path/'other.csv', ['a', 'b'])

def test_it_learns_in_the_background_and_asks_on_meanwhile(tmp_path, df):
    "Answers do not wait for a slow model; nothing is asked twice, and what is taken back is asked again at once"
    class Slow(Labelling):
        def _choose(self, *args):
            assert self.held.wait(20)
            return super()._choose(*args)
    work = Slow(df, tmp_path/'o.csv', ['a', 'b'])
    work.held = threading.Event()
    work.held.set()
    work.next()
    work.held.clear()
    for i in range(15): work.answer('ab'[i % 2]) if work.next() else None
    assert work.job and not work.job.done() and len(work.done) == 15
    last = work.done[-1][0]
    work.undo()
    work.held.set()
    work.job.result(20)
    assert work.next() == (last, 'again') and work.job is None
    for i in range(30): work.answer('ab'[i % 2]) if work.next() else None
    assert len({text for text, _ in work.done}) == len(work.done) == 44

def test_it_ends_where_the_curve_is_flat(tmp_path, df):
    truth, said = dict(zip(df['text'], df['label'].astype(str))), []
    work = Labelling(df, tmp_path/'o.csv', sorted(set(truth.values())), background=False, enough=.8)
    def key(): return str(work.labels.index(truth[work.queue[0][0]]) + 1)
    n = label_tweets(work, key, said.append)
    assert 50 <= n < 800 and work.flat and 'More labels change little' in said[-2]
    assert not Labelling(df, tmp_path/'o.csv').flat

def test_a_page_reads_the_pool_as_it_is_told(tmp_path):
    testing = pytest.importorskip('streamlit.testing.v1', reason="needs the extra 'app'")
    (tmp_path/'pool').write_text('{"text": "only this"}\n{"text": "not this"}\n', encoding='utf-8')
    args = str(tmp_path/'pool'), str(tmp_path/'mine.csv'), ('bad', 'good'), None, 'text', 'jsonl', 1
    code = f'from tweetnb.train.suggest import label_page; label_page(*{args!r})'
    page = testing.AppTest.from_string(code, default_timeout=60).run()
    page.button(key='1').click().run()
    assert page.success[0].value == 'The pool is empty.' and not page.exception
    assert pd.read_csv(args[1])['text'].tolist() == ['only this']
    with pytest.raises(TweetnbError): run_label_page(args[0], args[1], ['bad', 'good'], format='jpeg')

def test_a_page_asks_and_keeps(tmp_path):
    "The script that `tweetnb label --page` serves: answers, undo, skip, and a second visit that goes on"
    testing = pytest.importorskip('streamlit.testing.v1', reason="needs the extra 'app'")
    (tmp_path/'pool.csv').write_text('text\n<b>good</b> morning\nصباح الخير\nwet dog\n', encoding='utf-8')
    args = str(tmp_path/'pool.csv'), str(tmp_path/'mine.csv'), ('bad', 'good')
    def visit():
        code = f'from tweetnb.train.suggest import label_page; label_page(*{args!r})'
        return testing.AppTest.from_string(code, default_timeout=60).run()
    page = visit()
    page.button(key='1').click().run().button(key='2').click().run().button(key='u').click().run()
    assert pd.read_csv(args[1])['label'].tolist() == ['bad'] and not page.exception
    page = visit()
    assert page.caption[0].value == '1 tweets are labelled in mine.csv.' and not page.button(key='u').disabled
    page.button(key='2').click().run().button(key='s').click().run()
    assert page.success[0].value == 'The pool is empty.' and page.button(key='1').disabled
    assert len(pd.read_csv(args[1])) == 2
