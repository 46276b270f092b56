#!/usr/bin/env python3
"""Does the kill harness notice what it is there for?

    mutants.py [NAME...]     every patch of mutants/, or these

Each patch breaks one thing in shm/. A copy of the tree is built with it, and larder-kill must find
a violation in the operations that the patch names. Prints one line a mutant, then a JSON object.
The copy stays in build/mutants for the next time.
"""
import json
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
MUTANTS = ROOT / 'tests/kill/mutants'
TREE = ROOT / 'build/mutants/tree'
BUILD = ROOT / 'build/mutants/build'


def run(*command, **options):
    return subprocess.run(list(map(str, command)), text=True, capture_output=True, **options)


def copy_tree():
    """The files as they are here, changes included; times are kept, so that little is rebuilt."""
    names = run('git', 'ls-files', '-co', '--exclude-standard', '-z', cwd=ROOT, check=True).stdout
    for name in filter(None, names.split('\0')):
        source, target = ROOT / name, TREE / name
        if not source.is_file():
            continue
        if target.exists() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def build():
    if not (BUILD / 'build.ninja').exists():
        setup = run('meson', 'setup', BUILD, TREE, '--buildtype=release', '-Dtests=true')
        if setup.returncode:
            sys.exit(setup.stdout + setup.stderr)
    made = run('ninja', '-C', BUILD, 'tests/larder-kill')
    if made.returncode:
        sys.exit(made.stdout + made.stderr)


def kill(only):
    """The sums of a run on these operations."""
    options = [word for name in only for word in ('--only', name)]
    done = run(BUILD / 'tests/larder-kill', '--json', '--stop', *options)
    sums = json.loads(done.stdout.splitlines()[-1])
    if sums['operations'] == 0 and sums['violated'] == 0:
        sys.exit(f'no operation is named {only}')
    return sums


def try_mutant(patch):
    lines = patch.read_text().splitlines()
    only = [line.removeprefix('only: ') for line in lines if line.startswith('only: ')]
    applied = run('patch', '-p1', '--no-backup-if-mismatch', '-i', patch, cwd=TREE)
    if applied.returncode:
        sys.exit(f'{patch.name} does not fit the sources any more:\n{applied.stdout}')
    try:
        build()
        sums = kill(only)
    finally:
        run('patch', '-p1', '-R', '-i', patch, cwd=TREE, check=True)
    caught = sums['violated'] > 0
    print(f'{"caught" if caught else "MISSED":7} {patch.stem}: {lines[0]} '
          f'{sums["violations"][0].splitlines()[0] if caught else ""}', flush=True)
    return caught, only


def main():
    names = sys.argv[1:]
    patches = sorted(MUTANTS.glob('*.patch'))
    patches = [patch for patch in patches if not names or patch.stem in names]
    if not patches:
        sys.exit(f'no mutant {names} in {MUTANTS}')
    copy_tree()
    missed = 0
    everything = []
    for patch in patches:
        caught, only = try_mutant(patch)
        missed += not caught
        everything += only
    # The same operations without a mutant: what is caught above is the mutant.
    build()
    clean = kill(everything)
    print(json.dumps({'samples': [missed + clean['violated']], 'figure': missed + clean['violated'],
                      'mutants': len(patches), 'missed': missed, 'without': clean['violated']}))


if __name__ == '__main__':
    main()
