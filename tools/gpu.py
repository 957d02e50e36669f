"""What a GPU does: is it right, and how fast? `make gpu`, under nine minutes, without a network; writes a JSON file.

It needs Linux, Python 3.11 or later with torch, this tree, and what tweetnb requires. What of that is missing is taken
from `wheels/`, which `make wheels` fills on a machine with a network (under the same Python) and which is copied here.
Each section runs in a process of its own, which is ended when its time is over; what it has measured by then is kept.
`--device cpu --quick` runs everything on tiny models, to test the script itself."""
import argparse, importlib.metadata, json, multiprocessing, os, signal, subprocess, sys, tempfile, time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
os.environ.update(USE_TORCH_XLA='0', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='true')


def install_missing():
    "Install those wheels whose package is missing into a folder of this tree"
    site = root/'build'/'gpu-site'
    def missing(wheel):
        name = wheel.name.split('-')[0]
        try: importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError: return name != 'tweetnb'
    wheels = [str(o) for o in sorted((root/'wheels').glob('*.whl')) if missing(o)]
    if wheels and not site.is_dir():
        command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-index', '--no-deps', '--target', str(site)]
        subprocess.run([*command, *wheels], check=True)
    paths = [str(root), str(site)]
    sys.path[:0] = paths
    os.environ['PYTHONPATH'] = os.pathsep.join([*paths, os.environ.get('PYTHONPATH', '')])


# ---- what the sections share


def seconds_per_call(f, device, least=1.):
    "The mean time of a call, over at least `least` seconds after two calls to warm up"
    import torch
    from tweetnb.hardware import synchronize
    device = torch.device(device)
    for _ in range(2): f()
    synchronize(device)
    start,n = time.perf_counter(), 0
    while time.perf_counter() - start < least:
        f()
        n += 1
        if n % 8 == 0: synchronize(device)
    synchronize(device)
    return (time.perf_counter() - start)/n


def largest_difference(a, b):
    "Between two lists of tensors, as a share of the largest number of each tensor if that is above 1"
    return max(float((x.cpu() - y).abs().max()/y.abs().max().clamp(min=1)) for x,y in zip(a, b))


def made_up(tweets, words, shortest, longest, labels, seed=0):
    "Random tweets as token ids, and a tokenizer that has so many words"
    import numpy as np
    from tweetnb.text.block import TweetDataset
    from tweetnb.text.tokens import TokenStore, TweetTokenizer
    rng = np.random.default_rng(seed)
    tokenizer = TweetTokenizer.word([' '.join(f'w{i}' for i in range(words - 2))], min_freq=1, max_vocab=words)
    offsets = np.concatenate([[0], rng.integers(shortest, longest + 1, tweets).cumsum()])
    store = TokenStore(rng.integers(2, len(tokenizer), offsets[-1], dtype=np.int32), offsets)
    names = [f'label {i}' for i in range(labels)]
    return TweetDataset(None, rng.integers(0, labels, tweets), names, tokenizer, store=store, max_len=longest)


def loaders(dataset, bs, **kwargs):
    "All tweets for training, the first ones for validation"
    import copy
    from tweetnb.text.block import TweetDataLoaders
    valid = copy.copy(dataset)
    valid.store,valid.y = dataset.store.take(range(2*bs)), dataset.y[:2*bs]
    return TweetDataLoaders.from_store(dataset, valid, bs=bs, remainder='fill', **kwargs)


def multiplications(model):
    "Weights that are multiplied with each token, and those with each tweet"
    from torch import nn
    token,tweet = 0, 0
    for name,module in model.named_modules():
        if isinstance(module, nn.RNNBase): token += sum(p.numel() for k,p in module.named_parameters() if 'weight' in k)
        elif isinstance(module, nn.Linear):
            if name.startswith('encoder.'): token += module.weight.numel()
            else: tweet += module.weight.numel()
    return token, tweet


def sample_learner():
    "A small learner on the packaged tweets, without dropout"
    from tweetnb.core import sample_path
    from tweetnb.data.read import read_tweets
    from tweetnb.text.block import TweetDataLoaders
    from tweetnb.train.learner import tweet_learner
    df = read_tweets(sample_path('tweets.csv'))[:420].assign(split=['train']*320 + ['valid']*100)
    return tweet_learner(TweetDataLoaders.from_df(df, bs=32), 'gru', n_emb=32, n_hidden=32, dropout=0., seed=1)


# ---- sections: each fills a dict, bit by bit


def machine(out, device, quick):
    import torch
    from tweetnb.core import versions
    from tweetnb.hardware import default_precision
    out.update(precision=default_precision(device), versions=versions(), torch_cuda=torch.version.cuda)
    if device == 'cuda':
        one = torch.cuda.get_device_properties(0)
        out.update(chip=one.name, memory_gb=round(one.total_memory/2**30, 1), cudnn=torch.backends.cudnn.version(),
                   capability=list(torch.cuda.get_device_capability()))
    dtype = torch.float16 if out['precision'] == 'fp16' else torch.bfloat16
    n = 256 if quick else 8192
    a,b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    out['peak_tflops'] = 2*n**3/seconds_per_call(lambda: a @ b, device, .1 if quick else 1)/1e12   # what is attainable
    try: out['triton'] = importlib.metadata.version('triton')
    except importlib.metadata.PackageNotFoundError: out['triton'] = None


def correctness(out, device, quick):
    "Each kernel and each model in float32, on the device and on the CPU: outputs and gradients"
    import torch
    from tweetnb.models.bert import BertClassifier
    from tweetnb.models.layers import has_triton, kernels, run_padded, _make_rnn
    from tweetnb.models.recurrent import create_model, models
    import tweetnb.models.ngram
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if device == 'cuda': out['Triton compiles'] = has_triton()
    n_in,n,batch,width = (5, 7, 4, 6) if quick else (100, 130, 150, 40)
    lengths = torch.randint(1, width + 1, (batch,))
    x = torch.randn(batch, width, n_in)
    def both(f, module, *inputs):
        "Outputs and gradients on the device, and on the CPU"
        found = []
        for where in device, 'cpu':
            module = module.to(where)
            module.zero_grad()
            y = f(module, *[o.to(where) for o in inputs])
            y.float().square().mean().mul(100).backward()
            found.append([y.detach(), *[p.grad.clone() for p in module.parameters() if p.grad is not None]])
        return largest_difference(*found)
    for kind,activation in ('rnn', 'tanh'), ('gru', 'tanh'), ('gru', 'relu'), ('lstm', 'tanh'):
        for backward in False, True:
            torch.manual_seed(0)
            module = _make_rnn(kind, n_in, n, activation)
            def run(module, x, lengths): return run_padded(module, x, lengths, backward)
            out[f"kernel {kind} {activation}{' backwards'*backward}"] = both(run, module, x, lengths)
    ids = torch.randint(1, 500, (batch, width))
    ids *= torch.arange(width) < lengths[:,None]
    for name,(cls,_) in models.items():
        if cls.__module__.endswith('.bert') and name != 'bert': continue
        torch.manual_seed(0)
        small = dict(encoder=dict(model_type='bert', hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                  intermediate_size=64, attention_probs_dropout_prob=0, hidden_dropout_prob=0))
        model = create_model(name, 500, 3, dropout=0., **(small if cls is BertClassifier else {}))
        out[f'model {name}'] = both(lambda model, *batch: model(*batch), model, ids, lengths)
    from tweetnb.ship.bundle import load
    texts = ['what a lovely morning', 'late again 😩', 'ok'] + [f'number {i} of many' for i in range(50)]
    for name in 'bilstm', 'gru_attention', 'ngram', 'pyramid':
        here,there = [load(root/'tests'/'bundles'/'0.1.0'/name, o).predict_proba(texts) for o in (device, 'cpu')]
        out[f'prediction {name}'] = float((here - there).abs().max().max())
    out['largest'] = max(v for k,v in out.items() if ' ' in k and isinstance(v, float))
    out['right'] = out['largest'] <= 1e-4


def resume(out, device, quick):
    "Training that is interrupted and resumed, beside training that is not"
    from fastai.callback.core import Callback
    from tweetnb.train.checkpoint import Checkpoint
    from tweetnb.train.devices import runner
    class Stop(Callback):
        order = 99
        def after_batch(self):
            if self.training and self.train_iter == 7: raise InterruptedError('at step 8')
    def train(*cbs):
        with runner(device, 'fp32'):
            learn = sample_learner()
            with learn.no_bar(), learn.no_logging(): learn.fit(2, 3e-3, cbs=list(cbs))
        return [p.detach().cpu() for p in learn.model.parameters()]
    with tempfile.TemporaryDirectory() as folder:
        try: train(Checkpoint(f'{folder}/run', steps=3), Stop())
        except InterruptedError: out['interrupted'] = True
        out['difference'] = largest_difference(train(Checkpoint(f'{folder}/run', steps=3)), train())
    out['right'] = out['difference'] <= 1e-4


def losses(learn):
    "The loss of each step of an epoch"
    from fastai.callback.core import Callback
    found = []
    class Keep(Callback):
        def after_step(self): found.append(self.learn.loss.item())
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 3e-3, cbs=Keep())
    return found


ddp_script = '''
import json, sys
sys.path.insert(0, sys.argv[1])
from gpu import losses, sample_learner
from tweetnb.train.devices import runner
with runner('ddp', 'fp32') as r:
    found = losses(sample_learner())
    if r.rank == 0: open(sys.argv[2], 'w').write(json.dumps(dict(losses=found, overlap=r.overlap, **r.describe())))
'''

def ddp(out, device, quick):
    "One process of several (NCCL on a GPU, with overlap), beside one alone"
    from tweetnb.train.devices import runner
    from tweetnb.train.distributed import launch
    with tempfile.TemporaryDirectory() as folder:
        launch(ddp_script, root/'tools', f'{folder}/out.json', processes=1)
        there = json.loads(Path(f'{folder}/out.json').read_text())
    with runner(device, 'fp32'): here = losses(sample_learner())
    out.update(backend=there['backend'], overlap=there['overlap'], steps=len(here))
    out['difference'] = max(abs(a - b) for a,b in zip(here, there['losses'], strict=True))
    out['right'] = out['difference'] <= 1e-4


# As published: model, its parameters, words, shortest and longest tweet, labels, batch, training tweets of an epoch
mbert = dict(model_type='bert', vocab_size=119_547)
systems = dict(
    emoji=('gru_attention', {}, 4_096, 32, 32, 5, 1024, 800_000),
    arabizi=('bert_arabizi', dict(encoder=mbert), 20_000, 140, 140, 4, 16, 63_000),
    celebrity=('bilstm', {}, 10_000, 5, 40, 6, 32, 7_000),
    sentiment140=('lstm', dict(n_emb=300, n_hidden=150), 15_000, 5, 40, 2, 16, 9_500),
    imdb=('lstm', dict(n_emb=96, n_hidden=64), 30_000, 100, 400, 2, 32, 45_000))
tiny = dict(emoji=dict(n_emb=16, n_hidden=16, n_last=8), celebrity=dict(n_emb=16, n_hidden=16),
            sentiment140=dict(n_emb=16, n_hidden=16), imdb=dict(n_emb=16, n_hidden=16))
tiny_bert = dict(model_type='bert', vocab_size=2_000, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                 intermediate_size=16)


def trained(arch, params, dataset, bs, device, seconds, epoch):
    "Measure training for some seconds, after some steps of warm-up"
    from tweetnb.train.devices import runner
    from tweetnb.train.learner import tweet_learner
    from tweetnb.train.timing import measure
    dls = loaders(dataset, bs)
    model = {}
    def make():
        learn = tweet_learner(dls, arch, metrics=[], **params)
        model.update(learn=learn)
        return learn
    most = len(dataset)//bs
    speed = measure(make, runner(device), steps=min(4, most))['tweets_per_s']
    res = measure(make, runner(device), steps=min(max(4, int(seconds/2*speed/bs)), most), tweets=epoch)
    del res['accuracy']                                    # of random labels
    token,tweet = multiplications(model['learn'].model)
    length = float(dataset.store.lengths.mean())
    tflops = 6*(token*length + tweet)*res['tweets_per_s']/1e12
    return dict(res, bs=bs, tokens=length, parameters=sum(p.numel() for p in model['learn'].model.parameters()),
                tflops=tflops)


def system(name, out, device, quick):
    arch,params,words,shortest,longest,labels,bs,epoch = systems[name]
    if quick:
        words,bs,longest,shortest = 200, 8, min(longest, 20), min(shortest, 20)
        params = dict(encoder=tiny_bert, width=20) if name == 'arabizi' else tiny[name]
    dataset = made_up(bs*(4 if quick else 400), words, shortest, longest, labels)
    out.update(trained(arch, params, dataset, bs, device, .2 if quick else 12, epoch))


def gru(out, device, quick):
    "Milliseconds of both passes through one layer of the published emoji model"
    import torch
    from tweetnb.hardware import default_precision, precisions
    from tweetnb.models.layers import GRU, ReluGRU, gru_scan, run_padded
    batch,width,n = (4, 5, 8) if quick else (1024, 32, 1024)
    x = torch.randn(batch, width, n, device=device, requires_grad=True)
    lengths = torch.full((batch,), width, device=device)
    relu,tanh = ReluGRU(n, n).to(device), GRU(n, n, batch_first=True).to(device)
    ways = {'relu': lambda: run_padded(relu, x, lengths), 'tanh, cuDNN': lambda: tanh(x)[0],
            'relu, rows': lambda: gru_scan(relu, x, lengths), 'relu, loop': lambda: relu(x)[0]}
    half = precisions[default_precision(device)]
    def step(f):
        with torch.autocast(device, half, enabled=half is not torch.float32): y = f()
        y.float().sum().backward()
    for name,f in ways.items(): out[name] = seconds_per_call(lambda: step(f), device, .1 if quick else 2)*1000
    out['relu / tanh'] = out['relu']/out['tanh, cuDNN']


def trainer(out, device, quick):
    "A BERT of the published size: ours, and Hugging Face's Trainer on the same tweets of 64 tokens"
    import torch
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
    from tweetnb.hardware import default_precision
    bs,steps,config = (8, 4, tiny_bert) if quick else (16, 100, mbert)
    dataset = made_up(bs*steps, 200 if quick else 20_000, 64, 64, 4)
    ours = trained('bert', dict(encoder=config), dataset, bs, device, .2 if quick else 10, None)
    out['tweetnb'] = ours['tweets_per_s']
    class Tweets(torch.utils.data.Dataset):
        def __len__(self): return len(dataset)
        def __getitem__(self, i):
            ids = torch.from_numpy(dataset.store[i].astype('int64'))
            return dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=dataset.y[i])
    options = {k: v for k,v in config.items() if k != 'model_type'}
    model = BertForSequenceClassification(BertConfig(**options, num_labels=4))
    precision = default_precision(device)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(folder, per_device_train_batch_size=bs, num_train_epochs=1, report_to='none',
            save_strategy='no', logging_strategy='no', disable_tqdm=True, use_cpu=device == 'cpu',
            bf16=precision == 'bf16', fp16=precision == 'fp16', optim='adamw_torch_fused')
        theirs = Trainer(model, args, train_dataset=Tweets())
        theirs.train()                                     # to warm up
        out['Trainer'] = theirs.train().metrics['train_samples_per_second']
    out['ratio'] = out['tweetnb']/out['Trainer']


def prediction(out, device, quick):
    "A million tweets from CSV to CSV through a BiLSTM, or as many as there is time for"
    import numpy as np
    from tweetnb.data.clean import Cleaner
    from tweetnb.models.network import NetworkClassifier
    from tweetnb.models.recurrent import create_model
    from tweetnb.ship.shards import predict_file
    dataset = made_up(64, 300 if quick else 20_000, 5, 25, 3)
    model = create_model('bilstm', len(dataset.tokenizer), 3, **tiny['celebrity'] if quick else {})
    made = NetworkClassifier(model, dataset.tokenizer, Cleaner.preset('tweeteval'), ['a', 'b', 'c'], 64, device='cpu')
    words,rng = np.array([f'w{i}' for i in range(len(dataset.tokenizer))]), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        bundle = made.save(f'{folder}/bundle', table=None)
        def run(n):
            csv = Path(folder)/f'{n}.csv'
            lines = (' '.join(words[rng.integers(0, len(words), k)]) for k in rng.integers(5, 26, n))
            csv.write_text('text\n' + '\n'.join(lines), encoding='utf-8')
            start = time.perf_counter()
            report = predict_file(bundle, csv, f'{folder}/{n}-out.csv', backend='torch', bs=1024, device=device)
            assert report['written'] == n
            return time.perf_counter() - start
        few = 300 if quick else 30_000
        rate = few/run(few)
        n = 600 if quick else min(1_000_000, int(rate*35))
        seconds = run(n)
        out.update(tweets=n, seconds=seconds, per_second=n/seconds, seconds_for_a_million=1e6*seconds/n)


sections = dict(machine=(machine, 25), correctness=(correctness, 80), resume=(resume, 25), ddp=(ddp, 45),
                **{name: (lambda *args, name=name: system(name, *args), 45 if name in ('emoji', 'arabizi') else 25)
                   for name in systems},
                gru=(gru, 40), trainer=(trainer, 45), prediction=(prediction, 70))


def run_section(name, path, device, quick):
    "In a process of its own: run a section, and write what it has found whenever something is new"
    class Kept(dict):
        def __setitem__(self, key, value): self.update({key: value})
        def update(self, *args, **kwargs):
            super().update(*args, **kwargs)
            path.with_suffix('.new').write_text(json.dumps(self))
            path.with_suffix('.new').replace(path)
    out = Kept()
    os.setpgid(0, 0)                                       # so that it can be ended with all that it has started
    try: sections[name][0](out, device, quick)
    except Exception as e: out['error'] = f'{type(e).__name__}: {e}'[:500]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--device', default='cuda', choices=['cuda', 'cpu'])
    parser.add_argument('--quick', action='store_true', help='tiny models: a test of this script')
    parser.add_argument('--minutes', type=float, default=8.5, help='for everything')
    parser.add_argument('--only', help='names of sections, separated by commas')
    parser.add_argument('--out', type=Path, default=root/'nbs'/'benchmarks'/'results'/'gpu.json')
    args = parser.parse_args()
    start = time.monotonic()
    install_missing()
    import torch, transformers, tweetnb.train.timing, tweetnb.recipes   # once: the sections are forks
    res = dict(date=time.strftime('%Y-%m-%d'), device=args.device, quick=args.quick, sections={})
    right = True
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only.split(',') if args.only else sections:
            left = args.minutes*60 - (time.monotonic() - start)
            path,began = Path(folder)/f'{name}.json', time.monotonic()
            process = multiprocessing.get_context('fork').Process(target=run_section,
                                                                  args=(name, path, args.device, args.quick))
            process.start()
            process.join(max(1, min(left, sections[name][1]*max(args.minutes/8.5, 1))))
            if over := process.is_alive():
                os.killpg(process.pid, signal.SIGTERM)     # torchrun then ends its processes
                time.sleep(2)
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
            found = json.loads(path.read_text()) if path.is_file() else {}
            if over: found['error'] = f'ended after {time.monotonic() - began:.0f} s'
            elif process.exitcode: found['error'] = f'its process ended with code {process.exitcode}'
            res['sections'][name] = dict(found, section_s=round(time.monotonic() - began, 1))
            print(name, json.dumps(res['sections'][name]), flush=True)
            right &= found.get('right', True) and 'error' not in found
            res['minutes'] = round((time.monotonic() - start)/60, 2)
            args.out.write_text(json.dumps(res, indent=1) + '\n', encoding='utf-8')
    peak = res['sections'].get('machine', {}).get('peak_tflops')
    for name in systems:
        one = res['sections'].get(name, {})
        if peak and 'tflops' in one: one['share_of_peak'] = one['tflops']/peak
    args.out.write_text(json.dumps(res, indent=1) + '\n', encoding='utf-8')
    sys.exit(not right)


if __name__ == '__main__': main()
