"""The HTTP service as clients meet it: a process of its own, real sockets, load, and a stop in the middle of it.

Needs the extra `serve`; the OpenAPI check needs schemathesis as well.
"""
import asyncio, json, os, signal, socket, subprocess, sys, threading, time
from http.client import HTTPConnection

import numpy as np
import pytest

pytest.importorskip('fastapi', reason="needs the extra 'serve'"); pytest.importorskip('uvicorn', reason="needs the extra 'serve'")

from tweetnb.ship.bundle import load_bundle
from tweetnb.core import TweetnbError, sample_path
from tweetnb.ship.serve import Batcher, Full, run_batches, run_server


@pytest.fixture(scope='session')
def moods(tmp_path_factory):
    "A small bundle trained on the packaged sample"
    from fastai.callback.schedule import fit_one_cycle
    from tweetnb.text.block import TweetDataLoaders
    from tweetnb.train.learner import tweet_learner
    from tweetnb.data.read import read_tweets
    learn = tweet_learner(TweetDataLoaders.from_df(read_tweets(sample_path('tweets.csv'), label=True).head(800), bs=32), 'gru', n_emb=32, n_hidden=32)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 1e-2)
    return learn.save_bundle(tmp_path_factory.mktemp('bundles')/'moods')


class Service:
    "`run_server` in a process of its own"
    def __init__(self, folder, before='pass', **kwargs):
        code = f'import sys; from tweetnb.ship.serve import run_server; {before}; run_server(sys.argv[1], port=0, say=lambda o: print(o, flush=True), **{kwargs!r})'
        self.process = subprocess.Popen([sys.executable, '-c', code, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, 'OMP_NUM_THREADS': '1'})
        line = self.process.stdout.readline()
        assert 'Serving' in line, self.process.stderr.read()
        self.port = int(line.split('http://127.0.0.1:')[1].split()[0])
        for _ in range(100):
            if ask(self.port, 'GET', '/health')[0] == 200: break
            time.sleep(.05)

    def stop(self):
        "SIGTERM, and how it ended: exit status, what it wrote to stderr"
        if self.process.poll() is None: self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30), self.process.communicate()[1]


def ask(port, method, path, body=None, **headers):
    "One request on a connection of its own: status, headers, body"
    con = HTTPConnection('127.0.0.1', port, timeout=30)
    try:
        con.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body), headers)
        res = con.getresponse()
        return res.status, dict(res.getheaders()), res.read()
    finally: con.close()


def predict(port, texts): return ask(port, 'POST', '/predict', {'texts': texts}, **{'Content-Type': 'application/json'})


@pytest.fixture(scope='module')
def service(moods):
    it = Service(moods, max_bytes=100_000, max_chars=1000, max_texts=200, timeout=1.5)
    yield it
    status, err = it.stop()
    assert (status, err) == (0, '')


def test_same_as_the_bundle(service, moods):
    texts = ['what a day 😍', '', 'ل مرحبا', '<script>alert(1)</script>', '\0', 'a'*1000, '[PAD] [UNK]', '🤦'*300]
    status, _, body = predict(service.port, texts)
    assert status == 200
    bundle, found = load_bundle(moods), json.loads(body)['predictions']
    probs = bundle.predict_proba(texts)
    np.testing.assert_allclose([[o['probabilities'][n] for n in bundle.labels] for o in found], probs, atol=1e-5)
    assert [o['label'] for o in found] == [bundle.labels[i] for i in probs.argmax(1)]


def test_many_clients_get_their_own_answers(service, moods):
    bundle = load_bundle(moods)
    texts = [f'{word} {i}' for i in range(30) for word in ('lovely', 'awful', 'the bus is late and')]
    want = bundle.predict_proba(texts).max(1)
    got = [None]*len(texts)
    def client(start):
        con = HTTPConnection('127.0.0.1', service.port, timeout=30)
        for i in range(start, len(texts), 15):
            con.request('POST', '/predict', json.dumps({'texts': [texts[i]]}), {'Content-Type': 'application/json'})
            got[i] = json.loads(con.getresponse().read())['predictions'][0]['confidence']
        con.close()
    threads = [threading.Thread(target=client, args=[i]) for i in range(15)]
    for o in threads: o.start()
    for o in threads: o.join()
    np.testing.assert_allclose(got, want, atol=1e-5)
    said = ask(service.port, 'GET', '/metrics')[2].decode()
    figure = lambda name: float(next(o.split()[-1] for o in said.splitlines() if o.startswith(name)))
    assert figure('tweetnb_texts_total') >= 90
    assert figure('tweetnb_batches_total') < figure('tweetnb_predict_seconds_count'), 'requests were joined'


@pytest.mark.parametrize('body,status', [
    (b'', 422), (b'{', 422), (b'[]', 422), (b'{"texts": null}', 422), (b'{"texts": []}', 422), (b'{"texts": [1]}', 422), (b'{"texts": ["a"], "more": 1}', 422),
    (b'\xff\xfe', 422), (b'{"texts": ["\xe9"]}', 400), (b'{"texts": ["\\ud800"]}', 422), (b'['*90_000, 400), (b'{"texts": ["' + b'a'*1001 + b'"]}', 422),
    (b'{"texts": [' + b'"a",'*200 + b'"a"]}', 422), (b'a'*100_001, 413)])
def test_wrong_bodies(service, body, status):
    got, headers, said = ask(service.port, 'POST', '/predict', body, **{'Content-Type': 'application/json'})
    assert got == status and len(said) < 700 and json.loads(said)['detail']
    assert predict(service.port, ['still here'])[0] == 200


def test_other_addresses_and_methods(service):
    assert ask(service.port, 'GET', '/docs')[0] == 404 and ask(service.port, 'GET', '/../../etc/passwd')[0] == 404
    status, headers, _ = ask(service.port, 'DELETE', '/predict')
    assert status == 405 and headers['allow'] == 'POST'
    assert b'path="other",status="404"' in ask(service.port, 'GET', '/metrics')[2]


def raw(port, *parts, pause=0):
    "Send bytes as they are, and read until the server closes or answers"
    with socket.create_connection(('127.0.0.1', port), timeout=10) as s:
        for part in parts: s.sendall(part); time.sleep(pause)
        return s.recv(65536).decode()

_head = b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'

def test_chunked_body_over_the_limit(service):
    chunk = b'4000\r\n' + b'a'*0x4000 + b'\r\n'
    said = raw(service.port, _head + b'Transfer-Encoding: chunked\r\n\r\n', *[chunk]*8)      # never ends, never says how long
    assert said.startswith('HTTP/1.1 413') and 'connection: close' in said.lower()


def test_announced_body_over_the_limit(service):
    assert raw(service.port, _head + b'Content-Length: 99999999999\r\n\r\n').startswith('HTTP/1.1 413')
    assert raw(service.port, _head + b'Content-Length: nonsense\r\n\r\n').startswith('HTTP/1.1 400')


def test_slow_and_broken_bodies(service):
    assert raw(service.port, _head + b'Content-Length: 100\r\n\r\n{"te').startswith('HTTP/1.1 408')
    with socket.create_connection(('127.0.0.1', service.port)) as s: s.sendall(_head + b'Content-Length: 100\r\n\r\n{"te')     # and gone
    assert predict(service.port, ['still here'])[0] == 200


def test_a_queue_that_is_full(moods):
    slow = ("import time; from tweetnb.ship.bundle import Bundle; real = Bundle.predict_proba; "
            "Bundle.predict_proba = lambda self, texts: (time.sleep(.5), real(self, texts))[1]")
    it = Service(moods, before=slow, max_queue=8, max_batch=4)
    got = []
    threads = [threading.Thread(target=lambda: got.append(predict(it.port, ['a', 'b']))) for _ in range(16)]
    for o in threads: o.start()
    for o in threads: o.join()
    codes = [o[0] for o in got]
    assert set(codes) == {200, 503} and 4 <= codes.count(200) <= 10
    assert all(o[1]['retry-after'] == '1' for o in got if o[0] == 503)
    it.process.send_signal(signal.SIGINT)             # Ctrl+C ends it as well
    assert it.process.wait(20) == 0


def test_stop_under_load_loses_nothing(moods):
    "Sixteen clients that never pause, half of them on one connection each; SIGTERM; each request that found an open door is answered 200"
    slow = ("import time; from tweetnb.ship.bundle import Bundle; real = Bundle.predict_proba; "
            "Bundle.predict_proba = lambda self, texts: (time.sleep(.05), real(self, texts))[1]")
    it = Service(moods, before=slow)
    done, lost, closed = [], [], threading.Event()
    body = json.dumps({'texts': ['a tweet on its way']})
    def client(keep_alive):
        con = None
        while not closed.is_set():
            try:
                if con is None: con = HTTPConnection('127.0.0.1', it.port, timeout=20); con.connect()
            except OSError: return                                   # refused: not accepted, nothing lost
            try:
                con.request('POST', '/predict', body, {'Content-Type': 'application/json', **({} if keep_alive else {'Connection': 'close'})})
                res = con.getresponse()
                (done if res.status == 200 and json.loads(res.read())['predictions'] else lost).append(res.status)
                if res.will_close: con.close(); con = None
            except Exception as e: lost.append(repr(e)); con = None
    threads = [threading.Thread(target=client, args=[i % 2 == 0]) for i in range(16)]
    for o in threads: o.start()
    time.sleep(1)
    before = len(done)
    status, err = it.stop()
    closed.set()
    for o in threads: o.join(30)
    assert lost == [] and status == 0 and err == ''
    assert before >= 16 and len(done) >= before


def test_port_in_use(moods, service):
    with pytest.raises(TweetnbError, match='Choose another port'): run_server(moods, port=service.port)


def test_importing_is_quick():
    res = subprocess.run([sys.executable, '-c', 'import sys, tweetnb.ship.serve; print([o for o in ("fastapi", "uvicorn", "streamlit") if o in sys.modules])'], capture_output=True, text=True)
    assert res.stdout.strip() == '[]', res.stdout + res.stderr


# ---------- the batcher, without HTTP

def run(requests, predict, gap=0, **kwargs):
    "Answers to requests that come `gap` seconds apart"
    async def main():
        batcher = Batcher(predict, **kwargs)
        task = asyncio.create_task(run_batches(batcher))
        async def one(i, texts): await asyncio.sleep(i*gap); return await batcher(texts)
        try: return await asyncio.gather(*[one(i, o) for i, o in enumerate(requests)], return_exceptions=True), batcher
        finally: batcher.stop(); await asyncio.wait_for(task, 10)
    return asyncio.run(main())


def test_batches_keep_requests_whole_and_in_order():
    from hypothesis import given, settings, strategies as st
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.lists(st.text(max_size=3), min_size=1, max_size=9), min_size=1, max_size=20), st.integers(1, 12))
    def check(requests, most):
        sizes = []
        def model(texts): sizes.append(len(texts)); return [o*2 for o in texts]
        got, batcher = run(requests, model, most=most, wait=0)
        assert got == [[o*2 for o in r] for r in requests]
        assert sum(sizes) == sum(map(len, requests)) and batcher.size == 0
        assert all(n <= max(most, max(map(len, requests))) for n in sizes)
    check()


def test_a_client_that_leaves_does_not_hurt_the_others():
    async def main():
        batcher = Batcher(lambda texts: (time.sleep(.05), [o.upper() for o in texts])[1])
        task = asyncio.create_task(run_batches(batcher))
        first, gone, last = [asyncio.create_task(batcher([o])) for o in 'abc']
        await asyncio.sleep(.01); gone.cancel()
        got = await asyncio.gather(first, last)
        batcher.stop(); await task
        return got
    assert asyncio.run(main()) == [['A'], ['C']]


def test_stop_answers_what_waits():
    async def main():
        batcher = Batcher(lambda texts: (time.sleep(.02), texts)[1], most=1)
        waiting = [asyncio.create_task(batcher([str(i)])) for i in range(10)]
        await asyncio.sleep(0)
        batcher.stop()
        await run_batches(batcher)
        return await asyncio.gather(*waiting)
    assert asyncio.run(main()) == [[str(i)] for i in range(10)]


def test_errors_and_fullness():
    def model(texts):
        if 'bad' in texts: raise ValueError('no')
        return texts
    got, _ = run([['ok'], ['bad'], ['fine']], model)
    assert got[0] == ['ok'] and isinstance(got[1], ValueError) and got[2] == ['fine']
    assert any(isinstance(o, Full) for o in run([['a', 'b']]*5, lambda t: (time.sleep(.02), t)[1], queue=5)[0])


# ---------- the schema

@pytest.mark.parametrize('mode', ['POSITIVE', 'NEGATIVE'])
def test_openapi_schema_holds(service, mode):
    "schemathesis: valid requests are answered as declared, invalid ones are refused as declared"
    schemathesis = pytest.importorskip('schemathesis', reason='needs schemathesis')
    from hypothesis import HealthCheck, Phase, given, settings
    schema = schemathesis.openapi.from_url(f'http://127.0.0.1:{service.port}/openapi.json')
    operations = {o.ok().label: o.ok() for o in schema.get_all_operations()}
    assert set(operations) == {'POST /predict', 'GET /health', 'GET /metrics'}
    statuses = set()
    for name, operation in operations.items():
        if mode == 'NEGATIVE' and 'predict' not in name: continue         # nothing to get wrong
        @settings(max_examples=25 if 'predict' in name else 3, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck), database=None)
        @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
        def check(case): statuses.add(case.call_and_validate().status_code)
        check()
    assert (200 if mode == 'POSITIVE' else 422) in statuses
