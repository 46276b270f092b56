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
QUICK = os.environ.get('PROVE_QUICK') == '1'
SEED = os.environ.get('PROVE_SEED', '1')
SAMPLE = ['--every-operation', '61'] if QUICK else []


def build():
    """Optimised as a release, with what tells the source line of an instruction."""
    script = '. tools/lib.sh; ensure_packages "${build_packages[@]}" "${test_packages[@]}" ' \
             'binutils patch; ' \
             f'configure {BUILD} -Dbuildtype=release -Ddebug=true -Dtests=true; ' \
             f'meson compile -C {BUILD} larder-kill'
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


if __name__ == '__main__':
    build()
    {'kill': kill, 'stores': stores}[sys.argv[1]](*sys.argv[2:])
