"""The search for the best classifier: any time, on any table, and after a crash"""
import os, signal, subprocess, sys, time

import pandas as pd
import pytest

import tweetnb as tn
from tweetnb import auto
from tweetnb.auto import Candidate, Found, Search, _affordable_words, ladder, make_splits, try_candidate
from tweetnb.core import TweetnbError, sample_path
from tweetnb.train.encoders import encoder_path
from tweetnb.train.fit import default_config

job = """
import sys
import pandas as pd, tweetnb as tn
df = pd.read_csv(sys.argv[1], keep_default_na=False)[:600]
show = lambda row: print(row['candidate'], flush=True)
result = tn.train(df, minutes=.3, pretrained='none', checkpoints=sys.argv[2], out=sys.argv[3], show=show)
"""

def start(*args):
    command = [sys.executable, '-c', job, str(sample_path('tweets.csv')), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})


def test_a_killed_search_goes_on_from_its_candidates(tmp_path):
    first = start(tmp_path/'kept', tmp_path/'mood')
    assert first.stdout.readline() == 'TF-IDF\n'
    while not (tmp_path/'kept'/'TF-IDF'/'candidate.json').is_file(): time.sleep(.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = (tmp_path/'kept'/'TF-IDF'/'bundle'/'model.safetensors').read_bytes()
    second = start(tmp_path/'kept', tmp_path/'mood')
    said = second.communicate()[0].splitlines()
    assert second.returncode == 0 and said[0] == 'TF-IDF' and said.count('TF-IDF') == 1
    assert (tmp_path/'kept'/'TF-IDF'/'bundle'/'model.safetensors').read_bytes() == before
    assert tn.load(tmp_path/'mood').predict('hello').shape[0] == 1


def test_checkpoints_of_other_tweets_are_refused(tmp_path):
    df = pd.read_csv(sample_path('tweets.csv'), keep_default_na=False)
    tn.train(df[:300], minutes=.1, pretrained='none', checkpoints=tmp_path)
    with pytest.raises(TweetnbError, match='other tweets'):
        tn.train(df[:400], minutes=.1, pretrained='none', checkpoints=tmp_path)


def test_integer_labels_and_a_rare_one(tmp_path):
    "A label of one tweet, numbers as labels, and texts that are nothing but emoji"
    df = pd.read_csv(sample_path('tweets.csv'), keep_default_na=False)[:300]
    numbers = df['label'].map({o: i - 1 for i,o in enumerate(sorted(df['label'].unique()))})
    df = pd.concat([df.assign(label=numbers), pd.DataFrame(dict(text=['😂😂', '❤'], label=[7, -1]))])
    result = tn.train(df, minutes=.1, pretrained='none', out=tmp_path/'mood')
    assert set(tn.load(tmp_path/'mood').labels) <= {-1, 0, 1, 7}
    assert not result.candidates['note'].str.startswith('failed').any()


@pytest.mark.parametrize('first', ['import tweetnb.train.fit as f', 'from tweetnb.train.fit import fit', 'tn.fit'])
def test_train_can_be_called_whatever_was_imported_before(first):
    "`tweetnb.train` is a chapter as well, and its import puts the package in the place of the function"
    code = f'import inspect, tweetnb as tn\n{first}\nfrom tweetnb import train\nimport tweetnb.train.losses as losses\n'
    code += 'first = next(iter(inspect.signature(tn.train).parameters))\n'
    code += 'print(train is tn.train, callable(train), first, losses.__name__)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout == 'True True data tweetnb.train.losses\n', done.stderr


def test_the_first_candidate_is_trained_however_short_the_time():
    df = pd.read_csv(sample_path('tweets.csv'), keep_default_na=False)[:400]
    result = tn.train(df, minutes=.001, pretrained='none')
    assert result.candidates['candidate'].iloc[0] == 'TF-IDF' and result.scores.accuracy > .3


def test_texts_in_which_no_word_occurs_twice():
    "TF-IDF of words has nothing to count, and links to choose about"
    signs = [chr(0x4e00 + i) for i in range(120)]
    df = pd.DataFrame(dict(text=['see http://t.co/1', *signs[1:]], label=['a', 'b']*60))
    result = tn.train(df, minutes=.02, pretrained='none')
    assert len(result.test) and set(result.classifier.labels) == {'a', 'b'}


def test_a_label_so_rare_that_a_sample_lacks_it():
    "How long TF-IDF takes is tried on 1,000 tweets, which here all have the same label"
    sample = pd.read_csv(sample_path('tweets.csv'), keep_default_na=False)['text'].tolist()
    train = pd.DataFrame(dict(text=[f'{o} {i}' for i in range(3) for o in sample], label='no', split='train'))
    tried = train.sample(1000, random_state=42).index
    train.loc[train.index.difference(tried)[:5], 'label'] = 'yes'
    search = Search(pd.concat([train, train[:50].assign(split='valid')], ignore_index=True), 'macro_f1', 1)
    config = default_config('tfidf')
    assert _affordable_words(search, config) is config


def test_of_many_tweets_no_more_validate_than_are_needed():
    df = pd.DataFrame(dict(text=[f'tweet {i}' for i in range(120_000)], label=['a', 'b', 'c', 'c']*30_000))
    assert make_splits(df)['split'].value_counts().to_dict() == dict(train=107_000, valid=3_000, test=10_000)
    counts = make_splits(df[:20_000])['split'].value_counts()
    assert counts['test'] == 2_000 and counts['valid'] == 1_800


@pytest.mark.parametrize('pace, share', [(.08, 1), (.065, .4), (.026, None), (.001, None)])
def test_a_transformer_too_slow_for_a_third_of_the_tweets_waits_for_the_small_encoder(monkeypatch, pace, share):
    "The encoder leaves it time if it reads a tenth of them"
    tried = []
    monkeypatch.setattr(auto, 'try_candidate', lambda search, candidate, reserve: tried.append(candidate))
    monkeypatch.setattr(auto, '_per_tweet', lambda search, config: pace if config.model == 'bert' else .001)
    df = pd.DataFrame(dict(text=[f'tweet {i}' for i in range(60_000)], label=['a', 'b', 'c']*20_000))
    search = Search(make_splits(df), 'macro_f1', 10)
    auto._try_in_turn(search, ladder(encoder_path(), packaged=encoder_path()), 30)
    last = ['tweet encoder, fine-tuned', 'transformer, fine-tuned']
    assert [o.name for o in tried[-2:]] == (last if share else last[::-1])
    assert tried[-2].share == (share or 1)


@pytest.mark.parametrize('pace, folds, epochs', [(.003, 5, 3), (.014, 3, 3), (.04, 1, 3), (.26, 0, None)])
def test_where_time_is_short_folds_go_before_epochs(monkeypatch, pace, folds, epochs):
    monkeypatch.setattr(auto, '_per_tweet', lambda search, config: pace)
    df = pd.DataFrame(dict(text=[f'tweet {i}' for i in range(4000)], label=['a', 'b']*2000))
    search = Search(make_splits(df), 'macro_f1', 10)
    plan = auto._configure(search, ladder(encoder_path())[-1], 18)
    assert plan.folds == folds
    assert plan.config.epochs == epochs if folds else 'one epoch needs' in plan.why


@pytest.mark.parametrize('pace, freeze', [(.002, None), (.02, 1/3), (.05, 1/3)])
def test_a_transformer_that_cannot_read_every_tweet_twice_freezes_its_lower_layers(monkeypatch, pace, freeze):
    "A frozen step takes less, and the plan counts on that"
    monkeypatch.setattr(auto, '_per_tweet', lambda search, config: pace*(2/3 if config.freeze else 1))
    df = pd.DataFrame(dict(text=[f'tweet {i}' for i in range(20_000)], label=['a', 'b']*10_000))
    search = Search(make_splits(df), 'macro_f1', 10)
    last = Candidate('transformer, fine-tuned', default_config('bert', pretrained=encoder_path()), 'steps')
    config = auto._configure(search, last, 30).config
    assert config.freeze == freeze
    assert (config.limit is None) == (pace < .05)


def test_candidates_are_compared_on_what_all_have_answered():
    "One that is right in the first fold alone is as good there as one that has answered nothing else"
    df = pd.DataFrame(dict(text=[f'tweet {i}' for i in range(100)], label=['a', 'b']*50))
    search = Search(make_splits(df), 'accuracy', 1)
    right = pd.get_dummies(search.valid['label']).astype(float)
    first = search.valid['fold'] == 0
    whole = right.where(first, 1 - right, axis=0)
    search.found = dict(part=Found(None, right[first], None, 0, 0), whole=Found(None, whole, None, 0, 0))
    assert search.score(whole) == first.mean()
    assert [search.score(o) for o in search.shared.values()] == [1, 1]


def test_a_candidate_of_one_fold_is_kept_and_read_again(monkeypatch, tmp_path):
    monkeypatch.setattr(auto, '_affordable_folds', lambda search, training, seconds: 1)
    df = tn.read_tweets(sample_path('tweets.csv'), label=True)[:150]
    candidates = [o for o in ladder(packaged=encoder_path()) if o.name in ('TF-IDF', 'tweet encoder, fine-tuned')]
    def tried():
        search = Search(make_splits(df), 'macro_f1', 10, checkpoints=tmp_path)
        for o in candidates: try_candidate(search, o)
        return search
    first, again = tried(), tried()
    assert 'validated on 1 of 5 folds' in first.rows[1]['note']
    assert again.rows == first.rows
    for name, found in first.found.items():
        assert again.found[name].classifier.temperature == found.classifier.temperature
        pd.testing.assert_frame_equal(again.found[name].probs, found.probs, check_column_type=False)
    answered = first.valid.index[first.valid['fold'] == 0]
    _, mean = auto._ensemble(again)
    assert mean.index.tolist() == answered.tolist()


def test_networks_of_whole_words_come_before_a_transformer_that_cuts_them():
    tunisian = ['bravo 3lik weldi rabi m3ak', 'barcha 7keya fergha w b3ida 3al we9i3']
    names = [o.name for o in ladder(encoder_path(), packaged=encoder_path(), texts=tunisian)]
    assert names[2:5] == ['word pieces', 'word pieces, seed 2', 'transformer, linear head']
    english = [o.name for o in ladder(encoder_path(), packaged=encoder_path(), texts=['such a lovely day today'])]
    assert not any(o.startswith('word pieces') for o in english)
