"Drift: no alarm for tweets of the same source, one for others, and a profile that holds no tweet"
import numpy as np
import pandas as pd
import pytest

from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.read import read_tweets
from tweetnb.evaluate.drift import Profile, drift, make_profile, measure, stability, two_sample, vocabulary
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
