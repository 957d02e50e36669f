"Work for tests/test_xla.py, each job in its own process because torch_xla changes PyTorch: prints one line of JSON"
import inspect, json, os, sys, time

os.environ.update(PJRT_DEVICE='CPU', USE_TORCH_XLA='0')
import numpy as np
import torch
from fastai.callback.core import Callback
from torch import nn

from tweetnb.text.block import TweetDataLoaders
from tweetnb.core import TweetnbError, sample_path
from tweetnb.train.learner import tweet_learner
from tweetnb.data.read import read_tweets
from tweetnb.models.recurrent import models
from tweetnb.train.devices import runner

ENCODER = dict(model_type='bert', vocab_size=3000, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
               intermediate_size=32, max_position_embeddings=160, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
SMALL = dict(n_emb=12, n_hidden=12, n_last=8, widths=(6, 8, 8, 12), n_buckets=500, encoder=ENCODER, dropout=0.,
             max_len=16)
VARIANTS = {'gru, relu': ('gru', dict(activation='relu')), 'rnn, relu': ('rnn', dict(activation='relu')),
            'gru, two-way, concat': ('gru', dict(bidirectional=True, pool='concat'))}
# at equal sizes it has the graphs of 'ngram', which would not compile again
OWN = dict(subword=dict(n_emb=14))

def some(arch, **kwargs):
    "Small sizes, as far as this model has them"
    known = inspect.signature(models[arch][0]).parameters
    return {k: v for k,v in (SMALL | OWN.get(arch, {})).items() if k in known and k not in models[arch][1]} | kwargs

def loaders(n=320, bs=16, valid=32, **kwargs):
    df = read_tweets(sample_path('tweets.csv')).iloc[:n+valid].assign(split=['train']*n + ['valid']*valid)
    return TweetDataLoaders.from_df(df,
                                    **{**dict(bs=bs, val_bs=16, cleaner='tweeteval', remainder='fill', max_len=40),
                                       **kwargs})

def train(where, dls, arch, epochs=1, model={}, lr=3e-3, cbs=None, one_cycle=False, **kwargs):
    "Losses, predictions, weights and the learner"
    with runner(where, **{'precision': 'fp32', **kwargs}):
        learn = tweet_learner(dls, arch, cbs=cbs, **model)
        with learn.no_bar(), learn.no_logging(): (learn.fit_one_cycle if one_cycle else learn.fit)(epochs, lr)
        losses,values = [o.item() for o in learn.recorder.losses],[list(o) for o in learn.recorder.values]
        compiled = learn.compile_guard.compiled if where == 'xla' else None
        trips = learn.host_rounds.trips if where == 'xla' else None
        graphs = sorted(learn.host_rounds.graphs) if where == 'xla' else None
        probs = learn.predict_proba().to_numpy()
        weights = {k: v.cpu() for k,v in learn.model.state_dict().items()}
    return dict(losses=losses, values=values, probs=probs, weights=weights, compiled=compiled, trips=trips,
                graphs=graphs, learn=learn)

def apart(a, b):
    "The largest differences of two runs"
    weights = max(((v.float() - b['weights'][k].float()).abs().max().item() for k,v in a['weights'].items()), default=0)
    return dict(steps=len(a['losses']), losses=float(np.abs(np.subtract(a['losses'], b['losses'])).max()),
                probs=float(np.abs(a['probs'] - b['probs']).max()), weights=weights)

def agree(part, parts):
    "Every model, or one part of them: 20 steps on XLA and on the CPU"
    with runner('xla'): pass                                       # first, see `tweetnb.train.xla`
    out = {}
    for name,(arch,kw) in list({**{o: (o, {}) for o in models}, **VARIANTS}.items())[int(part)::int(parts)]:
        start = time.time()
        a,b = [train(where, loaders(widths=(16,), max_len=16), arch, model=some(arch, **kw))
               for where in ('cpu', 'xla')]
        out[name] = dict(apart(a, b), compiled=b['compiled'], first=a['losses'][0], last=a['losses'][-1],
                         took=time.time() - start)
    return out

class Counts(Callback):
    "Graphs compiled at the end of each epoch of training; for fastai each prediction is an epoch too"
    order = 60
    def __init__(self): self.seen = []
    def after_epoch(self):
        if not hasattr(self.learn, 'gather_preds'): self.seen.append(self.compile_guard.compiled)

class ReadsValues(Callback):
    "Reads a number of each batch, as one should not"
    def after_pred(self): self.pred.sum().item()

def lstm(where='xla', **kwargs):
    return train(where, loaders(widths=(14, 40)), 'lstm', epochs=2, one_cycle=True, model=some('lstm'), **kwargs)

def first_step(width):
    "Seconds of processor time from nothing to the end of an LSTM's first training step, of all threads"
    import torch_xla
    from tweetnb.models.recurrent import create_model
    model = create_model('lstm', 1000, 3, n_emb=64, n_hidden=64).to('xla')
    ids,n = torch.randint(1, 1000, (32, width)).to('xla'), torch.randint(1, width, (32,)).to('xla')
    torch_xla.sync(wait=True)
    start = time.process_time()
    model(ids, n).square().sum().backward()
    torch_xla.sync(wait=True)
    return time.process_time() - start

def graphs(folder):
    "Compilations through a Learner; fused steps; bf16; the guard; a bundle; and nn.GRU as it was"
    theirs,clip = nn.GRU,nn.utils.clip_grad_norm_
    with runner('xla'): out = dict(gru_same=nn.GRU is theirs and nn.utils.clip_grad_norm_ is clip)
    rnn = nn.GRU(3, 4, bidirectional=True, batch_first=True)
    out['gru_shape'] = list(rnn(torch.zeros(2, 5, 3))[0].shape)
    out['first_step'] = first_step(128)

    counts = Counts()
    res = train('xla', loaders(widths=(16, 24, 40), valid=96), 'gru', epochs=3, cbs=[counts], one_cycle=True,
                model=some('gru', dropout=.5), every=8)
    out |= dict(seen=counts.seen, steps=len(res['losses']), trips=res['trips'], after=res['compiled'],
                graphs=res['graphs'])
    res['learn'].classifier().save(folder)
    np.save(os.path.join(folder, 'probs.npy'),
            res['learn'].predict_proba(['what a lovely day', 'worst service ever', 'meh']).to_numpy())

    cpu,one = lstm('cpu'),lstm()
    out['one'] = dict(apart(cpu, one), values=one['values'], compiled=one['compiled'], all_losses=one['losses'])
    out['bf16'] = apart(one, lstm(precision='bf16'))
    narrow = dict(arch='rnn', epochs=2, model=some('rnn'))
    one,four = [train('xla', loaders(widths=(40,)), steps_per_graph=k, **narrow) for k in (1, 4)]
    out['steps_per_graph'] = dict(apart(one, four), compiled=four['compiled'], graphs=four['graphs'])
    try: train('xla', loaders(widths=(41,)), cbs=[ReadsValues()], **narrow)
    except TweetnbError as e: out['guard'] = str(e)
    return out

def shared():
    "The LSTM of `graphs` on four virtual devices"
    res = lstm(devices=4)
    with runner('xla', devices=4):
        try: tweet_learner(loaders(bs=10), 'rnn'); uneven = None
        except TweetnbError as e: uneven = str(e)
    import torch_xla.runtime
    return dict(losses=res['losses'], values=res['values'], compiled=res['compiled'], uneven=uneven,
                devices=torch_xla.runtime.global_runtime_device_count())

def late():
    "XLA after a first gradient"
    import tweetnb.all, tweetnb.train.xla
    out = dict(imported='torch_xla' in sys.modules)
    torch.ones(1, requires_grad=True).sum().backward()
    try:
        with runner('xla'): pass
    except TweetnbError as e: out['error'] = str(e)
    return out

if __name__ == '__main__': print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
