"""Runs of trainings in MLflow: parameters, metrics by epoch, the data's digest, the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_registry.store.engine import mlflow_module
from scfm_registry.store.words import is_missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from mlflow import MlflowClient

    from scfm_registry.store.place import Place

#: What MLflow takes at once, and the longest value of a parameter and digest of a dataset that it keeps.
_BATCH, _LONGEST, _DIGEST = 100, 500, 36


class Runs:
    """The part of a store that keeps trainings."""

    place: Place
    _experiment: Any

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client."""
        raise NotImplementedError

    def _speaking(self) -> AbstractContextManager[None]:
        raise NotImplementedError

    def check_ours(self, address: str) -> None:
        """Refuse a place of files that is not the server's own."""
        raise NotImplementedError

    def log_training(
        self,
        name: str,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        history: Sequence[Mapping[str, Any]],
        tags: Mapping[str, str],
        data: Mapping[str, str],
        document: Mapping[str, Any],
        file: str,
    ) -> str:
        """Keep a training as a finished run; returns the run's id.

        Parameters
        ----------
        params, metrics, tags
            Of the run.
        history
            Epochs: ``"epoch"``, ``"time"`` (seconds since 1970) and numbers.
        data
            ``"name"`` and ``"digest"`` of the cells.
        document, file
            A JSON document among the run's files, and its name.
        """
        mlflow = mlflow_module()
        with self._speaking():
            client = self.client
            run = client.create_run(self._experiment, run_name=name, tags=dict(tags))
            identifier = str(run.info.run_id)
            try:
                self.check_ours(run.info.artifact_uri)
                entries = [mlflow.entities.Param(key, str(value)[:_LONGEST]) for key, value in params.items()]
                points = [
                    mlflow.entities.Metric(key, float(value), int(1000 * float(epoch["time"])), int(epoch["epoch"]))
                    for epoch in history
                    for key, value in epoch.items()
                    if key not in ("epoch", "time") and isinstance(value, (int, float))
                ]
                points += [
                    mlflow.entities.Metric(key, float(value), run.info.start_time, 0) for key, value in metrics.items()
                ]
                client.log_batch(identifier, params=entries)
                for start in range(0, len(points), _BATCH):
                    client.log_batch(identifier, metrics=points[start : start + _BATCH])
                dataset = mlflow.entities.Dataset(
                    name=data["name"][:_LONGEST],
                    # The whole digest is the run's tag scfm.data_digest.
                    digest=data["digest"].removeprefix("sha256:")[:_DIGEST],
                    source_type="anndata",
                    source=data["name"],
                )
                client.log_inputs(identifier, [mlflow.entities.DatasetInput(dataset)])
                client.log_dict(identifier, dict(document), file)
            except BaseException:
                client.set_terminated(identifier, "FAILED")
                raise
            client.set_terminated(identifier, "FINISHED")
            return identifier

    def require_run(self, identifier: str) -> str:
        """The id of a run that is there.

        Raises
        ------
        ModelError
            There is none of that id.
        """
        with self._speaking():
            try:
                return str(self.client.get_run(identifier).info.run_id)
            except mlflow_module().MlflowException as error:
                if is_missing(error):
                    message = f"There is no run {identifier!r} in the registry in {self.place.shown}; give the id of one of its runs."
                    raise ModelError(message) from error
                raise

    def tag_run(self, identifier: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        with self._speaking():
            for key, value in tags.items():
                self.client.set_tag(identifier, key, value)

    def drop_run(self, identifier: str) -> None:
        """Delete a run whose version could not be registered."""
        with self._speaking():
            self.client.delete_run(identifier)
