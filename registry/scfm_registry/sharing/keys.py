"""Keys that sign bundles, and the keys of others that are known here.

A pair of Ed25519 keys belongs to a person or a lab. The private half stays in the data directory, readable by its owner
alone. The public half travels with every bundle; the first time a signer is met, a person is asked, and from then on that
name means that key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError, StorageError
from scfm_lab.home import data_home
from scfm_registry.store.place import make_folder, storage_error

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_WORD = re.compile(r"[a-z][a-z0-9-]{0,62}")
_KNOWN = "known.json"
_ENDING = ".key"
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


@dataclass(frozen=True)
class Signer:
    """Somebody who signs: a name, and the public key (32 bytes) that it stands for."""

    name: str
    public: bytes
    own: bool = False
    since: str = ""

    @property
    def fingerprint(self) -> str:
        """``SHA256:…``, the short name of the key: what two people compare on the telephone."""
        return f"SHA256:{base64.b64encode(hashlib.sha256(self.public).digest()).decode().rstrip('=')}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"name": self.name, "fingerprint": self.fingerprint, "own": self.own, "since": self.since}


class Keyring:
    """The keys in the data directory: one's own, and those of others that are known.

    Examples
    --------
    >>> from scfm_registry.sharing.keys import Keyring
    >>> keys = Keyring()
    >>> keys.make("ana-lab").fingerprint[:7]
    'SHA256:'
    >>> [signer.name for signer in keys.all()]
    ['ana-lab']
    """

    def __init__(self) -> None:
        self.folder = data_home() / "keys"

    def all(self) -> list[Signer]:
        """Own keys first, then those of others, by name."""
        return [*self.own(), *sorted(self._known().values(), key=lambda signer: signer.name)]

    def own(self) -> list[Signer]:
        """Keys whose private half is here."""
        return [self._signer(path) for path in sorted(self.folder.glob(f"*{_ENDING}"))]

    def make(self, name: str | None = None) -> Signer:
        """Make a pair of keys; the private half can be read by its owner alone.

        Parameters
        ----------
        name
            What others will know the key by; by default made of the names of user and machine.

        Raises
        ------
        ModelError
            There is a key of this name already, or it cannot be a name.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        name = check_signer(name or _default_name())
        if name in self._known():
            raise ModelError(f"'{name}' is the name of somebody else's key here; give yours another.")
        private = Ed25519PrivateKey.generate()
        content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._make_folder()
        path = self.folder / f"{name}{_ENDING}"
        try:
            # Nobody else may read it, from its first byte on.
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise ModelError(f"There is a key '{name}' already ({path}); it is kept.") from error
        except OSError as error:
            raise storage_error(error, path) from error
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return self._signer(path)

    def signer(self, name: str | None = None) -> Signer:
        """One of one's own keys: the one named, or the only one; made where there is none.

        Raises
        ------
        ModelError
            There is none of this name, or there are several and none was named.
        """
        own = self.own()
        if name is not None:
            found = next((signer for signer in own if signer.name == name), None)
            if found is None:
                there = ", ".join(signer.name for signer in own) or "none"
                raise ModelError(
                    f"You have no key '{name}' (there: {there}); 'scfm-lab models keys --make {name}' makes it."
                )
            return found
        if len(own) > 1:
            raise ModelError(
                f"You have several keys ({', '.join(signer.name for signer in own)}); say which one signs."
            )
        return own[0] if own else self.make()

    def sign(self, signer: Signer, message: bytes) -> bytes:
        """Sign with one's own key: 64 bytes, the same each time."""
        return self._private(self.folder / f"{signer.name}{_ENDING}").sign(message)

    def known(self, name: str) -> Signer | None:
        """The key that a name stands for here, or ``None``."""
        own = next((signer for signer in self.own() if signer.name == name), None)
        return own or self._known().get(name)

    def trust(self, signer: Signer) -> Signer:
        """From now on this name means this key.

        Raises
        ------
        ModelError
            The name means another key already.
        """
        known = self.known(signer.name)
        if known is not None:
            if known.public != signer.public:
                raise other_key(known, signer)
            return known
        added = Signer(signer.name, signer.public, since=datetime.now(tz=UTC).isoformat(timespec="seconds"))
        self._write({**self._known(), signer.name: added})
        return added

    def forget(self, name: str) -> Signer:
        """Forget somebody's key: its owner is asked about anew.

        Raises
        ------
        ModelError
            Nobody of this name is known, or it is one's own key.
        """
        known = self._known()
        if name not in known:
            there = ", ".join(sorted(known)) or "nobody's"
            raise ModelError(
                f"No key of somebody called '{name}' is known here; known: {there}. Your own keys are files in {self.folder}."
            )
        gone = known.pop(name)
        self._write(known)
        return gone

    def _private(self, path: Path) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            content = path.read_bytes()
        except OSError as error:
            raise StorageError(f"Your key {path} cannot be read ({error.strerror}).") from error
        if os.name == "posix" and mode & 0o077:
            raise ModelError(f"Others can read your key {path} (mode {mode:o}); run: chmod 600 '{path}'")
        try:
            key = load_pem_private_key(content, password=None)
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"{path} is damaged or no key; put back a backup, or delete it and make another."
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ModelError(f"{path} is a key of another kind than Ed25519; delete it and make another.")
        return key

    def _signer(self, path: Path) -> Signer:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = self._private(path).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return Signer(path.name.removesuffix(_ENDING), public, own=True)

    def _known(self) -> dict[str, Signer]:
        path = self.folder / _KNOWN
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return {
                name: Signer(check_signer(name), public_key(entry["public"]), since=str(entry["since"]))
                for name, entry in document["signers"].items()
            }
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageError(f"The known keys in {path} cannot be read ({error.strerror}).") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path} is damaged; put back a backup, or delete it: signers are then asked about anew."
            ) from error

    def _write(self, known: dict[str, Signer]) -> None:
        signers = {
            name: {"public": base64.b64encode(signer.public).decode(), "since": signer.since}
            for name, signer in sorted(known.items())
        }
        self._make_folder()
        path = self.folder / _KNOWN
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            unfinished.write_text(json.dumps({"schema": 1, "signers": signers}, indent=1) + "\n", encoding="utf-8")
            os.replace(unfinished, path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise storage_error(error, path) from error

    def _make_folder(self) -> None:
        make_folder(self.folder)
        self.folder.chmod(0o700)


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the owner of a public key has signed a message."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def public_key(text: Any) -> bytes:
    """Read a public key as bundles and the known keys hold it (base64 of 32 bytes).

    Raises
    ------
    ValueError
        It is none.
    """
    if not isinstance(text, str):
        raise ValueError("a key is a text")
    public = base64.b64decode(text, validate=True)
    if len(public) != 32:
        raise ValueError("a key has 32 bytes")
    return public


def check_signer(name: str) -> str:
    """Return `name` if a signer may be called so.

    Raises
    ------
    ModelError
        It is not a lower-case letter followed by at most 62 lower-case letters, digits or hyphens.
    """
    if not isinstance(name, str) or not _WORD.fullmatch(name):
        raise ModelError(
            f"{ascii(name)[:80]} cannot be a signer's name: use a lower-case letter, then at most 62 lower-case letters, digits or "
            "hyphens, such as 'ana-lab'."
        )
    return name


def check_fingerprint(text: str) -> str:
    """Return a fingerprint if it is written as one.

    Raises
    ------
    ModelError
        It is not.
    """
    if not _FINGERPRINT.fullmatch(text):
        raise ModelError(f"{ascii(text)[:80]} is no fingerprint; it is written like SHA256: and 43 letters and digits.")
    return text


def other_key(known: Signer, signer: Signer) -> ModelError:
    """Say that a name means another key here."""
    return ModelError(
        f"'{signer.name}' is known here by another key ({known.fingerprint}, not {signer.fingerprint}); nothing was imported. "
        f"Ask '{signer.name}' over another way. If the key was changed for good: scfm-lab models keys --forget {signer.name}"
    )


def _default_name() -> str:
    import getpass

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no such user, as in some containers
        user = "user"
    text = re.sub(r"[^a-z0-9]+", "-", f"{user}-{socket.gethostname().partition('.')[0]}".lower()).strip("-")
    return (text if text[:1].isalpha() else f"key-{text}")[:63].strip("-") or "key"
