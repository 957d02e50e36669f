"Classifiers from the Hugging Face hub, here a server on loopback, and published ones with their own head"
import base64, hashlib, json, os, subprocess, sys
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard

import tweetnb as tn
from tweetnb.core import TweetnbError
from tweetnb.models.bert import HFClassifier, save_hf
from tweetnb.models.network import NetworkClassifier
from tweetnb.models.recurrent import create_model
from tweetnb.text.tokens import TweetTokenizer

texts = ['good morning @john 😩', 'unfollowing all of you', 'meh']
bundles = Path(__file__).parent/'bundles'/'0.1.0'
commit = '5d'*20
shapes = dict(model_type='bert', hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
              max_position_embeddings=40)

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

@pytest.fixture(scope='module')
def transformer(tmp_path_factory):
    "A bundle of a tiny transformer"
    tokenizer = TweetTokenizer.wordpiece(texts*3, size=80)
    model = create_model('bert', len(tokenizer), 3, encoder=shapes, pad_id=tokenizer.pad_id, head='mean')
    ours = NetworkClassifier(model, tokenizer, tn.Cleaner.preset('tweeteval'), [-1, 0, 1], 24, device='cpu')
    return ours.save(tmp_path_factory.mktemp('bundle')/'moods', license='mit', language='en')

def etag(file): return hashlib.sha1(file.read_bytes()).hexdigest()

class Hub(BaseHTTPRequestHandler):
    "The part of the hub that `snapshot_download` and `upload_folder` talk to"
    def __init__(self, *args, repos, store, **kwargs):
        self.repos,self.store = repos,store # name -> revision -> folder; where uploads go
        super().__init__(*args, **kwargs)
    private,large,cards = set(),{},[]
    @property
    def address(self): return f'http://127.0.0.1:{self.server.server_port}'
    def log_message(self, *args): pass
    def answer(self, body, code=200, **headers):
        self.send_response(code)
        for name,value in {'Content-Length': str(len(body)), **headers}.items(): self.send_header(name, value)
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)
    def send(self, found): return self.answer(json.dumps(found).encode(), **{'Content-Type': 'application/json'})
    def allowed(self, name):
        "May it be seen? A private one only with the token"
        return name not in self.private or self.headers.get('Authorization') == 'Bearer hf_ada'
    def do_GET(self):
        parts = unquote(self.path).partition('?')[0].strip('/').split('/')
        api = parts[:2] == ['api', 'models']
        if api: parts = parts[2:]
        name = '/'.join(parts[:2])
        revisions = self.repos.get(name)
        if not revisions or not self.allowed(name): return self.answer(b'{}', 404, **{'X-Error-Code': 'RepoNotFound'})
        wanted = parts[3] if len(parts) > 3 else 'main'
        if wanted not in revisions: return self.answer(b'{}', 404, **{'X-Error-Code': 'RevisionNotFound'})
        folder = revisions[wanted]
        sha = next((k for k,v in revisions.items() if len(k) == 40 and v == folder), commit)
        if api:
            files = {o.relative_to(folder).as_posix(): o for o in sorted(folder.rglob('*')) if o.is_file()}
            known = dict(id=name, sha=sha, siblings=[{'rfilename': o} for o in files])
            tree = [dict(type='file', path=k, size=o.stat().st_size, oid=etag(o)) for k,o in files.items()]
            return self.send(tree if parts[2:3] == ['tree'] else known)
        file = folder.joinpath(*parts[4:])
        if not file.is_file(): return self.answer(b'{}', 404, **{'X-Error-Code': 'EntryNotFound'})
        self.answer(file.read_bytes(), ETag=f'"{etag(file)}"', **{'X-Repo-Commit': sha})
    do_HEAD = do_GET

    def read(self): return self.rfile.read(int(self.headers.get('Content-Length', 0)))
    def do_PUT(self):
        "A large file, to be named by a commit"
        self.large[self.path.rpartition('/')[2]] = self.read()
        self.answer(b'')
    def do_POST(self):
        "Making a repository or a branch; which files are large; and a commit"
        parts,body = unquote(self.path).strip('/').split('/'),self.read()
        if self.headers.get('Authorization') != 'Bearer hf_ada': return self.answer(b'{"error": "no"}', 401)
        if parts[-1] == 'create':
            given = json.loads(body)
            name = f"{given.get('organization', 'ada')}/{given['name']}"
            self.repos.setdefault(name, {})
            if given.get('private') or given.get('visibility') == 'private': self.private.add(name)
            return self.send(dict(url=f'{self.address}/{name}', name=name, id=name))
        if parts[-1] == 'validate-yaml':
            self.cards.append(json.loads(body)['content'])
            return self.send(dict(errors=[], warnings=[]))
        if parts[-1] == 'batch':
            objects = json.loads(body)['objects']
            put = [{**o, 'actions': {'upload': {'href': f"{self.address}/put/{o['oid']}"}}} for o in objects]
            return self.send(dict(transfer='basic', objects=put))
        name,what,branch = '/'.join(parts[2:4]),parts[4],parts[5]
        if what == 'preupload':
            def kind(path): return 'lfs' if path.endswith('.safetensors') else 'regular'
            files = [dict(path=o['path'], uploadMode=kind(o['path']), shouldIgnore=False, oid=None)
                     for o in json.loads(body)['files']]
            return self.send(dict(files=files))
        revisions = self.repos[name]
        if what == 'branch':
            revisions[branch] = revisions.get('main')
            return self.send({})
        sha = hashlib.sha1(body).hexdigest()
        folder = self.store/sha
        for line in map(json.loads, body.decode().splitlines()):
            value = line['value']
            if line['key'] not in ('file', 'lfsFile'): continue
            file = folder/value['path']
            file.parent.mkdir(parents=True, exist_ok=True)
            large = line['key'] == 'lfsFile'
            file.write_bytes(self.large[value['oid']] if large else base64.b64decode(value['content']))
        revisions[branch] = revisions[sha] = folder
        self.send(dict(commitUrl=f'{self.address}/{name}/commit/{sha}', commitOid=sha, success=True))

@pytest.fixture(scope='module')
def hub(published, tmp_path_factory):
    "The address of a hub with a bundle, an ensemble and a published classifier"
    repos = {'ada/mood': bundles/'tfidf', 'ada/both': bundles/'ensemble', 'ada/tiny': published}
    repos = {name: {'main': folder, commit: folder} for name,folder in repos.items()}
    store = tmp_path_factory.mktemp('store')
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Hub, repos=repos, store=store))
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

def test_round_trip(hub, transformer, tmp_path):
    "Every kind of bundle is pushed, and comes back by its name, a revision and a token; then from the cache alone"
    kinds = dict(linear=bundles/'tfidf', network=bundles/'ngram', ensemble=bundles/'ensemble', transformer=transformer)
    code = '''if True:
        import json, sys, tweetnb as tn
        texts,kinds,push = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3] == 'push'
        def answers(*args, **more):
            try: return tn.load(*args, 'cpu', **more).predict_proba(texts).values.tolist()
            except tn.TweetnbError as e: return str(e)
        def push_one(folder, *args, **more):
            try: return tn.push_to_hub(folder, *args, **more)
            except tn.TweetnbError as e: return str(e)
        pushed = {k: push_one(v, f'ada/{k}', token='hf_ada') for k,v in kinds.items()}
        if push: pushed['other'] = push_one(kinds['network'], 'ada/linear', token='hf_ada', revision='other')
        if push: pushed['nobody'] = push_one(kinds['network'], 'ada/linear', token='hf_eve')
        nobody = answers('ada/linear', revision='main', token='hf_eve') if push else ''
        found = {k: answers(f'ada/{k}', token='hf_ada') for k in kinds}
        found['other'] = answers('ada/linear', revision='other', token='hf_ada')
        found['nobody'] = nobody
        found['here'] = {k: answers(v) for k,v in kinds.items()}
        print(json.dumps([pushed, found]))'''
    env = {**os.environ, 'HF_ENDPOINT': hub, 'HF_HOME': str(tmp_path), 'HF_HUB_OFFLINE': '0', 'NO_PROXY': '127.0.0.1',
           'HF_HUB_DISABLE_XET': '1'}
    def ask(what, **more):
        folders = {k: str(v) for k,v in kinds.items()}
        command = [sys.executable, '-c', code, json.dumps(texts), json.dumps(folders), what]
        res = subprocess.run(command, env=env | more, capture_output=True, text=True)
        assert res.returncode == 0, res.stderr[-3000:]
        return json.loads(res.stdout.splitlines()[-1])
    pushed,found = ask('push')
    assert all(pushed[k].startswith(f'{hub}/ada/{k}/commit/') for k in kinds), pushed
    assert 'not uploaded' in pushed['nobody'] and 'not on the hub' in found['nobody']
    for kind in kinds: assert np.allclose(found[kind], found['here'][kind], atol=1e-6), found[kind]
    assert found['other'] == found['here']['network'] != found['linear']
    assert len(Hub.cards) >= 4 and all('library_name' in o for o in Hub.cards)
    offline = ask('load', HF_HUB_OFFLINE='1')
    assert all('HF_HUB_OFFLINE is set' in o for o in offline[0].values())
    assert offline[1] == found | {'nobody': ''}

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

wild = [*texts, 'GOOD @ada&co 👩🏽‍🚀❤️ it’s www.x.org/y', '[CLS] no [SEP] [PAD]', 'word '*60]

@pytest.mark.parametrize('arch, more', [('bert', {}), ('bert', {'head': 'mean'}), ('hf_classifier', {})])
@pytest.mark.parametrize('problem', ['single_label_classification', 'multi_label_classification'])
def test_a_bundle_of_a_transformer_is_a_folder_of_hugging_face(arch, more, problem, tmp_path):
    "`pipeline` gives our probabilities: it cleans, cuts, knows the labels and the temperature"
    transformers = pytest.importorskip('transformers')
    tokenizer = TweetTokenizer.wordpiece(texts*3, size=80)
    model = create_model(arch, len(tokenizer), 3, encoder=shapes, pad_id=tokenizer.pad_id, **more)
    ours = NetworkClassifier(model, tokenizer, tn.Cleaner.preset('named_emoji'), [-1, 0, 1], 24, device='cpu')
    ours.problem_type = problem
    if not ours.multilabel: ours.temperature = 1.7
    folder = ours.save(tmp_path/'moods', license='mit')
    probs = ours.predict_proba(wild)
    again = tn.load(folder, 'cpu')
    assert again.temperature == ours.temperature
    assert again.tokenizer.fingerprint() == tokenizer.fingerprint()
    assert np.allclose(again.predict_proba(wild), probs, atol=1e-6)
    assert np.allclose(tn.load(again.save(tmp_path/'twice'), 'cpu').predict_proba(wild), probs, atol=1e-6)
    pipe = transformers.pipeline('text-classification', model=str(folder), top_k=None, truncation=True)
    for answer,(_,row) in zip(pipe(wild), probs.iterrows()):
        assert {o['label']: o['score'] for o in answer} == pytest.approx(row.rename(str).to_dict(), abs=1e-5)
    if more:
        with pytest.raises(ValueError, match='pad_token'): pipe(wild, batch_size=2)          # not wrong: refused
    else: assert pipe(wild, batch_size=2)[3][0]['score'] == pytest.approx(probs.iloc[3].max(), abs=1e-5)
    data = ModelCard.load(folder/'README.md').data
    assert (data.license, data.library_name) == ('mit', 'tweetnb') and 'transformers' in data.tags

def test_the_transformers_of_an_ensemble_are_folders_of_hugging_face(transformer, tmp_path):
    "The whole is none; its card says where they are"
    transformers = pytest.importorskip('transformers')
    linear = tn.TweetClassifier('tfidf', params={'min_df': 1}).fit(texts, [-1, 0, 1]).classifier_
    folder = tn.combine([transformer, linear]).save(tmp_path/'both')
    member, = (o.parent for o in folder.glob('*/config.json'))
    assert not (folder/'config.json').exists()
    assert f'each for itself: `both/{member.name}`' in (folder/'README.md').read_text(encoding='utf-8')
    probs = tn.load(transformer, 'cpu').predict_proba(texts)
    pipe = transformers.pipeline('text-classification', model=str(member), top_k=None)
    for answer,(_,row) in zip(pipe(texts), probs.iterrows()):
        assert {o['label']: o['score'] for o in answer} == pytest.approx(row.rename(str).to_dict(), abs=1e-5)

def test_a_head_that_hugging_face_lacks_is_said_on_the_card(tmp_path):
    tokenizer = TweetTokenizer.wordpiece(texts*3, size=80)
    model = create_model('bert', len(tokenizer), 3, encoder=shapes, pad_id=tokenizer.pad_id, head='lstm')
    folder = NetworkClassifier(model, tokenizer, None, [-1, 0, 1], device='cpu').save(tmp_path/'moods')
    assert not (folder/'config.json').exists() and "no counterpart" in (folder/'README.md').read_text()

def test_several_labels_load_and_several_numbers_are_refused(published, tmp_path):
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
    with pytest.raises(TweetnbError, match='regression answers 3 numbers'): tn.load(folder)

def moods(n=60):
    "Tweets whose first word tells the label"
    words = dict(bad='unfollowing', good='morning', meh='meh')
    rows = [(f'{word} all of you {i}', mood) for i in range(n//3) for mood,word in words.items()]
    return pd.DataFrame(rows, columns=['text', 'label']).assign(split=['train']*(n - 24) + ['valid']*12 + ['test']*12)

def test_a_published_classifier_in_our_hands(published, tmp_path):
    "It stands in a comparison as it is, is exported and served, and is trained further with its head"
    pytest.importorskip('onnxscript')
    pytest.importorskip('httpx')
    from fastapi.testclient import TestClient
    from tweetnb.ship.serve import make_server
    theirs,df = tn.load(published, 'cpu'), moods()
    res = tn.compare(df, {'theirs': theirs, 'tfidf': 'tfidf'}, seeds=2, device='cpu')
    assert {o['model']: o['parameters'] for o,_ in res.runs}['theirs'] == theirs.parameters
    assert len(res.runs) == 4 and 'theirs' in res.to_markdown()
    folder = theirs.save(tmp_path/'theirs')
    assert tn.export_onnx(folder)['onnx difference'] < 1e-4
    with TestClient(make_server(folder)) as client: found = client.post('/', json={'inputs': texts}).json()
    best = theirs.predict(texts)['confidence']
    assert [o[0]['score'] for o in found] == pytest.approx(best.tolist(), abs=1e-5)
    turned = df.assign(label=pd.Categorical(df['label'], ['meh', 'bad', 'good']))
    config = tn.config_from('hf_classifier', pretrained=str(published), epochs=1, lr=1e-12, head_lr=1e-12)
    further = tn.fit(replace(config, cleaner=None), turned, device='cpu').classifier
    assert set(further.labels) == {'meh', 'bad', 'good'}
    assert np.allclose(further.predict_proba(texts)[theirs.labels], theirs.predict_proba(texts), atol=1e-5)

@pytest.mark.parametrize('streamed', [False, True])
def test_datasets_in_and_out(streamed, tmp_path):
    "A `Dataset` is read, trained on, predicted and scored, streamed or not, and a table becomes one"
    datasets = pytest.importorskip('datasets')
    df = moods()
    train = datasets.Dataset.from_pandas(df.drop(columns='split'))
    given = train.to_iterable_dataset() if streamed else train
    read = tn.read_tweets(given)
    assert read['text'].tolist() == df['text'].tolist() and read['label'].tolist() == df['label'].tolist()
    model = tn.TweetClassifier('tfidf').fit(read['text'], read['label']).classifier_
    answers = model.predict(given)
    assert len(answers) == len(df) and (answers['label'] == df['label']).all()
    back = datasets.Dataset.from_pandas(pd.concat([read, answers.add_prefix('answer_')], axis=1))
    assert back['answer_label'][:3] == df['label'].tolist()[:3]
    both = datasets.DatasetDict(train=train, test=train.select(range(9)))
    assert tn.read_tweets(both)['split'].value_counts().to_dict() == {'train': 60, 'test': 9}
