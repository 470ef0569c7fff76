"""Runs on the fake engine with real worker processes."""

import json
from pathlib import Path

from bitbench.engines.fake import SCRIPT_VARIABLE
from bitbench.facts.models import parse_model
from bitbench.facts.workloads import parse_workload
from bitbench.methods.registry import parse_method
from bitbench.results import store
from bitbench.results.machine import collect
from bitbench.results.record import Record
from bitbench.runner.listener import Silent
from bitbench.runner.plan import Request, make_plan
from bitbench.runner.run import Run


def fake_request(methods: str = "fp16 bnb-nf4", **changes) -> Request:
    settings = {"workload": parse_workload("p16-n8"), "processes": 2, "silence_s": 20.0} | changes
    return Request(
        model=parse_model("demo"),
        methods=tuple(parse_method(m) for m in methods.split()),
        engines=("fake",),
        device="cpu",
        **settings,
    )


def script(monkeypatch, **methods) -> None:
    monkeypatch.setenv(SCRIPT_VARIABLE, json.dumps({name.replace("_", "-"): s for name, s in methods.items()}))


def execute(out: Path, request: Request, before: tuple[Record, ...] = ()) -> store.Loaded:
    run = Run(make_plan(request, collect("fake")), out, Silent())
    run.execute(before)
    return store.read([out])
