#!/usr/bin/env python3
"""Does the kill harness notice what it is there for?

    mutants.py [NAME...]     every patch of mutants/, or these

Each patch breaks one thing in shm/. A copy of the tree is built with it, and larder-kill must find
a violation in the operations that the patch names. Prints one line a mutant, then a JSON object.
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import patched  # noqa: E402

MUTANTS = pathlib.Path(__file__).resolve().parent / 'mutants'


def kill(only):
    """The sums of a run on these operations."""
    options = [word for name in only for word in ('--only', name)]
    done = patched.run(patched.build('larder-kill'), '--json', '--stop', *options)
    sums = json.loads(done.stdout.splitlines()[-1])
    if sums['operations'] == 0 and sums['violated'] == 0:
        sys.exit(f'no operation is named {only}')
    return sums


def try_mutant(patch):
    only = patched.header(patch, 'only')
    with patched.applied(patch):
        sums = kill(only)
    caught = sums['violated'] > 0
    print(f'{"caught" if caught else "MISSED":7} {patch.stem}: {patch.read_text().splitlines()[0]} '
          f'{sums["violations"][0].splitlines()[0] if caught else ""}', flush=True)
    return caught, only


def main():
    patches = patched.patches(MUTANTS, sys.argv[1:])
    patched.copy_tree()
    missed = 0
    everything = []
    for patch in patches:
        caught, only = try_mutant(patch)
        missed += not caught
        everything += only
    # The same operations without a mutant: what is caught above is the mutant.
    clean = kill(everything)
    print(json.dumps({'samples': [missed + clean['violated']], 'figure': missed + clean['violated'],
                      'mutants': len(patches), 'missed': missed, 'without': clean['violated']}))


if __name__ == '__main__':
    main()
