"""python-socketio against an application of its own (`interop_server`): rooms, acks with timeouts, namespaces, refusals."""

from story import URL, Inbox, check, client, insist, leave, part, same, tell, within

import socketio


async def app():
    sio = client()
    await within(sio.connect(URL, namespaces=["/app"], wait_timeout=60), "connect")
    return sio


async def acks():
    sio, inbox = client(), Inbox()

    @sio.on("echoed", namespace="/app")
    async def echoed(first, second):
        await inbox.put((first, second))

    await within(sio.connect(URL, namespaces=["/app"], wait_timeout=60), "connect")
    same("one", await sio.call("echo", 1, namespace="/app"), 1)
    same("several, binary", await sio.call("echo", (1, b"\x02\x03", {"b": b"x"}), namespace="/app"), (1, b"\x02\x03", {"b": b"x"}))
    await sio.emit("echo", ("no ack", b"\x09"), namespace="/app")
    await inbox.until("an event back", lambda rows: rows == [("no ack", b"\x09")])
    try:
        await sio.call("never-answered", namespace="/app", timeout=0.1)
        check("the client's own timeout", False)
    except socketio.exceptions.TimeoutError:
        check("the client's own timeout", True)
    await leave(sio)


async def rooms():
    a, b, in_a, in_b = client(), client(), Inbox(), Inbox()
    for sio, inbox in [(a, in_a), (b, in_b)]:
        def listen(inbox):
            async def said(number):
                await inbox.put(number)
            return said

        def answer(name):
            async def question(text):
                return f"{name}: {text}"
            return question

        sio.on("said", listen(inbox), namespace="/app")
        sio.on("question", answer("a" if sio is a else "b"), namespace="/app")
        await within(sio.connect(URL, namespaces=["/app"], wait_timeout=60), "connect")
    for sio, room in [(a, "py-red"), (b, "py-red"), (b, "py-blue")]:
        await insist(sio, "join", room, namespace="/app")
    await insist(a, "say", ["py-red"], "said", 1, namespace="/app")
    await insist(a, "say", ["py-red", "py-blue"], "said", 2, namespace="/app")
    await insist(a, "say-others", "py-red", "said", 3, namespace="/app")
    await insist(a, "say-except", "py-red", "py-blue", "said", 4, namespace="/app")
    await insist(b, "leave", "py-red", namespace="/app")
    await insist(a, "say", ["py-red"], "said", 5, namespace="/app")
    await insist(a, "say", ["py-red", "py-blue"], "said", 6, namespace="/app")
    await in_a.until("6", lambda rows: 6 in rows)
    await in_b.until("6", lambda rows: 6 in rows)
    same("a", in_a.rows, [1, 2, 4, 5, 6])
    same("b", in_b.rows, [1, 2, 3, 6])
    await insist(b, "join", "py-red", namespace="/app")
    answers = await a.call("ask", ("py-red", 30_000, "tea?"), namespace="/app", timeout=60)
    same("answers of the handlers", answers, {"complete": True, "answers": ["a: tea?", "b: tea?"]})
    await leave(a)
    await leave(b)


async def refusals():
    for auth in [None, {"token": "wrong"}]:
        sio, errors = client(), Inbox()

        @sio.on("connect_error", namespace="/private")
        async def refused(data):
            await errors.put(data)

        try:
            await sio.connect(URL, namespaces=["/private"], auth=auth, wait_timeout=60)
            check("refused", False)
        except socketio.exceptions.ConnectionError:
            await errors.until("the error", lambda rows: len(rows) > 0)
            same("message and data", errors.rows[0], {"message": "not authorized", "data": {"code": 401}})
        await leave(sio)
    sio = client()
    auth = {"token": "open sesame", "user": "ann"}
    await within(sio.connect(URL, namespaces=["/private", "/app"], auth=auth, wait_timeout=60), "connect")
    same("in", await sio.call("whoami", namespace="/private"), "ann")
    same("in both", await sio.call("echo", 7, namespace="/app"), 7)
    await leave(sio)


async def story():
    await part("acks, binary, a timeout", acks)
    await part("rooms, and questions that handlers answer", rooms)
    await part("auth refused and accepted, two namespaces", refusals)


tell(story)
