"""`GET /progress`, `/metrics` and `/health` of a running job, from a thread that only reads the run folder.

Nothing here can end or slow the run: no shared state, no lock, and an error is one answer's.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from kaito.contract import Progress, to_json
from kaito.failure import Failure
from kaito.runner.files import PORT_FILE, replace_text
from kaito.runner.progress import read_progress

_STATES = ("pending", "running", "waiting", "done", "failed")


def serve(folder: Path, address: str) -> int:
    """Serve in a daemon thread on `HOST:PORT` and return the port, also written to `runner.port`.

    Raises ValueError for a bad address, OSError for one that cannot be had.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError(f"{address!r} is not HOST:PORT")
    host = host.strip("[]") or "0.0.0.0"  # noqa: S104  ":5001" means every interface
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, int(port)), family=family)
    bound = int(listener.getsockname()[1])
    config = uvicorn.Config(
        build_app(folder),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=5,
        limit_concurrency=32,
    )
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="progress", daemon=True).start()
    replace_text(folder / PORT_FILE, f"{bound}\n")
    return bound


def build_app(folder: Path) -> Starlette:
    # The endpoints are async and read files all the same: the reads are short, and so all of this is one thread.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ProgressCollector(folder))

    async def progress(_request: Request) -> Response:
        try:
            return JSONResponse(to_json(read_progress(folder)))
        except (Failure, OSError) as error:
            return JSONResponse({"error": str(error)}, status_code=503)

    async def metrics(_request: Request) -> Response:
        try:
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
        except (Failure, OSError) as error:
            return PlainTextResponse(f"{error}\n", status_code=503)

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(routes=[Route("/progress", progress), Route("/metrics", metrics), Route("/health", health)])


class _ProgressCollector(Collector):
    """Reads the folder at each scrape."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        progress = read_progress(self._folder)
        if not progress.step:
            return
        state = GaugeMetricFamily(
            "kaito_step_state", "1 for the state that the step is in.", labels=["job", "step", "state"]
        )
        for name in _STATES:
            state.add_metric([progress.job, progress.step, name], float(progress.state == name))
        yield state
        for name, text, value in _gauges(progress):
            if value is not None:
                family = GaugeMetricFamily(name, text, labels=["job", "step"])
                family.add_metric([progress.job, progress.step], value)
                yield family


def _gauges(progress: Progress) -> Iterator[tuple[str, str, float | None]]:
    yield "kaito_step_attempt", "Which start of the step this is, from 1.", progress.attempt
    yield "kaito_step_done", "How much of the step is done, in its unit.", progress.done
    yield "kaito_step_total", "How much the step has to do, in its unit.", progress.total
    yield "kaito_step_seconds_left", "Time left at the present pace.", progress.seconds_left
    yield "kaito_training_epoch", "Passes over the data so far.", progress.epoch
    yield "kaito_training_loss", "Newest training loss.", progress.loss
    yield "kaito_training_eval_loss", "Newest loss on the held-out split.", progress.eval_loss
    yield "kaito_training_tokens_per_second", "Newest throughput.", progress.tokens_per_second
    if progress.checkpoint is not None:
        yield (
            "kaito_training_checkpoint_step",
            "Step of the newest complete checkpoint.",
            float(progress.checkpoint["step"]),
        )
    yield "kaito_step_last_word_timestamp_seconds", "When the step last said something.", progress.time
