"""Makes the figures of tools/prove survive; one subcommand a point, named in survive.points.

The kill campaign takes half an hour on two cores, so its points share one run: what it printed and
where it was stays in build/kill, and is used again as long as the program is the same.
"""
import hashlib
import json
import os
import pathlib
import subprocess
import sys

BUILD = pathlib.Path('build/kill')
PROGRAM = BUILD / 'tests/larder-kill'
HANDOVER = BUILD / 'tests/larder-handover'
QUICK = os.environ.get('PROVE_QUICK') == '1'
SEED = os.environ.get('PROVE_SEED', '1')
SAMPLE = ['--every-operation', '61'] if QUICK else []
SABOTAGE = os.environ.get('LARDER_SABOTAGE')
FEW_TURNS = ['--kills', '20', '--stops', '2', '--read-turns', '5'] if QUICK else []


def build():
    """Optimised as a release, with what tells the source line of an instruction."""
    script = '. tools/lib.sh; ensure_packages "${build_packages[@]}" "${test_packages[@]}" ' \
             'binutils patch; ' \
             f'configure {BUILD} -Dbuildtype=release -Ddebug=true -Dtests=true; ' \
             f'meson compile -C {BUILD} larder-kill larder-handover'
    made = subprocess.run(['bash', '-euo', 'pipefail', '-c', script], stdout=sys.stderr, check=False)
    if made.returncode:
        sys.exit('the build failed; its output is above')


def campaign():
    """Its sums, and the file with the instructions that it killed at."""
    mark = hashlib.sha256(PROGRAM.read_bytes() + repr((SAMPLE, SEED)).encode()).hexdigest()[:16]
    sums, instructions = BUILD / f'kill-{mark}.json', BUILD / f'kill-{mark}.instructions'
    if not sums.exists():
        done = subprocess.run([PROGRAM, '--json', '--seed', SEED, '--instructions', instructions,
                               *SAMPLE], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 1):
            sys.exit(f'{PROGRAM} ended with status {done.returncode}')
        sums.write_text(done.stdout.splitlines()[-1])
    return json.loads(sums.read_text()), instructions


def kill(figure):
    sums, _ = campaign()
    for line in sums['violations']:
        print(line.splitlines()[0])
    print(json.dumps({'samples': [sums[figure]], 'figure': sums[figure], **sums}))


def stores():
    _, instructions = campaign()
    os.execvp('python3', ['python3', 'tests/kill/stores.py', PROGRAM, instructions])


def handovers():
    """Leaders and writers killed and stopped; some four minutes, shared by the points below."""
    of = HANDOVER.read_bytes() + repr((FEW_TURNS, SEED, SABOTAGE)).encode()
    mark = hashlib.sha256(of).hexdigest()[:16]
    seen = BUILD / f'handover-{mark}.json'
    if not seen.exists():
        done = subprocess.run([HANDOVER, '--seed', SEED, *FEW_TURNS], stdout=subprocess.PIPE,
                              text=True, check=False)
        if done.returncode:
            sys.exit(f'{HANDOVER} ended with status {done.returncode}')
        seen.write_text(done.stdout)
    *progress, last = seen.read_text().splitlines()
    print(*progress, sep='\n')
    return json.loads(last)


def handover(which):
    print(json.dumps({'samples': handovers()[which]['ms']}))


def beside_stopped(which):
    print(json.dumps({'samples': handovers()[which]}))


def stale_term():
    turns = [handovers()[how] for how in ('kill', 'stop')]
    print(json.dumps({'samples': [each['stale_term_writes'] for each in turns],
                      'figure': sum(each['stale_term_writes'] for each in turns),
                      'refused': sum(each['stale_term_refused'] for each in turns)}))


if __name__ == '__main__':
    build()
    {'kill': kill, 'stores': stores, 'handover': handover, 'beside-stopped': beside_stopped,
     'stale-term': stale_term}[sys.argv[1]](*sys.argv[2:])
