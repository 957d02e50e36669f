"A small learner on the packaged tweets, for the tests of `tweetnb.train`"
import torch
import fastai.callback.progress, fastai.callback.schedule
from fastai.metrics import accuracy

from tweetnb.core import sample_path, seed_everything
from tweetnb.data.read import read_tweets
from tweetnb.models.recurrent import create_model
from tweetnb.text.block import TweetDataLoaders
from tweetnb.train.checkpoint import ResumableLearner

table = read_tweets(sample_path('tweets.csv'))[:400]

def learner(*cbs, bs=32, metrics=accuracy, path='.', kind=ResumableLearner):
    seed_everything(42)
    dls = TweetDataLoaders.from_df(table, bs=bs, device='cpu', min_freq=1, path=path)
    model = create_model('gru', len(dls.vocab[0]), len(dls.labels), n_emb=16, n_hidden=16)
    return kind(dls, model, lr=3e-3, metrics=metrics, cbs=cbs)

def train(learn, epochs=2):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 5e-3)
    return learn

def weights(learn): return [p.detach().clone() for p in learn.model.parameters()]

def same(a, b): return all(torch.equal(x, y) for x,y in zip(a, b))
