"""Versions, files, aliases, tags and evidence, as one MLflow registry keeps them.

Nothing here touches MLflow's global tracking address: everything goes through a client of its own, so that a notebook's own
``mlflow.start_run`` goes where it always went.
"""

from __future__ import annotations

import logging
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scfm_lab.errors import ModelError, ScfmError, StorageError
from scfm_registry.store import claims, embedded, listing, tagging
from scfm_registry.store.engine import EXPERIMENT, knock, mlflow_module, quiet
from scfm_registry.store.place import storage_error
from scfm_registry.store.runs import Runs
from scfm_registry.store.words import in_words, is_denied, is_missing, unreachable
from scfm_registry.version import TRASHED, Evidence, Record, check_tags, shown, when

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from mlflow import MlflowClient

    from scfm_registry.paging import Mark
    from scfm_registry.store.place import Place

_PAGE = 1_000
#: Up to so many models are asked for their aliases one by one; all models together cost more than that.
_FEW = 20
_MODEL_ID = re.compile(r"(?:^models:/|/models/)(m-[0-9a-f]+)(?:/artifacts)?/?$")


class Store(Runs):
    """Versions, files, aliases, tags and evidence in one MLflow registry.

    Parameters
    ----------
    place
        Where it is. An embedded one is made if it is not there.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        if place.embedded:
            embedded.prepare(place)
        else:
            knock(place)

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's own client. It is made when it is first needed: importing MLflow takes seconds."""
        place = self.place
        with self._speaking():
            client = mlflow_module().MlflowClient(tracking_uri=place.tracking_uri, registry_uri=place.uri)
            if place.embedded:
                # What a user creates through the client without saying where belongs beside the rest, and not in the
                # directory that the notebook happens to run in.
                client._tracking_client.store.artifact_root_uri = place.artifacts.as_uri()  # noqa: SLF001
        return client

    @property
    def _plain(self) -> Any:
        """What MLflow's client asks with, which asks nothing besides.

        The client itself first asks, at every tag and alias, whether the model is one of its prompts, which takes a server as long
        as the change. Ours were found among models.
        """
        return self.client._get_registry_client()  # noqa: SLF001

    # ------------------------------------------------------------------------------------------------- reading

    def names(self) -> list[str]:
        """Names of all registered models that have a version that was not deleted."""
        return sorted({record.name for record in self.records() if TRASHED not in record.tags})

    def records(
        self, name: str | None = None, tags: Mapping[str, str] | None = None, *, aliases: bool = True
    ) -> list[Record]:
        """Versions, newest first within a name; `tags` must all be equal. A server is asked for aliases model by model."""
        if self.place.embedded:
            return listing.read(self.place, name, tags)
        wanted = _conditions(name, tags or {})
        found: list[Record] = []
        token = None
        with self._speaking():
            while True:
                page = self.client.search_model_versions(wanted, max_results=_PAGE, page_token=token)
                found += [_record(item) for item in page]
                token = page.token
                if not token:
                    break
            if aliases:
                found = self._with_aliases(found)
        return sorted(found, key=lambda record: (record.name, -record.version))

    def page(self, tags: Mapping[str, str], after: Mark | None, count: int) -> list[Record]:
        """Some of the versions whose `tags` are all equal, by name, newest first: `count` of those after `after`."""
        if self.place.embedded:
            return listing.read(
                self.place, None, tags, after=(after.name, after.version) if after else None, count=count
            )
        with self._speaking():
            # A server leaves out what this person may not read, so that of a place in its list only this is known: it is not
            # before as many versions as were seen. From the last of those on, the one that was seen last is looked for.
            for begin in [max(0, after.read - 1), 0] if after else [0]:
                records, met = self._following(tags, begin, after, count)
                if met:
                    break
            else:
                # It was deleted meanwhile.
                everything, _ = self._following(tags, 0, None, None)
                gone = (after.name, -after.version) if after else ("", 0)
                records = [item for item in everything if (item.name, -item.version) > gone]
            return self._with_aliases(records[:count])

    def _following(
        self, tags: Mapping[str, str], begin: int, after: Mark | None, count: int | None
    ) -> tuple[list[Record], bool]:
        """At least `count` of a server's versions after the one of `after`, and whether that one was met."""
        from mlflow.utils.search_utils import SearchUtils

        found: list[Record] = []
        met, token = after is None, SearchUtils.create_page_token(begin) if begin else None
        while True:
            page = self.client.search_model_versions(
                _conditions(None, tags),
                max_results=_PAGE if count is None else count + 1,
                order_by=["name ASC", "version_number DESC"],
                page_token=token,
            )
            for record in map(_record, page):
                if met:
                    found.append(record)
                elif after is not None:
                    met = (record.name, record.version) == (after.name, after.version)
            token = page.token
            if not token or (count is not None and len(found) >= count):
                return found, met

    def record(self, name: str, version: int) -> Record | None:
        """One version by number, or ``None``."""
        if self.place.embedded:
            return next(iter(listing.read(self.place, name, version=version)), None)
        with self._speaking():
            try:
                return _record(self.client.get_model_version(name, str(version)))
            except mlflow_module().MlflowException as error:
                if is_missing(error):
                    return None
                if not is_denied(error):
                    raise
        return next((found for found in self.records(name) if found.version == version), None)

    def record_by_alias(self, name: str, alias: str) -> Record | None:
        """The version that an alias points at, or ``None``."""
        if self.place.embedded:
            version = listing.aliased(self.place, name, alias)
            return None if version is None else self.record(name, version)
        with self._speaking():
            try:
                return _record(self.client.get_model_version_by_alias(name, alias))
            except mlflow_module().MlflowException as error:
                if is_missing(error):
                    return None
                if not is_denied(error):
                    raise
        # A server with log-in says so of an alias that is not there, too; a search shows what this person may see.
        return next((found for found in self.records(name) if alias in found.aliases), None)

    def files(self, record: Record) -> Path | None:
        """Where a version's files lie on this machine; ``None`` where a server has them.

        They are found from the registry's own folder and the version's id, never from the absolute path that MLflow stored.
        """
        if not self.place.embedded:
            return None
        return self.place.artifacts / "models" / self._model_id(record) / "artifacts"

    def download(self, record: Record, target: Path, wanted: Iterable[str] = ("",)) -> None:
        """Copy a version's files from the server into the existing folder `target`; `wanted` names some, and no other comes.

        Raises
        ------
        ModelError
            The server says that they lie somewhere else than with itself.
        """
        with self._speaking(target):
            logged = self.client.get_logged_model(self._model_id(record))
            repository = self._repository(logged.artifact_location)
            for path in wanted:
                repository.download_artifacts(path, str(target))

    def document(self, run: str, name: str, target: Path) -> Path:
        """Fetch a file of a run into the existing folder `target` and give its path."""
        with self._speaking(target):
            if not self.place.embedded:
                repository = self._repository(self.client.get_run(run).info.artifact_uri)
                return Path(repository.download_artifacts(name, str(target)))
            return Path(self.client.download_artifacts(run, name, str(target)))

    # ------------------------------------------------------------------------------------------------- writing

    def add(self, name: str, folder: Path, tags: Mapping[str, str], description: str) -> Record:
        """Register the files in `folder` as the next version of `name`.

        The files go up first and become a version last, with all its tags in one transaction: a cut in between leaves
        nothing that anybody sees.

        Parameters
        ----------
        name
            Checked by the caller.
        folder
            The version's files, ``manifest.json`` among them.
        tags, description
            As stored; a description may have several lines.

        Raises
        ------
        ModelError
            A tag's value is no line of text.
        """
        check_tags(tags)
        mlflow = mlflow_module()
        with self._speaking(folder):
            logged = self.client.create_logged_model(
                self._experiment, name=name, tags={"scfm.digest": tags["scfm.digest"]}
            )
            try:
                repository = self._repository(logged.artifact_location)
                repository.log_artifacts(str(folder))
                self._confirm_upload(repository, folder)
                self.client.finalize_logged_model(logged.model_id, "READY")
                try:
                    self.client.create_registered_model(name)
                except mlflow.MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                created = self.client.create_model_version(
                    name, description=description, tags=dict(tags), await_creation_for=60, **self._source(logged)
                )
            except BaseException:
                self._drop_files(logged.model_id)
                raise
            return _record(created)

    def remove(self, record: Record) -> str:
        """Delete a version, and its files unless another version is kept in them; returns why they stay, else nothing."""
        with self._speaking():
            self._plain.delete_model_version(record.name, str(record.version))
            return self._drop_files(self._model_id(record))

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias at a version."""
        with self._speaking():
            self._plain.set_registered_model_alias(name, alias, str(version))

    def drop_alias(self, name: str, alias: str) -> None:
        """Take an alias from a model."""
        with self._speaking():
            self._plain.delete_registered_model_alias(name, alias)

    def drop_tags(self, record: Record, keys: Iterable[str]) -> None:
        """Take tags from a version."""
        with self._speaking():
            for key in keys:
                self._plain.delete_model_version_tag(record.name, str(record.version), key)

    def set_tags(self, record: Record, tags: Mapping[str, str]) -> None:
        """Set a version's tags; raises ModelError, with none of them set, where a value is no line of text.

        In a database that is opened directly all of them are set, or none; a server sets them in their order.
        """
        check_tags(tags)
        if self.place.embedded:
            tagging.write(self.place, record.name, record.version, tags)
            return
        with self._speaking():
            for key, value in tags.items():
                self._plain.set_model_version_tag(record.name, str(record.version), key, value)

    def log_run(
        self,
        name: str,
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        documents: Mapping[str, Mapping[str, Any]] | None = None,
        files: Iterable[Path] = (),
    ) -> str:
        """Keep evidence: a finished run with metrics, JSON documents by file name, and files; returns the run's id."""
        with self._speaking():
            run = self.client.create_run(self._experiment, run_name=name, tags=dict(tags))
            identifier = run.info.run_id
            try:
                self.check_ours(run.info.artifact_uri)
                for key, value in metrics.items():
                    self.client.log_metric(identifier, key, value)
                for file, document in (documents or {}).items():
                    self.client.log_dict(identifier, dict(document), file)
                for path in files:
                    self.client.log_artifact(identifier, str(path))
            except BaseException:
                self._fail(identifier)
                raise
            self.client.set_terminated(identifier, "FINISHED")
            return str(identifier)

    def _fail(self, run: str) -> None:
        """Say of a run that it was cut; a second failure here must not hide the first, and what is not finished counts as cut."""
        try:
            self.client.set_terminated(run, "FAILED")
        except Exception:
            # What filled the disk fills it still.
            logging.getLogger(__name__).debug("run %s cannot be ended", run, exc_info=True)

    def runs(
        self, task: str, tags: Mapping[str, str] | None = None, *, newest: int = 0, cut: bool = False
    ) -> list[Evidence]:
        """Our runs of a task, oldest first; `newest` gives only the last so many, `cut` also those that were not finished."""
        conditions = [f"tags.`{key}` = {_quoted(value)}" for key, value in {"scfm.task": task, **(tags or {})}.items()]
        # What was killed, or found the disk full, has its tags and not what it should tell.
        conditions += [] if cut else ["attributes.status = 'FINISHED'"]
        found: list[Any] = []
        token = None
        with self._speaking():
            while True:
                page = self.client.search_runs(
                    [self._experiment],
                    " AND ".join(conditions),
                    order_by=["attributes.start_time DESC"],
                    max_results=newest or _PAGE,
                    page_token=token,
                )
                found += page
                token = page.token
                if newest or not token:
                    break
        return [
            Evidence(str(run.info.run_id), dict(run.data.tags), dict(run.data.metrics), when(int(run.info.start_time)))
            for run in reversed(found)
        ]

    @contextmanager
    def exclusive(self, what: str) -> Iterator[Callable[[], None]]:
        """Change `what` with nobody else changing it: under the folder's lock, or under a claim on a server.

        What is given is called just before the change: it raises StorageError where the claim was lost.
        """
        with self.place.locked():
            if self.place.embedded:
                yield lambda: None
                return
            with quiet(), claims.claimed(self._plain, what, mlflow_module().MlflowException) as sure:
                yield sure

    def set_model_tag(self, name: str, key: str, value: str) -> None:
        """Set a tag of a model, which all its versions share."""
        with self._speaking():
            self._plain.set_registered_model_tag(name, key, value)

    def drop_model_tag(self, name: str, key: str) -> None:
        """Take a tag from a model."""
        with self._speaking():
            self._plain.delete_registered_model_tag(name, key)

    def model_tag(self, name: str, key: str) -> str:
        """A tag of a model; empty where there is no such model or tag."""
        if self.place.embedded:
            return listing.model_tag(self.place, name, key)
        with self._speaking():
            try:
                return str(self.client.get_registered_model(name).tags.get(key, ""))
            except mlflow_module().MlflowException as error:
                if is_missing(error):
                    return ""
                raise

    # ------------------------------------------------------------------------------------------------- inside

    @cached_property
    def _experiment(self) -> str:
        """Id of our experiment; its files have their place in the registry's folder, or where the server wants them."""
        mlflow = mlflow_module()
        known = self.client.get_experiment_by_name(EXPERIMENT)
        if known is None:
            location = self.place.artifacts.as_uri() if self.place.embedded else None
            try:
                return str(self.client.create_experiment(EXPERIMENT, artifact_location=location))
            except mlflow.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                known = self.client.get_experiment_by_name(EXPERIMENT)
        if known is None or known.lifecycle_stage != "active":
            message = (
                f"The experiment '{EXPERIMENT}' in {self.place.shown} was deleted; restore it in MLflow, since the files of "
                "versions belong to it."
            )
            raise StorageError(message)
        return str(known.experiment_id)

    def check_ours(self, address: str) -> None:
        """Refuse a place of files that is not the server's own: it could be this machine's, or somebody else's server.

        Raises
        ------
        ModelError
            The server says that files lie, or should go, there.
        """
        if self.place.embedded:
            return
        parts, own = urlsplit(address), urlsplit(self.place.tracking_uri).netloc.rpartition("@")[2]
        if parts.scheme != "mlflow-artifacts" or parts.netloc not in ("", own):
            message = (
                f"The server at {self.place.shown} says that files lie in '{shown(address, 80)}', and not with itself; nothing was "
                "read or written there. Run 'scfm-lab registry check', and ask whoever runs the server."
            )
            raise ModelError(message)

    def _repository(self, address: str) -> Any:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self.check_ours(address)
        return get_artifact_repository(address, tracking_uri=self.place.tracking_uri, registry_uri=self.place.uri)

    def _source(self, logged: Any) -> dict[str, str]:
        """Say where a version's files are, in the form that this kind of store accepts.

        A server wants its own id for them and refuses paths. A database that is opened directly would look that id up through
        MLflow's *global* address, which is somebody else's, and takes the path.
        """
        if self.place.embedded:
            return {"source": logged.artifact_location}
        return {"source": f"models:/{logged.model_id}", "model_id": logged.model_id}

    def _confirm_upload(self, repository: Any, folder: Path) -> None:
        """Compare sizes with what the store now holds, before anything refers to it."""
        wanted = {
            path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }
        found: dict[str, int] = {}
        waiting = [""]
        while waiting:
            for item in repository.list_artifacts(waiting.pop() or None):
                if item.is_dir:
                    waiting.append(item.path)
                else:
                    found[item.path] = int(item.file_size or 0)
        for path, size in wanted.items():
            if found.get(path) != size:
                message = (
                    f"{self.place.shown} holds {found.get(path, 0)} of {size} bytes of {path}; nothing was registered."
                )
                raise StorageError(message)

    def _drop_files(self, model_id: str) -> str:
        """Remove files unless a version refers to them, and say why they stay; a second failure here must not hide the first.

        A server may have kept a version whose answer got lost on the way, and its client may have asked twice.
        """
        log = logging.getLogger(__name__)
        try:
            used = self.client.search_model_versions(f"source_path LIKE '%{model_id}%'", max_results=1)
        except Exception as error:
            # Whoever clears up after a failure must tell that one, and files too many harm nobody.
            log.debug("whether a version is kept in %s cannot be asked; its files stay", model_id, exc_info=True)
            return f"whether another version is kept in them cannot be asked ({type(error).__name__})"
        if used:
            return f"{used[0].name}/{used[0].version} is kept in them"
        folder = self.place.artifacts / "models" / model_id if self.place.embedded else None
        stays = ""
        try:
            if folder is None:
                # What MLflow calls deleted afterwards is only marked so.
                self._repository(self.client.get_logged_model(model_id).artifact_location).delete_artifacts()
        except Exception as error:
            # Here too.
            log.debug("files of %s stay on the server", model_id, exc_info=True)
            why = shown(str(error).strip() or type(error).__name__, 160)
            stays = (
                f"the server did not delete them ({why}); its admin finds them in models/{model_id} of its artifacts"
            )
        try:
            self.client.delete_logged_model(model_id)
        except Exception:
            # And here.
            log.debug("the record of the files of %s stays behind", model_id, exc_info=True)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            stays = f"{folder} cannot be deleted; look at its permissions" if folder.exists() else ""
        return stays

    def _model_id(self, record: Record) -> str:
        match = _MODEL_ID.search(record.source)
        if match is None:
            message = f"{record.name}/{record.version} was not registered by scfm-lab; open it with MLflow itself."
            raise ModelError(message)
        return match.group(1)

    def _with_aliases(self, found: list[Record]) -> list[Record]:
        """Add what a page of versions does not say: which aliases point at them."""
        aliases: dict[tuple[str, int], list[str]] = {}
        for name, alias, version in self._told_aliases({record.name for record in found}):
            aliases.setdefault((name, int(version)), []).append(alias)
        return [
            replace(record, aliases=tuple(sorted(aliases.get((record.name, record.version), ())))) for record in found
        ]

    def _told_aliases(self, names: set[str]) -> list[tuple[str, str, int]]:
        """Ask a server for aliases."""
        if len(names) <= _FEW:
            models = [self.client.get_registered_model(name) for name in names]
        else:
            models, token = [], None
            while True:
                page = self.client.search_registered_models(max_results=_PAGE, page_token=token)
                models += page
                token = page.token
                if not token:
                    break
        return [(model.name, alias, version) for model in models for alias, version in model.aliases.items()]

    @contextmanager
    def _speaking(self, folder: Path | None = None) -> Iterator[None]:
        """Hold back MLflow's log lines, and put its errors into words."""
        from sqlalchemy.exc import SQLAlchemyError

        with quiet():
            try:
                yield
            except ScfmError:
                raise
            except OSError as error:
                if self.place.embedded or error.filename:
                    raise storage_error(error, error.filename or self.place.shown) from error
                raise unreachable(self.place, error) from error
            except (mlflow_module().MlflowException, SQLAlchemyError) as error:
                raise in_words(error, self.place.shown) from error


def _record(item: Any) -> Record:
    return Record(
        name=item.name,
        version=int(item.version),
        aliases=tuple(sorted(item.aliases or ())),
        tags={str(key): str(value) for key, value in (item.tags or {}).items()},
        description=item.description or "",
        source=item.source or "",
        created=when(int(item.creation_timestamp)),
    )


def _conditions(name: str | None, tags: Mapping[str, str]) -> str | None:
    """Write a filter in MLflow's language; ``None`` where nothing is asked."""
    wanted = [] if name is None else [f"name = {_quoted(name)}"]
    wanted += [f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items()]
    return " AND ".join(wanted) or None


def _quoted(value: str) -> str:
    """Quote a value for MLflow's filter language, which has no escape for the quote itself."""
    if "'" not in value:
        return f"'{value}'"
    if '"' not in value:
        return f'"{value}"'
    message = f"{value!r} holds both kinds of quotes; MLflow cannot search for it."
    raise ModelError(message)
