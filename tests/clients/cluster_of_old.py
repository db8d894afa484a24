"""redis-py-cluster, from before redis-py knew of clusters: HOST PORT."""

import sys

import rediscluster

host, port = sys.argv[1], int(sys.argv[2])
KEYS = {f"key:{i}": str(i) for i in range(300)}

r = rediscluster.RedisCluster(
    startup_nodes=[{"host": host, "port": port}], decode_responses=True, skip_full_coverage_check=True
)
assert r.flushall()
assert r.set("s", "v") is True and r.get("s") == "v" and r.get("absent") is None
assert r.mset(KEYS) and r.mget(list(KEYS)) == list(KEYS.values())
pipe = r.pipeline()
for key in KEYS:
    pipe.incr(key)
assert pipe.execute() == [i + 1 for i in range(len(KEYS))]
assert r.hset("h", mapping={"a": 1}) == 1 and r.hgetall("h") == {"a": "1"}
assert r.delete(*KEYS) == len(KEYS)
[info] = r.cluster_info().values()
assert info["cluster_state"] == "ok" and info["cluster_known_nodes"] == 1, info
[node] = r.cluster_nodes()
assert node["port"] == port and len(node["slots"]) == 16384
assert r.cluster_countkeysinslot(r.cluster_keyslot("s")) == 1
print("done")
