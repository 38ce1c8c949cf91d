"""Services that share their clients as good programs do, and servers that soon hang up on them.

``python pool_traffic.py serve KEEP_ALIVE HTTP REDIS`` prints its ports: so many that speak
HTTP, so many Redis, and one of HTTP more, of which the times of the first five hang-ups are
printed, on one line.

``python pool_traffic.py trade SECONDS RATE HTTP`` reads those ports. For so long it asks services
of each library, so often a second; says ``healthy`` when that is over; upon a line
``N`` it makes a session for each of so many requests, and keeps it.

Both end with their standard input.
"""

import asyncio
import random
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

PATIENCE_S = 20.0
BODY = b"x" * 64


# -- the servers -----------------------------------------------------------------------


async def speak_http(reader, writer, first):
    while (await reader.readline()) not in (b"\r\n", b""):
        pass
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)


async def speak_redis(reader, writer, first):
    words = []
    for _ in range(int(first[1:])):
        size = int((await reader.readline())[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    answers = {
        b"PING": b"+PONG\r\n",
        b"GET": b"$%d\r\n" % len(BODY) + BODY + b"\r\n",
        b"HELLO": b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n",
    }
    writer.write(answers.get(words[0].upper(), b"+OK\r\n"))


async def serve(keep_alive_s, http, redis):
    """Answer, and hang up on whoever says nothing for ``keep_alive_s``."""
    hung_up = []

    def handler(speak, told):
        async def handle(reader, writer):
            try:
                while first := await asyncio.wait_for(reader.readline(), keep_alive_s):
                    await speak(reader, writer, first)
            except asyncio.TimeoutError:
                if told:
                    hung_up.append(time.time())
                    if len(hung_up) == 5:
                        print(*hung_up, flush=True)
            except (OSError, EOFError, ValueError):  # the client went, amid a sentence perhaps
                pass
            finally:
                writer.close()

        return handle

    kinds = [(speak_http, False)] * http + [(speak_redis, False)] * redis + [(speak_http, True)]
    ports, servers = [], []
    for speak, told in kinds:
        server = await asyncio.start_server(handler(speak, told), "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        servers.append(server)
    print(*ports, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        server.close()


# -- the services ----------------------------------------------------------------------


class RequestsService:
    def __init__(self, port):
        self.session = requests.Session()
        self.session.trust_env = False
        self.url = f"http://127.0.0.1:{port}/"

    def ask(self):
        return self.session.get(self.url, timeout=PATIENCE_S).content


class HttpxService:
    def __init__(self, port):
        self.client = httpx.Client(trust_env=False, verify=TRUST, timeout=PATIENCE_S)
        self.url = f"http://127.0.0.1:{port}/"

    def ask(self):
        return self.client.get(self.url).content


class RedisService:
    def __init__(self, port):
        self.cache = redis.Redis(port=port, socket_timeout=PATIENCE_S)

    def ask(self):
        return self.cache.get("key")


class Gateway:
    """One session and one client for all destinations."""

    def __init__(self, ports):
        self.session = requests.Session()
        self.session.trust_env = False
        self.client = httpx.Client(trust_env=False, verify=TRUST, timeout=PATIENCE_S)
        self.urls = [f"http://127.0.0.1:{port}/" for port in ports]

    def ask(self):
        url = random.choice(self.urls)
        if random.random() < 0.5:
            return self.client.get(url).content
        return self.session.get(url, timeout=PATIENCE_S).content


def ask_patiently(service):
    """Ask again where the server hung up at just that moment, as good programs do."""
    failures = (OSError, httpx.TransportError, redis.ConnectionError)
    for _ in range(5):
        try:
            assert service.ask() == BODY
        except failures:
            ASKED["again"] += 1
        else:
            ASKED["answered"] += 1
            return
    raise SystemExit("a service does not get through")


def trade(seconds, a_second):
    """Ask one service after the other, some often, most seldom; with one to three threads."""
    end, told = time.monotonic() + seconds, time.monotonic()
    weights = [1 / rank for rank in range(1, len(SERVICES) + 1)]
    pause = threading.Event()
    with ThreadPoolExecutor(3) as workers:
        for service in SERVICES:
            ask_patiently(service)
        while (now := time.monotonic()) < end:
            (service,) = random.choices(SERVICES, weights)
            list(workers.map(ask_patiently, [service] * random.randint(1, 3)))
            pause.wait(random.expovariate(a_second))
            if now - told > 5:
                told = now
                print("trading", flush=True)


KEPT = []


def answer_with_a_session_of_its_own(port):
    session = requests.Session()
    session.trust_env = False
    KEPT.append(session)
    session.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S)


if sys.argv[1] == "serve":
    asyncio.run(serve(float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
else:
    import httpx
    import redis
    import requests

    TRUST = ssl.create_default_context()
    ASKED = {"answered": 0, "again": 0}
    seconds, a_second, http = float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    random.seed(5)
    *ports, last = map(int, sys.stdin.readline().split())
    SERVICES = [Gateway(ports[:http])]
    SERVICES += [RequestsService(port) for port in ports[: http // 2]]
    SERVICES += [HttpxService(port) for port in ports[http // 2 : http]]
    SERVICES += [RedisService(port) for port in ports[http:]]
    random.shuffle(SERVICES)
    trade(seconds, a_second)
    print("healthy", ASKED["answered"], ASKED["again"], flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            answer_with_a_session_of_its_own(last)
        print("kept", len(KEPT), flush=True)
