"Drift: no alarm for tweets of the same source, one for others, and a profile that holds no tweet"
import pickle, shutil

import numpy as np
import pandas as pd
import pytest

from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.read import read_tweets
from tweetnb.evaluate.drift import DriftWatch, Profile, drift, make_profile, measure, stability, two_sample, vocabulary
from tweetnb.models.folder import read_manifest
from tweetnb.models.linear import LinearClassifier
from tweetnb.ship.bundle import load


@pytest.fixture(scope='module')
def parts():
    df = read_tweets(sample_path('tweets.csv'), label=True)
    return df[:800], df[800:]

@pytest.fixture(scope='module')
def model(parts): return LinearClassifier(tol=1e-3).fit(parts[0], parts[0]['label'])

@pytest.fixture
def bundle(parts, model, tmp_path):
    folder = model.save(tmp_path/'b')
    held_out = parts[1][:600]
    make_profile(parts[0]['text'], held_out['text'], model.predict_proba(held_out)).save(folder)
    return folder

def test_at_most_one_in_twenty_false_alarms(parts, model):
    known, rest = vocabulary(parts[0]['text'].tolist()), parts[1]
    texts, rng = rest['text'].tolist(), np.random.default_rng(0)
    measured, found = measure(texts, model.predict_proba(rest), known), []
    for i in range(60):
        rows = rng.permutation(len(texts))
        new = [texts[j] for j in rows[600:1000]]
        found.append(Profile.of(measured[rows[:600]], known).compare(measured[rows[600:1000]], new, seed=i).alarm)
    assert np.mean(found) <= .05

def test_another_script_is_told_with_words_and_tweets(bundle):
    new = pd.DataFrame({'text': [f'صباح الخير يا جماعة {i}' for i in range(60)] + ['']})
    found = drift(bundle, new)
    assert found.alarm and {'script', 'unknown words'} <= set(found.table.index[found.table['changed']])
    assert 'الخير' in found.words and found.examples and 'Changed:' in repr(found)
    assert found.to_dict()['alarm'] is True

def test_the_profile_is_part_of_the_bundle_and_holds_no_text(bundle, parts):
    assert 'profile.safetensors' in read_manifest(bundle)['files']
    raw = (bundle/'profile.safetensors').read_bytes()
    assert not any(o.encode() in raw for o in parts[1]['text'][:600] if len(o) > 12)
    with open(bundle/'profile.safetensors', 'ab') as f: f.write(b'x')
    with pytest.raises(TweetnbError, match='changed since it was saved'): load(bundle)

def test_a_bundle_without_profile_names_the_way_out(model, tmp_path, parts):
    folder = model.save(tmp_path/'bare')
    with pytest.raises(TweetnbError, match='--against FILE'): drift(folder, parts[1])
    assert not drift(folder, parts[1][:300], against=parts[1][300:]).alarm

def test_stability_and_ranks_by_hand():
    assert stability([5, 5], [5, 5]) == 0
    a, b = np.array([100.5, 10.5])/111, np.array([10.5, 100.5])/111
    assert abs(stability([100, 10], [10, 100]) - ((b - a)*np.log(b/a)).sum()) < 1e-12
    from scipy.sparse import csr_matrix
    x = csr_matrix(np.eye(2)[[0]*40 + [1]*40])
    assert two_sample(x[:40], x[40:])[0] == 1

def test_means_of_a_networks_vectors(moods, parts, tmp_path):
    "The same tweets move none, even in pieces; a file from before has none"
    folder = shutil.copytree(moods, tmp_path/'b')
    network, (seen, rest) = load(folder, 'cpu'), parts
    held_out = rest[:300]
    make_profile(seen['text'], held_out['text'], network.predict_proba(held_out), classifier=network).save(folder)
    same, other = drift(folder, rest[300:700]), drift(folder, [f'{o} 😂 lovely lovely' for o in rest['text'][300:700]])
    assert not same.table['changed']['vectors'] and other.table['changed']['vectors']
    assert same.table['now']['vectors'] == '0 moved'
    make_profile(seen['text'], held_out['text'], network.predict_proba(held_out)).save(folder)
    assert 'vectors' not in drift(folder, rest[300:700]).table.index

def test_a_service_says_what_changed(bundle, parts, model):
    pytest.importorskip('fastapi', reason="needs the extra 'serve'")
    from starlette.testclient import TestClient
    from tweetnb.ship.serve import make_server
    def asked(texts):
        with TestClient(make_server(bundle, api_key='', watch=DriftWatch(bundle))) as client:
            for i in range(0, len(texts), 50): client.post('/predict', json={'texts': texts[i:i+50]})
            lines = client.get('/metrics').text.splitlines()
        return {o.partition(' ')[0]: float(o.rpartition(' ')[2]) for o in lines if o.startswith('tweetnb_drift')}
    same, other = asked(parts[1]['text'].tolist()[600:900]), asked([f'صباح الخير {i}' for i in range(120)])
    assert (same['tweetnb_drift_alarm'], other['tweetnb_drift_alarm'], same['tweetnb_drift_tweets']) == (0, 1, 300)
    assert other['tweetnb_drift_stability{feature="script"}'] > 1 > same['tweetnb_drift_stability{feature="script"}']
    assert list(asked(['hello']*99)) == ['tweetnb_drift_tweets']

def test_a_watch_remembers_only_the_last_tweets_and_travels_to_other_processes(bundle, parts, model):
    watch, new = DriftWatch(bundle, most=200), parts[1][600:]
    watch(['wet']*500, model.predict_proba(['wet']*500))
    watch = pickle.loads(pickle.dumps(watch))
    watch(new['text'].tolist(), model.predict_proba(new))
    assert len(watch.last) == 200 and not watch.compare().alarm
