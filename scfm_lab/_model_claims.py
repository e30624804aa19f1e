"""What a model says of itself, as :func:`scfm_lab.testing.check_model` holds it against the model: spec, manifest, digests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.models.contract import Model
from scfm_lab.models.spec import ABILITIES, Option
from scfm_lab.testing import Fault, NotApplicable

if TYPE_CHECKING:
    from scfm_lab.plugins import Contribution

#: Opens a model as it is asked to on standard input, and prints its digests.
_ELSEWHERE = """
import json, sys
from scfm_lab.models.load import load_model
asked = json.load(sys.stdin)
model = load_model(asked["source"], device="cpu", precision="float32", config=asked["config"], files=asked["files"])
print(json.dumps([model.digest, model.settings_digest]))
"""


class Claims:
    """The checks of what a model says of itself."""

    model: Model
    subject: str
    declared: Contribution | None
    config: Mapping[str, Any] | None
    """Another configuration to open the model with, under which it gives other vectors."""
    process: bool
    """Whether a model that has an id is opened in another process too."""

    def spec(self) -> None:
        """Every entry of the spec makes sense."""
        spec, wrong = self.model.spec, []
        for name in ("name", "family", "licence", "citation", "determinism"):
            value = getattr(spec, name)
            if not isinstance(value, str) or not value.strip():
                wrong.append(f"{name} must be a text, it is {value!r}")
        if spec.genes not in ("symbol", "ensembl"):
            wrong.append(f"genes must be 'symbol' or 'ensembl', it is {spec.genes!r}")
        if not spec.organisms or not all(isinstance(name, str) for name in spec.organisms):
            wrong.append(f"organisms must name at least one, it is {spec.organisms!r}")
        if spec.n_genes != len(self.model.vocabulary) or not spec.n_genes:
            wrong.append(f"n_genes is {spec.n_genes!r}, the vocabulary holds {len(self.model.vocabulary)}")
        for name, least in (("width", 1), ("max_length", 0), ("parameters", 0)):
            value = getattr(spec, name)
            if not isinstance(value, int) or value < least:
                wrong.append(f"{name} must be a whole number of at least {least}, it is {value!r}")
        unknown = sorted(set(spec.abilities) - set(ABILITIES))
        if unknown:
            wrong.append(f"abilities {unknown} are not known; there are {sorted(ABILITIES)}")
        if "embed" not in spec.abilities:
            wrong.append("abilities do not hold 'embed'")
        wrong.extend(_option_faults(spec.options))
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", self.model.digest):
            wrong.append(f"digest must be 'sha256:' and 64 hexadecimal digits, it is {self.model.digest!r}")
        raise_faults(wrong)

    def manifest(self) -> None:
        """What the manifest says of the model is what its spec says."""
        if self.declared is None:
            raise NotApplicable("the model was not opened by its id")
        spec, data, wrong = self.model.spec, self.declared.data, []
        for key, value in (("gene_ids", spec.genes), ("licence", spec.licence), ("family", spec.family)):
            if key in data and data[key] != value:
                wrong.append(f"the manifest says {key} = {data[key]!r}, the spec {value!r}")
        if "organisms" in data and set(data["organisms"]) != set(spec.organisms):
            wrong.append(f"the manifest says organisms = {data['organisms']}, the spec {list(spec.organisms)}")
        # A manifest may name tasks of scfm-lab's (annotate, trajectory) that ask for nothing but vectors.
        declared = set(data.get("tasks", [])) & set(ABILITIES)
        if "tasks" in data and declared != set(spec.abilities):
            wrong.append(
                f"the manifest's tasks name the abilities {sorted(declared)}, the spec {sorted(spec.abilities)}"
            )
        raise_faults(wrong)

    def settings(self) -> str:
        """What a model was opened with gives one digest wherever it is opened, and something else another.

        Vectors are kept and runs go on by it, and it tells vectors of one AnnData apart.
        """
        from scfm_lab.models.identity import settings_digest

        own = type(self.model).places - Model.places
        hidden = [n for n in sorted(own) if not _only_places(getattr(self.model, n, None))]
        if hidden:
            raise Fault(
                f"the class's places name {', '.join(hidden)}, which holds more than where something lies; what vectors depend on "
                "must be in settings_digest"
            )
        first, second = self._opened(), self._opened()
        if first is None or second is None:
            if self.config is not None:
                raise NotApplicable("config= is for a model that can be opened again, and this one was made otherwise")
            if settings_digest(self.model) != settings_digest(self.model):
                raise Fault(
                    "what the model holds reads differently each time: settings_digest is another one in every session"
                )
            return "read twice; the model was not opened from a source"
        here = first.settings_digest or settings_digest(first)
        again = second.settings_digest or settings_digest(second)
        if here != again:
            raise Fault(
                f"opened twice, it has two settings_digests: {', '.join(_differing(first, second)) or 'something'} is not the same in "
                "both (a time, an address, a random number?); put what only says where something lies into places, and leave out "
                "the rest with identity_parts()"
            )
        if self.model.settings_digest not in ("", here):
            raise Fault("its settings_digest is not the one that it has when it is opened once more")
        told = "opened twice"
        if self.process and self.declared is not None:
            elsewhere = self._elsewhere()
            if elsewhere != [first.digest, here]:
                what = "digest" if elsewhere[0] != first.digest else "settings_digest"
                raise Fault(f"in another process it has another {what}; does it hold a set, an address or a hash()?")
            told += ", and in another process"
        if self.config is not None:
            other = self._opened(self.config)
            assert other is not None
            if (other.settings_digest or settings_digest(other)) == here:
                raise Fault(
                    f"opened with config={dict(self.config)!r} it has the same settings_digest, so that kept vectors of one would be "
                    "given for the other"
                )
            told += "; another one with config="
        return told

    def _opened(self, config: Mapping[str, Any] | None = None) -> Model | None:
        """The model once more, not used yet; None where nothing tells how it was opened."""
        model = self.model
        given = dict(model.opened or {})
        how = {"config": {**(given.get("config") or {}), **(config or {})} or None, "files": given.get("files") or None}
        if model.source:
            from scfm_lab.models.load import load_model

            return load_model(model.source, device="cpu", precision="float32", **how)
        if type(model).open.__func__ is Model.open.__func__:  # type: ignore[attr-defined]
            return None
        return type(model).open(model.path, **how)

    def _elsewhere(self) -> list[str]:
        """Digests of the weights and of the settings, in a process whose texts hash otherwise."""
        given = dict(self.model.opened or {})
        asked = {
            "source": self.model.source,
            "config": given.get("config") or None,
            "files": given.get("files") or None,
        }
        try:
            text = json.dumps(asked)
        except TypeError:
            raise NotApplicable("it was opened with objects that no other process can be given") from None
        done = subprocess.run(
            [sys.executable, "-c", _ELSEWHERE],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": "4711"},
        )
        if done.returncode:
            raise Fault(f"it cannot be opened in another process: {done.stderr.strip().splitlines()[-1:]}")
        found: list[str] = json.loads(done.stdout.strip().splitlines()[-1])
        return found


def _only_places(value: object) -> bool:
    """Whether a value says no more than where files lie: a path, or paths by what they are."""
    if isinstance(value, Mapping):
        return all(isinstance(v, Path) for v in value.values())
    return isinstance(value, (str, Path, type(None)))


def _differing(one: Model, other: Model) -> list[str]:
    """Attributes that are not the same in two openings."""
    from scfm_lab.models.identity import digest_of_attribute

    names = [n for n in vars(one) if n not in type(one).places]
    return [n for n in names if digest_of_attribute(one, n) != digest_of_attribute(other, n)]


def raise_faults(wrong: list[str]) -> None:
    """Fail with all that was found, if anything was."""
    if wrong:
        raise Fault("; ".join(wrong))


def _option_faults(options: Any) -> list[str]:
    wrong = []
    for name, option in options.items():
        if not isinstance(option, Option):
            wrong.append(f"option {name!r} must be an Option, it is {type(option).__name__}")
        elif option.default is not None and not isinstance(option.default, option.type):
            wrong.append(f"option {name!r} has the default {option.default!r}, which is no {option.type.__name__}")
        elif option.choices and option.default is not None and option.default not in option.choices:
            wrong.append(f"option {name!r} has the default {option.default!r}, which is none of its choices")
    return wrong
