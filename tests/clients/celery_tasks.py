"""Celery with a worker and results, under a hash tag as a cluster needs it: HOST PORT FEATURE…"""

import sys
import time

import celery
import redis
from celery.contrib.testing.worker import start_worker

host, port = sys.argv[1], int(sys.argv[2])
url = f"redis://{host}:{port}/0"
app = celery.Celery("tasks", broker=url, backend=url)
app.conf.broker_transport_options = {"global_keyprefix": "{celery}"}
app.conf.result_backend_transport_options = {"global_keyprefix": "{celery}"}
app.conf.broker_connection_retry_on_startup = True


@app.task
def add(a, b):
    return a + b


@app.task(bind=True, max_retries=3)
def retried(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task
def wrong():
    raise ValueError("on purpose")


def polled(result):
    """The result, by asking for it again and again."""
    until = time.monotonic() + 20
    while (meta := app.backend.get_task_meta(result.id))["status"] not in celery.states.READY_STATES:
        assert time.monotonic() < until, meta
        time.sleep(0.02)
    return meta["result"]


def tasks():
    assert [polled(result) for result in [add.delay(i, i) for i in range(50)]] == list(range(0, 100, 2))
    assert polled(retried.delay()) == 2 and "on purpose" in str(polled(wrong.delay()))
    begun = time.monotonic()
    assert polled(add.apply_async((1, 1), countdown=1)) == 2 and time.monotonic() - begun >= 1
    assert polled(add.apply_async((2, 2), priority=9)) == 4


def results():
    assert add.delay(3, 4).get(timeout=20) == 7
    assert celery.group(add.s(i, i) for i in range(10))().get(timeout=20) == list(range(0, 20, 2))
    assert celery.chain(add.s(1, 2), add.s(4))().get(timeout=20) == 7
    chord = celery.chord([add.s(1, 1), add.s(2, 2)], add.s([0]))
    assert sorted(chord().get(timeout=20)) == [0, 2, 4]
    try:
        wrong.delay().get(timeout=20)
    except ValueError as error:
        assert str(error) == "on purpose"
    else:
        raise AssertionError("it succeeded")


def control():
    """Messages to all workers, and their answers."""
    until = time.monotonic() + 20
    while not (pongs := app.control.ping(timeout=0.5)):
        assert time.monotonic() < until
    assert [list(pong.values()) for pong in pongs] == [[{"ok": "pong"}]]
    assert any("tasks.add" in name for [names] in map(dict.values, [app.control.inspect().registered()]) for name in names)


redis.Redis(host=host, port=port).flushall()
with start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=20):
    for feature in sys.argv[3:]:
        globals()[feature]()
print("done")
