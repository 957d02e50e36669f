"""Each data set in its true layout, from a server on this machine, with the faults that downloads have; conversions."""
import csv, hashlib, http.server, io, json, os, signal, subprocess, sys, tarfile, threading, time, types, zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest

import tweetnb.data.datasets as datasets
from tweetnb.core import TweetnbError, data_path
from tweetnb.data.datasets import DATASETS, DownloadError, convert, download, fetch, load_dataset, load_sample, unpack
from tweetnb.data.read import read_tweets

CONTENT = '\n'.join(f'tweet {i} 🎉' for i in range(20_000)).encode()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        s = self.server
        s.asked.append((self.headers.get('Range'), self.headers.get('If-Range')))
        content = s.files.get(self.path, None if s.files else s.content)
        if content is None: return self.send_error(404)
        fault = s.faults.pop(0) if s.faults else None
        if isinstance(fault, int) and 400 <= fault < 600: return self.send_error(fault)
        if fault == 'redirect':
            self.send_response(302)
            self.send_header('Location', '/other')
            self.send_header('Content-Length', '0')
            return self.end_headers()
        same = s.resumes and self.headers.get('If-Range') in (None, s.tag)
        start = int(self.headers['Range'][6:-1]) if self.headers.get('Range') and same else 0
        if start >= len(content): return self.send_error(416)
        body = content[start:]
        self.send_response(206 if start else 200)
        if start: self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        if s.tag: self.send_header('ETag', s.tag)
        self.send_header('Connection', 'close')
        if s.chunked: self.send_header('Transfer-Encoding', 'chunked')
        else: self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if fault == 'silent': time.sleep(3)
        cut = body[:fault] if isinstance(fault, int) else body
        try:
            if not s.chunked: self.wfile.write(cut)
            else:
                for i in range(0, len(cut), 5_000):
                    self.wfile.write(b'%x\r\n%s\r\n' % (len(cut[i:i+5_000]), cut[i:i+5_000]))
                if len(cut) == len(body): self.wfile.write(b'0\r\n\r\n')
        except (BrokenPipeError, ConnectionResetError): pass
        if s.slow: time.sleep(s.slow)
        self.close_connection = True
    def log_message(self, *args): pass

@pytest.fixture
def server(monkeypatch, tmp_path):
    for name,folder in dict(TWEETNB_CACHE='cache', TWEETNB_DATA='data', HF_HUB_CACHE='hub').items():
        monkeypatch.setenv(name, str(tmp_path/folder))
    monkeypatch.delenv('HF_HUB_OFFLINE', raising=False)
    monkeypatch.setattr(datasets, 'KAGGLE_INPUT', tmp_path/'kaggle')
    sleep = time.sleep
    monkeypatch.setattr('tweetnb.data.datasets.time', type('time', (), {'sleep': lambda seconds: sleep(seconds/20)}))
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    s.content,s.files,s.tag,s.resumes,s.chunked,s.faults,s.asked,s.slow = CONTENT,{},'"v1"',True,False,[],[],0
    s.host = f'http://127.0.0.1:{s.server_port}'
    s.url = f'{s.host}/tweets.txt'
    threading.Thread(target=s.serve_forever, args=(0.01,), daemon=True).start()
    yield s
    s.shutdown(); s.server_close()

def left(folder): return sorted(p.name for p in folder.iterdir() if p.name != 'cache')


def test_resumes_where_it_broke_off(server, tmp_path):
    server.faults = [100_000, 503, 50_000]
    assert download(server.url, tmp_path/'t', size=len(CONTENT), sha256=SHA256).read_bytes() == CONTENT
    assert [r for r,_ in server.asked] == [None, 'bytes=100000-', 'bytes=100000-', 'bytes=150000-']
    assert left(tmp_path) == ['t']

def test_a_line_that_breaks_often_but_brings_something(server, tmp_path):
    server.faults = [30_000]*20
    assert download(server.url, tmp_path/'t', tries=2, sha256=SHA256).read_bytes() == CONTENT

def test_starts_anew_when_the_file_has_changed(server, tmp_path):
    server.faults = [100_000]*2
    server.faults.append(0)
    with pytest.raises(TweetnbError, match='broke off'): download(server.url, tmp_path/'t', tries=2)
    server.content,server.tag = CONTENT[::-1],'"v2"'
    assert download(server.url, tmp_path/'t').read_bytes() == CONTENT[::-1]
    assert server.asked[-1] == ('bytes=200000-', '"v1"')

@pytest.mark.parametrize('resumes, tag, chunked',
    [(False, '"v1"', False), (True, '', False), (True, '"v1"', True), (True, 'W/"weak"', False)])
def test_servers_of_all_kinds(server, tmp_path, resumes, tag, chunked):
    server.resumes,server.tag,server.chunked,server.faults = resumes,tag,chunked,[70_000, 60_000]
    assert download(server.url, tmp_path/'t', sha256=SHA256).read_bytes() == CONTENT
    assert left(tmp_path) == ['t']

def test_follows_redirects_and_waits_for_the_busy(server, tmp_path):
    server.faults = ['redirect', 429, 'redirect']
    assert download(server.url, tmp_path/'t', sha256=SHA256).read_bytes() == CONTENT

def test_silence_counts_as_lost(server, tmp_path):
    server.faults = ['silent']
    assert download(server.url, tmp_path/'t', timeout=0.3).read_bytes() == CONTENT

def test_a_part_that_is_too_long_or_foreign(server, tmp_path):
    for part in CONTENT + b'more', b'x'*len(CONTENT), b'':
        (tmp_path/'t.part').write_bytes(part); (tmp_path/'t.part.tag').write_text('"v1"')
        assert download(server.url, tmp_path/'t', sha256=SHA256).read_bytes() == CONTENT
        (tmp_path/'t').unlink()

def test_what_is_wrong_is_not_kept(server, tmp_path):
    for wrong in dict(size=1), dict(sha256='0'*64):
        with pytest.raises(TweetnbError, match='It was deleted'): download(server.url, tmp_path/'t', **wrong)
    for code in 403, 404, 410:
        server.faults = [code]
        with pytest.raises(TweetnbError, match=f'the server says {code}'): download(server.url, tmp_path/'t')
    assert left(tmp_path) == []

def test_a_file_that_is_right_is_not_fetched_and_a_wrong_one_is_replaced(server, tmp_path):
    (tmp_path/'t').write_bytes(CONTENT)
    download(server.url, tmp_path/'t', sha256=SHA256)
    assert not server.asked
    (tmp_path/'t').write_bytes(b'old')
    assert download(server.url, tmp_path/'t', sha256=SHA256).read_bytes() == CONTENT

def test_offline(tmp_path, monkeypatch):
    monkeypatch.setenv('TWEETNB_CACHE', str(tmp_path/'cache'))
    for url in 'http://127.0.0.1:9/t', 'http://no-such-host.invalid/t':
        with pytest.raises(DownloadError, match='no connection .* offline'): download(url, tmp_path/'t')
    (tmp_path/'file').write_text('')
    with pytest.raises(TweetnbError, match='cannot be written'): download('http://127.0.0.1:9/t', tmp_path/'file'/'t')
    assert left(tmp_path) == ['file']

SCRIPT = '''
import sys
from tweetnb.data.datasets import download
print(download(sys.argv[1], sys.argv[2], sha256=sys.argv[3]).stat().st_size)
'''
def start(*args):
    return subprocess.Popen([sys.executable, '-c', SCRIPT, *map(str, args)], stdout=subprocess.PIPE, text=True)

def test_two_processes_and_a_kill(server, tmp_path):
    "A killed download leaves its part; then two processes ask at once, and the file is fetched once more, from there"
    server.faults,server.slow = [120_000],60
    p = start(server.url, tmp_path/'t', SHA256)
    while not (tmp_path/'t.part').exists() or (tmp_path/'t.part').stat().st_size < 100_000:
        time.sleep(0.05); assert p.poll() is None
    p.kill(); p.wait(); server.slow = 0
    assert not (tmp_path/'t').exists()
    both = [start(server.url, tmp_path/'t', SHA256) for _ in range(2)]
    assert [int(p.communicate(timeout=60)[0]) for p in both] == [len(CONTENT)]*2
    assert len(server.asked) == 2 and server.asked[1][0].startswith('bytes=1')
    assert left(tmp_path) == ['t']


def test_mirrors_are_tried_in_turn(server, tmp_path):
    server.files = {'/b/t': CONTENT[:-1], '/c/t': CONTENT}
    urls = ['http://127.0.0.1:9/t', f'{server.host}/a/t', f'{server.host}/b/t']
    with pytest.raises(DownloadError, match='no address works: .*no connection.*says 404.*different SHA-256'):
        download(urls, tmp_path/'t', sha256=SHA256)
    assert download([*urls, f'{server.host}/c/t'], tmp_path/'t', sha256=SHA256).read_bytes() == CONTENT

FULL = '''
import resource, sys
from tweetnb.data.datasets import download, unpack
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))                # as a disk that is full
try: (unpack if sys.argv[1].endswith('zip') else download)(sys.argv[1], sys.argv[2])
except Exception as e: print(type(e).__name__, e)
'''
def test_a_full_disk(server, tmp_path, monkeypatch):
    "The error says so, no other mirror is asked, and the download resumes once there is room"
    def run(*args):
        command = [sys.executable, '-c', FULL, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True).stdout
    said = run(server.url, tmp_path/'t')
    assert said.startswith('TweetnbError') and 'cannot be written' in said and 'Is the disk full' in said
    assert download(server.url, tmp_path/'t').read_bytes() == CONTENT and server.asked[-1][0] == 'bytes=200000-'
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z: z.writestr('big.txt', CONTENT)
    said = run(tmp_path/'a.zip', tmp_path/'out')
    assert 'cannot be written' in said and 'Is the disk full' in said and left(tmp_path) == ['a.zip', 't']
    monkeypatch.setattr('shutil.disk_usage', lambda folder: types.SimpleNamespace(free=1_000))
    with pytest.raises(TweetnbError, match='are needed and 0 MB are free'): download(server.url, tmp_path/'other')


# ---- unpacking ----

def tar(members, mode='w:gz'):
    "A tar archive of (name, text or TarInfo) pairs"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:
        for name,content in members:
            info = tarfile.TarInfo(name) if isinstance(content, bytes) else content
            if isinstance(content, bytes): info.size = len(content)
            t.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()

def zipped(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
        for name,content in members: z.writestr(name, content)
    return out.getvalue()

def special(name, kind, target=''):
    info = tarfile.TarInfo(name)
    info.type,info.linkname = kind,target
    return name, info

ZEROS = bytes(200 << 20)
BAD = [tar([('../outside.txt', b'x')]), tar([('/tmp/outside.txt', b'x')]), tar([('a/../../o', b'x')]),
    tar([special('link', tarfile.SYMTYPE, '/etc/passwd')]), tar([special('link', tarfile.LNKTYPE, '../outside')]),
    tar([special('fifo', tarfile.FIFOTYPE)]), zipped([('../outside.txt', 'x')]), zipped([('/outside.txt', 'x')]),
    zipped([('..\\outside.txt', 'x')]), zipped([('C:/outside.txt', 'x')]),
    zipped([('good.txt', 'x'), ('a/../../o', 'x')]),
    zipped([('zeros.txt', ZEROS)]), tar([('zeros.txt', ZEROS)]), tar([('a.txt', CONTENT)])[:-3_000],
    zipped([('a.txt', CONTENT)])[:-30], b'', b'not an archive']

@pytest.mark.parametrize('archive', BAD, ids=range(len(BAD)))
def test_a_malicious_or_broken_archive_leaves_nothing(archive, tmp_path):
    deep = tmp_path/'deep'
    deep.mkdir()
    (deep/'archive').write_bytes(archive)
    with pytest.raises(TweetnbError, match='cannot be unpacked'): unpack(deep/'archive', deep/'out')
    assert left(tmp_path) == ['deep'] and left(deep) == ['archive']

def test_archives_of_plain_files(tmp_path):
    folder,file = special('d', tarfile.DIRTYPE),('d/é.txt', b'x')
    for archive in tar([folder, file]), tar([file], 'w'), zipped([('d/', ''), file]):
        (tmp_path/'archive').write_bytes(archive)
        assert (unpack(tmp_path/'archive', tmp_path/'out')/'d'/'é.txt').read_bytes() == b'x'


# ---- each data set in its true layout, small ----

def csv_bytes(header, rows, end='\n', **kw):
    out = io.StringIO(newline='')
    writer = csv.writer(out, lineterminator=end, **kw)
    writer.writerows([header, *rows] if header else rows)
    return out.getvalue().encode()

def make_sentiment140():
    """Six quoted columns, no header, sorted by label

    The training file is latin-1 with some UTF-8 in it, has CRLF and no last newline; the test file has LF."""
    def row(target, i, text):
        return b'"%d","%d","Mon Apr 06 22:19:45 PDT 2009","NO_QUERY","me%d","%s"' % (target, 1467810369 + i, i, text)
    lost = b'lost a letter \xef\xbf\xbd today &quot;really&quot; '
    train = [row(0, 0, lost), row(0, 1, b'caf\xe9 na\xefve \x96 gone')]
    train += [row(4*(i >= 20), i, f'tweet {i} from long ago'.encode()) for i in range(2, 40)]
    test = [row(target, i, b'a test %d' % i) for i,target in enumerate([4, 0, 2, 4])]
    return zipped([('testdata.manual.2009.06.14.csv', b'\n'.join(test) + b'\n'),
        ('training.1600000.processed.noemoticon.csv', b'\r\n'.join(train))])

def make_imdb():
    "Folders with a text per file and its rating in the name, and the bags of words beside them"
    files = {f'aclImdb/{name}': 'the\nand\n' for name in ('imdbEr.txt', 'README', 'imdb.vocab')}
    for split in 'test', 'train':
        files[f'aclImdb/{split}/labeledBow.feat'] = '9 0:9 1:1\n'
        for label in 'neg', 'pos': files[f'aclImdb/{split}/urls_{label}.txt'] = 'http://www.imdb.com/title/tt0453418\n'
        for i in range(12):
            files[f'aclImdb/{split}/neg/{i}_{1 + i % 4}.txt'] = f'A {split} of patience.<br />Number {i} \x96 awful.'
            files[f'aclImdb/{split}/pos/{i}_{7 + i % 4}.txt'] = f'A {split} of joy – number {i}.'
    files['aclImdb/train/unsupBow.feat'] = '0 0:8\n'
    for i in range(24): files[f'aclImdb/train/unsup/{i}_0.txt'] = f'Film {i} was seen.'
    folders = sorted({str(Path(name).parent) for name in files})
    members = [special(folder, tarfile.DIRTYPE) for folder in folders]
    return tar(members + [(name, text.encode()) for name,text in files.items()])

def make_tweeteval(labels):
    "A text per line and a label per line; escapes, tabs, quotes and U+2028 in texts; no newline after the last label"
    files = {}
    for stem,n in ('train', 4*labels), ('val', labels), ('test', 2*labels):
        texts = [f'{stem} {i} \\u2019s "quoted\tand\u2028broken" @user\n' for i in range(n)]
        files[f'{stem}_text.txt'] = ''.join(texts).encode()
        files[f'{stem}_labels.txt'] = '\n'.join(str(i % labels) for i in range(n)).encode()
    return files

def make_celebrity():
    "IDs that a spreadsheet rounded, and texts of two lines"
    def row(i): return [1091806418569695200 + 100*i, ['hadleywickham', 'KimKardashian'][i % 2], '2019-02-02T21:11:49Z',
        f'tweet {i},\n"two lines" 💛']
    header = ['id', 'name', 'created', 'text']
    return {'train_tweets.csv': csv_bytes(header, [row(i) for i in range(20)]),
        'test_tweets.csv': csv_bytes(header, [row(i) for i in range(100, 108)])}

def make_tunizi():
    "`label;text`: a label with a percent sign, a quote that does not close, a no-break space, no last newline"
    lines = [f'{1 - 2*(i % 2)};ya ser 3lik {i} ba7i' for i in range(20)]
    lines[4],lines[9] = '%1;behi\u00a0barcha','"-1;khayeb barcha'
    return {'TUNIZI-Dataset.txt': '\n'.join(lines).encode()}

def parquet(df):
    out = io.BytesIO()
    df.to_parquet(out, index=False)
    return out.getvalue()

def make_emotion():
    def table(split, n):
        rows = [(f'i feel {split} {i}', i % 6) for i in range(n)]
        return parquet(pd.DataFrame(rows, columns=['text', 'label']))
    return {f'{o}-00000-of-00001.parquet': table(o, n) for o,n in (('train', 24), ('validation', 6), ('test', 12))}

def make_tweettopic():
    "JSON lines in files that end in .json, with the label as number and as name"
    names = [*DATASETS['tweettopic'].labels.values()]
    def line(stem, i):
        return json.dumps(dict(text=f'{stem} {i} {{{{USERNAME}}}} \u2019s game', date='2019-09-08', label=i % 6,
            id=str(1170606779568463874 + i), label_name=names[i % 6]))
    stems = ('train_2020', 12), ('train_2021', 6), ('validation_2021', 6), ('test_2021', 6)
    return {f'{stem}.single.json': '\n'.join(line(stem, i) for i in range(n)).encode() for stem,n in stems}

AIRLINE = ('tweet_id,airline_sentiment,airline_sentiment_confidence,negativereason,negativereason_confidence,airline,'
    'airline_sentiment_gold,name,negativereason_gold,retweet_count,text,tweet_coord,tweet_created,tweet_location,'
    'user_timezone')
def make_airline():
    "Most fields are empty, and texts go over several lines"
    def row(i):
        text = f'@VirginAmerica What @dhepburn said {i}.\nSecond line, "quoted"'
        return [570306133677760513 + i, ['neutral', 'positive', 'negative'][i % 3], 1.0, '', '', 'Virgin America', '',
            f'me{i}', '', 0, text, '', '2015-02-24 11:35:52 -0800', '', 'Eastern Time (US & Canada)']
    return {'Tweets.csv': csv_bytes(AIRLINE.split(','), [row(i) for i in range(30)])}

def make_hate():
    "The first column has no name"
    header = ['', 'count', 'hate_speech', 'offensive_language', 'neither', 'class', 'tweet']
    rows = [[i, 3, 0, 3 - i % 3, i % 3, i % 3, f'!!! RT @me{i}: what, "now" &amp; then {i}'] for i in range(30)]
    return {'labeled_data.csv': csv_bytes(header, rows)}

def make_disaster():
    header = ['id', 'keyword', 'location', 'text', 'target']
    rows = [[i, 'ablaze' if i % 2 else '', '', f'Forest fire near La Ronge {i}', i % 2] for i in range(30)]
    return {'train.csv': csv_bytes(header, rows), 'test.csv': csv_bytes(header[:4], [row[:4] for row in rows[:5]]),
        'sample_submission.csv': b'id,target\n0,0\n'}

def make_arabizi():
    train = [[f'3aslema {i} ya khouya', i % 3 - 1] for i in range(30)]
    test = [[f'{i:07}', f'9ahwa {i}'] for i in range(5)]
    return {'Train.csv': csv_bytes(['text', 'label'], train), 'Test.csv': csv_bytes(['ID', 'text'], test),
        'SampleSubmission.csv': b'ID,label\n0000000,0\n'}

def make_emoji():
    "One word a line, tagged with the emoji that follows it; tweets with other emoji, with none, and without words"
    tags = [*datasets.five_emoji, 'red_heart']
    def tweet(i): return f'<START> O\ntweet O\n{i} :{tags[i % 6]}:\n🔥 O\nrest O\n<STOP> O\n\n'
    odd = '<START> O\nplain O\n<STOP> O\n\n<START> O\n<STOP> O\n\n'
    spans = dict(train=(0, 60), dev=(60, 72), test=(72, 84))
    return {f'{split}.txt': (odd + ''.join(map(tweet, range(*span)))).encode() for split,span in spans.items()}

TWEETEVAL = {name: len(entry.labels) for name,entry in DATASETS.items() if name.startswith('tweeteval/')}
ARCHIVES = {'sentiment140': make_sentiment140, 'imdb': make_imdb}
FILES = {'celebrity': make_celebrity, 'tunizi': make_tunizi, 'emotion': make_emotion, 'tweettopic': make_tweettopic,
    'airline': make_airline, 'hate-offensive': make_hate}
FILES |= {name: (lambda n=n: make_tweeteval(n)) for name,n in TWEETEVAL.items()}
BY_HAND = {'emoji': make_emoji, 'arabizi': make_arabizi, 'disaster': make_disaster}

VALENCE = {'negative', 'neutral', 'positive'}
EXPECTED = { # rows of train, valid and test, and the labels of the first two
    'sentiment140': ((36, 4, 4), VALENCE - {'neutral'}), 'imdb': ((22, 2, 24), VALENCE - {'neutral'}),
    'celebrity': ((18, 2, 8), {'KimKardashian', 'hadleywickham'}), 'tunizi': ((18, 2, 0), VALENCE - {'neutral'}),
    'emotion': ((24, 6, 12), {'anger', 'fear', 'joy', 'love', 'sadness', 'surprise'}),
    'tweettopic': ((18, 6, 6), set(DATASETS['tweettopic'].labels.values())), 'airline': ((27, 3, 0), VALENCE),
    'hate-offensive': ((27, 3, 0), {'hate-speech', 'neither', 'offensive'}),
    'emoji': ((50, 10, 10), set(datasets.five_emoji)),
    'arabizi': ((27, 3, 0), VALENCE), 'disaster': ((27, 3, 0), {'disaster', 'not-disaster'})}
EXPECTED |= {name: ((4*n, n, 2*n), set(DATASETS[name].labels.values())) for name,n in TWEETEVAL.items()}

def check(name, df):
    "Is this the table that the small data set should give?"
    rows,labels = EXPECTED[name]
    assert [int((df['split'] == o).sum()) for o in ('train', 'valid', 'test')] == list(rows)
    assert set(df.loc[df['split'] != 'test', 'label']) == labels
    assert list(df.columns[:2]) == ['text', 'label'] and df['text'].str.len().min() > 3
    assert df.attrs['licence'] == DATASETS[name].licence and df.attrs['citation'] and df.attrs['dataset'] == name
    return df

def digest(files): return sum(map(len, files)), hashlib.sha256(b''.join(files)).hexdigest()

def serve(server, monkeypatch, name, checked=True):
    "Put the small data set behind the paths of its real addresses, on this machine; return its files or its archive"
    made = (ARCHIVES | FILES)[name]()
    entry = DATASETS[name]
    urls = tuple(server.host + urlsplit(url).path for url in entry.urls)
    content = [made[o] for o in entry.names] if entry.names else [made]
    size,sha256 = digest(content)
    path = urlsplit(urls[0]).path
    server.files |= {path + o: made[o] for o in entry.names} if entry.names else {path: made}
    entry = replace(entry, urls=urls, size=size if checked else None, sha256=sha256 if checked else None)
    monkeypatch.setitem(DATASETS, name, entry)
    return made

def silence(monkeypatch, name):
    "Let the addresses of a data set answer no more"
    entry = DATASETS[name]
    urls = tuple('http://127.0.0.1:9' + urlsplit(o).path for o in entry.urls)
    monkeypatch.setitem(DATASETS, name, replace(entry, urls=urls))

def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name,content in files.items(): (folder/name).write_bytes(content)


@pytest.mark.parametrize('name', [*ARCHIVES, *FILES])
def test_from_the_net_once(server, monkeypatch, tmp_path, name, capsys):
    "Downloaded, checked, unpacked and read; a second time from the cache, without a network"
    serve(server, monkeypatch, name)
    df = check(name, load_dataset(name))
    assert len(server.asked) == len(DATASETS[name].names or [1])
    out,err = capsys.readouterr()
    assert out == '' and DATASETS[name].licence in err and DATASETS[name].citation in err
    silence(monkeypatch, name)
    pd.testing.assert_frame_equal(df, load_dataset(name))
    assert DATASETS[name].licence not in ''.join(capsys.readouterr())

@pytest.mark.parametrize('name', [*ARCHIVES, *FILES])
def test_offline_the_message_is_an_instruction(server, monkeypatch, tmp_path, name):
    made = serve(server, monkeypatch, name)
    silence(monkeypatch, name)
    with pytest.raises(TweetnbError, match='is not on this machine .*no connection') as e: load_dataset(name)
    before = ' in ' if DATASETS[name].names else ' at '
    where = Path(str(e.value).rsplit(before, 1)[1].rstrip('.'))
    assert DATASETS[name].urls[0] in str(e.value) and where.is_relative_to(tmp_path/'data')
    if isinstance(made, dict): put(where, made)
    else: put(where.parent, {where.name: made})
    check(name, load_dataset(name))

def test_who_asks_for_it_gets_a_stand_in_and_is_told(server, monkeypatch, tmp_path):
    "Not where another thing than the network is at fault, and not in place of a folder that was named"
    serve(server, monkeypatch, 'imdb')
    silence(monkeypatch, 'imdb')
    with pytest.warns(UserWarning, match='Invented tweets stand in for .imdb.: .*no connection'):
        df = load_dataset('imdb', sample=True, unlabelled=True)
    assert set(df['split']) == {'train', 'valid', 'unlabelled'}
    pd.testing.assert_frame_equal(df, load_sample('imdb', unlabelled=True))
    with pytest.raises(TweetnbError, match='is not there'): load_dataset('imdb', tmp_path/'mine', sample=True)
    put(tmp_path/'data'/'imdb', {'aclImdb_v1.tar.gz': b'changed'})
    with pytest.raises(TweetnbError, match='this archive has 7 bytes'): load_dataset('imdb', sample=True)

def test_offline_by_declaration_nobody_is_asked(server, monkeypatch):
    serve(server, monkeypatch, 'celebrity')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    said = 'HF_HUB_OFFLINE is set.*Download train_tweets.csv'
    with pytest.raises(DownloadError, match=said): load_dataset('celebrity')
    assert server.asked == []
    monkeypatch.setenv('HF_HUB_OFFLINE', '0')
    check('celebrity', load_dataset('celebrity'))

@pytest.mark.parametrize('name', BY_HAND)
def test_what_needs_an_account(server, monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, 'kagglehub', None)
    with pytest.raises(TweetnbError, match='account') as e: load_dataset(name)
    where = Path(str(e.value).rsplit(' in ', 1)[1].rstrip('.'))
    needed = [file for split,file in DATASETS[name].layouts[0].items() if split != 'unlabelled']
    assert DATASETS[name].home in str(e.value) and all(file in str(e.value) for file in needed)
    put(where, BY_HAND[name]())
    df = check(name, load_dataset(name))
    for folder in where, where.parent: pd.testing.assert_frame_equal(df, load_dataset(name, folder=folder))

@pytest.mark.parametrize('name', ['emoji', 'disaster', 'airline'])
@pytest.mark.parametrize('place', ['{slug}', '{kind}/{handle}', 'kagglehub', 'zip'])
def test_on_kaggle_and_with_kagglehub(server, monkeypatch, tmp_path, name, place):
    files = (BY_HAND | FILES)[name]()
    handle = DATASETS[name].kaggle
    kind = 'datasets' if '/' in handle else 'competitions'
    slug = handle.split('/')[-1]
    if place == 'zip': put(tmp_path/'data', {f'{slug}.zip': zipped(files.items())})
    elif place != 'kagglehub': put(tmp_path/'kaggle'/place.format(slug=slug, kind=kind, handle=handle), files)
    elif name == 'airline': pytest.skip('has an address without an account')
    else:
        put(tmp_path/'versions'/'1', files)
        def get(wanted): assert wanted == handle; return str(tmp_path/'versions'/'1')
        verb = 'dataset_download' if '/' in handle else 'competition_download'
        monkeypatch.setitem(sys.modules, 'kagglehub', types.SimpleNamespace(**{verb: get}))
    check(name, load_dataset(name))

def test_kagglehub_may_fail(server, monkeypatch):
    def get(handle): raise OSError('401 Unauthorized')
    monkeypatch.setitem(sys.modules, 'kagglehub', types.SimpleNamespace(dataset_download=get))
    said = 'kagglehub failed: 401 Unauthorized.*Download train.txt, dev.txt'
    with pytest.raises(TweetnbError, match=said): load_dataset('emoji')

def snapshot(tmp_path, repo, files):
    folder = tmp_path/'hub'/f"datasets--{repo.replace('/', '--')}"/'snapshots'/'abc'
    for name,content in files.items(): put((folder/name).parent, {Path(name).name: content})

def hub_table(split, n):
    df = pd.DataFrame({'text': [f'{split} {i} is here' for i in range(n)], 'label': [i % 2 for i in range(n)]})
    return parquet(df)

def test_in_the_cache_of_the_hub(server, tmp_path, capsys):
    "What `datasets.load_dataset` left there: Parquet with numbers for labels"
    splits = 'train', 'test', 'unsupervised'
    snapshot(tmp_path, 'stanfordnlp/imdb', {f'plain_text/{o}-00000-of-00001.parquet': hub_table(o, 20) for o in splits})
    df = load_dataset('imdb', unlabelled=True)
    assert df.attrs['rows'] == {'train': 20, 'test': 20, 'unlabelled': 20}
    assert 'imdb: 20 train, 20 test, 20 unlabelled; 2 of them to validate on' in capsys.readouterr().err
    assert df['label'].cat.categories.tolist() == ['negative', 'positive']
    files = {f'stance_climate/{o}-00000-of-00001.parquet': hub_table(o, 8) for o in ('train', 'validation', 'test')}
    snapshot(tmp_path, 'cardiffnlp/tweet_eval', files)
    df = load_dataset('tweeteval/stance/climate')
    assert df['split'].value_counts().to_dict() == {'train': 8, 'valid': 8, 'test': 8}
    assert set(df['label']) == {'none', 'against'}
    snapshot(tmp_path, 'dair-ai/emotion', {f'split/{name}': content for name,content in make_emotion().items()})
    check('emotion', load_dataset('emotion'))
    assert not server.asked

def test_the_order_of_places(server, monkeypatch, tmp_path):
    "A given folder, TWEETNB_DATA, Kaggle, the hub's cache, the net; a given folder is the only one"
    def files(text): return {'Tweets.csv': make_airline()['Tweets.csv'].replace(b'What', text)}
    serve(server, monkeypatch, 'airline')
    def origin(**kw): return load_dataset('airline', **kw)['text'][0].split()[1]
    assert origin() == 'What'
    snapshot(tmp_path, 'osanseviero/twitter-airline-sentiment', files(b'Hub'))
    assert origin() == 'Hub'
    put(tmp_path/'kaggle'/'twitter-airline-sentiment', files(b'Kaggle'))
    assert origin() == 'Kaggle'
    put(tmp_path/'data'/'airline', files(b'Data'))
    assert origin() == 'Data'
    put(tmp_path/'given', files(b'Given'))
    assert origin(folder=tmp_path/'given') == 'Given'
    (tmp_path/'empty').mkdir()
    said = 'empty: the data set .airline. is not there. Download Tweets.csv from .* in .*/empty'
    with pytest.raises(TweetnbError, match=said): load_dataset('airline', folder=tmp_path/'empty')

@pytest.mark.parametrize('name', ARCHIVES)
def test_an_archive_or_its_folder(server, monkeypatch, tmp_path, name):
    made = serve(server, monkeypatch, name)
    df = check(name, load_dataset(name))
    archive = urlsplit(DATASETS[name].urls[0]).path.split('/')[-1]
    put(tmp_path/'mine', {archive: made})
    unpacked = unpack(tmp_path/'mine'/archive, tmp_path/'unpacked'/'here')
    places = [tmp_path/'mine', tmp_path/'mine'/archive, unpacked, fetch(name)]
    if name == 'imdb': places += [unpacked/'aclImdb']
    for place in places: pd.testing.assert_frame_equal(df, load_dataset(name, folder=place))

def test_a_file_may_be_gzipped(server, tmp_path):
    import gzip
    put(tmp_path/'given', {f'{name}.gz': gzip.compress(content) for name,content in make_emoji().items()})
    check('emoji', load_dataset('emoji', folder=tmp_path/'given'))

@pytest.mark.parametrize('name', ['imdb', 'celebrity', 'tweeteval/irony'])
def test_a_broken_connection_resumes(server, monkeypatch, name):
    serve(server, monkeypatch, name)
    server.faults = [100, 503, 100]
    check(name, load_dataset(name))
    assert [r for r,_ in server.asked[:4]] == [None, 'bytes=100-', 'bytes=100-', 'bytes=200-']

@pytest.mark.parametrize('name', ['imdb', 'sentiment140', 'celebrity', 'tunizi'])
def test_another_file_than_expected_is_refused_and_a_mirror_helps(server, monkeypatch, tmp_path, name):
    serve(server, monkeypatch, name)
    good = dict(server.files)
    server.files = {path: content[:-1] + b'?' for path,content in good.items()}
    with pytest.raises(TweetnbError, match='different SHA-256'): load_dataset(name)
    assert not [p for p in (tmp_path/'cache').rglob('*') if p.is_file() and p.parent.name != 'locks']
    server.files |= {'/mirror' + path: content for path,content in good.items()}
    entry = DATASETS[name]
    path = urlsplit(entry.urls[0]).path
    urls = ('http://127.0.0.1:9' + path, server.host + '/gone' + path, entry.urls[0], server.host + '/mirror' + path)
    monkeypatch.setitem(DATASETS, name, replace(entry, urls=urls))
    check(name, load_dataset(name))

@pytest.mark.parametrize('name', ['imdb', 'celebrity'])
def test_a_changed_file_in_the_cache_is_noticed(server, monkeypatch, tmp_path, name):
    serve(server, monkeypatch, name)
    df = load_dataset(name)
    asked = len(server.asked)
    for pattern in 'downloads/*', 'data/celebrity/*':
        for path in (tmp_path/'cache').glob(pattern): path.write_bytes(b'changed')
    pd.testing.assert_frame_equal(df, load_dataset(name))
    assert len(server.asked) > asked
    put(tmp_path/'data'/name, {'aclImdb_v1.tar.gz': b'changed'})
    if name == 'imdb':
        with pytest.raises(TweetnbError, match='this archive has 7 bytes'): load_dataset(name)

@pytest.mark.parametrize('archive',
    [tar([('aclImdb/../../../evil', b'x')]), tar([('aclImdb/train/pos/0_9.txt', ZEROS)])], ids=['slip', 'bomb'])
def test_a_malicious_archive_from_the_net(server, monkeypatch, tmp_path, archive):
    serve(server, monkeypatch, 'imdb')
    size,sha256 = digest([archive])
    server.files = {urlsplit(DATASETS['imdb'].urls[0]).path: archive}
    monkeypatch.setitem(DATASETS, 'imdb', replace(DATASETS['imdb'], size=size, sha256=sha256))
    with pytest.raises(TweetnbError, match='cannot be unpacked'): load_dataset('imdb')
    assert left(tmp_path/'cache'/'data') == [] and not list(tmp_path.rglob('evil'))

AT_ONCE = '''
import sys
from dataclasses import replace
from tweetnb.data.datasets import DATASETS, load_dataset
name,urls,size,sha256 = sys.argv[1], sys.argv[2].split(), int(sys.argv[3]), sys.argv[4]
DATASETS[name] = replace(DATASETS[name], urls=tuple(urls), size=size, sha256=sha256)
print(len(load_dataset(name)))
'''
@pytest.mark.parametrize('name', ['imdb', 'celebrity'])
def test_two_processes_at_once_download_and_unpack_once(server, monkeypatch, name):
    serve(server, monkeypatch, name)
    entry = DATASETS[name]
    args = [sys.executable, '-c', AT_ONCE, name, ' '.join(entry.urls), str(entry.size), entry.sha256]
    both = [subprocess.Popen(args, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [int(p.communicate(timeout=120)[0]) for p in both] == [sum(EXPECTED[name][0])]*2
    assert len(server.asked) == len(entry.names or [1])

# ---- from the public files to a folder of results, with the command that a person types ----

MIRROR = '''
import json, os
from dataclasses import replace
from pathlib import Path
import tweetnb.data.datasets as datasets
datasets.KAGGLE_INPUT = Path(os.environ['TEST_KAGGLE'])
for name,fields in json.loads(os.environ['TEST_ENTRIES']).items():
    datasets.DATASETS[name] = replace(datasets.DATASETS[name], **fields)
'''
KAGGLEHUB = '''
import io, os, urllib.request, zipfile
def dataset_download(handle):
    with urllib.request.urlopen(f"{os.environ['TEST_HOST']}/api/v1/datasets/download/{handle}") as f: content = f.read()
    zipfile.ZipFile(io.BytesIO(content)).extractall('versions/1')
    return os.path.abspath('versions/1')
'''
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))"

@pytest.fixture
def command(server, tmp_path):
    "Start the installed command `tweetnb` with the entries as they are now; their addresses are on this machine"
    def start(*args, extra=''):
        site = tmp_path/f'site{len(extra)}'
        put(site, {'sitecustomize.py': (MIRROR + extra).encode(), 'kagglehub.py': KAGGLEHUB.encode()})
        served = {name: DATASETS[name] for name in (*ARCHIVES, 'celebrity')}
        entries = {name: dict(urls=o.urls, size=o.size, sha256=o.sha256) for name,o in served.items()}
        paths = [str(site), str(Path(datasets.__file__).parents[2]), os.environ.get('PYTHONPATH', '')]
        env = os.environ | dict(PYTHONPATH=os.pathsep.join(filter(None, paths)), OMP_NUM_THREADS='1', COLUMNS='300',
            TEST_ENTRIES=json.dumps(entries), TEST_KAGGLE=str(tmp_path/'kaggle'), TEST_HOST=server.host)
        script = Path(sys.executable).parent/('tweetnb.exe' if os.name == 'nt' else 'tweetnb')
        return subprocess.Popen([script, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            encoding='utf-8', env=env, cwd=tmp_path)
    return start

def end(process, ok=True):
    "Return what the command said: on its output, or as its error"
    out,err = process.communicate(timeout=600)
    assert process.returncode == (0 if ok else 1), out + err
    assert 'Traceback' not in err
    return out if ok else err

SMALL = '--set', 'epochs=1', '--set', 'bs=8', '--set', 'vocab=300'

def check_results(folder, name):
    "Is everything there, of the tweets that the small data set has?"
    files = {'recipe.toml', 'scores.json', 'audit.md', 'predictions.csv', 'history.csv', 'history.png', 'confusion.png'}
    assert {o.name for o in folder.iterdir()} >= files | {'bundle'}
    rows = dict(zip(('train', 'valid', 'test'), EXPECTED[name][0]))
    tweets = json.loads((folder/'scores.json').read_text())['tweets']
    assert {k: tweets.get(k, 0) for k in rows} == rows
    assert set(json.loads((folder/'bundle'/'bundle.json').read_text())['labels']) == EXPECTED[name][1]
    assert len(pd.read_csv(folder/'predictions.csv')) == (rows['test'] or rows['valid'])

@pytest.mark.parametrize('name', ['emoji', 'arabizi', 'celebrity', 'sentiment140', 'imdb'])
def test_a_recipe_from_the_public_files_to_the_results(server, command, monkeypatch, tmp_path, name):
    "Over a line that breaks off; Zindi's files come from a folder, emojifydata through kagglehub"
    given = []
    if name in BY_HAND: files = BY_HAND[name]()
    if name == 'arabizi':
        put(tmp_path/'mine', files)
        given = ['--data', tmp_path/'mine']
    elif name == 'emoji': server.files['/api/v1/datasets/download/rexhaif/emojifydata-en'] = zipped(files.items())
    else:
        serve(server, monkeypatch, name)
        server.faults = [100, 503, 100]
    end(command('recipe', name, *given, *SMALL, '--out', 'results'))
    check_results(tmp_path/'results', name)
    asked = [o for o,_ in server.asked]
    if name in BY_HAND: assert asked == [None]*(name == 'emoji')
    else: assert asked[:4] == [None, 'bytes=100-', 'bytes=100-', 'bytes=200-']

def test_two_recipes_at_once_share_a_download(server, command, monkeypatch, tmp_path):
    serve(server, monkeypatch, 'imdb')
    both = [command('recipe', 'imdb', *SMALL, '--out', o) for o in ('a', 'b')]
    for process in both: end(process)
    for o in 'ab': check_results(tmp_path/o, 'imdb')
    assert (tmp_path/'a'/'predictions.csv').read_bytes() == (tmp_path/'b'/'predictions.csv').read_bytes()
    assert len(server.asked) == 1

@pytest.mark.parametrize('fault, said', [
    ('another file', ['the downloaded file has a different SHA-256', 'aclImdb_v1.tar.gz and put it at']),
    ('a full disk', ['cannot be written', 'Is the disk full']),
    ('a path that leads out', ["'aclImdb/../../../evil' leads out of the archive", 'Delete it and download it again']),
    ('a bomb', ['unpacks to far more than its size', 'Delete it and download it again']),
    ('no network', ['no connection', 'aclImdb_v1.tar.gz and put it at'])])
def test_a_recipe_that_cannot_have_its_data_says_why_on_one_line(server, command, monkeypatch, tmp_path, fault, said):
    "Nothing is trained, least of all on something else, and nothing bad stays"
    serve(server, monkeypatch, 'imdb')
    path = urlsplit(DATASETS['imdb'].urls[0]).path
    bad = {'a path that leads out': ('aclImdb/../../../evil', b'x'), 'a bomb': ('aclImdb/train/pos/0_9.txt', ZEROS)}
    if fault == 'another file': server.files[path] = server.files[path][:-1] + b'?'
    if fault == 'no network': silence(monkeypatch, 'imdb')
    if fault in bad:
        server.files[path] = tar([bad[fault]])
        size,sha256 = digest([server.files[path]])
        monkeypatch.setitem(DATASETS, 'imdb', replace(DATASETS['imdb'], size=size, sha256=sha256))
    extra = FULL_DISK if fault == 'a full disk' else ''
    line = end(command('recipe', 'imdb', '--out', 'results', extra=extra), ok=False).strip().splitlines()[-1]
    assert line.startswith('Error: ') and all(o in line for o in said)
    assert not (tmp_path/'results').exists() and not list(tmp_path.rglob('evil'))
    assert not list((tmp_path/'cache'/'data').glob('*'))

def test_rows_without_labels(server, monkeypatch, tmp_path):
    serve(server, monkeypatch, 'imdb')
    df = load_dataset('imdb', unlabelled=True, limit=10)
    assert df.attrs['rows'] == {'train': 24, 'test': 24, 'unlabelled': 24}
    assert df['split'].value_counts().to_dict() == {'unlabelled': 24, 'test': 24, 'train': 10, 'valid': 2}
    assert df.loc[df['split'] == 'unlabelled', 'label'].isna().all()
    assert df['label'].cat.categories.tolist() == ['negative', 'positive']
    put(tmp_path/'given', make_arabizi())
    df = load_dataset('arabizi', folder=tmp_path/'given', unlabelled=True)
    assert df.loc[df['split'] == 'unlabelled', 'ID'].tolist() == [f'{i:07}' for i in range(5)]
    put(tmp_path/'tunizi', make_tunizi())
    with pytest.raises(TweetnbError, match='no unlabelled rows'):
        load_dataset('tunizi', folder=tmp_path/'tunizi', unlabelled=True)
    (tmp_path/'given'/'Test.csv').unlink()
    check('arabizi', load_dataset('arabizi', folder=tmp_path/'given'))

def test_damage_and_oddities_survive(server, monkeypatch, tmp_path):
    serve(server, monkeypatch, 'sentiment140')
    texts = load_dataset('sentiment140')['text']
    assert {'caf\xe9 na\xefve \x96 gone', 'lost a letter ï¿½ today &quot;really&quot; '} <= set(texts)
    serve(server, monkeypatch, 'tunizi')
    df = load_dataset('tunizi')
    assert {'behi\u00a0barcha', 'khayeb barcha'} <= set(df['text'])
    assert df['label'].value_counts().to_dict() == {'positive': 10, 'negative': 10}
    serve(server, monkeypatch, 'tweeteval/hate')
    assert all('\\u2019' in o and '\t' in o and '\u2028' in o for o in load_dataset('tweeteval/hate')['text'])

def test_leaks_are_left_out_and_limits_are_kept(server, tmp_path):
    train = [(f'tweet {i} of mine', 'ab'[i % 2]) for i in range(100)]
    test = [(f'Tweet {i} of mine!', 'a') for i in range(5)]
    header = ['text', 'name']
    put(tmp_path/'given', {'train_tweets.csv': csv_bytes(header, train), 'test_tweets.csv': csv_bytes(header, test)})
    df = load_dataset('celebrity', folder=tmp_path/'given', valid_pct=.2)
    assert df.attrs['drop_leaks']['train'] + df.attrs['drop_leaks']['valid'] == 5 and (df['split'] == 'test').sum() == 5
    few = [load_dataset('celebrity', folder=tmp_path/'given', limit=30, seed=seed) for seed in (1, 1, 2)]
    assert [(o['split'] == 'train').sum() for o in few] == [30]*3 and (few[0]['split'] == 'test').sum() == 5
    pd.testing.assert_frame_equal(few[0], few[1])
    assert not few[0].equals(few[2])

def test_an_entry_takes_ten_lines_at_most():
    import ast
    tree = ast.parse(Path(datasets.__file__).read_text(encoding='utf-8'))
    calls = [o for o in ast.walk(tree) if isinstance(o, ast.Call) and isinstance(o.func, ast.Name)]
    entries = [o for o in calls if o.func.id in ('Dataset', '_tweeteval', '_stance')]
    lengths = {ast.unparse(o.args[0]): o.end_lineno - o.lineno + 1 for o in entries}
    assert len(entries) >= 23 and max(lengths.values()) <= 10, lengths

def test_entries_read_well_and_are_complete():
    for name,entry in DATASETS.items():
        assert entry.name == name
        assert all(o in repr(entry) for o in (name, entry.licence, entry.citation, entry.home))
        assert bool(entry.sha256) != bool(entry.unchecked)
        assert not entry.sha256 or len(entry.sha256) == 64 and entry.size
        assert set(entry.layouts[0]) <= {'train', 'valid', 'test', 'all', 'unlabelled'}
        assert not entry.names or all(o.endswith('/') for o in entry.urls)
        assert load_sample(name)['label'].nunique() > 1
    with pytest.raises(TweetnbError, match="unknown data set 'sentiment410'. Did you mean 'sentiment140'"):
        load_dataset('sentiment410')


# ---- the real files, where they are ----

REAL = { # rows that were read, and rows of train, valid and test
    'emoji': (110_922, (85_372, 10_780, 10_969)), 'arabizi': (70_000, (63_000, 7_000, 0)),
    'celebrity': (9_000, (6_427, 720, 1_800)), 'sentiment140': (100_498, (90_000, 10_000, 498)),
    'imdb': (50_000, (22_377, 2_500, 25_000)), 'tunizi': (3_000, (2_700, 300, 0)),
    'tweeteval/emoji': (100_000, (44_467, 4_970, 50_000)), 'tweeteval/sentiment': (59_899, (45_597, 2_000, 12_284))}

def needs(name):
    "The files of a data set in TWEETNB_DATA; without them the test is skipped"
    found = datasets._look_in(DATASETS[name], data_path(), itself=False)
    return found or pytest.skip(f'needs the data set {name} in TWEETNB_DATA')

@pytest.mark.parametrize('name', REAL)
def test_the_real_data(name):
    needs(name)
    read,rows = REAL[name]
    df = load_dataset(name)
    assert sum(df.attrs['rows'].values()) == read
    assert [int((df['split'] == o).sum()) for o in ('train', 'valid', 'test')] == list(rows)
    labels = DATASETS[name].labels
    assert not labels or set(df['label']) <= set(labels.values())

@pytest.mark.parametrize('name', ['celebrity', 'tunizi', 'tweeteval/emoji'])
def test_the_checksums_are_those_of_the_real_files(name):
    entry,folder = DATASETS[name],needs(name).folder
    assert datasets._fault([folder/o for o in entry.names], entry.size, entry.sha256) is None

def test_the_head_of_the_real_sentiment140(tmp_path):
    head = data_path('sentiment140', 'training.1600000.processed.noemoticon.head20k.csv')
    if not head.exists(): pytest.skip('needs the head of Sentiment140 in TWEETNB_DATA')
    (tmp_path/'training.1600000.processed.noemoticon.csv').symlink_to(head.absolute())
    test = 'testdata.manual.2009.06.14.csv'
    (tmp_path/test).symlink_to(data_path('sentiment140', test).absolute())
    df = load_dataset('sentiment140', folder=tmp_path)
    assert df.attrs['rows'] == {'train': 20_000, 'test': 498}
    labels = df[df['split'] == 'test']['label'].value_counts().to_dict()
    assert labels == {'positive': 182, 'negative': 177, 'neutral': 139}

def test_the_real_test_rows_of_arabizi_keep_their_order():
    file = needs('arabizi').folder/'Test.csv'
    df = load_dataset('arabizi', unlabelled=True)
    ids = [line.split(',')[0] for line in file.read_text('utf-8').split('\n')[1:4]]
    assert df[df['split'] == 'unlabelled']['ID'].tolist()[:3] == ids
    assert df.attrs['rows'] == {'all': 70_000, 'unlabelled': 30_000}


# ---- conversion ----

@pytest.mark.parametrize('name', ['emojify/dev.txt.gz', 'tweeteval/emoji', 'imdb/aclImdb_50k.csv.gz',
    'authors/raw_tweets.csv', 'arabizi/Train.csv', 'arabizi/Test.csv', 'arabizi/TUNIZI-Dataset.txt',
    'sentiment140/training.1600000.processed.noemoticon.head20k.csv'])
def test_shards_say_what_the_file_says(name, tmp_path):
    path = data_path(*name.split('/'))
    if not path.exists(): pytest.skip(f'needs TWEETNB_DATA/{name}')
    manifest = convert(path, tmp_path/'shards', rows_per_shard=7_000)
    df,back = read_tweets(path),read_tweets(tmp_path/'shards')
    pd.testing.assert_frame_equal(df, back)
    assert manifest['report']['rejected'] == df.attrs['read']['rejected']
    rows = [shard['rows'] for shard in manifest['shards']]
    assert max(rows) <= 7_000 and sum(rows) == manifest['rows'] == len(df)
    assert manifest == json.loads((tmp_path/'shards'/'manifest.json').read_text('utf-8'))

def test_classes_keep_their_order_over_shards(tmp_path):
    "A class that is missing in the first shard does not lose its place in the mapping"
    df = pd.DataFrame({'text': [f't{i} x' for i in range(6)], 'label': ['2', '0', '2', '0', '1', '2']})
    convert(df, tmp_path/'s', rows_per_shard=2, label_names={'2': 'joy', '1': 'fear', '0': 'anger'})
    back = read_tweets(tmp_path/'s')
    assert back['label'].tolist() == ['joy', 'anger', 'joy', 'anger', 'fear', 'joy']
    assert back['label'].cat.categories.tolist() == ['joy', 'fear', 'anger']

def test_a_killed_conversion_leaves_nothing_that_can_be_read(tmp_path):
    (tmp_path/'big.csv').write_text('text,label\n' + 'good morning,1\nmy laptop died,0\n'*400_000)
    code = 'import sys; from tweetnb.data.datasets import convert; convert(*sys.argv[1:], rows_per_shard=1_000)'
    p = subprocess.Popen([sys.executable, '-c', code, tmp_path/'big.csv', tmp_path/'out'])
    while not list(tmp_path.glob('.out*/*.parquet')): time.sleep(0.02); assert p.poll() is None
    p.send_signal(signal.SIGKILL); p.wait()
    assert not (tmp_path/'out').exists()
    assert convert(tmp_path/'big.csv', tmp_path/'out')['rows'] == 800_000

@pytest.mark.parametrize('damage', ['[]', '{', '{"shards": [{"name": "00000.parquet"}], "labels": []}',
    '{"shards": 3, "labels": []}', '{"shards": [{"name": "x", "bytes": 1}], "labels": []}'])
def test_a_damaged_manifest(tmp_path, damage):
    convert(pd.DataFrame({'text': ['good', 'bad']}), tmp_path/'s')
    (tmp_path/'s'/'manifest.json').write_text(damage)
    with pytest.raises(TweetnbError, match='not a manifest|missing'): read_tweets(tmp_path/'s')
