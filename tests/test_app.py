"""The page in a real browser: typing, files, hostile text, a narrow screen, dark mode, and a long file cancelled.

Needs the extra `app`, playwright and a Chromium (that of the system, or the one that `CHROMIUM` names).
"""
import gzip, io, os, re, shutil, signal, socket, subprocess, sys, time
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip('streamlit', reason="needs the extra 'app'")

from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.read import read_tweets
from tweetnb.ship.app import emoji_and_name, find_bundles, label_table, run_app, save_upload
from tweetnb.ship.bundle import load

browsers = [shutil.which(name) for name in ('chromium', 'chromium-browser', 'google-chrome')]
chromium = os.environ.get('CHROMIUM') or next(filter(None, browsers), None)
try: from playwright.sync_api import sync_playwright
except ImportError: sync_playwright = None
in_browser = pytest.mark.skipif(not (chromium and sync_playwright), reason='needs playwright and a Chromium')

hostile = '<img src=x onerror="window.hacked=1"> **bold** :joy:'


@pytest.fixture(scope='session')
def home(tmp_path_factory):
    "Two bundles, the second with a label from hell"
    import fastai.callback.schedule
    from tweetnb.text.block import TweetDataLoaders
    from tweetnb.train.learner import tweet_learner
    home = tmp_path_factory.mktemp('bundles')
    df = read_tweets(sample_path('tweets.csv'), label=True).head(600)
    for name, labels in ('moods', {}), ('wild', {'neutral': hostile, 'positive': ':thumbs_up:'}):
        some = df.assign(label=df['label'].cat.rename_categories(labels))
        dls = TweetDataLoaders.from_df(some, cleaner='tweeteval', bs=32, device='cpu')
        learn = tweet_learner(dls, 'gru', n_emb=32, n_hidden=32)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 1e-2)
        learn.classifier().save(home/name)
    card = '---\ntags: x\n---\n# Wild\n<script>window.hacked=1</script>\n![spy](http://192.0.2.1/spy.png)\n'
    (home/'wild'/'README.md').write_text(card, encoding='utf-8')
    return home


@pytest.fixture(scope='module')
def address(home):
    "`run_app` in a process of its own, over a bundle that takes its time with tweets that ask for it"
    code = ("import sys, time; from tweetnb.ship.app import run_app; from tweetnb.models.classifier import Classifier\n"
            "real = Classifier.outputs\n"
            "def slow(self, texts, bs=256):\n"
            "    time.sleep(.25*any('take your time' in o for o in texts))\n"
            "    return real(self, texts, bs)\n"
            "Classifier.outputs = slow\n"
            "run_app(sys.argv[1], port=0, max_mb=2, say=lambda o: print(o, flush=True))")
    it = subprocess.Popen([sys.executable, '-c', code, str(home)], env={**os.environ, 'OMP_NUM_THREADS': '1'},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = it.stdout.readline()
    assert 'The page is at http://127.0.0.1:' in line, it.stderr.read()
    where = line.split('at ')[1].split('. ')[0]
    port = int(where.split(':')[-1])
    for _ in range(100):
        try: socket.create_connection(('127.0.0.1', port), timeout=1).close(); break
        except OSError: time.sleep(.1)
    yield where
    it.send_signal(signal.SIGTERM)
    assert it.wait(20) == 0


@pytest.fixture(scope='module')
def browser():
    with sync_playwright() as p:
        args = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-sync',
                '--no-first-run', '--disable-component-update', '--disable-default-apps']
        it = p.chromium.launch(executable_path=chromium, args=args)
        yield it
        it.close()


@pytest.fixture
def visit(browser, address):
    "Opens the page; nothing may be fetched from elsewhere, no script of a stranger may run"
    pages = []
    def visit(**kwargs):
        settings = {'viewport': dict(width=900, height=900), 'accept_downloads': True, **kwargs}
        page = browser.new_context(**settings).new_page()
        page.set_default_timeout(90_000)                  # on two busy cores a page takes its time
        page.elsewhere, page.dialogs = [], []
        here = address, address.replace('http', 'ws'), 'data:', 'blob:'
        page.on('request', lambda o: None if o.url.startswith(here) else page.elsewhere.append(o.url))
        page.on('dialog', lambda o: (page.dialogs.append(o.message), o.dismiss()))
        page.goto(address)
        page.get_by_label('Tweets, one per line').wait_for(timeout=90_000)
        pages.append(page)
        return page
    yield visit
    for page in pages:
        assert page.elsewhere == [] and page.dialogs == [] and page.evaluate('window.hacked') is None
        page.context.close()


def classify(page, text):
    page.get_by_label('Tweets, one per line').fill(text)
    page.keyboard.press('Control+Enter')
    page.locator('article').first.wait_for(timeout=90_000)


def hand_in(page, name, data):
    page.get_by_role('tab', name='File').click()
    page.locator('input[type=file]').set_input_files(dict(name=name, mimeType='application/octet-stream', buffer=data))
    page.get_by_text(name).first.wait_for()
    page.get_by_role('button', name='Classify the file').click()


def alert(page):
    page.get_by_role('alert').first.wait_for(timeout=90_000)
    return page.get_by_role('alert').first.inner_text()


def download(page):
    page.get_by_role('button', name='Save the table').wait_for(timeout=60_000)
    with page.expect_download() as it: page.get_by_role('button', name='Save the table').click()
    return pd.read_csv(it.value.path(), dtype={'id': str})


@in_browser
def test_typing_with_the_keyboard_alone(visit, home):
    page = visit()
    page.get_by_label('Tweets, one per line').focus()
    page.keyboard.type('what a lovely day\nthe worst bus ever')
    page.keyboard.press('Control+Enter')
    page.locator('article').nth(1).wait_for(timeout=90_000)
    page.get_by_text('Blue words argue').wait_for()
    want = load(home/'moods').predict(['what a lovely day', 'the worst bus ever'])
    for i, card in enumerate(page.locator('article').all()):
        moods = card.locator('section').first
        assert moods.locator('.tw-answer').inner_text() == want['label'][i]
        assert f"{want['confidence'][i]:.0%}" in moods.locator('.tw-row').first.inner_text()
        assert moods.locator('.tw-row').count() == 3 and moods.locator('.tw-why span[title]').count() > 0
        assert card.locator('section').count() == 2                          # both bundles, side by side
    page.get_by_role('tab', name='Tweets').focus()
    page.keyboard.press('ArrowRight'); page.keyboard.press('Enter')
    page.get_by_role('button', name='Classify the file').wait_for()


@in_browser
def test_hostile_tweets_and_labels_are_text(visit):
    page = visit()
    tweets = ['<script>window.hacked=1</script>', '<img src=x onerror="window.hacked=1">', '"\'><svg onload=alert(1)>',
              '[link](javascript:alert(1)) **bold** $x$ :red[red]', '\u202etxet desrever', 'ل مرحبا']
    classify(page, '\n'.join(tweets))
    page.get_by_text('Blue words argue').wait_for(timeout=90_000)
    assert page.locator('article > p').all_inner_texts() == tweets
    assert page.locator('article img, article script, article svg, article a').count() == 0
    assert any('<img src=x' in o for o in page.locator('.tw-row').all_inner_texts())        # the label
    assert any('👍' in o for o in page.locator('.tw-row').all_inner_texts())
    page.get_by_role('tab', name='Model card').click()
    page.get_by_text('window.hacked=1').last.wait_for()
    assert page.locator('img[src*="192.0.2.1"]').count() == 0


@in_browser
def test_upload_and_download(visit, home):
    page = visit()
    hand_in(page, 'tweets.csv', sample_path('tweets.csv').read_bytes())
    got = download(page)
    df = read_tweets(sample_path('tweets.csv'), label=False)
    assert got['text'].tolist() == df['text'].tolist() and got['id'].tolist() == df['id'].tolist()
    assert got['moods predicted'].tolist() == load(home/'moods').predict(df)['label'].tolist()
    said = page.locator('body').inner_text()
    assert f'{len(df):,} tweets are labelled' in said and 'rejected: no text' in said


@in_browser
def test_several_files_are_compared_and_corrected(visit):
    page = visit()
    page.get_by_role('tab', name='File').click()
    files = {'a.csv': 'text\nwhat a lovely day\nthe worst bus ever\n', 'b.csv': 'text\nlate again\n,\nthank you\n'}
    uploads = [dict(name=name, mimeType='text/csv', buffer=text.encode()) for name, text in files.items()]
    page.locator('input[type=file]').set_input_files(uploads)
    page.get_by_text('b.csv').first.wait_for()
    page.get_by_role('button', name='Classify the file').click()
    got = download(page)
    assert got['file'].tolist() == ['a.csv']*2 + ['b.csv']*2 and got['text'].iloc[-1] == 'thank you'
    said = page.locator('body').inner_text()
    assert '4 tweets are labelled' in said and 'b.csv: 1 row rejected' in said and 'They agree on' in said
    panel = page.get_by_role('tabpanel').filter(has=page.get_by_text('Save the table'))
    panel.get_by_text('Is a label wrong?').click()
    right = panel.get_by_role('combobox', name='Right label')
    right.fill('negative')
    right.press('Enter')
    panel.get_by_role('button', name='Keep').click()
    panel.get_by_role('button', name='Save 1 correction').wait_for(timeout=90_000)
    with page.expect_download() as it: panel.get_by_role('button', name='Save 1 correction').click()
    assert pd.read_csv(it.value.path()).values.tolist() == [['what a lovely day', 'negative']]


@in_browser
@pytest.mark.parametrize('name,data,said', [
    ('photo.csv', b'\x89PNG\r\n\x1a\n' + bytes(range(256))*20, 'binary file'),
    ('empty.csv', b'', 'empty'),
    ('numbers.csv', b'a,<b>b</b>\n1,2\n', 'no text column found'),
    ('broken.parquet', b'PAR1 and no more', 'Parquet file is corrupt'),
    ('half.csv.gz', gzip.compress(b'text\nhello\n'*999, mtime=0)[:-9], 'truncated'),
])
def test_wrong_files_are_refused_kindly(visit, name, data, said):
    page = visit()
    hand_in(page, name, data)
    told = alert(page)
    assert said in told and name in told and 'Traceback' not in told and '/tmp' not in told
    classify_after = page.get_by_role('tab', name='Tweets')
    classify_after.click(); classify(page, 'still here')


@in_browser
def test_a_file_over_the_limit_and_an_unknown_ending(visit):
    page = visit()
    page.get_by_role('tab', name='File').click()
    large = b'text\n' + b'a'*2_100_000
    for name, data, said in ('large.csv', large, '2.0MB or smaller'), ('game.exe', b'MZ', 'not allowed'):
        page.locator('input[type=file]').set_input_files(dict(name=name, mimeType='text/csv', buffer=data))
        page.get_by_text(said).first.wait_for(timeout=10_000)


@in_browser
def test_a_million_characters(visit):
    page = visit()
    start = time.time()
    hand_in(page, 'long.csv', b'text\n' + b'a'*1_000_000 + b'\nshort\n')
    got = download(page)
    assert got['text'].str.len().tolist() == [5000, 5] and 'are cut' in page.locator('body').inner_text()
    page.get_by_role('tab', name='Tweets').click()
    page.get_by_role('textbox', name='Tweets, one per line').evaluate('''o => {
        const set = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set;
        set.call(o, 'b'.repeat(1000000));
        o.dispatchEvent(new Event('input', {bubbles: true})) }''')                           # as a paste does
    page.get_by_role('button', name='Classify', exact=True).click()
    page.locator('article').wait_for(timeout=40_000)
    assert len(page.locator('article > p').inner_text()) == 5000 and time.time() - start < 60


@in_browser
def test_a_long_file_can_be_cancelled(visit):
    page = visit()
    hand_in(page, 'long.csv', ('text\n' + 'take your time\n'*20_000).encode())
    page.get_by_text('of 20,000 tweets').wait_for(timeout=90_000)
    page.get_by_role('button', name='Cancel').click()
    assert 'Cancelled' in alert(page)
    got = download(page)
    assert 0 < len(got) < 20_000 and len(got) % 128 == 0 and got['moods predicted'].notna().all()


@in_browser
def test_a_narrow_screen(visit):
    page = visit(viewport=dict(width=375, height=812), has_touch=True, is_mobile=True)
    classify(page, 'x'*300 + '\nwhat a lovely day ' + '😍'*80)
    page.get_by_text('Blue words argue').wait_for(timeout=90_000)
    assert page.evaluate('document.documentElement.scrollWidth') <= 375
    right = "[...document.querySelectorAll('article, article *')].map(o => o.getBoundingClientRect().right)"
    assert page.evaluate(f'Math.max(...{right})') <= 375
    first, second = [o.bounding_box() for o in page.locator('article').first.locator('section').all()]
    assert second['y'] >= first['y'] + first['height']                       # one below the other
    assert page.get_by_role('button', name='Classify', exact=True).bounding_box()['height'] >= 36


@in_browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_readable_in_both_schemes(visit, scheme):
    page = visit(color_scheme=scheme)
    classify(page, 'what a lovely day')
    page.get_by_text('Blue words argue').wait_for(timeout=90_000)
    back = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert (luminance(back) < .1) == (scheme == 'dark')
    for where in 'article > p', '.tw-answer', '.tw-row span', '.tw-why span':
        text = page.locator(where).first.evaluate('o => getComputedStyle(o).color')
        light, dark = sorted([luminance(back), luminance(text)], reverse=True)
        assert (light + .05)/(dark + .05) >= 7, where                        # WCAG AAA


def luminance(color):
    "Relative luminance of `rgb(…)`, WCAG 2"
    parts = [float(o)/255 for o in color[color.index('(')+1:-1].split(',')[:3]]
    return sum(w*(c/12.92 if c <= .03928 else ((c+.055)/1.055)**2.4) for w, c in zip((.2126, .7152, .0722), parts))


@in_browser
def test_this_machine_alone_may_connect(address):
    with pytest.raises(OSError): socket.create_connection(('127.0.0.2', int(address.split(':')[-1])), timeout=2)


# ---------- without a browser

def test_bundles_cannot_be_chosen_outside(home, tmp_path):
    shutil.copytree(home/'moods', tmp_path/'in'/'moods')
    (tmp_path/'in'/'out').symlink_to(home/'wild')
    (tmp_path/'in'/'half').mkdir()
    (tmp_path/'in'/'half'/'bundle.json').symlink_to(home/'wild'/'bundle.json')
    (tmp_path/'in'/'loop').symlink_to(tmp_path/'in'/'loop')
    assert list(find_bundles(tmp_path/'in')) == ['moods']
    (tmp_path/'in'/'moods'/'README.md').unlink()
    (tmp_path/'in'/'moods'/'README.md').symlink_to('/etc/passwd')
    with pytest.raises(TweetnbError, match='outside the bundle'): load(tmp_path/'in'/'moods')
    (tmp_path/'link').symlink_to(tmp_path/'in')                              # the folder given may itself be a link
    assert list(find_bundles(tmp_path/'link')) == ['moods']
    with pytest.raises(TweetnbError, match='no bundle'): find_bundles(tmp_path/'nowhere')


def take(data, name, **kwargs):
    with save_upload(io.BytesIO(data), name, **kwargs) as path: return path.name, read_tweets(path, label=False)


@pytest.mark.parametrize('name', ['../../../etc/x.csv', '/etc/x.csv', 'C:\\x.csv', 'a\0b.csv', 'x'*5000 + '.csv',
                                  '.csv.csv', '\ud800.csv'])
def test_names_of_uploads_are_never_paths(name):
    assert take(b'text\nhi\n', name)[0] == 'upload.csv'


def test_files_that_unpack_to_too_much(tmp_path):
    bomb = gzip.compress(bytes(30_000_000))
    with pytest.raises(TweetnbError, match='more than 20 MB'): take(bomb, 'bomb.csv.gz', max_bytes=20_000_000)
    same = pd.DataFrame({'text': ['a tweet '*125]*30_000, 'n': 1})
    same.to_parquet(tmp_path/'a.parquet')                                        # its dictionary holds the text once
    data = (tmp_path/'a.parquet').read_bytes()
    assert len(data) < 1_000_000 and len(take(data, 'a.parquet')[1]) == 30_000
    with pytest.raises(TweetnbError, match='more than 20 MB'): take(data, 'a.parquet', max_bytes=20_000_000)
    for bad in 'exe', 'zip', 'pkl', 'csv.zip', 'gz', '':
        with pytest.raises(TweetnbError, match='unknown file type'): take(b'text\nhi\n', f'x.{bad}')


def test_any_bytes_are_a_table_or_one_error():
    from hypothesis import given, settings, strategies as st
    endings = 'csv', 'tsv', 'txt', 'jsonl', 'json', 'parquet', 'csv.gz'
    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=300), st.sampled_from([f'a.{o}' for o in endings]))
    def check(data, name):
        try: assert len(take(data, name)[1]) > 0
        except TweetnbError as e: assert '/tmp' not in str(e) and 'upload' not in str(e)
    check()


def test_label_table_keeps_every_row_and_column(home):
    classifiers = {name: load(path) for name, path in find_bundles(home).items()}
    df = read_tweets(sample_path('tweets.csv'), label=False).head(300)
    parts = list(label_table(df, classifiers, rows=128))
    assert [len(o) for o in parts] == [128, 128, 44]
    out = pd.concat(parts)
    pd.testing.assert_frame_equal(out[list(df.columns)], df, check_like=True)
    assert out['wild predicted'].isin(classifiers['wild'].labels).all()


def test_visitors_take_turns_with_a_model(home):
    "Attributions put hooks on the model: a prediction at the same time would read what they feed it"
    # Not with AppTest: it swaps Streamlit's one Runtime, so that two at once disturb each other
    from concurrent.futures import ThreadPoolExecutor
    from tweetnb.ship.app import _explain_all
    texts = [f'{word} day {i}' for i in range(8) for word in ('lovely', 'awful')]
    classifiers = {'moods': load(home/'moods')}
    def visit(i):
        mine = texts[i:] + texts[:i]
        labels = pd.concat(label_table(pd.DataFrame({'text': mine}), classifiers))
        why = pd.DataFrame({'why': [str(o) for o in _explain_all(None, classifiers, mine)['moods']]}, index=mine)
        return labels.set_index('text').join(why).loc[texts]
    alone = visit(0)
    assert alone['predicted'].tolist() == load(home/'moods').predict(texts)['label'].tolist()
    with ThreadPoolExecutor(3) as pool:
        for o in pool.map(visit, [0, 1, 2, 5, 7, 11]): pd.testing.assert_frame_equal(o, alone)


def test_labels_that_are_numbers(tmp_path):
    from tweetnb.models.linear import LinearClassifier
    from tweetnb.ship.app import model_summary
    df = read_tweets(sample_path('tweets.csv'), label=True).head(300)
    numbers = df['label'].map({'negative': -1, 'neutral': 0, 'positive': 1}).astype(int)
    LinearClassifier().fit(df, numbers).save(tmp_path/'numbers')
    classifier = load(tmp_path/'numbers')
    out = pd.concat(label_table(df, {'numbers': classifier}))
    assert out['predicted'].isin([-1, 0, 1]).all() and pd.api.types.is_integer_dtype(out['predicted'])
    assert model_summary(classifier).loc['labels', 'numbers'] == '-1, 0, 1'
    from streamlit.testing.v1 import AppTest
    at = AppTest.from_string(f'from tweetnb.ship.app import page\npage({str(tmp_path)!r})', default_timeout=60).run()
    at.text_area[0].input('what a lovely day')
    at.button[0].click().run()
    assert not at.exception and any('tw-answer' in o.proto.body for o in at.get('html'))


def test_labels_as_emoji():
    assert emoji_and_name(':joy:') == ('😂', 'joy') and emoji_and_name('red_heart') == ('❤️', 'red heart')
    assert emoji_and_name('❤️')[0] == '❤️' and emoji_and_name('') == ('', '')
    for word in hostile, 'neutral': assert emoji_and_name(word) == ('', word)


def test_it_does_not_start(home, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken, pytest.raises(TweetnbError, match='another port'):
        run_app(home, port=taken.getsockname()[1])
    with pytest.raises(TweetnbError, match='no bundle'): run_app(tmp_path)


def test_importing_is_quick():
    heavy = 'torch', 'fastai', 'streamlit', 'altair'
    code = f'import sys, tweetnb.ship.app; print([o for o in {heavy} if o in sys.modules])'
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert res.stdout.strip() == '[]', res.stdout + res.stderr
