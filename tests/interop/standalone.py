"""python-socketio against the standalone server, with handlers of fixed arity: an additional argument would break them."""

from story import URL, Inbox, Proxy, ask, check, client, insist, leave, part, same, tell, within

import asyncio

import socketio

BYTES = bytes([0, 1, 2, 254, 255])


async def connected(url=None, **options):
    sio = client()
    await within(sio.connect(url or URL, wait_timeout=60, **options), "connect")
    return sio


def transport_story(name, transports):
    async def run():
        reader, writer, inbox = client(), await connected(transports=transports), Inbox()

        @reader.on("one")
        async def one(value):
            await inbox.put(("one", value))

        @reader.on("two")
        async def two(first, second):
            await inbox.put(("two", first, second))

        @reader.on("none")
        async def none():
            await inbox.put(("none",))

        await within(reader.connect(URL, transports=transports, wait_timeout=60), "connect")
        topic = f"python-{name}"
        await insist(reader, "subscribe", topic)
        await insist(writer, "emit", topic, "one", {"a": [1, None, "ä€\U0001f600"]})
        await insist(writer, "emit", topic, "two", 1, "b")
        await insist(writer, "emit", topic, "none")
        await insist(writer, "emit", topic, "one", BYTES)
        await insist(writer, "emit", topic, "two", {"picture": BYTES}, 2)
        await inbox.until("five events", lambda rows: len(rows) >= 5)
        same("events", inbox.rows, [("one", {"a": [1, None, "ä€\U0001f600"]}), ("two", 1, "b"), ("none",), ("one", BYTES), ("two", {"picture": BYTES}, 2)])
        await leave(reader)
        await leave(writer)

    return run


async def refused():
    sio = client()
    try:
        await sio.connect(URL, namespaces=["/nowhere"], wait_timeout=60)
        check("an unknown namespace is refused", False)
    except socketio.exceptions.ConnectionError as error:
        check("an unknown namespace is refused", "Invalid namespace" in str(error) or "failed to connect" in str(error), str(error))
    await leave(sio)


def reader_of(auth):
    """A reader, and what its handler was given. Its sids say how often it has connected."""
    sio, inbox, sids = client(), Inbox(), Inbox()

    @sio.on("n")
    async def n(number):
        await inbox.put(number)

    @sio.on("connect")
    async def connect():
        await sids.put(sio.sid)

    return sio, inbox, sids


async def connect(sio, url, auth, transports):
    await within(sio.connect(url, auth=auth, transports=transports, wait_timeout=60), "connect")


async def emit(writer, topic, first, last):
    for n in range(first, last + 1):
        await insist(writer, "emit", topic, "n", n)


def judge(what, numbers, last):
    first_seen = list(dict.fromkeys(numbers))
    same(f"{what}: all, and in order as they first came", first_seen, list(range(1, last + 1)))


def cut_story(name, transports):
    async def run():
        proxy, writer = await Proxy.start(), await connected()
        topic, auth = f"python-cut-{name}", {"subscriber": f"python-{name}", "redeliver": {"ack": True}}
        sio, inbox, sids = reader_of(auth)
        await connect(sio, proxy.url, auth, transports)
        await insist(sio, "subscribe", topic)
        await emit(writer, topic, 1, 5)
        await inbox.until("5", lambda rows: 5 in rows)
        for round in range(1, 4):
            connects = len(sids.rows)
            proxy.cut()
            await emit(writer, topic, round * 10 - 4, round * 10)
            proxy.restore()
            await sids.until(f"reconnect {round}", lambda rows: len(rows) > connects)
            await emit(writer, topic, round * 10 + 1, round * 10 + 5)
            await inbox.until(f"{round * 10 + 5}", lambda rows: round * 10 + 5 in rows)
        judge(name, inbox.rows, 35)
        await leave(sio)
        await leave(writer)

    return run


async def other_process():
    """A subscriber that begins anew, as after a restart of its process, goes on where it was."""
    writer = await connected()
    auth = {"subscriber": "python-restart", "redeliver": {"ack": True}}
    sio, inbox, _ = reader_of(auth)
    await connect(sio, URL, auth, None)
    await insist(sio, "subscribe", "python-restart")
    await emit(writer, "python-restart", 1, 5)
    await inbox.until("5", lambda rows: 5 in rows)
    await leave(sio)
    await emit(writer, "python-restart", 6, 9)
    again, rest, _ = reader_of(auth)
    await connect(again, URL, auth, None)
    await emit(writer, "python-restart", 10, 10)
    await rest.until("10", lambda rows: 10 in rows)
    judge("both together", inbox.rows + rest.rows, 10)
    await leave(again)
    await leave(writer)


async def killed():
    writer = await connected()
    auth = {"subscriber": "python-killed", "redeliver": {"ack": True}}
    sio, inbox, sids = reader_of(auth)
    await connect(sio, URL, auth, None)
    await insist(sio, "subscribe", "python-killed")
    await emit(writer, "python-killed", 1, 20)
    await ask("restart")
    await sids.until("reconnect", lambda rows: len(rows) >= 2)
    while not writer.connected:
        await asyncio.sleep(0.01)
    await emit(writer, "python-killed", 21, 25)
    await inbox.until("25", lambda rows: 25 in rows)
    judge("killed", inbox.rows, 25)
    await leave(sio)
    await leave(writer)


async def story():
    for name, transports in [("polling", ["polling"]), ("websocket", ["websocket"]), ("upgrade", None)]:
        await part(f"{name}: events and binary, both ways", transport_story(name, transports))
        await part(f"{name}: in ack mode a cut loses nothing", cut_story(name, transports))
    await part("an unknown namespace", refused)
    await part("a subscriber that begins anew goes on where it was", other_process)
    await part("in ack mode kill -9 of the server loses nothing", killed)


tell(story)
