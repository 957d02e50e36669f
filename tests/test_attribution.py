"""Attributions of every kind of model: complete, independent of the batch, safe to show."""
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

pytest.importorskip('captum', reason="needs the extra 'interpret'")

from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.clean import Cleaner
from tweetnb.data.read import read_tweets
from tweetnb.models.attribution import Attribution
from tweetnb.models.layers import MaskedBatchNorm
from tweetnb.models.linear import LinearClassifier
from tweetnb.models.network import NetworkClassifier
from tweetnb.models.recurrent import create_model, models
from tweetnb.text.tokens import TweetTokenizer

df = read_tweets(sample_path('tweets.csv'), label=True)
tokenizer = TweetTokenizer.word(df['text'].tolist(), max_vocab=300)
tiny = dict(model_type='bert', hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=140)
small = dict(pyramid=dict(widths=(3, 5, 6, 8)), gru_attention=dict(n_emb=9, n_hidden=8, n_last=7),
             ngram=dict(n_emb=6, n_buckets=40),
             bert=dict(encoder=tiny), bert_arabizi=dict(encoder=tiny), hf_classifier=dict(encoder=tiny))

def source(name, **kwargs):
    "A classifier with random weights, large enough to make a difference"
    torch.manual_seed(1)
    model = create_model(name, len(tokenizer), 3,
                         **{**small.get(name, dict(n_emb=7, n_hidden=6)), 'pad_id': tokenizer.pad_id, **kwargs}).eval()
    for key,p in model.named_parameters():
        if 'embedding' in key or 'ngrams' in key: p.data.normal_()
    for o in model.modules():
        if isinstance(o, MaskedBatchNorm): o.running_mean.normal_(); o.running_var.uniform_(.5, 2)
    return NetworkClassifier(model, tokenizer, Cleaner([]), ['negative', 'neutral', 'positive'], device='cpu')

each = pytest.mark.parametrize('name', list(models))
tweets = ['new personal best and i didn’t even die 😂', 'ugh',
          'the room smelled of wet dog and regret, of all the things that there are', '']


# --- attributions ----------------------------------------------------------------------------------------------------

@each
def test_weights_add_up(name):
    "Integrated gradients to a hundredth, the bag exactly; as many weights as tokens, in the order of the texts"
    it = source(name)
    found = it.explain(tweets)
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
    alone, beside = it.explain(tweets[0])[0], it.explain([tweets[0], 'word '*90])[0]
    np.testing.assert_allclose(alone.weights, beside.weights, atol=5e-3*max(1, np.abs(alone.weights).max()))
    assert alone.tokens == beside.tokens and alone.label == beside.label
    assert abs(alone.confidence - beside.confidence) < 1e-5

@each
def test_a_label_is_spoken_for(name):
    "The evidence for all labels adds up to nothing, and so do a token's weights; a label of one's own for each text"
    it = source(name)
    sums = sum(it.explain(tweets[0], label=o)[0].weights for o in it.labels)
    assert np.abs(sums).max() < 2e-2
    assert [o.label for o in it.explain(tweets[:3], label=it.labels)] == it.labels
    with pytest.raises(TweetnbError, match="unknown label 'angry'"): it.explain(tweets, label='angry')

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
    np.testing.assert_allclose(it.explain(tweets[0], method='occlusion')[0].weights, want, atol=1e-4)

def test_gradients_and_occlusion_of_a_linear_model_agree():
    "Where each token has a part of its own, both find it"
    it = source('ngram', max_n=1)
    a = it.explain(tweets[2])[0]
    with torch.no_grad():
        row = it.model.embedding.weight[torch.from_numpy(np.array(tokenizer.encode([tweets[2]])[0])).long()]
    head = it.model.head.weight.detach()
    want = (row @ (head - head.mean(0))[it.labels.index(a.label)]/len(row)).detach().numpy()
    np.testing.assert_allclose(a.weights, want, atol=1e-5)

@pytest.fixture(scope='module')
def baseline(): return LinearClassifier(Cleaner.preset('tweeteval')).fit(df['text'], df['label'])

@given(st.lists(st.text(st.sampled_from('aAoOrR\u0130ß 1!😂\t\u0301'), max_size=30), min_size=1, max_size=3))
def test_letters_share_what_they_weigh(spelling, texts):
    for o in spelling.explain(texts): assert abs(o.gap) < 1e-4 and len(o.weights) == len(o.tokens)

@pytest.fixture(scope='module')
def spelling():
    return LinearClassifier(chars=True, min_df=1).fit([*df['text'].head(300), 'aOr o\u0301 a', '\u0130Aa ßr'],
                                                      [*df['label'].head(300).astype(str), 'x', 'y'])

def test_the_linear_baseline_is_exact(baseline):
    texts = df['text'].head(200).tolist() + ['', '😂', 'wet wet wet dog']
    for o,probs in zip(baseline.explain(texts), baseline.predict_proba(texts).to_numpy()):
        assert abs(o.gap) < 1e-6 and abs(o.confidence - probs.max()) < 1e-6
        z = np.log(probs)
        bias = baseline.intercept - baseline.intercept.mean()
        k = baseline.labels.index(o.label)
        # what they add up to is the model's own evidence
        assert abs(o.total + bias[k] - (z - z.mean())[k]) < 1e-4

@pytest.mark.parametrize('method', ['gradients', 'occlusion'])
@pytest.mark.parametrize('how', ['mean', 'max'])
def test_every_window_of_a_text_is_explained(how, method):
    "Weights are the mean over the windows; a text of one window is explained as without them"
    it = source('bilstm')
    alone = it.explain(tweets[0], method=method)[0]
    it.max_len, it.windows = 12, (how, 4)
    long = ' '.join([*tweets, *tweets])
    found, short = it.explain([long, tweets[0]], method=method)
    words = it.tokenizer.encode([long])[0]
    assert len(found.tokens) == len(words) > 24 and not found.cut
    store, owner = it.tokenizer.windows([long], 12, 4)
    each, n = np.zeros((len(store), len(words))), len(store)
    it.windows = None
    for row, start in enumerate(store.info['starts']):
        text = long[found.spans[start][0]:found.spans[start + 11][1]]
        each[row, start:start + 12] = it.explain(text, label=found.label, method=method)[0].weights
    np.testing.assert_allclose(found.weights, each.mean(0), atol=1e-4)
    np.testing.assert_allclose(short.weights, alone.weights, atol=1e-4)
    it.windows = how, 4
    answers = it.predict([long, tweets[0]])
    assert [found.label, short.label] == answers['label'].tolist()
    np.testing.assert_allclose([found.confidence, short.confidence], answers['confidence'], atol=1e-5)

def test_attention_is_a_share():
    for name,kwargs in ('gru_attention', {}), ('bert', dict(head='attention')):
        for o in source(name, **kwargs).attention(tweets):
            assert (o.weights >= 0).all() and o.weights.sum() < 1 + 1e-5
    with pytest.raises(TweetnbError, match='no attention'): source('gru').attention(tweets)

def test_training_mode_and_grad_mode_come_back():
    it = source('bilstm')
    it.model.train()
    kernels = torch.backends.cudnn.enabled
    it.explain(tweets[0])
    assert it.model.training and torch.is_grad_enabled() and torch.backends.cudnn.enabled == kernels
    with pytest.raises(TweetnbError): it.explain(tweets[0], method='magic')
    assert it.model.training

class Page(HTMLParser):
    "Every tag and attribute, and the text that is left"
    def __init__(self, html):
        super().__init__(); self.tags,self.said = [],''
        self.feed(html); self.close()
    def handle_starttag(self, tag, attrs): self.tags.append((tag, dict(attrs)))
    def handle_data(self, data): self.said += data

hostile = st.one_of(st.text(max_size=40), st.sampled_from(['<script>alert(1)</script>',
                                                           '"><img src=x onerror=alert(1)>', "' onmouseover='x",
                                                           '</div><b>',
                                                           '&lt;b&gt;', 'javascript:alert(1)',
                                                           '\x1b[2J\x1b]0;owned\x07', '\u202egnp.exe']))

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
    o = it.explain(text)[0]
    if o.spans is not None: assert ''.join(s for s,_ in o.pieces()) == o.read
    assert Page(o.html(head=False)).said.count('<') <= o.html(head=False).count('&lt;') + text.count('<')

def test_a_very_long_tweet_is_cut():
    o = source('bilstm').explain('dreadful '*50_000, max_len=16)[0]
    assert len(o.tokens) == 16 and o.cut and o.pieces()[-1][0] == '…'
