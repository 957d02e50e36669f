"Word vectors: genuine files, files with every kind of damage, and memory"
import gzip, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
from conftest import real_path
import torch
from hypothesis import given, settings, strategies as st

from tweetnb.core import TweetnbError
from tweetnb.text.vectors import embedding_matrix, read_vectors

OUTCOMES = 'kept', 'unwanted', 'repeated', 'wrong_width', 'not_numbers', 'not_utf8'


def write(path, *lines, end='\n'):
    data = b'\n'.join(l if isinstance(l, bytes) else l.encode() for l in lines) + end.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
    return path


def outcomes(report): return {k: report[k] for k in OUTCOMES if report[k]}


@pytest.mark.parametrize('name', ['v.txt', 'v.txt.gz'])
@pytest.mark.parametrize('header', [False, True])
@pytest.mark.parametrize('sep', ['\n', '\r\n', ' \n'])
def test_layouts(tmp_path, name, header, sep):
    "GloVe and word2vec, packed or not, line ends of Windows, word2vec's space at the end of each line"
    rows = [f'w{i} {i} -0.5 1e-3' for i in range(300)]
    path = write(tmp_path/name, sep.join(rows), end=sep)
    if header: path = write(tmp_path/name, f'300 3{sep}' + sep.join(rows), end=sep)
    vectors, report = read_vectors(path, ['w7', 'w299', 'none'])
    assert list(vectors) == ['w7', 'w299'] and vectors['w7'].dtype == np.float32
    np.testing.assert_array_equal(vectors['w299'], np.array([299, -.5, .001], np.float32))
    assert (report['lines'], report['dim'], report['truncated']) == (300, 3, False)
    assert outcomes(report) == {'kept': 2, 'unwanted': 298}


def test_damage(tmp_path):
    path = write(tmp_path/'v.txt', 'good 1 2 3', 'short 1 2', 'long 1 2 3 4', '', 'good 9 9 9', 'text a b c',
                 'nan nan 1 2', 'inf 1 inf 2',
                 'huge 1e300 1 2', b'\xff\xfe 1 2 3', b'caf\xe9 1 2 3', 'café 1 2 3', '. . . 4 5 6',
                 'at name@x.com 7 8 9',
                 'two  spaces 1 2 3', 'tab\t1\t2\t3', '\u00a0 1 1 1', 'x\u2028y 2 2 2', ' 1 2 3', 'gap 1  2 3',
                 'fine 1 2 3', 'last 1 2', end='')
    words = 'good short long text nan inf huge café . fine last tab gap caf'.split()
    words += ['. . .', 'at name@x.com', 'two  spaces', '\u00a0', 'x\u2028y', '']
    vectors, report = read_vectors(path, words)
    assert sorted(vectors) == sorted(['good', 'café', '. . .', 'at name@x.com', 'two  spaces', 'tab', '\u00a0',
                                      'x\u2028y', 'fine', 'gap'])
    assert vectors['good'].tolist() == [1, 2, 3] and vectors['. . .'].tolist() == [4, 5, 6]
    assert outcomes(report) == {'kept': 10, 'repeated': 1, 'wrong_width': 5, 'not_numbers': 4, 'not_utf8': 2}
    assert report['lines'] == 22 == sum(report[p] for p in OUTCOMES) and report['truncated']


@pytest.mark.parametrize('last, truncated',
                         [('end 1 2 3', False), ('end 1 2', True), ('end 1 2 -', True), ('en', True)])
def test_last_line(tmp_path, last, truncated):
    path = write(tmp_path/'v.txt', *(f'w{i} 1 2 3' for i in range(9)), last, end='')
    vectors, report = read_vectors(path)
    assert report['truncated'] == truncated and ('end' in vectors) != truncated and len(vectors) == 10 - truncated
    # a short line that did end
    assert read_vectors(write(path, *(f'w{i} 1 2 3' for i in range(9)), 'end 1 2'))[1]['truncated'] is False


def test_header_that_promises_more(tmp_path):
    path = write(tmp_path/'v.txt', '9 3', 'a 1 2 3', 'b 1 2 3')
    assert read_vectors(path)[1]['truncated']


@pytest.mark.parametrize('keep', [.2, .5, .9, .999])
def test_packed_file_cut_anywhere(tmp_path, keep):
    rng = np.random.default_rng(0)
    path = write(tmp_path/'v.gz', *(f'w{i} ' + ' '.join(f'{x:.5f}' for x in rng.normal(size=25)) for i in range(5000)))
    whole, _ = read_vectors(path)
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * keep)])
    some, report = read_vectors(path)
    assert report['truncated'] and 0 < len(some) < 5000
    assert all((some[w] == whole[w]).all() for w in some)


def test_packed_file_with_a_flipped_bit(tmp_path):
    path = write(tmp_path/'v.gz', *(f'w{i} {i} 2 3' for i in range(50_000)))
    data = bytearray(path.read_bytes()); data[-6] ^= 1; path.write_bytes(data)
    with pytest.raises(TweetnbError, match='is damaged'): read_vectors(path, ['w1'])


@pytest.mark.parametrize('data', [b'', b'\n\n', b'good morning\nso it goes\n', b'id,text\n1,good\n', b'{"a": 1}\n',
                                  bytes(range(256)) * 40,
                                  b'3000000 300\n</s> \x01\x02\x03\xff' * 50, b'PK\x03\x04rest', b'\x1f\x8bnot gzip',
                                  b'word 1\nother 2\n', b'x' * 3_000_000, b'\x93NUMPY\x01\x00'])
def test_other_files(tmp_path, data):
    (tmp_path/'v').write_bytes(data)
    with pytest.raises(TweetnbError): read_vectors(tmp_path/'v', ['good'])


def test_no_file(tmp_path):
    for path in tmp_path/'none.txt', tmp_path:
        with pytest.raises(TweetnbError, match='cannot be read'): read_vectors(path, ['good'])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_line_stops_it_and_all_add_up(tmp_path_factory, data):
    path = tmp_path_factory.mktemp('v')/'v.txt'
    sound = b''.join(b'w%d 1 2 3\n' % i for i in range(40))
    snippets = [b' ', b'\n', b'\r', b'1', b'-', b'e', b'good', b'\xff', b'\0', b'1e999', b' 1 2 3\n']
    pieces = st.one_of(st.binary(max_size=12), st.sampled_from(snippets))
    at = data.draw(st.integers(0, len(sound)))
    junk = b''.join(data.draw(st.lists(pieces, max_size=15)))
    path.write_bytes(sound + sound[:at] + junk + sound[at:])
    if junk[:2] in (b'PK', b'\x1f\x8b') and at == 0: return
    vectors, report = read_vectors(path)
    lines = path.read_bytes().removesuffix(b'\n').split(b'\n')
    assert report['lines'] == sum(report[p] for p in OUTCOMES) == len(lines)
    assert len(vectors) == report['kept'] >= 38
    assert all(v.shape == (3,) and np.isfinite(v).all() for v in vectors.values())


# the matrix

def test_matrix(tmp_path):
    rng = np.random.default_rng(1)
    rows = rng.normal(0, .3, (2000, 8)).astype(np.float32)
    path = write(tmp_path/'v.txt', *(f'w{i} ' + ' '.join(map(repr, r.tolist())) for i, r in enumerate(rows)))
    vocab = ['[PAD]', '[UNK]', *(f'w{i}' for i in range(1000)), *(f'W{i}' for i in range(1000, 1500))]
    vocab += [f'missing{i}' for i in range(3000)]
    counts = [9, 50, *range(len(vocab) - 2, 0, -1)]
    matrix, report = embedding_matrix(path, vocab, counts=counts)
    assert matrix.shape == (len(vocab), 8) and matrix.dtype == torch.float32 and (matrix[0] == 0).all()
    np.testing.assert_array_equal(matrix[2:1502], rows[:1500])  # exact, and the last 500 by lower case
    drawn = matrix[1502:]
    assert abs(drawn.mean()) < .01 and abs(drawn.std() / rows[:1500].std() - 1) < .03
    assert (report['types'], report['types_covered'], report['by_lower_case']) == (4500, 1500, 500)
    assert report['tokens'] == sum(counts[1:]) and report['tokens_covered'] == sum(counts[2:1502])
    assert report['missing'][:2] == [['missing0', 3000], ['missing1', 2999]] and len(report['missing']) == 20
    assert torch.equal(matrix, embedding_matrix(path, vocab)[0])
    other = embedding_matrix(path, vocab, seed=1)[0]
    assert torch.equal(other[:1], matrix[:1]) and torch.equal(other[2:1502], matrix[2:1502])
    assert not (other[1502:] == matrix[1502:]).any()
    assert (embedding_matrix(path, vocab, pad_id=None)[0][0] != 0).all()


def test_own_form_comes_before_lower_case(tmp_path):
    path = write(tmp_path/'v.txt', 'Us 1 2 3', 'us 4 5 6', 'it 7 8 9')
    matrix, report = embedding_matrix(path, ['[PAD]', '[UNK]', 'Us', 'us', 'IT'])
    assert matrix[2:].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]] and report['by_lower_case'] == 1


@pytest.mark.parametrize('file, dim, n',
                         [('glove.twitter.27B.25d.subset.txt', 25, 11_925), ('glove.6B.50d.head.txt', 50, 9_163)])
def test_genuine_files(file, dim, n):
    path = real_path('glove', file)
    vectors, report = read_vectors(path)
    assert (report['dim'], report['lines'], len(vectors), report['truncated']) == (dim, n, n, False)
    assert outcomes(report) == {'kept': n}
    first = path.read_text(encoding='utf-8').split('\n', 1)[0].split(' ')
    np.testing.assert_array_equal(vectors[first[0]], np.array(first[1:], np.float32))
    matrix, report = embedding_matrix(path, ['[PAD]', '[UNK]', 'The', 'good', 'zzzzzz'])
    assert (report['types_covered'], report['by_lower_case'], report['missing']) == (2, 1, [['zzzzzz', None]])


# memory

GROWTH = '''
import re, sys
from pathlib import Path
from tweetnb.text.vectors import read_vectors
# not ru_maxrss, which would be the parent's
def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024
read_vectors(sys.argv[2], ['w1'])
before = peak()
vectors, report = read_vectors(sys.argv[1], {f'w{i}' for i in range(0, 200_000, 200)})
assert len(vectors) == 1000 and report['lines'] == 200_000, report
some = peak() - before
assert len(read_vectors(sys.argv[1])[0]) == 200_000
print(some, peak() - before)
'''


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs /proc/self/status')
def test_memory_is_bounded_by_what_is_kept(tmp_path):
    numbers = ' '.join(f'{x:.5f}' for x in np.random.default_rng(0).normal(size=25))
    big = write(tmp_path/'big.txt', *(f'w{i} {numbers}' for i in range(200_000)))
    small = write(tmp_path/'small.txt', *(f'w{i} {numbers}' for i in range(200)))
    assert big.stat().st_size > 40e6
    done = subprocess.run([sys.executable, '-c', GROWTH, str(big), str(small)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    some, all_of_them = map(float, done.stdout.split())
    assert some < 5 and all_of_them > 40  # MB
