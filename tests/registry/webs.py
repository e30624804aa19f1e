"""A real web server on this machine, with encryption by an authority of its own, whose answers a test decides."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Page:
    """What is at one path."""

    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    breaks: list[int] = field(default_factory=list)
    """After how many bytes the connection breaks off: the first request's, the second's, …"""
    length: int | None = None
    """The length that is told, where it is not the true one."""
    endless: bool = False
    ranges: bool = True


class Web:
    """The server: pages by path, and what was asked of it."""

    def __init__(self, folder: Path, *, encrypted: bool = True) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.scheme = "https" if encrypted else "http"
        if encrypted:
            self.authority, chain = certificates(folder)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(chain)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        # A client that hangs up, or takes no certificate, is no error of the server's.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def host(self) -> str:
        """``localhost:PORT``, which its certificate is for."""
        return f"localhost:{self._server.server_address[1]}"

    def url(self, path: str = "") -> str:
        """The address of a path."""
        return f"{self.scheme}://{self.host}{path}"

    def of(self, path: str) -> list[dict[str, str]]:
        """Headers of the requests for a path."""
        return [headers for asked, headers in self.asked if asked == path]

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append((handler.path, {key.lower(): value for key, value in handler.headers.items()}))
        page = self.pages.get(handler.path) or self.pages.get(handler.path.partition("?")[0]) or Page(status=404)
        start = _start(handler, page)
        content = page.content[start:]
        handler.send_response(206 if start else page.status)
        for key, value in page.headers.items():
            handler.send_header(key, value)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(page.content) - 1}/{len(page.content)}")
        if page.endless:
            self._without_end(handler)
            return
        handler.send_header("Content-Length", str(page.length if page.length is not None else len(content)))
        handler.end_headers()
        cut = page.breaks.pop(0) if page.breaks else len(content)
        handler.wfile.write(content[:cut])
        if cut < len(content) or page.length not in (None, len(content)):
            handler.wfile.flush()
            handler.close_connection = True

    @staticmethod
    def _without_end(handler: BaseHTTPRequestHandler) -> None:
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        chunk = bytes(2**16)
        while True:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))


def _start(handler: BaseHTTPRequestHandler, page: Page) -> int:
    """The first byte that is asked for, as RFC 9110 has it: all of the file, if it is another one by now."""
    asked, condition = handler.headers.get("Range", ""), handler.headers.get("If-Range")
    if not page.ranges or not asked or (condition is not None and condition != page.headers.get("ETag")):
        return 0
    return int(asked.removeprefix("bytes=").partition("-")[0])


def certificates(folder: Path) -> tuple[Path, Path]:
    """An authority's certificate, and the key and certificate that it gave ``localhost``."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def make(name: str, issuer: str, key: Any, signing: Any, *more: tuple[Any, bool]) -> Any:
        now = dt.datetime.now(tz=dt.UTC)
        named: Callable[[str], Any] = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])  # noqa: E731
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
        )
        for extension, critical in more:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(signing, hashes.SHA256())

    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    authority = make(
        "test authority",
        "test authority",
        root,
        root,
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage, True),
        (x509.SubjectKeyIdentifier.from_public_key(root.public_key()), False),
    )
    # For the name alone, and not for the address that it has.
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))])
    server = make("localhost", "test authority", own, root, (names, False))
    pem = serialization.Encoding.PEM
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "authority.pem").write_bytes(authority.public_bytes(pem))
    plain = serialization.NoEncryption()
    key = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    (folder / "server.pem").write_bytes(key + server.public_bytes(pem))
    return folder / "authority.pem", folder / "server.pem"
