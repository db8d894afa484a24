// The cluster client of node-redis: HOST PORT PROTOCOL.
const assert = require("node:assert");
const { createCluster } = require("redis");
const [host, port, protocol] = process.argv.slice(2);

async function main() {
  const cluster = createCluster({ rootNodes: [{ url: `redis://${host}:${port}` }], RESP: Number(protocol), useReplicas: true });
  cluster.on("error", (error) => assert.fail(error));
  await cluster.connect();
  assert.deepEqual(cluster.masters.map((node) => node.address), [`${host}:${port}`]);
  assert.equal(await cluster.set("s", "v"), "OK");
  assert.equal(await cluster.get("s"), "v");
  assert.equal(await cluster.get("absent"), null);
  await cluster.mSet([["{t}a", "1"], ["{t}b", "2"]]);
  assert.deepEqual(await cluster.mGet(["{t}a", "{t}b"]), ["1", "2"]);
  const keys = Array.from({ length: 300 }, (_, i) => `key:${i}`);
  // What is sent in one turn of the loop is one pipeline.
  await Promise.all(keys.map((key, i) => cluster.set(key, String(i))));
  assert.deepEqual(await Promise.all(keys.map((key) => cluster.get(key))), keys.map((_, i) => String(i)));
  assert.deepEqual(await Promise.all(keys.map((key) => cluster.incr(key))), keys.map((_, i) => i + 1));
  await cluster.close();
  console.log("done");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
