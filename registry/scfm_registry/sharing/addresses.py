"""Where a download may go: public addresses over https, and hosts that somebody named as the lab's own.

An address in a catalogue, a redirect or a message may point into the lab: at a router, a cloud's metadata service, a
notebook server. So every name is resolved here, every address it has is looked at, and the connection is made to the address
that was looked at and to no other.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from requests.adapters import HTTPAdapter
from requests.utils import select_proxy

from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from requests import PreparedRequest

#: Names a lab's own hosts, separated by commas; they may have private addresses and speak plain http.
HOSTS_VARIABLE = "SCFM_MIRROR_HOSTS"
#: Translates IPv4 for networks that have only IPv6 (RFC 6052); what counts is the address inside.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Policy:
    """Which addresses may be asked.

    Attributes
    ----------
    hosts
        Names (or literal addresses) of a lab's own hosts, lower-case, each exactly as it stands in an address.
    """

    hosts: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, hosts: Iterable[str] = ()) -> Policy:
        """The hosts given, and those that ``SCFM_MIRROR_HOSTS`` names."""
        named = os.environ.get(HOSTS_VARIABLE, "").split(",")
        return cls(frozenset(host.strip().lower().strip("[]") for host in (*hosts, *named) if host.strip()))

    def check(self, url: str, *, before: str | None = None) -> SplitResult:
        """Refuse an address by how it is written.

        Parameters
        ----------
        url
            The address.
        before
            The address that led to it, where it is a redirect.

        Raises
        ------
        ModelError
            It is neither https, nor http to a host that was named; it holds a password; a redirect leaves encryption.
        """
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ModelError(f"{shown(url)} is no address ({error}).") from error
        via = f", where {shown(before)} leads," if before else ""
        if parts.scheme not in ("http", "https"):
            raise ModelError(f"{shown(url)}{via} is not fetched: only https addresses are.")
        if not host or not url.isprintable() or any(sign in url for sign in " \\"):
            raise ModelError(f"{shown(url)} names no host; write it like https://example.org/model.tar.gz.")
        if parts.username is not None or parts.password is not None:
            raise ModelError(
                f"The address of {host} holds a user name or password; leave it out: addresses are recorded."
            )
        if parts.scheme == "http":
            if before is not None and urlsplit(before).scheme == "https":
                raise ModelError(
                    f"{shown(before)} leads to {shown(url)} without encryption; nothing was fetched from there."
                )
            if host not in self.hosts:
                raise ModelError(
                    f"{shown(url)}{via} is not encrypted, so anybody between could change the files; use https. {own(host)}"
                )
        return parts

    def address(self, host: str, port: int) -> str:
        """Find the address to connect to for a host.

        Raises
        ------
        ModelError
            The name is unknown, or an address that it has lies in this machine or in a private network.
        """
        host = host.strip("[]")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ModelError(f"No host is called {host} ({error}). Check the address, and the connection.") from error
        addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
        if host.lower() not in self.hosts:
            for address in addresses:
                if not is_public(address):
                    raise ModelError(
                        f"{host} is {address}, which lies in this machine or a private network and is no place to download "
                        f"from. {own(host)}"
                    )
        return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address is one of the internet, and none of this machine, a private network or a cloud's inside."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def own(host: str) -> str:
    """How to say that a host is the lab's own."""
    return f"If it is your lab's own server, allow it by name: --allow-host {host}, or {HOSTS_VARIABLE}={host}."


def shown(url: str | None) -> str:
    """An address as messages and records hold it: without a password and without its query, which may be a key."""
    try:
        parts = urlsplit(url or "")
        text = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        text = url or ""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 200 else f"{text[:200]}…"


class PinnedAdapter(HTTPAdapter):
    """Connects to the address that the policy looked at; the certificate must still be of the name."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = policy

    def add_headers(self, request: PreparedRequest, **_: Any) -> None:
        """Name the host that is meant, since the connection is made to its address."""
        request.headers["Host"] = urlsplit(request.url or "").netloc.rpartition("@")[2]

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """A connection to the checked address; a proxy, which the user's environment names, looks names up itself."""
        if select_proxy(request.url or "", proxies):
            self._check_behind_proxy(request)
            return super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)
        host_params, pool_kwargs = self.build_connection_pool_key_attributes(request, verify, cert)
        name = str(host_params["host"]).strip("[]")
        port = host_params.get("port") or (443 if host_params["scheme"] == "https" else 80)
        address = self._policy.address(name, int(port))
        if host_params["scheme"] == "https" and address != name:
            pool_kwargs = {**pool_kwargs, "server_hostname": name, "assert_hostname": name}
        return self.poolmanager.connection_from_host(**{**host_params, "host": address}, pool_kwargs=pool_kwargs)

    def _check_behind_proxy(self, request: PreparedRequest) -> None:
        host = urlsplit(request.url or "").hostname or ""
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            return  # only the proxy knows this name
        self._policy.address(host, 443)
