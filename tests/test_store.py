"The store on disk: any way to hold texts, damage, several processes and kills"
import os, pickle, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_tokens import KINDS, TRAIN, toks  # noqa: F401, a fixture

from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.audit import duplicate_key
from tweetnb.data.read import read_tweets
from tweetnb.ship.bundle import load
from tweetnb.text import store
from tweetnb.text.store import MappedStore, build_store, store_key
from tweetnb.text.tokens import TokenStore, TweetTokenizer
from tweetnb.train.fit import config_from, fit

class Cleaner:
    "Lower case, slowly, leaving a trace of who did it"
    def __init__(self, log=None, sleep=0, fail=False): self.log, self.sleep, self.fail = log, sleep, fail
    def apply(self, texts):
        time.sleep(self.sleep)
        if self.fail: raise KeyError('the cleaner broke')
        if self.log:
            with open(self.log, 'a') as f: f.write(f'{os.getpid()}\n')
        return [t.lower() for t in texts]
    def to_dict(self): return {'steps': ['lower']}


def folders(root): return sorted(p.name for p in Path(root).iterdir() if p.is_dir())


@pytest.mark.parametrize('workers', [1, 2, 3])
def test_built_store_is_the_encoded_one(toks, tmp_path, workers):
    lines,before = TRAIN * 3, os.environ.get('TOKENIZERS_PARALLELISM')      # other libraries may have set it
    for kind in [*KINDS, 'pretrained']:
        tok = toks[kind]
        got = build_store(lines, tok, Cleaner(), dir=tmp_path, workers=workers, block=50, max_len=7)
        want = tok.encode([t.lower() for t in lines], max_len=7)
        assert (got.ids == want.ids).all() and (got.offsets == want.offsets).all() and got.info == want.info
        assert isinstance(got.ids, np.memmap) and not got.ids.flags.writeable
    assert len(folders(tmp_path)) == 6
    assert os.environ.get('TOKENIZERS_PARALLELISM') == before


def test_spawned_workers(toks, tmp_path, monkeypatch):
    "Where forking is not safe, and processes are asked for"
    monkeypatch.setattr(store.sys, 'platform', 'elsewhere')
    assert store._n_workers(None, 9) == 1
    got = build_store(TRAIN, toks['word'], Cleaner(), dir=tmp_path, workers=2, block=100)
    assert (got.ids == toks['word'].encode([t.lower() for t in TRAIN]).ids).all()


@pytest.mark.parametrize('lines', [[], [''], ['', ' '], ['good']])
def test_small_stores(toks, tmp_path, lines):
    for _ in range(2):
        store = build_store(lines, toks['word'], dir=tmp_path)
        assert len(store) == len(lines) and (store.ids == toks['word'].encode(lines).ids).all()


def test_key_knows_all_that_matters(toks):
    class Other(Cleaner):
        def to_dict(self): return {'steps': ['lower', 'strip']}

    word, lines = toks['word'], ['ab', 'c']
    ways = [(lines, word), (['a', 'bc'], word), (['ab', 'c', ''], word), (lines[::-1], word), (lines, toks['bpe']),
            (lines, word, Cleaner()), (lines, word, Other()), (lines, word, None, 9), ([], word), ([''], word)]
    keys = [store_key(*w) for w in ways]
    assert len(set(keys)) == len(keys)
    assert store_key(pa.chunked_array([['ab'], ['c']]).to_pandas(), word) == keys[0]
    assert store_key(pd.Series(['x', 'ab', 'c'], dtype='str').iloc[1:], word) == keys[0]


def test_all_ways_to_hold_texts_have_one_key(toks):
    lines = ['good', 'so it goes 😩', '']
    ways = (lines, tuple(lines), np.array(lines), np.array(lines, object), pd.Series(lines),
            pd.Series(lines, dtype='str'), pd.Series(lines, dtype=object), pd.Index(lines))
    assert len({store_key(w, toks['word']) for w in ways}) == 1


def test_store_survives_pickling(toks, tmp_path):
    disk = build_store(TRAIN, toks['word'], dir=tmp_path)
    text = pickle.dumps(disk)
    assert len(text) < 1000 and (pickle.loads(text).ids == disk.ids).all()
    memory = toks['word'].encode(TRAIN)
    assert (pickle.loads(pickle.dumps(memory)).ids == memory.ids).all()


def test_any_flipped_byte_is_found_and_built_again(toks, tmp_path):
    store = build_store(TRAIN, toks['word'], dir=tmp_path)
    want, path, rng = np.array(store.ids), store.path, np.random.default_rng(0)
    for name in 'ids', 'offsets', 'store.json':
        data = (path/name).read_bytes()
        for at in rng.integers(0, len(data), 40):
            bad = bytearray(data); bad[at] ^= 1 << int(rng.integers(8))
            (path/name).write_bytes(bad)
            with pytest.raises(TweetnbError, match='Delete the folder'): MappedStore(path)
        with pytest.warns(UserWarning, match='being rebuilt'):
            assert (build_store(TRAIN, toks['word'], dir=tmp_path).ids == want).all()
        assert (path/name).read_bytes() == data


@pytest.mark.parametrize('name', ['ids', 'offsets', 'store.json'])
@pytest.mark.parametrize('damage',
                         [lambda b: b'', lambda b: b[:-1], lambda b: b + b'\0', lambda b: b[:len(b)//2],
                          lambda b: b'[1]', None])
def test_cut_or_missing_files(toks, tmp_path, name, damage):
    path = build_store(TRAIN, toks['word'], dir=tmp_path).path
    data = (path/name).read_bytes()
    if damage: (path/name).write_bytes(damage(data))
    else: (path/name).unlink()
    for check in True, False:
        with pytest.raises(TweetnbError): MappedStore(path, check=check)
    with pytest.warns(UserWarning, match='being rebuilt'): build_store(TRAIN, toks['word'], dir=tmp_path)
    assert (path/name).read_bytes() == data and folders(tmp_path) == [path.name]


@pytest.mark.parametrize('workers', [1, 2])
def test_a_failed_build_leaves_nothing(toks, tmp_path, workers):
    with pytest.raises(KeyError, match='broke'):
        build_store(TRAIN, toks['word'], Cleaner(fail=True), dir=tmp_path, workers=workers, block=50)
    assert folders(tmp_path) == []
    assert len(build_store(TRAIN, toks['word'], Cleaner(), dir=tmp_path)) == len(TRAIN)


def test_folder_that_cannot_be_written(toks, tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(TweetnbError, match='writable'): build_store(TRAIN, toks['word'], dir=tmp_path/'file')


# several processes, real ones

CODE = f'''
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_store import *
folder, log, sleep, workers = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
tok, cleaner = TweetTokenizer.load(folder + '/tok'), Cleaner(log, sleep)
built = build_store(TRAIN * 4, tok, cleaner, dir=folder + '/stores', workers=workers, block=50)
print(built.path.name, store.digest(np.array(built.ids), np.array(built.offsets)))
'''


def start(folder, log, sleep=0., workers=1):
    command = [sys.executable, '-c', CODE, *map(str, (folder, log, sleep, workers))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_build_at_once(toks, tmp_path):
    toks['word'].save(tmp_path/'tok')
    log = tmp_path/'log'
    ends = [p.communicate(timeout=60) for p in [start(tmp_path, log, .05) for _ in range(3)]]
    assert len({out for out, _ in ends}) == 1 and ends[0][0], ends
    blocks = -(-len(TRAIN) * 4 // 50)
    pids = log.read_text().split()
    assert len(pids) == blocks and len(set(pids)) == 1  # one of them built, once
    assert folders(tmp_path/'stores') == [ends[0][0].split()[0]]


@pytest.mark.skipif(not Path('/proc').exists(), reason='needs /proc to find the orphans')
@pytest.mark.parametrize('workers', [1, 2])
def test_killed_in_the_middle(toks, tmp_path, workers):
    toks['word'].save(tmp_path/'tok')
    log = tmp_path/'log'
    victim = start(tmp_path, log, .2, workers)
    until = time.time() + 60
    while not log.exists() and time.time() < until: time.sleep(.02)
    victim.send_signal(signal.SIGKILL); victim.wait()
    left = folders(tmp_path/'stores')
    assert len(left) == 1 and left[0].startswith('.')  # no store under its name
    store = build_store(TRAIN * 4, toks['word'], Cleaner(), dir=tmp_path/'stores')
    assert folders(tmp_path/'stores') == [store.path.name]
    assert (store.ids == toks['word'].encode([t.lower() for t in TRAIN * 4]).ids).all()
    time.sleep(.5)
    stats = [Path('/proc', pid, 'stat') for pid in set(log.read_text().split())]
    # no worker outlives the killed one
    assert [s for s in stats if s.exists() and s.read_text().split()[2] != 'Z'] == []


def labelled(folder, n=3):
    "The packaged sample in files"
    df = read_tweets(sample_path('tweets.csv'))[['text', 'label']]
    folder.mkdir()
    for i in range(n): df[i::n].to_csv(folder/f'{i}.csv', index=False)
    return df


def test_training_reads_tokens_on_disk_that_were_made_once(tmp_path, monkeypatch):
    df = labelled(tmp_path/'in')
    config = config_from('ngram', epochs=4, bs=32, lr=.02)
    how = dict(store=tmp_path/'tokens', valid_pct=.2, device='cpu')
    res = fit(config, tmp_path/'in', **how)
    held, stored = res.df, MappedStore(tmp_path/'tokens')
    assert len(held) + len(stored) == len(df) and set(held['split']) == {'valid'} and 300 < len(held) < 500
    assert res.df.attrs['train_rows'] == len(stored) == len(stored.y) and res.scores['valid'].accuracy > .5
    known = set(duplicate_key(held['text']))
    train = pd.concat([df[i::3] for i in range(3)])
    train = train[~duplicate_key(train['text']).isin(known)]
    assert len(train) == len(stored)                                  # equal texts are on one side
    labels = res.classifier.labels
    assert [labels[o] for o in stored.y] == train['label'].tolist()
    monkeypatch.setattr('tweetnb.ship.shards._build', None)           # the second time nothing is made
    again = fit(config, tmp_path/'in', **how)
    assert np.array_equal(again.probs('valid'), res.probs('valid'))
    res.save(tmp_path/'bundle')
    assert load(tmp_path/'bundle').info['training']['rows'] == len(stored)
    with pytest.raises(TweetnbError, match='tokens of other files or settings'):
        fit(config_from('ngram', max_len=9), tmp_path/'in', **how)
    with pytest.raises(TweetnbError, match='for a network'): fit('tfidf', tmp_path/'in', **how)


def test_a_column_split_decides_and_two_processes_make_the_same(tmp_path):
    df = labelled(tmp_path/'in')
    df['split'] = np.resize(['test', 'valid', 'train', 'train', 'train'], len(df))
    df.to_csv(tmp_path/'all.csv', index=False)
    config, found = config_from('gru'), []
    for workers in 1, 2:
        dls, held = config.stored_loaders(tmp_path/'all.csv', tmp_path/f'tokens{workers}', workers=workers)
        found.append((dls.train_ds.store.ids.tolist(), dls.train_ds.y.tolist(), held['text'].tolist()))
    assert found[0] == found[1] and len(dls.train_ds) == (df['split'] == 'train').sum()
    assert held['split'].value_counts().to_dict() == df['split'][df['split'] != 'train'].value_counts().to_dict()


@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
def test_memory_is_given_back(tmp_path):
    folder = tmp_path/'tokens'
    folder.mkdir()
    n = 4_000_000
    store._write(folder, [TokenStore(np.ones(n, np.int32), np.arange(0, n + 1, 10), dict(texts=n//10))])
    mapped = MappedStore(folder, check=False)
    def resident():
        line = next(o for o in open('/proc/self/status') if o.startswith('RssFile'))
        return int(line.split()[1])/1024
    before = resident()
    assert mapped.ids.sum() == n and resident() > before + 10
    mapped.release()
    assert resident() < before + 3 and mapped.ids[5] == 1
