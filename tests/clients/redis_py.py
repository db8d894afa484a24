"""redis-py, both versions of the protocol, blocking and asyncio: HOST PORT PROTOCOL."""

import asyncio
import sys

import redis
import redis.asyncio

OPTIONS = {
    "host": sys.argv[1],
    "port": int(sys.argv[2]),
    "protocol": int(sys.argv[3]),
    "decode_responses": True,
    "client_name": "redis-py",
}


def types(r):
    assert r.set("s", "v", ex=100) and r.get("s") == "v" and r.get("absent") is None
    assert r.incr("n") == 1 and r.incrbyfloat("f", 1.5) == 1.5
    assert r.hset("h", mapping={"a": "1", "b": "2"}) == 2 and r.hgetall("h") == {"a": "1", "b": "2"}
    assert r.rpush("l", "a", "b", "c") == 3 and r.lrange("l", 0, -1) == ["a", "b", "c"]
    assert r.sadd("set", "a", "b") == 2 and r.smembers("set") == {"a", "b"}
    assert r.zadd("z", {"a": 1, "b": 2.5}) == 2 and r.zscore("z", "b") == 2.5
    assert [tuple(pair) for pair in r.zrange("z", 0, -1, withscores=True)] == [("a", 1.0), ("b", 2.5)]
    assert r.xadd("x", {"f": "v"}, id="1-1") == "1-1" and r.xlen("x") == 1
    assert r.xrange("x") == [("1-1", {"f": "v"})]
    assert r.xread({"x": "0"})
    assert r.pfadd("p", "a", "b") == 1 and r.pfcount("p") == 2
    assert r.setbit("b", 7, 1) == 0 and r.bitcount("b") == 1
    assert r.geoadd("g", (13.361389, 38.115556, "place")) == 1 and r.geodist("g", "place", "place") == 0
    assert r.type("h") == "hash" and r.object("encoding", "n") == "int"
    assert r.publish("channel", "message") == 0
    many = {f"key:{i}": str(i) for i in range(1000)}
    assert r.mset(many) and r.mget(list(many)) == list(many.values())
    assert r.exists(*many) == 1000 and r.delete(*many) == 1000
    double = r.register_script("return redis.call('GET', KEYS[1]) * ARGV[1]")
    assert double(keys=["n"], args=[2]) == 2 and double(keys=["n"], args=[3]) == 3
    assert r.dbsize() == 11 + 0 and sorted(r.keys("[hl]")) == ["h", "l"]


def errors(r):
    for call, text in [
        (lambda: r.lpush("s", "x"), "WRONGTYPE"),
        (lambda: r.rename("a", "b"), "CROSSSLOT"),
        (lambda: r.execute_command("NOSUCH"), "unknown command"),
    ]:
        try:
            call()
        except redis.ResponseError as error:
            assert text in f"CROSSSLOT {error}" if text == "CROSSSLOT" else text in str(error), error
        else:
            raise AssertionError(text)


def pipelines(r):
    pipe = r.pipeline(transaction=False)
    for i in range(5000):
        pipe.set(f"pipe:{i}", i).get(f"pipe:{i}").incr(f"pipe:{i}")
    replies = pipe.execute()
    assert replies == [reply for i in range(5000) for reply in (True, str(i), i + 1)]
    pipe = r.pipeline(transaction=False)
    pipe.get("s").lpush("s", "x").get("s")
    first, wrong, last = pipe.execute(raise_on_error=False)
    assert first == last == "v" and isinstance(wrong, redis.ResponseError)


def messages(r):
    def following(p):
        message = p.get_message(timeout=10)
        return message["type"], message["channel"], message["data"]

    with r.pubsub() as p:
        p.subscribe("one", "two")
        p.psubscribe("o*")
        got = [following(p) for _ in range(3)]
        assert got == [("subscribe", "one", 1), ("subscribe", "two", 2), ("psubscribe", "o*", 3)], got
        assert r.publish("one", "hello") == 2 and r.publish("two", "you") == 1
        got = sorted(following(p) for _ in range(3))
        assert got == [("message", "one", "hello"), ("message", "two", "you"), ("pmessage", "one", "hello")], got
        if OPTIONS["protocol"] == 2:
            p.ping()
            assert following(p)[0] == "pong"
        p.unsubscribe()
        assert sorted(following(p)[1] for _ in range(2)) == ["one", "two"]
        p.ssubscribe("shard")
        assert following(p)[0] == "ssubscribe" and r.spublish("shard", "x") == 1
        assert following(p) == ("smessage", "shard", "x")
        assert r.pubsub_numsub("one", "two") == [("one", 0), ("two", 0)] and r.pubsub_numpat() == 1
    with r.monitor() as m:
        assert r.set("s", "v") and m.next_command()["command"] == "SET s v"


async def messages_to_tasks(r):
    started = asyncio.Semaphore(0)
    listeners = [asyncio.create_task(take(r, started)) for _ in range(20)]
    for _ in listeners:
        await started.acquire()
    for i in range(100):
        assert await r.publish("news", i) == 20
    for listener in listeners:
        assert await listener == [str(i) for i in range(100)]


async def take(r, started):
    async with r.pubsub() as p:
        await p.subscribe("news")
        got = []
        async for message in p.listen():
            if message["type"] == "subscribe":
                started.release()
            else:
                got.append(message["data"])
            if len(got) == 100:
                return got


async def concurrent():
    async with redis.asyncio.Redis(**OPTIONS) as r:
        assert await r.ping()
        await asyncio.gather(*(r.set(f"async:{i}", i) for i in range(50)))
        values = await asyncio.gather(*(r.get(f"async:{i}") for i in range(50)))
        assert values == [str(i) for i in range(50)]
        async with r.pipeline(transaction=False) as pipe:
            for i in range(50):
                pipe.get(f"async:{i}")
            assert await pipe.execute() == values
        await messages_to_tasks(r)


def main():
    r = redis.Redis(**OPTIONS)
    assert r.ping() and r.echo("x") == "x"
    assert r.client_getname() == "redis-py" and r.client_id() > 0
    assert r.flushall()
    types(r)
    errors(r)
    pipelines(r)
    messages(r)
    asyncio.run(concurrent())
    print("restart", flush=True)
    sys.stdin.readline()
    assert r.get("s") == "v" and r.client_getname() == "redis-py"
    print("done", flush=True)


main()
