"""Keeping models that were trained here: fine-tuned ones, and what a user's own run made of a version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_registry import annotating, builtin, estimating, files, manifest, names, tuned, version
from scfm_registry.registering import Registrar

if TYPE_CHECKING:
    import torch

    from scfm_lab.models.contract import Model
    from scfm_lab.models.finetuned import FineTuning
    from scfm_lab.models.fixed_basis import BasisModel
    from scfm_lab.plugins import Contribution
    from scfm_registry.version import ModelVersion

#: Value of ``scfm.origin`` for these.
ORIGIN = "fine-tuned"
#: What the record of a training is called among the files of its run.
DOCUMENT = "finetuning.json"


class Keeper(Registrar):
    """What makes versions of models in memory."""

    def register(
        self,
        model: Any,
        name: str,
        *,
        parent: str | ModelVersion | None = None,
        run: str | None = None,
        licence: str | None = None,
        card: str | None = None,
        consent: str | None = None,
        certify: bool = True,
    ) -> ModelVersion:
        """Register a model that was trained here as a version whose parent is known.

        Kept is what changed: the tensors that differ from the parent's, and the head. Opening the version opens the parent
        first, by its digest.

        Parameters
        ----------
        model
            What :func:`scfm_lab.finetune` gave, or its ``.model``; any opened model whose network your own training changed
            (then say `parent`); the folder of a model written with ``save``; or a basis that ``pca`` or ``sctop`` was fitted to,
            which is registered as a baseline.
        name
            What it is called here. A version is added where the name is there already.
        parent
            The version it was made from; default: the one it was fine-tuned from.
        run
            Id of an MLflow run of yours that trained it (``registry.client``); default: a run is made from the record.
        licence
            SPDX expression; the parent's by default.
        card
            The model's card, as Markdown; default: one is written from the record.
        consent
            What the donors of the cells agreed to, as for :meth:`annotate`; it is there from the first moment on. Default: what is
            said of the parent.
        certify
            False: no certificate. One that cannot be made is told in a warning; the version is registered all the same.

        Returns
        -------
        ModelVersion
            Of kind ``"fine-tuned"``, or ``"baseline"``. The same model twice gives the same version.

        Raises
        ------
        ModelError
            The parent is not in the registry, or is not what the model was made from; there is no such run.

        Examples
        --------
        >>> import scfm_lab as sl
        >>> from scfm_registry import Registry
        >>> registry = Registry()
        >>> model = registry.load("starter")
        >>> bias = model.net.norm.bias  # your own training, in your own loop
        >>> _ = bias.data.add_(0.01)
        >>> registry.register(model, "my-starter", parent="starter").kind
        'fine-tuned'
        """
        from scfm_lab.models.fixed_basis import BasisModel
        from scfm_registry import training_cards

        self.check_new_name(name)
        version.check_licence(licence)
        if isinstance(model, BasisModel):
            return self._register_basis(
                model, name, parent, licence=licence, card=card, consent=consent, certify=certify
            )
        said = annotating.consented(consent)
        if run is not None:
            run = self._store.require_run(run)
        opened, tuning, changed, base = self._given(model, parent)
        item = _contribution(opened)
        label = training_cards.title(name, tuning.record)
        text = card or training_cards.write(label, tuning.record, base)
        with files.workshop(self.scratch) as private:
            from scfm_lab.models import finetuned

            finetuned.write(private, tuning, changed)
            (private / "card.md").write_text(text, encoding="utf-8")
            known = self.by_digest(name, manifest.describe(private, item.id).digest)
            if known is not None:
                return self.came_in(self.heed(known, consent or ""), certify=certify)
            # Of what was written: the digest of a model that changed since it was opened is still that of its parent.
            tags = self._tags(opened, tuning.record, base, item, licence) | said
            tags["scfm.weights"] = finetuned.identity(private)
            own = run is None
            run = run or self._log(name, tuning.record)
            tags["scfm.run"] = run
            try:
                added = self.add_files(name, private, item.id, tags, text)
            except BaseException:
                if own:
                    self._store.drop_run(run)
                raise
        self._store.tag_run(run, {"scfm.version": added.reference, "scfm.digest": added.digest})
        return self.came_in(added, certify=certify)

    def _register_basis(
        self, model: BasisModel, name: str, parent: Any, *, card: str | None, **said: Any
    ) -> ModelVersion:
        """Import a basis as it is saved: it is fitted to cells, and made from no version."""
        if parent is not None:
            message = f"A basis of {model.family} is fitted to cells and made from no other version; leave parent= out."
            raise ModelError(message)
        with files.workshop(self.scratch) as private:
            told = card or f"# {name}\n\n{model.family}, {model.spec.determinism}.\n"
            return self.import_checkpoint(model.save(private / "basis"), name, kind="baseline", card=told, **said)

    def check_new_name(self, name: str) -> str:
        """Return `name` if a user's model may be called so.

        Raises
        ------
        ModelError
            It breaks the rule for names, or comes with scfm-lab.
        """
        names.check_name(name)
        if name in builtin.shipped():
            message = f"'{name}' is a model that comes with scfm-lab; give yours another name, such as 'my-{name}'."
            raise ModelError(message)
        return name

    def parent_of(self, model: Model) -> ModelVersion:
        """Find the version that an opened model is, by what it was opened from or by the digest of its weights.

        Raises
        ------
        ModelError
            It is not in this registry; the message says how it gets there.
        """
        if model.registered_digest:
            return self._find(names.parse(model.registered_digest))[0]
        shipped = builtin.shipped()
        if model.path is not None:
            for name, (item, folder) in shipped.items():
                if model.path.resolve() == folder.resolve():
                    found = self.by_digest(name, manifest.describe(folder, item.id).digest)
                    if found is not None:
                        return found
        records = self._store.records(tags={"scfm.weights": model.digest}) if model.digest else []
        known = self._read(records)
        if known:
            return min(known, key=lambda item: item.created)
        where = model.source or model.spec.name
        hint = (
            f" Put the built-in models there with 'scfm-lab registry setup {self._place.shown}'."
            if where in shipped
            else ""
        )
        message = (
            f"The model {where!r} is not in the registry in {self._place.shown}, so that what is made from it would have no "
            f"parent.{hint or ' Import it first (scfm-lab models import FOLDER --name NAME), and open it as models:/NAME.'}"
        )
        raise ModelError(message)

    # ------------------------------------------------------------------------------------------------- inside

    def _given(
        self, model: Any, parent: str | ModelVersion | None
    ) -> tuple[Model, FineTuning, dict[str, torch.Tensor], ModelVersion]:
        """The model, its record with the parent's digest in it, what changed, and the parent's version."""
        from scfm_lab.models import finetuned
        from scfm_lab.models.contract import Model
        from scfm_lab.models.finetuned import FineTuning

        before: Model | None = None
        changed = None
        if isinstance(model, (str, Path)):
            opened = self._open_folder(Path(model).expanduser())
        elif isinstance(model, Model):
            opened = model
        elif isinstance(getattr(model, "model", None), Model) and hasattr(model, "changed"):
            opened, before, changed = model.model, model.parent, dict(model.changed)
        else:
            message = f"A model is what sl.finetune gave, an opened model, or a folder; this is none ({type(model).__name__})."
            raise ModelError(message)
        tuning = opened.finetuning
        if parent is not None:
            base = parent if isinstance(parent, version.ModelVersion) else self._find(names.parse(parent))[0]
        elif before is not None:
            base = self.parent_of(before)
        elif tuning is not None:
            base = self._recorded(tuning.record)
        else:
            message = f"Which version {opened.spec.name} was made from is not known; name it with parent='NAME/3'."
            raise ModelError(message)
        if before is None or parent is not None:
            before = self.load(base.digest, device="cpu")
        tensors = finetuned.tensors_digest(finetuned.weights_of(before))
        if tuning is not None and before.finetuning is not None and tuning.record == before.finetuning.record:
            # The record is the parent's, with which the model was opened; what changed it since is the user's own run.
            tuning = None
        if tuning is None:
            from scfm_lab.training.finetune_record import own_record

            tuning = FineTuning(own_record(opened, tensors))
            changed = finetuned.changes(before, opened)
            if not changed:
                message = (
                    f"The weights of {opened.spec.name} are those of {base.reference}; there is nothing to register."
                )
                raise ModelError(message)
        elif tuning.record["parent"]["tensors"] != tensors:
            message = f"The model was not fine-tuned from {base.reference}: its record tells of other weights."
            raise ModelError(message)
        if changed is None:
            changed = finetuned.changes(before, opened)
        told = {
            **tuning.record["parent"],
            "reference": base.reference,
            "digest": base.digest,
            "tensors": tensors,
            "family": base.family,
            "source": base.uri,
        }
        record = {key: value for key, value in tuning.record.items() if key not in ("storage", "whole")} | {
            "parent": told
        }
        return opened, replace(tuning, record=record), changed, base

    def _recorded(self, record: dict[str, Any]) -> ModelVersion:
        told = record["parent"]
        if told["digest"]:
            return self._find(names.parse(told["digest"]))[0]
        found = tuned.recorded(self, told)
        if found is not None:
            return found
        message = f"What the model was fine-tuned from ({told.get('reference') or told.get('source', '')}) is not in this registry; name it with parent=."
        raise ModelError(message)

    def _open_folder(self, folder: Path) -> Model:
        from scfm_lab.models.finetuned import is_finetuned
        from scfm_lab.models.load import open_files
        from scfm_registry.source import using

        if not is_finetuned(folder):
            message = f"{folder} holds no fine-tuned model; a published checkpoint is taken in by import_checkpoint."
            raise ModelError(message)
        with using(self):
            return open_files(folder, None)

    def _tags(
        self, model: Model, record: dict[str, Any], base: ModelVersion, item: Contribution, licence: str | None
    ) -> dict[str, str]:
        found = version.tags(
            model.spec,
            kind="fine-tuned",
            family=item.id,
            origin=ORIGIN,
            # Opened, it takes what its parent takes.
            weight_bytes=base.weight_bytes or 4 * model.spec.parameters,
            peak_mib=estimating.peak_mib(model),
            tasks=item.data.get("tasks", ()),
            licence=licence,
            inherited=base.licence,
        )
        # Who may use the parent for what decides what may be done with what was made of it.
        found = tuned.terms(base, found)
        return found | {"scfm.parent_digest": base.digest} | tuned.tags(record)

    def _log(self, name: str, record: dict[str, Any]) -> str:
        data = record.get("data", {})
        settings = {key: value for key, value in record["settings"].items() if value is not None}
        metrics = {}
        for row in record.get("metrics", []):
            method = str(row["method"]).replace("+", "and").replace(",", "")
            for key in ("macro_f1", "accuracy"):
                metrics[key if row["what"] == "model" else f"{row['what']}.{method}.{key}"] = float(row[key])
        return self._store.log_training(
            f"fine-tune {name}",
            params={**settings, "labels_key": data.get("labels_key", ""), "parent": record["parent"]["reference"]},
            metrics=metrics,
            history=record.get("history", []),
            tags={
                "scfm.task": "finetune",
                "scfm.parent_digest": record["parent"]["digest"],
                "scfm.data_digest": data.get("digest", ""),
            },
            data={
                "name": f"{data.get('cells', 0)} cells labelled by {data.get('labels_key', '')}",
                "digest": data.get("digest", ""),
            },
            document=record,
            file=DOCUMENT,
        )


def _contribution(model: Model) -> Contribution:
    from scfm_lab.plugins import discover
    from scfm_lab.training.finetune_record import family_id

    return discover().get("models", family_id(model))
