// node-redis: HOST PORT PROTOCOL.
const assert = require("node:assert");
const { createClient } = require("redis");
const [host, port, protocol] = process.argv.slice(2);
const restarted = new Promise((resolve) => process.stdin.once("data", resolve));
// Maps have no prototype.
const plain = (value) => JSON.parse(JSON.stringify(value));

async function main() {
  const client = createClient({ socket: { host, port: Number(port) }, name: "node-redis", RESP: Number(protocol) });
  client.on("error", () => {}); // While the proxy restarts.
  await client.connect();
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.clientGetName(), "node-redis");
  await client.flushAll();

  await client.set("s", "v", { EX: 100 });
  assert.equal(await client.get("s"), "v");
  assert.equal(await client.get("absent"), null);
  await client.hSet("h", { a: "1", b: "2" });
  assert.deepEqual(plain(await client.hGetAll("h")), { a: "1", b: "2" });
  await client.rPush("l", ["a", "b"]);
  assert.deepEqual(await client.lRange("l", 0, -1), ["a", "b"]);
  await client.sAdd("set", "a");
  assert.deepEqual([...(await client.sMembers("set"))], ["a"]);
  await client.zAdd("z", [{ score: 1, value: "a" }, { score: 2.5, value: "b" }]);
  assert.deepEqual(plain(await client.zRangeWithScores("z", 0, -1)), [{ value: "a", score: 1 }, { value: "b", score: 2.5 }]);
  await client.xAdd("x", "1-1", { f: "v" });
  assert.deepEqual(plain(await client.xRange("x", "-", "+")), [{ id: "1-1", message: { f: "v" } }]);

  const keys = Array.from({ length: 500 }, (_, i) => `key:${i}`);
  await client.mSet(keys.map((key, i) => [key, String(i)]));
  assert.deepEqual(await client.mGet(keys), keys.map((_, i) => String(i)));
  assert.equal(await client.del(keys), 500);

  // What is sent in one turn of the loop is one pipeline.
  const replies = await Promise.all(Array.from({ length: 2000 }, (_, i) => client.incr(`pipe:${i % 100}`)));
  replies.forEach((reply, i) => assert.equal(reply, Math.floor(i / 100) + 1));
  assert.equal(await client.eval("return redis.call('GET', KEYS[1]) * 2", { keys: ["pipe:7"], arguments: [] }), 40);
  await assert.rejects(client.lPush("s", "x"), /WRONGTYPE/);
  await assert.rejects(client.rename("a", "b"), /CROSSSLOT/);

  const subscriber = client.duplicate();
  await subscriber.connect();
  const seen = [];
  const all = new Promise((resolve) => {
    const take = (message, channel) => seen.push(`${channel} ${message}`) === 4 && resolve();
    Promise.all([subscriber.subscribe(["one", "two"], take), subscriber.pSubscribe("o*", take), subscriber.sSubscribe("s", take)])
      .then(async () => {
        assert.equal(await client.publish("one", "hello"), 2);
        assert.equal(await client.publish("two", "you"), 1);
        assert.equal(await client.sPublish("s", "there"), 1);
      });
  });
  await all;
  assert.deepEqual(seen.sort(), ["one hello", "one hello", "s there", "two you"]);
  await subscriber.close();

  console.log("restart");
  await restarted;
  assert.equal(await client.get("s"), "v");
  assert.equal(await client.clientGetName(), "node-redis");
  await client.close();
  console.log("done");
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
