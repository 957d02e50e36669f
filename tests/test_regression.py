"Numbers and ordered labels, from a file to a bundle: every way in, every kind of model, every way out"
import json, os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

import tweetnb as tn
from matrix import MatrixInput, expected
from tweetnb.auto import train
from tweetnb.cli import main
from tweetnb.core import TweetnbError
from tweetnb.data.audit import audit
from tweetnb.data.read import iter_tweets
from tweetnb.data.split import kfold_tweets, split_tweets
from tweetnb.metrics import NumberScores, OrdinalScores, Scores, best_cuts, metric_value
from tweetnb.models.ensemble import Ensemble
from tweetnb.train.encoders import encoder_path
from tweetnb.train.fit import default_config, fit

MOODS = dict(awful=-2, bad=-1, fine=.5, good=1.25, great=2)

def made(n, seed=0):
    "`n` tweets of three words of mood each; their number is the mean of the three"
    rng = np.random.default_rng(seed)
    words = rng.choice(list(MOODS), (n, 3))
    texts = [' '.join([*row, f'w{rng.integers(40)}', f'w{rng.integers(40)}', f'x{i}']) for i,row in enumerate(words)]
    return pd.DataFrame(dict(text=texts, label=[np.mean([MOODS[o] for o in row]) for row in words]))

@pytest.fixture(scope='module')
def table(): return split_tweets(made(600), valid=.2, test=.2)

@pytest.fixture(scope='module')
def ranked(table):
    "The same with five labels in an order"
    return table.assign(label=pd.cut(table['label'], 5, labels=['--', '-', '0', '+', '++']))

@pytest.fixture(scope='module')
def linear(table): return fit(default_config('tfidf'), table)

@pytest.fixture(scope='module')
def ordinal(ranked): return fit(default_config('tfidf'), ranked)


# --- reading, splitting, auditing ------------------------------------------------------------------------------------

def test_fractions_are_numbers_and_said_whole_numbers_are_labels(tmp_path):
    df = made(60)
    df.to_csv(tmp_path/'x.csv', index=False)
    df.to_parquet(tmp_path/'x.parquet')
    df.to_json(tmp_path/'x.jsonl', orient='records', lines=True)
    for source in tmp_path/'x.csv', tmp_path/'x.parquet', tmp_path/'x.jsonl', df:
        read = tn.read_tweets(source)
        assert read['label'].dtype == 'Float64' and np.allclose(read['label'], df['label'])
        assert "labels in 'label' are numbers (problem type: regression)" in read.attrs['read'].summary()
    parts = list(iter_tweets(tmp_path/'x.csv', rows=25))
    assert len(parts) == 3 and all(o['label'].dtype == 'Float64' for o in parts)
    assert tn.read_tweets(tmp_path/'x.csv', problem_type='single_label_classification')['label'].dtype == 'category'
    df.assign(label=range(60)).to_csv(tmp_path/'whole.csv', index=False)
    assert tn.read_tweets(tmp_path/'whole.csv')['label'].dtype == 'category'
    asked = tn.read_tweets(tmp_path/'whole.csv', problem_type='regression')
    assert asked['label'].dtype == 'Float64' and tn.read_tweets(asked)['label'].dtype == 'Float64'

def test_labels_that_are_no_numbers_are_rejected_with_their_lines(tmp_path):
    (tmp_path/'x.csv').write_text('text,label\na b,0.5\nc d,good\ne f,nan\ng h,inf\ni j,2\n')
    report = tn.read_tweets(tmp_path/'x.csv', problem_type='regression').attrs['read']
    assert report['rejected'] == {'no label': 1, 'label is no number': 2}
    assert 'label is no number (line 3, 5)' in report.summary()
    with pytest.raises(TweetnbError, match='no problem_type'): tn.read_tweets(tmp_path/'x.csv', problem_type='guess')

def test_an_order_is_that_of_numbers_or_has_to_be_given(tmp_path):
    (tmp_path/'n.csv').write_text('text,label\na b,10\nc d,-2\ne f,9\n')
    assert tn.read_tweets(tmp_path/'n.csv', problem_type='ordinal')['label'].cat.categories.tolist() == [-2, 9, 10]
    (tmp_path/'t.csv').write_text('text,label\na b,low\nc d,high\ne f,mid\n')
    with pytest.raises(TweetnbError, match="order of the labels high, low, mid is not known"):
        tn.read_tweets(tmp_path/'t.csv', problem_type='ordinal')
    read = tn.read_tweets(tmp_path/'t.csv', problem_type='ordinal', label_names='low,mid,high')
    assert read['label'].cat.ordered and read['label'].cat.categories.tolist() == ['low', 'mid', 'high']
    assert 'low < mid < high' in read.attrs['read'].summary()
    assert tn.read_tweets(read)['label'].cat.ordered

def test_every_tenth_has_its_share_in_every_split_and_the_audit_counts_bands():
    df = made(1000)
    for out,column in (split_tweets(df, valid=.1, test=.2), 'split'), (kfold_tweets(df, 4), 'fold'):
        means = out.groupby(column, observed=True)['label'].mean()
        assert (means - df['label'].mean()).abs().max() < .06
    found = audit(df, near=None)
    assert len(found.balance) == 4 and found.balance['rows'].sum() == 1000
    assert 'Audit of 1,000 tweets' in audit({'a': df[:500], 'b': df[500:]}, near=None).to_markdown()


# --- metrics ---------------------------------------------------------------------------------------------------------

def test_metrics_and_intervals_are_those_of_scipy():
    rng = np.random.default_rng(0)
    true = rng.random(300)
    pred = true + rng.normal(0, .3, 300)
    scores = Scores(true, pred, ())
    assert type(scores) is NumberScores
    assert scores.metrics['pearson'] == pytest.approx(pearsonr(true, pred)[0])
    assert scores.metrics['spearman'] == pytest.approx(spearmanr(true, pred)[0])
    report = scores.report()
    assert ((report['low'] <= report['value']) & (report['value'] <= report['high'])).all()
    assert 'by_label' not in json.loads(json.dumps(scores.details()))
    assert metric_value('mae', true, pred) == pytest.approx(np.abs(true - pred).mean())

def test_cuts_are_the_best_there_are():
    rng = np.random.default_rng(1)
    ranks = rng.choice(3, 200, p=[.1, .6, .3])
    numbers = ranks + rng.normal(0, .6, 200)
    def macro_mae(cuts):
        off = np.abs(np.searchsorted(cuts, numbers) - ranks)
        return np.mean([off[ranks == i].mean() for i in range(3)])
    tried = np.linspace(-1, 3, 60)
    best = min(macro_mae([a, b]) for a in tried for b in tried if a <= b)
    assert macro_mae(best_cuts(numbers, ranks, 3)) <= best + 1e-9


# --- models ----------------------------------------------------------------------------------------------------------

ENCODER = dict(model_type='bert', hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
CONFIGS = dict(ngram=default_config('ngram', epochs=20), bilstm=default_config('bilstm', epochs=6, lr=1e-2),
               bert=default_config('bert', tokens='word', params=dict(encoder=ENCODER), lr=5e-3, head_lr=5e-3,
                                   epochs=8),
               probe=default_config('subword', pretrained=str(encoder_path()), tokens='pretrained', probe='only'))

def check_numbers(result, table, folder, least):
    "A model of numbers answers with numbers, in the table's unit, the same from its bundle"
    test,model = table[table['split'] == 'test'], result.classifier
    if hasattr(model, 'precision'): model.precision = 'fp32'        # as from the bundle; with AMX it learnt in bf16
    assert model.problem_type == 'regression' and model.numbers
    answers = model.predict(test)
    assert list(answers) == ['label'] and answers['label'].dtype.kind == 'f' and answers.index.equals(test.index)
    assert result.scores['test'].metrics['pearson'] > least
    assert abs(answers['label'].mean() - test['label'].mean()) < .3
    with pytest.raises(TweetnbError, match='no probabilities. Call predict'): model.predict_proba(test)
    again = tn.load(result.save(folder), device='cpu')
    manifest = json.loads((folder/'bundle.json').read_text())
    assert manifest['problem_type'] == 'regression' and manifest['decisions']['scale'] == pytest.approx(model.scale)
    assert np.allclose(again.predict(test)['label'], answers['label'], atol=1e-4)
    assert again.scores(test).metrics == pytest.approx(result.scores['test'].metrics, abs=1e-3)
    assert 'gives a tweet a number' in (folder/'README.md').read_text()
    why, = again.explain('so awful and great')
    weights = dict(zip(why.tokens, why.weights))
    assert weights['great'] > 0 > weights['awful'] and why.label == 'number'
    if why.total is not None: assert abs(why.gap) < .05
    return again

def test_tfidf(linear, table, tmp_path):
    check_numbers(linear, table, tmp_path/'b', .95)
    assert linear.baselines().loc['always the mean', 'pearson'] == 0

@pytest.mark.parametrize('name', CONFIGS)
def test_networks(name, table, tmp_path):
    check_numbers(fit(CONFIGS[name], table, device='cpu'), table, tmp_path/'b', .6 if name == 'probe' else .8)

def test_a_transformer_of_numbers_is_a_folder_of_hugging_face(table, tmp_path):
    from transformers import pipeline
    config = replace(CONFIGS['bert'], epochs=1)
    result = fit(config, table, device='cpu')
    result.classifier.precision = 'fp32'                            # as the pipeline; with AMX it learnt in bf16
    folder,tweets = result.save(tmp_path/'b'), table['text'][:5].tolist()
    pipe = pipeline('text-classification', model=str(folder), function_to_apply='none', device='cpu')
    want = result.classifier.predict(tweets)['label'].tolist()
    assert [o['score'] for o in pipe(tweets)] == pytest.approx(want, abs=1e-4)
    (folder/'bundle.json').unlink()
    published = tn.load(folder, device='cpu')
    assert published.problem_type == 'regression' and published.labels == ['number']
    assert np.allclose(published.predict(tweets)['label'], want, atol=1e-4)

@pytest.mark.parametrize('name', ['tfidf', 'ngram', 'probe'])
def test_ordered_labels_are_the_callers_own(name, ranked, ordinal, tmp_path):
    result = ordinal if name == 'tfidf' else fit(CONFIGS[name], ranked, device='cpu')
    test,model = ranked[ranked['split'] == 'test'], result.classifier
    assert model.problem_type == 'ordinal' and len(model.thresholds) == 4
    assert model.labels == ['--', '-', '0', '+', '++']
    answers = model.predict(test)
    assert list(answers) == ['label', 'number'] and set(answers['label']) <= set(model.labels)
    scores = result.scores['test']
    assert type(scores) is OrdinalScores and scores.metrics['kappa'] > .5 and scores.metrics['macro_mae'] < .9
    again = tn.load(result.save(tmp_path/'b'), device='cpu')
    assert np.allclose(again.predict(test)['number'], answers['number'], atol=1e-4)
    assert again.scores(test.assign(label=test['label'].astype(str))).metrics == pytest.approx(scores.metrics, abs=.02)

def test_whole_numbers_become_numbers_or_ranks_when_asked(table):
    whole = table.assign(label=table['label'].round().astype(int))
    assert fit(default_config('tfidf'), whole).classifier.problem_type == 'single_label_classification'
    asked = fit(default_config('tfidf', problem_type='regression'), whole)
    assert asked.classifier.problem_type == 'regression'
    assert fit(default_config('tfidf', problem_type='ordinal'), whole).classifier.labels == [-2, -1, 0, 1, 2]

def test_ensembles_weigh_by_squared_error(linear, table, ranked, ordinal, tmp_path):
    valid,test = (table[table['split'] == o] for o in ('valid', 'test'))
    other = fit(CONFIGS['ngram'], table).classifier
    both = tn.combine([linear.classifier, other], valid)
    assert both.weights.sum() == pytest.approx(1) and (both.weights >= 0).all()
    assert both.scores(test).metrics['pearson'] > .95 and 'pearson' in both.table(valid)
    again = tn.load(both.save(tmp_path/'e'))
    assert np.allclose(again.predict(test)['label'], both.predict(test)['label'])
    with pytest.raises(TweetnbError, match='different labels'): Ensemble([linear.classifier, ordinal.classifier])
    two = tn.combine([ordinal.classifier]*2, ranked[ranked['split'] == 'valid'])
    assert len(two.thresholds) == 4 and tn.load(two.save(tmp_path/'o')).predict('great')['label'].tolist() == ['++']

def test_auto_chooses_by_pearson_and_ordered_labels_by_macro_mae(table, ranked, tmp_path):
    shown = []
    result = train(table, minutes=.15, out=tmp_path/'b', device='cpu', show=shown.append)
    assert result.metric == 'pearson' and result.scores.metrics['pearson'] > .95
    assert not any('failed' in o['note'] for o in shown), shown
    assert tn.load(tmp_path/'b').predict('great great great')['label'][0] > 1
    assert 'pearson' in repr(result)
    result = train(ranked, minutes=.1, device='cpu', show=shown.append)
    assert result.metric == 'macro_mae' and result.scores.metrics['kappa'] > .7
    assert not any('failed' in o['note'] for o in shown), shown

@pytest.mark.parametrize('change, why', [
    (lambda d: d.assign(label=.5), 'one value|only the value|constant'),
    (lambda d: d.assign(label='good'), 'no numbers|no number'),
    (lambda d: d.assign(label=np.inf), 'no numbers|no number')])
@pytest.mark.parametrize('model', ['tfidf', 'bilstm'])
def test_wrong_targets_are_errors(table, change, why, model):
    with pytest.raises(TweetnbError, match=why):
        fit(default_config(model, problem_type='regression', epochs=1), change(table), device='cpu')

def test_what_makes_no_sense_for_numbers_says_the_way(linear, table, tmp_path):
    test = table[table['split'] == 'test']
    with pytest.raises(TweetnbError, match='weights|class_weight'):
        fit(default_config('tfidf', class_weight='balanced'), table)
    folder = linear.save(tmp_path/'b')
    for call in (lambda: tn.decide(folder, test, coverage=.9), lambda: tn.drift(linear.classifier, test, test),
                 lambda: tn.suggest(linear.classifier, test)):
        with pytest.raises(TweetnbError): call()
    with pytest.raises(TweetnbError, match='no numbers'): linear.classifier.scores(test.assign(label='good'))


# --- comparing -------------------------------------------------------------------------------------------------------

def test_compare_ranks_models_of_numbers_of_ordered_and_of_several_labels(table, ranked, tmp_path):
    models = dict(tfidf='tfidf', ngram=CONFIGS['ngram'], mean=('tfidf', 'ngram'))
    found = tn.compare(table, models, seeds=2, folder=tmp_path)
    assert found.metric == 'pearson' and list(found.table)[:3] == ['pearson', '±', '95 %'] and len(found.table) == 3
    assert found.table['pearson'].is_monotonic_decreasing and (tmp_path/'leaderboard.md').is_file()
    assert 'mae' in found.table and found.table['p, tfidf'].notna().all()
    found = tn.compare(ranked, ['tfidf'], seeds=1)
    assert found.metric == 'macro_mae' and found.table['kappa'].iloc[0] > .7
    tags = table['text'].map(lambda o: tuple(sorted({w for w in o.split() if w in MOODS})))
    found = tn.compare(table.assign(label=tags), ['tfidf', 'ngram'], seeds=1, metric='micro_f1')
    assert found.table['micro_f1'].max() > .9 and list(found.table)[3:5] == ['macro_f1', 'subset_accuracy']
    with pytest.raises(TweetnbError, match='Choose from pearson, spearman'):
        tn.compare(table, ['tfidf'], 1, metric='accuracy')


# --- ways in and out -------------------------------------------------------------------------------------------------

def run(capsys, *args, code=0):
    with pytest.raises(SystemExit) as e: main(list(map(str, args)))
    said = capsys.readouterr()
    assert (e.value.code or 0) == code, said
    return said.out + said.err

def test_the_command_line(tmp_path, capsys):
    df,file,bundle = made(400), tmp_path/'x.csv', tmp_path/'b'
    df.rename(columns=dict(label='valence')).to_csv(file, index=False)
    said = run(capsys, 'train', file, '--label', 'valence', '--model', 'tfidf', '--out', bundle)
    assert 'are numbers (problem type: regression)' in said and 'Pearson' in said and 'always the mean' in said
    said = run(capsys, 'evaluate', bundle, file, '--label', 'valence', '--out', tmp_path/'e.csv')
    assert 'Pearson 0.9' in said and list(pd.read_csv(tmp_path/'e.csv')) == ['text', 'label', 'predicted']
    assert json.loads(run(capsys, 'evaluate', bundle, file, '--label', 'valence', '--json'))['pearson'] > .9
    said = run(capsys, 'predict', bundle, file, '--out', tmp_path/'p.csv')
    assert 'Wrote 400 rows' in said and list(pd.read_csv(tmp_path/'p.csv')) == ['text', 'label']
    whole = df.assign(label=df['label'].round().astype(int))
    whole.to_csv(file, index=False)
    said = run(capsys, 'train', file, '--problem-type', 'ordinal', '--model', 'tfidf', '--out', bundle)
    assert '-2 < -1 < 0 < 1 < 2' in said and 'macro-MAE' in said
    run(capsys, 'predict', bundle, file, '--out', tmp_path/'o.csv')
    assert list(pd.read_csv(tmp_path/'o.csv')) == ['text', 'label', 'number']
    said = run(capsys, 'train', file, '--problem-type', 'rank', '--out', bundle, code=1)
    assert "no problem_type 'rank'" in said

def test_the_service_and_the_page(linear, ordinal):
    from tweetnb.ship.app import label_table, tweet_card
    from tweetnb.ship.serve import make_server
    TestClient = pytest.importorskip('fastapi.testclient').TestClient
    tweets = ['great great great', 'awful awful awful']
    with TestClient(make_server(linear.classifier)) as client:
        said = client.post('/predict', json=dict(texts=tweets)).json()['predictions']
        assert [list(o) for o in said] == [['label']]*2 and said[0]['label'] > 1 > -1 > said[1]['label']
        other = client.post('/', json=dict(inputs=tweets[0])).json()[0]
        assert other == [dict(label='number', score=pytest.approx(said[0]['label'], abs=1e-5))]
    with TestClient(make_server(ordinal.classifier)) as client:
        said = client.post('/predict', json=dict(texts=tweets)).json()['predictions']
        assert [o['label'] for o in said] == ['++', '--'] and said[0]['number'] > 3
    rows = {name: o.classifier.outputs(tweets) for name,o in dict(a=linear, b=ordinal).items()}
    answers = {name: o.iloc[0].to_dict() for name,o in rows.items()}
    card = tweet_card(tweets[0], answers, said={'a': {'label': 1.234567}, 'b': {'label': '++'}})
    assert '>1.23<' in card and '>++<' in card and 'class="tw-bar"' not in card
    part, = label_table(pd.DataFrame(dict(text=tweets)), {'x': linear.classifier})
    assert list(part) == ['text', 'predicted']

@parametrize_with_checks([tn.TweetRegressor('tfidf'), tn.TweetRegressor()])
def test_checks(estimator, check): check(estimator)

class Matrix(MatrixInput, tn.TweetRegressor):
    def predict(self, X):
        check_is_fitted(self)
        return super().predict(self.words(X, reset=False))

@parametrize_with_checks([Matrix()], expected_failed_checks=expected)
def test_all_checks(estimator, check): check(estimator)

def test_the_regressor_in_scikit_learns_tools(table, tmp_path):
    X,y = table['text'], table['label'].to_numpy()
    model = tn.TweetRegressor('tfidf').fit(X, y)
    assert model.score(X, y) > .9 and model.predict(X).shape == y.shape
    assert cross_val_score(clone(model), X, y, cv=2, scoring='r2').min() > .8
    grid = GridSearchCV(clone(model), {'params': [{'C': .001}, {'C': 1.}]}, cv=2).fit(X, y)
    assert grid.best_params_ == {'params': {'C': 1.}}
    assert np.allclose(tn.load(model.save(tmp_path/'b')).predict(X)['label'], model.predict(X))
    weighted = clone(model).fit(X, y, sample_weight=(y > 0).astype(float))
    assert weighted.predict(X).mean() > model.predict(X).mean() + .05
    assert not hasattr(model, 'predict_proba')


# --- real tweets -----------------------------------------------------------------------------------------------------

@pytest.mark.skipif(not os.environ.get('TWEETNB_DATA'), reason='needs the data')
def test_real_moods_in_their_order_are_missed_by_less_than_by_a_classifier():
    "SemEval 2017's sentiments as 0 < 1 < 2, 4,000 tweets: against a ridge and a logistic regression of scikit-learn"
    folder = Path(os.environ['TWEETNB_DATA'])/'tweeteval'/'sentiment'
    def read(split, n):
        df = tn.read_tweets(folder, split=split, problem_type='ordinal', label_names='0=0,1=1,2=2')
        return df.sample(n, random_state=0)
    df = pd.concat([read('train', 4000), read('valid', 1000), read('test', 2000)], ignore_index=True)
    result = fit(default_config('tfidf', params=dict(chars=True)), df)
    ours = result.scores['test'].metrics
    train,test = result.rows('train'), result.rows('test')
    def theirs(model):
        pipe = make_pipeline(TfidfVectorizer(min_df=2, ngram_range=(1, 2), sublinear_tf=True), model)
        return pipe.fit(train['text'], train['label'].astype(int)).predict(test['text'])
    rounded = np.clip(theirs(Ridge()).round(), 0, 2).astype(int)
    logistic = theirs(LogisticRegression(C=3, max_iter=1000, class_weight='balanced'))
    ridge,logit = [OrdinalScores(test['label'].astype(int), o, [0, 1, 2]).metrics for o in (rounded, logistic)]
    number = np.corrcoef(result.probs('test')['number'], test['label'].astype(int))[0, 1]
    print(pd.DataFrame(dict(ours=ours, ridge=ridge, logistic=logit)).round(3), f'Pearson of the number {number:.3f}')
    assert ours['macro_mae'] < min(ridge['macro_mae'], logit['macro_mae'])
    assert ours['kappa'] > ridge['kappa']


# --- files as people have them ---------------------------------------------------------------------------------------

def test_a_file_without_a_header_and_own_files_for_validation_and_test(tmp_path, capsys):
    df = tn.read_tweets(tn.sample_path('tweets.csv'), label=True)[['text', 'label']][:400]
    df.to_csv(tmp_path/'h.csv', index=False, header=False)
    said = run(capsys, 'train', tmp_path/'h.csv', '--model', 'tfidf', code=1)
    assert 'the first line looks like data' in said and '--columns' in said
    said = run(capsys, 'train', tmp_path/'h.csv', '--columns', 'text, label', '--model', 'tfidf', '--out', tmp_path/'b')
    assert 'kept 400' in said
    said = run(capsys, 'predict', tmp_path/'b', tmp_path/'h.csv', '--columns', 'text,label', '--out', tmp_path/'p.csv')
    assert 'Wrote 400 rows' in said
    parts = dict(train=df[:300], valid=df[250:350], test=df[320:])
    for name,part in parts.items(): part.to_csv(tmp_path/f'{name}.csv', index=False)
    said = run(capsys, 'train', tmp_path/'train.csv', '--valid', tmp_path/'valid.csv', '--test', tmp_path/'test.csv',
               '--model', 'tfidf', '--out', tmp_path/'b')
    assert 'Left out 50 train tweets, whose texts a later split has too.' in said and 'Left out 30 valid tweets' in said
