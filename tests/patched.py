"""A copy of the tree that is broken on purpose: patches, one at a time, and what is built of them.

A patch begins with a sentence that says what it breaks, then lines "field: value", then a diff. The
copy and its build stay in build/mutants for the next time.
"""
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
TREE = ROOT / 'build/mutants/tree'
BUILD = ROOT / 'build/mutants/build'


def run(*command, **options):
    return subprocess.run(list(map(str, command)), text=True, capture_output=True, **options)


def patches(folder, names):
    """Those of a folder that are named, or all."""
    found = [patch for patch in sorted(folder.glob('*.patch')) if not names or patch.stem in names]
    if not found:
        sys.exit(f'no patch {names} in {folder}')
    return found


def header(patch, field):
    """The values of all lines of this field."""
    lines = patch.read_text().splitlines()
    return [line.removeprefix(field + ': ') for line in lines if line.startswith(field + ': ')]


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


@contextlib.contextmanager
def applied(patch):
    done = run('patch', '--fuzz=0', '-p1', '--no-backup-if-mismatch', '-i', patch, cwd=TREE)
    if done.returncode:
        sys.exit(f'{patch.name} does not fit the sources any more:\n{done.stdout}')
    try:
        yield
    finally:
        run('patch', '--fuzz=0', '-p1', '-R', '-i', patch, cwd=TREE, check=True)


def build(program):
    """Builds a program of tests/, and returns its path."""
    if not (BUILD / 'build.ninja').exists():
        setup = run('meson', 'setup', BUILD, TREE, '--buildtype=release', '-Dtests=true')
        if setup.returncode:
            sys.exit(setup.stdout + setup.stderr)
    made = run('ninja', '-C', BUILD, '-j', os.cpu_count(), f'tests/{program}')
    if made.returncode:
        sys.exit(made.stdout + made.stderr)
    return BUILD / 'tests' / program
