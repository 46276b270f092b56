"""Makes the figures of tools/prove table; one subcommand a point, named in table.points.

Every figure is a ratio measured by larder-bench in one run, all lines in turns, or a count. Where a
point holds for several lines (distributions, numbers of processes), `samples` has one figure a line
and the worst decides. Traces are looked for in the folder that LARDER_TRACES names.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

BUILD = pathlib.Path(os.environ.get('PROVE_BUILD', 'build/release'))
BENCH = BUILD / 'tools/bench/larder-bench'
SHMCTL = BUILD / 'tools/shmctl/shmctl'
QUICK = os.environ.get('PROVE_QUICK') == '1'
SEED = os.environ.get('PROVE_SEED', '1')
TIMING = ['--seconds', '0.2' if QUICK else '0.5', '--repeats', '3' if QUICK else '9']
DISTRIBUTIONS = ['zipf', 'uniform']

# The table of 16 rows: trace, entries, the hit ratio aimed at (Caffeine's where it is higher than
# what a cache of stripes can be expected to have), and Ristretto's, in percent.
ROWS = {
    ('arc-OLTP', 1000): (39.8, 26.88), ('arc-OLTP', 2000): (46.0, 33.80),
    ('arc-OLTP', 5000): (55.6, 42.48), ('arc-P3', 50000): (25.4, 21.19),
    ('arc-P3', 100000): (37.7, 37.47), ('scarab-recs', 12500): (54.3, 46.41),
    ('scarab-recs', 50000): (67.3, 62.40), ('c2k-orm-busy', 1250): (78.6, 46.57),
    ('c2k-orm-busy', 5000): (86.2, 66.29), ('c2k-web07', 300): (46.2, 32.19),
    ('c2k-web07', 1200): (52.4, 45.95), ('lirs-gli', 1000): (47.8, 41.76),
    ('lirs-loop', 512): (46.0, 42.60), ('lirs-multi1', 1000): (67.3, 65.61),
    ('corda', 1024): (28.8, 6.40), ('mix-stress', 512): (44.4, 38.64)}


def bench(*arguments):
    """What larder-bench prints as JSON, one object a line."""
    command = [str(BENCH), *map(str, arguments), '--json']
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f'{" ".join(command)} ended with status {done.returncode}')
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]


def show(samples, worst, **more):
    for name, value in samples.items():
        print(f'{name}: {value:.4g}', flush=True)
    values = list(samples.values())
    print(json.dumps({'samples': values, 'figure': worst(values), 'lines': list(samples), **more}))


# ---- time ------------------------------------------------------------------------------------------


# What users have on: entries that expire, and a leader beside the processes that are measured.
IN_USE = ['--redis', '--ttl', '3600']


def ratios(workload, value_bytes, backend, against, processes=(1, 2), distributions=None,
           keys=100_000):
    """backend's time / against's, a figure for each distribution and number of processes."""
    found = {}
    for distribution in distributions or DISTRIBUTIONS:
        report, = bench('compare', '--workload', workload, '--value-bytes', value_bytes,
                        '--distribution', distribution, '--keys', keys, '--seed', SEED,
                        '--processes', ','.join(map(str, processes)),
                        '--against', ','.join({backend, against} - {'larder'}),
                        *(IN_USE if workload == 'get-hit' else []), *TIMING)
        for number in processes:
            lines = {run['backend']: run for run in report['runs'] if run['processes'] == number}
            mine = lines[backend]['larder_to_this']['median']
            found[f'{value_bytes} B {distribution} x{number}'] = \
                lines[against]['larder_to_this']['median'] / mine
    return found


def get(against, *sizes, backend='larder', **more):
    found = {}
    for value_bytes, keys in sizes:
        found |= ratios('get-hit', value_bytes, backend, against, keys=keys, **more)
    show(found, max)


def change(workload, against, *sizes):
    found = {}
    for value_bytes in sizes:
        found |= ratios(workload, value_bytes, 'larder', against, processes=[1])
    show(found, max)


def tail():
    found = {}
    for distribution in DISTRIBUTIONS:
        report, = bench('run', '--workload', 'get-hit', '--value-bytes', '64', '--distribution',
                        distribution, '--writer', '--latency', '--seed', SEED, '--ttl', '3600',
                        *TIMING)
        beside = [run for run in report['runs'] if run['writer']]
        found[distribution] = beside[0]['p99.9_to_quiet']['median']
    show(found, max)


def scaling():
    """larder's gain from a second process against raw's. Gains are not taken one by one, because a
    core may be slower than the other: what larder takes of raw's time, alone and with a second
    process, is measured in turns."""
    found = ratios('get-hit', 64, 'larder', 'raw', distributions=['zipf'])
    alone, beside = (found[f'64 B zipf x{number}'] for number in (1, 2))
    show({'larder / raw': alone / beside}, min, times=found)


# ---- hit ratio -------------------------------------------------------------------------------------


def replay(*arguments):
    folder = os.environ.get('LARDER_TRACES')
    if not folder or not pathlib.Path(folder).is_dir():
        sys.exit('LARDER_TRACES must name the folder that has the traces')
    lines = bench('replay', '--table', '--traces', folder, '--jobs', '2', '--seed', SEED, *arguments)
    rows = {(line['trace'], line['entries']): {name: 100 * ratio for name, ratio in
                                               line['hit_ratio'].items() if ratio is not None}
            for line in lines if 'trace' in line}
    if set(rows) != set(ROWS):
        sys.exit(f'not the rows that were expected: {sorted(set(rows) ^ set(ROWS))}')
    return rows


def mean(rows, column):
    return sum(row[column] for row in rows.values()) / len(rows)


def named(rows, of):
    return {f'{trace} @ {entries}': of((trace, entries)) for trace, entries in rows}


def replay_often(*arguments, times=5):
    """Each row's mean: the hash of a segment is random, and the smallest row has 300 entries."""
    all_rows = [replay(*arguments) for _ in range(times)]
    return {row: {column: sum(rows[row][column] for rows in all_rows) / times
                  for column in all_rows[0][row]} for row in all_rows[0]}


def hits_rows():
    rows = replay_often('--policy', 'lfu')
    show(named(rows, lambda row: rows[row]['lfu'] - ROWS[row][0]), min)


def hits_ristretto():
    rows = replay_often('--policy', 'lfu')
    show(named(rows, lambda row: rows[row]['lfu'] - ROWS[row][1]), min)


def hits_mean():
    show({'lfu': mean(replay('--policy', 'lfu'), 'lfu')}, min)


def hits_lru():
    rows = replay('--policy', 'lru')
    show({'lru - exact LRU': mean(rows, 'lru') - mean(rows, 'exact_lru')}, min)


def hits_together():
    """Four processes on one trace against one, the mean; seeds differ, so that chance evens out."""
    one, four = replay('--policy', 'lfu'), replay('--policy', 'lfu', '--processes', '4')
    show({'four - one': mean(four, 'lfu') - mean(one, 'lfu')}, min)


def hits_bytes_lfu():
    by_bytes, by_entries = replay('--policy', 'lfu', '--bytes'), replay('--policy', 'lfu')
    show({'bytes - entries': mean(by_bytes, 'lfu') - mean(by_entries, 'lfu')}, min)


def hits_bytes_lru():
    rows = replay('--policy', 'lru', '--bytes')
    show({'lru - exact LRU': mean(rows, 'lru') - mean(rows, 'exact_lru')}, min)


# ---- space -----------------------------------------------------------------------------------------


def memory(*arguments, memcached=True):
    report, = bench('memory', '--rounds', 2 if QUICK else 10, '--seed', SEED, *arguments,
                    *([] if memcached else ['--no-memcached']))
    return {run['store']: run for run in report['runs']}


def growing():
    runs = memory('--value-bytes', '100', memcached=False)
    show({'100 B': runs['larder']['growing_bytes_per_entry']}, max)


def payload(segment_mb, value_bytes, sizes):
    runs = memory('--segment-mb', segment_mb, '--value-bytes', value_bytes, '--sizes', sizes)
    beside = {name: 100 * run['payload_share'] for name, run in runs.items()}
    show({'larder': beside.pop('larder')}, min, beside=beside)


def steady():
    folder = tempfile.mkdtemp(prefix='larder-steady-', dir='/dev/shm')
    try:
        seconds, window = (12, 3) if QUICK else (600, 60)
        report, = bench('steady', '--seconds', seconds, '--window', window, '--bucket', window / 3,
                        '--directory', folder, '--keep', '--seed', SEED)
        kept = pathlib.Path(report['kept'])
        checked = subprocess.run([SHMCTL, '--directory', str(kept), 'check', '--deep', 'bench'],
                                 check=False).returncode
        whole = sum(report['space'].values())
        size = (kept / 'larder.bench').stat().st_size
        sound = checked == 0 and whole == size and report['failed_sets'] == 0
        print(f'check: {checked}, failed sets: {report["failed_sets"]}, parts {whole} of {size}')
        # A segment that is not sound proves nothing about speed.
        show({'last / second': report['last_to_second'] if sound else 0}, min)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


KEYS = 100_000
POINTS = {
    'raw-umap': lambda: get('umap-shared-mutex', (64, KEYS), backend='raw', processes=[1],
                            distributions=['zipf']),
    'get-raw': lambda: get('raw', (64, KEYS), (1024, KEYS)),
    'get-raw-16k': lambda: get('raw', (16384, 20_000)),
    'fresh-raw': lambda: get('raw', (64, KEYS), (1024, KEYS), backend='larder-fresh'),
    'get-umap': lambda: get('umap-shared-mutex', (64, KEYS), processes=[1]),
    'get-lmdb': lambda: get('lmdb', (64, KEYS)),
    'get-boost': lambda: get('boost-map', (64, KEYS)),
    'get-memcached': lambda: get('memcached', (64, KEYS)),
    'get-redis': lambda: get('redis', (64, KEYS)),
    'many': lambda: get('larder', (64, KEYS), backend='larder-many'),
    'view': lambda: get('larder', (16384, 20_000), backend='larder-view'),
    'set': lambda: change('set', 'umap-mutex', 64, 1024),
    'insert': lambda: change('insert', 'list-lru', 64, 1024),
    'tail': tail,
    'scaling': scaling,
    'hits-rows': hits_rows,
    'hits-ristretto': hits_ristretto,
    'hits-mean': hits_mean,
    'hits-lru': hits_lru,
    'hits-together': hits_together,
    'hits-bytes-lfu': hits_bytes_lfu,
    'hits-bytes-lru': hits_bytes_lru,
    'growing': growing,
    'payload-1k': lambda: payload(256, 1024, 'fixed'),
    'payload-100': lambda: payload(256, 100, 'fixed'),
    'payload-lognormal': lambda: payload(256, 1024, 'lognormal'),
    'payload-small': lambda: payload(4, 1024, 'fixed'),
    'steady': steady}

if __name__ == '__main__':
    if len(sys.argv) != 2 or sys.argv[1] not in POINTS:
        sys.exit(f'usage: table.py {"|".join(POINTS)}')
    POINTS[sys.argv[1]]()
