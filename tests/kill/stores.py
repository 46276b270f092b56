#!/usr/bin/env python3
"""Which lines that store to a segment were never killed at?

    stores.py PROGRAM INSTRUCTIONS     PROGRAM: larder-kill with debug information
                                       INSTRUCTIONS: what larder-kill --instructions wrote

The compiler makes copies of a source line: the line was killed at when one of them was.

A store counts when it comes from a file of shm/ and from one of the ways that shm/ has to write
shared memory: an atomic, or the functions of racy_copy.h. Prints the source lines that have stores
which were not reached, with the reason that tests/kill/unreached.txt gives; the last line is JSON.
"""
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
REASONS = ROOT / 'tests/kill/unreached.txt'
NO_STORE = re.compile(r'^(cmp|test|lea|j|call|push|nop|prefetch|bt\b|ucomis|comis|pcmp|ptest|pop\b|'
                      r'mul|imul|div|idiv)')
WRITES = re.compile(r'atomic.*::(store|exchange|compare_exchange|fetch_|operator)|copy_to_shared|'
                    r'store_word|__atomic')


def store_offsets(program):
    """Offsets of instructions whose destination is memory, the stack apart."""
    text = subprocess.run(['objdump', '-d', '--no-show-raw-insn', '--section=.text', program],
                          capture_output=True, text=True, check=True).stdout
    for line in text.splitlines():
        match = re.match(r'\s*([0-9a-f]+):\s+(?:lock |rep |repz |repnz |notrack )*(\S+)\s+(.*)$', line)
        if not match or NO_STORE.match(match[2]):
            continue
        target = match[3].split('#')[0].strip().split(' <')[0]
        if target.endswith(')') and '(%rsp' not in target.rsplit(',(', 1)[-1].rsplit(' ', 1)[-1]:
            last = re.search(r'(?:^|,)(-?0x[0-9a-f]+|)\(([^()]*)\)$', target)
            if last and '%rsp' not in last[2] and '%rip' not in last[2]:
                yield match[1]


def frames(program, offsets):
    """For each offset its inlined calls, innermost first: (function, file, line)."""
    done = subprocess.run(['addr2line', '-a', '-i', '-f', '-C', '-e', program],
                          input='\n'.join('0x' + o for o in offsets), capture_output=True,
                          text=True, check=True).stdout.splitlines()
    found, now = {}, None
    for line in done:
        if re.fullmatch(r'0x[0-9a-f]+', line):
            now = found.setdefault(line[2:].lstrip('0'), [])
            function = None
        elif function is None:
            function = line
        else:
            place = re.match(r'(.*):(\d+)', line)
            now.append((function, place[1] if place else line, place[2] if place else '0'))
            function = None
    return found


def source_line(file, number):
    try:
        return (ROOT / file).read_text().splitlines()[int(number) - 1].strip()
    except (OSError, IndexError):
        return '?'


def main():
    program, reached_file = sys.argv[1:]
    reached = {line.strip().lstrip('0') for line in open(reached_file)}
    reasons = dict(line.rstrip('\n').rsplit(' | ', 1) for line in REASONS.open()
                   if line.strip() and not line.startswith('#'))
    stores, unreached, killed_at = 0, {}, set()
    offsets = list(store_offsets(program))
    for offset, calls in frames(program, offsets).items():
        own = [(re.sub(r'^.*/(shm/)', r'\1', file), line) for _, file, line in calls
               if re.search(r'(^|/)shm/[a-z_]+\.(cc|h)$', file) and '/tests/' not in file]
        if not own or not any(WRITES.search(function) for function, _, _ in calls):
            continue
        stores += 1
        # The line that asked for it: not that of a helper which everybody uses.
        place = next((p for p in own if p[0] != 'shm/racy_copy.h'), own[0])
        if offset in reached:
            killed_at.add(place)
        else:
            unreached.setdefault(place, []).append(offset)
    unreached = {place: where for place, where in unreached.items() if place not in killed_at}
    unexplained = 0
    for (file, line), where in sorted(unreached.items(), key=lambda item: (item[0][0], int(item[0][1]))):
        text = source_line(file, line)
        reason = reasons.get(f'{file}: {text}')
        unexplained += reason is None
        print(f'{file}:{line}: {len(where)} stores: {text}: {reason or "NOT EXPLAINED"}')
    print(json.dumps({'samples': [unexplained], 'figure': unexplained, 'stores': stores,
                      'unreached': sum(map(len, unreached.values())), 'lines': len(unreached)}))


if __name__ == '__main__':
    main()
