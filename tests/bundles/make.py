"""Write the kept bundles of a release: `python tests/bundles/make.py`, once a release, under a name of its own.

Later releases must load what stands here and answer what stands beside, so nothing here is ever written again.
"""
import json, shutil, sys
from pathlib import Path

from fastai.callback.schedule import fit_one_cycle

import tweetnb
from tweetnb.text.block import TweetDataLoaders
from tweetnb.ship.bundle import combine, load
from tweetnb.data.clean import Cleaner
from tweetnb.core import sample_path
from tweetnb.train.learner import tweet_learner
from tweetnb.models.linear import LinearClassifier
from tweetnb.data.read import read_tweets
from tweetnb.data.split import split_tweets
from tweetnb.text.tokens import TweetTokenizer

tiny = dict(model_type='bert', hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64)
models = dict(bilstm=dict(n_emb=8, n_hidden=8), pyramid=dict(n_emb=8, widths=(4, 5, 6, 8)),
              gru_attention=dict(n_emb=8, n_hidden=8, n_last=8),
              ngram=dict(n_emb=8, n_buckets=500), bert=dict(encoder=tiny))
texts = ['what a lovely morning, thank you all 😍', 'missed the train AGAIN 😩 #mondays', '@ada see https://example.com',
         '', 'ugh', 'هذا رائع', 'so ' * 80]


def make(home):
    df = read_tweets(sample_path('tweets.csv'), label=True).head(500)
    for name, params in models.items():
        make_tokens = TweetTokenizer.wordpiece if name == 'bert' else None
        tokens = dict(tokenizer=make_tokens(df['text'].tolist(), size=400)) if make_tokens else dict(max_vocab=400)
        learn = tweet_learner(TweetDataLoaders.from_df(df, cleaner='tweeteval', bs=32, max_len=48, **tokens), name,
                              **params)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(3, 1e-2)
        keep(learn.classifier().save(home/name, learn.scores(), df))
    make_linear(home, df)
    make_ensemble(home)

def make_linear(home, df):
    df = split_tweets(df)
    train = df[df['split'] == 'train']
    linear = LinearClassifier(Cleaner.preset('tweeteval'), chars=True, min_df=5).fit(train['text'], train['label'])
    keep(linear.save(home/'tfidf', table=df))

def make_ensemble(home):
    rest = read_tweets(sample_path('tweets.csv'), label=True).iloc[500:]
    both = combine([home/'bilstm', home/'tfidf'])
    both.weights = both.weights*[.5, 1.5]
    keep(both.save(home/'ensemble', both.scores(rest)))

def keep(folder):
    "The answers of a bundle beside it"
    (folder/'.gitattributes').unlink(missing_ok=True)       # they are kept as they are, not by LFS
    probs = load(folder).predict_proba(texts)
    kept = dict(texts=texts, probs=[[round(float(p), 8) for p in row] for row in probs.to_numpy()])
    folder.with_suffix('.json').write_text(json.dumps(kept, indent=1), encoding='utf-8')


if __name__ == '__main__':
    home = Path(__file__).parent/(sys.argv[1] if len(sys.argv) > 1 else tweetnb.__version__)
    if home.exists(): sys.exit(f'{home} is there already, and stays as it is')
    make(home)
