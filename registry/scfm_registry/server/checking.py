"""What is wrong with a lab's server, asked from outside as a person's computer would: one answer per question.

What it writes to find out whether files go through, it takes away again; nothing else is changed.
"""

from __future__ import annotations

import os
import secrets
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scfm_lab.errors import ScfmError
from scfm_registry.checking import Finding
from scfm_registry.store import embedded, login
from scfm_registry.store.engine import EXPERIMENT, knock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from requests import Response

    from scfm_registry.store.place import Place

#: Name that no set-up can allow on purpose; a pattern such as ``10.*`` would let it in.
_FOREIGN = "10.0.0.1.rebinding.example"
#: Seconds by which two clocks may differ before times on record mislead.
_SKEW = 60
_PATIENCE = 10
_SEARCH = "api/2.0/mlflow/experiments/search?max_results=1"


def look(place: Place) -> Iterator[Finding]:
    """Ask a server about itself.

    Parameters
    ----------
    place
        An ``http(s)://`` registry.

    Yields
    ------
    Finding
        Whether it answers, its version, log-in, names, clock, telemetry, encryption, and whether files go through.
    """
    from requests import RequestException

    try:
        yield from _asked(place)
    except RequestException as error:
        words = f"it stopped answering ({type(error).__name__}); look at its log, and at the proxy in front of it"
        yield Finding("server", "fault", words)


def _asked(place: Place) -> Iterator[Finding]:
    try:
        knock(place)
    except ScfmError as error:
        yield Finding("server", "fault", str(error))
        return
    yield Finding("server", "ok", f"an MLflow server answers at {place.shown}")
    yield _version(place)
    yield _clock(place)
    yield _encryption(place)
    yield _names(place)
    name = login.credentials(place.tracking_uri).username or ""
    anonymous = _ask(place, _SEARCH, anonymous=True)
    known = _ask(place, _SEARCH)
    if anonymous.ok:
        yield Finding(
            "log-in",
            "fault" if not _is_local(place) else "note",
            "there is none: whoever reaches the server can change everything; start it with 'scfm-lab registry serve'",
        )
    elif known.status_code == 401:
        what = f"'{name}' with this password is refused" if name else "you gave no name"
        how = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or write them into ~/.mlflow/credentials"
        yield Finding("log-in", "fault", f"{what}; {how}")
        return
    elif not known.ok:
        yield Finding(
            "log-in", "fault", f"the server answers {known.status_code} to '{name}': {known.text.strip()[:160]}"
        )
        return
    else:
        yield Finding("log-in", "ok", f"the server wants a name and knows you as '{name}'")
    yield _telemetry(place)
    yield from _files(place)


def _ask(place: Place, path: str, *, anonymous: bool = False, method: str = "GET", **more: Any) -> Response:
    import requests

    known = login.credentials(place.tracking_uri)
    headers = dict(more.pop("headers", {}))
    # As MLflow's client: of both, the name.
    by_name = bool(known.username and known.password)
    if known.token and not by_name and not anonymous:
        headers["Authorization"] = f"Bearer {known.token}"
    with requests.Session() as session:
        # A name from ~/.netrc would make an anonymous question one of somebody.
        session.trust_env = False
        url = f"{place.tracking_uri}/{path}"
        session.proxies = requests.utils.get_environ_proxies(url)
        authorities = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        session.verify = False if known.ignore_tls_verification else known.server_cert_path or authorities
        session.cert = known.client_cert_path
        session.auth = (known.username, known.password) if by_name and not anonymous else None
        return session.request(method, url, timeout=_PATIENCE, headers=headers, allow_redirects=False, **more)


def _version(place: Place) -> Finding:
    here, there = embedded.mlflow_version(), _ask(place, "version").text.strip()
    if there == here:
        return Finding("version", "ok", f"MLflow {there} there and here")
    if there.split(".")[:1] != here.split(".")[:1]:
        words = f"MLflow {there} there and {here} here do not understand each other; install mlflow=={there}"
        return Finding("version", "fault", words)
    return Finding("version", "note", f"MLflow {there} there and {here} here; a lab does best with one version")


def _clock(place: Place) -> Finding:
    answer = _ask(place, "health")
    told = answer.headers.get("Date")
    if told is None:
        return Finding("clock", "note", "the server does not tell its time")
    apart = abs(parsedate_to_datetime(told).timestamp() - time.time())
    if apart > _SKEW:
        words = f"the server's clock and this machine's are {apart:.0f} seconds apart; set both by a time server"
        return Finding("clock", "note", words)
    return Finding("clock", "ok", "the server's and this machine's agree")


def _encryption(place: Place) -> Finding:
    if place.uri.startswith("https://"):
        return Finding("encryption", "ok", "https")
    if _is_local(place):
        return Finding("encryption", "ok", "none, and none is needed within one machine")
    return Finding(
        "encryption", "note", "none: passwords travel readable; put https in front of it outside a lab's own net"
    )


def _names(place: Place) -> Finding:
    """Ask under a name that is nobody's: a server that answers could be reached by a web page through a visitor's browser."""
    if _ask(place, _SEARCH, headers={"Host": _FOREIGN}).status_code == 403:
        return Finding("names", "ok", "requests under another name are refused")
    return Finding(
        "names",
        "fault",
        "the server answers under any name, so that a web page can reach it through a visitor's browser (DNS rebinding); set "
        "MLFLOW_SERVER_ALLOWED_HOSTS to its exact names, as 'scfm-lab registry serve' does",
    )


def _telemetry(place: Place) -> Finding:
    answer = _ask(place, "ajax-api/3.0/mlflow/ui-telemetry")
    try:
        off = bool(answer.json().get("disable_ui_telemetry")) if answer.ok else None
    except ValueError:
        off = None
    if off is None:
        return Finding("telemetry", "note", "the server does not say whether it reports its use")
    if off:
        return Finding("telemetry", "ok", "off")
    return Finding("telemetry", "note", "on: the server reports its use; set MLFLOW_DISABLE_TELEMETRY=true there")


def _files(place: Place) -> Iterator[Finding]:
    """Send a small file through the server, and fetch it again."""
    answer = _ask(place, f"api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}")
    if not answer.ok:
        yield Finding(
            "files", "note", "nothing was registered yet; 'scfm-lab registry setup' puts the built-in models there"
        )
        return
    try:
        experiment = answer.json()["experiment"]
    except (ValueError, KeyError, TypeError):
        yield Finding(
            "files", "fault", "what answers there is no MLflow server, or something in between changes its answers"
        )
        return
    if not str(experiment["artifact_location"]).startswith("mlflow-artifacts:"):
        yield Finding(
            "files",
            "fault",
            f"they do not go through the server but to {experiment['artifact_location']}, which every machine would have to "
            "reach; start the server with --artifacts-destination (as 'scfm-lab registry serve' does)",
        )
        return
    path = f"api/2.0/mlflow-artifacts/artifacts/{experiment['experiment_id']}/scfm-check.txt"
    content = secrets.token_hex(16)
    sent = _ask(place, path, method="PUT", data=content)
    if sent.status_code == 403:
        yield Finding(
            "files",
            "note",
            "you may read models here and register none; an admin can let you (scfm-lab registry add-person)",
        )
        return
    back = _ask(place, path)
    # Whoever may not delete leaves one small file, the same each time.
    _ask(place, path, method="DELETE")
    if sent.ok and back.ok and back.text == content:
        yield Finding("files", "ok", "a file goes through the server and comes back the same")
    else:
        yield Finding(
            "files",
            "fault",
            f"a file does not go through the server (it answers {sent.status_code} and {back.status_code}); look at its log, "
            "its disk and the permissions of its folder",
        )


def _is_local(place: Place) -> bool:
    host = urlsplit(place.tracking_uri).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
