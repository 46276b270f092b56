"""Makes the figures of tools/prove path; one subcommand a point, named in path.points.

The last line printed is {"samples": [...], "figure": x, ...}. A figure that counts failures names the
first of them under "failures".
"""
import base64
import json
import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from lab import BENCH, ROOT, Host, Redis, eventually, lab  # noqa: E402

QUICK = os.environ.get('PROVE_QUICK') == '1'
SABOTAGE = os.environ.get('LARDER_SABOTAGE', '')
SEED = int(os.environ.get('PROVE_SEED', '1'))


def sized(full, quick):
    return quick if QUICK else full


def counted(failures, of, **more):
    """A figure that is a number of failures among `of` trials, of which there must be some."""
    if of == 0:
        sys.exit('nothing was tried')
    print(json.dumps({'samples': [len(failures)], 'figure': len(failures), 'of': of,
                      'failures': failures[:5], **more}))


def progress(text):
    print(text, flush=True)


# ---- one host, two hosts ---------------------------------------------------------------------------


def workers_see():
    rounds = sized(300, 60)
    wrong = []
    with lab() as add:
        redis = add(Redis())
        host = add(Host('a', redis))
        # Sabotage: the answers come from a host that shares nothing with the first.
        asked = add(Host('other')) if SABOTAGE == 'other-host' else host
        for number in range(rounds):
            value = f'{SEED}-{number}'.encode()
            host.put('shared', value)
            answers = asked.each_worker('shared')
            wrong += [f'round {number}: {x.status} {x.source} {x.body!r}' for x in answers
                      if not x.is_local(value)]
            if len(answers) != host.worker_count:
                wrong.append(f'round {number}: {len(answers)} workers answered')
            if number % 50 == 49:
                progress(f'{number + 1} of {rounds} rounds')
    counted(wrong, rounds * 4)


def hosts_converge():
    rounds, keys = sized(2_000, 300), 40
    with lab() as add:
        redis = add(Redis())
        # Sabotage: the second host listens on another channel, as a misconfigured one would.
        elsewhere = ('--channel', 'elsewhere') if SABOTAGE == 'other-channel' else ()
        hosts = [add(Host('a', redis)), add(Host('b', redis, options=elsewhere))]

        def write(host, number):
            rng = random.Random(SEED * 100 + number)
            for count in range(rounds):
                host.put(f'k{rng.randrange(keys)}', f'{number}-{count}'.encode())

        writers = [threading.Thread(target=write, args=(host, n * 2 + i))
                   for n, host in enumerate(hosts) for i in range(2)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        progress(f'{4 * rounds} crossing writes to {keys} keys')

        def differing():
            found = []
            for key in range(keys):
                stored = redis.cli('get', f'k{key}').encode()
                found += [f'k{key}: {host.name} has {x.body!r}, Redis {stored!r}' for host in hosts
                          for x in [host.get(f'k{key}')] if x.body != stored]
            return found

        eventually(lambda: not differing())
        counted(differing(), keys * len(hosts), writes=4 * rounds)


# ---- the wire ------------------------------------------------------------------------------------

GO_EVENTS = ROOT / 'tests/data/go-events.txt'
# What the capturing pod ignored for reasons of its own: k6 carries that pod's own id, k12 a value
# that its JSON codec could not read. To us they are another node's bytes.
ONLY_THAT_POD_MINDED = ('"k6"', '"k12"')


def go_payloads():
    """[(payload bytes, did the Go pod act on it)] of the capture."""
    text = GO_EVENTS.read_text()
    cut = text.index('### what a receiving pod makes')
    sent = [bytes.fromhex(x) for x in re.findall(r'^hex: ([0-9a-f]+)$', text[:cut], re.M)]
    tried = []
    for quoted, outcome in re.findall(r'^("\\?.*") -> (.*)$', text[cut:], re.M):
        applied = not outcome.endswith('stored []') and '9 -> 9' not in outcome
        payload = json.loads(quoted)
        applied = applied or any(key in payload for key in ONLY_THAT_POD_MINDED)
        tried.append((payload.encode(), applied))
    # Sent by pod-1, received by other pods: all of them, but for a set without value.
    return [(p, b'"set"' not in p or b'"value"' in p) for p in sent] + tried


def go_events():
    other = []
    payloads = [p for p in go_payloads() if p[0]]
    with lab() as add:
        redis = add(Redis())
        host = add(Host('a', redis, workers=1, options=('--go-peers', 'trust')))
        publisher = Wire(redis.port)
        for payload, applied in payloads:
            dropped = dropped_key(payload) if applied else None
            if dropped:
                host.put(dropped, b'held before')
            before = host.stats()
            publisher.ask('PUBLISH', 'cache:invalidate', payload)
            # A marker behind it: once the marker is there, the event has had its effect.
            marker = json.dumps({'key': 'marker', 'sender': 'go', 'action': 'set', 'value':
                                 base64.b64encode(os.urandom(6)).decode()})
            publisher.ask('PUBLISH', 'cache:invalidate', marker.encode())
            value = base64.b64decode(json.loads(marker)['value'])
            eventually(lambda value=value: host.get('marker').body == value)
            after = host.stats()
            heard = after['events_without_id'] - before['events_without_id'] - 1
            if heard != int(applied):
                other.append(f'{payload[:120]!r}: {"ignored" if applied else "acted on"}')
                continue
            other += wrong_value(host, payload) if applied else []
            if dropped and (answer := host.get(dropped)).source != 'remote':
                other.append(f'{payload[:120]!r}: {dropped} is still {answer.source}')
    counted(other, len(payloads))


def dropped_key(payload):
    """A key whose copy this event must drop."""
    event = {name.lower(): value for name, value in json.loads(payload).items()}
    if event['action'] == 'clear':
        return 'anything'
    return event['key'] if event['action'] in ('invalidate', 'delete') else None


def wrong_value(host, payload):
    event = {name.lower(): value for name, value in json.loads(payload).items()}
    if event['action'] != 'set' or not event['key']:
        return []
    value = event['value']
    wanted = bytes(value) if isinstance(value, list) else base64.b64decode(value)
    answer = host.get(event['key'])
    return [] if answer.is_local(wanted) else [f'{payload[:120]!r}: holds {answer.body!r}']


class Wire:
    """A bare connection to Redis, to publish and to hear exact bytes."""

    def __init__(self, port):
        self.socket = socket.create_connection(('127.0.0.1', port), timeout=10)
        self.file = self.socket.makefile('rb')

    def send(self, *arguments):
        parts = [x if isinstance(x, bytes) else str(x).encode() for x in arguments]
        self.socket.sendall(b'*%d\r\n' % len(parts) +
                            b''.join(b'$%d\r\n%s\r\n' % (len(p), p) for p in parts))

    def read(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b'$':
            return self.file.read(int(rest) + 2)[:-2]
        if kind == b'*':
            return [self.read() for _ in range(int(rest))]
        return rest

    def ask(self, *arguments):
        self.send(*arguments)
        return self.read()


def our_events():
    unlike = []
    keys = ['user:1', 'a<b>&c"d\\e/f\t\n\u2028\x7f\x01', 'ключ:日本語:é:🙂']
    with lab() as add:
        redis = add(Redis())
        host = add(Host('a', redis, workers=1))
        listener = Wire(redis.port)
        listener.ask('SUBSCRIBE', 'cache:invalidate')
        goes = []
        for key in keys:
            goes += [(lambda key=key: host.put(key, b'\x00\xffv'), key, 'set', b'\x00\xffv'),
                     (lambda key=key: host.put(key, b'', ''), key, 'invalidate', None),
                     (lambda key=key: host.put(key, b'v', '?mode=invalidate'), key, 'invalidate', None),
                     (lambda key=key: host.request('DELETE', host.path(key)), key, 'delete', None)]
        goes.append((lambda: host.request('POST', '/clear'), '*', 'clear', None))
        for go, key, action, value in goes:
            go()
            payload = listener.read()[2]
            unlike += unlike_go(payload, key, action, value)
    counted(unlike, len(goes))


def go_string(text):
    """As Go's encoding/json writes it; json.dumps differs in these."""
    out = json.dumps(text, ensure_ascii=False)
    for char in '<>&\u2028\u2029':
        out = out.replace(char, f'\\u{ord(char):04x}')
    return out


def unlike_go(payload, key, action, value):
    event = json.loads(payload)
    start = f'{{"key":{go_string(key)},"sender":{go_string(event["sender"])},"action":"{action}"'
    if value is not None:
        start += f',"value":"{base64.b64encode(value).decode()}"'
    extra = set(event) - {'key', 'sender', 'action', 'value'}
    if payload.startswith(start.encode()) and {'id', 'prev'} <= extra and ('value' in event) == (value is not None):
        return []
    return [f'{payload!r} does not begin with {start}']


# ---- local, memory, speed --------------------------------------------------------------------------


def local_only():
    rounds, wrong = sized(2_000, 300), []
    with lab() as add:
        host = add(Host('a'))
        rng = random.Random(SEED)
        held = {}
        for number in range(rounds):
            key = f'k{rng.randrange(50)}'
            what = rng.randrange(10)
            if what < 4:
                held[key] = os.urandom(rng.randrange(2_000))
                status = host.put(key, held[key]).status
                wrong += [] if status < 300 else [f'PUT {key}: {status}']
            elif what == 4:
                held.pop(key, None)
                host.request('DELETE', host.path(key))
            elif what == 5 and number % 100 == 0:
                held.clear()
                host.request('POST', '/clear')
            else:
                answer = host.get(key)
                right = answer.is_local(held[key]) if key in held else answer.status == 404
                wrong += [] if right else [f'GET {key}: {answer.status} {len(answer.body)} bytes']
        if host.request('GET', '/healthz').status != 200:
            wrong.append('/healthz is not 200')
    counted(wrong, rounds)


def one_copy():
    count, size = sized(100_000, 50_000), 1024
    ratios = []
    megabytes = int(count * size * 1.25 / 2**20) + 4
    # Sabotage: what everybody does today, a cache in each process.
    hosts, workers = (4, 1) if SABOTAGE == 'private-copies' else (1, 4)
    with lab() as add:
        fleet = [add(Host(f'c{i}', workers=workers, segment_mb=megabytes)) for i in range(hosts)]
        for host in fleet:
            host.fill(count, size)
        for _ in range(3):
            for host in fleet:
                host.touch(count)
            entries = sum(host.stats()['entries'] for host in fleet) / hosts
            if entries < 0.99 * count:
                sys.exit(f'only {entries:.0f} of {count} values are held')
            ratios.append(sum(host.pss_bytes() for host in fleet) / (count * size))
            progress(f'{ratios[-1]:.3f} x payload, {entries:.0f} values held')
    print(json.dumps({'samples': ratios, 'figure': max(ratios), 'values': count}))


def get_hit(value_bytes, processes):
    command = [BENCH, '--workload', 'get-hit', '--value-bytes', value_bytes, '--processes', processes,
               '--keys', '100000', '--distribution', 'uniform', '--seconds', sized('2', '0.5'),
               '--repeats', sized('7', '3'), '--json']
    if SABOTAGE == 'from-redis':
        return get_from_redis()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    run = json.loads(done.stdout)['runs'][0]
    samples = run['samples']
    progress(f'{min(samples):.1f} to {max(samples):.1f} ns')
    print(json.dumps({'samples': samples, 'figure': sorted(samples)[len(samples) // 2],
                      'command': ' '.join(map(str, command[1:]))}))
    return None


def get_from_redis():
    """Sabotage: the same question without a local copy, a round trip each."""
    import time
    with lab() as add:
        wire = Wire(add(Redis()).port)
        wire.ask('SET', 'k', 'v' * 64)
        samples = []
        for _ in range(3):
            start = time.perf_counter_ns()
            for _ in range(500):
                wire.ask('GET', 'k')
            samples.append((time.perf_counter_ns() - start) / 500)
    print(json.dumps({'samples': samples, 'figure': sorted(samples)[1]}))


# ---- the tests, the README -------------------------------------------------------------------------


def build_tests():
    script = ('. tools/lib.sh; ensure_packages "${build_packages[@]}" "${run_packages[@]}" '
              '"${test_packages[@]}"; configure build/check -Dbuildtype=debugoptimized -Dwerror=true '
              '-Dtests=true >&2; meson compile -C build/check >&2')
    subprocess.run(['bash', '-euo', 'pipefail', '-c', script], cwd=ROOT, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run_tests(*options):
    """{name: result} of one run of meson test."""
    log = ROOT / 'build/check/meson-logs/prove.json'
    log.unlink(missing_ok=True)
    subprocess.run(['meson', 'test', '-C', 'build/check', '--no-rebuild', '--logbase', 'prove', *options],
                   cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in log.read_text().splitlines()]


def not_ok(tests):
    return [f"{t['name']}: {t['result']}" for t in tests if t['result'] not in ('OK', 'EXPECTEDFAIL')]


def wrong_input():
    build_tests()
    tests = run_tests('--suite', 'wrong-input')
    counted(not_ok(tests), len(tests))


def fifty_runs():
    build_tests()
    runs, failed, tests = sized(50, 2), [], []
    for number in range(1, runs + 1):
        tests = run_tests('--suite', 'process')
        if not_ok(tests):
            failed.append(f'run {number}: {", ".join(not_ok(tests))}')
        progress(f'run {number} of {runs}: {len(tests)} tests, {len(failed)} runs failed so far')
        if not tests:
            sys.exit('no test ran')
    counted(failed, runs, tests=len(tests))


def no_sleeps():
    """The one sleep allowed in each language stands in the function that asks again."""
    found = []
    files = [p for p in (ROOT / 'tests').rglob('*') if p.is_file() and 'data' not in p.parts]
    for path in files:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r'\b(sleep_for|sleep_until|usleep|nanosleep|sleep)\b\s*[(\d]', line) \
                    and not line.startswith('void pause_before_asking_again()') \
                    and '# asks again' not in line:
                found.append(f'{path.relative_to(ROOT)}:{number}: {line.strip()}')
    counted(found, len(files))


def readme():
    text = (ROOT / 'README.md').read_text()
    wanted = {
        'what it is': r'\A# larder\n+\S', 'an example of ten lines': r'```cpp\n(.*\n){6,16}?```',
        'limits': r'(?mi)^#+ .*limit', 'the demo command': r'tools/demo', 'the check command': r'tools/check',
        'the prove command': r'tools/prove', 'how it works': r'(?mi)^#+ how it works',
        'a diagram': r'(?s)how it works.*```\n.*[─┌│].*```', 'prefork rules': r'(?mi)^#+ .*prefork',
        'a source tour': r'(?mi)^#+ .*source', 'the figures': r'(?s)\n## Figures\n.*\d ns.*larder-bench .*get-hit'}
    counted([what for what, pattern in wanted.items() if not re.search(pattern, text, re.I)], len(wanted))


POINTS = {'workers-see': workers_see, 'hosts-converge': hosts_converge, 'go-events': go_events,
          'our-events': our_events, 'local-only': local_only, 'one-copy': one_copy, 'get-hit': get_hit,
          'wrong-input': wrong_input, 'no-sleeps': no_sleeps, 'fifty-runs': fifty_runs, 'readme': readme}
POINTS[sys.argv[1]](*sys.argv[2:])
