"The site is built offline from the notebooks as they stand; broken links and warnings fail it"
import importlib.util, json, os, re, shutil, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT/'_docs'

if importlib.util.find_spec('myst_nb') is None:
    pytest.skip("needs the development requirements: pip install 'tweetnb[dev]'", allow_module_level=True)

browsers = [shutil.which(name) for name in ('chromium', 'chromium-browser', 'google-chrome')]
chromium = os.environ.get('CHROMIUM') or next(filter(None, browsers), None)
in_browser = pytest.mark.skipif(not (chromium and importlib.util.find_spec('playwright')),
                                reason='needs playwright and a Chromium')


@pytest.fixture(scope='module')
def site():
    res = subprocess.run([sys.executable, 'tools/docs.py'], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert res.returncode == 0, (res.stdout + res.stderr)[-3000:]
    return OUT


@pytest.fixture
def page(site):
    "A page of the site in a browser, 1,000 pixels wide"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        args = ['--headless', '--no-sandbox', '--disable-gpu', '--allow-file-access-from-files']
        browser = p.chromium.launch(executable_path=chromium, args=args)
        yield browser.new_page(viewport=dict(width=1000, height=800))
        browser.close()


def test_site(site):
    names = (site/'api.html').read_text(encoding='utf-8')
    for name in 'train', 'fit', 'load', 'tweet_learner', 'TweetDataLoaders', 'Checkpoint', 'compare', 'XLARunner':
        assert f'>{name}</span>' in names, name
    front = (site/'index.html').read_text(encoding='utf-8')
    chapters = 'Ten minutes|Look it up|Ground and data|Text|Models|Shipping|Training|Evaluation|The ways in|The project'
    for chapter in chapters.split('|'):
        assert f'>{chapter}</span>' in front, chapter
    for chapter in 'data text models ship train evaluate'.split(): assert (site/'api'/f'{chapter}.html').is_file()
    assert (site/'search.html').is_file() and (site/'index.html').stat().st_size > 10_000


def test_the_gallery_holds_every_plot(site):
    plots = sum('image/png' in output.get('data', {}) for path in (ROOT/'nbs').rglob('*.ipynb')
                for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] for output in cell.get('outputs', []))
    assert (site/'gallery.html').read_text(encoding='utf-8').count('class="picture"') >= .8*plots > 20


def test_the_house_is_drawn_from_the_imports(site):
    text = (site/'architecture.html').read_text(encoding='utf-8')
    rooms = re.findall(r'<a href="(\d\d)_[^"]+"><title>([\w.]+)', text)
    numbered = sorted(o.name[:2] for o in (ROOT/'nbs').glob('[0-9]*.ipynb'))
    assert {number for number, _ in rooms} == set(numbered) and 'tweetnb.auto' in dict(rooms).values()
    assert re.search(r'<title>tweetnb.ship.serve\nimports: [^<]*tweetnb.ship.bundle', text)
    assert '<!--' not in text.split('class="house"')[1].split('</article>')[0]


def test_every_recipe_names_the_thread_it_answers():
    cells = json.loads((ROOT/'nbs'/'docs'/'howto.ipynb').read_text(encoding='utf-8'))['cells']
    asked = [''.join(o['source']) for o in cells if '### How do I' in ''.join(o['source'])]
    assert len(asked) >= 30
    threads = [re.findall(r'https://github.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+', o) for o in asked]
    assert sum(map(bool, threads)) >= 30
    with_code = [b['cell_type'] == 'code' for a, b in zip(cells, cells[1:]) if '### How do I' in ''.join(a['source'])]
    assert all(with_code)


@in_browser
@pytest.mark.parametrize('query,place', [
    ('TweetClassifier', '69_sklearn.html#tweetnb-sklearn-tweetclassifier-class'), ('tn.train', '56_auto.html'),
    ('predict_file', '37_shards.html#tweetnb-ship-shards-predict-file'),
    ('Checkpoint', '43_checkpoint.html#tweetnb-train-checkpoint-checkpoint-class')])
def test_a_name_is_found_first(page, query, place):
    page.goto(f'file://{OUT}/search.html?q={query}')
    found = page.locator('#search-results ul.search li > a')
    found.first.wait_for(timeout=60_000)
    page.wait_for_timeout(500)
    assert found.first.get_attribute('href').startswith(place)


@in_browser
@pytest.mark.parametrize('name', ['index', '56_auto', '60_cli', 'docs/howto', 'docs/peers', 'docs/errors',
                                  'benchmarks/quality', 'walkthroughs/61_emoji'])
def test_no_code_scrolls_sideways(page, name):
    page.goto(f'file://{OUT}/{name}.html')
    over = "[...document.querySelectorAll('div.highlight pre')].filter(o => o.scrollWidth > o.clientWidth + 1).length"
    assert page.locator('div.highlight pre').count() and page.evaluate(over) == 0
    assert page.evaluate('document.documentElement.scrollWidth') <= 1000
