// BullMQ, with the hash tag that its documentation asks for in a cluster: HOST PORT.
const assert = require("node:assert");
const { FlowProducer, Queue, QueueEvents, Worker } = require("bullmq");
const [host, port] = process.argv.slice(2);
const options = { connection: { host, port: Number(port), maxRetriesPerRequest: null }, prefix: "{bull}" };

async function main() {
  const queue = new Queue("work", options);
  const events = new QueueEvents("work", options);
  await events.waitUntilReady();
  const completed = new Set();
  const failed = [];
  events.on("completed", ({ jobId }) => completed.add(jobId));
  events.on("failed", ({ failedReason }) => failed.push(failedReason));
  const progress = [];
  events.on("progress", ({ data }) => progress.push(data));

  const attempts = {};
  const worker = new Worker(
    "work",
    async (job) => {
      attempts[job.name] = (attempts[job.name] ?? 0) + 1;
      if (job.name === "retried" && attempts.retried < 3) throw new Error("not yet");
      if (job.name === "wrong") throw new Error("never");
      await job.updateProgress(50);
      return job.data.n * 2;
    },
    { ...options, concurrency: 5 },
  );

  const jobs = await queue.addBulk(Array.from({ length: 50 }, (_, n) => ({ name: "plain", data: { n } })));
  const results = await Promise.all(jobs.map((job) => job.waitUntilFinished(events, 30000)));
  assert.deepEqual(results, jobs.map((_, n) => n * 2));
  assert.ok(jobs.every((job) => completed.has(job.id)) && progress.includes(50));

  const begun = Date.now();
  const delayed = await queue.add("delayed", { n: 7 }, { delay: 700 });
  assert.equal(await delayed.waitUntilFinished(events, 30000), 14);
  assert.ok(Date.now() - begun >= 690);
  const urgent = await queue.add("urgent", { n: 1 }, { priority: 1 });
  assert.equal(await urgent.waitUntilFinished(events, 30000), 2);
  const retried = await queue.add("retried", { n: 4 }, { attempts: 3, backoff: { type: "fixed", delay: 50 } });
  assert.equal(await retried.waitUntilFinished(events, 30000), 8);
  assert.equal(attempts.retried, 3);
  const wrong = await queue.add("wrong", { n: 0 });
  await assert.rejects(wrong.waitUntilFinished(events, 30000), /never/);
  assert.ok(failed.includes("never"));

  // A parent waits for its children.
  const flow = new FlowProducer(options);
  const child = (n) => ({ name: "child", queueName: "work", data: { n } });
  const tree = await flow.add({ name: "parent", queueName: "work", data: { n: 9 }, children: [1, 2, 3].map(child) });
  assert.equal(await tree.job.waitUntilFinished(events, 30000), 18);
  assert.deepEqual(Object.values(await tree.job.getChildrenValues()).sort(), [2, 4, 6]);

  // Repeated jobs, and a queue that is paused.
  await queue.upsertJobScheduler("tick", { every: 200 }, { name: "tick", data: { n: 1 } });
  const ticks = () => attempts.tick >= 2;
  for (let tries = 0; !ticks(); tries++) {
    assert.ok(tries < 300);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await queue.removeJobScheduler("tick");
  await queue.pause();
  const paused = await queue.add("paused", { n: 3 });
  assert.equal((await queue.getJobCounts("paused")).paused, 1);
  await queue.resume();
  assert.equal(await paused.waitUntilFinished(events, 30000), 6);
  assert.equal((await queue.getJobCounts("failed")).failed, 1);

  await worker.close();
  await queue.obliterate({ force: true });
  await Promise.all([flow.close(), events.close(), queue.close()]);
  console.log("done");
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
