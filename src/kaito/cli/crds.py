"""`kaito crds`: the CustomResourceDefinitions, for `kubectl apply -f -`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def crds(output: Annotated[Literal["yaml", "json"], typer.Option("--output", "-o")] = "yaml") -> None:
    """Print the CustomResourceDefinitions of the cluster's API.

    Example: kaito crds | kubectl apply -f -
    """
    typer.echo(render(output), nl=False)


def render(output: Literal["yaml", "json"] = "yaml") -> str:
    """All CRDs as one text."""
    import json
    from io import StringIO

    from kaito.api.crd import crds as build_crds

    if output == "json":
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": build_crds()}, indent=2) + "\n"
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt", pure=True)
    yaml.default_flow_style = False
    yaml.width = 4096
    yaml.explicit_start = True
    yaml.representer.ignore_aliases = lambda _: True
    text = StringIO()
    yaml.dump_all(build_crds(), text)
    return text.getvalue()
