"""MLflow: the optional package `mlflow`, imported where it is chosen alone."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from editcaption_mega.settings import MlflowSettings

from .logger import Logger
from .run_ids import RunIds

FOLDER = "mlflow"  # of the run folder, where no server is named
_AT_ONCE = 100  # params in one request: the server's limit


class MlflowLogger(Logger):
    """One run of MLflow for all starts of a run folder, under an id that the folder keeps.

    MLflow keeps every value of a step: those up to `known`, which an earlier start logged, are not sent again."""

    name = "MLflow"

    def __init__(self, settings: MlflowSettings, output: Path, ids: RunIds, known: int):
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric, self._param, self._known = Metric, Param, known
        own, folder = "", output.absolute() / FOLDER
        uri = settings.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri:
            folder.mkdir(exist_ok=True)
            uri, own = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        run_id = ids.get("mlflow")
        if run_id is None:
            experiment = self._client.get_experiment_by_name(settings.experiment)
            number = (
                self._client.create_experiment(settings.experiment, artifact_location=own or None)
                if experiment is None
                else experiment.experiment_id
            )
            run = self._client.create_run(number, run_name=settings.name or output.absolute().name)
            run_id = run.info.run_id
            ids.keep("mlflow", run_id)
        else:
            self._client.update_run(run_id, status="RUNNING")
        self._id = run_id

    def settings(self, values: Mapping[str, Any]) -> None:
        # A param is for ever: a later start's other value is a tag beside it.
        words = {name: str(value)[:500] for name, value in values.items()}
        before = self._client.get_run(self._id).data.params
        new = [self._param(name, value) for name, value in words.items() if name not in before]
        for first in range(0, len(new), _AT_ONCE):
            self._client.log_batch(self._id, params=new[first : first + _AT_ONCE])
        for name, value in words.items():
            if before.get(name, value) != value:
                self._client.set_tag(self._id, f"changed.{name}", value)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if step > self._known:
            now = round(1000 * time.time())
            self._client.log_batch(self._id, [self._metric(name, value, now, step) for name, value in values.items()])

    def text(self, step: int, name: str, words: str) -> None:
        self._client.log_text(self._id, words, f"{name}/step_{step:08d}.txt")

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._client.log_image(self._id, pixels, f"{name}/step_{step:08d}.png")

    def close(self, failed: bool = False) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
