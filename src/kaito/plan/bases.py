"""Which base model a preset means: the catalog's, any of the hub, a folder, or one in an image."""

from __future__ import annotations

from dataclasses import replace

from kaito.api.workspace import Preset
from kaito.catalog import Model, find_model

IMAGE = "oci://"


def private_image(preset: Preset | None) -> str:
    """The image with the weights: with access mode private it replaces where the name would point. "" where none is."""
    options = preset.preset_options if preset is not None else None
    if preset is None or preset.access_mode != "private" or options is None or not options.image:
        return ""
    return options.image.removeprefix(IMAGE)


def base_model(preset: Preset | None) -> Model | None:
    """The base model, None where the name stands for nothing. With private weights any name will do."""
    if preset is None:
        return None
    model = find_model(preset.name)
    image = private_image(preset)
    if not image:
        return model
    # What the catalog knows of the name is a first guess: the image's own files decide once it is resolved.
    guess = model or Model(name=preset.name.lower(), repo="", known=False)
    return replace(guess, repo=f"{IMAGE}{image}", commit="", quantization="", tunable=True)


def pull_secrets(preset: Preset | None, repo: str) -> tuple[str, ...]:
    """The Secrets with the credentials of the registry that the model comes from."""
    options = preset.preset_options if preset is not None else None
    if options is None or not repo.startswith(IMAGE):
        return ()
    return tuple(options.image_pull_secrets or ())
