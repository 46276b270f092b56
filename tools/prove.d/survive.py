"""Makes the figures of tools/prove survive; one subcommand a point, named in survive.points.

The kill campaign takes half an hour on two cores and the storm ten minutes, so the points of each
share one run: what it printed stays in build/kill, and is used again as long as the program is the
same.
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
STORM = BUILD / 'tests/larder-storm'
STORM_SECONDS, NAMESPACES_SECONDS = (15, 15) if os.environ.get('PROVE_QUICK') == '1' else (600, 60)
VIOLATIONS = ('wrong', 'faults', 'crashes', 'stuck', 'leaks')
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
             f'meson compile -C {BUILD} larder-kill larder-handover larder-storm'
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
def storm_report(*options):
    """Of one storm. It ends with 1 when something was wrong, and says so in its report too."""
    options += ('--json', '--workers', '8', '--seed', SEED)
    mark = hashlib.sha256(STORM.read_bytes() + repr(options).encode()).hexdigest()[:16]
    kept = BUILD / f'storm-{mark}.json'
    if not kept.exists():
        done = subprocess.run([STORM, *options], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 1):
            sys.exit(f'{STORM} ended with status {done.returncode}: {done.stdout}')
        kept.write_text(done.stdout.splitlines()[-1])
    report = json.loads(kept.read_text())
    for complaint in report.pop('complaints'):
        print(complaint)
    return report


def storm(*figures):
    report = storm_report('--seconds', str(STORM_SECONDS))
    figure = sum(report[name] for name in figures)
    print(json.dumps({'samples': [figure], 'figure': figure, **report}))


def namespaces():
    report = storm_report('--seconds', str(NAMESPACES_SECONDS), '--namespaces')
    figure = sum(report[name] for name in VIOLATIONS) + (report['pid_pairs'] == 0)
    print(json.dumps({'samples': [figure], 'figure': figure, **report}))


if __name__ == '__main__':
    build()
    {'kill': kill, 'stores': stores, 'handover': handover, 'beside-stopped': beside_stopped,
     'stale-term': stale_term, 'storm': storm, 'namespaces': namespaces}[sys.argv[1]](*sys.argv[2:])
