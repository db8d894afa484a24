// What applications build on node-redis: HOST PORT PROTOCOL FEATURE…
const assert = require("node:assert");
const { createClient, defineScript, WatchError } = require("redis");
const [host, port, protocol, ...wanted] = process.argv.slice(2);
const later = (call) => new Promise((resolve) => setTimeout(() => resolve(call()), 200));

const add = defineScript({
  NUMBER_OF_KEYS: 1,
  SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
  parseCommand(parser, key, by) {
    parser.pushKey(key);
    parser.push(String(by));
  },
  transformReply: (reply) => reply,
});

async function connect() {
  const client = createClient({ socket: { host, port: Number(port) }, RESP: Number(protocol), scripts: { add }, unstableResp3: true });
  client.on("error", () => {});
  return client.connect();
}

const features = {
  async transactions(client) {
    const replies = await client.multi().set("{tx}a", "1").incr("{tx}a").lRange("{tx}none", 0, -1).exec();
    assert.deepEqual(replies, ["OK", 2, []]);
    const piped = await client.multi().set("a", "1").set("b", "2").get("a").execAsPipeline();
    assert.deepEqual(piped, ["OK", "OK", "1"]);
    await assert.rejects(client.multi().set("{tx}a", "x").incr("{tx}a").exec());
    assert.equal(await client.get("{tx}a"), "x");
  },

  async watches(client) {
    await client.set("{w}n", "0");
    const count = async () => {
      const own = await connect();
      for (let done = 0; done < 20; ) {
        try {
          await own.watch("{w}n");
          const value = Number(await own.get("{w}n"));
          await own.multi().set("{w}n", String(value + 1)).exec();
          done++;
        } catch (error) {
          if (!(error instanceof WatchError)) throw error;
        }
      }
      await own.close();
    };
    await Promise.all([1, 2, 3, 4].map(count));
    assert.equal(await client.get("{w}n"), "80");
  },

  async scripts(client) {
    const added = await Promise.all(Array.from({ length: 50 }, (_, i) => client.add(`script:${i}`, i)));
    assert.deepEqual(added, Array.from({ length: 50 }, (_, i) => i));
    assert.equal(await client.eval("return ARGV[1]", { keys: [], arguments: ["x"] }), "x");
    await assert.rejects(client.evalSha("0".repeat(40), { keys: ["s"], arguments: [] }), /NOSCRIPT/);
  },

  async blocking(client) {
    const own = await connect();
    assert.equal(await own.blPop("{b}none", 0.2), null);
    const popped = own.blPop(["{b}none", "{b}l"], 20);
    await later(() => client.rPush("{b}l", "x"));
    assert.deepEqual({ ...(await popped) }, { key: "{b}l", element: "x" });
    const least = own.bzPopMin("{b}z", 20);
    await later(() => client.zAdd("{b}z", { score: 1, value: "m" }));
    assert.deepEqual({ ...(await least) }, { key: "{b}z", value: "m", score: 1 });
    await own.close();
  },

  async streams(client) {
    const own = await connect();
    await client.xGroupCreate("{s}s", "g", "$", { MKSTREAM: true });
    const read = own.xReadGroup("g", "c", { key: "{s}s", id: ">" }, { BLOCK: 20000, COUNT: 5 });
    const id = await later(() => client.xAdd("{s}s", "*", { f: "v" }));
    assert.ok(JSON.stringify(await read).includes(id));
    assert.equal(await client.xAck("{s}s", "g", id), 1);
    assert.equal(await own.xRead({ key: "{s}s", id: "$" }, { BLOCK: 100 }), null);
    await own.close();
  },

  async scans(client) {
    const keys = Array.from({ length: 1000 }, (_, i) => `scan:${i}`);
    await client.mSet(keys.map((key) => [key, "v"]));
    const found = [];
    for await (const some of client.scanIterator({ MATCH: "scan:*", COUNT: 100 })) found.push(...[some].flat());
    assert.deepEqual(found.sort(), keys.sort());
  },

  async messages(client) {
    const own = await connect();
    const got = [];
    await own.subscribe("news", (message) => got.push(message));
    await own.pSubscribe("n*", (message, channel) => got.push(`${channel} ${message}`));
    assert.equal(await client.publish("news", "x"), 2);
    while (got.length < 2) await later(() => {});
    assert.deepEqual(got.sort(), ["news x", "x"]);
    await own.unsubscribe("news");
    assert.equal(await client.publish("news", "y"), 1);
    while (got.length < 3) await later(() => {});
    await own.pUnsubscribe("n*");
    assert.equal(await client.publish("news", "z"), 0);
    own.destroy();
  },
};

async function main() {
  const client = await connect();
  await client.flushAll();
  for (const feature of wanted) await features[feature](client);
  console.log("done");
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
