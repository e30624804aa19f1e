"""Checking versions: the part of a registry that says whether a version still is what was registered, and still does the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError, ScfmError
from scfm_registry import certificate, files, manifest, names, panel, together
from scfm_registry.files import Verification
from scfm_registry.opening import Opener
from scfm_registry.store.words import Denied, tell_denied

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from scfm_registry.certificate import Certificate
    from scfm_registry.version import ModelVersion, Record


class Verifier(Opener):
    """What compares a version with what is on record about it."""

    def verify(self, reference: str, *, recompute: bool = True, device: str | None = None) -> Verification:
        """Compare a version with what was registered: every file by its hash, then the panel of its certificate.

        A built-in version that has none is given one the first time. Of a server's version this machine's copy is compared, which
        was compared with the server's hashes when it was fetched and is what is opened here; ``scfm-lab registry check --files``
        fetches the server's own files anew.

        Parameters
        ----------
        reference
            Which version.
        recompute
            Whether to run the panel, where there is a certificate. Files that are damaged are not opened.
        device
            Where; default: where the certificate was made. Where this machine has no such device, vectors of float32 are computed
            on the CPU, and others, whose roundings differ from device to device, are not compared.

        Returns
        -------
        Verification
            ``.ok``; ``.summary()`` says which stage differs first: files, gene map, tokens, vectors.

        Raises
        ------
        ModelError
            The version is unknown, its manifest or its certificate is not the one on record, or it does not run there.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> registry = Registry()
        >>> registry.verify("starter").ok
        True
        """
        found, record = self._find(names.parse(reference))
        folder = files.local(self._store, found, record)
        copy_of = self._place.shown if self._store.files(record) is None else ""
        result = Verification(found, manifest.check(folder, found.digest, found.reference), copy_of=copy_of)
        if not result.ok:
            return replace(result, not_compared="its files are not as registered")
        if not recompute:
            return replace(result, not_compared="not asked for")
        if self._place.read_only:
            return replace(result, not_compared="certificates stay with the registry that this mirror was made from")
        with files.workshop(self.scratch) as private:
            known = certificate.read(self._store, found, private)
        if known is None:
            # What comes with scfm-lab is there when a registry is opened, and nobody waited for its certificate then.
            first = found.origin == "built-in" and not self.certify_new(found)[1]
            return replace(result, not_compared=files.MADE_NOW if first else files.NO_CERTIFICATE)
        precision = known.record["settings"]["precision"]
        where, why = (device, "") if device else _here(known)
        if why:
            return replace(result, not_compared=why)
        model = self.open_anyway(found.reference, where, precision)
        return replace(result, panel=certificate.check(known, model))

    def certify(
        self,
        reference: str,
        *,
        device: str = "cpu",
        precision: str = "float32",
        cells: int | None = panel.CELLS,
    ) -> Certificate:
        """Record what a version makes of a fixed panel of real cells, so that :meth:`verify` can tell whether it still does.

        Hashes of the files, of the map of genes, of the tokens and of the vectors, the settings under which they were made, and
        the vectors themselves become evidence of the version; a new certificate takes the place of an old one.

        Parameters
        ----------
        reference
            Which version.
        device, precision
            As in :func:`scfm_lab.load_model`. The CPU in float32 is what every machine has.
        cells
            How many cells; ``None``: as many of the 64 as take some seconds, which is what every version gets when it comes in.

        Raises
        ------
        ModelError
            The version is unknown or does not run there.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> registry = Registry()
        >>> registry.certify("starter").record["cells"]
        64
        """
        self.check_writable()
        found, record = self._find(names.parse(reference))
        model = self.open_anyway(found.reference, device, precision)
        with files.workshop(self.scratch) as private:
            made = certificate.make(self._store, model, found, private, cells)
        self._certified(made, record, {})
        return made

    def certify_new(self, found: ModelVersion) -> tuple[ModelVersion, str]:
        """Certify a version that has come in, where it has no certificate; whatever happens, it is registered.

        For the package's own use.

        Returns
        -------
        ModelVersion
            As it is now.
        str
            Why it has no certificate, in a sentence; empty where it has one.
        """
        # A process that was ended between the two tags left a certificate that nothing is compared with.
        if certificate.RUN in found.tags and certificate.HASH in found.tags:
            return found, ""
        try:
            self.certify(found.reference, cells=None)
        except Exception as error:  # noqa: BLE001 - a family is anybody's code, and its failure no reason to lose the version
            words = str(error) if isinstance(error, ScfmError) else f"{type(error).__name__}: {error}"
            return found, f"{found.reference} has no certificate: {' '.join(words.split()) or 'it did not run here'}"
        return self.get(found.reference), ""

    def keep_certificate(
        self, found: ModelVersion, told: dict[str, Any], vectors: NDArray[np.float32], by: str
    ) -> None:
        """Keep the certificate that came with a version from another registry, whose signer is `by`.

        For the package's own use; what it says has been checked.
        """
        record = self._find(names.parse(found.reference))[1]
        with files.workshop(self.scratch) as private:
            made = certificate.keep(self._store, found, told, vectors, private)
        self._certified(made, record, {"from": by})

    def files_of(self, found: ModelVersion, record: Record) -> Path:
        """Give the folder of a version's files, every one of them checked."""
        return files.checked(self._store, found, record)

    def _certified(self, made: Certificate, record: Record, details: dict[str, str]) -> None:
        tags = {certificate.HASH: certificate.digest_of(made.record), certificate.RUN: made.run}
        try:
            with together.alone(self._store, record) as current:
                together.write(self._store, current, tags)
        except Denied:
            kept = f"Its certificate is kept (run {made.run}), and is what it is compared with where it has no other."
            tell_denied("tagged", [record.reference], kept)
        self.note("certify", record, {"run": made.run, "vectors": made.record["hashes"]["vectors"][:16], **details})


def _here(known: Certificate) -> tuple[str, str]:
    """Where the vectors of a certificate are computed on this machine, and why nowhere; one of them is empty."""
    from scfm_lab.inference.hardware import choose_device
    from scfm_lab.inference.precision import Precision

    then = known.record["settings"]
    # Which of several alike is nothing that vectors depend on.
    device = then["device"].partition(":")[0]
    try:
        precision = str(Precision.parse(then["precision"]))
    except ModelError as error:
        return "", str(error).rstrip(".")
    try:
        return choose_device(device), ""
    except ModelError:
        if precision == "float32":
            return "cpu", ""
    why = f"it was certified on {device} in {precision}, and this machine has no {device}"
    return "", f"{why}; --device cpu compares all the same"
