"""The HTTP service as clients meet it: a process of its own, real sockets, load, and a stop in the middle of it.

Needs the extra `serve`; the OpenAPI check needs schemathesis as well.
"""
import asyncio, json, os, signal, socket, subprocess, sys, threading, time
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('fastapi', reason="needs the extra 'serve'")
pytest.importorskip('uvicorn', reason="needs the extra 'serve'")

from tweetnb.core import TweetnbError, sample_path
from tweetnb.ship.bundle import load
from tweetnb.ship.serve import Batcher, QueueFull, run_server


class Service:
    "`run_server` in a process of its own"
    def __init__(self, folder, before='pass', env=None, **kwargs):
        code = (f'import sys; from tweetnb.ship.serve import run_server; {before}; '
                f'run_server(sys.argv[1], port=0, say=lambda o: print(o, flush=True), **{kwargs!r})')
        env = {**os.environ, 'OMP_NUM_THREADS': '1', 'TWEETNB_API_KEY': '', **(env or {})}
        self.process = subprocess.Popen([sys.executable, '-c', code, str(folder)], env=env, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        line = self.process.stdout.readline()
        assert 'Serving' in line, self.process.stderr.read()
        self.port = int(line.split('http://127.0.0.1:')[1].split()[0])
        for _ in range(100):
            with suppress(OSError):                   # several processes on a busy machine need their time
                if ask(self.port, 'GET', '/health')[0] == 200: break
            time.sleep(.05)

    def stop(self):
        "SIGTERM, and how it ended: exit status, what it wrote to stderr"
        if self.process.poll() is None: self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30), self.process.communicate()[1]


def ask(port, method, path, body=None, **headers):
    "One request on a connection of its own: status, headers, body; a body that is not bytes is sent as JSON"
    if body is not None and not isinstance(body, bytes):
        body, headers = json.dumps(body), {'Content-Type': 'application/json', **headers}
    con = HTTPConnection('127.0.0.1', port, timeout=30)
    try:
        con.request(method, path, body, headers)
        res = con.getresponse()
        return res.status, dict(res.getheaders()), res.read()
    finally: con.close()


def predict(port, texts): return ask(port, 'POST', '/predict', {'texts': texts})


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
    classifier, found = load(moods), json.loads(body)['predictions']
    probs = classifier.predict_proba(texts)
    np.testing.assert_allclose([[o['probabilities'][n] for n in probs] for o in found], probs, atol=1e-5)
    assert [o['label'] for o in found] == classifier.predict(texts)['label'].tolist()


def test_many_clients_get_their_own_answers(service, moods):
    texts = [f'{word} {i}' for i in range(30) for word in ('lovely', 'awful', 'the bus is late and')]
    want = load(moods).predict(texts)['confidence']
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
    (b'{', 400), (b'not JSON', 400), (b'\xff\xfe', 400), (b'{"texts": ["\xe9"]}', 400), (b'['*90_000, 400),
    (b'', 422), (b'[]', 422), (b'{"texts": null}', 422), (b'{"texts": []}', 422), (b'{"texts": [1]}', 422),
    (b'{"texts": ["a"], "more": 1}', 422), (b'{"texts": ["\\ud800"]}', 422),
    (b'{"texts": ["' + b'a'*1001 + b'"]}', 422), (b'{"texts": [' + b'"a",'*200 + b'"a"]}', 422), (b'a'*100_001, 413)])
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
    endless = _head + b'Transfer-Encoding: chunked\r\n\r\n'                          # and of no announced length
    said = raw(service.port, endless, *[chunk]*8)
    assert said.startswith('HTTP/1.1 413') and 'connection: close' in said.lower()


def test_announced_body_over_the_limit(service):
    assert raw(service.port, _head + b'Content-Length: 99999999999\r\n\r\n').startswith('HTTP/1.1 413')
    assert raw(service.port, _head + b'Content-Length: nonsense\r\n\r\n').startswith('HTTP/1.1 400')


def test_slow_and_broken_bodies(service):
    assert raw(service.port, _head + b'Content-Length: 100\r\n\r\n{"te').startswith('HTTP/1.1 408')
    with socket.create_connection(('127.0.0.1', service.port)) as s:                # gone before the end
        s.sendall(_head + b'Content-Length: 100\r\n\r\n{"te')
    assert predict(service.port, ['still here'])[0] == 200


@pytest.mark.parametrize('path,body', [('/predict', {'texts': ['a'*10_000_000]}), ('/', {'inputs': ['a'*1000]*5000})])
def test_a_large_body_is_answered_before_the_connection_closes(service, path, body):
    "httpx reports a broken connection where the server resets it while the body is on its way"
    httpx = pytest.importorskip('httpx', reason='needs httpx')
    for _ in range(3):
        res = httpx.post(f'http://127.0.0.1:{service.port}{path}', json=body)
        assert res.status_code == 413 and 'longer than 100,000 bytes' in res.json()['detail']
        assert res.headers['connection'] == 'close'


def until_closed(port, *parts, pause=0., limit=8):
    "Send bytes, one part after each pause; return the seconds until the server closed, and what it said"
    start, said = time.monotonic(), b''
    with socket.create_connection(('127.0.0.1', port), timeout=limit) as s:
        try:
            for part in parts:
                s.sendall(part)
                time.sleep(pause)
            while data := s.recv(65536): said += data
        except ConnectionError: pass
    return time.monotonic() - start, said


def test_slow_headers_time_out(service):
    for parts, pause in ([_head], 0), ([], 0), ([b'POST', b' /pre', *[b'X-More: 1\r\n']*30], .2):
        seconds, said = until_closed(service.port, *parts, pause=pause)
        assert 1 < seconds < 8 and said == b'', (seconds, said)
    start = time.monotonic()
    con = HTTPConnection('127.0.0.1', service.port, timeout=10)                     # in use for longer than the limit
    while time.monotonic() - start < 3:
        con.request('GET', '/health')
        assert con.getresponse().read() and con.sock is not None
        time.sleep(.3)
    con.close()


def test_headers_of_limited_size(service):
    said = until_closed(service.port, _head, *[b'X-Long: ' + b'a'*10_000 + b'\r\n']*20)[1]
    assert said == b'' or said.startswith(b'HTTP/1.1 400')
    assert predict(service.port, ['still here'])[0] == 200


def test_shape_of_hugging_face(service, moods):
    huggingface_hub = pytest.importorskip('huggingface_hub')
    texts = ['what a lovely day', 'the bus is late']
    status, _, body = ask(service.port, 'POST', '/', {'inputs': texts, 'parameters': {'top_k': 2}})
    assert status == 200
    probs = load(moods).predict_proba(texts)
    for row, (_, expected) in zip(json.loads(body), probs.iterrows()):
        expected = expected.sort_values(ascending=False).head(2)
        assert [o['label'] for o in row] == expected.index.tolist()
        np.testing.assert_allclose([o['score'] for o in row], expected, atol=1e-5)
    code = ("import sys; from huggingface_hub import InferenceClient; "
            "found = InferenceClient(sys.argv[1], token='x').text_classification('what a lovely day', top_k=1); "
            "print(found[0].label, found[0].score)")
    env = {**os.environ, 'HF_HUB_OFFLINE': '0', 'NO_PROXY': '127.0.0.1'}
    command = [sys.executable, '-c', code, f'http://127.0.0.1:{service.port}']
    res = subprocess.run(command, capture_output=True, text=True, env=env)
    label, score = res.stdout.split()
    assert label == probs.iloc[0].idxmax() and abs(float(score) - probs.iloc[0].max()) < 1e-5


def test_api_key_and_request_ids(moods, service):
    it = Service(moods, env={'TWEETNB_API_KEY': 'open sesame'})
    def request(key, path='/predict', **headers):
        if key is not None: headers['Authorization'] = key
        body = {'texts': ['hello']} if path == '/predict' else {'inputs': 'hello'}
        return ask(it.port, 'POST', path, body, **headers)
    for wrong in (None, '', 'Bearer', 'Bearer ', 'Bearer open', 'Bearer open sesame!', 'Bearer \xe9',
                  'Basic open sesame', 'open sesame'):
        code, headers, said = request(wrong)
        assert code == 401 and headers['www-authenticate'] == 'Bearer' and b'open sesame' not in said
        assert len(headers['x-request-id']) == 32
    assert request('Bearer open sesame')[0] == request('bearer open sesame', '/')[0] == 200
    assert ask(it.port, 'GET', '/health')[0] == 200 and ask(it.port, 'GET', '/metrics')[0] == 401
    assert ask(it.port, 'GET', '/openapi.json')[0] == ask(it.port, 'GET', '/nowhere')[0] == 401
    assert ask(it.port, 'POST', '/predict', b'a'*10_000_000)[0] == 401                # and nothing broke
    ids = {request('Bearer open sesame')[1]['x-request-id'] for _ in range(5)}
    assert len(ids) == 5
    for given, kept in ('call-7', True), ('a b', False), ('x'*101, False), ('<b>', False):
        assert (request('Bearer open sesame', **{'X-Request-ID': given})[1]['x-request-id'] == given) == kept
    assert it.stop() == (0, '')


def test_a_failing_model_is_answered_500_with_an_id(moods):
    broken = ("from tweetnb.models.classifier import Classifier\n"
              "def fail(self, texts): raise RuntimeError('secret of the house')\n"
              "Classifier.outputs = fail\n")
    it = Service(moods, before='pass\n' + broken + 'pass')
    code, headers, said = predict(it.port, ['hello'])
    assert code == 500 and json.loads(said) == {'detail': 'the service failed on this request'}
    assert headers['x-request-id'] and b'secret' not in said
    assert ask(it.port, 'GET', '/health')[0] == 200
    status, err = it.stop()
    assert status == 0 and 'secret of the house' in err                               # the log has it


slower = ('import time; from tweetnb.models.classifier import Classifier; real = Classifier.outputs; '
          'Classifier.outputs = lambda self, texts: (time.sleep({}), real(self, texts))[1]')

def test_a_queue_that_is_full(moods):
    slow = slower.format(.5)
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


@pytest.mark.parametrize('workers', [1, 2])
def test_stop_under_load_loses_nothing(plain, workers):
    "Sixteen clients that never pause, half of them keeping their connection; after SIGTERM, all they sent is answered"
    slow = slower.format(.05)
    it = Service(plain, before=slow, workers=workers)
    done, lost, closed = [], [], threading.Event()
    body, as_json = json.dumps({'texts': ['a tweet on its way']}), {'Content-Type': 'application/json'}
    def client(keep_alive):
        con = None
        while not closed.is_set():
            try:
                if con is None:
                    con = HTTPConnection('127.0.0.1', it.port, timeout=20)
                    con.connect()
            except OSError: return                                   # refused: not accepted, nothing lost
            try:
                con.request('POST', '/predict', body, as_json if keep_alive else {**as_json, 'Connection': 'close'})
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


def below(pid):
    "The processes that a service has started to answer"
    res = []
    for o in Path(f'/proc/{pid}/task/{pid}/children').read_text().split():
        with suppress(OSError):                             # it may end between the two looks
            if 'spawn_main' in Path(f'/proc/{o}/cmdline').read_text(): res.append(int(o))
    return res


@pytest.mark.skipif(sys.platform != 'linux', reason='looks for processes in /proc')
def test_several_workers_and_what_happens_when_they_die(plain):
    it = Service(plain, workers=2, rate=600)
    first = below(it.process.pid)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    for _ in range(300):
        now = below(it.process.pid)
        if len(now) == 2 and first[0] not in now: break
        time.sleep(.05)
    assert first[1] in now and predict(it.port, ['still here'])[0] == 200
    codes = [ask(it.port, 'GET', '/metrics')[0] for _ in range(700)]         # both count in the same bucket
    assert 590 <= codes.count(200) < 690 and set(codes) == {200, 429}
    it.process.kill()                                                        # and nobody is left behind
    it.process.wait()
    for _ in range(400):
        if not any(os.path.exists(f'/proc/{o}') for o in now): break
        time.sleep(.05)
    assert not any(os.path.exists(f'/proc/{o}') for o in now)


def test_rate_and_origins(plain):
    it = Service(plain, rate=3, cors=['https://example.org'], env={'TWEETNB_API_KEY': 'open sesame'})
    ours = {'Origin': 'https://example.org', 'Authorization': 'Bearer open sesame'}
    before = {'Origin': ours['Origin'], 'Access-Control-Request-Method': 'POST'}
    status, headers, _ = ask(it.port, 'OPTIONS', '/predict', **before)
    assert status == 200 and headers['access-control-allow-origin'] == ours['Origin']
    got = [ask(it.port, 'POST', '/predict', {'texts': ['hello']}, **ours) for _ in range(5)]
    assert [o[0] for o in got] == [200, 200, 200, 429, 429]
    assert all(o[1]['access-control-allow-origin'] == ours['Origin'] and o[1]['x-request-id'] for o in got)
    assert 1 <= int(got[-1][1]['retry-after']) <= 20 and json.loads(got[-1][2])['detail']
    assert ask(it.port, 'POST', '/predict', {'texts': ['a']}, Authorization='Bearer guess')[0] == 429     # no guessing
    assert ask(it.port, 'GET', '/health')[0] == 200
    assert it.stop() == (0, '')


def test_port_in_use(moods, service):
    with pytest.raises(TweetnbError, match='Choose another port'): run_server(moods, port=service.port)


def test_importing_is_quick():
    heavy = 'torch', 'fastai', 'fastapi', 'uvicorn', 'streamlit'
    code = f'import sys, tweetnb.ship.serve; print([o for o in {heavy} if o in sys.modules])'
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert res.stdout.strip() == '[]', res.stdout + res.stderr


# ---------- the batcher, without HTTP

def run(requests, predict, gap=0, **kwargs):
    "Answers to requests that come `gap` seconds apart"
    async def main():
        batcher = Batcher(predict, **kwargs)
        task = asyncio.create_task(batcher.run())
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
        got, batcher = run(requests, model, max_batch=most, wait=0)
        assert got == [[o*2 for o in r] for r in requests]
        assert sum(sizes) == sum(map(len, requests)) and batcher.n_waiting == 0
        assert all(n <= max(most, max(map(len, requests))) for n in sizes)
    check()


def test_a_client_that_leaves_does_not_hurt_the_others():
    async def main():
        batcher = Batcher(lambda texts: (time.sleep(.05), [o.upper() for o in texts])[1])
        task = asyncio.create_task(batcher.run())
        first, gone, last = [asyncio.create_task(batcher([o])) for o in 'abc']
        await asyncio.sleep(.01); gone.cancel()
        got = await asyncio.gather(first, last)
        batcher.stop(); await task
        return got
    assert asyncio.run(main()) == [['A'], ['C']]


def test_stop_answers_what_waits():
    async def main():
        batcher = Batcher(lambda texts: (time.sleep(.02), texts)[1], max_batch=1)
        waiting = [asyncio.create_task(batcher([str(i)])) for i in range(10)]
        await asyncio.sleep(0)
        batcher.stop()
        await batcher.run()
        return await asyncio.gather(*waiting)
    assert asyncio.run(main()) == [[str(i)] for i in range(10)]


def test_errors_and_fullness():
    def model(texts):
        if 'bad' in texts: raise ValueError('no')
        return texts
    got, _ = run([['ok'], ['bad'], ['fine']], model)
    assert got[0] == ['ok'] and isinstance(got[1], ValueError) and got[2] == ['fine']
    assert any(isinstance(o, QueueFull) for o in run([['a', 'b']]*5, lambda t: (time.sleep(.02), t)[1], max_queue=5)[0])


# ---------- the schema

@pytest.mark.parametrize('mode', ['POSITIVE', 'NEGATIVE'])
def test_openapi_schema_holds(service, mode):
    "schemathesis: valid requests are answered as declared, invalid ones are refused as declared"
    schemathesis = pytest.importorskip('schemathesis', reason='needs schemathesis')
    from hypothesis import HealthCheck, Phase, given, settings
    schema = schemathesis.openapi.from_url(f'http://127.0.0.1:{service.port}/openapi.json')
    operations = {o.ok().label: o.ok() for o in schema.get_all_operations()}
    assert set(operations) == {'POST /predict', 'POST /', 'GET /health', 'GET /metrics'}
    statuses = set()
    for name, operation in operations.items():
        if mode == 'NEGATIVE' and 'POST' not in name: continue         # nothing to get wrong
        @settings(max_examples=25 if 'POST' in name else 3, deadline=None, phases=[Phase.explicit, Phase.generate],
                  suppress_health_check=list(HealthCheck), database=None)
        @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
        def check(case): statuses.add(case.call_and_validate().status_code)
        check()
    assert (200 if mode == 'POSITIVE' else 422) in statuses
