"""Records made quickly, with the speeds a test wants."""

from collections.abc import Sequence
from typing import Any

from bitbench.facts.profile import KernelTime, RoleTime, Stage, StageProfile
from bitbench.facts.quality import GreedyContinuation, NumericsCheck, Quality
from bitbench.facts.samples import Bandwidth, KernelReport, Memory, PowerSample, PromptSample
from bitbench.facts.status import Flag, Status
from bitbench.results.environment import Environment, Gpu
from bitbench.results.record import Cell, Ending, QualityRecord, Record
from tests.quality_passes import quality_pass

GPU = Gpu(name="NVIDIA H200", uuid_hash="0123", driver="570.1", compute_capability="9.0", memory_bytes=150_000_000_000)
ENVIRONMENT = Environment(
    machine="a1b2",
    system="Linux",
    python="3.11.7",
    cpu="Test CPU",
    num_cpus=2,
    memory_bytes=16_000_000_000,
    last_level_cache_bytes=50_000_000,
    gpu=GPU,
    versions={"torch": "2.11.0", "transformers": "5.17.0"},
)


HOT = (PowerSample(at_s=99.0, throttle_reasons=("HwSlowdown",)),)
"""A look before all samples: they are throttled, all of them."""


def cell(method: str = "fp16", **fields: Any) -> Cell:
    """`awq-int4:marlin` asks for a kernel."""
    name, _, kernel = method.partition(":")
    given = {"model": "shape:tiny", "engine": "transformers", "workload": "starting-20x128", "device": "cuda:0"}
    return Cell(**{**given, "method": name, "kernel": kernel or None, **fields})


def sample(
    tpot: float = 0.01,
    index: int = 0,
    *,
    ttft: float = 0.02,
    output_len: int = 11,
    batch_size: int = 1,
    prompt_len: int = 40,
    warmup: bool = False,
    at: float | None = None,
) -> PromptSample:
    """One prompt whose TPOT is `tpot` seconds (within rounding)."""
    return PromptSample(
        prompt_index=index,
        warmup=warmup,
        batch_size=batch_size,
        prompt_len=prompt_len,
        output_len=output_len,
        started_s=100.0 + index if at is None else at,
        ttft_s=ttft,
        itl_s=(tpot,) * (output_len - 1),
        total_s=ttft + tpot * (output_len - 1),
    )


def record(
    method: str = "fp16",
    tpots: Sequence[float] = (0.01,),
    *,
    process: int = 0,
    status: Status = "ok",
    reason: str = "",
    bits: float = 16,
    weights: int | None = 1_000_000_000,
    peak: int | None = None,
    bandwidth: float | None = 4e12,
    step: int | None = None,
    kernel: str = "cuBLAS",
    flags: tuple[Flag, ...] = (),
    power: tuple[PowerSample, ...] = (),
    samples: Sequence[PromptSample] | None = None,
    run: str = "run-1",
    environment: Environment = ENVIRONMENT,
    checkpoint: str = "c0ffee00",
    where: dict[str, Any] | None = None,
    **fields: Any,
) -> Record:
    """One process; a failed one has no measured samples."""
    measured = [sample(t, i) for i, t in enumerate(tpots)] if samples is None else list(samples)
    ok = status == "ok"
    given: dict[str, Any] = {
        "run_id": run,
        "created_at": f"2026-11-23T12:00:{process:02d}+00:00",
        "cell": cell(method, **(where or {})),
        "process_index": process,
        "status": status,
        "reason": reason,
        "flags": flags,
        "environment": environment,
        "model_title": "Tiny (random weights)",
        "checkpoint_hash": checkpoint,
        "scheme": f"W{bits:g}",
        "weight_bits": bits,
        "dtype": "float16",
        "kernel": KernelReport(name=kernel, module_classes={"Linear": 7}) if ok and kernel else None,
        "batch_size": 1,
        "output_len": 11,
        "samples": measured if ok else (),
        "memory": Memory(
            source="test",
            weights_bytes=weights,
            allocated_after_load_bytes=weights,
            load_peak_bytes=weights,
            peak_memory_bytes=peak if peak is not None or weights is None else weights + 50_000_000,
            kv_cache_bytes=1_000_000,
        )
        if ok
        else None,
        "bytes_per_step": (step or weights) if ok else None,
        "bandwidth": Bandwidth(working_set_bytes=1 << 30, bytes_per_s=bandwidth, method="test") if bandwidth else None,
        "power": power,
    }
    return Record(**{**given, **fields})


def profile(stage: Stage = "decode", **fields: Any) -> StageProfile:
    """A step of eager FP16 at 0.5B as an H200 showed it: 1,000 small kernels, 2 ms busy of 15, half projections."""
    given: dict[str, Any] = {
        "stage": stage,
        "source": "device",
        "num_steps": 4,
        "prompt_len": 40,
        "wall_s": 20e-3,
        "busy_s": 2.0e-3,
        "num_kernels": 1000.0,
        "syncs": {"stream": 1.0, "blocking_copy": 1.0},
        "roles": (
            RoleTime(role="projections", busy_s=1.0e-3, num_kernels=168.0, bytes_read=716_000_000),
            RoleTime(role="attention", busy_s=0.2e-3, num_kernels=24.0, bytes_read=2_000_000),
            RoleTime(role="elementwise", busy_s=0.6e-3, num_kernels=700.0),
            RoleTime(role="lm_head", busy_s=0.1e-3, num_kernels=1.0, bytes_read=272_000_000),
            RoleTime(role="sampling", busy_s=0.08e-3, num_kernels=97.0),
            RoleTime(role="unattributed", busy_s=0.02e-3, num_kernels=10.0),
        ),
        "kernels": (
            KernelTime(name="gemv<half>", role="projections", num_launches=168.0, busy_s=1.0e-3),
            KernelTime(name="elementwise_kernel", role="elementwise", num_launches=700.0, busy_s=0.6e-3),
        ),
        "bytes_read": 990_000_000,
        "flops": 988_000_000,
    }
    return StageProfile(**{**given, **fields})


def processes(method: str, medians: Sequence[float], prompts: int = 4, **fields: Any) -> list[Record]:
    """One record for each median TPOT in seconds; the prompts of a process lie symmetrically within 2% around it."""
    around = [1 + 0.02 * (2 * i / (prompts - 1) - 1) for i in range(prompts)] if prompts > 1 else [1.0]
    return [record(method, [m * a for a in around], process=i, **fields) for i, m in enumerate(medians)]


def ending(method: str = "fp16", **fields: Any) -> Ending:
    """Why the cell's processes ended."""
    given = {"run_id": "run-1", "cell": cell(method), "ended_by": "budget", "asked_precision": 0.03}
    return Ending(**{**given, "reached_precision": 0.05, "num_processes": 3, **fields})


def h200(seed_tpots: Sequence[float] = (1.0, 0.97, 1.05, 1.01, 0.99)) -> list[Record]:
    """A table like the first run on an H200: six rows, one of them failed."""

    def around(tpot: float) -> list[float]:
        return [tpot * factor for factor in seed_tpots]

    return [
        *processes(
            "fp16",
            around(0.0175),
            weights=988_000_000,
            energy_j=10.0,
            energy_tokens=40,
            profiles=(profile(), profile("prefill")),
            gate=quality(0.0001),
            gate_s=4.0,
            node_gap_s=0.9e-6,
            matmul_flops_per_s=7.0e14,
        ),
        *processes("bnb-int8", around(0.061), weights=631_000_000, bits=8, kernel="MatMul8bitLt"),
        *processes("bnb-nf4", around(0.0242), weights=474_000_000, bits=4, kernel="MatMul4Bit"),
        *processes("awq-int4:gemm", around(0.0230), weights=458_000_000, bits=4, kernel="AwqGEMM"),
        *processes("awq-int4:marlin", around(0.0178), weights=459_000_000, bits=4, kernel="AwqMarlin"),
        record(
            "awq-int4:exllama",
            status="unsupported",
            reason="gptqmodel has no such kernel on sm_90; it needs sm_75 to sm_89",
            bits=4,
            checkpoint="",
        ),
    ]


def explained_h200() -> list[Record]:
    """That table with what explains it: LLM.int8() with and without its waits, and rows on `graphed`."""
    graphed = {"where": {"engine": "graphed"}, "itl_clock": "device", "node_gap_s": 0.9e-6}
    waiting = profile(busy_s=3.8e-3, num_kernels=1990.0, syncs={"stream": 170.0, "blocking_copy": 1.0})
    free = profile(busy_s=3.1e-3, num_kernels=1480.0)
    around = (1.0, 0.97, 1.05, 1.01, 0.99)
    int8: dict[str, Any] = {"weights": 631_000_000, "bits": 8, "kernel": "MatMul8bitLt"}
    rest = [r for r in h200() if r.cell.method != "bnb-int8"]
    return [
        *rest,
        *processes("bnb-int8", [0.061 * a for a in around], profiles=(waiting, profile("prefill")), **int8),
        *processes("bnb-int8-t0", [0.038 * a for a in around], profiles=(free, profile("prefill")), **int8),
        *processes(
            "fp16",
            [0.00289 * a for a in around],
            weights=988_000_000,
            profiles=(profile(syncs={}), profile("prefill")),
            **graphed,
        ),
        record(
            "bnb-int8",
            status="unsupported",
            reason="the step cannot be captured: LLM.int8() asks the device about outliers in every layer",
            bits=8,
            checkpoint="",
            where={"engine": "graphed"},
        ),
    ]


def quality(kl: float = 0.02, *, agree: float = 0.9, num_documents: int = 8, **fields: Any) -> Quality:
    """Three passes of eleven positions a document: mean KL `kl`, a share of `agree` with the same likeliest token."""
    documents = [[kl * (0.6 + 0.08 * i) * (0.8 + 0.4 * (d % 2)) for i in range(11)] for d in range(num_documents)]
    num = 11 * num_documents
    top1 = "".join("1" if (i * 7) % num < agree * num else "0" for i in range(num))
    nll = ([2.0 + 0.01 * (i % 5) for i in range(num)], [2.0 + kl + 0.01 * (i % 7) for i in range(num)])
    passes = tuple(
        quality_pass(documents, top1=top1, nll=nll, path=path, corpus=corpus)
        for path, corpus in (("decode", "continuations"), ("decode", "test"), ("prefill", "test"))
    )
    continuations = tuple(GreedyContinuation(prompt_index=i, num_identical=min(25, 7 * i), length=25) for i in range(5))
    return Quality(**{"passes": passes, "continuations": continuations, "numerics": numerics(), **fields})


def numerics(**fields: Any) -> NumericsCheck:
    """A gate that was passed."""
    given = {"seed": 1, "num_layers": 168, "num_unchecked": 0, "layer_excess": 0.2, "worst_layer": "q_proj (decode)"}
    return NumericsCheck(**{**given, "step_error": 0.01, **fields})


def quality_record(method: str = "bnb-nf4", kl: float = 0.2, *, bits: float = 4, **fields: Any) -> QualityRecord:
    """A cell's comparison with the 16-bit model, of the cells that `record` makes; a failed one has no quality."""
    ok = fields.get("status", "ok") == "ok"
    given: dict[str, Any] = {
        "run_id": "run-2",
        "created_at": "2026-11-25T12:00:00+00:00",
        "subject": cell(method).subject,
        "status": "ok",
        "environment": ENVIRONMENT,
        "model_title": "Tiny (random weights)",
        "checkpoint_hash": "c0ffee00",
        "scheme": f"W{bits:g}",
        "weight_bits": bits,
        "dtype": "float16",
        "quality": quality(kl, agree=1 - kl) if ok else None,
        "compare_s": 20.0,
    }
    return QualityRecord(**{**given, **fields})


def h200_qualities() -> list[QualityRecord]:
    """Of the rows of `h200` that ran, as methods rank."""
    kls = {"fp16": 0.0001, "bnb-int8": 0.02, "bnb-nf4": 0.3, "awq-int4:gemm": 0.15, "awq-int4:marlin": 0.15}
    return [quality_record(method, kl, bits=16 if method == "fp16" else 4) for method, kl in kls.items()]
