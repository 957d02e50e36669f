"Several labels a tweet, from a file to a bundle: every way in, every kind of model, every way out"
import asyncio, json, sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, label_ranking_average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import MultiLabelBinarizer

import tweetnb as tn
from tweetnb.cli import main
from tweetnb.core import TweetnbError
from tweetnb.auto import train
from tweetnb.data.audit import audit, duplicate_key
from tweetnb.data.datasets import convert
from tweetnb.data.read import iter_tweets
from tweetnb.data.split import kfold_tweets, split_tweets
from tweetnb.metrics import MultiScores, Scores, best_thresholds, label_matrix, label_sets, metric_value
from tweetnb.models.ensemble import Ensemble
from tweetnb.train.encoders import encoder_path
from tweetnb.train.fit import default_config, fit

WORDS = dict(joy=['happy', 'lovely', 'smile'], anger=['angry', 'furious', 'hate'], fear=['afraid', 'scared', 'panic'])

def made(n, seed=0):
    "`n` tweets that say what they feel: none, one, two or three of three labels, anger the rarest"
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        felt = [o for o,p in zip(WORDS, (.5, .15, .3)) if rng.random() < p]
        words = [str(rng.choice(WORDS[o])) for o in felt] + [f'w{rng.integers(40)}' for _ in range(4)]
        rows.append((' '.join(rng.permutation(words)), tuple(sorted(felt))))
    return pd.DataFrame(rows, columns=['text', 'label'])

@pytest.fixture(scope='module')
def table(): return split_tweets(made(600), valid=.2, test=.2)

@pytest.fixture(scope='module')
def linear(table): return fit(default_config('tfidf'), table)


# --- reading ---------------------------------------------------------------------------------------------------------

def written(tmp_path, df):
    "The same table in every layout: path -> options of `read_tweets`"
    marks = df[['text']].assign(**{o: [int(o in row) for row in df['label']] for o in WORDS})
    marks.to_csv(tmp_path/'marks.csv', index=False)
    df.assign(label=df['label'].map(';'.join)).to_csv(tmp_path/'delim.csv', index=False)
    df.assign(label=df['label'].map(list).map(str)).to_csv(tmp_path/'repr.csv', index=False)
    df.assign(label=df['label'].map(list)).to_parquet(tmp_path/'lists.parquet')
    df.assign(label=df['label'].map(list)).to_json(tmp_path/'lists.jsonl', orient='records', lines=True)
    return {'marks.csv': dict(label=list(WORDS)), 'delim.csv': dict(label_delim=';'), 'repr.csv': dict(label_delim=','),
            'lists.parquet': {}, 'lists.jsonl': {}}

def test_every_layout_gives_the_same_tuples(tmp_path):
    df = made(50)
    for name,options in written(tmp_path, df).items():
        read = tn.read_tweets(tmp_path/name, **options)
        assert read['label'].tolist() == df['label'].tolist(), name
        assert list(read) == ['text', 'label'] and 'several' in read.attrs['read']
        assert 'several labels a tweet' in str(read.attrs['read']).lower()
        parts = list(iter_tweets(tmp_path/name, rows=20, **options))
        assert [o for p in parts for o in p['label']] == df['label'].tolist(), name

def test_one_label_never_becomes_several_unasked(tmp_path):
    written(tmp_path, made(50))
    assert tn.read_tweets(tmp_path/'delim.csv')['label'].dtype == 'category'
    assert tn.read_tweets(tmp_path/'repr.csv')['label'].dtype == 'category'
    assert tn.read_tweets(tmp_path/'marks.csv', label='joy')['label'].tolist()[0] in (0, 1)
    with pytest.raises(TweetnbError, match="0 and 1: label='joy,anger,fear'"):
        tn.read_tweets(tmp_path/'marks.csv', label=True)

def test_a_column_that_is_not_0_or_1_is_named_with_its_line(tmp_path):
    (tmp_path/'x.csv').write_text('text,joy,likes\na b,1,0\nc d,0,7\n')
    with pytest.raises(TweetnbError, match="line 3: the label column 'likes' holds '7'"):
        tn.read_tweets(tmp_path/'x.csv', label='joy,likes')

def test_hugging_face_lists_of_class_labels_have_names():
    datasets = pytest.importorskip('datasets')
    features = datasets.Features(text=datasets.Value('string'),
                                 label=datasets.Sequence(datasets.ClassLabel(names=['sad', 'glad'])))
    ds = datasets.Dataset.from_dict(dict(text=['a b', 'c d'], label=[[1, 0], []]), features=features)
    assert tn.read_tweets(ds)['label'].tolist() == [('glad', 'sad'), ()]

def test_shards_keep_the_lists(tmp_path):
    df = made(30)
    written(tmp_path, df)
    convert(tmp_path/'marks.csv', tmp_path/'shards', 20, label=list(WORDS))
    assert tn.read_tweets(tmp_path/'shards')['label'].tolist() == df['label'].tolist()


# --- splitting and the audit -----------------------------------------------------------------------------------------

def test_every_label_has_its_share_in_every_split_and_no_text_is_in_two():
    df = pd.concat([made(1500, 1), made(300, 1)], ignore_index=True)             # 300 texts twice
    for out,column in (split_tweets(df, valid=.1, test=.2), 'split'), (kfold_tweets(df, 4), 'fold'):
        assert (out.groupby(duplicate_key(out['text']))[column].nunique() == 1).all()
        Y = pd.DataFrame(label_matrix(df['label'], list(WORDS)), columns=list(WORDS))
        shares = Y.groupby(out[column].to_numpy()).mean()
        assert ((shares - Y.mean()).abs() < .03).all(axis=None)
        assert (shares['anger'] - Y['anger'].mean()).abs().max() < .012            # the rarest is the most even
        assert set(out.attrs['split']['labels']) == set(WORDS)

def test_the_audit_counts_labels_and_finds_conflicts():
    df = pd.concat([made(300), made(300).assign(label=[('joy',)]*300)], ignore_index=True)
    found = audit(df, near=None)
    assert found.balance.loc['joy', 'rows'] == sum('joy' in o for o in df['label'])
    assert len(found.conflicts) > 100
    assert not any('no label' in str(o) for o in found.problems)                   # none is an answer
    assert 'fear' in audit({'a': df[:300], 'b': df[300:]}).to_markdown()


# --- metrics ---------------------------------------------------------------------------------------------------------

def test_metrics_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    true = made(200)['label']
    probs = pd.DataFrame(rng.random((200, 3)), columns=sorted(WORDS))
    pred = label_sets(probs, [.5, .3, .7])
    scores = Scores(true, pred, sorted(WORDS), probs)
    Y,P = (label_matrix(o, sorted(WORDS)) for o in (true, pred))
    assert type(scores) is MultiScores
    for name in 'micro', 'macro', 'weighted':
        assert scores.metrics[f'{name}_f1'] == pytest.approx(f1_score(Y, P, average=name))
    assert scores.metrics['lrap'] == pytest.approx(label_ranking_average_precision_score(Y, probs))
    assert scores.accuracy == pytest.approx((Y == P).all(1).mean())
    assert metric_value('f1_macro', true, probs, thresholds=[.5, .3, .7]) == pytest.approx(scores.macro_f1)
    report = scores.report()
    assert ((report['low'] <= report['value']) & (report['value'] <= report['high'])).all()
    json.dumps(scores.details())

def test_thresholds_are_the_best_of_each_label():
    true = made(400)['label']
    rng = np.random.default_rng(1)
    Y = label_matrix(true, sorted(WORDS))
    probs = pd.DataFrame(Y*.2 + rng.random(Y.shape)*.3, columns=sorted(WORDS))
    chosen = best_thresholds(probs, true)
    for j in range(3):
        best = max(f1_score(Y[:,j], probs.iloc[:,j] >= t) for t in np.linspace(0, 1, 500))
        assert f1_score(Y[:,j], probs.iloc[:,j] >= chosen[j]) >= best - 1e-9
    few = best_thresholds(probs[:60], true[:60])
    assert few[0] == pytest.approx(few[1])                                         # too few tweets: one for all


# --- models ----------------------------------------------------------------------------------------------------------

CONFIGS = dict(ngram=default_config('ngram', epochs=30, lr=1.), bilstm=default_config('bilstm', epochs=15, lr=1e-2),
               probe=default_config('subword', pretrained=str(encoder_path()), tokens='pretrained', probe='only'))

def check_classifier(classifier, table, least=.8):
    test = table[table['split'] == 'test']
    assert classifier.problem_type == 'multi_label_classification' and classifier.multilabel
    answers = classifier.predict(test)
    assert list(answers) == ['label', 'p_anger', 'p_fear', 'p_joy'] and answers.index.equals(test.index)
    probs = classifier.predict_proba(test)
    assert not np.allclose(probs.sum(axis=1), 1) and ((probs >= 0) & (probs <= 1)).all(axis=None)
    assert answers['label'].tolist() == label_sets(probs, classifier.thresholds).tolist()
    assert classifier.scores(test).macro_f1 > least
    assert len(classifier.thresholds) == 3

def check_bundle(classifier, table, folder):
    test = table[table['split'] == 'test']
    if hasattr(classifier, 'precision'): classifier.precision = 'fp32'  # as from the bundle; with AMX it learnt in bf16
    again = tn.load(classifier.save(folder, classifier.scores(test), table), device='cpu')
    manifest = json.loads((folder/'bundle.json').read_text())
    assert manifest['problem_type'] == 'multi_label_classification'
    assert manifest['decisions']['thresholds'] == pytest.approx(classifier.thresholds.tolist(), abs=1e-6)
    assert np.allclose(again.predict_proba(test), classifier.predict_proba(test), atol=1e-5)
    assert (again.predict(test)['label'] == classifier.predict(test)['label']).mean() > .99
    assert 'any number of them' in (folder/'README.md').read_text()
    return again

def test_tfidf(linear, table, tmp_path):
    check_classifier(linear.classifier, table, .9)
    check_bundle(linear.classifier, table, tmp_path/'b')
    assert linear.scores['test'].macro_f1 == linear.classifier.scores(table[table['split'] == 'test']).macro_f1

@pytest.mark.parametrize('name', CONFIGS)
def test_networks(name, table, tmp_path):
    result = fit(CONFIGS[name], table, device='cpu')
    check_classifier(result.classifier, table, .75)
    again = check_bundle(result.classifier, table, tmp_path/'b')
    assert again.explain('furious w3', 'anger')[0].label == 'anger'
    result.save(tmp_path/'c', note='whole')

def test_bert_learns_and_is_a_folder_for_hugging_face(table, tmp_path):
    encoder = dict(model_type='bert', hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    config = default_config('bert', tokens='word', params=dict(encoder=encoder), lr=5e-3, head_lr=5e-3, epochs=12)
    result = fit(config, table, device='cpu')
    check_classifier(result.classifier, table, .7)
    check_bundle(result.classifier, table, tmp_path/'b')

def test_an_ensemble_has_thresholds_of_its_own(linear, table, tmp_path):
    valid = table[table['split'] == 'valid']
    other = fit(default_config('ngram', epochs=30, lr=1.), table).classifier
    plain = Ensemble([linear.classifier, other])
    assert plain.thresholds == pytest.approx((linear.classifier.thresholds + other.thresholds)/2)
    both = tn.combine([linear.classifier, other], valid)
    check_classifier(both, table, .85)
    assert check_bundle(both, table, tmp_path/'e').weights == pytest.approx(both.weights)

def test_balanced_networks_say_that_thresholds_do_it(table):
    with pytest.raises(TweetnbError, match='weights are for one label'):
        fit(default_config('bilstm', class_weight='balanced'), table, device='cpu')

def test_labels_of_the_wrong_kind_are_an_error(linear, table):
    with pytest.raises(TweetnbError, match='one label each and the classifier gives several'):
        linear.classifier.scores(table.assign(label='joy'))

def test_auto_finds_the_best(tmp_path):
    shown = []
    result = train(made(400), minutes=.4, out=tmp_path/'b', device='cpu', show=shown.append)
    assert {'TF-IDF', 'n-grams'} <= {o['candidate'] for o in shown if o['score'] > .5}
    assert not any('failed' in o['note'] for o in shown), shown
    assert result.scores.macro_f1 > .85
    assert tn.load(tmp_path/'b').predict('so furious')['label'].tolist() == [('anger',)]


# --- ways in and out -------------------------------------------------------------------------------------------------

def test_scikit_learn_lists_and_indicators():
    df = made(300)
    X,lists = df['text'], df['label'].map(list).tolist()
    Y = MultiLabelBinarizer().fit_transform(df['label'])
    a = tn.TweetClassifier('tfidf').fit(X, lists)
    b = tn.TweetClassifier('tfidf').fit(X, Y)
    assert a.classes_.tolist() == sorted(WORDS) and b.classes_.tolist() == [0, 1, 2]
    assert np.array_equal(a.predict(X), b.predict(X)) and a.predict(X).shape == Y.shape
    assert np.allclose(a.predict_proba(X), b.predict_proba(X)) and a.decision_function(X).shape == Y.shape
    assert a.score(X, lists) == b.score(X, Y) > .9
    frame = tn.TweetClassifier('tfidf').fit(X, pd.DataFrame(Y, columns=sorted(WORDS)))
    assert frame.classes_.tolist() == sorted(WORDS)
    assert cross_val_score(tn.TweetClassifier('tfidf'), X, Y, cv=2, scoring='f1_macro').min() > .5

def run(capsys, *args):
    with pytest.raises(SystemExit) as e: main(list(map(str, args)))
    said = capsys.readouterr()
    assert not e.value.code, said
    return said.out

def test_the_command_line(tmp_path, capsys):
    df = made(400)
    written(tmp_path, df)
    file,bundle = tmp_path/'marks.csv', tmp_path/'b'
    said = run(capsys, 'train', file, '--label', 'joy,anger,fear', '--model', 'tfidf', '--out', bundle)
    assert 'Several labels a tweet, from the columns joy, anger, fear.' in said and 'micro-F1' in said
    said = run(capsys, 'evaluate', bundle, tmp_path/'delim.csv', '--label-delim', ';', '--out', tmp_path/'e.csv')
    assert 'LRAP' in said
    assert pd.read_csv(tmp_path/'e.csv')['label'].fillna('').tolist() == df['label'].map(', '.join).tolist()
    figures = json.loads(run(capsys, 'evaluate', bundle, tmp_path/'lists.jsonl', '--json'))
    assert figures['macro_f1'] > .9 and figures['tweets'] == 400
    said = run(capsys, 'predict', bundle, file, '--out', tmp_path/'p.csv')
    assert 'Wrote 400 rows' in said
    given = pd.read_csv(tmp_path/'p.csv', keep_default_na=False)
    assert list(given) == ['text', 'label', 'p_anger', 'p_fear', 'p_joy']
    assert given['label'].tolist() == tn.load(bundle).predict(df)['label'].map(', '.join).tolist()
    again = tn.read_tweets(tmp_path/'p.csv', label_delim=',')['label'].tolist()
    assert again == tn.load(bundle).predict(df)['label'].tolist()
    assert 'joy' in run(capsys, 'audit', file, '--label', 'joy,anger,fear')

def test_the_service_and_the_page(linear):
    from tweetnb.ship.app import tweet_card
    from tweetnb.ship.serve import _prediction
    tweets = ['happy but afraid', 'w1 w2 w3']
    rows = linear.classifier.predict_proba(tweets)
    said = [_prediction(linear.classifier, row) for row in rows.to_numpy()]
    assert [o['label'] for o in said] == [['fear', 'joy'], []] and 'confidence' not in said[0]
    json.dumps(said)
    card = tweet_card('happy but afraid', {'b': rows.iloc[0].to_dict()}, said={'b': {'label': ('fear', 'joy')}})
    assert '>fear · joy<' in card
    assert '>no label<' in tweet_card('w1', {'b': rows.iloc[1].to_dict()}, said={'b': {'label': ()}})
