"Pretraining on tweets: a killed run, a folder of another run, and a learner that uses the result"
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest
import torch

from tweetnb.models.bert import load_encoder, make_encoder
from tweetnb.text.block import TweetDataLoaders
from tweetnb.data.clean import Cleaner
from tweetnb.core import TweetnbError
from tweetnb.train.learner import tweet_learner
from tweetnb.train.pretrain import MaskedLM, Pretraining, mask_tokens, pretrain
from tweetnb.text.tokens import TweetTokenizer

TINY = dict(model_type='bert', hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64)
TWEETS = [f'{a} {b} {c} again' for a in ('what', 'oh', 'well') for b in ('a lovely', 'a long', 'no')
          for c in ('day', 'night', 'week', 'bus ride', 'coffee')]*3
RUN = dict(epochs=4, bs=16, lr=1e-3, every=5)


@pytest.fixture(autouse=True)
def one_thread():
    "Sums of several threads differ in their last bits from those of one"
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

@pytest.fixture
def start(tmp_path):
    "A folder with a small encoder and its tokenizer"
    tok = TweetTokenizer.word(TWEETS)
    torch.manual_seed(0)
    make_encoder(TINY, len(tok)).save_pretrained(tmp_path/'start')
    (tmp_path/'start'/'tokenizer.json').write_text(tok.source, encoding='utf-8')
    named = dict(pad_token=tok.vocab[tok.pad_id], unk_token=tok.vocab[tok.unk_id])
    (tmp_path/'start'/'tokenizer_config.json').write_text(json.dumps(named))
    return tmp_path/'start'


def weights(folder): return load_encoder(folder).state_dict()

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_killed_process_resumes_bit_for_bit(start, tmp_path):
    whole = pretrain(TWEETS, start, tmp_path/'whole', **RUN)
    code = f"""
import json, time
from tweetnb.train.pretrain import Pretraining
def slow(run):
    if run.step > 12: print('there', flush=True); time.sleep(60)
Pretraining(json.loads({json.dumps(json.dumps(TWEETS))}), {str(start)!r}, {str(tmp_path/'killed')!r},
            **{RUN!r}).run(slow)
"""
    with subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'}) as job:
        assert job.stdout.readline().strip() == 'there'
        job.send_signal(signal.SIGKILL)
    assert [o.name for o in (tmp_path/'killed').iterdir()] == ['checkpoint.safetensors']
    run = Pretraining(TWEETS, start, tmp_path/'killed', **RUN)
    seen = []
    done = run.run(lambda o: seen.append(o.step))
    assert seen[0] == 11 and seen[-1] == whole['steps']                                # from the checkpoint of step 10
    assert same(weights(tmp_path/'whole'), weights(tmp_path/'killed'))
    assert done['losses'] == whole['losses'] and done['valid_losses'] == whole['valid_losses']


def test_a_finished_run_is_not_run_again(start, tmp_path):
    first = pretrain(TWEETS, start, tmp_path/'read', **RUN)
    seen = []
    again = Pretraining(TWEETS, start, tmp_path/'read', **RUN).run(seen.append)
    assert again | {'folder': ''} == first | {'folder': ''} and not seen


@pytest.mark.parametrize('change',
                         [dict(seed=1), dict(lr=2e-3), dict(epochs=5), dict(cleaner=Cleaner([])),
                          dict(texts=TWEETS[1:])])
def test_the_folder_of_another_run_is_refused(start, tmp_path, change):
    pretrain(TWEETS, start, tmp_path/'read', **RUN)
    before = (tmp_path/'read'/'checkpoint.safetensors').read_bytes()
    settings = {**RUN, **change}
    texts = settings.pop('texts', TWEETS)
    if 'cleaner' in change:                                                            # changes no text: the same run
        assert pretrain(texts, start, tmp_path/'read', **settings)['steps']
        return
    with pytest.raises(TweetnbError, match='other tweets or settings'):
        pretrain(texts, start, tmp_path/'read', **settings)
    assert (tmp_path/'read'/'checkpoint.safetensors').read_bytes() == before


def test_bf16(start, tmp_path):
    done = pretrain(TWEETS, start, tmp_path/'read', **{**RUN, 'epochs': 12, 'lr': 5e-3, 'precision': 'bf16'})
    assert all(o == o for o in done['losses']) and done['valid_losses'][-1][1] < done['valid_losses'][0][1]


def test_into_a_learner(start, tmp_path):
    import pandas as pd
    pretrain(TWEETS, start, tmp_path/'read', **RUN)
    df = pd.DataFrame(dict(text=TWEETS, label=['a', 'b', 'c']*(len(TWEETS)//3),
                           split=['train', 'valid', 'train']*(len(TWEETS)//3)))
    df['label'] = df['label'].astype('category')
    dls = TweetDataLoaders.from_df(df, tokenizer=TweetTokenizer.pretrained(tmp_path/'read'), bs=16)
    learn = tweet_learner(dls, 'bert', pretrained=tmp_path/'read', head='mean')
    read = weights(tmp_path/'read')
    state = learn.model.encoder.state_dict()
    assert all(torch.equal(v, read[k]) for k,v in state.items())
    assert not same(weights(start), read)


def test_nothing_but_tokens_is_hidden():
    "Not padding, and not what stands before and after each text"
    ids,lengths = torch.arange(5, 25).repeat(500, 1), torch.full((500,), 15)
    ids[:,0],ids[:,14] = 2,3
    hidden,targets = mask_tokens(ids, lengths, 4, 30, keep=(2, 3), p=.5, rng=torch.Generator().manual_seed(0))
    changed = hidden != ids
    assert not changed[:,15:].any() and not changed[:,[0, 14]].any() and (targets[:,15:] == -100).all()
    assert (targets[changed] == ids[changed]).all() and changed[:,1:14].any(0).all()


KINDS = dict(bert=TINY, roberta={**TINY, 'model_type': 'roberta', 'pad_token_id': 1},
             distilbert=dict(model_type='distilbert', dim=16, n_layers=2, n_heads=2, hidden_dim=32))

@pytest.mark.parametrize('kind', KINDS)
def test_an_encoder_goes_on_with_its_own_head(kind, start, tmp_path):
    "The loss is that of `AutoModelForMaskedLM`, before and after reading on"
    import transformers
    tok = TweetTokenizer.pretrained(start)
    config = transformers.AutoConfig.for_model(**KINDS[kind], vocab_size=len(tok), tie_word_embeddings=True)
    theirs = transformers.AutoModelForMaskedLM.from_config(config)
    for p in theirs.parameters(): torch.nn.init.normal_(p, std=.2)
    theirs.save_pretrained(tmp_path/'published')
    ids,lengths = torch.randint(5, len(tok), (4, 12)), torch.full((4,), 12)
    hidden,targets = mask_tokens(ids, lengths, 4, len(tok), p=.5)
    def loss_there(folder):
        model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
        with torch.no_grad(): return float(model(hidden, labels=targets).loss)
    def loss_here(model):
        with torch.no_grad(): return float(model.eval()(hidden, lengths, targets))
    ours = MaskedLM(load_encoder(tmp_path/'published'))
    assert ours.take_head(tmp_path/'published')
    assert loss_here(ours) == pytest.approx(loss_there(tmp_path/'published'), abs=1e-3)
    run = Pretraining(TWEETS, tmp_path/'published', tmp_path/'on', tokenizer=tok, **RUN)
    assert [o['lr_factor'] for o in run.opt.param_groups] == [1, 1]
    done = run.run()
    assert done['valid_losses'][-1][1] < done['valid_losses'][0][1]
    assert loss_here(run.model) == pytest.approx(loss_there(tmp_path/'on'), abs=1e-3)
