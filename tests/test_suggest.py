"Which tweets to label: doubtful ones, none twice; and a file of labels that survives undo, skip and coming back"
import numpy as np
import pandas as pd
import pytest

from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.read import read_tweets
from tweetnb.models.classifier import Classifier
from tweetnb.models.linear import LinearClassifier
from tweetnb.train.suggest import Labelling, doubt, label_tweets, suggest


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
    work = Labelling(df, tmp_path/'o.csv', sorted(set(df['label'].astype(str))))
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
