// What applications build on ioredis: HOST PORT FEATURE…
const assert = require("node:assert");
const Redis = require("ioredis");
const [host, port, ...wanted] = process.argv.slice(2);
const connect = (options) => new Redis({ host, port: Number(port), ...options });
const later = (call) => new Promise((resolve) => setTimeout(() => resolve(call()), 200));

const features = {
  async transactions(redis) {
    const multi = redis.multi();
    for (let i = 0; i < 100; i++) multi.set(`{tx}${i}`, i).incr(`{tx}${i}`);
    const replies = await multi.exec();
    replies.forEach(([error, reply], i) => assert.ok(error === null && reply === (i % 2 ? (i + 1) / 2 : "OK")));
    await redis.multi({ pipeline: false });
    assert.equal(await redis.set("{tx}a", "1"), "QUEUED");
    assert.equal(await redis.get("{tx}a"), "QUEUED");
    assert.deepEqual(await redis.exec(), [[null, "OK"], [null, "1"]]);
    await redis.multi({ pipeline: false });
    await redis.set("{tx}a", "2");
    assert.equal(await redis.discard(), "OK");
    assert.equal(await redis.get("{tx}a"), "1");
    await assert.rejects(redis.multi().set("{tx}a", 1).call("NOSUCH").exec(), /EXECABORT/);
    const [, [wrong]] = await redis.multi().set("{tx}a", 1).lpush("{tx}a", "x").exec();
    assert.match(wrong.message, /WRONGTYPE/);
  },

  async watches(redis) {
    await redis.set("{w}n", 0);
    const add = async (own) => {
      for (let done = 0; done < 20; ) {
        await own.watch("{w}n");
        const value = Number(await own.get("{w}n"));
        if ((await own.multi().set("{w}n", value + 1).exec()) !== null) done++;
      }
      own.disconnect();
    };
    await Promise.all([1, 2, 3, 4].map(() => add(redis.duplicate())));
    assert.equal(await redis.get("{w}n"), "80");
  },

  async scripts(redis) {
    redis.defineCommand("add", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
    const added = await Promise.all(Array.from({ length: 100 }, (_, i) => redis.add(`script:${i}`, i)));
    assert.deepEqual(added, Array.from({ length: 100 }, (_, i) => i));
    const [[, one], [, two]] = await redis.pipeline().add("script:1", 5).add("script:2", 5).exec();
    assert.deepEqual([one, two], [6, 7]);
    assert.equal(await redis.eval("return ARGV[1]", 0, "x"), "x");
    await assert.rejects(redis.eval("return redis.error_reply('MINE')", 1, "s"), /MINE/);
    await assert.rejects(redis.evalsha("0".repeat(40), 1, "s"), /NOSCRIPT/);
  },

  async blocking(redis) {
    const own = redis.duplicate();
    assert.equal(await own.blpop("{b}none", 1), null);
    const popped = own.blpop("{b}none", "{b}l", 20);
    await later(() => redis.rpush("{b}l", "x"));
    assert.deepEqual(await popped, ["{b}l", "x"]);
    const least = own.bzpopmin("{b}z", 20);
    await later(() => redis.zadd("{b}z", 1, "m"));
    assert.deepEqual(await least, ["{b}z", "m", "1"]);
    const moved = own.blmove("{b}l", "{b}to", "LEFT", "RIGHT", 20);
    await later(() => redis.rpush("{b}l", "y"));
    assert.equal(await moved, "y");
    // Who leaves pops nothing.
    own.blpop("{b}left", 0).catch(() => {});
    await later(() => own.disconnect());
    for (let tries = 0; ; tries++) {
      await redis.rpush("{b}left", "x");
      if ((await redis.lpop("{b}left")) === "x") break;
      assert.ok(tries < 400);
      await later(() => {});
    }
  },

  async streams(redis) {
    const own = redis.duplicate();
    await redis.xgroup("CREATE", "{s}s", "g", "$", "MKSTREAM");
    const read = own.xreadgroup("GROUP", "g", "c", "COUNT", 5, "BLOCK", 20000, "STREAMS", "{s}s", ">");
    const id = await later(() => redis.xadd("{s}s", "*", "f", "v"));
    assert.deepEqual(await read, [["{s}s", [[id, ["f", "v"]]]]]);
    assert.equal(await redis.xack("{s}s", "g", id), 1);
    const next = own.xread("BLOCK", 20000, "STREAMS", "{s}s", "$");
    await later(() => redis.xadd("{s}s", "*", "f", "w"));
    assert.deepEqual((await next)[0][1][0][1], ["f", "w"]);
    assert.equal(await own.xread("BLOCK", 100, "STREAMS", "{s}s", "$"), null);
    own.disconnect();
  },

  async scans(redis) {
    const keys = Array.from({ length: 1000 }, (_, i) => `scan:${i}`);
    await redis.mset(keys.flatMap((key) => [key, "v"]));
    const found = [];
    for await (const some of redis.scanStream({ match: "scan:*", count: 100 })) found.push(...some);
    assert.deepEqual(found.sort(), keys.sort());
    await redis.sadd("set", ...keys);
    const members = [];
    for await (const some of redis.sscanStream("set")) members.push(...some);
    assert.equal(new Set(members).size, 1000);
  },

  async messages(redis) {
    const own = redis.duplicate();
    const got = [];
    own.on("message", (channel, message) => got.push([channel, message]));
    own.on("pmessage", (pattern, channel, message) => got.push([pattern, channel, message]));
    assert.equal(await own.subscribe("news", "more"), 2);
    assert.equal(await own.psubscribe("n*"), 3);
    assert.equal(await redis.publish("news", "x"), 2);
    while (got.length < 2) await later(() => {});
    assert.deepEqual(got.sort(), [["n*", "news", "x"], ["news", "x"]]);
    assert.equal(await own.unsubscribe("news"), 2);
    assert.equal(await redis.publish("more", "y"), 1);
    while (got.length < 3) await later(() => {});
    await own.quit();
  },
};

async function main() {
  const redis = connect();
  await redis.flushall();
  for (const feature of wanted) await features[feature](redis);
  console.log("done");
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
