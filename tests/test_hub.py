"Classifiers from the Hugging Face hub, here a server on loopback, and published ones with their own head"
import hashlib, json, os, subprocess, sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

import tweetnb as tn
from tweetnb.core import TweetnbError
from tweetnb.models.bert import HFClassifier, save_hf
from tweetnb.text.tokens import TweetTokenizer

texts = ['good morning @john 😩', 'unfollowing all of you', 'meh']
bundles = Path(__file__).parent/'bundles'/'0.1.0'
commit = '5d'*20

@pytest.fixture(scope='module')
def published(tmp_path_factory):
    "A tiny sequence classifier in a folder as Hugging Face writes it"
    tokenizer = TweetTokenizer.wordpiece(texts*3, size=80)
    config = dict(model_type='bert', hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                  max_position_embeddings=40)
    model = HFClassifier(len(tokenizer), 3, encoder=config, pad_id=tokenizer.pad_id).eval()
    folder = save_hf(model, tmp_path_factory.mktemp('hub')/'tiny', tokenizer, labels=['bad', 'good', 'meh'])
    (folder/'pytorch_model.bin').write_bytes(b'a pickle that nobody fetches')
    return folder

def etag(file): return hashlib.sha1(file.read_bytes()).hexdigest()

class Hub(BaseHTTPRequestHandler):
    "The part of the hub that `snapshot_download` talks to"
    def __init__(self, *args, repos, **kwargs):
        self.repos = repos
        super().__init__(*args, **kwargs)
    def log_message(self, *args): pass
    def answer(self, body, code=200, **headers):
        self.send_response(code)
        for name,value in {'Content-Length': str(len(body)), **headers}.items(): self.send_header(name, value)
        self.end_headers()
        if self.command == 'GET': self.wfile.write(body)
    def do_GET(self):
        parts = self.path.partition('?')[0].strip('/').split('/')
        api = parts[:2] == ['api', 'models']
        if api: parts = parts[2:]
        folder = self.repos.get('/'.join(parts[:2]))
        if folder is None: return self.answer(b'{}', 404, **{'X-Error-Code': 'RepoNotFound'})
        if api:
            files = {o.relative_to(folder).as_posix(): o for o in sorted(folder.rglob('*')) if o.is_file()}
            known = dict(id='/'.join(parts[:2]), sha=commit, siblings=[{'rfilename': o} for o in files])
            tree = [dict(type='file', path=k, size=o.stat().st_size, oid=etag(o)) for k,o in files.items()]
            body = json.dumps(tree if parts[2:3] == ['tree'] else known).encode()
            return self.answer(body, **{'Content-Type': 'application/json'})
        file = folder.joinpath(*parts[4:])
        self.answer(file.read_bytes(), ETag=f'"{etag(file)}"', **{'X-Repo-Commit': commit})
    do_HEAD = do_GET

@pytest.fixture(scope='module')
def hub(published):
    "The address of a hub with a bundle, an ensemble and a published classifier"
    repos = {'ada/mood': bundles/'tfidf', 'ada/both': bundles/'ensemble', 'ada/tiny': published}
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Hub, repos=repos))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()

def test_from_the_hub(hub, published, tmp_path):
    "Every kind is fetched by its name, and comes from the cache when the hub is out of reach"
    code = '''if True:
        import json, sys, tweetnb as tn
        def answers(name):
            try: return tn.load(name, 'cpu', revision='main').predict_proba(json.loads(sys.argv[1])).values.tolist()
            except tn.TweetnbError as e: return str(e)
        print(json.dumps([answers('ada/mood'), answers('ada/both'), answers('ada/tiny'), answers('ada/none')]))'''
    env = {**os.environ, 'HF_ENDPOINT': hub, 'HF_HOME': str(tmp_path), 'HF_HUB_OFFLINE': '0', 'NO_PROXY': '127.0.0.1',
           'HF_HUB_DISABLE_XET': '1'}
    def ask(**more):
        command = [sys.executable, '-c', code, json.dumps(texts)]
        res = subprocess.run(command, env=env | more, capture_output=True, text=True)
        assert res.returncode == 0, res.stderr[-3000:]
        return json.loads(res.stdout.splitlines()[-1])
    found = ask()
    assert all(isinstance(o, list) for o in found[:3]), found
    for answer,folder in zip(found, (bundles/'tfidf', bundles/'ensemble', published)):
        assert np.allclose(answer, tn.load(folder, 'cpu').predict_proba(texts), atol=1e-6), answer
    assert 'no bundle here, and not on the hub' in found[3]
    assert not list(tmp_path.rglob('*.bin'))
    assert ask(HF_HUB_OFFLINE='1')[:3] == found[:3]

def test_published(published, tmp_path):
    "A published classifier answers as in `pipeline`, and is saved, scored and explained like any other"
    import transformers
    model = tn.load(published, 'cpu')
    assert model.labels == ['bad', 'good', 'meh'] and model.path == published
    answers = transformers.pipeline('text-classification', model=str(published), top_k=None)(texts)
    probs = model.predict_proba(texts)
    for answer,(_,row) in zip(answers, probs.iterrows()):
        assert {o['label']: o['score'] for o in answer} == pytest.approx(row.to_dict(), abs=1e-5)
    assert len(model.predict('word '*500)) == 1                      # cut to what the model takes
    assert np.allclose(tn.load(model.save(tmp_path/'bundle'), 'cpu').predict_proba(texts), probs, atol=1e-6)
    assert model.explain(texts[:1], label='good')[0].label == 'good'

def test_several_labels_load_and_numbers_are_refused(published, tmp_path):
    folder = tmp_path/'several'
    folder.mkdir()
    for file in published.iterdir(): (folder/file.name).write_bytes(file.read_bytes())
    config = json.loads((folder/'config.json').read_text())
    (folder/'config.json').write_text(json.dumps({**config, 'problem_type': 'multi_label_classification'}))
    several = tn.load(folder, 'cpu')
    answers = pytest.importorskip('transformers').pipeline('text-classification', model=str(folder), top_k=None)(texts)
    for answer,(_,row) in zip(answers, several.predict_proba(texts).iterrows()):
        assert {o['label']: o['score'] for o in answer} == pytest.approx(row.to_dict(), abs=1e-5)
    assert several.predict(texts)['label'].map(type).eq(tuple).all()
    (folder/'config.json').write_text(json.dumps({**config, 'problem_type': 'regression'}))
    with pytest.raises(TweetnbError, match='regression'): tn.load(folder)
