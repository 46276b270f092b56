#!/usr/bin/env python3
"""Does the simulator notice what it is there for?

    mutants.py [NAME...]     every patch of mutants/, or these

Each patch breaks one thing in the library. A copy of the tree is built with it; larder-sim must
then fail in the scenarios that the patch names, or, if it names none, in one of 100,000 runs by
chance. What the model itself does right is left out by `larder-sim --without` instead: see
`--scenario all`. Prints one line a mutant, then a JSON object.
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import patched  # noqa: E402

MUTANTS = pathlib.Path(__file__).resolve().parent / 'mutants'
RUNS = 100_000


def fails(*options):
    """What larder-sim complains of, or nothing."""
    done = patched.run(patched.build('larder-sim'), *options)
    if done.returncode not in (0, 1):
        return done.stderr.strip() or f'ended with {done.returncode}'
    return done.stdout.strip().splitlines()[-1] if done.returncode else ''


def by_chance():
    return fails('--runs', RUNS, '--stop')


def failing_scenarios():
    lines = patched.run(patched.build('larder-sim'), '--scenario', 'all').stdout.splitlines()
    return {line.split()[0] for line in lines if not line.endswith(' passes')}


def try_mutant(patch, noticed_by):
    scenarios = patched.header(patch, 'scenario')
    with patched.applied(patch):
        why = [fails('--scenario', name) for name in scenarios] or [by_chance()]
        failing = sorted(failing_scenarios())
    caught = all(why)
    noticed_by.update(failing)
    print(f'{"caught" if caught else "MISSED":7} {patch.stem}: {patch.read_text().splitlines()[0]} '
          f'{why[0]}; scenarios that fail: {", ".join(failing) or "none"}', flush=True)
    return caught


def main():
    patches = patched.patches(MUTANTS, sys.argv[1:])
    patched.copy_tree()
    noticed_by = set()
    missed = sum(not try_mutant(patch, noticed_by) for patch in patches)
    # The same without a mutant: what is caught above is the mutant.
    clean = bool(fails('--scenario', 'all')) + bool(by_chance())
    print(json.dumps({'samples': [missed + clean], 'figure': missed + clean,
                      'mutants': len(patches), 'missed': missed, 'without': clean,
                      'scenarios_that_fail_with_one': sorted(noticed_by)}))


if __name__ == '__main__':
    main()
