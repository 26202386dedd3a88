"""`make demo`: a registry, a fine-tuning run, the adapter pulled back, three questions to the model before and after.

Uses what a user has: the `kaito` command, one YAML file, a registry. Nothing is left outside its folder (`.demo/`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KAITO = [sys.executable, "-m", "kaito.cli"]
IMAGE_IN_FILE = "localhost:5001/adapters/kaito-demo:0.1.0"
REGISTRY_VARIABLE = "KAITO_DEMO_REGISTRY"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo", help="emptied, then everything goes there")
    parser.add_argument("--no-registry", action="store_true", help="the adapter goes to a folder")
    options = parser.parse_args()
    work = options.folder.resolve()
    started = time.monotonic()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    environment = {**os.environ, "KAITO_HOME": str(work / "home")}
    with registry(work, wanted=not options.no_registry) as address:
        workspace, image = write_workspace(work, address)
        say(f"kaito run -f {shown(workspace)}")
        code = subprocess.run([*KAITO, "run", "-f", str(workspace)], env=environment, check=False).returncode
        if code != 0:
            return code
        adapter = work / "adapter"
        if image:
            say(f"kaito adapter pull {image} --out {shown(adapter)}")
            subprocess.run([*KAITO, "adapter", "pull", image, "--out", str(adapter)], env=environment, check=True)
    say("the same three questions, before and after")
    ask = [sys.executable, str(HERE / "ask.py"), "--adapter", str(adapter), "--questions", str(HERE / "ask.txt")]
    subprocess.run(ask, env=environment, check=True)
    evaluation = json.loads((adapter / "evaluation.json").read_text(encoding="utf-8"))
    print(f"\nHeld-out loss: {evaluation['base_loss']:.3f} before, {evaluation['loss']:.3f} after.")
    print(
        f"Done in {time.monotonic() - started:.0f} s. KAITO_HOME={shown(work / 'home')} kaito describe demo shows more."
    )
    return 0


def write_workspace(work: Path, address: str | None) -> tuple[Path, str]:
    """The example's YAML for this registry, or for a folder where there is none; and the image, if any."""
    text = (HERE / "workspace.yaml").read_text(encoding="utf-8")
    text = text.replace("path: data\n", f"path: {HERE / 'data'}\n")
    if address is None:
        image = ""
        output = f"    image: {IMAGE_IN_FILE}\n    imagePushSecret: demo-registry\n"
        folder = f"    volumeSource:\n      hostPath:\n        path: {work / 'adapter'}\n"
        text = text.replace(output, folder)
    else:
        image = IMAGE_IN_FILE.replace("localhost:5001", address)
        text = text.replace(IMAGE_IN_FILE, image)
    target = work / "workspace.yaml"
    target.write_text(text, encoding="utf-8")
    return target, image


def shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextmanager
def registry(work: Path, *, wanted: bool) -> Iterator[str | None]:
    """The address of a registry: the user's, else one started here, else None (the output is a folder then)."""
    if not wanted:
        say("no registry: the output is a folder")
        yield None
        return
    named = os.environ.get(REGISTRY_VARIABLE)
    if named:
        say(f"registry {named} (from {REGISTRY_VARIABLE})")
        yield named
        return
    found = subprocess.run([str(ROOT / "tools" / "docker-registry")], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        say(f"no registry here ({found.stderr.strip()}): the output is a folder")
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = work / "registry.yaml"
    storage = json.dumps(str(work / "registry"))
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n",
        encoding="utf-8",
    )
    with (work / "registry.log").open("wb") as log:
        process = subprocess.Popen([found.stdout.strip(), "serve", str(config)], stdout=log, stderr=log)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/v2/", process, work)
        say(f"registry localhost:{port} (Debian's docker-registry, until the demo ends)")
        yield f"localhost:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def wait_until_ready(url: str, process: subprocess.Popen[bytes], work: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(url, timeout=2)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"the registry did not start; see {work / 'registry.log'}")


def say(text: str) -> None:
    print(f"\n\033[1m▶ {text}\033[0m" if sys.stdout.isatty() else f"\n> {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
