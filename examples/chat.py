"""Talk from process to process, between two Python nodes.

A mailbox is a process of its node. It is found by a name, answered by its pid, and watched by a
monitor.

    $ python examples/chat.py
    bob hears: hello, this is ann
    ann hears: hello, ann
    bob hears: i have to go
    bob sees that ann is gone: normal
"""

import trio

from barnacle_trio import Atom, Down, open_node

SAY = Atom("say")


async def be_bob(*, task_status: trio.TaskStatus[None]) -> None:
    async with (
        open_node("bob@127.0.0.1", cookie="my_cookie") as node,
        node.open_mailbox("chat") as mailbox,
    ):
        task_status.started()
        met = False
        async for message in mailbox:
            match message:
                case (Atom("say"), ann, text):
                    print("bob hears:", text.decode())  # a str is a binary on its way: bytes
                    if not met:
                        met = True
                        mailbox.monitor(ann)
                        await node.send(ann, (SAY, mailbox.pid, "hello, ann"))
                case Down(reason=Atom(reason)):
                    print("bob sees that ann is gone:", reason)
                    return


async def be_ann() -> None:
    async with (
        open_node("ann@127.0.0.1", cookie="my_cookie") as node,
        node.open_mailbox() as mailbox,  # without a name: only who has its pid can write to it
    ):
        # The first message goes to a name at a node, which is dialled for it ...
        await node.send(("chat", "bob@127.0.0.1"), (SAY, mailbox.pid, "hello, this is ann"))
        _say, bob, text = await mailbox.receive()
        print("ann hears:", text.decode())
        # ... and all others to a pid, which is good for as long as its process lives.
        await node.send(bob, (SAY, mailbox.pid, "i have to go"))


async def main() -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(be_bob)
        nursery.start_soon(be_ann)


if __name__ == "__main__":
    trio.run(main)
