#!/usr/bin/env python3
"""Runs the fuzz targets with libFuzzer (clang-16), with AddressSanitizer and UBSan.

    campaign.py check       the corpus, then 5 s of new inputs for each target
    campaign.py crashes     1,200 s in all; prints the figure of tools/prove survive's fuzz-crashes
    campaign.py coverage    lines of each parser that the corpus reaches; prints fuzz-coverage's

What is found on the way is kept in build/fuzz-corpus/TARGET and used again by each of them. The
time that was spent without a crash counts as long as the program is the same, so `crashes` may be
interrupted. An input that fails is kept in build/fuzz-crashes, and the command that repeats it is
printed.
"""
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / 'build/fuzz'
COVERAGE = ROOT / 'build/fuzz-coverage'
CORPUS = ROOT / 'build/fuzz-corpus'
CRASHES = ROOT / 'build/fuzz-crashes'
QUICK = os.environ.get('PROVE_QUICK') == '1'
SEED = os.environ.get('PROVE_SEED', '1')
CHECK_SECONDS = 5
SLICE_SECONDS = 60  # after which the time spent is written down
# The part of the time that each target gets: the segment has by far the most to it.
TARGETS = {'segment': 8, 'event': 1, 'codec': 1}
MAX_BYTES = {'segment': 512, 'event': 4096, 'codec': 1024}
PARSERS = ['src/sync/event.cc', 'src/sync/json.cc', 'src/sync/base64.cc', 'include/larder/codec.h',
           'include/larder/codec_json.h', 'include/larder/codec_msgpack.h',
           'include/larder/typed.h']


def program(build, target):
    return build / 'tests/fuzz' / f'fuzz_{target}'


def build(folder, *options):
    targets = ' '.join(f'fuzz_{target}' for target in TARGETS)
    script = '. tools/lib.sh; ensure_packages "${build_packages[@]}" "${test_packages[@]}" ' \
             '"${fuzz_packages[@]}"; export CXX="clang++-16"; ' \
             'if command -v ccache >/dev/null; then CXX="ccache $CXX"; fi; ' \
             f'configure {folder} -Doptimization=2 -Ddebug=false -Dcpp_args=-g1 -Dtests=true -Dfuzzers=true ' \
             f'-Db_lundef=false {" ".join(options)}; meson compile -C {folder} {targets}'
    made = subprocess.run(['bash', '-euo', 'pipefail', '-c', script], cwd=ROOT, stdout=sys.stderr,
                          check=False)
    if made.returncode:
        sys.exit('the build failed; its output is above')


def environment(scratch):
    """`scratch`: for segments, so that nothing of a program that crashed stays behind."""
    return dict(os.environ, LARDER_FUZZ_DIR=scratch, ASAN_SYMBOLIZER_PATH='/usr/bin/llvm-symbolizer-16',
                ASAN_OPTIONS='strict_string_checks=1:detect_stack_use_after_return=1',
                UBSAN_OPTIONS='halt_on_error=1:print_stacktrace=1')


def corpora(target):
    """libFuzzer adds what is new to the first one."""
    grown = CORPUS / target
    grown.mkdir(parents=True, exist_ok=True)
    return [grown, ROOT / 'tests/fuzz/corpus' / target]


def run(build_folder, target, *options):
    """Whether it ended well; what it printed is shown when it did not."""
    CRASHES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir='/dev/shm', prefix='larder-fuzz-') as scratch:
        done = subprocess.run(
            [program(build_folder, target), '-timeout=300', f'-max_len={MAX_BYTES[target]}',
             f'-artifact_prefix={CRASHES}/{target}-', *options, *corpora(target)],
            env=environment(scratch), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors='replace', check=False)
    if done.returncode == 0:
        return True
    lines = done.stdout.splitlines()
    print(*lines[-80:], sep='\n')
    for line in lines:
        if 'Test unit written to ' in line:
            unit = line.rsplit(' ', 1)[-1]
            print(f'to repeat: {program(build_folder, target).relative_to(ROOT)} '
                  f'{os.path.relpath(unit, ROOT)}')
    return False


def fuzz(target, seconds, seed):
    return run(BUILD, target, f'-max_total_time={seconds}', f'-seed={seed}', '-len_control=0')


def check():
    build(BUILD, '-Db_sanitize=address,undefined')
    # The corpus of the tree alone first: an input of it that fails shall be told by its name.
    failed = [target for target in TARGETS
              if not (run(BUILD, target, '-runs=0') and fuzz(target, CHECK_SECONDS, SEED))]
    print('failed: ' + ', '.join(failed) if failed else 'no crash')
    sys.exit(1 if failed else 0)


def crashes():
    build(BUILD, '-Db_sanitize=address,undefined')
    seconds_in_all = 15 if QUICK else 1200
    crashed = 0
    spent = {}
    for target, share in TARGETS.items():
        mark = hashlib.sha256(program(BUILD, target).read_bytes()).hexdigest()[:16]
        record = CORPUS / f'{target}-{mark}.seconds'
        wanted = max(seconds_in_all * share // sum(TARGETS.values()), 1)
        done = 0 if QUICK or not record.exists() else int(record.read_text())
        while done < wanted:
            seconds = min(SLICE_SECONDS, wanted - done)
            if not fuzz(target, seconds, int(SEED) + done):
                crashed += 1
                break
            done += seconds
            print(f'{target}: {done} of {wanted} s', flush=True)
            if not QUICK:
                record.write_text(str(done))
        spent[target] = done
    print(json.dumps({'samples': [crashed], 'figure': crashed, 'seconds': spent}))


def coverage():
    """Of the corpus alone: nothing is mutated."""
    os.environ['LLVM_PROFILE_FILE'] = '/dev/null'  # of what the build itself runs
    build(COVERAGE, '-Dcpp_args="-fprofile-instr-generate -fcoverage-mapping"',
          '-Dcpp_link_args=-fprofile-instr-generate')
    with tempfile.TemporaryDirectory() as folder:
        raw = [f'{folder}/{target}.raw' for target in TARGETS]
        for target, profile in zip(TARGETS, raw):
            os.environ['LLVM_PROFILE_FILE'] = profile
            if not run(COVERAGE, target, '-runs=0'):
                sys.exit(f'{target} failed')
        subprocess.run(['llvm-profdata-16', 'merge', *raw, '-o', f'{folder}/all'], check=True)
        objects = [program(COVERAGE, target) for target in TARGETS]
        objects += [COVERAGE / 'src/liblarder.so']
        report = subprocess.run(
            ['llvm-cov-16', 'export', '-summary-only', f'-instr-profile={folder}/all', objects[0],
             *(f'-object={each}' for each in objects[1:])],
            stdout=subprocess.PIPE, check=True).stdout
    percent = {}
    for file in json.loads(report)['data'][0]['files']:
        name = os.path.relpath(file['filename'], ROOT)
        if name in PARSERS:
            percent[name] = round(file['summary']['lines']['percent'], 1)
            print(f'{percent[name]:5} % of the lines of {name}')
    missing = set(PARSERS) - set(percent)
    if missing:
        sys.exit(f'no lines of {", ".join(sorted(missing))} were seen')
    print(json.dumps({'samples': list(percent.values()), 'figure': min(percent.values()),
                      'percent': percent}))


if __name__ == '__main__':
    os.chdir(ROOT)
    {'check': check, 'crashes': crashes, 'coverage': coverage}[sys.argv[1]]()
