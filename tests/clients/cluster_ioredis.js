// Cluster of ioredis: HOST PORT.
const assert = require("node:assert");
const Redis = require("ioredis");
const [host, port] = process.argv.slice(2);

async function main() {
  const cluster = new Redis.Cluster([{ host, port: Number(port) }], { scaleReads: "slave" });
  await cluster.flushall();
  assert.deepEqual(cluster.nodes("master").map((node) => node.options.port), [Number(port)]);
  assert.equal(await cluster.set("s", "v"), "OK");
  assert.equal(await cluster.get("s"), "v");
  assert.equal(await cluster.get("absent"), null);
  assert.equal(await cluster.mset("{t}a", 1, "{t}b", 2), "OK");
  assert.deepEqual(await cluster.mget("{t}a", "{t}b"), ["1", "2"]);
  const keys = Array.from({ length: 300 }, (_, i) => `key:${i}`);
  await Promise.all(keys.map((key, i) => cluster.set(key, i)));
  assert.deepEqual(await Promise.all(keys.map((key) => cluster.get(key))), keys.map((_, i) => String(i)));
  const pipeline = cluster.pipeline();
  for (const key of keys) pipeline.incr(key);
  assert.deepEqual(await pipeline.exec(), keys.map((_, i) => [null, i + 1]));
  const slot = await cluster.cluster("KEYSLOT", "s");
  assert.equal(await cluster.cluster("COUNTKEYSINSLOT", slot), 1);
  assert.deepEqual(await cluster.cluster("GETKEYSINSLOT", slot, 9), ["s"]);
  await cluster.quit();
  console.log("done");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
