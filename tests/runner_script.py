"A script for torchrun whose functions the tests also call in one process"
import numpy as np

SCRIPT = r'''
import json, os, signal, sys
import numpy as np
import torch
from safetensors.torch import save_file
from fastai.callback.core import Callback
from tweetnb.text.block import TweetDataLoaders
from tweetnb.train.checkpoint import Checkpoint
from tweetnb.core import sample_path
from tweetnb.train.learner import tweet_learner
from tweetnb.data.read import read_tweets
from tweetnb.train.devices import runner

def table():
    df = read_tweets(sample_path('tweets.csv'))[:420]
    return df.assign(split=['train']*317 + ['valid']*103)

def make(model='gru', seed=1, n_widths=3, **kw):
    dls = TweetDataLoaders.from_df(table(), bs=32, n_widths=n_widths, **kw)
    dls.train.dataset.y[::7] = -100                           # tweets without a label, in uneven numbers
    dls = type(dls)(*[dl.new() for dl in dls.loaders], path=dls.path)
    return tweet_learner(dls, model, n_emb=16, n_hidden=16, dropout=0., seed=seed)

class Steps(Callback):
    order,losses = 60,()
    def after_step(self): self.losses = [*self.losses, self.learn.loss.item()]

class DieAt(Callback):
    order = 99
    def __init__(self, step, rank): self.step,self.rank = step,rank
    def after_batch(self):
        here = int(os.environ.get('RANK', 0)) == self.rank
        if not (here and self.training and self.train_iter == self.step): return
        open(f'{sys.argv[2]}/died', 'w').close()
        os.kill(os.getpid(), signal.SIGKILL)

def fit(learn, epochs=1, cbs=(), lr=3e-3):
    steps = Steps()
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr, cbs=[steps, *cbs])
    return steps.losses

def experiments():
    res,weights = {},{}
    ways = dict(plain={}, stratified=dict(stratify=True), filled=dict(remainder='fill'),
                balanced=dict(balance=True, drop_last=True))
    for name,kw in ways.items():
        learn = make(**kw)
        res[f'{name} losses'] = fit(learn)
        weights.update({f'{name}.{k}': v for k,v in learn.model.state_dict().items()})
        with learn.no_bar(), learn.no_logging():
            res[f'{name} validated'] = [float(o) for o in learn.validate()]
            preds,targs = learn.get_preds()
        res[f'{name} preds'],res[f'{name} targs'] = preds.tolist(),targs.tolist()
    res['few'] = learn.predict_proba(['so tired']).values.tolist()
    res['three'] = learn.predict_proba(['so tired', 'what a day', 'great great great concert']).values.tolist()
    res['odd'] = learn.predict_proba(table()[:41]).values.tolist()
    res['scores'] = learn.scores(table()[:41]).to_dict()
    res['predict'] = learn.predict('so tired')[2].tolist()
    return res,weights

if __name__ == '__main__':
    what,out = sys.argv[1],sys.argv[2]
    with runner('auto', 'fp32', threads=1): pass                  # a runner can be entered more than once
    with runner('auto', 'fp32', threads=1) as r:
        if what == 'experiments':
            res,weights = experiments()
            with runner('auto', 'fp32', threads=1, overlap=True):
                learn = make()
                res['overlap losses'] = fit(learn)
                weights.update({f'overlap.{k}': v for k,v in learn.model.state_dict().items()})
            dls = make(stratify=True).dls
            res['hands'] = [np.bincount(b[2][b[2] >= 0], minlength=3).tolist() for b in dls.train]
            res['shown'] = make().logger is print
            print(f'only the first process is heard, {r.rank}')
        elif what == 'killed':
            learn = make()
            die = sys.argv[3] == 'die' and not os.path.exists(f'{out}/died')              # once
            where = f'file://{out}/run' if os.path.exists(f'{out}/in-store') else f'{out}/run'
            fit(learn, 2, [Checkpoint(where, steps=3), *([DieAt(8, 1)] if die else [])])
            res,weights = {},dict(learn.model.state_dict())
        else:
            learn = make()
            res,weights = dict(losses=fit(learn)),dict(learn.model.state_dict())
        res.update(describe=r.describe(), rank=r.rank)
    save_file({k: v.contiguous() for k,v in weights.items()}, f'{out}/{what}{r.rank}.safetensors')
    with open(f'{out}/{what}{r.rank}.json', 'w') as f: json.dump(res, f)
'''

def alone(name):
    "The functions of the script, in this process"
    space = {'__name__': 'alone'}
    exec(compile(SCRIPT, 'script', 'exec'), space)
    return space[name]

def close(a, b, eps=1e-5):
    np.testing.assert_allclose(np.asarray(a, dtype=float), np.asarray(b, dtype=float), atol=eps, rtol=0)
