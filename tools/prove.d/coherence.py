"""Makes the figures of tools/prove coherence; one subcommand a point, named in coherence.points.

A million runs of the simulator take half an hour on two cores, so the points of each long run
share it: what it printed stays in build/coherence, and is used again as long as the program is the
same.
"""
import hashlib
import json
import os
import pathlib
import subprocess
import sys

BUILD = pathlib.Path('build/coherence')
SIM, HOSTS = (BUILD / 'tests' / name for name in ('larder-sim', 'larder-coherence'))
BENCH = BUILD / 'tools/bench/larder-sync-bench'
FAULT_TESTS = ('fault_network', 'fault_redis', 'fault_history', 'fault_refusal')
QUICK = os.environ.get('PROVE_QUICK') == '1'
SEED = os.environ.get('PROVE_SEED', '1')


def build():
    programs = ' '.join([SIM.name, HOSTS.name, BENCH.name, *(f'{name}_test' for name in FAULT_TESTS)])
    script = '. tools/lib.sh; ensure_packages "${build_packages[@]}" "${test_packages[@]}" patch; ' \
             f'configure {BUILD} -Dbuildtype=release -Dtests=true; ' \
             f'meson compile -C {BUILD} {programs}'
    made = subprocess.run(['bash', '-euo', 'pipefail', '-c', script], stdout=sys.stderr, check=False)
    if made.returncode:
        sys.exit('the build failed; its output is above')


def run(program, *options):
    """What it printed. It may end with 1: then its report says what is wrong."""
    done = subprocess.run([program, *map(str, options)], stdout=subprocess.PIPE, text=True,
                          check=False)
    if done.returncode not in (0, 1):
        sys.exit(f'{program} ended with status {done.returncode}: {done.stdout}')
    return done.stdout.splitlines()


def kept(program, *options):
    """The same of a run that may have been made before, its JSON object last."""
    of = program.read_bytes() + repr(options).encode()
    output = BUILD / f'{program.name}-{hashlib.sha256(of).hexdigest()[:16]}.output'
    if not output.exists():
        output.write_text('\n'.join(run(program, *options)))
    *progress, last = output.read_text().splitlines()
    return progress, json.loads(last)


def report(figure, **more):
    print(json.dumps({'samples': [figure], 'figure': figure, **more}))


# ---- the simulator -------------------------------------------------------------------------------

def sim(figure):
    progress, sums = kept(SIM, '--runs', 20_000 if QUICK else 1_000_000, '--seed', SEED, '--jobs', 2,
                          '--json')
    print(*progress, sep='\n')
    figures = {'failed': sums['failed'], 'runs': sums['runs'],
               'steps': sums['steps'] / sums['runs'], 'rarest': min(sums['faults'].values()),
               'unexpected': len(sums['unexpected']), 'stalest': sums['largest_staleness_us'] / 1000}
    report(figures[figure], **sums)


def scenarios():
    lines = run(SIM, '--scenario', 'all')
    wrong = [line for line in lines if not line.endswith(' passes')]
    report(len(wrong), of=len(lines), failures=wrong)


def base():
    """Properties that the base library's algorithm keeps in every run; it must keep none."""
    lines = run(SIM, '--library', 'base', '--runs', 300)
    print(*lines, sep='\n')
    shares = [float(line.split('%')[0].split()[-1]) for line in lines if '%' in line]
    report(sum(share == 0 for share in shares), of=len(shares))


# ---- a real Redis --------------------------------------------------------------------------------

def faults():
    done = subprocess.run(['meson', 'test', '-C', BUILD, '--no-rebuild', '--num-processes', '1',
                           *FAULT_TESTS], stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    passed = sum(' OK ' in line for line in done.stdout.splitlines())
    report(max(len(FAULT_TESTS) - passed, done.returncode != 0), of=len(FAULT_TESTS))


def hosts(figure):
    _, sums = kept(HOSTS, '--json', '--seed', SEED, '--seconds', 10 if QUICK else 60,
                   '--calm-seconds', 5 if QUICK else 30)
    for violation in sums['violations']:
        print(violation)
    figures = {'calm': sums['lease_held_percent']['none'],
               'differences': max(sums['differences'], len(sums['violations']))}
    report(figures.get(figure, sums.get(figure)), **sums)


def duel(kind):
    *_, last = run(HOSTS, f'--{kind}', 5_000 if QUICK else 100_000, '--json')
    sums = json.loads(last)
    report(max(sums['wrong'], len(sums['violations'])), **sums)


# ---- what it costs -------------------------------------------------------------------------------

def bench(what, samples, *options):
    few = ['--runs', '2'] if QUICK else []
    *_, last = run(BENCH, what, *options, *few)
    figures = json.loads(last)
    if what == 'outage':
        figures['waits'] = [each['waits'] for each in figures['runs']]
    print(json.dumps({**figures, 'samples': figures[samples]}))


def latency(samples):
    size = ['--runs', '2', '--count', '2000'] if QUICK else ['--runs', '10', '--count', '20000']
    _, figures = kept(BENCH, 'latency', *size)
    print(json.dumps({**figures, 'samples': figures[samples]}))


def storm(figure):
    _, figures = kept(BENCH, 'storm', '--count', 50_000 if QUICK else 1_000_000)
    report(figures[figure], **figures)


def restart():
    *_, last = run(BENCH, 'restart', '--count', 5_000 if QUICK else 100_000)
    sums = json.loads(last)
    changed = sums['changed'] - sums['changed_refetched']
    report(sums['wrong'] + changed + sums['keys'] - sums['changed'] - sums['unchanged_kept'], **sums)


if __name__ == '__main__':
    build()
    {'sim': sim, 'scenarios': scenarios, 'base': base, 'faults': faults, 'hosts': hosts,
     'duel': duel, 'bench': bench, 'latency': latency, 'storm': storm,
     'restart': restart}[sys.argv[1]](*sys.argv[2:])
