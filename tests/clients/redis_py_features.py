"""What applications build on redis-py, blocking and asyncio: HOST PORT PROTOCOL FEATURE…

Keys of one feature share a hash tag, as in any cluster."""

import asyncio
import sys
import threading
import time

import redis
import redis.asyncio
from redis.exceptions import LockError, LockNotOwnedError, ResponseError, WatchError

OPTIONS = {
    "host": sys.argv[1],
    "port": int(sys.argv[2]),
    "protocol": int(sys.argv[3]),
    "decode_responses": True,
}


def fails(call, *texts):
    """Whether the call fails with an error that has these texts."""
    try:
        call()
    except redis.RedisError as error:
        return all(text in f"{type(error).__name__} {error}" for text in texts) or print(repr(error))
    return print("no error")


async def fails_later(call, *texts):
    try:
        await call
    except redis.RedisError as error:
        return all(text in f"{type(error).__name__} {error}" for text in texts) or print(repr(error))
    return print("no error")


def soon(condition):
    """Waits until it holds."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def together(*calls):
    """Calls all at once, each on a thread; their results."""
    results = [None] * len(calls)

    def run(at):
        results[at] = calls[at]()

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def delayed(r, *command):
    """Sends a command when somebody is surely waiting for it."""
    time.sleep(0.2)
    return r.execute_command(*command)


def transactions(r):
    pipe = r.pipeline()
    for i in range(200):
        pipe.set(f"{{tx}}{i}", i).incr(f"{{tx}}{i}")
    pipe.rpush("{tx}l", "a", "b").lrange("{tx}l", 0, -1).get("{tx}none").ping()
    replies = pipe.execute()
    assert replies[1:400:2] == list(range(1, 201)) and replies[400:] == [2, ["a", "b"], None, True]
    # Errors of a command leave the others' effects.
    replies = r.pipeline().set("{tx}s", "v").lpush("{tx}s", "x").get("{tx}s").execute(raise_on_error=False)
    assert replies[0] is True and isinstance(replies[1], ResponseError) and replies[2] == "v"
    assert fails(lambda: r.pipeline().lpush("{tx}s", "x").execute(), "WRONGTYPE")
    assert fails(lambda: r.pipeline().set("{tx}s", "w").execute_command("NOSUCH").execute(), "unknown command")
    assert r.get("{tx}s") == "v"
    assert r.pipeline().execute() == []


def crossing(r):
    """Keys of several slots, where the proxy makes a transaction for each slot."""
    pipe = r.pipeline()
    for i in range(100):
        pipe.set(f"cross:{i}", i).incr(f"cross:{i}")
    assert pipe.execute()[1::2] == list(range(1, 101))
    assert r.mget([f"cross:{i}" for i in range(100)]) == [str(i) for i in range(1, 101)]


def uncrossed(r):
    assert fails(lambda: r.pipeline().set("cross:1", 1).set("cross:2", 2).execute(), "cross_slot_transactions")
    assert r.exists("cross:1", "cross:2") == 0


def scripts(r):
    add = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert [add(keys=[f"script:{i}"], args=[i]) for i in range(50)] == list(range(50))
    pipe = r.pipeline(transaction=False)
    for i in range(50):
        add(keys=[f"script:{i}"], args=[1], client=pipe)
    assert pipe.execute() == list(range(1, 51))
    pipe = r.pipeline()
    pipe.set("{script}a", 1)
    add(keys=["{script}a"], args=[5], client=pipe)
    assert pipe.execute() == [True, 6]
    assert r.eval("return {KEYS[1], KEYS[2], ARGV[1]}", 2, "{s}1", "{s}2", "x") == ["{s}1", "{s}2", "x"]
    assert r.eval("return ARGV[1]", 0, "x") == "x"
    assert r.script_exists(add.sha, "0" * 40) == [True, False]
    assert r.script_flush() and r.script_exists(add.sha) == [False]
    assert add(keys=["{script}a"], args=[1]) == 7
    assert fails(lambda: r.eval("return redis.error_reply('MINE of my own')", 1, "s"), "MINE of my own")
    assert fails(lambda: r.evalsha("0" * 40, 1, "s"), "NoScriptError")


def streams(r):
    s, group = "{stream}s", "workers"
    assert r.xgroup_create(s, group, id="0", mkstream=True)
    assert fails(lambda: r.xgroup_create(s, group), "BUSYGROUP")
    ids = [r.xadd(s, {"n": i}) for i in range(20)]
    taken = []
    for consumer in ("a", "b"):
        [(stream, entries)] = items(r.xreadgroup(group, consumer, {s: ">"}, count=10))
        assert stream == s
        taken += [entry for entry, _ in entries]
    assert taken == ids and not items(r.xreadgroup(group, "a", {s: ">"}, count=10))
    assert r.xack(s, group, *ids[:5]) == 5 and r.xpending(s, group)["pending"] == 15
    claimed = r.xautoclaim(s, group, "c", 0, count=100)
    assert [entry for entry, _ in claimed[1]] == ids[5:]
    assert r.xack(s, group, *ids) == 15 and r.xlen(s) == 20 and r.xtrim(s, maxlen=5, approximate=False) == 15
    # Waiting for what comes.
    start = time.monotonic()
    assert not items(r.xread({s: "$"}, block=200)) and time.monotonic() - start >= 0.19
    read, _ = together(lambda: r.xread({s: "$"}, block=20000), lambda: delayed(r, "XADD", s, "*", "n", "new"))
    assert items(read)[0][1][0][1] == {"n": "new"}
    r.xreadgroup(group, "a", {s: ">"})
    read, _ = together(
        lambda: r.xreadgroup(group, "a", {s: ">"}, block=20000), lambda: delayed(r, "XADD", s, "*", "n", "newer")
    )
    assert items(read)[0][1][0][1] == {"n": "newer"}
    groups, consumers = r.xinfo_groups(s), r.xinfo_consumers(s, group)
    assert groups[0]["name"] == group and {consumer["name"] for consumer in consumers} == {"a", "b", "c"}


def items(reply):
    """Streams and their entries: a list in RESP2, a map with lists of lists in RESP3."""
    if isinstance(reply, dict):
        return [(stream, entries[0] if entries and isinstance(entries[0], list) else entries) for stream, entries in reply.items()]
    return reply


def blocking(r):
    start = time.monotonic()
    assert r.blpop("{b}none", timeout=1) is None and time.monotonic() - start >= 0.9
    assert r.rpush("{b}l", 1, 2, 3, 4) == 4
    assert tuple(r.blpop(["{b}none", "{b}l"])) == ("{b}l", "1") and tuple(r.brpop("{b}l")) == ("{b}l", "4")
    assert r.brpoplpush("{b}l", "{b}to") == "3" and r.blmove("{b}l", "{b}to", 5, "LEFT", "RIGHT") == "2"
    assert r.lrange("{b}to", 0, -1) == ["3", "2"]
    assert r.blmpop(5, 2, "{b}none", "{b}to", direction="LEFT", count=2) == ["{b}to", ["3", "2"]]
    assert r.zadd("{b}z", {"low": 1, "high": 9}) == 2
    assert list(r.bzpopmin("{b}z", timeout=5)) == ["{b}z", "low", 1.0]
    assert list(r.bzpopmax("{b}z", timeout=5)) == ["{b}z", "high", 9.0]
    for push, pop, got in [
        (("RPUSH", "{b}w", "x"), lambda: tuple(r.blpop("{b}w", timeout=20)), ("{b}w", "x")),
        (("ZADD", "{b}zw", 2, "m"), lambda: list(r.bzpopmin("{b}zw", timeout=20)), ["{b}zw", "m", 2.0]),
        (("RPUSH", "{b}w", "y"), lambda: r.blmove("{b}w", "{b}to", 20), "y"),
    ]:
        assert together(pop, lambda: delayed(r, *push))[0] == got
    # Many wait at once, in many slots.
    values = together(*[lambda i=i: r.blpop(f"b:{i}", timeout=20) for i in range(20)], lambda: pushes(r))
    assert [tuple(value) for value in values[:20]] == [(f"b:{i}", str(i)) for i in range(20)]


def pushes(r):
    time.sleep(0.2)
    for i in range(20):
        r.rpush(f"b:{i}", i)


def locks(r):
    lock = r.lock("{lock}a", timeout=20)
    assert lock.acquire() and lock.locked() and lock.owned()
    other = r.lock("{lock}a", timeout=20, blocking_timeout=0.1)
    assert not other.acquire() and not r.lock("{lock}a").acquire(blocking=False)
    assert lock.extend(20) and 20 < r.ttl("{lock}a") <= 40 and lock.reacquire()
    assert fails(lambda: steal(r, lock), LockNotOwnedError.__name__)
    assert fails(other.release, LockError.__name__)
    r.delete("{lock}a")
    seen = []

    def guarded():
        for _ in range(10):
            with r.lock("{lock}counter", timeout=20, sleep=0.01):
                seen.append(int(r.get("counted") or 0))
                r.set("counted", seen[-1] + 1)

    together(*[guarded] * 4)
    assert sorted(seen) == list(range(40)) and r.get("counted") == "40"


def steal(r, lock):
    r.set("{lock}a", "another's")
    lock.release()


def watches(r):
    r.set("{w}n", 0)

    def add(pipe):
        value = int(pipe.get("{w}n"))
        pipe.multi()
        pipe.set("{w}n", value + 1).rpush("{w}log", value)

    together(*[lambda: [r.transaction(add, "{w}n") for _ in range(25)]] * 4)
    assert r.get("{w}n") == "100" and r.lrange("{w}log", 0, -1) == [str(i) for i in range(100)]
    with r.pipeline() as pipe:
        pipe.watch("{w}n", "{w}log")
        r.incr("{w}n")
        pipe.multi()
        pipe.set("{w}n", "lost")
        assert fails(pipe.execute, WatchError.__name__)
        pipe.watch("{w}n")
        pipe.unwatch()
        r.incr("{w}n")
        pipe.multi()
        assert pipe.get("{w}n").execute() == ["102"]
        pipe.watch("{w}n")
        pipe.reset()
    assert r.get("{w}n") == "102" and r.wait(0, 10) == 0


def scans(r):
    keys = {f"scan:{i}" for i in range(2000)}
    r.mset(dict.fromkeys(keys, "v"))
    r.rpush("scan:list", "x")
    found = list(r.scan_iter(match="scan:*", count=100))
    assert len(found) == 2001 and set(found) == keys | {"scan:list"}
    assert list(r.scan_iter(match="scan:*", _type="list")) == ["scan:list"]
    assert set(r.scan_iter(match="scan:1?", count=1000)) == {f"scan:1{i}" for i in range(10)}
    r.sadd("set", *range(1000))
    r.hset("hash", mapping={i: i for i in range(1000)})
    r.zadd("zset", {i: i for i in range(1000)})
    assert {int(i) for i in r.sscan_iter("set")} == set(range(1000)) and len(dict(r.hscan_iter("hash"))) == 1000
    assert len(dict(r.zscan_iter("zset"))) == 1000
    assert r.delete(*found) == 2001


def messages(r):
    p = r.pubsub()
    p.subscribe("news", "more")
    p.psubscribe("n?ws", "other.*")
    first = [p.get_message(timeout=20) for _ in range(4)]
    assert [(m["type"], m["channel"], m["data"]) for m in first] == [
        ("subscribe", "news", 1),
        ("subscribe", "more", 2),
        ("psubscribe", "n?ws", 3),
        ("psubscribe", "other.*", 4),
    ]
    for i in range(100):
        r.publish("more", i)
    assert [p.get_message(timeout=20)["data"] for _ in range(100)] == [str(i) for i in range(100)]
    assert r.publish("news", "x") == 2 and r.publish("nobody", "x") == 0
    assert {p.get_message(timeout=20)["type"] for _ in range(2)} == {"message", "pmessage"}
    if OPTIONS["protocol"] == 2:
        p.ping()
        assert p.get_message(timeout=20)["type"] == "pong"
    assert r.pubsub_channels() and dict(r.pubsub_numsub("news", "nobody")) == {"news": 1, "nobody": 0}
    got = []
    p.unsubscribe()
    p.punsubscribe()
    assert [p.get_message(timeout=20)["data"] for _ in range(4)] == [3, 2, 1, 0]
    p.subscribe(**{"handled": lambda message: got.append(message["data"])})
    worker = p.run_in_thread(sleep_time=0.05)
    soon(lambda: r.publish("handled", "y") == 1)
    soon(lambda: got)
    worker.stop()
    worker.join()
    p.close()


async def later(r, *command):
    await asyncio.sleep(0.2)
    return await r.execute_command(*command)


async def async_transactions(r):
    async with r.pipeline(transaction=True) as pipe:
        for i in range(100):
            pipe.set(f"{{atx}}{i}", i).incr(f"{{atx}}{i}")
        assert (await pipe.execute())[1::2] == list(range(1, 101))


async def async_crossing(r):
    async with r.pipeline(transaction=True) as pipe:
        for i in range(100):
            pipe.incr(f"across:{i}")
        assert await pipe.execute() == [1] * 100


async def async_uncrossed(r):
    assert await fails_later(r.pipeline().incr("across:1").incr("across:2").execute(), "cross_slot_transactions")


async def async_scripts(r):
    add = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert await asyncio.gather(*[add(keys=[f"ascript:{i}"], args=[i]) for i in range(50)]) == list(range(50))


async def async_streams(r):
    s = "{astream}s"
    await r.xgroup_create(s, "g", id="0", mkstream=True)
    read, _ = await asyncio.gather(r.xreadgroup("g", "c", {s: ">"}, block=20000), later(r, "XADD", s, "*", "n", "1"))
    [(_, [(entry, fields)])] = items(read)
    assert fields == {"n": "1"} and await r.xack(s, "g", entry) == 1


async def async_blocking(r):
    waits = [r.blpop(f"ab:{i}", timeout=20) for i in range(50)]
    waits += [later(r, "RPUSH", f"ab:{i}", i) for i in range(50)]
    values = await asyncio.gather(*waits)
    assert [tuple(value) for value in values[:50]] == [(f"ab:{i}", str(i)) for i in range(50)]
    # Who gives up takes nothing.
    task = asyncio.ensure_future(r.blpop("ab:left", timeout=20))
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for _ in range(400):
        await r.rpush("ab:left", "x")
        if await r.lpop("ab:left") == "x":
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("somebody else pops")


async def async_locks(r):
    async def guarded():
        async with r.lock("{alock}l", timeout=20, sleep=0.01):
            value = int(await r.get("acounted") or 0)
            await asyncio.sleep(0)
            await r.set("acounted", value + 1)

    await asyncio.gather(*[guarded() for _ in range(20)])
    assert await r.get("acounted") == "20"


async def async_watches(r):
    await r.set("{aw}n", 0)

    async def add(pipe):
        value = int(await pipe.get("{aw}n"))
        pipe.multi()
        pipe.set("{aw}n", value + 1)

    await asyncio.gather(*[r.transaction(add, "{aw}n") for _ in range(20)])
    assert await r.get("{aw}n") == "20"


async def async_scans(r):
    await r.mset({f"ascan:{i}": i for i in range(500)})
    found = [key async for key in r.scan_iter(match="ascan:*", count=50)]
    assert len(found) == 500 and len(set(found)) == 500


async def async_messages(r):
    async with r.pubsub() as p:
        await p.subscribe("anews")
        await p.psubscribe("a?ews")
        while await p.get_message(timeout=0.5):
            pass
        assert await r.publish("anews", "x") == 2
        assert {(await p.get_message(timeout=20))["type"] for _ in range(2)} == {"message", "pmessage"}


async def asynchronously(features):
    async with redis.asyncio.Redis(**OPTIONS) as r:
        await r.flushall()
        for feature in features:
            await globals()[f"async_{feature}"](r)


with redis.Redis(**OPTIONS) as client:
    client.flushall()
    for feature in sys.argv[4:]:
        globals()[feature](client)
asyncio.run(asynchronously(sys.argv[4:]))
print("done")
