"""What tutorials do with StrictRedis, every value checked: HOST PORT. For redis-py of today and of old."""

import sys
import time

import redis

r = redis.StrictRedis(host=sys.argv[1], port=int(sys.argv[2]), db=0)


def strings():
    assert r.set("foo", "bar") is True and r.get("foo") == b"bar" and r["foo"] == b"bar"
    assert r.get("absent") is None
    assert r.set("foo", "x", nx=True) is None and r.set("foo", "new", xx=True) is True and r.get("foo") == b"new"
    assert r.setnx("foo", "x") is False and r.setnx("fresh", "1") is True
    assert r.getset("foo", "next") == b"new" and r.get("foo") == b"next"
    assert [r.incr("n"), r.incr("n", 10), r.decr("n"), r.decr("n", 5), r.incrbyfloat("n", 0.5)] == [1, 11, 10, 5, 5.5]
    assert r.append("text", "Hello") == 5 and r.append("text", " World") == 11 and r.strlen("text") == 11
    assert r.getrange("text", 0, 4) == b"Hello" and r.getrange("text", -5, -1) == b"World"
    assert r.setrange("text", 6, "Redis") == 11 and r.get("text") == b"Hello Redis"
    assert r.mset({"a": "1", "b": "2", "c": "3"}) is True
    assert r.mget("a", "absent", "c") == [b"1", None, b"3"] and r.mget(["b", "a"]) == [b"2", b"1"]
    assert r.msetnx({"{m}a": "1", "{m}b": "2"}) is True and r.msetnx({"{m}b": "x", "{m}c": "x"}) is False
    assert r.mget("{m}a", "{m}b", "{m}c") == [b"1", b"2", None]
    assert r.setex("brief", 100, "v") is True and 0 < r.ttl("brief") <= 100
    assert r.psetex("briefer", 100_000, "v") is True and 0 < r.pttl("briefer") <= 100_000
    assert r.expire("foo", 100) is True and 0 < r.ttl("foo") <= 100
    assert r.persist("foo") is True and r.ttl("foo") == -1 and r.ttl("absent") == -2
    assert r.setbit("bits", 7, 1) == 0 and r.setbit("bits", 7, 1) == 1 and r.getbit("bits", 7) == 1
    assert r.bitcount("bits") == 1 and r.get("bits") == b"\x01" and r.bitpos("bits", 1) == 7
    assert r.bitop("OR", "{b}or", "{b}none", "{b}none") == 0
    binary = bytes(range(256))
    assert r.set(binary, binary) is True and r.get(binary) == binary
    unicode = "Καλημέρα 🌍"
    assert r.set(unicode, unicode) is True and r.get(unicode).decode() == unicode


def hashes():
    assert r.hset("user:1", "name", "Ada") == 1 and r.hset("user:1", "name", "Ada L.") == 0
    assert r.hset("user:1", mapping={"age": 36, "city": "London"}) == 2
    assert r.hget("user:1", "name") == b"Ada L." and r.hget("user:1", "absent") is None
    assert r.hgetall("user:1") == {b"name": b"Ada L.", b"age": b"36", b"city": b"London"}
    assert r.hmget("user:1", "age", "absent", "city") == [b"36", None, b"London"]
    assert sorted(r.hkeys("user:1")) == [b"age", b"city", b"name"]
    assert sorted(r.hvals("user:1")) == [b"36", b"Ada L.", b"London"]
    assert r.hlen("user:1") == 3 and r.hexists("user:1", "age") is True and r.hexists("user:1", "x") is False
    assert r.hincrby("user:1", "age", 2) == 38 and r.hincrbyfloat("user:1", "age", 0.5) == 38.5
    assert r.hsetnx("user:1", "age", 1) in (0, False) and r.hstrlen("user:1", "city") == 6
    assert dict(r.hscan_iter("user:1", match="c*")) == {b"city": b"London"}
    assert r.hdel("user:1", "age", "city", "absent") == 2 and r.hlen("user:1") == 1
    assert r.hgetall("absent") == {}


def lists():
    assert r.rpush("list", "b", "c") == 2 and r.lpush("list", "a") == 3 and r.llen("list") == 3
    assert r.lrange("list", 0, -1) == [b"a", b"b", b"c"] and r.lindex("list", 1) == b"b"
    assert r.lset("list", 1, "B") is True and r.linsert("list", "AFTER", "B", "b2") == 4
    assert r.lrange("list", 0, -1) == [b"a", b"B", b"b2", b"c"]
    assert r.lpop("list") == b"a" and r.rpop("list") == b"c" and r.lpop("absent") is None
    assert r.rpush("list", "x", "y", "x") == 5 and r.lrem("list", 1, "x") == 1
    assert r.ltrim("list", 0, 1) is True and r.lrange("list", 0, -1) == [b"B", b"b2"]
    assert r.lpushx("absent", "x") == 0 and r.rpushx("list", "end") == 3
    assert r.rpush("{l}from", "1", "2") == 2 and r.rpoplpush("{l}from", "{l}to") == b"2"
    assert r.lrange("{l}to", 0, -1) == [b"2"]
    assert r.rpush("numbers", 3, 1, 2) == 3 and r.sort("numbers") == [b"1", b"2", b"3"]


def sets():
    assert r.sadd("{s}a", "x", "y", "z") == 3 and r.sadd("{s}a", "x") == 0 and r.sadd("{s}b", "y", "q") == 2
    assert r.smembers("{s}a") == {b"x", b"y", b"z"} and r.scard("{s}a") == 3
    assert r.sismember("{s}a", "x") in (1, True) and r.sismember("{s}a", "q") in (0, False)
    assert r.sinter("{s}a", "{s}b") == {b"y"} and r.sdiff("{s}a", "{s}b") == {b"x", b"z"}
    assert r.sunion("{s}a", "{s}b") == {b"x", b"y", b"z", b"q"}
    assert r.sinterstore("{s}c", "{s}a", "{s}b") == 1 and r.smembers("{s}c") == {b"y"}
    assert r.sunionstore("{s}c", "{s}a", "{s}b") == 4 and r.sdiffstore("{s}c", "{s}b", "{s}a") == 1
    assert r.smove("{s}a", "{s}b", "z") in (1, True) and r.smembers("{s}b") == {b"y", b"q", b"z"}
    assert r.srandmember("{s}c") == b"q" and set(r.sscan_iter("{s}a")) == {b"x", b"y"}
    assert r.srem("{s}a", "x", "absent") == 1 and r.spop("{s}a") == b"y" and r.spop("{s}a") is None


def sorted_sets():
    assert r.zadd("{z}a", {"one": 1, "two": 2, "three": 3}) == 3 and r.zadd("{z}a", {"one": 1.5}) == 0
    assert r.zscore("{z}a", "one") == 1.5 and r.zscore("{z}a", "absent") is None and r.zcard("{z}a") == 3
    assert r.zrange("{z}a", 0, -1) == [b"one", b"two", b"three"]
    assert pairs(r.zrange("{z}a", 0, 1, withscores=True)) == [(b"one", 1.5), (b"two", 2)]
    assert r.zrevrange("{z}a", 0, 0) == [b"three"] and r.zrangebyscore("{z}a", 2, "+inf") == [b"two", b"three"]
    assert r.zrank("{z}a", "two") == 1 and r.zrevrank("{z}a", "two") == 1 and r.zrank("{z}a", "absent") is None
    assert r.zincrby("{z}a", 10, "one") == 11.5 and r.zcount("{z}a", 2, 3) == 2
    assert r.zadd("{z}b", {"two": 20}) == 1 and r.zinterstore("{z}c", ["{z}a", "{z}b"]) == 1
    assert r.zunionstore("{z}c", {"{z}a": 1, "{z}b": 2}) == 3 and r.zscore("{z}c", "two") == 42
    assert dict(r.zscan_iter("{z}b")) == {b"two": 20}
    assert pairs(r.zpopmin("{z}a")) == [(b"two", 2)] and pairs(r.zpopmax("{z}a")) == [(b"one", 11.5)]
    assert r.zrem("{z}a", "three", "absent") == 1 and r.zcard("{z}a") == 0
    assert r.zremrangebyrank("{z}c", 0, 0) == 1 and r.zremrangebyscore("{z}c", 0, 20) == 1


def pairs(members):
    return [(member, float(score)) for member, score in members]


def keys():
    assert r.flushall() is True and r.dbsize() == 0
    assert r.mset({f"key:{i}": i for i in range(100)}) is True and r.dbsize() == 100
    assert sorted(r.keys("key:1?")) == sorted(b"key:%d" % i for i in range(10, 20)) and len(r.keys()) == 100
    assert r.exists("key:1") in (1, True) and r.exists("absent") in (0, False)
    assert r.exists("key:1", "key:2", "absent", "key:1") == 3 and "key:1" in r
    assert r.touch("key:1", "key:2", "absent") == 2
    assert r.delete("key:1", "key:2", "absent") == 2 and r.unlink("key:3", "key:4") == 2 and r.dbsize() == 96
    assert r.rpush("{k}list", "x") == 1 and r.type("{k}list") == b"list" and r.type("absent") == b"none"
    assert r.rename("{k}list", "{k}renamed") is True and r.exists("{k}list") in (0, False)
    assert r.renamenx("{k}renamed", "{k}list") in (1, True)
    assert r.pexpire("key:5", 30) in (1, True)
    until = time.monotonic() + 20
    while r.exists("key:5"):
        assert time.monotonic() < until, "the key does not expire"
    assert r.expireat("key:6", 1) in (1, True) and r.get("key:6") is None
    assert r.dump("key:7") is not None and r.restore("copy", 0, r.dump("key:7")) == b"OK" and r.get("copy") == b"7"
    assert r.randomkey() is not None
    refused(lambda: r.rename("key:10", "key:11"), "Keys in request don't hash to the same slot")
    refused(lambda: r.lpush("key:10", "x"), "Operation against a key holding the wrong kind of value")
    refused(lambda: r.execute_command("SELECT", 1), "SELECT is not allowed in cluster mode")


def refused(call, text):
    try:
        call()
    except redis.ResponseError as error:
        assert text in str(error), error
    else:
        raise AssertionError(text)


def pipelines():
    pipe = r.pipeline(transaction=False)
    pipe.set("foo", "bar").get("foo").incr("count").rpush("queue", "x").hset("hash", "f", "v").zadd("zset", {"m": 1})
    assert pipe.execute() == [True, b"bar", 1, 1, 1, 1]
    for i in range(2000):
        pipe.set(f"pipe:{i}", i).get(f"pipe:{i}")
    assert pipe.execute() == [reply for i in range(2000) for reply in (True, b"%d" % i)]
    pipe.get("foo").lpush("foo", "x").get("foo")
    first, wrong, last = pipe.execute(raise_on_error=False)
    assert first == last == b"bar" and isinstance(wrong, redis.ResponseError)
    # A pipeline is a transaction unless one says otherwise.
    assert r.pipeline().set("foo", "x").execute() == [True]


assert r.ping() is True and r.flushall() is True
strings()
hashes()
lists()
sets()
sorted_sets()
keys()
pipelines()
print("done")
