"""Stock redis-py clients through a kill of the primary.

    clients.py KIND HOST:PORT,HOST:PORT,..

Writes, says "wrote", goes on writing until it reads "killed" and then some more, and reads every acknowledged write back:
"verified N". Whatever goes wrong is an exception and so an exit code. Only what the client itself cannot do is done here: a
plain client knows one address, so another one is tried when it does not serve.
"""

import asyncio
import sys
import threading
import time

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
import redis.sentinel

WRITES = 200
PATIENCE_S = 60
SOCKET_TIMEOUT_S = 5
NOT_NOW = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.ReadOnlyError,
           redis.exceptions.BusyLoadingError, redis.exceptions.MasterDownError,
           redis.exceptions.ClusterDownError, redis.sentinel.MasterNotFoundError, OSError)

killed = threading.Event()


def wait_for_kill():
    """The test says when it has killed the primary."""
    for line in sys.stdin:
        if line.strip() == "killed":
            killed.set()


def addresses(text):
    return [(host, int(port)) for host, port in (part.rsplit(":", 1) for part in text.split(","))]


def again(attempt, move_on):
    """Makes one call until it is answered; writes here may be carried out twice without harm."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return attempt()
        except NOT_NOW as error:
            if time.monotonic() > deadline:
                raise
            print(f"# {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            move_on()
            time.sleep(0.02)


class Plain:
    """One address at a time."""

    def __init__(self, servers, **options):
        self.servers, self.options, self.at = servers, options, 0
        self.client = self.connect()

    def connect(self):
        host, port = self.servers[self.at % len(self.servers)]
        return redis.Redis(host=host, port=port, socket_timeout=SOCKET_TIMEOUT_S, **self.options)

    def move_on(self):
        self.at += 1
        self.client.close()
        self.client = self.connect()


class Cluster:
    """Finds its way by itself, but for the moment in which nobody serves."""

    def __init__(self, servers):
        self.nodes = [redis.cluster.ClusterNode(host, port) for host, port in servers]
        self.client = self.connect()

    def connect(self):
        return redis.cluster.RedisCluster(startup_nodes=self.nodes, socket_timeout=SOCKET_TIMEOUT_S)

    def move_on(self):
        pass


class Sentinel:
    """Asks where the primary is whenever it connects."""

    def __init__(self, servers):
        self.sentinel = redis.sentinel.Sentinel(servers, socket_timeout=SOCKET_TIMEOUT_S)
        self.client = self.sentinel.master_for("mymaster", socket_timeout=SOCKET_TIMEOUT_S)

    def move_on(self):
        pass


def features(client, tag):
    """What applications use beside plain reads and writes."""
    key = f"{{{tag}}}:x"
    assert client.ping()
    assert client.set(key, "1", ex=1000, nx=True) is True
    assert client.set(key, "2", nx=True) is None
    assert client.set(key, "5", xx=True, get=True, keepttl=True) == b"1"
    assert 0 < client.ttl(key) <= 1000
    assert client.incr(key) == 6 and client.incrbyfloat(key, 0.5) == 6.5
    assert client.append(key, b"\x00\xff") == 5 and client.getrange(key, 3, 4) == b"\x00\xff"
    assert client.mset({f"{{{tag}}}:a": 1, f"{{{tag}}}:b": 2}) is True
    with client.pipeline() as pipe:
        pipe.get(f"{{{tag}}}:a")
        pipe.incr(f"{{{tag}}}:b")
        assert pipe.execute() == [b"1", 3]
    with client.pipeline(transaction=True) as pipe:
        pipe.watch(key)
        pipe.multi()
        pipe.set(key, "done")
        pipe.get(key)
        # The cluster client leaves it as it came.
        assert pipe.execute() in ([True, b"done"], [b"OK", b"done"])
    assert set(client.scan_iter(match=f"{{{tag}}}:*")) == {key.encode(), f"{{{tag}}}:a".encode(), f"{{{tag}}}:b".encode()}
    assert client.delete(key) == 1 and client.get(key) is None


def listens(client):
    """A message finds its way; RESP2 and RESP3 have different forms for it."""
    with client.pubsub() as listener:
        listener.subscribe("news")
        assert listener.get_message(timeout=SOCKET_TIMEOUT_S)["type"] == "subscribe"
        assert client.publish("news", "hello") == 1
        assert listener.get_message(timeout=SOCKET_TIMEOUT_S)["data"] == b"hello"


def run(kind, servers):
    options = {"resp2": {"protocol": 2}, "resp3": {"protocol": 3}, "default": {}}
    if kind == "cluster":
        handle = Cluster(servers)
    elif kind == "sentinel":
        handle = Sentinel(servers)
    else:
        handle = Plain(servers, **options[kind])
    again(lambda: handle.client.set("begun", kind), handle.move_on)
    features(handle.client, kind)
    if kind != "cluster":
        listens(handle.client)
        assert handle.client.info("replication")["role"] == "master"
    written = {}

    def write():
        key, value = f"{kind}:{len(written)}", f"value {len(written)}"
        assert again(lambda: handle.client.set(key, value), handle.move_on) is True
        written[key] = value.encode()

    for _ in range(WRITES):
        write()
    print("wrote", flush=True)
    while not killed.is_set():
        write()
    for _ in range(WRITES):
        write()
    for key, value in written.items():
        found = again(lambda: handle.client.get(key), handle.move_on)
        assert found == value, f"{key} was acknowledged with {value} and is {found}"
    print(f"verified {len(written)}", flush=True)


async def run_async(kind, servers):
    at = 0

    def connect():
        if kind == "asyncio-cluster":
            nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in servers]
            return redis.asyncio.cluster.RedisCluster(startup_nodes=nodes, socket_timeout=SOCKET_TIMEOUT_S)
        host, port = servers[at % len(servers)]
        return redis.asyncio.Redis(host=host, port=port, socket_timeout=SOCKET_TIMEOUT_S)

    client = connect()

    async def again_async(attempt):
        nonlocal at, client
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await attempt()
            except NOT_NOW as error:
                if time.monotonic() > deadline:
                    raise
                print(f"# {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                at += 1
                if kind != "asyncio-cluster":
                    await client.aclose()
                    client = connect()
                await asyncio.sleep(0.02)

    written = {}

    async def write(number):
        key, value = f"{kind}:{number}", f"value {number}"
        assert await again_async(lambda: client.set(key, value)) is True
        written[key] = value.encode()

    number = 0
    # Several at once, as applications with asyncio do; not while the client is being replaced.
    await write(number)
    while not killed.is_set():
        if number == WRITES:
            print("wrote", flush=True)
        number += 1
        await write(number)
    for _ in range(WRITES):
        number += 1
        await write(number)
    for first in range(0, len(written), 20):
        some = list(written.items())[first:first + 20]
        found = await asyncio.gather(*(again_async(lambda key=key: client.get(key)) for key, _ in some))
        for (key, value), got in zip(some, found):
            assert got == value, f"{key} was acknowledged with {value} and is {got}"
    await client.aclose()
    print(f"verified {len(written)}", flush=True)


def main():
    kind, servers = sys.argv[1], addresses(sys.argv[2])
    threading.Thread(target=wait_for_kill, daemon=True).start()
    if kind.startswith("asyncio"):
        asyncio.run(run_async(kind, servers))
    else:
        run(kind, servers)


main()
