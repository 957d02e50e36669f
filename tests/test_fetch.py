"""Downloads over bad lines from a server on this machine, conversions of the real files, two processes at once, and kills."""
import hashlib, http.server, json, os, signal, subprocess, sys, threading, time
from pathlib import Path

import pandas as pd
import pytest

from tweetnb.core import TweetnbError, data_path
from tweetnb.data.datasets import DATASETS, convert, download, fetch, unpack
from tweetnb.data.read import read_tweets

CONTENT = '\n'.join(f'tweet {i} 🎉' for i in range(20_000)).encode()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        s = self.server
        s.asked.append((self.headers.get('Range'), self.headers.get('If-Range')))
        fault = s.faults.pop(0) if s.faults else None
        if isinstance(fault, int) and 400 <= fault < 600: return self.send_error(fault)
        if fault == 'redirect':
            self.send_response(302); self.send_header('Location', '/other'); self.send_header('Content-Length', '0'); return self.end_headers()
        start = int(self.headers['Range'][6:-1]) if self.headers.get('Range') and s.resumes and self.headers.get('If-Range') in (None, s.tag) else 0
        if start >= len(s.content): return self.send_error(416)
        body = s.content[start:]
        self.send_response(206 if start else 200)
        if start: self.send_header('Content-Range', f'bytes {start}-{len(s.content) - 1}/{len(s.content)}')
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
                for i in range(0, len(cut), 5_000): self.wfile.write(b'%x\r\n%s\r\n' % (len(cut[i:i+5_000]), cut[i:i+5_000]))
                if len(cut) == len(body): self.wfile.write(b'0\r\n\r\n')
        except (BrokenPipeError, ConnectionResetError): pass
        if s.slow: time.sleep(s.slow)
        self.close_connection = True
    def log_message(self, *args): pass

@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv('TWEETNB_CACHE', str(tmp_path/'cache'))
    sleep = time.sleep
    monkeypatch.setattr('tweetnb.data.datasets.time', type('time', (), {'sleep': lambda seconds: sleep(seconds/20)}))
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    s.content,s.tag,s.resumes,s.chunked,s.faults,s.asked,s.slow = CONTENT,'"v1"',True,False,[],[],0
    s.url = f'http://127.0.0.1:{s.server_port}/tweets.txt'
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

@pytest.mark.parametrize('resumes, tag, chunked', [(False, '"v1"', False), (True, '', False), (True, '"v1"', True), (True, 'W/"weak"', False)])
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
        with pytest.raises(TweetnbError, match='It was not kept'): download(server.url, tmp_path/'t', **wrong)
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
        with pytest.raises(TweetnbError, match='there is no connection .* put it at'): download(url, tmp_path/'t')
    (tmp_path/'file').write_text('')
    with pytest.raises(TweetnbError, match='cannot be written'): download('http://127.0.0.1:9/t', tmp_path/'file'/'t')
    assert left(tmp_path) == ['file']

SCRIPT = '''
import sys
from tweetnb.data.datasets import download
print(download(sys.argv[1], sys.argv[2], sha256=sys.argv[3]).stat().st_size)
'''
def start(*args): return subprocess.Popen([sys.executable, '-c', SCRIPT, *map(str, args)], stdout=subprocess.PIPE, text=True)

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


# ---- known data sets ----

def test_fetch_a_data_set(server, tmp_path, monkeypatch):
    import io, zipfile
    b = io.BytesIO()
    with zipfile.ZipFile(b, 'w') as z: z.writestr('testdata.csv', '"4","3","Mon May 11 03:17:40 UTC 2009","kindle2","me","love it"\n')
    server.content = b.getvalue()
    monkeypatch.setitem(DATASETS, 'small', dict(url=server.url, size=len(server.content), sha256=hashlib.sha256(server.content).hexdigest()))
    folder = fetch('small')
    assert read_tweets(folder/'testdata.csv')['label'].tolist() == ['4']
    assert fetch('small') == folder and len(server.asked) == 1

def test_unpack_stays_inside(tmp_path):
    import io, tarfile
    with tarfile.open(tmp_path/'bad.tar', 'w') as t:
        info = tarfile.TarInfo('../outside.txt'); info.size = 1
        t.addfile(info, io.BytesIO(b'x'))
    with pytest.raises(TweetnbError, match='cannot be unpacked'): unpack(tmp_path/'bad.tar', tmp_path/'out')
    assert left(tmp_path) == ['bad.tar']


# ---- conversion ----

@pytest.mark.parametrize('name', ['emojify/dev.txt.gz', 'tweeteval/emoji', 'authors/raw_tweets.csv', 'arabizi/Train.csv', 'arabizi/Test.csv', 'arabizi/TUNIZI-Dataset.txt',
    'sentiment140/training.1600000.processed.noemoticon.head20k.csv', 'imdb/aclImdb_50k.csv.gz'])
def test_shards_say_what_the_file_says(name, tmp_path):
    path = data_path(*name.split('/'))
    if not path.exists(): pytest.skip(f'needs TWEETNB_DATA/{name}')
    manifest = convert(path, tmp_path/'shards', rows_per_shard=7_000)
    df,back = read_tweets(path),read_tweets(tmp_path/'shards')
    pd.testing.assert_frame_equal(df, back)
    assert manifest['report']['rejected'] == df.attrs['read']['rejected']
    assert max(s['rows'] for s in manifest['shards']) <= 7_000 and sum(s['rows'] for s in manifest['shards']) == manifest['rows'] == len(df)
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
    p = subprocess.Popen([sys.executable, '-c', f"from tweetnb.data.datasets import convert; convert({str(tmp_path/'big.csv')!r}, {str(tmp_path/'out')!r}, rows_per_shard=1_000)"])
    while not list(tmp_path.glob('.out*/*.parquet')): time.sleep(0.02); assert p.poll() is None
    p.send_signal(signal.SIGKILL); p.wait()
    assert not (tmp_path/'out').exists()
    assert convert(tmp_path/'big.csv', tmp_path/'out')['rows'] == 800_000

@pytest.mark.parametrize('damage', ['[]', '{', '{"shards": [{"name": "00000.parquet"}], "labels": []}', '{"shards": 3, "labels": []}', '{"shards": [{"name": "x", "bytes": 1}], "labels": []}'])
def test_a_damaged_manifest(tmp_path, damage):
    convert(pd.DataFrame({'text': ['good', 'bad']}), tmp_path/'s')
    (tmp_path/'s'/'manifest.json').write_text(damage)
    with pytest.raises(TweetnbError, match='not a manifest|missing'): read_tweets(tmp_path/'s')
