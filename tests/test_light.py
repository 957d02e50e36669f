"What `tweetnb-serve` promises: linear models and exported networks answer where PyTorch, fastai and the like are not"
import json, os, shutil, subprocess, sys
from pathlib import Path

import numpy as np
import pytest

import tweetnb as tn

bundles = Path(__file__).parent/'bundles'/'0.1.0'
texts = ['good morning @john 😩', 'unfollowing all of you', 'meh', '']

code = '''if True:
    import sys
    class Without:
        "Import as on a machine that has not got these"
        heavy = {'torch', 'fastai', 'transformers', 'matplotlib', 'datasets', 'captum', 'torchvision', 'cycler',
                 'huggingface_hub', 'PIL', 'spacy', 'requests', 'yaml', 'psutil', 'IPython'}
        def find_spec(self, name, path=None, target=None):
            if name.partition('.')[0] in self.heavy: raise ModuleNotFoundError(f'No module named {name!r}', name=name)
    sys.meta_path.insert(0, Without())
    import json, tweetnb as tn
    from tweetnb.cli import main
    from tweetnb.ship.serve import make_server
    from fastapi.testclient import TestClient
    folders,texts,sample,out = map(json.loads, sys.argv[1:])
    res = {}
    for name,folder in folders.items():
        model = tn.load(folder)
        with TestClient(make_server(model)) as client: served = client.post('/predict', json={'texts': texts}).json()
        report = tn.predict_file(folder, sample, f'{out}/{name}.csv')
        res[name] = [model.arch, model.predict_proba(texts).values.tolist(), served['predictions'], report['written']]
    try: tn.load(folders['linear'].replace('tfidf', 'gru_attention'))
    except tn.TweetnbError as e: res['not exported'] = str(e)
    print(json.dumps(res))
    labelled = sample.replace('_test', '')
    try: main(['train', labelled, '--model', 'bilstm', '--out', f'{out}/bundle'])
    except SystemExit as e: assert e.code == 1
'''

def test_without_pytorch(tmp_path):
    "`load`, `predict` and the service of a linear model, an exported network and an ensemble of both"
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    pytest.importorskip('httpx')
    network = shutil.copytree(bundles/'ngram', tmp_path/'network')
    tn.export_onnx(network)
    both = tn.combine([bundles/'tfidf', network]).save(tmp_path/'both')
    folders = dict(linear=bundles/'tfidf', network=network, both=both)
    given = {k: str(v) for k,v in folders.items()}, texts, str(tn.sample_path('tweets_test.csv')), str(tmp_path)
    command = [sys.executable, '-c', code, *map(json.dumps, given)]
    res = subprocess.run(command, capture_output=True, text=True, env=os.environ | {'PYTHONUTF8': '1'})
    assert res.returncode == 0, res.stderr[-3000:]
    found = json.loads(next(o for o in res.stdout.splitlines() if o.startswith('{')))
    assert found['network'][0] == 'onnx' and 'tweetnb export' in found['not exported']
    for name,folder in folders.items():
        _,probs,served,written = found[name]
        wanted = tn.load(folder, 'cpu').predict_proba(texts).to_numpy()
        assert np.allclose(probs, wanted, atol=1e-5), name
        assert np.allclose([list(o['probabilities'].values()) for o in served], wanted, atol=1e-5), name
        assert written > 100
    assert 'this needs torch' in res.stderr
