"The learner: transfer from another task, freezing, rates"
import pytest
import torch

from tweetnb.text.block import TweetDataLoaders
from tweetnb.ship.bundle import load
from tweetnb.core import TweetnbError, sample_path
from tweetnb.train.learner import Pretrained, map_embedding, tweet_learner, tweet_splitter
from tweetnb.data.read import read_tweets
from tweetnb.models.recurrent import models as all_models

models = [o for o in all_models if not o.startswith(('bert', 'hf_'))]      # those have tests of their own

small = dict(n_emb=16, n_hidden=16)

@pytest.fixture(scope='module')
def mood(): return TweetDataLoaders.from_df(read_tweets(sample_path('tweets.csv'))[:400], bs=32)

@pytest.fixture(scope='module')
def emoji(): return TweetDataLoaders.from_csv(sample_path('emojify.txt'), bs=32, min_freq=1)

@pytest.fixture(scope='module')
def teacher(emoji):
    learn = tweet_learner(emoji, 'gru', metrics=[], n_layers=2, **small)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn

@pytest.fixture(scope='module')
def bundle(teacher, tmp_path_factory): return teacher.classifier().save(tmp_path_factory.mktemp('bundle')/'emoji')

def quiet(learn, *args, how='fit_one_cycle'):
    with learn.no_bar(), learn.no_logging(): getattr(learn, how)(*args)
    return learn

def state(learn): return {k: v.clone() for k,v in learn.model.state_dict().items()}

@pytest.mark.parametrize('way', ['learner', 'bundle', 'folder', 'text'])
def test_exact_for_shared_words(mood, emoji, teacher, bundle, way):
    source = dict(learner=teacher, bundle=load(bundle), folder=bundle, text=str(bundle))[way]
    pupil = tweet_learner(mood, pretrained=source)
    old,new = teacher.model.state_dict(),pupil.model.state_dict()
    place = {w: i for i,w in enumerate(emoji.vocab[0])}
    mean,shared = old['embedding.weight'].mean(0),0
    for w,vector in zip(mood.vocab[0], new['embedding.weight']):
        assert torch.equal(vector, old['embedding.weight'][place[w]]) if w in place else torch.allclose(vector, mean)
        shared += w in place
    assert 100 < shared < len(mood.vocab[0]) and not new['embedding.weight'][0].any()
    for k in old:
        if k.startswith('encoder.'): assert torch.equal(old[k], new[k])
    assert new['head.weight'].shape[0] == 3 and pupil.model.config['n_layers'] == 2

def test_the_teacher_is_left_alone(mood, teacher):
    before = state(teacher)
    quiet(tweet_learner(mood, pretrained=teacher, metrics=[]), 1, 1e-2)
    assert all(torch.equal(v, before[k]) for k,v in teacher.model.state_dict().items())

def test_a_tweet_of_shared_words_has_the_same_features(mood, emoji, teacher):
    words = [w for w in mood.vocab[0] if w in emoji.vocab[0] and w.isalpha()][:12]
    pupil = tweet_learner(mood, pretrained=teacher)
    def features(learn):
        model = learn.model.eval()
        store = learn.dls.tokenizer.encode([' '.join(words)])
        ids = torch.from_numpy(store[0].astype(int))[None]
        with torch.no_grad(): return model.encoder(model.embedding(ids), torch.tensor([ids.shape[1]]))[1]
    assert torch.equal(features(pupil), features(teacher))

def test_gradual_unfreezing(mood, teacher):
    pupil = tweet_learner(mood, pretrained=teacher, metrics=[])
    def moved(*args):
        before = state(pupil); quiet(pupil, 1, *args)
        return {k.split('.')[0] for k,v in pupil.model.state_dict().items() if not torch.equal(v, before[k])}
    pupil.freeze(); assert moved(1e-2) == {'head'}
    pupil.freeze_to(-2); assert moved(slice(1e-3, 1e-2)) == {'head', 'encoder'}
    pupil.unfreeze(); assert moved(slice(1e-3, 1e-2)) == {'head', 'encoder', 'embedding'}
    quiet(pupil, 1, how='fine_tune')

def test_a_rate_for_each_group(mood, teacher):
    pupil = tweet_learner(mood, pretrained=teacher, metrics=[])
    with pupil.no_bar(), pupil.no_logging(): pupil.fit(1, lr=slice(1e-4, 1e-2))
    assert [h['lr'] for h in pupil.opt.hypers] == pytest.approx([1e-4, 1e-3, 1e-2])

@pytest.mark.parametrize('arch', sorted(models))
def test_every_parameter_is_in_one_group(mood, arch):
    model = tweet_learner(mood, arch).model
    groups = tweet_splitter(model)
    assert sorted(id(p) for g in groups for p in g) == sorted(id(p) for p in model.parameters()) and len(groups) == 3

@pytest.mark.parametrize('arch', sorted(models))
def test_every_model_can_start_another(mood, emoji, arch):
    teacher = tweet_learner(emoji, arch)
    pupil = tweet_learner(mood, pretrained=teacher, seed=7)
    for (k,a),b in zip(teacher.model.state_dict().items(), pupil.model.state_dict().values()):
        if not k.startswith(('head', 'embedding')): assert torch.equal(a, b), k

def test_what_does_not_fit(mood, teacher, tmp_path):
    for kw in dict(arch='lstm', **small), dict(n_hidden=32), dict(n_layers=1), dict(arch='gru', n_emb=8):
        with pytest.raises(TweetnbError, match='does not fit'): tweet_learner(mood, pretrained=teacher, **kw)
    with pytest.raises(TweetnbError, match='missing'): tweet_learner(mood, pretrained=tmp_path)

def test_blending_of_words_is_refused_before_anything_changes(mood):
    "fastai's MixUp fails on ids, deep inside, and leaves the learner without a loss"
    from fastai.callback.mixup import CutMix, MixUp
    from fastai.losses import LabelSmoothingCrossEntropyFlat
    learn = tweet_learner(mood, 'gru', loss_func=LabelSmoothingCrossEntropyFlat(), metrics=[], **small)
    callbacks = list(learn.cbs)
    for cbs in MixUp(), [CutMix], CutMix(.5):
        with pytest.raises(TweetnbError, match='LabelSmoothingCrossEntropyFlat'): learn.fit_one_cycle(1, cbs=cbs)
    with pytest.raises(TweetnbError, match='MixUp'): tweet_learner(mood, 'gru', cbs=MixUp())
    assert list(learn.cbs) == callbacks
    quiet(learn, 1)

def test_settings_come_along_and_can_be_changed(mood, teacher):
    assert tweet_learner(mood, pretrained=teacher, dropout=.1).model.dropout.p == .1
    assert Pretrained.of(teacher).settings('lstm') == {}

def test_map_embedding():
    got = map_embedding(torch.arange(6.).view(3, 2), ['a', 'b', 'c'], ['c', 'x', 'a', 'c'])
    assert got.tolist() == [[4, 5], [2, 3], [0, 1], [4, 5]]

def test_a_pupil_is_saved_and_loaded(mood, teacher, tmp_path):
    pupil = quiet(tweet_learner(mood, pretrained=teacher, metrics=[]), 1)
    again = load(pupil.classifier().save(tmp_path/'pupil'))
    texts = ['so tired of this train', 'lovely morning']
    assert again.predict_proba(texts).to_numpy() == pytest.approx(pupil.predict_proba(texts).to_numpy(), abs=1e-6)
