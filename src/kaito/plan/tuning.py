"""A tuning Workspace as three Jobs: `check` on any CPU, `tune` on the GPU, `push` where the run folder is.

Planned twice: before `check` with what the catalog knows, and after it with what was found (model facts, rows, token
lengths). Only the second plan is trained; what cannot fit is refused then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kaito.api.training import TrainingConfig, dump_training_config, parse_training_config
from kaito.api.workspace import Workspace
from kaito.catalog import (
    Model,
    Sku,
    estimate_tuning_memory,
    find_sku,
    linear_names,
    nearest_models,
    smallest_sku,
)
from kaito.contract import Estimate, Job, Nodes, Observed, Plan, Refusal
from kaito.plan.bases import IMAGE, base_model, pull_secrets
from kaito.plan.destinations import destination_of
from kaito.plan.inputs import hash_inputs
from kaito.plan.lengths import checked_length, choose_length, cut_rows, row_length
from kaito.plan.refusals import idle_patience, refuse_settings, refuse_tuning, unknown_modules
from kaito.plan.settings import Basis, Chosen, choose, choose_batch, inline_chat_template, said, unseen_rows
from kaito.plan.steps import (
    CONFIG_FILE,
    PlannedModel,
    build_claim,
    build_fetch,
    build_model,
    build_preflight,
    build_push,
    build_resolve,
    build_tune,
    node_labels,
    token_secret,
)

CONFIG_KEY = "training_config.yaml"
SERVE_AFTER = "kaito.sh/serve-after-tuning"
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Base:
    """The base model as a plan needs it: the preset's name, where the weights are, and what is known of it."""

    preset: str
    source: PlannedModel
    model: Model


def plan_tuning(workspace: Workspace, observed: Observed) -> Plan:
    """The Plan of a tuning Workspace. Valid input is assumed: `kaito.api.validation` comes first."""
    tuning = workspace.tuning
    assert tuning is not None
    empty = Plan(workspace.namespace, workspace.name, hash_inputs(workspace, observed), ())
    source, config, refusal = _user_config(tuning.config, observed.configs)
    refusal = refusal or refuse_tuning(tuning, observed)
    if refusal is not None:
        return replace(empty, refusal=refusal)
    inline = tuning.parameters
    base = _base(workspace, config, inline, observed)
    if isinstance(base, Refusal):
        return replace(empty, refusal=base)
    method = tuning.method.lower()
    sku = find_sku(workspace.resource.instance_type or "")
    basis = _basis(method, base, observed, sku)
    chosen = choose(basis, said((source, config), ("tuning.parameters", inline)))
    missing = inline_chat_template(chosen, observed.configs.get(tuning.config or "", {}))
    if missing:
        message = f"ModelConfig.chat_template: no key {missing!r} in the ConfigMap that tuning.config names"
        hint = f"Add the template's text under the key {missing!r}, or write it inline."
        return replace(empty, refusal=Refusal("ConfigInvalid", message, hint))
    available = _available_bytes(observed, sku)
    choose_length(chosen, basis, lambda length: _estimate_on(chosen, basis, base, length, available))
    length = row_length(chosen, basis)
    allowed = _estimate_on(chosen, basis, base, length, available).micro_batch
    choose_batch(chosen, basis, allowed)
    micro_batch = chosen.get("TrainingArguments", "per_device_train_batch_size")
    if 0 < allowed < micro_batch:
        chosen.warnings.append(f"a micro-batch of {micro_batch} may not fit: the estimate allows {allowed}")
    estimate = _estimate_on(chosen, basis, base, length, available, max_micro_batch=micro_batch)
    final = observed.model is not None and observed.data is not None
    linears = _linears(base)
    planned = replace(
        empty,
        jobs=_jobs(workspace, base, chosen, basis=basis, estimate=estimate, observed=observed),
        nodes=_nodes(workspace, observed),
        settings=chosen.flat(),
        estimate=estimate,
        warnings=(
            *chosen.warnings,
            *cut_rows(chosen, basis, observed.data),
            *unseen_rows(chosen, basis),
            *idle_patience(tuning, chosen, basis),
            *_not_adapted(chosen, linears),
            *_not_served(workspace),
        ),
        refusal=refuse_settings(tuning, chosen, basis, linears),
    )
    if final and not estimate.rough and estimate.micro_batch == 0:
        return replace(planned, refusal=_does_not_fit(chosen, base, estimate, basis, sku))
    return planned


def _not_served(workspace: Workspace) -> tuple[str, ...]:
    if workspace.annotations.get(SERVE_AFTER) != "true":
        return ()
    return (f"{SERVE_AFTER}: the adapter is pushed and not served: this version does not serve yet",)


# --- what is known --------------------------------------------------------------------------------------------------


def _user_config(
    name: str | None, configs: Mapping[str, Mapping[str, str]]
) -> tuple[str, TrainingConfig | None, Refusal | None]:
    if not name:
        return "", None, None
    source = f"ConfigMap {name}"
    if name not in configs:
        hint = f"Give the ConfigMap in the same set of files, with the key {CONFIG_KEY}."
        return source, None, Refusal("ConfigMapNotFound", f"{source} is not at hand.", hint)
    text = configs[name].get(CONFIG_KEY)
    if text is None:
        return source, None, Refusal("ConfigInvalid", f"{source} has no key {CONFIG_KEY}.", "Add it.")
    parsed = parse_training_config(text)
    if parsed.config is None:
        first = parsed.errors[0]
        message = f"{source}, line {first.line}: {first.field}: {first.message}"
        return source, None, Refusal("ConfigInvalid", message, "kaito validate shows every problem.")
    return source, parsed.config, None


def _base(
    workspace: Workspace, config: TrainingConfig | None, inline: TrainingConfig | None, observed: Observed
) -> Base | Refusal:
    assert workspace.tuning is not None
    preset = workspace.tuning.preset.name if workspace.tuning.preset else ""
    model = base_model(workspace.tuning.preset)
    if model is None:
        near = ", ".join(nearest_models(preset))
        hint = f"Did you mean {near}? " if near else ""
        hint += "kaito models lists the known ones; any Hugging Face id (org/name) or folder can be used too."
        return Refusal("ModelNotFound", f"no base model is called {preset!r}", hint)
    if not model.tunable:
        message = f"{preset} is published with {model.quantization} weights, on which no adapter can be trained here"
        return Refusal("ModelNotTunable", message, "Choose its unquantised release; kaito models shows which are.")
    asked = next((c.model.revision for c in (inline, config) if c is not None and c.model.revision), "")
    facts = observed.model
    if facts is None:
        return Base(preset, PlannedModel(model.repo, "", asked, found=False), model)
    found = replace(
        model,
        parameters=facts.parameters or model.parameters,
        bytes=facts.bytes or model.bytes,
        layers=facts.layers or model.layers,
        hidden=facts.hidden or model.hidden,
        intermediate=facts.intermediate or model.intermediate,
        vocab=facts.vocab or model.vocab,
        context=facts.context or model.context,
        kv_bytes_per_token=facts.kv_bytes_per_token or model.kv_bytes_per_token,
        architecture=facts.architecture or model.architecture,
    )
    return Base(preset, PlannedModel(model.repo, facts.commit, asked, found=True), found)


def _not_adapted(chosen: Chosen, linears: frozenset[str]) -> tuple[str, ...]:
    unknown = unknown_modules(chosen, linears)
    return (f"LoraConfig.target_modules: the base model has no {', '.join(unknown)}",) if unknown else ()


def _linears(base: Base) -> frozenset[str]:
    """The names of the base model's linear layers, where certain. An image may hold anything until resolved."""
    certain = base.source.found or (base.model.known and not base.source.repo.startswith(IMAGE))
    return linear_names(base.model.architecture) if certain else frozenset()


def _basis(method: str, base: Base, observed: Observed, sku: Sku | None) -> Basis:
    common = Basis(method, base.model.parameters or 0, base.model.context or 0)
    if observed.data is not None:
        data = observed.data
        common = replace(common, rows=data.rows_trained, tokens_p99=data.tokens_p99, tokens_max=data.tokens_max)
    if observed.device is not None:
        device = observed.device
        gpus = device.count if device.kind == "cuda" else 1
        return replace(common, device=device.kind, gpus=gpus, compute_capability=device.compute_capability)
    if sku is not None:
        return replace(common, gpus=sku.gpus, compute_capability=sku.compute_capability)
    return common


def _available_bytes(observed: Observed, sku: Sku | None) -> int:
    """Memory of one GPU, or of the machine; 80 GiB (an A100) stands in where the cluster's nodes are not known."""
    if observed.device is not None:
        return observed.device.memory_bytes
    return sku.gpu_memory_bytes if sku is not None else 80 * GIB


def _estimate_on(
    chosen: Chosen, basis: Basis, base: Base, length: int, available_bytes: int, *, max_micro_batch: int = 64
) -> Estimate:
    quantization = "QuantizationConfig"
    bits = 4 if chosen.get(quantization, "load_in_4bit") else 8 if chosen.get(quantization, "load_in_8bit") else None
    return estimate_tuning_memory(
        base.model,
        rank=chosen.get("LoraConfig", "r"),
        sequence_length=length,
        available_bytes=available_bytes,
        quantization_bits=bits,
        double_quantization=bool(chosen.get(quantization, "bnb_4bit_use_double_quant")),
        target_modules=chosen.get("LoraConfig", "target_modules"),
        lora_dropout=chosen.get("LoraConfig", "lora_dropout"),
        dtype=chosen.get("ModelConfig", "torch_dtype"),
        gradient_checkpointing=bool(chosen.get("TrainingArguments", "gradient_checkpointing")),
        optimizer=chosen.get("TrainingArguments", "optim") or "adamw_torch",
        max_micro_batch=max_micro_batch,
        device="cpu" if basis.device == "cpu" else "cuda",
    )


def _does_not_fit(chosen: Chosen, base: Base, estimate: Estimate, basis: Basis, sku: Sku | None) -> Refusal:
    """What was missing, the settings that would do, and the smallest SKU."""
    length = row_length(chosen, basis)
    message = (
        f"{base.preset} with these settings needs about {estimate.total_bytes / GIB:.1f} GiB for one row of {length} "
        f"tokens; there are {estimate.available_bytes / GIB:.1f} GiB."
    )
    hints: list[str] = []
    if basis.method == "lora":
        hints.append("method qlora holds the base model in a quarter of the memory")
    if not chosen.get("TrainingArguments", "gradient_checkpointing"):
        hints.append("set TrainingArguments.gradient_checkpointing: true")
    if length > 512:
        hints.append("lower TrainingArguments.max_length")
    cloud = sku.cloud if sku is not None else "azure"
    cuda = replace(basis, device="cuda")
    larger = smallest_sku(lambda memory: _estimate_on(chosen, cuda, base, length, memory), cloud)
    if larger is not None:
        hints.append(f"the smallest instanceType that fits is {larger.name}")
    return Refusal("DoesNotFit", message, "; ".join(hints))


def _nodes(workspace: Workspace, observed: Observed) -> Nodes | None:
    """The cluster's nodes; none for a run on this machine."""
    if observed.device is not None:
        return None
    instance_type = workspace.resource.instance_type or ""
    return Nodes(1, instance_type, node_labels(workspace), "nodeclaim" if instance_type else "existing")


# --- the jobs -------------------------------------------------------------------------------------------------------


def _jobs(
    workspace: Workspace, base: Base, chosen: Chosen, *, basis: Basis, estimate: Estimate, observed: Observed
) -> tuple[Job, ...]:
    tuning = workspace.tuning
    assert tuning is not None and tuning.input is not None and tuning.output is not None
    destination = destination_of(tuning.output)
    config = chosen.config()
    files = {CONFIG_FILE: dump_training_config(config)}
    rendering = config.training.model_copy(update={"max_length": checked_length(chosen, basis)})
    checked_files = {CONFIG_FILE: dump_training_config(config.model_copy(update={"training": rendering}))}
    secrets = _secrets(workspace)
    fetch = build_fetch(workspace, tuning.input, observed)
    tune = build_tune(workspace, base.source, chosen, basis=basis, destination=destination, observed=observed)
    jobs = [
        Job(
            "check",
            "light",
            (
                build_resolve(workspace, tuning.preset, base.source, observed),
                replace(fetch, argv=_without_expectation(fetch.argv)),
                build_preflight(workspace, chosen, observed),
                build_claim(workspace, destination, observed),
            ),
            checked_files,
            secrets=secrets,
        ),
        Job(
            "tune",
            "tuning",
            (fetch, build_model(workspace, tuning.preset, base.source, observed), tune),
            files,
            memory_bytes=estimate.total_bytes,
            gpus=0 if basis.device == "cpu" else basis.gpus,
            secrets=secrets,
        ),
    ]
    if destination.image is not None:
        push = build_push(workspace, base.preset, destination, observed)
        jobs.append(Job("push", "light", (push,), secrets=secrets))
    return tuple(jobs)


def _without_expectation(argv: tuple[str, ...]) -> tuple[str, ...]:
    """`check` finds out what the data is; only `tune` holds it against that."""
    if "--expect-digest" not in argv:
        return argv
    at = argv.index("--expect-digest")
    return argv[:at] + argv[at + 2 :]


def _secrets(workspace: Workspace) -> tuple[str, ...]:
    tuning = workspace.tuning
    assert tuning is not None
    names = [*(tuning.input.image_pull_secrets or [] if tuning.input is not None else [])]
    if tuning.output is not None and tuning.output.image_push_secret:
        names.append(tuning.output.image_push_secret)
    token = token_secret(tuning.preset)
    base = base_model(tuning.preset)
    images = pull_secrets(tuning.preset, base.repo if base is not None else "")
    return tuple(dict.fromkeys([*names, *images, *([token] if token else [])]))
