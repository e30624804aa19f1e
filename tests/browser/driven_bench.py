"""A bench in a real browser without a notebook around it: a page that keeps anywidget's contract over a web socket.

The Python side is a real ``Lab`` in this process. The page is the smallest host there can be, which makes it possible to
slow a kernel down, to let it die, and to see every message; notebooks have tests of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comm
from comm.base_comm import BaseComm
from ipywidgets.widgets.widget import _remove_buffers
from tornado import httpserver, netutil, web, websocket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scfm_widgets import Lab

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>bench</title>
<link rel="stylesheet" href="/static/index.css">
<style>body {{ margin: 0; padding: 12px; background: {background}; }}</style></head>
<body class="{theme}"><main><h1 style="position:absolute;left:-999px">A bench</h1>{views}</main>
<script type="module">
import widget from "/static/index.js";
const socket = new WebSocket(`ws://${{location.host}}/wire/{name}`);
// JupyterLab gives each buffer memory of its own; other hosts give views of the whole message.
const own = new URLSearchParams(location.search).has("own");
socket.binaryType = "arraybuffer";
const listeners = new Map(), state = {{}};
const tell = (event, ...given) => {{ for (const call of [...(listeners.get(event) ?? [])]) call(...given); }};
const pack = (head, buffers) => {{
  const text = new TextEncoder().encode(JSON.stringify({{ ...head, lengths: buffers.map((b) => b.byteLength) }}));
  return new Blob([new Uint32Array([text.length]), text, ...buffers]);
}};
const put = (data, paths, buffers) => paths.forEach((path, i) => {{
  path.slice(0, -1).reduce((inside, key) => inside[key], data)[path.at(-1)] = buffers[i];
}});
let dirty = new Set();
const model = {{
  get: (name) => state[name],
  set(name, value) {{ state[name] = value; dirty.add(name); tell(`change:${{name}}`); }},
  save_changes() {{
    const data = {{}}, paths = [], buffers = [];
    for (const name of dirty) {{
      if (state[name] instanceof DataView) {{ paths.push([name]); buffers.push(state[name]); }}
      else data[name] = state[name];
    }}
    dirty = new Set();
    socket.send(pack({{ method: "update", state: data, buffer_paths: paths }}, buffers));
  }},
  on(event, call) {{ listeners.set(event, (listeners.get(event) ?? new Set()).add(call)); }},
  off(event, call) {{ listeners.get(event)?.delete(call); }},
  send(content) {{ socket.send(pack({{ method: "custom", content }}, [])); }},
}};
globalThis.bench = {{ model, sent: 0, taken: 0 }};
socket.onmessage = ({{ data }}) => {{
  const length = new DataView(data).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  let at = 4 + length;
  const buffers = head.lengths.map((n) => {{
    const view = own ? new DataView(data.slice(at, at + n)) : new DataView(data, at, n);
    at += n;
    return view;
  }});
  if (head.method === "custom") return tell("msg:custom", head.content, buffers);
  put(head.state, head.buffer_paths ?? [], buffers);
  const changed = Object.keys(head.state).filter((name) => state[name] !== head.state[name]);
  Object.assign(state, head.state);
  if (head.first) {{
    widget.initialize?.({{ model }});
    bench.unmount = [...document.querySelectorAll(".view")].map((el) => widget.render({{ model, el }}));
    bench.mount = () => widget.render({{ model, el: document.querySelector(".view") }});
  }} else for (const name of changed) tell(`change:${{name}}`);
}};
</script></body></html>"""


class Wire(BaseComm):
    """What Python sends, kept until a page listens and then passed on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.send_on: Any = None
        super().__init__(*args, **kwargs)

    def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any) -> None:
        if msg_type == "comm_msg" and self.send_on is not None:
            self.send_on(dict(data), [bytes(item) for item in buffers or []])


def packed(head: dict[str, Any], buffers: list[bytes]) -> bytes:
    text = json.dumps({**head, "lengths": [len(item) for item in buffers]}).encode()
    return struct.pack("<I", len(text)) + text + b"".join(buffers)


@dataclass
class Host:
    """Serves benches to a browser.

    Attributes
    ----------
    delay
        Seconds by which every message to Python is late: a slow kernel.
    dead
        Whether messages to Python are lost: a kernel that is gone.
    received
        Messages that Python has got.
    told
        When Python has got which trait: seconds since the epoch, and its name.
    """

    url: str
    loop: Any
    labs: dict[str, Lab] = field(default_factory=dict)
    delay: float = 0.0
    dead: bool = False
    received: list[dict[str, Any]] = field(default_factory=list)
    told: list[tuple[float, str]] = field(default_factory=list)

    def serve(self, lab: Lab, *, theme: str = "light", views: int = 1) -> str:
        """Give the address of a page with a bench, in one or several views."""
        name = f"b{len(self.labs)}"
        self.labs[name] = lab
        return f"{self.url}/bench/{name}?theme={theme}&views={views}"

    def take(self, lab: Lab, data: bytes) -> None:
        """Give Python a message of the page's, as a kernel does."""
        (length,) = struct.unpack_from("<I", data)
        head = json.loads(data[4 : 4 + length])
        at, buffers = 4 + length, []
        for size in head.pop("lengths"):
            buffers.append(memoryview(data)[at : at + size])
            at += size
        if self.dead:
            return
        if self.delay:
            time.sleep(self.delay)
        self.received.append(head)
        lab._handle_msg({"content": {"data": head}, "buffers": buffers})
        names = [*head.get("state", {}), *(path[0] for path in head.get("buffer_paths", []))]
        if head.get("content", {}).get("type") == "selection":
            names.append("_selection")
        self.told += [(time.time(), name) for name in names]


def _pages(host: Host, static: Path) -> web.Application:
    class Bench(web.RequestHandler):
        def get(self, name: str) -> None:
            theme = self.get_argument("theme", "light")
            views = '<div class="view"></div>' * int(self.get_argument("views", "1"))
            background = "#ffffff" if theme == "light" else "#101318"
            self.write(PAGE.format(name=name, theme=theme, views=views, background=background))

    class Socket(websocket.WebSocketHandler):
        lab: Lab

        def open(self, name: str) -> None:
            self.lab = host.labs[name]
            lab: Any = self.lab

            def send(data: dict[str, Any], buffers: list[bytes]) -> None:
                # A page that has gone has nobody to tell.
                with contextlib.suppress(RuntimeError):
                    host.loop.call_soon_threadsafe(self._send, packed(data, buffers))

            with lab.lock:
                state, paths, buffers = _remove_buffers(lab.get_state(drop_defaults=False))
                for name_ in ("_esm", "_css", "layout"):
                    state.pop(name_, None)
                first = {"first": True, "method": "update", "state": state, "buffer_paths": paths}
                self._send(packed(first, [bytes(item) for item in buffers]))
                lab.comm.send_on = send

        def _send(self, data: bytes) -> None:
            with contextlib.suppress(websocket.WebSocketClosedError):
                self.write_message(data, binary=True)

        def on_message(self, message: Any) -> None:
            host.take(self.lab, message)

    return web.Application(
        [
            (r"/bench/(\w+)", Bench),
            (r"/wire/(\w+)", Socket),
            (r"/static/(.*)", web.StaticFileHandler, {"path": str(static)}),
        ],
        websocket_max_message_size=64_000_000,
    )


@contextlib.contextmanager
def hosting(static: Path) -> Iterator[Host]:
    """Serve benches from a thread of their own until the block ends; labs made inside speak to pages."""
    made: Any = comm.create_comm
    comm.create_comm = Wire
    started, stop = threading.Event(), None
    found: dict[str, Any] = {}

    async def run() -> None:
        nonlocal stop
        stop = asyncio.Event()
        sockets = netutil.bind_sockets(0, "127.0.0.1")
        host = Host(f"http://127.0.0.1:{sockets[0].getsockname()[1]}", asyncio.get_running_loop())
        server = httpserver.HTTPServer(_pages(host, static))
        server.add_sockets(sockets)
        found["host"] = host
        started.set()
        await stop.wait()
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="bench-host", daemon=True)
    thread.start()
    started.wait(30)
    try:
        yield found["host"]
    finally:
        comm.create_comm = made
        found["host"].loop.call_soon_threadsafe(stop.set)
        thread.join(10)


__all__ = ["Host", "hosting"]
