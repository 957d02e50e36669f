"""The command line as a person uses it: real processes, real files, exit codes, one-line errors.

Runs without any development tool: CI also runs it against the installed wheel on the newest libraries.
"""
import gzip, json, os, shutil, subprocess, sys, time, urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import tweetnb

from tweetnb.core import data_path, sample_path


tiny = '--set', 'n_hidden=8', '--set', 'n_emb=8', '--epochs', 1

@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp('demo')
    return folder, tweetnb('demo', '--out', folder, '--minutes', .3)


@pytest.fixture(scope='module')
def mood(tmp_path_factory):
    "A small network, trained by name"
    folder = tmp_path_factory.mktemp('mood')/'bundle'
    args = '--model', 'bilstm', '--epochs', 3, '--set', 'n_hidden=32', '--set', 'bs=32', '--out', folder
    return folder, tweetnb('train', sample_path('tweets.csv'), *args)


def test_demo(demo):
    "The best candidate is chosen, scored on tweets that chose nothing, saved, and tried"
    folder, res = demo
    for said in 'Read', 'rejected', 'TF-IDF', 'n-grams', 'test tweets', 'Confusion', 'tweetnb app':
        assert said in res.stdout, said
    info = json.loads((folder/'bundle'/'bundle.json').read_text(encoding='utf-8'))
    assert .6 < info['scores']['accuracy'] < 1 and info['candidates'][0]['candidate'] == 'TF-IDF'
    form, mine = [pd.read_csv(o, dtype=str) for o in (sample_path('sample_submission.csv'), folder/'submission.csv')]
    assert list(form.columns) == list(mine.columns) and (form.iloc[:, 0] == mine.iloc[:, 0]).all()
    assert 'tqdm' not in res.stderr and '\r' not in res.stdout and '%|' not in res.stderr     # no bars in a log


def test_a_model_by_name(mood):
    for said in 'epoch 3', 'TF-IDF', 'always the commonest label', 'Confusion', 'Saved to':
        assert said in mood[1].stdout, said
    info = json.loads((mood[0]/'bundle.json').read_text(encoding='utf-8'))
    assert info['config']['params'] == {'n_hidden': 32} and info['config']['bs'] == 32
    assert info['training']['scored_on'] == 'test'


def test_same_seed_same_weights(tmp_path):
    for name in 'ab':
        tweetnb('train', sample_path('tweets.csv'), '--model', 'gru', *tiny, '--limit', 500, '--out', tmp_path/name)
    a,b = [(tmp_path/name/'model.safetensors').read_bytes() for name in 'ab']
    assert a == b


def test_probabilities_survive_a_new_process(mood, tmp_path):
    from tweetnb.ship.bundle import load
    tweets = pd.read_csv(sample_path('tweets_test.csv'), dtype=str)['text'].fillna('')
    here = load(mood[0]).predict_proba(tweets)
    code = ("import sys, numpy as np, pandas as pd, tweetnb as tn; t = pd.read_csv(sys.argv[2], dtype=str)['text']; "
            "np.save(sys.argv[3], tn.load(sys.argv[1]).predict_proba(t))")
    subprocess.run([sys.executable, '-c', code, mood[0], sample_path('tweets_test.csv'), tmp_path/'p.npy'], check=True)
    np.testing.assert_allclose(np.load(tmp_path/'p.npy'), here, atol=1e-6)


def test_evaluate_and_predict(demo, tmp_path):
    scores = json.loads(tweetnb('evaluate', demo[0]/'bundle', sample_path('tweets_test_labelled.csv'), '--json').stdout)
    assert .6 < scores['accuracy'] < 1 and scores['unseen_labels'] == []
    tweetnb('predict', demo[0]/'bundle', sample_path('tweets_test.csv'), '--out', tmp_path/'p.csv')
    given, got = pd.read_csv(sample_path('tweets_test.csv'), dtype=str), pd.read_csv(tmp_path/'p.csv', dtype=str)
    assert (given['id'] == got['id']).all() and {'label', 'confidence'} <= set(got)
    assert 'lovely' in tweetnb('predict', demo[0]/'bundle', '--texts', 'what a lovely day').stdout
    (tmp_path/'days').mkdir()
    for day in 1, 2: given.to_csv(tmp_path/'days'/f'{day}.csv', index=False)
    days = tmp_path/'days'/'*.csv', '--out', tmp_path/'both', '--workers', 2
    assert f'Wrote {2*len(got):,} rows' in tweetnb('predict', demo[0]/'bundle', *days).stdout
    assert sorted(o.name for o in (tmp_path/'both').iterdir()) == \
        ['000000-000000.parquet', '000001-000000.parquet', 'manifest.json']


def test_integer_labels_come_back_as_integers(tmp_path):
    "From the file through training, the bundle and the CSV"
    rows = [f'a {"good" if i % 2 else "bad"} day number {i},{1 if i % 2 else -1}' for i in range(60)]
    file = write(tmp_path/'t.csv', 'text,label\n' + '\n'.join(rows) + '\n')
    tweetnb('train', file, '--model', 'tfidf', '--out', tmp_path/'b')
    assert json.loads((tmp_path/'b'/'bundle.json').read_text(encoding='utf-8'))['labels'] == [-1, 1]
    tweetnb('predict', tmp_path/'b', file, '--out', tmp_path/'p.csv')
    got = pd.read_csv(tmp_path/'p.csv')
    assert got['label'].tolist() == [1 if i % 2 else -1 for i in range(60)] and {'p_-1', 'p_1'} <= set(got)


def test_files_of_ones_own_validate_and_test(tmp_path):
    df = pd.read_csv(sample_path('tweets.csv'))
    for name,part in dict(train=df[:600], valid=df[600:800], test=df[800:900]).items():
        part.to_csv(tmp_path/f'{name}.csv', index=False)
    res = tweetnb('train', tmp_path/'train.csv', '--valid', tmp_path/'valid.csv', '--test', tmp_path/'test.csv',
                  '--model', 'tfidf', '--out', tmp_path/'b')
    info = json.loads((tmp_path/'b'/'bundle.json').read_text(encoding='utf-8'))
    assert 90 < info['scores']['tweets'] <= 100 and 'On the test tweets' in res.stdout
    valid, test = ((tmp_path/o).as_uri() for o in ('valid.csv', 'test.csv'))
    again = tweetnb('train', tmp_path/'train.csv', '--valid', valid, '--test', test, '--model', 'tfidf', '--out',
                    tmp_path/'c')
    assert json.loads((tmp_path/'c'/'bundle.json').read_text(encoding='utf-8'))['scores'] == info['scores']
    tweetnb('audit', tmp_path/'train.csv', '--test', test)
    for name, args in ('p', ('predict', tmp_path/'b', test)), ('c', ('convert', test)):
        tweetnb(*args, '--out', (tmp_path/name/'out').as_uri())
        assert (tmp_path/name/'out'/'manifest.json').exists()
    refused = tweetnb('train', tmp_path/'train.csv', '--model', 'tfidf', '--out', 's3://bucket/b', ok=False)
    assert 'a bundle is written on this machine' in refused.stderr


def test_never_trained_label(demo, tmp_path):
    file = tmp_path/'t.csv'
    file.write_text('text,label\nwhat a day,negative\nlovely morning,positive\nhm,sarcastic\n', encoding='utf-8')
    res = tweetnb('evaluate', demo[0]/'bundle', file)
    assert 'never trained (sarcastic)' in res.stdout
    assert json.loads(tweetnb('evaluate', demo[0]/'bundle', file, '--json').stdout)['unseen_labels'] == ['sarcastic']


def write(path, text):
    path.write_text(text, encoding='utf-8')
    return path

def broken_files(d):
    "Each broken input, and what its one line of error must mention"
    row = 'text,label\n' + ''.join(f'tweet number {i} is {"good" if i%2 else "bad"},{"pos" if i%2 else "neg"}\n'
                                   for i in range(40))
    packed = gzip.compress(row.encode()*50); (d/'cut.csv.gz').write_bytes(packed[:len(packed)//2])
    (d/'picture.csv').write_bytes(bytes(range(256))*64)
    return {'missing': (d/'no.csv', ['no.csv']),
            'empty': (write(d/'empty.csv', ''), ['empty.csv', 'empty']),
            'header only': (write(d/'header.csv', 'text,label\n'), ['header.csv']),
            'no label column': (write(d/'nolabel.csv', 'text\nhello there\nbye\n'),
                                ['nolabel.csv', 'label']),
            'one class': (write(d/'one.csv', 'text,label\n' + 'a good day,pos\nanother one,pos\n'*9), ["'pos'"]),
            'binary': (d/'picture.csv', ['picture.csv']),
            'truncated gz': (d/'cut.csv.gz', ['cut.csv.gz']),
            'folder': (d, [str(d)])}


@pytest.mark.parametrize('case',
                         ['missing', 'empty', 'header only', 'no label column', 'one class', 'binary', 'truncated gz'])
def test_one_line_errors(case, tmp_path):
    file, mentions = broken_files(tmp_path)[case]
    res = tweetnb('train', file, '--out', tmp_path/'out', ok=False)
    assert res.returncode == 1
    line, = res.stderr.strip().splitlines()[-1:]
    assert line.startswith('Error: ') and 'Traceback' not in res.stderr and 'bug' not in res.stderr
    for o in mentions: assert o in line
    assert not (tmp_path/'out').exists()


def test_debug_shows_the_traceback(tmp_path):
    assert 'Traceback' in tweetnb('train', tmp_path/'no.csv', '--debug', ok=False).stderr


def test_missing_texts_and_numbers_are_counted(tmp_path):
    rows = [f'{i},{("good" if i%2 else "bad")} day number {i},{"pos" if i%2 else "neg"}' for i in range(60)]
    rows[3], rows[10] = '3,,pos', '10,,neg'
    file = write(tmp_path/'t.csv', 'id,text,label\n' + '\n'.join(rows) + '\n')
    out = tweetnb('train', file, '--out', tmp_path/'out', '--model', 'rnn', *tiny).stdout
    assert 'Read 60 rows' in out and 'kept 58, rejected 2' in out
    numbers = write(tmp_path/'n.csv', 'text,label\n' + ''.join(f'{i},{"pos" if i%2 else "neg"}\n' for i in range(40)))
    res = tweetnb('train', numbers, '--out', tmp_path/'out2', '--model', 'rnn', *tiny, ok=False)
    assert res.returncode == 0 or res.stderr.startswith('Error: ')


def test_submission_is_checked(demo, tmp_path):
    bundle, test = demo[0]/'bundle', sample_path('tweets_test.csv')
    def predict(sample):
        return tweetnb('predict', bundle, test, '--sample', sample, '--out', tmp_path/'s.csv', ok=False)
    form = sample_path('sample_submission.csv').read_text(encoding='utf-8').splitlines()
    shuffled = [form[0]] + form[:0:-1]
    assert predict(write(tmp_path/'a.csv', '\n'.join(shuffled) + '\n')).returncode == 0
    written = (tmp_path/'s.csv').read_text(encoding='utf-8').splitlines()
    assert [o.split(',')[0] for o in written] == [o.split(',')[0] for o in shuffled]
    assert 'is not in the sample' in predict(write(tmp_path/'b.csv', '\n'.join(form[:-1]) + '\n')).stderr
    assert 'is not among the tweets' in predict(write(tmp_path/'c.csv', '\n'.join([*form, 'nobody,0']) + '\n')).stderr
    assert 'occurs twice' in predict(write(tmp_path/'d.csv', '\n'.join([*form, form[-1]]) + '\n')).stderr
    assert 'two' in predict(write(tmp_path/'e.csv', 'id\n1\n')).stderr


def test_compare_resumes(tmp_path):
    args = ('compare', sample_path('tweets.csv'), '--models', 'tfidf,ngram', '--seeds', 2, '--epochs', 1,
            '--out', tmp_path/'c')
    first = tweetnb(*args).stdout
    table = pd.read_csv(tmp_path/'c'/'leaderboard.csv', index_col='model')
    assert set(table.index) == {'tfidf', 'ngram'} and (table['runs'] == 2).all()
    assert (tmp_path/'c'/'leaderboard.png').stat().st_size > 5000
    runs = {o: o.stat().st_mtime_ns for o in (tmp_path/'c'/'runs').iterdir()}
    assert len(runs) == 8 and tweetnb(*args).stdout.splitlines()[-6:] == first.splitlines()[-6:]
    assert {o: o.stat().st_mtime_ns for o in (tmp_path/'c'/'runs').iterdir()} == runs           # nothing was run again


def test_recipe(tmp_path):
    assert '0.000325' in tweetnb('recipe', 'celebrity', '--show', '--set', 'lr=3.25e-4').stdout
    tweetnb('recipe', 'celebrity', '--sample', '--set', 'epochs=1', '--out', tmp_path/'run')
    assert {'recipe.toml', 'predictions.csv', 'bundle'} <= {o.name for o in (tmp_path/'run').iterdir()}
    assert 'epochs' in tweetnb('recipe', tmp_path/'run'/'recipe.toml', '--show').stdout
    assert 'Error: ' in tweetnb('recipe', 'poetry', ok=False).stderr


def test_two_processes_and_checkpoints(tmp_path):
    "The second run finds a finished one and gives the same bundle"
    state = '--processes', 2, '--checkpoints', tmp_path/'state'
    args = ['train', sample_path('tweets.csv'), '--model', 'bilstm', *tiny, *state]
    outs = [tweetnb(*args, '--out', tmp_path/o).stdout for o in 'ab']
    # one of the processes speaks
    assert outs[0].count('Saved to') == 1 and outs[0].count('epoch 1') == 1
    a,b = [(tmp_path/o/'model.safetensors').read_bytes() for o in 'ab']
    assert a == b


def test_help_and_usage():
    out = tweetnb('--help').stdout
    commands = 'train evaluate predict explain ensemble audit convert compare recipe export app serve demo'
    for command in commands.split(): assert command in out
    assert tweetnb('train', ok=False).returncode == 2
    assert tweetnb('fly', ok=False).returncode == 2
    said = tweetnb('--version').stdout
    assert said.startswith('tweetnb ') and '\n  torch ' in said and '\nExtras:' in said


def test_audit(tmp_path):
    assert tweetnb('audit', sample_path('tweets.csv')).stdout.count('\n') > 10
    assert tweetnb('audit', sample_path('tweets.csv'), '--strict', ok=False).returncode == 1


def test_tokens_on_disk(tmp_path):
    args = 'train', sample_path('tweets.csv'), '--store', tmp_path/'tokens', '--out', tmp_path/'mood'
    for more, told in (((), '--model ngram'), (('--limit', 300), '--limit does not apply'),
                       (('--model', 'ngram', '--valid', 'x.csv'), '--valid does not apply')):
        assert told in tweetnb(*args, *more, ok=False).stderr
    assert 'trained on' in tweetnb(*args, '--model', 'ngram', '--workers', 2).stdout
    assert (tmp_path/'tokens'/'ids').exists()
    assert 'positive' in tweetnb('explain', tmp_path/'mood', 'what a lovely morning').stdout


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path/'photos').mkdir()
    write(tmp_path/'photos'/'cat.txt', 'meow')
    res = tweetnb('train', sample_path('tweets.csv'), '--out', tmp_path/'photos', '--limit', 300, ok=False)
    assert res.returncode == 1 and 'not a bundle' in res.stderr
    assert (tmp_path/'photos'/'cat.txt').read_text() == 'meow'


def test_importing_tweetnb_leaves_torch_xla_and_torchvision_alone():
    code = ("import sys, tweetnb.cli, tweetnb.train.learner, tweetnb.ship.bundle, tweetnb.data.audit; "
            "print(sorted({'torch_xla', 'torchvision', 'accelerate'} & set(sys.modules)))")
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert res.stdout.strip() == '[]'


@pytest.mark.skipif(not data_path('arabizi', 'Test.csv').exists(), reason='needs TWEETNB_DATA/arabizi')
def test_real_submission(tmp_path):
    "A real competition: IDs, order and labels come back exactly, also where its sample lost two leading zeros"
    folder = data_path('arabizi')
    tweetnb('train', folder/'Train.csv', '--model', 'lstm', '--set', 'cleaner=arabizi', '--limit', 6000, *tiny, '--out',
            tmp_path/'b')
    out = tweetnb('predict', tmp_path/'b', folder/'Test.csv', '--sample', folder/'SampleSubmission.csv', '--out',
                  tmp_path/'s.csv').stdout
    form, mine = [pd.read_csv(o, dtype=str) for o in (folder/'SampleSubmission.csv', tmp_path/'s.csv')]
    assert len(mine) == 30_000 and list(mine.columns) == ['ID', 'label'] and (mine['ID'] == form['ID']).all()
    assert set(mine['label'].astype(str)) <= {'-1', '0', '1'} and '2 IDs lack their leading zeros' in out


@pytest.mark.skipif(not data_path('sentiment140').exists(), reason='needs TWEETNB_DATA/sentiment140')
def test_real_label_never_seen(tmp_path):
    folder = data_path('sentiment140')
    file = folder/'training.1600000.processed.noemoticon.head20k.csv'
    tweetnb('train', file, '--model', 'lstm', '--set', 'cleaner=sentiment140', *tiny, '--out', tmp_path/'b')
    res = tweetnb('evaluate', tmp_path/'b', folder/'testdata.manual.2009.06.14.csv')
    assert '139 of these tweets have a label that was never trained (2)' in res.stdout


def test_import_is_light():
    "`import tweetnb` imports no library; a linear bundle answers without PyTorch and fastai"
    code = "import sys, tweetnb; print([o for o in ('torch', 'fastai', 'pandas', 'numpy') if o in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=True).stdout.strip() == '[]'
    bundle = Path(__file__).parent/'bundles'/'0.1.0'/'tfidf'
    code = (f"import sys, tweetnb as tn; assert len(tn.load({str(bundle)!r}).predict('hello')) == 1; "
            "print([o for o in ('torch', 'fastai', 'transformers') if o in sys.modules])")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=True).stdout.strip() == '[]'

def test_a_network_answers_with_torch_alone():
    "Neither fastai nor scikit-learn, which take seconds to import; `--help` needs none of them"
    bundle = Path(__file__).parent/'bundles'/'0.1.0'/'bilstm'
    code = (f"import sys, tweetnb as tn; tn.load({str(bundle)!r}).predict('hello'); "
            "print([o for o in ('fastai', 'transformers', 'sklearn', 'scipy') if o in sys.modules])")
    help = "import sys, tweetnb.cli; print([o for o in ('torch', 'numpy', 'pandas', 'sklearn') if o in sys.modules])"
    for code in code, help:
        res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
        assert res.stdout.strip() == '[]'


def test_the_year_after(tmp_path):
    "A bundle is given a target, meets new tweets, is examined, and asks for labels"
    folder, labelled = tmp_path/'b', sample_path('tweets_test_labelled.csv')
    tweetnb('train', sample_path('tweets.csv'), '--model', 'tfidf', '--out', folder)
    res = tweetnb('decide', folder, labelled, '--min-precision', .8, '--coverage', .9)
    for said in 'answered', 'coverage', 'precision', 'By label', 'Saved to': assert said in res.stdout, said
    assert 'unsure' in tweetnb('predict', folder, labelled, '--out', tmp_path/'p.csv').stdout
    assert {'label', 'set'} <= set(pd.read_csv(tmp_path/'p.csv'))
    res = tweetnb('decide', folder, labelled, '--min-recall', .9, ok=False)
    assert res.returncode == 1 and 'Name the label' in res.stderr
    found = json.loads(tweetnb('drift', folder, labelled, '--json').stdout)
    assert found['alarm'] is False and {o['feature'] for o in found['features']} >= {'words', 'emoji'}
    other = tmp_path/'other.csv'
    pd.DataFrame({'text': [f'صباح الخير يا جماعة {i}' for i in range(60)]}).to_csv(other, index=False)
    res = tweetnb('drift', folder, other, '--strict', ok=False)
    assert res.returncode == 1 and 'Changed: ' in res.stdout
    assert 'golden tweets are answered as before' in tweetnb('doctor', folder).stdout
    (folder/'features.json').write_text('{}')
    res = tweetnb('doctor', folder, ok=False)
    assert res.returncode == 1 and 'Take a fresh copy' in res.stdout


def test_labels_are_typed_and_continued(tmp_path):
    args = 'label', sample_path('tweets_test.csv'), '--out', tmp_path/'mine.csv', '--labels', 'bad,good'
    for keys, n in ('1\n2\nu\n1\nq\n', 2), ('2\n', 3):
        command = [sys.executable, '-c', 'from tweetnb.cli import main; main()', *map(str, args)]
        res = subprocess.run(command, input=keys, capture_output=True, text=True, encoding='utf-8', timeout=600)
        assert res.returncode == 0, res.stderr
        assert f'{n} tweets are labelled' in res.stdout and len(pd.read_csv(tmp_path/'mine.csv')) == n


def test_help_fits_a_screen_and_completion_is_there():
    "40 lines of 100 columns, for every command"
    code = ("import contextlib, io, json\nfrom tweetnb.cli import app, main\nfound = {}\n"
            "for o in app.registered_commands:\n"
            "    name = o.name or o.callback.__name__\n"
            "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
            "        with contextlib.suppress(SystemExit): main([name, '-h'])\n"
            "    found[name] = said.getvalue()\n"
            "print(json.dumps(found))")
    env = {**os.environ, 'COLUMNS': '100'}
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, encoding='utf-8', env=env)
    pages = json.loads(res.stdout)
    assert len(pages) >= 17 and 'Usage: tweetnb train' in pages['train']
    lines = {name: len(text.strip().splitlines()) for name, text in pages.items()}
    assert max(lines.values()) <= 40, lines
    assert '--install-completion' in tweetnb('-h').stdout


def test_labels_are_given_on_a_page(tmp_path):
    pytest.importorskip('streamlit', reason="needs the extra 'app'")
    args = 'label', sample_path('tweets_test.csv'), '--out', tmp_path/'mine.csv', '--labels', 'bad,good', '--page', '0'
    command = [sys.executable, '-c', 'from tweetnb.cli import main; main()', *map(str, args)]
    env = {**os.environ, 'PYTHONUNBUFFERED': '1'}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding='utf-8', env=env) as it:
        try:
            where = it.stdout.readline().split('at ')[1].split('. ')[0]
            for _ in range(100):
                try: page = urllib.request.urlopen(where, timeout=5).read(); break
                except OSError: time.sleep(.1)
            assert b'<title>' in page
        finally: it.kill()


@pytest.mark.skipif(not shutil.which('bash'), reason='needs bash')
@pytest.mark.parametrize('typed, found', [('tweetnb tr', 'train'), ('tweetnb train --mi', '--minutes')])
def test_bash_completes_commands_and_options(typed, found):
    bin = str(Path(sys.executable).parent)
    words = typed.split()
    script = (f'eval "$(tweetnb --show-completion bash)"\nCOMP_WORDS=({typed})\nCOMP_CWORD={len(words) - 1}\n'
              '_tweetnb_completion tweetnb\necho "${COMPREPLY[@]}"')
    env = {**os.environ, 'PATH': bin + os.pathsep + os.environ['PATH']}
    res = subprocess.run(['bash', '-c', script], capture_output=True, text=True, env=env, timeout=120)
    assert res.stdout.split() == [found], res.stderr
