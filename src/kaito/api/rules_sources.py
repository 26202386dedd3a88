"""Rules about where data, weights and adapters come from and go to: presets, sources, destinations, volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaito.api.findings import Findings, KnownModel, ValidationContext
from kaito.api.paths import Path
from kaito.api.references import image_problem, subdomain_problem, url_problem
from kaito.api.schema import nearest, show
from kaito.api.workspace import V1ALPHA1, DataDestination, DataSource, Preset

# Of core/v1 VolumeSource: the kind, and what it cannot be without.
VOLUME_KINDS: Mapping[str, tuple[str, ...]] = {
    "hostPath": ("path",),
    "persistentVolumeClaim": ("claimName",),
    "nfs": ("server", "path"),
    "csi": ("driver",),
    "emptyDir": (),
    "configMap": ("name",),
    "secret": ("secretName",),
    "ephemeral": ("volumeClaimTemplate",),
    "projected": ("sources",),
    "downwardAPI": (),
    "image": ("reference",),
    "azureFile": ("secretName", "shareName"),
    "azureDisk": ("diskName", "diskURI"),
    "awsElasticBlockStore": ("volumeID",),
    "gcePersistentDisk": ("pdName",),
    "iscsi": ("targetPortal", "iqn", "lun"),
    "fc": (),
    "cephfs": ("monitors",),
    "rbd": ("monitors", "image"),
    "glusterfs": ("endpoints", "path"),
    "cinder": ("volumeID",),
    "flexVolume": ("driver",),
    "flocker": (),
    "gitRepo": ("repository",),
    "photonPersistentDisk": ("pdID",),
    "portworxVolume": ("volumeID",),
    "quobyte": ("registry", "volume"),
    "scaleIO": ("gateway", "system", "secretRef"),
    "storageos": (),
    "vsphereVolume": ("volumePath",),
}


_IMAGE = "oci://"


def check_preset(
    preset: Preset, at: Path, api_version: str, findings: Findings, context: ValidationContext
) -> KnownModel | None:
    """I3 and T16: the name stands for a base model. v1alpha1: private weights need an image."""
    path = (*at, "name")
    model: KnownModel | None = None
    options = preset.preset_options
    is_private = preset.access_mode == "private" and options is not None and bool(options.image)
    if not preset.name.strip():
        findings.error(path, "missing; name a base model, such as phi-3-mini-128k-instruct or ORG/NAME")
    elif preset.name.startswith(_IMAGE):
        findings.check(path, preset.name, image_problem(preset.name.removeprefix(_IMAGE)))
    elif is_private:
        pass  # the image has the weights, whatever it is called
    elif context.find_preset is not None:
        model = context.find_preset(preset.name)
        if model is None:
            near = list(context.nearest_presets(preset.name)) if context.nearest_presets is not None else []
            hint = f"did you mean {' or '.join(near)}?" if near else "`kaito models` lists the known ones."
            message = f"no base model is called {show(preset.name)}; {hint} Any Hugging Face id (ORG/NAME) will do too"
            findings.check(path, preset.name, message)
    if api_version == V1ALPHA1 and preset.access_mode == "private" and not (options and options.image):
        findings.error((*at, "presetOptions", "image"), "missing; with accessMode private the weights are in an image")
    if options is not None:
        if options.image:
            image = options.image.removeprefix(_IMAGE)
            findings.check((*at, "presetOptions", "image"), image, image_problem(image))
        _check_secrets(options.image_pull_secrets, (*at, "presetOptions", "imagePullSecrets"), findings, context)
        if options.model_access_secret is not None:
            check_secret(options.model_access_secret, (*at, "presetOptions", "modelAccessSecret"), findings, context)
    return model


def check_source(source: DataSource, at: Path, findings: Findings, context: ValidationContext) -> None:
    """T6 to T11."""
    given = [
        name
        for name, value in (("urls", source.urls), ("image", source.image), ("volumeSource", source.volume_source))
        if value
    ]
    if len(given) != 1:
        what = f"{' and '.join(given)} are given" if given else "none is given"
        findings.error(at, f"exactly one of urls, image and volumeSource must be given; {what}")
    for position, url in enumerate(source.urls or []):
        findings.check((*at, "urls", position), url, url_problem(url, context.allow_hosts))
    if source.image:
        findings.check((*at, "image"), source.image, image_problem(source.image))
    if source.volume_source is not None:
        check_volume(source.volume_source, (*at, "volumeSource"), findings)
    _check_secrets(source.image_pull_secrets, (*at, "imagePullSecrets"), findings, context)


def check_destination(output: DataDestination, at: Path, findings: Findings, context: ValidationContext) -> None:
    """T13 and T14."""
    given = [name for name, value in (("image", output.image), ("volumeSource", output.volume_source)) if value]
    if len(given) != 1:
        what = "both are given" if given else "none is given"
        findings.error(at, f"exactly one of image and volumeSource must be given; {what}")
    if output.image:
        findings.check((*at, "image"), output.image, image_problem(output.image))
        if not output.image_push_secret:
            message = "missing; name the Secret with the credentials of the image's registry"
            findings.error((*at, "imagePushSecret"), message)
    if output.volume_source is not None:
        check_volume(output.volume_source, (*at, "volumeSource"), findings)
    if output.image_push_secret:
        check_secret(output.image_push_secret, (*at, "imagePushSecret"), findings, context)


def check_volume(volume: Mapping[str, Any], at: Path, findings: Findings) -> None:
    """Exactly one kind of volume, with what that kind cannot be without."""
    for kind in volume:
        if kind not in VOLUME_KINDS:
            near = nearest(kind, VOLUME_KINDS)
            hint = f'; did you mean "{near}"?' if near else "; kinds are hostPath, persistentVolumeClaim, nfs, csi…"
            findings.error((*at, kind), f"no kind of Kubernetes volume{hint}")
    known = [kind for kind in volume if kind in VOLUME_KINDS]
    if len(known) > 1:
        findings.error(at, f"exactly one kind of volume must be given; {' and '.join(known)} are")
    for kind in known:
        source = volume[kind] if volume[kind] is not None else {}
        if not isinstance(source, Mapping):
            findings.error((*at, kind), f"expected a mapping, got {show(source)}")
            continue
        for key in VOLUME_KINDS[kind]:
            if source.get(key) in (None, ""):
                findings.error((*at, kind, key), "missing; it must be given")
    _check_volume_names(volume, at, findings)


def _check_volume_names(volume: Mapping[str, Any], at: Path, findings: Findings) -> None:
    for kind, key in (("persistentVolumeClaim", "claimName"), ("hostPath", "path")):
        source = volume.get(kind)
        value = source.get(key) if isinstance(source, Mapping) else None
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            findings.error((*at, kind, key), f"expected a string, got {show(value)}")
        elif kind == "persistentVolumeClaim":
            findings.check((*at, kind, key), value, subdomain_problem(value))


def check_secret(name: str, path: Path, findings: Findings, context: ValidationContext) -> None:
    """A Secret's name; that it exists, where it is known which do."""
    problem = subdomain_problem(name)
    if findings.check(path, name, problem) and context.secrets is not None and name not in context.secrets:
        findings.error(path, f"there is no Secret {show(name)}")


def _check_secrets(names: list[str] | None, at: Path, findings: Findings, context: ValidationContext) -> None:
    for position, name in enumerate(names or []):
        check_secret(name, (*at, position), findings, context)
