"Golden tweets and the doctor: what changed between two releases of a library is noticed, and nothing else is"
import warnings

import pytest

from tweetnb.core import sample_path
from tweetnb.data.read import read_tweets
from tweetnb.models.folder import read_manifest, update_bundle
from tweetnb.models.linear import LinearClassifier
from tweetnb.ship.bundle import combine, load
from tweetnb.ship.doctor import cache_sizes, clear_cache, doctor


@pytest.fixture
def saved(tmp_path):
    df = read_tweets(sample_path('tweets.csv'), label=True)
    model = LinearClassifier(tol=1e-3).fit(df[:300], df['label'][:300])
    return model.save(tmp_path/'b', model.scores(df), df)

def told(folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        load(folder)
    return [str(o.message) for o in caught if 'probabilities differ' in str(o.message)]

def test_another_name_of_an_emoji_is_noticed(saved, monkeypatch):
    "A release of `emoji` that names them otherwise; the version in the bundle is made an older one"
    assert not told(saved)
    with update_bundle(saved) as (_, info): info['versions']['emoji'] = '1.0'
    assert not told(saved) # another version, the same answers
    from tweetnb.data import clean
    before = clean.Cleaner.apply
    def otherwise(self, texts, *args, **kwargs):
        renamed = [''.join(c if c.isascii() else ' dreadful ' for c in o) for o in texts]
        return before(self, renamed, *args, **kwargs)
    monkeypatch.setattr(clean.Cleaner, 'apply', otherwise)
    assert len(told(saved)) == 1 and 'emoji 1.0' in told(saved)[0]
    assert any("'emoji==1.0'" in o.remedy for o in doctor(saved))

def test_the_same_versions_answer_nothing_again(saved, monkeypatch):
    monkeypatch.setattr(LinearClassifier, 'recheck', lambda self: 1/0)
    load(saved)

def test_a_bundle_without_golden_tweets_loads_and_the_doctor_says_so(saved, tmp_path):
    model = load(saved)
    assert model.recheck() < 1e-6
    bare = model.save(tmp_path/'bare', golden=0)
    assert 'golden' not in read_manifest(bare) and not told(bare)
    assert any('no golden tweets' in o.what for o in doctor(bare))

def test_handles_are_not_kept_and_tweets_outlive_saving_again(saved, tmp_path):
    golden = read_manifest(saved)['golden']
    assert len(golden['tweets']) == len(golden['probs']) == 32
    assert not any('@' in o.replace('@user', '') for o in golden['tweets'])
    again = read_manifest(load(saved).save(tmp_path/'again'))['golden']
    assert set(again['tweets']) == set(golden['tweets'])
    both = combine([saved, saved]).save(tmp_path/'both', table=read_tweets(sample_path('tweets.csv'), label=True))
    assert load(both).recheck() < 1e-6

def test_clearing_the_cache_keeps_what_was_rescued(tmp_path, monkeypatch):
    monkeypatch.setenv('TWEETNB_CACHE', str(tmp_path))
    for name in 'rescued', 'tokens':
        (tmp_path/name).mkdir()
        (tmp_path/name/'x').write_bytes(b'12')
    assert clear_cache() == 2 and cache_sizes() == dict(rescued=2)
