"""RedisCluster of redis-py, blocking and asyncio, both versions of the protocol: HOST PORT PROTOCOL."""

import asyncio
import sys

import redis
import redis.asyncio

OPTIONS = {"host": sys.argv[1], "port": int(sys.argv[2]), "protocol": int(sys.argv[3]), "decode_responses": True}
KEYS = {f"key:{i}": str(i) for i in range(300)}


def blocking():
    r = redis.RedisCluster(**OPTIONS)
    nodes = r.get_nodes()
    assert [(node.port, node.server_type) for node in nodes] == [(OPTIONS["port"], "primary")], nodes
    assert r.set("s", "v") is True and r.get("s") == "v" and r.get("absent") is None
    assert r.mset_nonatomic(KEYS) and r.mget_nonatomic(list(KEYS)) == list(KEYS.values())
    assert r.mset({"{t}a": 1, "{t}b": 2}) and r.mget("{t}a", "{t}b") == ["1", "2"]
    pipe = r.pipeline()
    for key in KEYS:
        pipe.get(key).incr(key)
    assert pipe.execute() == [reply for i in range(len(KEYS)) for reply in (str(i), i + 1)]
    assert r.delete(*KEYS) == len(KEYS)
    assert r.dbsize() == 3 and sorted(r.keys()) == ["s", "{t}a", "{t}b"]
    slot = r.cluster_keyslot("s")
    assert slot == r.keyslot("s") and r.cluster_countkeysinslot(slot) == 1 and r.cluster_get_keys_in_slot(slot, 9) == ["s"]
    assert r.cluster_info(target_nodes=redis.RedisCluster.RANDOM)["cluster_state"] == "ok"
    assert r.flushall() in (True, [True])
    r.close()


async def asynchronous():
    r = redis.asyncio.RedisCluster(**OPTIONS)
    await r.initialize()
    assert await r.set("s", "v") is True and await r.get("s") == "v"
    assert await r.mset_nonatomic(KEYS) and await r.mget_nonatomic(list(KEYS)) == list(KEYS.values())
    pipe = r.pipeline()
    for key in KEYS:
        pipe.incr(key)
    assert await pipe.execute() == [i + 1 for i in range(len(KEYS))]
    await r.flushall()
    await r.aclose()


blocking()
asyncio.run(asynchronous())
print("done")
