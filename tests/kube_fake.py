"""A stand-in for a Kubernetes API server: TLS, tokens, rights, lists in pages, watches.

It answers in the shapes of the real one (a test holds the two together), serves
``discovery.k8s.io/v1`` too, and does what no real one can be made to do: any bytes, any silence.
"""

from __future__ import annotations

import base64
import copy
import json
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import trio
import trustme

from tests.kube_server import ADMIN_TOKEN, POD_TOKEN, POD_USER
from tests.ports import free_port

KINDS = {"pods": "Pod", "endpoints": "Endpoints", "endpointslices": "EndpointSlice"}
V1, V1BETA1 = "discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"
Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One request that came."""

    path: str
    params: dict[str, str]
    headers: dict[str, str]

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def is_watch(self) -> bool:
        return self.params.get("watch") == "1"


Script = Callable[[trio.SSLStream[trio.SocketStream], Request], Awaitable[bool]]
"""What answers a request; tells whether to go on with the connection, or to hang up."""


class Refused(Exception):
    """A request that is answered by a status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.body: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


@dataclass
class FakeKube:
    """The server; made by `open_fake_kube`."""

    ca: str
    port: int
    context: ssl.SSLContext
    nursery: trio.Nursery
    slices_group: str = V1
    requests: list[Request] = field(default_factory=list)
    scripts: list[Script] = field(default_factory=list)
    """What answers the next requests, one each, in place of the server."""
    tokens: dict[str, str] = field(
        default_factory=lambda: {ADMIN_TOKEN: "admin", POD_TOKEN: POD_USER}
    )
    bookmark_every: float = 60.0

    _objects: dict[str, Json] = field(default_factory=dict)  # by path
    _history: list[tuple[int, str, str, Json]] = field(default_factory=list)
    _version: int = 100
    _oldest: int = 0
    _rules: dict[str, list[Json]] = field(default_factory=dict)
    _rights: dict[str, list[Json]] = field(default_factory=dict)
    _moved: trio.Event = field(default_factory=trio.Event)
    _connections: set[trio.CancelScope] = field(default_factory=set)
    _listening: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port each time."""
        listeners = await trio.open_ssl_over_tcp_listeners(
            self.port, self.context, host="127.0.0.1"
        )
        self._listening = trio.CancelScope()
        self.nursery.start_soon(self._listen, listeners, self._listening)

    async def _listen(
        self, listeners: list[trio.SSLListener[trio.SocketStream]], scope: trio.CancelScope
    ) -> None:
        with scope:
            await trio.serve_listeners(self._serve, listeners)

    def kill(self) -> None:
        """Neither listen any more nor keep a connection; what is stored stays."""
        self._listening.cancel("the server is killed")
        self.cut()

    def lists(self) -> list[Request]:
        return [request for request in self.requests if not request.is_watch]

    def watches(self) -> list[Request]:
        return [request for request in self.requests if request.is_watch]

    def cut(self) -> None:
        """End every connection without a word."""
        for scope in self._connections:
            scope.cancel("the server is killed")

    def compact(self) -> None:
        """Forget what changed up to now."""
        self._version += 1
        self._oldest = self._version

    # -- what an administrator does ---------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "",
        text: bool = False,
    ) -> Any:
        """As the real one's, for what tests do to it."""
        path = urlsplit(path).path
        if path.endswith("/namespaces"):
            return body
        if path.endswith("/roles"):
            self._rules[body["metadata"]["name"]] = body["rules"]
            return body
        if path.endswith("/rolebindings"):
            namespace = path.split("/namespaces/")[1].split("/")[0]
            for subject in body["subjects"]:
                rules = self._rules[body["roleRef"]["name"]]
                self._rights.setdefault(f"{subject['name']} {namespace}", []).extend(rules)
            return body
        if method == "POST" and path.endswith("/binding"):
            self._objects[path.removesuffix("/binding")]["spec"]["nodeName"] = "a-node"
            return body
        if method == "POST":
            name = body["metadata"]["name"]
            return self.put(f"{path}/{name}", body, "ADDED")
        if method == "PATCH":
            target = path.removesuffix("/status")
            return self.put(target, _merged(self._objects[target], body), "MODIFIED")
        assert method == "DELETE"
        thing = self._objects[path]
        if thing.get("spec", {}).get("nodeName"):  # somebody has to end it first
            meta = {**thing["metadata"], "deletionTimestamp": "2030-01-01T00:00:00Z"}
            return self.put(path, {**thing, "metadata": meta}, "MODIFIED")
        self.put(path, thing, "DELETED")
        return thing

    def put(self, path: str, thing: Json, what: str) -> Json:
        """Store an object, or delete it, and tell those who watch."""
        self._version += 1
        collection, _, name = path.rpartition("/")
        meta = {
            "name": name,
            "namespace": collection.split("/namespaces/")[1].split("/")[0],
            "uid": f"uid-{self._version}",
            **thing["metadata"],
            "resourceVersion": str(self._version),
        }
        stored = {**copy.deepcopy(thing), "metadata": meta}
        if what == "DELETED":
            del self._objects[path]
        else:
            self._objects[path] = stored
        self._history.append((self._version, collection, what, stored))
        self._moved.set()
        self._moved = trio.Event()
        return stored

    # -- what it answers --------------------------------------------------------------------------

    async def _serve(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        with trio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                await self._answer_all(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # they left
            finally:
                self._connections.discard(scope)
                await trio.aclose_forcefully(stream)

    async def _answer_all(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                data = await stream.receive_some()
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            request = _request(head.decode())
            self.requests.append(request)
            if self.scripts:
                if await self.scripts.pop(0)(stream, request):
                    continue
                return
            try:
                collection = self._authorized(request)
                if request.is_watch:
                    await self._watch(stream, collection, request.params)
                    continue
                answer = self._list(collection, request.params)
            except Refused as refused:
                await stream.send_all(answered(refused.code, refused.body))
            else:
                await stream.send_all(answered(200, answer))

    def _authorized(self, request: Request) -> str:
        user = self.tokens.get(request.token)
        if user is None:
            raise Refused(401, "Unauthorized", "Unauthorized")
        group, _, rest = request.path.partition("/namespaces/")
        namespace, _, plural = rest.partition("/")
        api = group.removeprefix("/apis/").removeprefix("/api/")
        verb = "watch" if request.is_watch else "list"
        wanted = api.partition("/")[0] if "/" in api else ""
        if user != "admin" and not any(
            wanted in rule["apiGroups"] and plural in rule["resources"] and verb in rule["verbs"]
            for rule in self._rights.get(f"{user} {namespace}", ())
        ):
            raise Refused(403, "Forbidden", f'{plural} is forbidden: User "{user}" cannot {verb}')
        if plural not in KINDS or (plural == "endpointslices" and api != self.slices_group):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return request.path

    def _list(self, collection: str, params: dict[str, str]) -> Json:
        version, after = self._version, ""
        if params.get("labelSelector", "").startswith("="):
            raise Refused(400, "BadRequest", "found '==', expected: identifier")
        if "continue" in params:
            stated, _, after = params["continue"].partition(" ")
            version = int(stated)
            if version < self._oldest:
                message = "The resourceVersion for the provided list is too old."
                raise Refused(410, "Expired", message)
        found = sorted(
            (path, thing)
            for path, thing in self._objects.items()
            if path.rpartition("/")[0] == collection and path > after and _selected(thing, params)
        )
        limit = int(params.get("limit", 0)) or len(found)
        meta: Json = {"resourceVersion": str(version)}
        if len(found) > limit:
            meta["continue"] = f"{version} {found[limit - 1][0]}"
            meta["remainingItemCount"] = len(found) - limit
        kind, api = self._typed(collection)
        items = [thing for _, thing in found[:limit]]
        return {"kind": f"{kind}List", "apiVersion": api, "metadata": meta, "items": items}

    async def _watch(
        self, stream: trio.SSLStream[trio.SocketStream], collection: str, params: dict[str, str]
    ) -> None:
        await stream.send_all(head(200, "Transfer-Encoding: chunked"))
        seen = int(params["resourceVersion"])
        if seen < self._oldest:
            message = f"too old resource version: {seen} ({self._oldest})"
            await _send_event(stream, "ERROR", Refused(410, "Expired", message).body)
        else:
            with trio.move_on_after(float(params["timeoutSeconds"])):
                await self._tell(stream, collection, params, seen)
        await stream.send_all(b"0\r\n\r\n")

    async def _tell(
        self,
        stream: trio.SSLStream[trio.SocketStream],
        collection: str,
        params: dict[str, str],
        seen: int,
    ) -> None:
        kind, api = self._typed(collection)
        while True:
            for version, where, what, thing in list(self._history):
                if version > seen and where == collection and _selected(thing, params):
                    await _send_event(stream, what, {"kind": kind, "apiVersion": api, **thing})
            seen = self._version
            moved = self._moved
            with trio.move_on_after(self.bookmark_every):
                await moved.wait()
                continue
            if params.get("allowWatchBookmarks") == "true":
                meta = {"resourceVersion": str(seen)}
                await _send_event(
                    stream, "BOOKMARK", {"kind": kind, "apiVersion": api, "metadata": meta}
                )

    def _typed(self, collection: str) -> tuple[str, str]:
        group, _, rest = collection.partition("/namespaces/")
        return KINDS[rest.rpartition("/")[2]], group.removeprefix("/apis/").removeprefix("/api/")


def _selected(thing: Json, params: dict[str, str]) -> bool:
    labels = thing["metadata"].get("labels", {})
    wanted = [each.partition("=") for each in params.get("labelSelector", "").split(",") if each]
    name = params.get("fieldSelector", "").partition("=")[2]
    return all(labels.get(key) == value for key, _, value in wanted) and (
        not name or thing["metadata"]["name"] == name
    )


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _request(text: str) -> Request:
    first, *lines = text.split("\r\n")
    target = urlsplit(first.split()[1])
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    return Request(target.path, dict(parse_qsl(target.query)), headers)


async def _send_event(stream: trio.SSLStream[trio.SocketStream], what: str, thing: Json) -> None:
    await stream.send_all(chunk(json.dumps({"type": what, "object": thing}).encode() + b"\n"))


# -- bytes for scripts ----------------------------------------------------------------------------


def head(status: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Content-Type: application/json"]
    return "".join(f"{line}\r\n" for line in (*lines, *headers)).encode() + b"\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def answered(status: int, body: Any, *headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(status, f"Content-Length: {len(data)}", *headers) + data


def sends(*parts: bytes, then: Callable[[], Awaitable[None]] | None = None) -> Script:
    """A script that sends bytes, waits for something, and hangs up."""

    async def script(stream: trio.SSLStream[trio.SocketStream], request: Request) -> bool:
        for part in parts:
            await stream.send_all(part)
        if then is not None:
            await then()
        return False

    return script


def replies(answer: bytes) -> Script:
    """A script that sends a whole answer, after which the connection stays."""

    async def script(stream: trio.SSLStream[trio.SocketStream], request: Request) -> bool:
        await stream.send_all(answer)
        return True

    return script


def drips(data: bytes, *, every: float) -> Script:
    """A script that sends the same bytes again and again, without an end."""

    async def script(stream: trio.SSLStream[trio.SocketStream], request: Request) -> bool:
        while True:
            await stream.send_all(data)
            await trio.sleep(every)

    return script


# -- opening --------------------------------------------------------------------------------------


@dataclass
class Authority:
    """A CA, and servers' certificates by it."""

    ca: trustme.CA = field(default_factory=trustme.CA)

    @property
    def pem(self) -> str:
        return self.ca.cert_pem.bytes().decode()

    def context(self, *names: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(*names).configure_cert(context)
        return context


@asynccontextmanager
async def open_fake_kube(
    *, authority: Authority | None = None, names: tuple[str, ...] = ("127.0.0.1",)
) -> AsyncIterator[FakeKube]:
    """Serve on a port of loopback for the length of the block."""
    authority = authority or _AUTHORITY
    async with trio.open_nursery() as nursery:
        fake = FakeKube(authority.pem, free_port(), authority.context(*names), nursery)
        await fake.start()
        yield fake
        nursery.cancel_scope.cancel("the test is over")


_AUTHORITY = Authority()


def populate(fake: FakeKube, *addresses: str) -> None:
    """Pods that serve, with the label ``app=my-app``, in the namespace ``default``."""
    for number, address in enumerate(addresses):
        pod = {
            "metadata": {"labels": {"app": "my-app"}},
            "status": {
                "phase": "Running",
                "podIP": address,
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        fake.put(f"/api/v1/namespaces/default/pods/pod-{number}", pod, "ADDED")


def write_kubeconfig(fake: FakeKube, folder: Path) -> Path:
    """A file by which ``kubectl`` would find the server; it is JSON, which is YAML too."""
    cluster = {
        "server": fake.url,
        "certificate-authority-data": base64.b64encode(fake.ca.encode()).decode(),
    }
    config = folder / "kubeconfig"
    content = {
        "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "admin"}}],
        "clusters": [{"name": "fake", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": ADMIN_TOKEN}}],
    }
    draft = config.with_suffix(".draft")
    draft.write_text(json.dumps(content))
    draft.rename(config)
    return config


@asynccontextmanager
async def open_fake_kube_process(folder: Path, *addresses: str) -> AsyncIterator[Path]:
    """The same in a process of its own, with some pods; the kubeconfig that leads to it."""
    command = [sys.executable, "-m", "tests.kube_fake", str(folder), *addresses]
    process = await trio.lowlevel.open_process(command, cwd=Path(__file__).parent.parent)
    try:
        with trio.fail_after(30):
            while not (folder / "kubeconfig").exists():
                assert process.poll() is None
                await trio.sleep(0.01)
        yield folder / "kubeconfig"
    finally:
        process.kill()
        with trio.move_on_after(5, shield=True):
            await process.wait()


async def _main(*arguments: str) -> None:
    folder, *addresses = arguments
    async with open_fake_kube() as fake:
        populate(fake, *addresses)
        write_kubeconfig(fake, Path(folder))
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_main, *sys.argv[1:])
