// ioredis: HOST PORT.
const assert = require("node:assert");
const Redis = require("ioredis");
const [host, port] = process.argv.slice(2);
const restarted = new Promise((resolve) => process.stdin.once("data", resolve));

async function main() {
  const redis = new Redis({ host, port: Number(port), connectionName: "ioredis" });
  redis.on("error", () => {}); // While the proxy restarts.
  assert.equal(await redis.ping(), "PONG");
  assert.equal(await redis.client("GETNAME"), "ioredis");
  await redis.flushall();

  assert.equal(await redis.set("s", "v", "EX", 100), "OK");
  assert.equal(await redis.get("s"), "v");
  assert.equal(await redis.get("absent"), null);
  await redis.hset("h", { a: 1, b: 2 });
  assert.deepEqual(await redis.hgetall("h"), { a: "1", b: "2" });
  await redis.rpush("l", "a", "b");
  assert.deepEqual(await redis.lrange("l", 0, -1), ["a", "b"]);
  await redis.sadd("set", "a");
  assert.deepEqual(await redis.smembers("set"), ["a"]);
  await redis.zadd("z", 1, "a", 2.5, "b");
  assert.deepEqual(await redis.zrange("z", 0, -1, "WITHSCORES"), ["a", "1", "b", "2.5"]);
  await redis.xadd("x", "1-1", "f", "v");
  assert.deepEqual(await redis.xrange("x", "-", "+"), [["1-1", ["f", "v"]]]);
  await redis.set("buffer", Buffer.from([0, 255, 13, 10]));
  assert.deepEqual(await redis.getBuffer("buffer"), Buffer.from([0, 255, 13, 10]));

  const keys = Array.from({ length: 500 }, (_, i) => `key:${i}`);
  await redis.mset(new Map(keys.map((key, i) => [key, i])));
  assert.deepEqual(await redis.mget(keys), keys.map((_, i) => String(i)));
  assert.equal(await redis.del(keys), 500);

  const pipeline = redis.pipeline();
  for (let i = 0; i < 2000; i++) pipeline.set(`pipe:${i}`, i).incr(`pipe:${i}`);
  const replies = await pipeline.exec();
  replies.forEach(([error, reply], i) => assert.ok(error === null && reply === (i % 2 ? (i + 1) / 2 : "OK")));

  redis.defineCommand("double", { numberOfKeys: 1, lua: "return redis.call('GET', KEYS[1]) * 2" });
  assert.equal(await redis.double("pipe:20"), 42);
  await assert.rejects(redis.lpush("s", "x"), /WRONGTYPE/);
  await assert.rejects(redis.rename("a", "b"), /CROSSSLOT/);

  const subscriber = redis.duplicate();
  const seen = [];
  const all = new Promise((resolve) => {
    const take = (text) => seen.push(text) === 3 && resolve();
    subscriber.on("message", (channel, message) => take(`${channel} ${message}`));
    subscriber.on("pmessage", (pattern, channel, message) => take(`${pattern} ${channel} ${message}`));
  });
  assert.equal(await subscriber.subscribe("one", "two"), 2);
  assert.equal(await subscriber.psubscribe("o*"), 3);
  assert.equal(await redis.publish("one", "hello"), 2);
  assert.equal(await redis.publish("two", "you"), 1);
  await all;
  assert.deepEqual(seen.sort(), ["o* one hello", "one hello", "two you"]);
  await subscriber.quit();

  console.log("restart");
  await restarted;
  assert.equal(await redis.get("s"), "v");
  assert.equal(await redis.client("GETNAME"), "ioredis");
  await redis.quit();
  console.log("done");
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
