"""Does tweetnb get its fair share of a busy machine? `python tools/neighbours.py PYTHON…`, each with tweetnb installed.

The same small trainings run alone, beside one and two trainings without end, beside a loop of the shell, and beside
two Jupyter kernels that hold a model and have just used it. No variable of OpenMP is set. What is fair depends on what
else the machine does, so a ruler, plain Python in one thread, takes turns with the trainings. If the ruler takes twice
as long beside some neighbours as without them, so may a training; `times fair share` is what a training takes beyond
that. Its seconds of the processor are kept as well: beside neighbours they grow where threads spin."""
import argparse, json, os, subprocess, sys, time
from pathlib import Path

prepare = """
import sys, time
import tweetnb as tn
from tweetnb.train.fit import default_config, fit
df = tn.load_sample('celebrity')
def settings(size, epochs):
    n,bs = (64, 32) if size == 'small' else (256, 64)      # one thread, and as many as there are cores
    return default_config('bilstm', epochs=epochs, bs=bs, probe=False, params=dict(n_hidden=n, n_emb=64))
def train(size): return fit(settings(size, 1), df)
train('small')
"""
subject = prepare + """
train('large')
import tweetnb.core
print(*[f'{k} {v}' for k,v in tweetnb.core.versions().items() if k in ('python', 'torch')], sep=', ', flush=True)
for line in sys.stdin:
    start = time.perf_counter(), time.process_time()
    if line.strip() == 'ruler': sum(i*i for i in range(10_000_000))
    else: train(line.strip())
    print(time.perf_counter() - start[0], time.process_time() - start[1], flush=True)
"""
neighbour = 'import torch\n' + prepare + """
print('ready', flush=True)
while True: train('large')
"""
kernel = 'import torch\n' + prepare + "model = train('large').classifier; model.predict(df)"

names = 'OMP_WAIT_POLICY', 'OMP_NUM_THREADS', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'PYTHONPATH'
bare = {k: v for k,v in os.environ.items() if k not in names}


def start(*command):
    return subprocess.Popen(command, env=bare, cwd='/', text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL)


def started(python, n):
    "So many trainings without end"
    jobs = [start(python, '-c', neighbour) for _ in range(n)]
    for job in jobs: job.stdout.readline()
    return jobs


def kernels(python, n):
    "Jupyter kernels of this Python that have used a model, or interpreters that have where there is no Jupyter"
    try: from jupyter_client.manager import start_new_kernel
    except ImportError: start_new_kernel = None
    if start_new_kernel is None:
        jobs = [start(python, '-c', kernel + "\nprint('ready', flush=True)\nsys.stdin.readline()") for _ in range(n)]
        for job in jobs: job.stdout.readline()
        return jobs
    return [start_kernel(start_new_kernel) for _ in range(n)]


def start_kernel(start_new_kernel):
    manager,client = start_new_kernel(env=bare)
    client.execute_interactive(kernel, timeout=600, output_hook=lambda _: None)
    client.stop_channels()
    manager.kill = lambda: manager.shutdown_kernel(now=True)
    manager.wait = lambda: None
    return manager


def measure(python, turns):
    "A row for each kind of neighbours"
    one = start(python, '-c', subject)
    about = one.stdout.readline().strip()
    def seconds(what):
        print(what, file=one.stdin, flush=True)
        return [float(o) for o in one.stdout.readline().split()]
    cases = {'alone': list, 'a training': lambda: started(python, 1), 'two trainings': lambda: started(python, 2),
             'a loop of the shell': lambda: [start('sh', '-c', 'while :; do :; done')],
             'two kernels with a model': lambda: kernels(python, 2)}
    rows,alone = [],{}
    for name,begin in cases.items():
        jobs = begin()
        print(f'beside {name}', flush=True)
        try: turned = [{what: seconds(what) for what in ('ruler', 'small', 'large')} for _ in range(turns)]
        finally:
            for job in jobs: job.kill()
            for job in jobs: job.wait()
        for what in 'ruler', 'small', 'large':
            wall,cpu = [min(o[what][i] for o in turned) for i in (0, 1)]
            if name == 'alone': alone[what] = wall, cpu
            row = dict(about=about, beside=name, what=what, wall=wall, cpu=cpu)
            row.update(times_wall=wall/alone[what][0], times_cpu=cpu/alone[what][1])
            if what == 'ruler': ruler = row['times_wall']
            else: row['times_fair_share'] = row['times_wall']/ruler
            rows.append(row)
            print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k,v in row.items()}), flush=True)
    one.kill()
    one.wait()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('pythons', nargs='+', metavar='PYTHON')
    parser.add_argument('--turns', type=int, default=3, help='the best counts')
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    rows = [row for python in args.pythons for row in measure(python, args.turns)]
    found = dict(date=time.strftime('%Y-%m-%d'), cores=os.cpu_count(), rows=rows)
    if args.out: args.out.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__': main()
