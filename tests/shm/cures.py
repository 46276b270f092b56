#!/usr/bin/env python3
"""Does each schedule's test fail when its cure is taken out?

    cures.py [NAME...]     every patch of cures/, or these

Each patch takes one cure out, and names the test (of a program of tests/) that must fail then, and
does not without the patch. Prints one line a patch, then a JSON object. PROVE_QUICK=1: two of them.
"""
import json
import os
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import patched  # noqa: E402

CURES = pathlib.Path(__file__).resolve().parent / 'cures'
QUICK = ['3b-bypass', '6a-order']
PATIENCE_S = 300


def run_test(program, test):
    """Whether it passed (None: it is not there, or did not come to an end), and what failed."""
    # A comma separates patterns; a question mark stands for any one character.
    pattern = test.replace(',', '?')
    try:
        done = patched.run(program, f'--test-case={pattern}', timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return None, f'still running after {PATIENCE_S} s'
    sums = re.search(r'test cases: +1 \| +(\d) passed \| +(\d) failed', done.stdout)
    if sums is None:
        return None, f'no such test in {program.name}'
    failure = re.search(r'ERROR: .*', done.stdout)
    return sums.group(2) == '0' and done.returncode == 0, failure.group() if failure else ''


def try_cure(patch):
    program, = patched.header(patch, 'program')
    test, = patched.header(patch, 'test')
    with patched.applied(patch):
        passed, failure = run_test(patched.build(program), test)
    failed = passed is False
    print(f'{"fails" if failed else "DOES NOT FAIL"} {patch.stem}: '
          f'{patch.read_text().splitlines()[0]} {test}: {failure}', flush=True)
    return failed, (program, test)


def main():
    names = sys.argv[1:] or (QUICK if os.environ.get('PROVE_QUICK') == '1' else [])
    patches = patched.patches(CURES, names)
    patched.copy_tree()
    missed = 0
    tests = set()
    for patch in patches:
        failed, test = try_cure(patch)
        missed += not failed
        tests.add(test)
    # The same tests with the cures in.
    without = 0
    for program, test in sorted(tests):
        passed, failure = run_test(patched.build(program), test)
        if not passed:
            without += 1
            print(f'FAILS with its cure in: {test}: {failure}', flush=True)
    print(json.dumps({'samples': [missed + without], 'figure': missed + without,
                      'cures': len(patches), 'missed': missed, 'without': without}))


if __name__ == '__main__':
    main()
