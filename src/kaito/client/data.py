"""The training data of a Workspace, checked on this machine before anything is run: what `kaito validate --data` shows.

The data are got as `run` gets them, by the plan's own steps, into a folder that is removed at the end; a folder of this
machine is read where it is. Nothing is written to a run folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaito.api.documents import Document, FieldError
from kaito.api.training import load_training_config
from kaito.api.workspace import Tuning, Workspace
from kaito.client.documents import DocumentSet, with_absolute_paths
from kaito.client.secrets import save_secrets
from kaito.client.steps import OnProgress, run_step
from kaito.contract import Observed, Step
from kaito.datasets.masked import Piece, mark_trained
from kaito.datasets.preflight import survey_data
from kaito.failure import Failure, ModelFailure, TemporaryFailure
from kaito.local.desired import secret_changes
from kaito.local.device import find_device
from kaito.local.home import kaito_home
from kaito.plan import plan
from kaito.plan.steps import CONFIG_FILE

if TYPE_CHECKING:
    from kaito.api.training import TrainingConfig
    from kaito.datasets.render import Rendered, Renderer
    from kaito.datasets.rows import Row
    from kaito.datasets.survey import Survey


@dataclass(frozen=True, slots=True)
class Example:
    """One row as it is trained. It holds the row's text: for a terminal alone."""

    file: str
    line: int
    pieces: tuple[Piece, ...]


@dataclass(slots=True)
class DataCheck:
    """What was found of one Workspace's data. `errors` and `warnings` are of the Workspace's own document.

    `source`: where the data are; `model`: the base model and its commit, "" where it could not be looked at.
    `problems`: what is wrong with the data files as a whole. `survey` is None where no row could be read.
    """

    source: str = ""
    model: str = ""
    errors: list[FieldError] = field(default_factory=list)
    warnings: list[FieldError] = field(default_factory=list)
    problems: list[Failure] = field(default_factory=list)
    survey: Survey | None = None
    example: Example | None = None

    @property
    def is_bad(self) -> bool:
        return bool(self.errors or self.problems or (self.survey is not None and self.survey.bad))


@dataclass(slots=True)
class DataChecker:
    """Checks Workspaces one after the other, in a folder of its own. `secrets`: name -> file, for those not in a set.

    A base model that several Workspaces name is looked at once.
    """

    folder: Path
    allow_hosts: tuple[str, ...] = ()
    secrets: Mapping[str, Path] = field(default_factory=dict)
    on_progress: OnProgress = lambda _step, _done, _total, _unit: None
    models: dict[tuple[str, ...], tuple[Path, str] | Failure] = field(default_factory=dict)

    def check(self, document: Document, documents: DocumentSet) -> DataCheck:
        """Check the data of a valid tuning Workspace. Raises OSError where the folder cannot be written."""
        value = {key: part for key, part in with_absolute_paths(document).items() if key != "status"}
        workspace = Workspace.model_validate(value)
        assert workspace.tuning is not None
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            check = _Check(self, document, workspace.tuning, Path(folder))
            asked = {key: value["tuning"].get(key) or {} for key in ("input", "preset")}
            notices = save_secrets(check.folder, asked, documents, self.secrets)
            check.found.warnings += [check.at(("tuning",), notice) for notice in notices]
            check.run(workspace, documents)
        return check.found

    def find_model(self, resolve: Step, folder: Path) -> tuple[Path, str]:
        """The folder of the base model's tokenizer, and its commit. Raises Failure."""
        needs_secret = any(word.startswith("secrets/") for word in resolve.argv)
        if needs_secret:
            return self._resolve(resolve, folder)
        if resolve.argv not in self.models:
            place = self.folder / f"model-{len(self.models)}"
            place.mkdir()
            try:
                self.models[resolve.argv] = self._resolve(resolve, place)
            except Failure as failure:
                self.models[resolve.argv] = failure
        found = self.models[resolve.argv]
        if isinstance(found, Failure):
            raise found
        return found

    def _resolve(self, resolve: Step, folder: Path) -> tuple[Path, str]:
        facts = run_step(resolve, folder, self.on_progress)
        return folder / "model", str(facts.get("commit", ""))


@contextmanager
def data_checker(
    *, allow_hosts: Sequence[str], secrets: Mapping[str, Path], on_progress: OnProgress
) -> Iterator[DataChecker]:
    """A checker whose folder is removed at the end, whatever ends it but a kill."""
    parent = kaito_home() / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="validate-", dir=parent) as folder:
        yield DataChecker(Path(folder), tuple(allow_hosts), secrets, on_progress)


@dataclass(slots=True)
class _Check:
    checker: DataChecker
    document: Document
    tuning: Tuning
    folder: Path
    found: DataCheck = field(default_factory=DataCheck)

    def at(self, path: tuple[str, ...], message: str) -> FieldError:
        return FieldError(".".join(path), message, self.document.line_of(path))

    def run(self, workspace: Workspace, documents: DocumentSet) -> None:
        volume = self.tuning.input.volume_source if self.tuning.input is not None else None
        if workspace.resource.instance_type and volume and "hostPath" not in volume:
            message = f"data on a {next(iter(volume))} can be looked at on the cluster alone: they are not checked here"
            self.found.warnings.append(self.at(("tuning", "input", "volumeSource"), message))
            return
        observed = Observed(
            configs=documents.configs,
            secrets=secret_changes(self.folder),
            device=None if workspace.resource.instance_type else find_device(),
            allow_hosts=self.checker.allow_hosts,
        )
        planned = plan(workspace, observed)
        if planned.refusal is not None:
            refusal = planned.refusal
            self.found.errors.append(self.at(("tuning",), _with_hint(refusal.message, refusal.hint)))
        job = next((job for job in planned.jobs if job.name == "check"), None)
        if job is None:
            return
        (self.folder / CONFIG_FILE).write_text(job.files[CONFIG_FILE], encoding="utf-8")
        steps = {step.name: step for step in job.steps}
        data = self._get_data(steps["fetch"])
        if data is None:
            return
        model = self._get_model(steps["resolve"])
        self._survey(data, model, load_training_config(self.folder / CONFIG_FILE))

    def _get_data(self, fetch: Step) -> Path | None:
        source = self.tuning.input
        assert source is not None
        if source.volume_source is not None:
            return self._find_folder(source.volume_source)
        path = ("tuning", "input", "urls" if source.urls else "image")
        self.found.source = source.image or f"{len(source.urls or ())} addresses"
        try:
            run_step(fetch, self.folder, self.checker.on_progress)
        except Failure as failure:
            self.found.errors.append(self.at(path, _with_hint(failure.message, failure.hint)))
            return None
        return self.folder / "data"

    def _find_folder(self, volume: Mapping[str, Any]) -> Path | None:
        path = Path(volume["hostPath"]["path"])
        self.found.source = str(path)
        if not path.exists():
            place = ("tuning", "input", "volumeSource", "hostPath", "path")
            message = f"{path} does not exist on this machine; name the folder that holds the data"
            self.found.errors.append(self.at(place, message))
            return None
        return path

    def _get_model(self, resolve: Step) -> Path | None:
        """The folder of the base model's tokenizer; None, with a word of it, where the model cannot be had."""
        place = ("tuning", "preset", "name")
        name = self.tuning.preset.name if self.tuning.preset is not None else ""
        try:
            model, commit = self.checker.find_model(resolve, self.folder)
        except TemporaryFailure as failure:
            message = f"{_with_hint(failure.message, failure.hint)}; rows are checked without it, not counted in tokens"
            self.found.warnings.append(self.at(place, message))
            return None
        except Failure as failure:
            self.found.errors.append(self.at(place, _with_hint(failure.message, failure.hint)))
            return None
        self.found.model = f"{name} at {commit}"
        return model

    def _survey(self, data: Path, model: Path | None, config: TrainingConfig) -> None:
        """The rows as the model reads them; without it, where its tokenizer is missing or broken."""
        from kaito.datasets.report import find_failures

        try:
            self.found.survey = survey_data(
                data,
                model,
                config,
                on_progress=lambda done, total: self.checker.on_progress("check", done, total, "rows"),
                on_rendered=self._keep_first,
            )
        except ModelFailure as failure:
            place = ("tuning", "preset", "name")
            self.found.errors.append(self.at(place, _with_hint(failure.message, failure.hint)))
            self._survey(data, None, config)
            return
        except Failure as failure:
            self.found.problems.append(failure)
            return
        self.found.problems += find_failures(self.found.survey)

    def _keep_first(self, row: Row, rendered: Rendered, renderer: Renderer) -> None:
        if self.found.example is None and rendered.input_ids:
            pieces = tuple(mark_trained(rendered, renderer.tokens.tokenizer))
            self.found.example = Example(row.file, row.line, pieces)


def _with_hint(message: str, hint: str) -> str:
    return f"{message} ({hint})" if hint else message
