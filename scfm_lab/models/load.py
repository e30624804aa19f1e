"""From a string to an opened model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError, ScfmError, did_you_mean
from scfm_lab.models.converted import is_stored
from scfm_lab.models.pinned import ChangedFileError, pinned

if TYPE_CHECKING:
    import pandas as pd

    from scfm_lab.models.contract import Model
    from scfm_lab.plugins import Contribution


_VERSION = re.compile(r"[a-z][a-z0-9._-]*(/\d+|@[a-z][a-z0-9-]*)")
# Settings that a reference's own configuration has among its words and numbers, and that are files.
_FILES_IN_CONFIG = frozenset({"pretrained_embedding"})


def load_model(
    source: str | Path,
    device: str = "auto",
    precision: str = "auto",
    *,
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
) -> Model:
    """Open a model.

    Parameters
    ----------
    source
        A checkpoint's folder or file as published; ``"models:/name@alias"`` or
        ``"models:/name/3"`` (the registry); or the name of a model that a plugin brings
        (``"pca"``, ``"sctop"``, ``"starter"``: short for ``"scfm.pca"``, …), which a folder of
        that name in the working directory does not hide (``"./pca"`` is the folder).
    device
        ``"auto"`` (CUDA, then MPS, then CPU), ``"cpu"``, ``"mps"``, ``"cuda"``, ``"cuda:1"``.
    precision
        ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    config
        Completes or overrides what the files do not say.
    files
        Auxiliary files that do not lie where they were published.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        If the name is unknown, the files are of no known family, or they are damaged.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> sl.load_model("pca").spec.width
    50
    """
    for name, given in (("config", config), ("files", files)):
        if given is not None and not isinstance(given, Mapping):
            raise ModelError(f"{name}= takes names and values, such as {{'name': value}}; this is {given!r}.")
    # What is read later, or by another process, is not to depend on the working directory.
    files = None if files is None else _from_here(dict(files))
    config = None if config is None else {k: _from_here(v) if k in _FILES_IN_CONFIG else v for k, v in config.items()}
    text = str(source)
    asked = {name: dict(given) for name, given in (("config", config), ("files", files)) if given}
    resolved = from_source(text)
    if resolved is not None:
        config = {**getattr(resolved, "config", {}), **(config or {})} or None
        model = open_resolved(resolved, config=config, files=files)
        model.version = f"{resolved.name}/{resolved.version}"
        model.registered_as = resolved.name
        model.registered_digest = getattr(resolved, "digest", "")
    elif _looks_like_path(source) and not is_name(text):
        model = open_files(existing(source), None, config=config, files=files)
    else:
        model = open_name(text, config=config, files=files)
    model.source = text
    model.opened = {"config": dict(config or {}), "files": dict(files or {})}
    model.asked = asked
    return model.to(device, precision)


def _from_here(given: Any) -> Any:
    """What ``files=`` was given, with the paths in it absolute; names of genes and numbers stay."""
    if isinstance(given, Mapping):
        return {name: _from_here(value) for name, value in given.items()}
    if isinstance(given, (list, tuple)):
        paths = bool(given) and all(isinstance(value, Path) or _is_there(value) for value in given)
        return type(given)(_from_here(value) for value in given) if paths else given
    if isinstance(given, Path):
        return _at_home(given).absolute()
    return str(Path(given).absolute()) if _is_there(given) else given


def _is_there(given: Any) -> bool:
    try:
        return isinstance(given, (str, Path)) and bool(str(given)) and Path(given).exists()
    # A text may be no path at all.
    except (OSError, ValueError):
        return False


def as_model(model: Model | str | Path) -> Model:
    """An opened model as it is; a source is opened.

    Raises
    ------
    ModelError
        As for :func:`load_model`; also if it is neither a model nor a text.
    """
    from scfm_lab.models.contract import Model

    if isinstance(model, Model):
        return model
    if not isinstance(model, (str, Path)):
        raise ModelError(
            f"A model is an opened one (sl.load_model) or a text such as 'starter'; this is neither ({type(model).__name__})."
        )
    return load_model(model)


def check_source(source: str) -> None:
    """Refuse a source that :func:`load_model` would refuse for its name or path alone; nothing is opened.

    References to a registry are left to the registry, and files to the family that opens them.

    Raises
    ------
    ModelError
        With the sentence of :func:`load_model`.
    """
    text = str(source)
    if _resolver(text) is not None:
        return
    if _looks_like_path(source) and not is_name(text):
        existing(source)
        return
    _with_weights(_named(text))


def list_models() -> pd.DataFrame:
    """The models and families that plugins bring.

    Returns
    -------
    DataFrame
        id, name, tasks, ready (False: a family whose files have to be given), licence, commercial
        (False: the weights must not be used commercially; None: not known), plugin.
    """
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "id": c.id,
                "name": c.id.split(".", 1)[-1],
                "tasks": ", ".join(c.data.get("tasks", [])),
                "ready": not c.data.get("needs_files", False),
                "licence": c.data.get("licence"),
                "commercial": c.data.get("commercial"),
                "plugin": c.plugin,
            }
            for c in _contributions()
        ],
        columns=["id", "name", "tasks", "ready", "licence", "commercial", "plugin"],
    )


def models_that_can(ability: str) -> list[str]:
    """Ids of the models whose manifest names an ability."""
    return [c.id for c in _contributions() if ability in c.data.get("tasks", [])]


def _contributions() -> list[Contribution]:
    from scfm_lab.plugins import discover

    return discover().contributions("models")


def _looks_like_path(source: str | Path) -> bool:
    text = str(source)
    if isinstance(source, Path) or "/" in text or "\\" in text or text.startswith((".", "~")):
        return True
    return bool(text) and Path(text).exists()


def is_name(text: str) -> bool:
    """Whether a text names a model that comes with its weights."""
    # A folder that happens to be called "pca" must not hide the model; "./pca" names the folder.
    return any(text in (c.id, c.id.split(".", 1)[-1]) for c in _contributions() if not c.data.get("needs_files"))


def existing(source: str | Path) -> Path:
    """The path of a checkpoint that is there."""
    given = _at_home(source)
    path = _from_root(given)
    if path.exists() and not path.is_dir() and not path.is_file():
        raise ModelError(f"{given} is neither a folder nor a file; give the folder or file as published.")
    if not path.exists() and not is_stored(path):
        hint = _registered(str(source)) if _VERSION.fullmatch(str(source)) else ""
        raise ModelError(f"There is no checkpoint at {given}; give the folder or file as published.{hint}")
    return path


def _at_home(source: str | Path) -> Path:
    """The path with ``~`` resolved."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise ModelError(f"{source} is in the home of a user who is not known here; give the whole path.") from None


def _from_root(path: Path) -> Path:
    """The absolute path, so that it has parents; a symbolic link stays what it is called, and has its own neighbours."""
    whole = path.absolute()
    if ".." not in whole.parts:
        return whole
    # What is above a link is above what it leads to.
    last = len(whole.parts) - whole.parts[::-1].index("..")
    return Path(*whole.parts[:last]).resolve().joinpath(*whole.parts[last:])


def from_source(text: str) -> Any:
    """What a plugin's source makes of a reference such as ``models:/…``; None where it is none."""
    contribution = _resolver(text)
    return None if contribution is None else contribution.load()(text)


def open_resolved(resolved: Any, **kwargs: Any) -> Model:
    """Open what a plugin's source has found, as what its hashes say; the device is not chosen yet.

    What is read is hashed here and nowhere before. So it is here that a damaged copy is noticed, which its source gets anew.

    Parameters
    ----------
    resolved
        From :func:`from_source`.
    **kwargs
        As for :func:`open_files`.

    Raises
    ------
    ModelError
        A file is not what its hash says, or does not open.
    """
    folder = Path(resolved.path)
    hashes = {folder / path: digest for path, digest in getattr(resolved, "hashes", {}).items()}

    def opened() -> Model:
        with pinned(hashes, f"{resolved.name}/{resolved.version}"):
            return open_files(folder, getattr(resolved, "adapter", None), **kwargs)

    try:
        return opened()
    except ChangedFileError as error:
        anew = getattr(resolved, "anew", None)
        # What it was made from has a source of its own, which has tried already.
        if anew is None or error.path not in hashes:
            raise
    anew()
    return opened()


def _resolver(text: str) -> Contribution | None:
    """The plugin's source that opens references such as this one, if it is a reference at all."""
    from scfm_lab.plugins import discover

    for contribution in discover().contributions("sources"):
        prefix = contribution.data.get("prefix", "")
        if prefix and text.startswith(prefix):
            return contribution
    scheme = text.split(":/", 1)[0]
    if ":/" in text and len(scheme) > 1:
        raise ModelError(f"No plugin opens sources that begin with {scheme + ':'!r} (asked for {text!r}).")
    return None


def _named(name: str) -> Contribution:
    known = {c.id: c for c in _contributions()}
    short: dict[str, list[Contribution]] = {}
    for c in known.values():
        short.setdefault(c.id.split(".", 1)[-1], []).append(c)
    if name in known:
        return known[name]
    hits = short.get(name, [])
    own = [c for c in hits if c.id.startswith("scfm.")]
    if own or len(hits) == 1:
        return (own or hits)[0]
    if hits:
        raise ModelError(f"{name!r} could be {' or '.join(c.id for c in hits)}; write the full id.")
    names = ", ".join(sorted(c.id.removeprefix("scfm.") for c in known.values()))
    raise ModelError(
        f"No model is called {name!r}; models here: {names}." + did_you_mean(name, [*known, *short]) + _registered(name)
    )


def _registered(name: str) -> str:
    """How a name in a registry is written, where a plugin brings one."""
    from scfm_lab.plugins import discover

    prefixes = [c.data.get("prefix", "") for c in discover().contributions("sources")]
    return f" A model in a registry is written '{prefixes[0].rstrip('/')}/{name}'." if prefixes else ""


def open_name(name: str, **kwargs: Any) -> Model:
    """Open a model that a plugin brings, by its name; the device is not chosen yet."""
    contribution = _named(name)
    model = _identified(_open_contribution(contribution, **kwargs))
    model.version = _plugin_version(contribution)
    return model


def _with_weights(contribution: Contribution) -> Contribution:
    if contribution.data.get("needs_files"):
        raise ModelError(
            f"{contribution.id} is a family whose weights do not come with scfm-lab; give the path of its "
            "checkpoint, or a registered version such as 'models:/name@champion'."
        )
    return contribution


def _open_contribution(contribution: Contribution, **kwargs: Any) -> Model:
    adapter = _with_weights(contribution).load()
    weights = contribution.data.get("weights")
    return adapter.open(_package_folder(contribution) / weights if weights else None, **kwargs)


def _package_folder(contribution: Contribution) -> Path:
    from importlib.util import find_spec

    spec = find_spec(contribution.target.partition(":")[0].partition(".")[0])
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"The package of {contribution.id} cannot be found; reinstall the plugin {contribution.plugin!r}."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _plugin_version(contribution: Contribution) -> str:
    from scfm_lab.plugins import discover

    versions = [str(p.version) for p in discover().plugins if p.name == contribution.plugin and p.version]
    return f"{contribution.id}/{versions[0]}" if versions else contribution.id


def open_files(path: Path, adapter: str | None, *, depth: int = 0, **kwargs: Any) -> Model:
    """Open a folder or file, fine-tuned models with their parents; the device is not chosen yet.

    Parameters
    ----------
    adapter
        Id of the family; None: it is recognised.
    depth
        Fine-tuned models that led here.
    """
    from scfm_lab.models.finetuned import is_finetuned, open_folder

    if is_finetuned(path):
        return _identified(open_folder(path, config=kwargs.get("config"), depth=depth))
    return _identified(_open_path(path, adapter=adapter, **kwargs))


def _identified(model: Model) -> Model:
    """Note what the model was opened with, before it is used; a fine-tuned one keeps what its parent was opened with."""
    from scfm_lab.models.identity import settings_digest

    model.settings_digest = model.settings_digest or settings_digest(model)
    return model


def _open_path(path: Path, *, adapter: str | None = None, **kwargs: Any) -> Model:
    faults = []
    for contribution in _contributions():
        if adapter is not None and contribution.id != adapter:
            continue
        try:
            family = contribution.load()
            if adapter is None and not family.recognises(path):
                continue
        # One plugin that cannot even look at a path must not keep the others from opening it.
        except Exception as error:  # noqa: BLE001
            own = f"{contribution.id} cannot look at it ({type(error).__name__}: {error})."
            faults.append(str(error) if isinstance(error, ScfmError) else own)
            continue
        model = family.open(path, **kwargs)
        model.path = path
        return model
    if adapter is not None:
        raise ModelError(f"{path} needs the model plugin {adapter!r}, which is not installed.")
    names = ", ".join(c.id.removeprefix("scfm.") for c in _contributions())
    from scfm_lab.models.resemblance import broken_settings, hints

    # A configuration that cannot be read may be why nobody knows the files.
    said = broken_settings(path) or [f"The files at {path} are of no family known here ({names})."]
    raise ModelError(" ".join(dict.fromkeys([*said, *faults, *hints(path)])))
