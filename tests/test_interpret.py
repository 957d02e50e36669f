"""Attributions of every kind of model, calibration, the reject option, and mistakes beside the published algorithm in a plain loop."""
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip('captum', reason="needs the extra 'interpret'")

import tweetnb.models.bert, tweetnb.models.ngram                 # register their models
from tweetnb.evaluate.calibrate import RejectOption, Temperature, calibration_error, confidence, coverage, log_loss, reliability, strength, with_neutral
from tweetnb.data.clean import Cleaner
from tweetnb.core import TweetnbError, sample_path
from tweetnb.evaluate.explain import Attribution, attention, attribute, embedding_of
from tweetnb.models.layers import MaskedBatchNorm
from tweetnb.models.linear import LinearClassifier
from tweetnb.evaluate.mistakes import accuracy_by, confident_joint, label_errors, length_bins, out_of_fold, top_losses, wilson
from tweetnb.models.ngram import NgramClassifier
from tweetnb.data.read import read_tweets
from tweetnb.models.recurrent import create_model, models
from tweetnb.text.tokens import TweetTokenizer

df = read_tweets(sample_path('tweets.csv'), label=True)
tokenizer = TweetTokenizer.word(df['text'].tolist(), max_vocab=300)
tiny = dict(model_type='bert', hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=140)
small = dict(pyramid=dict(widths=(3, 5, 6, 8)), gru_attention=dict(n_emb=9, n_hidden=8, n_last=7), ngram=dict(n_emb=6, n_buckets=40),
             bert=dict(encoder=tiny), bert_arabizi=dict(encoder=tiny))

def source(name, **kwargs):
    "What `attribute` needs of a bundle, with random weights large enough to say something"
    torch.manual_seed(1)
    model = create_model(name, len(tokenizer), 3, **{**small.get(name, dict(n_emb=7, n_hidden=6)), 'pad_id': tokenizer.pad_id, **kwargs}).eval()
    for key,p in model.named_parameters():
        if 'embedding' in key or 'ngrams' in key: p.data.normal_()
    for o in model.modules():
        if isinstance(o, MaskedBatchNorm): o.running_mean.normal_(); o.running_var.uniform_(.5, 2)
    return SimpleNamespace(model=model, tokenizer=tokenizer, cleaner=Cleaner([]), labels=['negative', 'neutral', 'positive'])

each = pytest.mark.parametrize('name', list(models))
tweets = ['new personal best and i didn’t even die 😂', 'ugh', 'the room smelled of wet dog and regret, of all the things that there are', '']


# --- attributions ----------------------------------------------------------------------------------------------------

@each
def test_weights_add_up(name):
    "Integrated gradients to a hundredth, the bag exactly; as many weights as tokens, in the order of the texts"
    it = source(name)
    found = attribute(it, tweets)
    assert [o.text for o in found] == tweets
    for o in found:
        assert len(o.tokens) == len(o.weights) and np.isfinite(o.weights).all() and 0 <= o.confidence <= 1
        if o.total is not None: assert abs(o.gap) < max(.02*abs(o.total), 2e-3), (name, o.gap, o.total)
    assert found[0].method == ('exact' if name == 'ngram' else 'gradients') and not it.model.training
    assert found[0].total is not None

@each
def test_weights_do_not_depend_on_the_batch(name):
    "A tweet alone, and beside one that is far longer"
    it = source(name)
    alone, beside = attribute(it, tweets[0])[0], attribute(it, [tweets[0], 'word '*90])[0]
    np.testing.assert_allclose(alone.weights, beside.weights, atol=5e-3*max(1, np.abs(alone.weights).max()))
    assert alone.tokens == beside.tokens and alone.label == beside.label and abs(alone.confidence - beside.confidence) < 1e-5

@each
def test_a_label_is_spoken_for(name):
    "The evidence for all labels adds up to nothing, and so do a token's weights; a label of one's own for each text"
    it = source(name)
    sums = sum(attribute(it, tweets[0], label=o)[0].weights for o in it.labels)
    assert np.abs(sums).max() < 2e-2
    assert [o.label for o in attribute(it, tweets[:3], label=it.labels)] == it.labels
    with pytest.raises(TweetnbError, match="no label 'angry'"): attribute(it, tweets, label='angry')

@each
def test_occlusion_is_what_is_lost(name):
    "By a plain loop"
    it = source(name)
    ids = torch.from_numpy(np.array(tokenizer.encode([tweets[0]])[0])).long()[None]
    n = torch.tensor([ids.shape[1]])
    with torch.no_grad():
        z = it.model(ids, n)[0].double(); k = int(z.argmax())
        def told(ids): o = it.model(ids, n)[0].double(); return float(o[k] - o.mean())
        want = []
        for i in range(ids.shape[1]):
            hidden = ids.clone(); hidden[0,i] = tokenizer.unk_id
            want.append(told(ids) - told(hidden))
    np.testing.assert_allclose(attribute(it, tweets[0], method='occlusion')[0].weights, want, atol=1e-4)

def test_gradients_and_occlusion_of_a_linear_model_agree():
    "Where each token has a part of its own, both find it"
    it = source('ngram', max_n=1)
    a = attribute(it, tweets[2])[0]
    with torch.no_grad(): row = it.model.embedding.weight[torch.from_numpy(np.array(tokenizer.encode([tweets[2]])[0])).long()]
    head = it.model.head.weight.detach()
    want = (row @ (head - head.mean(0))[it.labels.index(a.label)]/len(row)).detach().numpy()
    np.testing.assert_allclose(a.weights, want, atol=1e-5)

@pytest.fixture(scope='module')
def baseline(): return LinearClassifier(Cleaner.preset('tweeteval')).fit(df['text'], df['label'])

@given(st.lists(st.text(st.sampled_from('aAoOrR\u0130ß 1!😂\t\u0301'), max_size=30), min_size=1, max_size=3))
def test_letters_share_what_they_weigh(spelling, texts):
    for o in attribute(spelling, texts): assert abs(o.gap) < 1e-4 and len(o.weights) == len(o.tokens)

@pytest.fixture(scope='module')
def spelling(): return LinearClassifier(chars=True, min_df=1).fit([*df['text'].head(300), 'aOr o\u0301 a', '\u0130Aa ßr'], [*df['label'].head(300).astype(str), 'x', 'y'])

def test_the_linear_baseline_is_exact(baseline):
    texts = df['text'].head(200).tolist() + ['', '😂', 'wet wet wet dog']
    for o,probs in zip(attribute(baseline, texts), baseline.predict_proba(texts).to_numpy()):
        assert abs(o.gap) < 1e-6 and abs(o.confidence - probs.max()) < 1e-6
        z = np.log(probs)
        bias = baseline.pipe[-1].intercept_ - baseline.pipe[-1].intercept_.mean()
        k = baseline.labels.index(o.label)
        assert abs(o.total + bias[k] - (z - z.mean())[k]) < 1e-4                # what they add up to is the model's own evidence

def test_attention_is_a_share():
    for name,kwargs in ('gru_attention', {}), ('bert', dict(head='attention')):
        for o in attention(source(name, **kwargs), tweets):
            assert (o.weights >= 0).all() and o.weights.sum() < 1 + 1e-5
    with pytest.raises(TweetnbError, match='no attention'): attention(source('gru'), tweets)

def test_training_mode_and_grad_mode_come_back():
    it = source('bilstm'); it.model.train()
    kernels = torch.backends.cudnn.enabled
    attribute(it, tweets[0])
    assert it.model.training and torch.is_grad_enabled() and torch.backends.cudnn.enabled == kernels
    with pytest.raises(TweetnbError): attribute(it, tweets[0], method='magic')
    assert it.model.training

class Page(HTMLParser):
    "Every tag and attribute, and the text that is left"
    def __init__(self, html):
        super().__init__(); self.tags,self.said = [],''
        self.feed(html); self.close()
    def handle_starttag(self, tag, attrs): self.tags.append((tag, dict(attrs)))
    def handle_data(self, data): self.said += data

hostile = st.one_of(st.text(max_size=40), st.sampled_from(['<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "' onmouseover='x", '</div><b>',
                                                           '&lt;b&gt;', 'javascript:alert(1)', '\x1b[2J\x1b]0;owned\x07', '\u202egnp.exe']))

@settings(max_examples=60, deadline=None)
@given(tokens=st.lists(hostile, min_size=1, max_size=5), label=hostile, seed=st.integers(0, 9))
def test_hostile_text_stays_text(tokens, label, seed):
    "Only our own tags and attributes are there, and in a terminal no code but colours"
    o = Attribution(' '.join(tokens), tokens, np.random.default_rng(seed).normal(size=len(tokens)), label, .5)
    page = Page(o.html())
    assert {t for t,_ in page.tags} <= {'div', 'b', 'small', 'span'}
    assert {a for _,attrs in page.tags for a in attrs} <= {'dir', 'style', 'title'}
    codes = re.sub(r'\x1b\[[\d;]*m', '', o.ansi())
    assert not re.search(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]', codes)

@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_is_shown_whole(text):
    "What is coloured is the tweet, not one letter more or less"
    it = source('ngram')
    o = attribute(it, text)[0]
    if o.spans is not None: assert ''.join(s for s,_ in o.pieces()) == o.read
    assert Page(o.html(head=False)).said.count('<') <= o.html(head=False).count('&lt;') + text.count('<')

def test_a_very_long_tweet_is_cut():
    o = attribute(source('bilstm'), 'dreadful '*50_000, max_len=16)[0]
    assert len(o.tokens) == 16 and o.cut and o.pieces()[-1][0] == '…'


# --- calibration and the reject option -------------------------------------------------------------------------------

def some_probs(seed, n=200, k=3, sharp=1.):
    "Probabilities and labels that agree with them more or less"
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, k))*2
    p = np.exp(z)/np.exp(z).sum(1, keepdims=True)
    y = np.array([rng.choice(k, p=o) for o in p])
    q = p**sharp/(p**sharp).sum(1, keepdims=True)
    return pd.DataFrame(q, columns=list('abcdefgh'[:k])), np.array(list('abcdefgh'))[y]

@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), k=st.integers(2, 5), sharp=st.sampled_from([.01, .3, 1., 3., 30., 300.]))
def test_a_temperature_never_makes_it_worse(seed, n, k, sharp):
    "On the tweets that it was fitted on; answers never change"
    probs, true = some_probs(seed, n, k, sharp)
    t = Temperature.fit(probs, true)
    assert log_loss(t(probs), true) <= log_loss(probs, true) + 1e-9
    np.testing.assert_allclose(t(probs).sum(axis=1), 1, atol=1e-9)
    assert (t(probs).to_numpy()[np.arange(n), probs.to_numpy().argmax(1)] >= t(probs).max(axis=1).to_numpy() - 1e-12).all()

@pytest.mark.parametrize('sharp', [.5, 1., 2., 4.])
def test_the_temperature_is_found(sharp):
    "Probabilities that were sharpened `sharp` times want that temperature"
    probs, true = some_probs(3, 20_000, 3, sharp)
    assert abs(Temperature.fit(probs, true).value/sharp - 1) < .05
    assert calibration_error(Temperature.fit(probs, true)(probs), true) < .02

def test_calibration_error_by_a_plain_loop():
    probs, true = some_probs(0, 500, 3, 2.)
    p, want = probs.to_numpy(), 0
    for b in range(15):
        rows = [i for i in range(500) if min(int(p[i].max()*15), 14) == b]
        if rows: want += len(rows)/500*abs(np.mean([p[i].max() for i in rows]) - np.mean([probs.columns[p[i].argmax()] == true[i] for i in rows]))
    assert abs(calibration_error(probs, true) - want) < 1e-9 and reliability(probs, true)['tweets'].sum() == 500

@settings(max_examples=60, deadline=None)
@given(scores=arrays(float, st.integers(1, 50), elements=st.floats(0, 1, width=32)), share=st.floats(0, 1))
def test_the_stated_share_is_rejected(scores, share):
    "Never more than stated, and where no scores are equal less than one tweet fewer"
    n = (RejectOption.at_share(scores, share)(['a']*len(scores), scores) == 'neutral').sum()
    assert n <= np.ceil(share*len(scores)) + 1e-9
    if len(set(scores)) == len(scores): assert n >= share*(len(scores) - 1) - 1e-6

def test_coverage_and_neutral():
    probs, true = some_probs(5, 400, 2)
    right = probs.idxmax(axis=1).to_numpy() == true
    curve = coverage(confidence(probs), right)
    for i in 0, 99, 399:
        kept = confidence(probs) >= curve['threshold'][i]
        assert abs(curve['accuracy'][i] - right[kept].mean()) < 1e-9 and curve['answered'][i] == (i + 1)/400
    answers = with_neutral(probs)
    assert abs((answers == 'neutral').mean() - 1/3) < .01
    assert (answers[answers != 'neutral'] == probs.idxmax(axis=1).to_numpy()[answers != 'neutral']).all()
    assert confidence(probs)[answers == 'neutral'].max() < confidence(probs)[answers != 'neutral'].min()
    assert strength([SimpleNamespace(weights=[-3, 1, 2, .5])])[0] == 6

def test_neutral_gains_where_neutral_words_say_little():
    "What it gains on real tweets is measured in a benchmark; here a tweet without any trained word must be the one that is rejected"
    said = dict(positive='good great lovely happy', negative='bad awful sad angry', neutral='table train seven blue')
    rng = np.random.default_rng(0)
    rows = [(' '.join(['the', *rng.choice(words.split(), 3)]), label) for label,words in said.items() for _ in range(60)]
    table = pd.DataFrame(rows, columns=['text', 'label'])
    two = table[table['label'] != 'neutral']
    model = LinearClassifier().fit(two['text'], two['label'])
    probs, true = model.predict_proba(table['text']), table['label'].to_numpy()
    assert (probs.idxmax(axis=1).to_numpy() == true).mean() <= 2/3
    for scores in None, strength(attribute(model, table['text'].tolist())): assert (with_neutral(probs, scores) == true).mean() > .95


# --- mistakes --------------------------------------------------------------------------------------------------------

def published_joint(probs, y):
    "Northcutt et al., 2021, algorithm 1: the thresholds, then each tweet into one cell of the joint"
    n, m = probs.shape
    t = [np.mean([probs[i][j] for i in range(n) if y[i] == j]) if (y == j).any() else np.inf for j in range(m)]
    C = np.zeros((m, m), dtype=int)
    for i in range(n):
        above = [j for j in range(m) if probs[i][j] >= t[j] - 1e-9]
        if above: C[y[i]][max(above, key=lambda j: (probs[i][j], -j))] += 1
    return C

@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), k=st.integers(2, 5), wrong=st.floats(0, .5))
def test_the_confident_joint_is_the_published_one(seed, n, k, wrong):
    rng = np.random.default_rng(seed)
    probs, true = some_probs(seed, n, k)
    y = probs.columns.get_indexer(true)
    y = np.where(rng.random(n) < wrong, rng.integers(0, k, n), y)
    joint, likely = confident_joint(probs.to_numpy(), y)
    assert (joint == published_joint(probs.to_numpy(), y)).all()
    table = pd.DataFrame(dict(text=[f't{i}' for i in range(n)], label=probs.columns.to_numpy()[y]))
    suspects = label_errors(table, probs)
    assert set(suspects.index) <= set(np.flatnonzero(likely != y)) and suspects['margin'].is_monotonic_decreasing
    assert len(suspects) <= joint.sum() - joint.trace()

def test_out_of_fold_has_not_seen_the_tweet():
    "A tweet with a word of its own cannot be known by that word"
    some = df.head(300).reset_index(drop=True)
    p = out_of_fold(some)
    assert p.index.equals(some.index) and np.allclose(p.sum(axis=1), 1, atol=1e-5)
    seen = LinearClassifier().fit(some['text'], some['label']).predict_proba(some['text'])
    assert log_loss(p, some['label']) > log_loss(seen, some['label'])

def test_top_losses_by_a_plain_loop(baseline):
    some = df.sample(200, random_state=0)
    p = baseline.predict_proba(some['text'])
    want = sorted(((-np.log(p[l].iloc[i]), t) for i,(l,t) in enumerate(zip(some['label'].astype(str), some['text']))), reverse=True)[:10]
    found = top_losses(baseline, some, 10)
    np.testing.assert_allclose(found['loss'], [o for o,_ in want], rtol=1e-5)
    assert found['text'].tolist() == [t for _,t in want] and some.loc[found.index, 'text'].tolist() == found['text'].tolist()

@settings(max_examples=30, deadline=None)
@given(n=st.lists(st.integers(1, 30), min_size=1, max_size=60), bins=st.integers(1, 8))
def test_groups_count_every_tweet(n, bins):
    texts = [' '.join(['w']*k) for k in n]
    by = length_bins(texts, bins)
    assert not by.isna().any() and len(by) == len(n)
    for name,k in zip(by.astype(str), n):
        low, _, high = name.partition('–')
        assert int(low) <= k <= int(high or low)
    table = accuracy_by(by, ['a']*len(n), ['a' if k % 2 else 'b' for k in n])
    assert table['tweets'].sum() == len(n) and (table['low'] <= table['accuracy'] + 1e-9).all() and (table['accuracy'] <= table['high'] + 1e-9).all()

def test_wilson_covers():
    "About 95 of 100 intervals hold the true share"
    right = np.random.default_rng(0).binomial(40, .3, 4000)
    low, high = wilson(right, 40)
    assert .93 < ((low <= .3) & (.3 <= high)).mean() < .97
