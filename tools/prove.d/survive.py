"""Makes the figures of tools/prove survive; one subcommand a point, named in survive.points.

The kill campaign takes half an hour on two cores, the storm ten minutes and the handovers
four, so the points of each share one run: what it printed stays in build/kill, and is used again as
long as the program is the same.
"""
import hashlib
import json
import os
import pathlib
import subprocess
import sys

BUILD = pathlib.Path('build/kill')
KILL, HANDOVER, STORM = (BUILD / 'tests' / name
                         for name in ('larder-kill', 'larder-handover', 'larder-storm'))
QUICK = os.environ.get('PROVE_QUICK') == '1'
SEED = os.environ.get('PROVE_SEED', '1')
WRONG_IN_STORM = ('wrong', 'faults', 'crashes', 'stuck', 'leaks')


def build():
    """Optimised as a release, with what tells the source line of an instruction."""
    programs = ' '.join(program.name for program in (KILL, HANDOVER, STORM))
    script = '. tools/lib.sh; ensure_packages "${build_packages[@]}" "${test_packages[@]}" ' \
             'binutils patch; ' \
             f'configure {BUILD} -Dbuildtype=release -Ddebug=true -Dtests=true; ' \
             f'meson compile -C {BUILD} {programs}'
    made = subprocess.run(['bash', '-euo', 'pipefail', '-c', script], stdout=sys.stderr, check=False)
    if made.returncode:
        sys.exit('the build failed; its output is above')


def kept(program, *options, instructions=False):
    """What a run printed, one JSON object last, and where its instructions are. A run may end with
    1: then its report says what is wrong."""
    options = [*options, '--seed', SEED]
    of = program.read_bytes() + repr((options, os.environ.get('LARDER_SABOTAGE'))).encode()
    mark = hashlib.sha256(of).hexdigest()[:16]
    output = BUILD / f'{program.name}-{mark}.output'
    addresses = output.with_suffix('.instructions')
    if not output.exists():
        if instructions:
            options += ['--instructions', addresses]
        done = subprocess.run([program, *options], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 1):
            sys.exit(f'{program} ended with status {done.returncode}: {done.stdout}')
        output.write_text(done.stdout)
    *progress, last = output.read_text().splitlines()
    return progress, json.loads(last), addresses


def report(figure, **more):
    print(json.dumps({'samples': [figure], 'figure': figure, **more}))


# ---- killed at each instruction ------------------------------------------------------------------

def campaign():
    return kept(KILL, '--json', *(['--every-operation', '61'] if QUICK else []), instructions=True)


def kill(figure):
    _, sums, _ = campaign()
    for line in sums['violations']:
        print(line.splitlines()[0])
    report(sums[figure], **sums)


def stores():
    _, _, instructions = campaign()
    os.execvp('python3', ['python3', 'tests/kill/stores.py', KILL, instructions])


# ---- killed and stopped as leaders, and in a lock ------------------------------------------------

def handovers():
    few = ['--kills', '20', '--stops', '2', '--read-turns', '5'] if QUICK else []
    progress, figures, _ = kept(HANDOVER, *few)
    print(*progress, sep='\n')
    return figures


def handover(which):
    print(json.dumps({'samples': handovers()[which]['ms']}))


def beside_stopped(which):
    print(json.dumps({'samples': handovers()[which]}))


def stale_term():
    turns = [handovers()[how] for how in ('kill', 'stop')]
    report(sum(each['stale_term_writes'] for each in turns),
           refused=sum(each['stale_term_refused'] for each in turns))


# ---- the storm -----------------------------------------------------------------------------------

def storm_report(seconds, *options):
    _, figures, _ = kept(STORM, '--json', '--workers', '8', '--seconds',
                         '15' if QUICK else str(seconds), *options)
    for complaint in figures.pop('complaints'):
        print(complaint)
    return figures


def storm(*names):
    figures = storm_report(600)
    report(sum(figures[name] for name in names), **figures)


def namespaces():
    figures = storm_report(60, '--namespaces')
    wrong = sum(figures[name] for name in WRONG_IN_STORM)
    report(wrong + (figures['pid_pairs'] == 0), **figures)


if __name__ == '__main__':
    build()
    {'kill': kill, 'stores': stores, 'handover': handover, 'beside-stopped': beside_stopped,
     'stale-term': stale_term, 'storm': storm, 'namespaces': namespaces}[sys.argv[1]](*sys.argv[2:])
