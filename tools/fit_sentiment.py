"""Fit the head of the packaged sentiment classifier: a linear layer on the frozen, packaged tweet encoder

    TWEETNB_DATA=... python tools/fit_sentiment.py

Learns from the training tweets of TweetEval's sentiment (SemEval 2017), prints the scores on its test tweets,
which choose nothing, and writes `tweetnb/encoder/sentiment.safetensors`. To be run again whenever the encoder changes.
"""
import pandas as pd
from safetensors.torch import save_file

from tweetnb.core import data_path
from tweetnb.metrics import Scores
from tweetnb.train.encoders import encoder_path, encoder_with_labels, sentiments
from tweetnb.train.probe import fit_head


def read(split):
    "Tweets and labels of one split"
    texts, labels = (data_path('tweeteval', 'sentiment', f'{split}_{o}.txt').read_text(encoding='utf-8').split('\n')
                     for o in ('text', 'labels'))
    df = pd.DataFrame(dict(text=texts, label=labels))
    df = df[df['label'] != '']
    return df.assign(label=df['label'].astype(int).map(dict(enumerate(sentiments))))


def main():
    train, test = read('train'), read('test')
    mine = encoder_with_labels(sentiments)
    fit_head(mine, train, train['label'], 'balanced')
    print(Scores(test['label'], mine.predict(test)['label'], sentiments))
    print(mine.predict(['what a lovely morning 😍', 'worst train journey ever', 'meeting moved to 3pm']).round(2))
    head = {k: v.detach().half().contiguous() for k, v in mine.model.head.state_dict().items()}
    save_file(head, f'{encoder_path()}/sentiment.safetensors')


if __name__ == '__main__': main()
