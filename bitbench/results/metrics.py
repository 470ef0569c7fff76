"""The METRICS table: what every figure is called, its unit and its definition. Rows, docs and the lines under a
table follow it.

To add a metric, add an entry: `of` computes it from a summary, whose `processes` hold the raw samples; without `of`
it is the summary's attribute of that name. Seconds, bytes, joules and fractions here; ms, GB and % in reports.
"""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bitbench.results.cell_quality import CellQuality
from bitbench.results.quality_stats import NEAR_LOSSLESS_NATS, Estimate
from bitbench.results.stats import Interval, percentile
from bitbench.results.summary import CellSummary

Value = str | float | int | bool | list[str] | list[float] | None


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a row. `key` is its name in JSON, `title` its name in tables, `unit` SI ("" for a pure number)."""

    key: str
    unit: str
    title: str
    definition: str
    of: Callable[[CellSummary], Value] | None = None

    def value(self, summary: CellSummary) -> Value:
        """The figure of one row; None where unknown."""
        if self.of is not None:
            return self.of(summary)
        found: Value = getattr(summary, self.key)
        return found


def _pair(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None


def _itl(fraction: float) -> Callable[[CellSummary], Value]:
    def of(summary: CellSummary) -> Value:
        return percentile([gap for p in summary.processes for s in p.samples for gap in s.itl_s], fraction)

    return of


def _quality(figure: Callable[[CellQuality], Value]) -> Callable[[CellSummary], Value]:
    return lambda s: figure(s.quality) if s.quality else None


def _ends(of: Estimate) -> list[float] | None:
    return None if of.low is None or of.high is None else [of.low, of.high]


def cold_ttft_s(summary: CellSummary) -> float | None:
    """TTFT of the very first prompt of a process, a warm-up: median over processes, seconds."""
    first = [next((s for s in p.record.samples if s.warmup), None) for p in summary.processes]
    cold = [s.ttft_s for s in first if s]
    return statistics.median(cold) if cold else None


def _load_s(summary: CellSummary) -> Value:
    known = [p.record.load_s for p in summary.processes if p.record.load_s is not None]
    return statistics.median(known) if known else None


def _table(metrics: Iterable[Metric]) -> dict[str, Metric]:
    return {m.key: m for m in metrics}


LABELS: dict[str, Metric] = _table(
    (
        Metric("model", "", "model", "the model as it was asked for"),
        Metric("model_title", "", "model", "the model's full name, and what its weights are"),
        Metric(
            "method", "", "method", "how the stored numbers were chosen; after a colon the kernel that was asked for"
        ),
        Metric("scheme", "", "scheme", "what is stored and multiplied"),
        Metric("engine", "", "engine", "who drives the model token by token"),
        Metric("kernel", "", "kernel", "the code that really multiplied"),
        Metric("workload", "", "workload", "prompts, prompt tokens, new tokens and batch size"),
        Metric("batch_size", "", "batch", "sequences generated at once"),
        Metric(
            "output_len",
            "",
            "new tokens",
            "new tokens of each sequence; the length is fixed, end-of-sequence is ignored",
        ),
        Metric("device", "", "device", "the device that was asked for"),
        Metric("device_name", "", "device", "the name of the device it ran on"),
        Metric(
            "environment",
            "",
            "environment",
            "a hash of machine, driver and library versions: rows that differ in it are never pooled or compared",
            lambda s: s.environment.pool_key,
        ),
        Metric("checkpoint_hash", "", "checkpoint", "identifies the stored numbers"),
        Metric("run_ids", "", "runs", "the runs whose records were pooled", lambda s: list(s.run_ids)),
        Metric("status", "", "status", "how the cell ended; only `ok` carries a speed"),
        Metric("reason", "", "reason", "why, where it is not `ok`"),
        Metric(
            "flags",
            "",
            "flags",
            "what is to be known about an `ok` row; each has its advice",
            lambda s: list(map(str, s.flags)),
        ),
        Metric("notes", "", "notes", "what is to be known about the checkpoint", lambda s: list(s.notes)),
        Metric(
            "baseline",
            "",
            "baseline",
            "the row that speed-up and saved memory refer to: the fastest 16-bit row of the table",
        ),
        Metric(
            "itl_clock",
            "",
            "ITL clock",
            "whose clock timed the gaps: `host` (token seen by Python) or `device` (events per step)",
        ),
    )
)

METRICS: dict[str, Metric] = _table(
    (
        Metric("prompt_len", "tokens", "prompt", "prompt tokens, median over the samples"),
        Metric(
            "decode_tokens_per_s",
            "tokens/s",
            "tok/s",
            "batch size / median over processes of each process's median TPOT",
        ),
        Metric(
            "decode_tokens_per_s_interval",
            "tokens/s",
            "interval",
            "of the median across processes: 95% by t on logs from five processes on, else the range, labelled so",
            lambda s: _pair(s.decode_tokens_per_s_interval),
        ),
        Metric(
            "interval_kind",
            "",
            "interval",
            "`t95` (confidence interval) or `range` (least and greatest process)",
            lambda s: s.decode_tokens_per_s_interval.kind if s.decode_tokens_per_s_interval else None,
        ),
        Metric(
            "spread_within",
            "fraction",
            "spread within",
            "standard deviation / mean of TPOT over the prompts of a process, median over processes",
        ),
        Metric(
            "spread_between",
            "fraction",
            "spread between",
            "standard deviation of the logs of the processes' median TPOTs",
        ),
        Metric("num_processes", "", "processes", "processes that ended well: each is one sample"),
        Metric("num_failed", "", "failed", "processes that failed while others of the cell ended well"),
        Metric(
            "num_samples",
            "",
            "samples",
            "prompts (batches) measured and used; warm-ups and throttled ones are not among them",
        ),
        Metric("num_throttled", "", "throttled", "prompts during which the device was slowed down; kept in the file"),
        Metric("speedup", "ratio", "vs 16-bit", "decode tokens/s over those of the baseline, which is named"),
        Metric(
            "speedup_interval",
            "ratio",
            "vs 16-bit",
            "of the speed-up: Welch's t on logs from five processes a side on, else the range of the quotients",
            lambda s: _pair(s.speedup_interval),
        ),
        Metric("weights_bytes", "bytes", "weights", "distinct storages that hold weights, quantization state included"),
        Metric("memory_saved", "fraction", "saved", "1 - weights / the baseline's weights"),
        Metric(
            "allocated_after_load_bytes",
            "bytes",
            "after load",
            "the allocator's figure after load (resident set on a CPU) in a process that loaded nothing else",
        ),
        Metric("load_peak_bytes", "bytes", "load peak", "the maximum while loading, greatest over processes"),
        Metric(
            "peak_memory_bytes",
            "bytes",
            "peak",
            "maximum allocated (resident on a CPU) over the measured window after a reset, greatest over processes",
        ),
        Metric("kv_cache_bytes", "bytes", "KV cache", "keys and values at the end of the last prompt"),
        Metric(
            "ttft_s",
            "s",
            "TTFT",
            "submit to first output token, on the host, warm, without tokenisation; median of the processes' medians",
        ),
        Metric(
            "cold_ttft_s", "s", "cold TTFT", "TTFT of the first prompt of a process, median over processes", cold_ttft_s
        ),
        Metric("prefill_tokens_per_s", "tokens/s", "prefill", "batch size x prompt_len / TTFT"),
        Metric(
            "tpot_s",
            "s",
            "TPOT",
            "(end-to-end - TTFT) / (new tokens - 1) per prompt; median over processes of each process's median",
        ),
        Metric("itl_p50_s", "s", "ITL p50", "median of all gaps between output tokens", _itl(0.5)),
        Metric("itl_p99_s", "s", "ITL p99", "99th percentile of all gaps between output tokens", _itl(0.99)),
        Metric("generate_tokens_per_s", "tokens/s", "generate", "all new tokens / all wall time, prefill included"),
        Metric(
            "bytes_per_step",
            "bytes",
            "bytes/step",
            "weights as stored that a step must read + KV cache at that context x batch",
        ),
        Metric("bandwidth_bytes_per_s", "bytes/s", "bandwidth", "read bandwidth measured at that working-set size"),
        Metric("ceiling_tokens_per_s", "tokens/s", "ceiling", "batch size x measured read bandwidth / bytes per step"),
        Metric("mbu", "fraction", "of ceiling", "MBU: bytes per step / TPOT / measured read bandwidth"),
        Metric(
            "gpu_busy_s",
            "s",
            "GPU busy",
            "union of kernel intervals in a decode step, from a profiled pass apart from timing",
        ),
        Metric("gpu_busy", "fraction", "GPU busy", "gpu_busy_s / TPOT, which is measured without the profiler"),
        Metric("num_kernels_per_step", "", "kernels/step", "kernels launched in a decode step, profiled"),
        Metric(
            "num_syncs_per_step", "", "waits/step", "times in a decode step that the host waits for the GPU, profiled"
        ),
        Metric(
            "energy_j_per_token", "J", "J/token", "energy of the device over the measured windows / new tokens in them"
        ),
        Metric("load_s", "s", "load", "time to load the model, median over processes", _load_s),
        Metric(
            "kl_mean",
            "nats",
            "KL",
            "KL(P_16bit || P_row), mean over positions that the row's engine reads token by token; below "
            f"{NEAR_LOSSLESS_NATS:g} near lossless, and not ranked",
            _quality(lambda q: q.kl.mean),
        ),
        Metric(
            "kl_mean_ci",
            "nats",
            "KL",
            "95% interval of kl_mean: bootstrap-t over documents; null for fewer than five",
            _quality(lambda q: _ends(q.mean_kl)),
        ),
        Metric("kl_median", "nats", "KL median", "median over the same positions", _quality(lambda q: q.kl.median)),
        Metric("kl_p99", "nats", "KL p99", "99th percentile over the same positions", _quality(lambda q: q.kl.p99)),
        Metric("kl_max", "nats", "KL max", "the greatest of the same positions", _quality(lambda q: q.kl.max)),
        Metric(
            "top1_agreement",
            "fraction",
            "top-1",
            "share of the same positions where the likeliest token is the 16-bit model's (1 - flips)",
            _quality(lambda q: q.top1_agreement.value),
        ),
        Metric(
            "top5_overlap",
            "fraction",
            "top-5",
            "mean share of the five likeliest tokens that are the 16-bit model's",
            _quality(lambda q: q.top5_overlap.value),
        ),
        Metric(
            "perplexity_ratio",
            "ratio",
            "perplexity ratio",
            "perplexity over the 16-bit model's on the same positions, paired",
            _quality(lambda q: q.perplexity_ratio.value),
        ),
        Metric(
            "perplexity_ratio_ci",
            "ratio",
            "perplexity ratio",
            "95% interval of perplexity_ratio: bootstrap-t over documents; null for fewer than five",
            _quality(lambda q: _ends(q.perplexity_ratio)),
        ),
        Metric(
            "identical_answers",
            "fraction",
            "same answers",
            "share of the 16-bit model's greedy answers to the protocol's prompts that the row gives too, to the end",
            _quality(lambda q: q.identical.share if q.identical else None),
        ),
        Metric(
            "quality_text",
            "",
            "quality",
            "the text, path, positions and reference of these figures",
            _quality(lambda q: q.text),
        ),
        Metric(
            "pareto",
            "",
            "Pareto",
            "no other row of the table is better in speed, weights or quality without being worse in another",
        ),
    )
)


def metrics_markdown() -> str:
    """The content of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Generated from `bitbench/results/metrics.py`. Names are the keys of `bitbench show --format json`.",
        "SI base units; fractions 0-1; an unknown figure is `null`. ms, GB/s and % appear only in tables.",
        "",
        "| name | unit | in tables | definition |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{m.key}` | {m.unit or '-'} | {m.title} | {m.definition} |" for m in METRICS.values()]
    lines += ["", "## What a row is", "", "| name | meaning |", "|---|---|"]
    lines += [f"| `{m.key}` | {m.definition} |" for m in LABELS.values()]
    return "\n".join(lines) + "\n"
