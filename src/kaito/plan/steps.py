"""The steps of the Jobs: each one program with its argv, and the identity that decides when it need not run again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kaito.api.effects import deciding
from kaito.api.workspace import DataSource, Preset, Workspace
from kaito.contract import Observed, Step, digest_of
from kaito.plan.bases import IMAGE, pull_secrets
from kaito.plan.destinations import Destination, host_folder
from kaito.plan.inputs import hash_inputs, rerun_of
from kaito.plan.settings import Basis, Chosen, rows_per_step

CONFIG_FILE = "training_config.resolved.yaml"
HOUR = 3600.0

# How rows become tokens and labels, beside their columns, the template and the length.
_RENDERING = {
    "assistant_only_loss",
    "chat_template_path",
    "completion_only_loss",
    "dataset_text_field",
    "eos_token",
    "long_rows",
    "train_on_last_turn_only",
}


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A base model as the programs take it. `commit` is known once `found`; `asked` is what the user asked for."""

    repo: str
    commit: str
    asked: str
    found: bool

    @property
    def revision(self) -> str:
        return self.commit if self.found else self.asked


def build_resolve(workspace: Workspace, preset: Preset | None, base: PlannedModel, observed: Observed) -> Step:
    rights = _rights(preset, base.repo, observed)
    argv = _module("hub.resolve", "--repo", base.repo, *_revision(base.asked), "--out", "model", *rights)
    identity = digest_of(_model_identity(workspace, base, observed))
    # An image whose files are in layers is pulled whole to look into it.
    limit = 24 * HOUR if base.repo.startswith(IMAGE) else HOUR
    return Step("resolve", argv, timeout_seconds=limit, identity=identity, outputs=("model",))


def build_model(workspace: Workspace, preset: Preset | None, base: PlannedModel, observed: Observed) -> Step:
    rights = _rights(preset, base.repo, observed)
    argv = _module("hub.pull", "--repo", base.repo, *_revision(base.revision), "--out", "model", *rights)
    identity = digest_of({"model": _model_identity(workspace, base, observed)})
    record = ("model/.pulled.json",)  # written last; the folder itself is `resolve`'s
    return Step("model", argv, timeout_seconds=24 * HOUR, identity=identity, after=("resolve",), outputs=record)


def _rights(preset: Preset | None, repo: str, observed: Observed) -> tuple[str, ...]:
    """An image's credentials, else the Secret's token."""
    if repo.startswith(IMAGE):
        return _repeat("--credentials", [f"secrets/{name}" for name in pull_secrets(preset, repo)])
    return _token(preset, observed)


def _token(preset: Preset | None, observed: Observed) -> tuple[str, ...]:
    """Of the hub; where the Secret is not at hand, the environment's HF_TOKEN counts."""
    name = token_secret(preset)
    return ("--token-file", f"secrets/{name}/HF_TOKEN") if name in observed.secrets else ()


def token_secret(preset: Preset | None) -> str | None:
    options = preset.preset_options if preset is not None else None
    return options.model_access_secret if options is not None else None


def node_labels(workspace: Workspace) -> Mapping[str, str]:
    """The labels by which nodes are selected; an `In` expression of one value counts as a label."""
    selector = workspace.resource.label_selector
    if selector is None:
        return {}
    expressions = {e.key: e.values[0] for e in selector.match_expressions or [] if e.values}
    return {**(selector.match_labels or {}), **expressions}


def _model_identity(workspace: Workspace, base: PlannedModel, observed: Observed) -> dict[str, str]:
    """Of `resolve`, which owns the folder `model`, and so of `model`, which writes the weights into it."""
    return {"repo": base.repo, "asked": base.asked, **_anew(workspace, observed, base.repo)}


def _anew(workspace: Workspace, observed: Observed, source: str = "") -> dict[str, str]:
    """What makes a step of `check` look again though nothing that was typed has changed."""
    asked = observed.asked
    return {
        "rerun": rerun_of(workspace, observed),
        "recheck": asked.recheck,
        "source": asked.sources.get(source, ""),
    }


def build_fetch(workspace: Workspace, source: DataSource, observed: Observed) -> Step:
    """The data, from wherever it lies. After `check` its digest is known, and other data is refused.

    An address on the hub gets the token that the model's Secret has: it is sent to the hub's host alone.
    """
    where: dict[str, Any]
    argv: tuple[str, ...]
    if source.urls:
        where = {"urls": list(source.urls)}
        token = _token(workspace.tuning.preset, observed) if workspace.tuning is not None else ()
        argv = (*_repeat("--url", source.urls), *_repeat("--allow-host", observed.allow_hosts), *token)
    elif source.image:
        where = {"image": source.image}
        secrets = [f"secrets/{name}" for name in source.image_pull_secrets or []]
        argv = ("--image", source.image, *_repeat("--credentials", secrets))
    else:
        folder = host_folder(source.volume_source, "/mnt/data")
        where = {"folder": folder}
        argv = ("--folder", folder)
    expected = ("--expect-digest", observed.data.digest) if observed.data is not None else ()
    return Step(
        "fetch",
        _module("datasets.fetch", *argv, "--out", "data", *expected),
        timeout_seconds=12 * HOUR,
        identity=digest_of({**where, **_anew(workspace, observed, where.get("folder", ""))}),
        outputs=("data",),
    )


def build_preflight(workspace: Workspace, chosen: Chosen, observed: Observed) -> Step:
    """Its identity is what it reads of the settings: how rows are found, rendered and cut."""
    dataset = {
        key: setting.value
        for key, setting in chosen.sections().get("DatasetConfig", {}).items()
        if key.startswith("dataset_") or "column" in key or key in _RENDERING
    }
    arguments = chosen.sections().get("TrainingArguments", {})
    identity = digest_of(
        {
            "dataset": dataset,
            "template": chosen.get("ModelConfig", "chat_template"),
            "length": chosen.asked_length,
            "truncation": chosen.get("TrainingArguments", "truncation_mode"),
            "rendering": {key: setting.value for key, setting in arguments.items() if key in _RENDERING},
            **_anew(workspace, observed),
        }
    )
    argv = _module("datasets.preflight", "--data", "data", "--model", "model", "--config", CONFIG_FILE)
    return Step("preflight", argv, timeout_seconds=4 * HOUR, identity=identity, after=("resolve", "fetch"))


def build_claim(workspace: Workspace, destination: Destination, observed: Observed) -> Step:
    """Whether the adapter can go where it shall, asked before anything is trained: anew in each run."""
    anew = {"inputs": hash_inputs(workspace, observed), **_anew(workspace, observed)}
    if destination.image is not None:
        argv = _module("oci.login", "--image", destination.image, *destination.credentials_argv)
        asked = {"image": destination.image, "secret": observed.secrets.get(destination.secret), **anew}
        return Step("login", argv, timeout_seconds=300, stall_seconds=300, identity=digest_of(asked))
    argv = _module("tuning.output", "--results", destination.folder, "--owner", _owner(workspace))
    asked = {"folder": destination.folder, **anew}
    return Step("output", argv, timeout_seconds=300, stall_seconds=300, identity=digest_of(asked))


def build_tune(
    workspace: Workspace,
    base: PlannedModel,
    chosen: Chosen,
    *,
    basis: Basis,
    destination: Destination,
    observed: Observed,
) -> Step:
    argv = _module(
        "tuning", "--config", CONFIG_FILE, "--data", "data", "--model", "model", "--checkpoints", "checkpoints",
        "--results", destination.results, "--metrics", "metrics.jsonl", "--repo", base.repo,
        *_revision(base.revision), *(("--data-digest", observed.data.digest) if observed.data is not None else ()),
        "--owner", _owner(workspace), *_evaluation(workspace),
    )  # fmt: skip
    own = ("results",) if destination.image is not None else ()
    return Step(
        "tune",
        argv,
        timeout_seconds=7 * 24 * HOUR,
        stall_seconds=1800.0,
        identity=digest_of({**_training(chosen, basis), **_finish(workspace, destination, observed)}),
        verdict=" ".join(_evaluation(workspace)),
        after=("resolve", "fetch"),
        outputs=("checkpoints", "metrics.jsonl", *own),
        out_of_memory_argv=("--micro-batch-divisor", "2"),
    )


def build_push(workspace: Workspace, preset: str, destination: Destination, observed: Observed) -> Step:
    assert destination.image is not None
    argv = _module(
        "oci.push", "--results", "results", "--image", destination.image, *destination.credentials_argv,
        "--preset", preset,
    )  # fmt: skip
    identity = digest_of({"image": destination.image, "preset": preset, "rerun": rerun_of(workspace, observed)})
    return Step("push", argv, timeout_seconds=4 * HOUR, identity=identity, after=("tune",))


def _training(chosen: Chosen, basis: Basis) -> dict[str, Any]:
    """The settings that decide the adapter."""
    settings = {
        name: {key: setting.value for key, setting in keys.items()}
        for name, keys in deciding(chosen.sections()).items()
    }
    return {"settings": settings, "rows_per_step": rows_per_step(chosen, basis)}


def _finish(workspace: Workspace, destination: Destination, observed: Observed) -> dict[str, Any]:
    """What else decides how a training ends."""
    return {
        "folder": None if destination.image is not None else destination.folder,
        "rerun": rerun_of(workspace, observed),
    }


def _evaluation(workspace: Workspace) -> tuple[str, ...]:
    """What the held-out loss decides, as the trainer's flags."""
    evaluation = workspace.tuning.evaluation if workspace.tuning is not None else None
    if evaluation is None:
        return ()
    flags = {
        "--min-improvement": evaluation.min_improvement,
        "--early-stopping-patience": evaluation.early_stopping_patience,
    }
    return tuple(word for flag, value in flags.items() if value is not None for word in (flag, str(value)))


def _owner(workspace: Workspace) -> str:
    return f"{workspace.namespace}.{workspace.name}"


def _revision(revision: str) -> tuple[str, ...]:
    return ("--revision", revision) if revision else ()


def _repeat(flag: str, values: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for value in values for word in (flag, value))


def _module(name: str, *argv: str) -> tuple[str, ...]:
    return ("python", "-m", f"kaito.{name}", *argv)
