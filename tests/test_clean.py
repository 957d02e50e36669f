"""Cleaning: what no notebook cell can hold, properties over all of Unicode, and the real tweets"""
import csv, gzip, json, re, subprocess, sys, time

import emoji as emoji_pkg, ftfy, pandas as pd, pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tweetnb.clean import PRESETS, STEPS, Cleaner, emoji, mentions, mojibake, step
from tweetnb.core import TweetnbError, data_path

CLEANERS = {name: Cleaner.preset(name) for name in PRESETS}
FRAGMENTS = ['&', 'amp', ';', '&amp;', '&lt;', '&#38;', '&#x40;', '&#64;', '&hearts;', '&Atilde;&copy;', '&#894;', '\u037e', '\u212a', '＆', '＠', '＃', 'http',
    's://', '://', 'htttp://', 'www.', 'wwww.a.com', 'a.com', '.', '/', 't.co/x', '@', 'john', '@John', '@user', 'someone', 'RT', '#', '#HappyMonday', 'x' * 5,
    'A', 'a', 'hhhh', '3', '7', '9al', '3.5', ',', "'", '’', '“', '…', '_', '-', '<br />', '<', 'br', '>', ' ', '  ', '\n', '\t', '\0', '\x1e', '\x85', '\xa0',
    '\u2028', '\u200b', '\u200d', '\ufe0f', '\ufe0e', '\u20e3', '❤️', '❤', '😂', '👍🏽', '🏽', '👨‍👩‍👧', '🇹🇳', '🇹', '3️⃣', '#️⃣', 'Ⓜ️', '‼️', '™', 'ℹ️', '🏴󠁧󠁢󠁥󠁮󠁧󠁿', '🫩',
    'é', 'e\u0301', 'Ã©', 'â\x99¥', 'â€™', 'Ã ', 'œ', 'ﬁ', '𝓵', 'İ', 'ß', 'Σ', 'ς', 'ح', 'नमस्ते', '日本', '\ud800', '\U0010ffff', '\ufffd']
# `st.characters()` also makes lone surrogates, which broken JSON brings in
tweets = st.one_of(st.text(st.characters(exclude_categories=()), max_size=40), st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(''.join))
needs = lambda *parts: pytest.mark.skipif(not data_path(*parts).exists(), reason=f"needs TWEETNB_DATA/{'/'.join(parts)}")


def real(limit=20_000):
    "Real tweets from every source there is"
    found = []
    for p in sorted(data_path('sentiment140').glob('*.txt.gz')): found += gzip.open(p, 'rt', encoding='utf-8', errors='replace').read().split('\n')[:limit]
    for p in sorted(data_path('tweeteval').glob('*/train_text.txt')): found += p.read_text(encoding='utf-8').split('\n')[:limit]
    for p in [data_path('authors', 'raw_tweets.csv'), data_path('arabizi', 'Test.csv')]:
        if p.exists(): found += [r['text'] for r in csv.DictReader(open(p, encoding='utf-8', newline=''))][:limit]
    return found


@pytest.mark.parametrize('name', PRESETS)
@given(tweets)
@settings(max_examples=400, deadline=None)
def test_presets_are_idempotent(name, t):
    once = CLEANERS[name](t)
    assert CLEANERS[name](once) == once


@pytest.mark.parametrize('name', PRESETS)
@given(st.lists(tweets, max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_list_is_cleaned_as_its_texts_are(name, ts):
    assert CLEANERS[name].apply(ts) == [CLEANERS[name](t) for t in ts]


steps = st.sampled_from([n for n in STEPS if n != 'spell']).flatmap(lambda n: st.sampled_from({
    'links': [(n, {}), (n, {'to': 'http'}), (n, {'drop_tweet': True})], 'mentions': [(n, {}), (n, {'to': '@user'}), (n, {'to': 'someone'})],
    'hashtags': [(n, {'how': h}) for h in ('sign', 'split', 'keep')], 'emoji': [(n, {'how': h, 'words': w}) for h in ('keep', 'alias', 'drop') for w in (True, False)],
    'unicode': [(n, {'form': f, 'quotes': q}) for f in ('NFC', 'NFKC') for q in (True, False)], 'digits': [(n, {}), (n, {'to': '0'})],
    'punctuation': [(n, {}), (n, {'inside': "'"}), (n, {'keep': ':_@#'})], 'repeats': [(n, {'max': m}) for m in (1, 2, 3)]}.get(n, [(n, {})])))


@given(st.lists(steps, max_size=8), st.lists(tweets, max_size=5))
@settings(max_examples=500, deadline=None)
def test_any_cleaner_keeps_count_order_and_its_saved_form(ss, ts):
    c = Cleaner(ss)
    out = c.apply(ts)
    assert out == [c(t) for t in ts]
    assert c.apply(out) == out
    again = Cleaner.from_dict(json.loads(json.dumps(c.to_dict())))
    assert again == c and hash(again) == hash(c) and again.apply(ts) == out


@given(tweets)
def test_no_steps_change_nothing(t): assert Cleaner([])(t) == t


@given(tweets)
@settings(max_examples=500, deadline=None)
def test_the_suspects_of_mojibake_are_all_that_ftfy_would_change(t):
    t = t.replace('\0', '')
    assert mojibake(t) == ftfy.fix_encoding(t).replace('\0', ' ')


@given(st.lists(st.sampled_from(sorted(emoji_pkg.EMOJI_DATA)), min_size=1, max_size=4), st.sampled_from(['', ' ', 'a']))
@settings(max_examples=500, deadline=None)
def test_emoji_are_kept_or_named_never_lost(es, sep):
    t = sep.join(es)
    kept = Cleaner(['entities', 'mojibake', ('unicode', {'form': 'NFKC'}), 'mentions', 'hashtags', ('emoji', {'how': 'keep'}), 'case', 'digits', 'punctuation'])(t)
    assert [c for c in kept if c not in ' a'] == [c for c in t if c not in ' a']
    assert len(re.findall(r' :[^ ]+: ', emoji(' '.join(es), words=False))) == len(es)


def test_every_emoji_alone_is_named_as_the_emoji_package_does():
    for e in emoji_pkg.EMOJI_DATA: assert emoji(e, words=False).strip() == emoji_pkg.demojize(e), e


@needs('tweeteval', 'sentiment', 'train_text.txt')
def test_real_tweets_in_one_call_as_one_by_one():
    ts = real(3000)
    for c in CLEANERS.values():
        out = c.apply(ts)
        assert out == [c(t) for t in ts] and c.apply(out) == out
    assert all(mojibake(t) == ftfy.fix_encoding(t) for t in real() if '\0' not in t)
