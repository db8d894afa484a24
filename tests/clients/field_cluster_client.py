"""A client that asks for the cluster's slots, pointed at the proxy: prints what it is refused with. HOST PORT."""

import importlib.util
import sys

host, port = sys.argv[1], int(sys.argv[2])
try:
    if importlib.util.find_spec("rediscluster"):
        import rediscluster

        rediscluster.RedisCluster(startup_nodes=[{"host": host, "port": port}])
    else:
        import redis

        redis.RedisCluster(host=host, port=port)
except Exception as error:
    while error is not None:
        print(error)
        error = error.__cause__ or error.__context__
else:
    sys.exit("it was not refused")
