"""Files predicted in blocks by real processes that are killed in the middle, on this machine and on a local Ray."""
import importlib.util, logging, os, pickle, shutil, signal, subprocess, sys, time
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from pyarrow.fs import FileSystem

from tweetnb.core import TweetnbError, as_path, sample_path
from tweetnb.data.audit import audit
from tweetnb.data.clean import Cleaner
from tweetnb.data.read import read_tweets
from tweetnb.models.linear import LinearClassifier
from tweetnb.ship.shards import BatchPredictor, _PartWriter, predict_file, store_files
from tweetnb.text.tokens import TweetTokenizer

linux = pytest.mark.skipif(sys.platform != 'linux', reason='looks for processes in /proc')


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A bundle, and 12,000 tweets in two files, some of them without text"
    home = tmp_path_factory.mktemp('shards')
    sample = read_tweets(sample_path('tweets.csv'))
    LinearClassifier().fit(sample, sample['label']).save(home/'moods')
    texts = sample['text'].tolist()
    for name, n in ('a', 9_000), ('b', 3_000):
        rows = [texts[i % len(texts)] + f' {i}' if i % 1000 else '' for i in range(n)]
        pd.DataFrame({'id': range(n), 'text': rows}).to_csv(home/f'{name}.csv', index=False)
    return home


on_two_nodes = '''import atexit, ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1))
lost = cluster.add_node(num_cpus=1).all_processes['raylet'][0].process.pid
atexit.register(lambda: (ray.shutdown(), cluster.shutdown()))
ray.init(cluster.address, log_to_driver=False)
open('raylet', 'w').write(str(lost))'''


def start(home, out, ray='', **kwargs):
    "`predict_file` in a process of its own"
    code = (f'from tweetnb.ship.shards import predict_file\n{ray}\n'
            f'r = predict_file({str(home/"moods")!r}, {str(home/"*.csv")!r}, {str(out)!r}, rows=100, **{kwargs!r})\n'
            f'print(r["written"], r["read"])')
    return subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            cwd=home, env={**os.environ, 'OMP_NUM_THREADS': '1'})


def finished(process, seconds=120):
    said, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return said.split()


def n_done(out, n, process, seconds=100):
    "Wait until so many blocks are done"
    for _ in range(seconds*100):
        if len(list((out.with_name(f'{out.name}.parts')/'done').glob('[0-9]*.json'))) >= n: return
        assert process.poll() is None, process.communicate()
        time.sleep(.01)
    raise TimeoutError


def children(pid, name):
    "Processes below another with this in their command line"
    found = []
    for o in Path(f'/proc/{pid}/task').glob('*/children'):
        for child in o.read_text().split():
            found += children(child, name)
            try:
                if name in Path(f'/proc/{child}/cmdline').read_text(): found.append(int(child))
            except FileNotFoundError: pass
    return found


def alive(pid):
    try: return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError: return False


def content(folder): return {o.name: read(o) for o in folder.iterdir()}


def read(path):
    "The bytes of a file, here or in a store"
    return path.read_bytes() if isinstance(path, Path) else path.fs.open_input_stream(path.path).read()


@pytest.fixture(scope='module')
def undisturbed(home):
    report = predict_file(home/'moods', home/'*.csv', home/'undisturbed', rows=100)
    assert [report[o] for o in ('read', 'kept', 'written')] == [12_000, 11_988, 11_988]
    assert report['rejected'] == {'no text': 12} and len(report['report'].rejected_rows()) == 12
    return content(home/'undisturbed')


@linux
def test_killed_workers_and_a_killed_driver(home, undisturbed):
    out = home/'killed'
    process = start(home, out, workers=2)
    n_done(out, 3, process)
    os.kill(children(process.pid, 'spawn_main')[0], signal.SIGKILL)
    n_done(out, 10, process)                                         # it went on
    workers = children(process.pid, 'spawn_main')
    process.kill()
    process.wait()
    for _ in range(500):
        if not any(map(alive, workers)): break
        time.sleep(.02)
    assert not any(map(alive, workers)) and not out.exists()
    done = {o.name: o.stat().st_mtime_ns for o in (home/'killed.parts'/'parts').glob('[0-9]*.parquet')}
    assert 10 <= len(done) < 120
    assert finished(start(home, out, workers=2)) == ['11988', '12000']
    assert content(out) == undisturbed and not (home/'killed.parts').exists()
    unchanged = [n for n, t in done.items() if (out/n).stat().st_mtime_ns == t]
    assert len(unchanged) >= len(done) - 2                           # a part without its entry is made again


def test_one_file_is_the_same_from_any_number_of_processes(home, undisturbed):
    for workers, name in (1, 'one.csv'), (2, 'two.csv'), (1, 'all.parquet'):
        report = predict_file(home/'moods', [home/'a.csv', home/'b.csv'], home/'out'/name, rows=1000, workers=workers)
        assert report['written'] == 11_988
    assert (home/'out'/'one.csv').read_bytes() == (home/'out'/'two.csv').read_bytes()
    both = pd.read_csv(home/'out'/'one.csv'), pd.read_parquet(home/'out'/'all.parquet')
    assert both[0]['text'].tolist() == both[1]['text'].tolist() == read_tweets(home/'undisturbed')['text'].tolist()
    assert len(list((home/'out').iterdir())) == 3


def test_a_file_of_rejected_rows_among_others_is_counted(home, tmp_path):
    (tmp_path/'1.csv').write_text('id,text\n1,\n2,\n')
    (tmp_path/'2.csv').write_text('id,text\n3,hello\n')
    report = predict_file(home/'moods', tmp_path/'*.csv', tmp_path/'out'/'put.csv')
    assert (report['read'], report['written'], report['rejected']) == (3, 1, {'no text': 2})
    (tmp_path/'3.csv').write_text('text\nno id\n')
    with pytest.raises(TweetnbError, match='different columns'):
        predict_file(home/'moods', tmp_path/'*.csv', tmp_path/'out'/'put.csv')
    predict_file(home/'moods', tmp_path/'*.csv', tmp_path/'out'/'put.csv', keep=['text'])
    assert pd.read_csv(tmp_path/'out'/'put.csv')['text'].tolist() == ['hello', 'no id']


needs_ray = pytest.mark.skipif(importlib.util.find_spec('ray') is None, reason="needs the extra 'ray'")

@needs_ray
def test_a_bundle_that_is_not_there_is_named_before_ray_starts(home, tmp_path):
    import ray
    with pytest.raises(TweetnbError, match='no-such-bundle'):
        predict_file(tmp_path/'no-such-bundle', home/'a.csv', tmp_path/'out', engine='ray')
    assert not ray.is_initialized()

@linux
@needs_ray
def test_ray_with_a_killed_actor_and_a_killed_driver(home, undisturbed):
    "The first driver loses an actor, then its life; the second one finishes, on two processors each"
    out = home/'on-ray'
    process = start(home, out, workers=2, engine='ray')
    n_done(out, 3, process)
    os.kill(children(process.pid, 'ray::_share')[0], signal.SIGKILL)
    n = len(list((home/'on-ray.parts'/'done').iterdir()))
    n_done(out, n + 10, process)                                     # it went on
    process.kill()
    process.communicate()
    assert not out.exists()
    done = {o.name: o.stat().st_mtime_ns for o in (home/'on-ray.parts'/'parts').glob('[0-9]*.parquet')}
    assert finished(start(home, out, workers=2, engine='ray'))[-2:] == ['11988', '12000']
    assert content(out) == undisturbed
    assert len(done) < 120 and sum((out/n).stat().st_mtime_ns == t for n, t in done.items()) >= len(done) - 4


@linux
@needs_ray
def test_ray_with_a_killed_node(home, undisturbed):
    out = home/'on-two-nodes'
    process = start(home, out, on_two_nodes, workers=2, engine='ray')
    n_done(out, 5, process, 200)
    raylet = int((home/'raylet').read_text())
    os.kill(raylet, signal.SIGKILL)
    assert not out.exists()                                          # in the middle
    assert '11988 12000' in process.communicate(timeout=240)[0] and not alive(raylet)
    assert content(out) == undisturbed


@needs_ray
def test_a_ray_dataset_an_audit_a_conversion_and_a_store(home):
    "In a process of its own: each row of a dataset is answered; audit and conversion are those without Ray"
    sample = read_tweets(sample_path('tweets.csv'))[['text', 'label']]
    df = sample.sample(1200, replace=True, random_state=0, ignore_index=True).astype('str')
    df.loc[::20, 'label'] = 'other'
    df.loc[1::3, 'text'] += [f' {i % 7} really' for i in range(400)]
    df.loc[::97, 'text'] = ''
    for name in 'parts', 'test': (home/name).mkdir()
    for i in range(3): df[i*300:(i + 1)*300].to_csv(home/'parts'/f'{i}.csv', index=False)
    df[900:].to_csv(home/'test'/'test.csv', index=False)
    code = f'''
import ray
from pathlib import Path
from tweetnb import predict_dataset
from tweetnb.data.clean import Cleaner
from tweetnb.ship.shards import audit_files, convert_files, store_files
from tweetnb.text.tokens import TweetTokenizer
ray.init(num_cpus=2, log_to_driver=False)
home = Path({str(home)!r})
ds = predict_dataset(ray.data.read_csv(str(home/"a.csv")), home/"moods", rows=2000, workers=1)
ds.to_pandas().sort_values('id').to_json(home/"ray.json", orient='records')
convert_files((home/"parts").as_uri() + "/*.csv", (home/"shards").as_uri(), rows=200)
found = audit_files((home/"parts").as_uri(), (home/"test"/"test.csv").as_uri())
for name, table in found.tables.items(): table.to_csv(home/f"{{name}}.ray")
store_files(home/'parts', home/'tokens-ray', TweetTokenizer.word, Cleaner(), engine='ray')
print(found)
'''
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=900)
    assert res.returncode == 0, res.stderr
    got, want = pd.read_json(home/'ray.json', orient='records'), BatchPredictor(home/'moods')(pd.read_csv(home/'a.csv'))
    assert got['label'].tolist() == want['label'].tolist() and len(got) == 9000
    pd.testing.assert_frame_equal(read_tweets(home/'shards'), read_tweets(home/'parts'))
    assert read_tweets(home/'shards').attrs['read']['kept'] == 890
    for name, workers in ('tokens-1', 1), ('tokens-2', 2):
        store_files(home/'parts', home/name, TweetTokenizer.word, Cleaner(), workers=workers)
        assert len(content(home/name)) >= 7 and content(home/name) == content(home/'tokens-ray')
    alone = audit(dict(train=read_tweets(home/'parts'), test=read_tweets(home/'test'/'test.csv')))
    for name in 'leaks', 'conflicts', 'duplicates', 'near':
        assert len(alone.tables[name]) and (home/f'{name}.ray').read_text() == alone.tables[name].to_csv(), name
    told = res.stdout.splitlines()[1:]
    assert len(told) == 6 and set(told) <= set(map(str, alone.problems))


def test_an_interrupted_job_in_a_store(home, undisturbed, monkeypatch):
    "It stops in the middle, then while its parts are published; the third call finishes, the fourth has nothing to do"
    out, left, answer = as_path('memory://bucket/answers'), [30], _PartWriter.__call__
    def unlucky(self, *block):
        left[0] -= 1
        if left[0] < 0: raise KeyboardInterrupt
        return answer(self, *block)
    def again(): return predict_file(home/'moods', home/'*.csv', str(out), rows=100)
    monkeypatch.setattr(_PartWriter, '__call__', unlucky)
    with pytest.raises(KeyboardInterrupt): again()
    assert not out.exists() and len(list((out.with_name('answers.parts')/'done').iterdir())) == 30
    left[0] = 90                                                     # no block is answered twice
    with monkeypatch.context() as m:
        def full(fs, old, new): raise OSError('the disk is full')
        m.setattr('fsspec.implementations.memory.MemoryFileSystem.cp_file', full)
        with pytest.raises(OSError): again()
    assert not (out/'manifest.json').exists()
    third = again()
    assert third['written'] == 11_988
    assert content(out) == undisturbed and not out.with_name('answers.parts').exists()
    fourth = again()
    assert {**fourth, 'seconds': 0} == {**third, 'seconds': 0} and left == [0]
    assert '12 rejected: no text' in fourth['report'].summary()


def test_a_file_in_a_store_and_what_it_is_answered_from(home, tmp_path):
    folder = as_path('memory://bucket/day')
    for name in 'a.csv', 'b.csv':
        with folder.fs.open_output_stream(f'{folder.path}/{name}') as f: f.write((home/name).read_bytes())
    for name in 'all.csv', 'all.parquet':
        predict_file(home/'moods', [home/'a.csv', home/'b.csv'], tmp_path/name)
        report = predict_file(home/'moods', 'memory://bucket/d*/*.csv', f'memory://bucket/{name}')
        assert (report['read'], report['written']) == (12_000, 11_988)
        assert read(as_path(f'memory://bucket/{name}')) == (tmp_path/name).read_bytes()
    assert [o.name for o in as_path('memory://bucket').glob('all*')] == ['all.csv', 'all.parquet']
    with pytest.raises(TweetnbError, match='not a folder of shards'):
        predict_file(home/'moods', home/'a.csv', 'memory://bucket/day')


@linux
def test_a_killed_job_in_a_folder_that_is_a_url(home, undisturbed):
    out = home/'far'/'away'
    process = start(home, out.as_uri(), workers=2)
    n_done(out, 5, process)
    process.kill()
    process.wait()
    assert not out.exists()
    assert finished(start(home, out.as_uri(), workers=2)) == ['11988', '12000']
    assert content(out) == undisturbed and [o.name for o in out.parent.iterdir()] == ['away']


@pytest.fixture(scope='module')
def bucket():
    "The URL of a bucket that a server on this machine keeps in memory, over HTTP"
    server = pytest.importorskip('moto.server', reason="needs moto: pip install 'moto[server]'")
    logging.getLogger('werkzeug').setLevel(logging.ERROR)
    server = server.ThreadedMotoServer('127.0.0.1', 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as m:
        m.setenv('AWS_ENDPOINT_URL', 'http://{}:{}'.format(*server.get_host_and_port()))
        for name in 'AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY': m.setenv(name, 'anything')
        fs, _ = FileSystem.from_uri('s3://bucket?allow_bucket_creation=true')
        fs.create_dir('bucket')
        yield 's3://bucket'
    server.stop()


@linux
@pytest.mark.parametrize('engine', ['local', pytest.param('ray', marks=needs_ray)])
def test_a_killed_job_on_s3(home, undisturbed, bucket, engine):
    "A worker is killed, then the driver; the same command makes what an undisturbed one makes, to the byte"
    out = as_path(f'{bucket}/{engine}/killed')
    process = start(home, str(out), workers=2, engine=engine)
    n_done(out, 3, process)
    os.kill(children(process.pid, dict(local='spawn_main', ray='ray::_share')[engine])[0], signal.SIGKILL)
    n_done(out, 10, process)                                         # it went on
    process.kill()
    process.communicate()
    done = {o.name for o in (out.with_name('killed.parts')/'done').iterdir()}
    assert not out.exists() and 10 <= len(done) < 120
    assert finished(start(home, str(out), workers=2, engine=engine))[-2:] == ['11988', '12000']
    assert content(out) == undisturbed and not out.with_name('killed.parts').exists()


def test_one_file_on_s3_from_a_pattern_there(home, bucket, tmp_path):
    for name in 'a', 'b':
        with as_path(bucket + '/x').fs.open_output_stream(f'bucket/day={name}/x.csv') as f:
            f.write((home/f'{name}.csv').read_bytes())
    predict_file(home/'moods', [home/'a.csv', home/'b.csv'], tmp_path/'all.csv')
    report = predict_file(home/'moods', f'{bucket}/day=*/*.csv', f'{bucket}/out/all.csv')
    assert (report['read'], report['written']) == (12_000, 11_988)
    assert read(as_path(f'{bucket}/out/all.csv')) == (tmp_path/'all.csv').read_bytes()
    for wrong, why in (bucket, 'a whole bucket'), ('s3://nowhere/out', "Bucket 'nowhere' not found"):
        with pytest.raises(TweetnbError, match=why): predict_file(home/'moods', home/'a.csv', wrong)


def tables(home):
    "20,000 tweets in a Parquet file, and their answers"
    texts = read_tweets(sample_path('tweets.csv'))['text'].tolist()
    df = pd.DataFrame({'id': range(20_000), 'text': [texts[i % len(texts)] + f' {i}' for i in range(20_000)]})
    df.to_parquet(home/'20000.parquet', index=False)
    predict_file(home/'moods', home/'20000.parquet', home/'answers.parquet')
    return home/'20000.parquet', pd.read_parquet(home/'answers.parquet')


def same(got, want):
    "Are these the same rows, in any order and whatever strings are called?"
    got = got.sort_values('id', ignore_index=True)
    got, want = (o.astype({'text': 'str', 'label': 'str'}) for o in (got, want))
    pd.testing.assert_frame_equal(got, want, check_dtype=False)


@pytest.mark.parametrize('scheduler', ['threads', 'processes'])
def test_dask_answers_as_predict_file_does(home, scheduler):
    dd = pytest.importorskip('dask.dataframe', reason="needs Dask: pip install 'dask[dataframe]'")
    path, want = tables(home)
    ddf = dd.read_parquet(path).repartition(npartitions=4)
    predict = BatchPredictor(home/'moods')
    answers = ddf.map_partitions(predict, meta=predict(ddf.head(2)))
    same(answers.compute(scheduler=scheduler), want)


@pytest.mark.filterwarnings('ignore:PySpark does not yet fully support pandas')
def test_spark_answers_as_predict_file_does(home):
    sql = pytest.importorskip('pyspark.sql', reason='needs Spark: pip install pyspark')
    if not shutil.which('java'): pytest.skip('Spark needs Java')
    path, want = tables(home)
    spark = sql.SparkSession.builder.master('local[2]').config('spark.ui.enabled', 'false').getOrCreate()
    try:
        df = spark.read.parquet(str(path)).repartition(4)
        predict = BatchPredictor(home/'moods')
        schema = spark.createDataFrame(predict(df.limit(2).toPandas())).schema
        df.mapInPandas(lambda tables: map(predict, tables), schema).write.parquet(str(home/'spark'))
    finally: spark.stop()
    same(pd.concat(map(pd.read_parquet, (home/'spark').glob('*.parquet'))), want)


def test_two_at_once_and_an_error_in_a_worker(home):
    with pytest.raises(TweetnbError, match=r"there is no column 'author'\. The columns are"):
        predict_file(home/'moods', home/'a.csv', home/'wrong', workers=2, keep=['author'])
    assert not list(home.glob('wrong*'))
    (home/'twice.parts').mkdir()
    with FileLock(home/'twice.parts'/'lock'), pytest.raises(TweetnbError, match='another process is at work'):
        predict_file(home/'moods', home/'a.csv', home/'twice')


def test_an_error_travels_whole():
    error = pickle.loads(pickle.dumps(TweetnbError('no column', path='a.csv', line=3, remedy='Name it.')))
    assert str(error) == 'a.csv, line 3: no column. Name it.' and (error.path, error.line) == ('a.csv', 3)


def test_importing_is_light():
    heavy = 'torch', 'ray', 'fastai'
    code = f'import sys, tweetnb.ship.shards; print([o for o in {heavy} if o in sys.modules])'
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert res.stdout.strip() == '[]', res.stdout + res.stderr
