from bitbench.results.metrics import LABELS, METRICS, metrics_markdown
from bitbench.results.summary import summarize
from tests.factories import processes, record, sample

# Issue 3 promises these keys in `bitbench show --format json`.
PROMISED = """model, method, scheme, engine, kernel, workload, batch_size, prompt_len, output_len, device, status,
reason, flags, baseline, decode_tokens_per_s, decode_tokens_per_s_interval, interval_kind, spread_within,
num_processes, num_samples, generate_tokens_per_s, prefill_tokens_per_s, ttft_s, tpot_s, itl_clock,
weights_bytes, allocated_after_load_bytes, load_peak_bytes, peak_memory_bytes, kv_cache_bytes,
energy_j_per_token, speedup, memory_saved, bytes_per_step, ceiling_tokens_per_s, mbu, checkpoint_hash"""


def test_the_promised_keys_are_there() -> None:
    promised = {key.strip() for key in PROMISED.replace("\n", " ").split(",")}
    assert promised <= {*LABELS, *METRICS}


def test_every_metric_is_documented_with_its_definition() -> None:
    text = metrics_markdown()
    for metric in (*METRICS.values(), *LABELS.values()):
        assert f"| `{metric.key}` |" in text
        assert metric.definition in text and metric.title


def test_units_are_in_the_names() -> None:
    ends = {"s": "_s", "bytes": "_bytes", "tokens/s": "_tokens_per_s", "bytes/s": "_bytes_per_s"}
    for metric in METRICS.values():
        if metric.unit in ends and not metric.key.endswith("_interval") and metric.key != "bytes_per_step":
            assert metric.key.endswith(ends[metric.unit]), metric.key


def test_metrics_are_computed_from_raw_samples_without_a_field_of_their_own() -> None:
    warm, cold = sample(0.01, 1), sample(0.01, 0, ttft=0.5, warmup=True)
    (row,) = summarize([record(samples=[cold, warm], load_s=3.0), record(samples=[warm], process=1, load_s=5.0)])
    assert METRICS["cold_ttft_s"].value(row) == 0.5
    assert METRICS["load_s"].value(row) == 4.0
    assert METRICS["itl_p50_s"].value(row) == 0.01


def test_the_99th_percentile_sees_the_slow_gap() -> None:
    (row,) = summarize(processes("fp16", [0.01, 0.01, 0.01, 0.05]))
    p50, p99 = METRICS["itl_p50_s"].value(row), METRICS["itl_p99_s"].value(row)
    assert isinstance(p50, float) and isinstance(p99, float) and p50 < 0.011 and p99 > 0.049
