"""Real hosts on one machine, for the demo and for proofs: a redis-server, and larder-prefork once for
each host, with its own segment and port. Nothing of it outlives `Lab`."""
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get('PROVE_BUILD', ROOT / 'build/release'))
PREFORK = BUILD / 'examples/larder-prefork'
SHMCTL = BUILD / 'tools/shmctl/shmctl'
BENCH = BUILD / 'tools/bench/larder-bench'
PATIENCE_S = 10.0


def eventually(condition, patience_s=PATIENCE_S):
    """The first true value of `condition`, or its last one after `patience_s`."""
    end = time.monotonic() + patience_s
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.002)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Redis:
    """A redis-server of our own on a free loopback port, without persistence."""

    def __init__(self):
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix='larder-lab-')
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ['redis-server', '--port', str(self.port), '--bind', '127.0.0.1', '--save', '',
             '--dir', self.folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not eventually(lambda: self.cli('ping', check_status=False) == 'PONG'):
            sys.exit('redis-server did not start')

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def cli(self, *arguments, check_status=True):
        done = subprocess.run(['redis-cli', '-p', str(self.port), *arguments],
                              capture_output=True, text=True, check=check_status)
        return done.stdout.strip()

    def calls(self, command):
        """How often Redis ran `command`, from inside scripts too."""
        for line in self.cli('info', 'commandstats').splitlines():
            if line.startswith(f'cmdstat_{command}:'):
                return int(line.split('calls=')[1].split(',')[0])
        return 0


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.source = headers.get('X-Larder-Source', '')
        self.stale = headers.get('X-Larder-Stale') == '1'
        self.worker = int(headers.get('X-Larder-Worker', 0))
        self.body = body

    def is_local(self, body):
        return self.status == 200 and self.source == 'local' and self.body == body


class Host:
    """One host: a segment of its own, a port of its own, some processes. `redis` None: local only."""

    def __init__(self, letter, redis=None, workers=4, segment_mb=64, options=()):
        self.name = f'lab-{letter}-{os.getpid()}'
        self.port = free_port()
        self.worker_count = workers
        command = [PREFORK, '--name', self.name, '--workers', str(workers),
                   '--segment-mb', str(segment_mb), '--listen', f'127.0.0.1:{self.port}', *options]
        if redis:
            command += ['--redis', f'127.0.0.1:{redis.port}']
        self.parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                       text=True)
        if not self.parent.stdout.readline().startswith('listening'):
            sys.exit(f'host {letter} did not start')
        if redis and not eventually(self.in_sync):
            sys.exit(f'host {letter} did not follow the channel')

    def request(self, method, path, body=None):
        # A connection each: the kernel gives each to some worker.
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    @staticmethod
    def path(key):
        return '/kv/' + urllib.parse.quote(key, safe='')

    def get(self, key):
        return self.request('GET', self.path(key))

    def put(self, key, value, query=''):
        return self.request('PUT', self.path(key) + query, value)

    def fill(self, count, size):
        """Keys m0, m1, ... of `size` bytes each, over one connection."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE_S)
        for number in range(count):
            connection.request('PUT', f'/kv/m{number}', b'm' * size)
            connection.getresponse().read()
        connection.close()

    def touch(self, count):
        """Makes every worker read some of them, so that each has the segment's pages mapped."""
        seen = set()
        for _ in range(100):
            connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE_S)
            for number in range(0, count, 20):
                connection.request('GET', f'/kv/m{number}')
                response = connection.getresponse()
                response.read()
                if response.headers['X-Larder-Worker'] in seen:
                    break  # this connection came to a worker that has read them already
            seen.add(response.headers['X-Larder-Worker'])
            connection.close()
            if len(seen) == self.worker_count:
                return

    def each_worker(self, key):
        """One answer of every worker."""
        answers = {}
        for _ in range(400):
            answer = self.get(key)
            answers[answer.worker] = answer
            if len(answers) == self.worker_count:
                break
        return list(answers.values())

    def stats(self):
        return json.loads(self.request('GET', '/stats').body)

    def shmctl(self, *arguments):
        return subprocess.run([SHMCTL, *arguments], capture_output=True, text=True, check=False)

    def leader(self):
        return json.loads(self.shmctl('leader', self.name, '--json').stdout)

    def in_sync(self):
        return self.leader()['in_sync']

    def workers(self):
        return [p['pid'] for p in json.loads(self.shmctl('procs', self.name, '--json').stdout)['processes']
                if p['pid'] != self.parent.pid]

    def pss_bytes(self):
        """Of the workers together: shared memory is counted once."""
        return sum(pss_bytes(pid) for pid in self.workers())

    def stop(self):
        self.parent.send_signal(signal.SIGTERM)
        try:
            self.parent.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.parent.kill()
        self.shmctl('rm', self.name, '--force')


@contextlib.contextmanager
def lab():
    """Yields a function that starts a part and stops it, last first, at the end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for program in (PREFORK, SHMCTL):
        if not program.exists():
            sys.exit(f'{program} is missing; the command that needs it builds it first')
    with contextlib.ExitStack() as parts:
        def add(part):
            parts.callback(part.stop)
            return part
        yield add


def pss_bytes(pid):
    for line in pathlib.Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines():
        if line.startswith('Pss:'):
            return int(line.split()[1]) * 1024
    return 0


