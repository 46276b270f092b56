"""The steps of tools/demo. Run that: it builds what this needs."""
import http.client
import os
import signal
import sys
import threading
import time

from lab import PATIENCE_S, ROOT, SHMCTL, Host, Redis, eventually, lab

WORKERS = 4

checks = {'held': 0, 'failed': 0}


def check(held, what):
    checks['held' if held else 'failed'] += 1
    print(f"  {'ok  ' if held else 'FAIL'}  {what}", flush=True)


def step(title):
    print(f'\n{title}', flush=True)


# ---- the steps -----------------------------------------------------------------------------------


def show_set(redis, a, b):
    step('A value PUT at host A is in the memory of every worker of host B')
    gets = redis.calls('get')
    check(a.put('greeting', b'hello').status in (200, 201, 204), 'PUT at A')
    check(eventually(lambda: b.get('greeting').is_local(b'hello') or redis.calls('get') != gets),
          'B serves it')
    answers = b.each_worker('greeting')
    check(len(answers) == WORKERS and all(x.is_local(b'hello') for x in answers),
          f'{len(answers)} workers of B serve it from shared memory')
    check(redis.calls('get') == gets, f'Redis ran no GET for it ({redis.calls("get") - gets} more)')


def show_invalidate(redis, a, b):
    step('set_with_invalidate: the other host drops its copy and reads the value when asked')
    gets = redis.calls('get')
    a.put('greeting', b'good day', '?mode=invalidate')
    seen = []

    def new_value():
        seen.append(b.get('greeting'))
        return seen[-1].body == b'good day'

    check(eventually(new_value) and seen[-1].source == 'remote', 'B read the new value from Redis')
    answers = b.each_worker('greeting')
    check(len(answers) == WORKERS and all(x.is_local(b'good day') for x in answers),
          'from then on all workers of B have it in memory')
    check(redis.calls('get') - gets == 1, f'one GET for {WORKERS} workers '
          f'({redis.calls("get") - gets} seen)')


def show_delete(a, b):
    step('DELETE at A')
    a.request('DELETE', '/kv/greeting')
    check(eventually(lambda: b.get('greeting').status == 404), 'B answers 404')
    check(all(x.status == 404 for x in b.each_worker('greeting')), 'so do all its workers')


def show_clear(redis, a, b):
    step('clear at A: the cache\'s own prefix, on every host and in Redis, and nothing else')
    redis.cli('set', 'somebody:else', 'stays')
    for i in range(50):
        a.put(f'c{i}', b'x')
    check(eventually(lambda: b.get('c49').is_local(b'x')), 'B holds 50 keys')
    a.request('POST', '/clear')
    check(eventually(lambda: b.get('c0').status == 404), 'B answers 404')
    check(all(b.get(f'c{i}').status == 404 for i in range(50)), 'for all of them')
    check(redis.cli('--scan', '--pattern', 'demo:*') == '', 'Redis holds none of them')
    check(redis.cli('get', 'somebody:else') == 'stays', 'another application\'s key is still there')


def show_leader_death(a, b):
    step('The leader of B is killed with SIGKILL')
    before = b.leader()
    os.kill(before['pid'], signal.SIGKILL)
    killed = time.monotonic()
    applied = b.stats()['events_applied']
    number = 0
    while time.monotonic() - killed < PATIENCE_S and b.stats()['events_applied'] <= applied:
        number += 1
        a.put('after', str(number).encode())
    took = time.monotonic() - killed
    after = b.leader()
    check(after['term'] > before['term'] and took < PATIENCE_S,
          f'process {after["pid"]} leads in its place; it applied the first event '
          f'{took * 1000:.0f} ms after the kill')
    a.put('after', b'all')
    check(eventually(lambda: b.get('after').is_local(b'all')), 'B is up to date')
    check(eventually(lambda: len(b.workers()) == WORKERS), 'the dead worker was replaced')


def show_killed_writers(a):
    step('Workers of A are killed in the middle of writes')
    stop = threading.Event()
    written = [0]

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            try:
                a.put(f'k{number % 500}', os.urandom(16).hex().encode() * 40)
                written[0] += 1
            except OSError:
                pass  # the worker that was asked is the one that died
            except http.client.HTTPException:
                pass

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    killed = 0
    for _ in range(10):
        done = written[0]
        eventually(lambda done=done: written[0] > done + 20)
        victims = a.workers()
        if victims:
            os.kill(victims[killed % len(victims)], signal.SIGKILL)
            killed += 1
            eventually(lambda: len(a.workers()) == WORKERS)
    stop.set()
    for writer in writers:
        writer.join()
    report = a.shmctl('check', a.name, '--deep')
    check(killed == 10 and report.returncode == 0,
          f'{killed} killed during {written[0]} writes; shmctl check --deep: '
          f'{report.stdout.strip().splitlines()[-1] if report.stdout else report.stderr.strip()}')
    check(a.get('k1').status == 200, 'A goes on serving')


def show_outage(redis, a, b):
    step('Redis is killed, and started again empty')
    a.put('held', b'before')
    check(eventually(lambda: b.get('held').is_local(b'before')), 'both hosts hold a value')
    redis.kill()
    answer = eventually(lambda: (lambda x: x if x.stale else None)(b.get('held')))
    check(answer and answer.status == 200 and answer.body == b'before',
          'a held value is served, marked stale')
    missing = b.get('never-set')
    check(missing.status == 503, f'what is not held is an error, not a miss ({missing.status})')
    refused = a.put('held', b'lost')
    check(refused.status == 503, f'a PUT is refused ({refused.status})')
    redis.start()
    check(eventually(lambda: a.in_sync() and b.in_sync()), 'both hosts follow the channel again')
    check(all(x.status == 404 for x in b.each_worker('held')),
          'and dropped what they could no longer vouch for')
    a.put('held', b'again')
    check(eventually(lambda: b.get('held').is_local(b'again')), 'a new value reaches B')


def show_memory(a):
    count, size = 20_000, 1024
    payload = count * size
    step(f'Memory: {count:,} values of 1 KiB, {WORKERS} workers')
    a.fill(count, size)
    total = a.pss_bytes()
    check(total < 2 * payload, f'{WORKERS} workers together use {total / 2**20:.0f} MiB (PSS) for '
          f'{payload / 2**20:.0f} MiB of values; a copy each would be '
          f'{WORKERS * payload / 2**20:.0f} MiB')


def main():
    prefix = ('--prefix', 'demo:')
    with lab() as add:
        redis = add(Redis())
        a = add(Host('a', redis, WORKERS, options=prefix))
        b = add(Host('b', redis, WORKERS, options=prefix))
        print(f'Redis on port {redis.port}; host A on port {a.port}, host B on port {b.port}, '
              f'{WORKERS} workers each')
        show_set(redis, a, b)
        show_invalidate(redis, a, b)
        show_delete(a, b)
        show_clear(redis, a, b)
        show_leader_death(a, b)
        show_killed_writers(a)
        show_outage(redis, a, b)
        show_memory(a)
        print(f"\n{checks['held']} checks held, {checks['failed']} failed", flush=True)
        if '--keep' in sys.argv:
            print(f"""
Still running, until Ctrl-C. Try:
  curl -X PUT --data-binary hello http://127.0.0.1:{a.port}/kv/try
  curl -i http://127.0.0.1:{b.port}/kv/try
  curl http://127.0.0.1:{b.port}/stats
  {SHMCTL.relative_to(ROOT)} leader {b.name}""", flush=True)
            try:
                signal.pause()
            except KeyboardInterrupt:
                print()
    return 1 if checks['failed'] else 0


sys.exit(main())
