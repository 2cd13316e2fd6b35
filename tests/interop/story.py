"""What the stories in Python share: checks, waiting, asking the test that runs them, and a TCP proxy that can be cut.

The same as story.mjs: one line of JSON per check on stdout, requests as `{"ask":…}`, their answers as lines on stdin. Nothing
sleeps to let something happen.
"""

import asyncio
import json
import os
import sys
import traceback
from urllib.parse import urlparse

import socketio

URL = os.environ.get("URL", "http://127.0.0.1:7400")
PATIENCE_S = 60

_failures = 0
_checks = 0


def check(name, ok, detail=None):
    global _failures, _checks
    _checks += 1
    _failures += not ok
    line = {"check": name, "ok": bool(ok)}
    if not ok and detail is not None:
        line["detail"] = repr(detail)[:2000]
    print(json.dumps(line), flush=True)


def same(name, actual, expected):
    check(name, actual == expected, {"actual": actual, "expected": expected})


async def within(awaitable, what, seconds=PATIENCE_S):
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except asyncio.TimeoutError:
        raise TimeoutError(f"waited {seconds} s for: {what}") from None


async def part(name, run):
    try:
        await within(run(), name)
        check(name, True)
    except Exception:
        check(name, False, traceback.format_exc())


async def ask(what, **more):
    print(json.dumps({"ask": what, **more}), flush=True)
    answer = json.loads(await asyncio.to_thread(sys.stdin.readline))
    if "error" in answer:
        raise RuntimeError(f"{what}: {answer['error']}")
    return answer


def tell(story):
    asyncio.run(story())
    # The thread that reads stdin may still wait.
    sys.stdout.flush()
    os._exit(1 if _failures or not _checks else 0)


def client():
    return socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.5, randomization_factor=0, handle_sigint=False)


async def leave(sio):
    """Disconnects once all is sent: told to go while a POST is on its way, python-engineio drops what it has not sent yet, its own
    goodbye as well, and waits for a poll that nobody has a reason to answer before the next ping."""
    if sio.connected:
        await within(sio.eio.queue.join(), "all is sent")
    await sio.disconnect()


async def insist(sio, name, *args, namespace=None):
    reply = await sio.call(name, args, namespace=namespace, timeout=PATIENCE_S)
    if not isinstance(reply, dict) or reply.get("ok") is not True:
        raise AssertionError(f"{name} {args[:1]}: {reply!r}")
    return reply


class Inbox:
    """What a handler of fixed arity was given."""

    def __init__(self):
        self.rows = []
        self._grew = asyncio.Condition()

    async def put(self, row):
        async with self._grew:
            self.rows.append(row)
            self._grew.notify_all()

    async def until(self, what, satisfied):
        async def wait():
            async with self._grew:
                await self._grew.wait_for(lambda: satisfied(self.rows))

        await within(wait(), f"{what}; there is {self.rows[-5:]} (at first)")


class Proxy:
    """Forwards to the server, until it is cut: then all its connections are reset, and new ones too."""

    def __init__(self):
        self.links = set()
        self.is_cut = False

    @classmethod
    async def start(cls):
        proxy = cls()
        proxy.server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy.url = f"http://127.0.0.1:{proxy.server.sockets[0].getsockname()[1]}"
        return proxy

    async def _serve(self, reader, writer):
        if self.is_cut:
            writer.transport.abort()
            return
        there = urlparse(URL)
        try:
            far_reader, far_writer = await asyncio.open_connection(there.hostname, there.port)
        except OSError:
            writer.transport.abort()
            return
        self.links |= {writer, far_writer}

        async def copy(source, target):
            try:
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            except OSError:
                pass
            finally:
                target.close()

        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        self.links -= {writer, far_writer}

    def cut(self):
        self.is_cut = True
        for link in self.links:
            link.transport.abort()

    def restore(self):
        self.is_cut = False
