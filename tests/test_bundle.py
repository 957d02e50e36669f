"""What a saved model promises: damage is refused, kept bundles still load, ONNX answers alike,
updates and files are whole or not at all."""
import json, os, pickle, shutil, signal, subprocess, sys, threading, time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from tweetnb.text.block import TweetDataLoaders
from tweetnb.models.folder import _digest, read_manifest, update_bundle
from tweetnb.ship.bundle import OnnxClassifier, load
from tweetnb.core import TweetnbError, sample_path
from tweetnb.hardware import computes_bf16
from tweetnb.ship.export import (OnnxModel, _difference, _quantize, available_backends, export_onnx, fastest_backend,
                                 latency, with_backend, write_onnx)
from tweetnb.ship.shards import predict_file
from tweetnb.models.layers import MaskedBatchNorm
from tweetnb.train.learner import tweet_learner
from tweetnb.data.read import read_tweets
from tweetnb.models.recurrent import create_model, models

try: import onnx, onnxruntime, onnxscript
except ImportError: onnx = None
needs_onnx = pytest.mark.skipif(onnx is None, reason="needs the extra 'onnx'")
tweets = ['what a lovely morning 😍', 'missed the train AGAIN 😩', '', 'ugh']


@pytest.fixture
def mood(moods, tmp_path): return Path(shutil.copytree(moods, tmp_path/'mood'))


def lie(folder, **lies):
    "Other content in `bundle.json`, under a seal that fits"
    info = json.loads((folder/'bundle.json').read_text(encoding='utf-8')) | lies
    (folder/'bundle.json').write_text(json.dumps(info | {'seal': _digest(info)}), encoding='utf-8')

def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


# --- damage ----------------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(['model.safetensors', 'tokenizer.json', 'tweet_tokenizer.json', 'bundle.json']),
       at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_is_refused(mood, name, at, flip):
    "In any file, at any place; a blank of bundle.json may become another blank"
    file = mood/name
    whole = file.read_bytes()
    i = int(at*len(whole))
    file.write_bytes(whole[:i] + bytes([whole[i] ^ flip]) + whole[i+1:])
    try:
        try: same = json.loads(file.read_bytes()) == json.loads(whole)
        except (ValueError, RecursionError): same = False
        if name == 'bundle.json' and same: load(mood)
        else:
            with pytest.raises(TweetnbError) as e: load(mood)
            assert str(mood) in str(e.value) and '. ' in str(e.value)                 # which file, and what to do
    finally: file.write_bytes(whole)

@pytest.mark.parametrize('name', ['model.safetensors', 'tokenizer.json', 'tweet_tokenizer.json', 'bundle.json'])
@pytest.mark.parametrize('how', ['missing', 'empty', 'cut', 'a folder'])
def test_a_missing_or_cut_file_is_refused(mood, name, how):
    file = mood/name
    whole = file.read_bytes()
    file.unlink()
    if how == 'a folder': file.mkdir()
    elif how != 'missing': file.write_bytes(b'' if how == 'empty' else whole[:len(whole)//2])
    with pytest.raises(TweetnbError, match='no bundle|missing|changed since it was saved|not JSON'): load(mood)

def test_a_newer_format_is_refused(mood):
    lie(mood, format=2)
    with pytest.raises(TweetnbError, match='format 2 is newer than 1.*pip install -U tweetnb'): load(mood)

@pytest.mark.parametrize('labels', [[], ['one'], ['a', 'b'], ['a', 'b', 'c', 'd']])
def test_wrong_labels_are_refused(mood, labels):
    lie(mood, labels=labels)
    with pytest.raises(TweetnbError, match=f'{len(labels)} labels'): load(mood)

@pytest.mark.parametrize('what', ['state.pkl', 'weights.bin', 'notes.txt', 'deep/er/x', 'torch.dat', 'model.pt'])
def test_a_hidden_pickle_is_refused(mood, what):
    "By its name, its first bytes, or inside a zip as `torch.save` writes it; nothing of it is run"
    class Evil:
        def __reduce__(self): return os.mkdir, (str(mood/'pwned'),)
    (mood/what).parent.mkdir(parents=True, exist_ok=True)
    if what == 'torch.dat': torch.save({'x': Evil()}, mood/what)
    else: (mood/what).write_bytes(b'anything' if what == 'model.pt' else pickle.dumps(Evil()))
    with pytest.raises(TweetnbError, match='looks like a pickle, which can run any code.*Delete it'): load(mood)
    assert not (mood/'pwned').exists()

@pytest.mark.parametrize('key',
                         ['labels', 'model', 'cleaner', 'files', 'max_len', 'widths', 'scores', 'data', 'training',
                          'hardware', 'format', 'versions', 'decisions'])
@pytest.mark.parametrize('value', [None, -1, 'x', [], {}, [1], {'x': 1}], ids=repr)
def test_nonsense_under_a_fitting_seal_is_told(mood, key, value):
    "Either it loads, because it matters to the card alone, or it is a TweetnbError, never another one"
    lie(mood, **{key: value})
    try: load(mood).predict(tweets)
    except TweetnbError as e: assert str(mood) in str(e)
    else: assert key not in ('labels', 'model', 'cleaner', 'files', 'format') or (key, value) == ('decisions', {})

def test_weights_of_another_model_are_refused(mood):
    info = json.loads((mood/'bundle.json').read_text(encoding='utf-8'))
    lie(mood, model={**info['model'], 'n_hidden': 17})
    with pytest.raises(TweetnbError, match='do not fit together'): load(mood)
    lie(mood, model={**info['model'], 'arch': 'os.system'})
    with pytest.raises(TweetnbError, match='os.system'): load(mood)


def test_a_network_answers_without_fastai(mood):
    code = (f"import sys, tweetnb as tn; assert len(tn.load({str(mood)!r}).predict('hello')) == 1; "
            "print([o for o in ('fastai', 'matplotlib', 'IPython') if o in sys.modules])")
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert res.stdout.strip() == '[]'


# --- bundles of earlier releases -------------------------------------------------------------------------------------

kept = sorted((Path(__file__).parent/'bundles').glob('*/*/bundle.json'))

def test_bundles_are_kept():
    assert {'bert', 'bilstm', 'ensemble', 'gru_attention', 'ngram', 'pyramid', 'tfidf'} <= {o.parent.name for o in kept}
    assert sum(o.stat().st_size for o in (Path(__file__).parent/'bundles').rglob('*')) < 1_000_000

@pytest.mark.parametrize('folder', [o.parent for o in kept], ids=lambda o: f'{o.parent.name}-{o.name}')
def test_kept_bundles_answer_as_they_did(folder):
    want = json.loads(folder.with_name(f'{folder.name}.json').read_text(encoding='utf-8'))
    bundle = load(folder)
    found = bundle.predict_proba(want['texts'])
    np.testing.assert_allclose(found, want['probs'], atol=1e-5)
    assert 0 < bundle.info['scores']['accuracy'] <= 1 and '# ' in (folder/'README.md').read_text(encoding='utf-8')

@needs_onnx
@pytest.mark.parametrize('folder', [o.parent for o in kept if o.parent.name == 'bert'], ids=lambda o: o.name)
def test_kept_bundles_can_be_exported(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path/folder.name)
    assert export_onnx(copy)['onnx difference'] < 1e-4
    want = json.loads(folder.with_name(f'{folder.name}.json').read_text(encoding='utf-8'))
    np.testing.assert_allclose(with_backend(load(copy), 'onnx').predict_proba(want['texts']), want['probs'], atol=1e-4)


@needs_onnx
@pytest.mark.parametrize('how', ['mean', 'max', 'attention'])
def test_windows_are_kept_and_the_same_without_pytorch(mood, how):
    "Long texts only; what a longer text is cut to does not matter any more"
    network, texts = load(mood, 'cpu'), [*tweets, 'what a lovely morning '*9, 'lovely '*12 + 'ugh, missed it']
    cut = network.predict_proba(texts)
    network.max_len, network.windows = 8, (how, 3)
    want = network.predict_proba(texts)
    export_onnx(network.save(mood))
    again = OnnxClassifier.from_folder(mood, read_manifest(mood), network.cleaner)
    for o in load(mood), load(mood).to('cpu'), again, with_backend(load(mood), 'onnx'):
        np.testing.assert_allclose(o.predict_proba(texts), want, atol=1e-5)
    np.testing.assert_allclose(want[:4], cut[:4], atol=1e-5)
    assert np.abs(want - cut)[4:].to_numpy().max() > 1e-3
    assert 'windows' in (mood/'README.md').read_text(encoding='utf-8')

# --- ONNX ------------------------------------------------------------------------------------------------------------

tiny = dict(model_type='bert', hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=40)
small = dict(pyramid=dict(widths=(3, 5, 6, 8)), gru_attention=dict(n_emb=9, n_hidden=8, n_last=7),
             ngram=dict(n_emb=6, n_buckets=40),
             bert=dict(encoder=tiny), hf_classifier=dict(encoder=tiny), bert_arabizi=dict(encoder=tiny, width=20))
variants = [(name, {}) for name in models if name not in ('gru', 'stacked_bilstm')]
variants += [('gru', dict(bidirectional=True, n_layers=2, activation='relu', pool='max'))]

@needs_onnx
@pytest.mark.parametrize('name,kwargs', variants, ids=lambda o: o if isinstance(o, str) else ' '.join(o))
def test_every_model_as_onnx(name, kwargs, tmp_path):
    "Equal to PyTorch for one tweet and for many, of one token and of many; 8 bits near it"
    torch.manual_seed(0)
    model = create_model(name, 50, 3, **{**small.get(name, dict(n_emb=7, n_hidden=6)), **kwargs}).eval()
    for key,p in model.named_parameters():
        if 'embedding' in key or 'ngrams' in key: p.data.normal_()
    for o in model.modules():
        if isinstance(o, MaskedBatchNorm): o.running_mean.normal_(); o.running_var.uniform_(.5, 2)
    write_onnx(model, tmp_path/'a.onnx')
    assert _difference(model, OnnxModel(tmp_path/'a.onnx')) < 1e-4
    _quantize(tmp_path/'a.onnx', tmp_path/'b.onnx')
    assert _difference(model, OnnxModel(tmp_path/'b.onnx')) < .1

@needs_onnx
def test_export_round_trip(mood):
    df = read_tweets(sample_path('tweets.csv'), label=True).head(300)
    before = load(mood)
    report = export_onnx(mood, int8=True, check=df)
    after = load(mood)
    assert report == after.info['onnx'] and report['onnx difference'] < 1e-4 and report['onnx agreement'] == 1
    assert report['int8 agreement'] > .95
    assert abs(report['int8 accuracy'] - report['torch accuracy']) < .05
    half = ['bf16']*computes_bf16()
    assert available_backends(before) == ['torch', *half]
    assert available_backends(after) == ['torch', *half, 'onnx', 'int8']
    np.testing.assert_allclose(with_backend(after, 'onnx').predict_proba(df['text']), before.predict_proba(df['text']),
                               atol=1e-5)
    assert export_onnx(mood)['onnx difference'] < 1e-4                                   # again, over the old one
    (mood/'model.onnx').write_bytes((mood/'model.onnx').read_bytes()[:-1] + b'!')
    with pytest.raises(TweetnbError, match='changed since it was saved'): load(mood)

@needs_onnx
def test_the_fastest_agrees(mood):
    export_onnx(mood, int8=True)
    bundle = load(mood)
    name, table = fastest_backend(bundle, tweets*50)
    best = table.loc[table['agreement'] >= .98, 'tweets/s'].idxmax()
    assert table['agreement'][name] >= .98 and name == (best if table['times torch'][best] >= 1.1 else 'torch')
    assert fastest_backend(bundle, tweets*5, gain=1e9)[0] == 'torch'
    assert list(table.index) == available_backends(bundle)
    took = latency(bundle, tweets*5)
    assert (took['p50'] <= took['p99']).all() and (took > 0).all(axis=None)

def test_a_backend_that_is_not_there(mood):
    with pytest.raises(TweetnbError, match='no model.onnx.*tweetnb export'): with_backend(load(mood), 'onnx')
    with pytest.raises(TweetnbError, match='unknown backend'): with_backend(load(mood), 'gpu')


# --- whole or not at all ---------------------------------------------------------------------------------------------

def test_an_update_that_fails_changes_nothing(mood):
    before = content(mood)
    with pytest.raises(ZeroDivisionError):
        with update_bundle(mood) as (folder, info):
            info['labels'] = ['half']; (folder/'model.safetensors').unlink()
            (folder/'model.safetensors').write_bytes(b'half')
            1/0
    assert content(mood) == before and [o.name for o in mood.parent.iterdir()] == ['mood']
    load(mood)

def test_a_killed_update_changes_nothing(mood):
    before = content(mood)
    code = ('import sys, time; from tweetnb.models.folder import update_bundle\n'
            'with update_bundle(sys.argv[1]) as (folder, info):\n'
            "    info['labels'] = ['half']; (folder/'model.safetensors').unlink(); "
            "(folder/'model.safetensors').write_bytes(b'half')\n"
            "    print('in the middle', flush=True); time.sleep(60)")
    it = subprocess.Popen([sys.executable, '-c', code, str(mood)], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert it.stdout.readline() == 'in the middle\n'
    it.kill(); it.wait(20)
    assert content(mood) == before
    assert load(mood).labels == ['negative', 'neutral', 'positive']

def test_a_bundle_never_replaces_something_else(mood):
    (mood.parent/'photos').mkdir(); (mood.parent/'photos'/'cat.jpg').write_bytes(b'meow')
    df = read_tweets(sample_path('tweets.csv'), label=True).head(60)
    learn = tweet_learner(TweetDataLoaders.from_df(df, bs=32), 'rnn', n_emb=4, n_hidden=4)
    with pytest.raises(TweetnbError, match='not a bundle'): learn.classifier().save(mood.parent/'photos')
    assert (mood.parent/'photos'/'cat.jpg').read_bytes() == b'meow'
    learn.classifier().save(mood)
    assert load(mood).info['model']['arch'] == 'rnn'


# --- files of any size -----------------------------------------------------------------------------------------------

@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(codec='utf-8', exclude_characters='\x00'), max_size=30),
                      min_size=1, max_size=40),
       rows=st.integers(1, 50))
def test_a_stream_answers_as_the_whole(mood, texts, rows):
    "Whatever the texts and however many at once: as many rows, in order, with the same answers; counts add up"
    file, out, bundle = mood.parent/'in.jsonl', mood.parent/'out.csv', load(mood)
    texts = ['so happy'] + texts
    file.write_text(''.join(json.dumps({'id': i, 'text': t}) + '\n' for i,t in enumerate(texts)), encoding='utf-8')
    report = predict_file(bundle, file, out, backend='torch', rows=rows)
    df, done = read_tweets(file, label=False), pd.read_csv(out, dtype=str, keep_default_na=False)
    assert report['read'] == len(texts) == report['kept'] + sum(report['rejected'].values())
    assert report['written'] == sum(report['labels'].values()) == len(df) == len(done)
    assert done['id'].tolist() == df['id'].tolist()
    want = bundle.predict(df)
    np.testing.assert_allclose(done['confidence'].astype(float), want['confidence'], atol=2e-6)
    sure = np.sort(bundle.predict_proba(df).to_numpy(), 1)
    differ = done['label'].to_numpy() != want['label'].to_numpy()
    assert not (differ & (sure[:,-1] - sure[:,-2] > 1e-5)).any()

def test_a_stream_that_breaks_leaves_the_old_file(mood):
    good, bad, out = mood.parent/'a.csv', mood.parent/'b.csv.gz', mood.parent/'out.csv'
    good.write_text('text\nfine\n', encoding='utf-8'); bad.write_bytes(b'\x1f\x8b' + b'broken')
    predict_file(mood, good, out, backend='torch')
    before = out.read_bytes()
    with pytest.raises(TweetnbError): predict_file(mood, [good, bad], out, backend='torch')
    assert out.read_bytes() == before
    assert sorted(o.name for o in mood.parent.iterdir()) == ['a.csv', 'b.csv.gz', 'mood', 'out.csv']
    with pytest.raises(TweetnbError, match='text'): predict_file(mood, good, out, backend='torch', text='body')
    (mood.parent/'nothing.csv').write_text('text\n', encoding='utf-8')
    with pytest.raises(TweetnbError, match='no rows'): predict_file(mood, mood.parent/'nothing.csv', out)
    assert out.read_bytes() == before

@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs Linux')
def test_memory_does_not_grow_with_the_file(mood):
    "A process of its own predicts 10,000 tweets, then 100,000"
    some = read_tweets(sample_path('tweets.csv'), label=False)['text'].tolist()
    for n in 10_000, 100_000:
        df = pd.DataFrame({'id': range(n), 'text': [f'{some[i % len(some)]} {i}' for i in range(n)]})
        df.to_csv(mood.parent/f'{n}.csv', index=False)
    code = ('import sys; from tweetnb.ship.shards import predict_file\n'
            "def peak(): return next(int(o.split()[1])//1024 for o in open('/proc/self/status') if "
            "o.startswith('VmHWM'))\n"      # ru_maxrss is inherited
            'for n in 10_000, 100_000:\n'
            "    r = predict_file(sys.argv[1], f'{sys.argv[2]}/{n}.csv', f'{sys.argv[2]}/out.parquet', "
            "backend='torch', rows=5_000, bs=256)\n"
            "    print(r['written'], peak(), flush=True)")
    said = subprocess.run([sys.executable, '-c', code, str(mood), str(mood.parent)], capture_output=True, text=True,
                          timeout=300, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    (a, small), (b, large) = [map(int, line.split()) for line in said.stdout.splitlines()]
    assert (a, b) == (10_000, 100_000) and large - small < 60, said

def test_an_error_between_two_renames_puts_the_old_folder_back(tmp_path, monkeypatch):
    from tweetnb.core import atomic_path
    folder = tmp_path/'kept'; folder.mkdir(); (folder/'a').write_text('old')
    true, calls = os.replace, []
    def fails(a, b):
        calls.append(b)
        if len(calls) == 2: raise OSError(28, 'No space left on device')
        return true(a, b)
    monkeypatch.setattr(os, 'replace', fails)
    monkeypatch.setattr('tweetnb.core._swap', lambda a, b: False)         # as on a system that cannot swap
    with pytest.raises((OSError, TweetnbError)):
        with atomic_path(folder, folder=True) as tmp: (tmp/'a').write_text('new')
    assert len(calls) == 3 and (folder/'a').read_text() == 'old' and [o.name for o in tmp_path.iterdir()] == ['kept']

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='only Linux swaps folders in one step')
def test_there_is_no_moment_without_a_bundle(tmp_path):
    "Somebody who looks all the time, as a kill may come at any, always finds a whole folder"
    from tweetnb.core import atomic_path
    folder, missing, done = tmp_path/'kept', [], threading.Event()
    def write(i):
        with atomic_path(folder, folder=True) as tmp: (tmp/'a').write_text(f'{i:04}')
    write(0)
    def look():
        while not done.is_set():
            if not folder.is_dir(): missing.append(True)
    watcher = threading.Thread(target=look); watcher.start()
    try:
        for i in range(300): write(i)
    finally: done.set(); watcher.join()
    assert not missing and (folder/'a').read_text() == '0299' and [o.name for o in tmp_path.iterdir()] == ['kept']

# --- in MLflow

def test_a_bundle_as_a_model_of_mlflow(plain, mood, tmp_path, monkeypatch):
    "Saved, logged in a run, and loaded by MLflow itself in a process of its own: no network, no server, no pickle"
    mlflow = pytest.importorskip('mlflow')
    from tweetnb.ship.bundle import mlflow_model
    monkeypatch.chdir(tmp_path)
    uri = f'sqlite:///{tmp_path}/mlflow.db'
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment('mood')
    with mlflow.start_run(): logged = mlflow.pyfunc.log_model(name='plain', **mlflow_model(plain))
    mlflow.pyfunc.save_model(tmp_path/'mood-mlflow', **mlflow_model(mood))
    table = pd.DataFrame({'text': tweets})
    for path,folder in ((logged.model_uri, plain), (str(tmp_path/'mood-mlflow'), mood)):
        model = mlflow.pyfunc.load_model(path)
        pd.testing.assert_frame_equal(model.predict(table), load(folder, 'cpu').predict(table), atol=1e-6)
        with pytest.raises(mlflow.MlflowException): model.predict(pd.DataFrame({'tweet': tweets}))
    code = ("import json, sys, mlflow\nfound = mlflow.pyfunc.load_model(sys.argv[1])\n"
            "print(json.dumps(found.predict(json.loads(sys.argv[2]))['label'].tolist()))")
    given = [sys.executable, '-c', code, str(tmp_path/'mood-mlflow'), json.dumps([dict(text=o) for o in tweets])]
    res = subprocess.run(given, capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(res.stdout.splitlines()[-1]) == load(mood).predict(tweets)['label'].tolist(), res.stderr
    files = [o.name for o in tmp_path.rglob('*') if o.suffix in ('.pkl', '.pickle', '.pt', '.joblib')]
    assert not files and 'loader_module: tweetnb.ship.bundle' in (tmp_path/'mood-mlflow'/'MLmodel').read_text()

def test_mlflow_that_is_missing_is_named(plain, monkeypatch):
    from tweetnb.ship.bundle import mlflow_model
    monkeypatch.setitem(sys.modules, 'mlflow.models', None)
    with pytest.raises(TweetnbError, match=r'tweetnb\[mlflow\]'): mlflow_model(plain)
