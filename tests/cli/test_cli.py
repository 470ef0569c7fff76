"""The program as a user meets it: commands in processes of their own, on the fake engine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bitbench.engines.base import Supported
from bitbench.results.record import Record
from tests.factories import explained_h200, h200

ROOT = Path(__file__).resolve().parents[2]
FAKE = ("--engine", "fake", "--workload", "p16-n8", "--processes", "2", "--method", "fp16", "--method", "bnb-nf4")


def bitbench(
    *arguments: str, cwd: Path | None = None, script: dict | None = None, program: tuple[str, ...] = ("-m", "bitbench")
):
    env = os.environ | {"BITBENCH_FAKE_SCRIPT": json.dumps(script or {})}
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_run_prints_the_table_and_show_prints_it_again(tmp_path):
    done = bitbench("run", "demo", *FAKE, "--out", "r.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = bitbench("show", "r.jsonl", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip() in done.stdout
    rows = json.loads(bitbench("show", "r.jsonl", "--format", "json", cwd=tmp_path).stdout)
    assert [row["method"] for row in rows] == ["fp16", "bnb-nf4"]
    assert all(row["status"] == "ok" and row["num_processes"] == 2 for row in rows)


JSON_KEYS = """model, method, scheme, engine, kernel, workload, batch_size, prompt_len, output_len, device, status,
reason, flags, baseline, decode_tokens_per_s, decode_tokens_per_s_interval, interval_kind, spread_within, num_processes,
num_samples, generate_tokens_per_s, prefill_tokens_per_s, ttft_s, tpot_s, itl_clock, weights_bytes,
allocated_after_load_bytes, load_peak_bytes, peak_memory_bytes, kv_cache_bytes, energy_j_per_token, speedup,
memory_saved, bytes_per_step, ceiling_tokens_per_s, mbu, checkpoint_hash, verdict, prefill_verdict, gpu_busy,
gpu_busy_s, num_kernels_per_step, num_syncs_per_step, kl_mean, kl_p99, top1_agreement, perplexity_ratio,
perplexity_ratio_ci, pareto"""


def test_json_rows_have_every_promised_key_and_agree_with_the_raw_samples(tmp_path):
    bitbench("run", "demo", *FAKE, "--out", "r.jsonl", cwd=tmp_path)
    rows = json.loads(bitbench("show", "r.jsonl", "--format", "json", cwd=tmp_path).stdout)
    for key in JSON_KEYS.replace("\n", " ").split(","):
        assert key.strip() in rows[0], key
    raw = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    medians = []
    for record in raw:
        if record["kind"] == "record" and record["cell"]["method"] == "fp16":
            tpots = sorted(
                (s["total_s"] - s["ttft_s"]) / (s["output_len"] - 1) for s in record["samples"] if not s["warmup"]
            )
            medians.append((tpots[(len(tpots) - 1) // 2] + tpots[len(tpots) // 2]) / 2)
    by_hand = 1 / (sum(medians) / 2)  # the median of two
    assert rows[0]["decode_tokens_per_s"] == pytest.approx(by_hand)
    assert len(rows[0]["decode_tokens_per_s_interval"]) == 2


def test_benchmark_py_is_run(tmp_path):
    done = bitbench(*FAKE, "--out", str(tmp_path / "r.jsonl"), "--dry-run", program=(str(ROOT / "benchmark.py"),))
    assert done.returncode == 0, done.stderr
    assert "fp16" in done.stdout
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nonsense"), "unknown model 'nonsense': give demo, shape:qwen2.5-0.5b"),
        (("run", "shape:gpt-5"), "unknown shape 'gpt-5': choose from qwen2.5-0.5b"),
        (("run", "./nowhere"), "no model folder at './nowhere'"),
        (("run", "demo", "--method", "int3"), "unknown method 'int3': choose from fp16, bf16, bnb-int8"),
        (("run", "demo", "--method", "awq-int4:fast"), "choose from awq-int4:marlin, awq-int4:gemm"),
        (("run", "demo", "--method", "fp16:marlin"), "fp16 (it has no choice of kernel)"),
        (
            ("run", "demo", "--engine", "warp"),
            "unknown engine 'warp': choose from transformers, graphed, compiled, fused, fake",
        ),
        (("run", "demo", "--device", "tpu"), "no device 'tpu': choose from cpu"),
        (("run", "demo", "--workload", "long"), "unknown workload 'long': give starting-20x128"),
        (("run", "demo", "--workload", "p9000-n128"), "needs a context of 9128 tokens and SmolLM2-135M has 8192"),
        (("run", "demo", "--batch-size", "4"), "for a batch use a workload such as p40-n128-b8"),
        (("run", "demo", "--precision", "300%"), "--precision takes a share such as 3%"),
        (("run", "demo", "--budget", "soon"), "--budget takes a time such as 90s"),
        (("run", "demo", "--out", "no/such/folder/r.jsonl"), "no folder"),
        (("show", "nothing.jsonl"), "there is no record file nothing.jsonl"),
        (("show", "nothing.jsonl", "--format", "xml"), "choose from table, markdown, csv, json"),
        (("explain", "nothing.jsonl"), "there is no record file nothing.jsonl"),
        (("explain", "nothing.jsonl", "--format", "xml"), "choose from text, markdown, json"),
        (("cache", "clear", "nonsense", "--yes"), "nonsense"),
        (("quality", "nonsense"), "unknown model 'nonsense': give demo"),
        (("tune", "--method", "bnb-nf4"), "the decoder has no method 'bnb-nf4': choose from fp16, int8-wo"),
        (("tune", "--device", "cpu"), "fp16: the engine fused needs a CUDA device"),
        (("quality", "demo", "--method", "int3"), "unknown method 'int3': choose from fp16, bf16, bnb-int8"),
        (("quality", "shape:qwen2.5-0.5b"), "random weights, which have no quality to lose"),
        (("quality", "demo", "--text", "nothing.txt"), "--text nothing.txt: No such file"),
        (("quality", "demo", "--disk-budget", "much"), "--disk-budget takes a size such as 500MB or 2GB"),
        (("quality", "demo", "--limit", "3"), "--tasks-folder and --limit are about --tasks"),
        (("quality", "demo", "--tasks", "x", "--tasks-folder", "nowhere"), "there is no folder nowhere"),
        (("run", "shape:qwen2.5-0.5b", "--quality"), "random weights, which have no quality to lose"),
        (("show", "nothing.jsonl", "--quality", "--format", "csv"), "choose from table, markdown"),
    ],
)
def test_bad_input_is_one_clear_line_and_code_2(tmp_path, arguments, message):
    done = bitbench(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_line(tmp_path):
    done = bitbench("run", "demo", *FAKE, "--out", "/dev/full", cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot write records to /dev/full" in done.stderr


# A shell's background job ignores Ctrl-C, and so do its children: these tests may be one.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from bitbench.cli import main
main()
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_keeps_finished_records_and_resume_goes_on(tmp_path, stop):
    script = {"*": {"real_s_per_prompt": 0.05}}
    env = os.environ | {"BITBENCH_FAKE_SCRIPT": json.dumps(script)}
    arguments = ["run", "demo", *FAKE, "--out", "r.jsonl"]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *arguments], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True
    )
    wait_for(lambda: (tmp_path / "r.jsonl").exists() and '"status":"ok"' in (tmp_path / "r.jsonl").read_text())
    time.sleep(0.5)
    process.send_signal(stop)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "--resume" in output
    kept = (tmp_path / "r.jsonl").read_text()
    assert '"status":"ok"' in kept
    done = bitbench(*arguments, "--resume", cwd=tmp_path, script=script)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.jsonl").read_text().startswith(kept)
    rows = json.loads(bitbench("show", "r.jsonl", "--format", "json", cwd=tmp_path).stdout)
    assert [(row["status"], row["num_processes"]) for row in rows] == [("ok", 2), ("ok", 2)]


def wait_for(condition, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.05)


def test_nothing_measured_is_code_1(tmp_path):
    done = bitbench("run", "demo", *FAKE, "--out", "r.jsonl", cwd=tmp_path, script={"*": {"fault": "segv"}})
    assert done.returncode == 1
    assert "SIGSEGV" in done.stdout


def test_dry_run_writes_nothing(tmp_path):
    done = bitbench("run", "shape:qwen2.5-7b", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "15.23 GB" in done.stdout
    assert not list(tmp_path.iterdir())


def test_catalogues_list_everything(tmp_path):
    for command, words in {
        "methods": ("fp16", "bnb-int8-t0", "awq-int4:marlin"),
        "engines": ("transformers", "graphed", "compiled", "fake"),
        "models": ("demo", "shape:qwen3-0.6b", "FOLDER"),
        "doctor": ("memory", "CPU"),
        "cache": ("cached",),
    }.items():
        done = bitbench(command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        for word in words:
            assert word in done.stdout, (command, word)


def test_explain_says_which_rows_lack_a_profile_and_shows_what_it_can(tmp_path):
    write_records(tmp_path, h200())
    done = bitbench("explain", "r.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(" ! ")]
    assert line.startswith(" ! no profile (bnb-int8, bnb-nf4, awq-int4:gemm, awq-int4:marlin)")
    assert "fp16 (cuBLAS): launch_bound" in done.stdout and "bnb-nf4 (MatMul4Bit): no verdict" in done.stdout


def test_explain_takes_cells_by_the_words_they_bear(tmp_path):
    write_records(tmp_path, explained_h200())
    done = bitbench("explain", "r.jsonl", "--cell", "fp16 graphed", "-c", "bnb-int8-t0", cwd=tmp_path)
    titles = [line for line in done.stdout.splitlines() if " tok/s, " in line and line[1] != " "]
    assert [title.split(":")[0] for title in titles] == [" bnb-int8-t0 (MatMul8bitLt)", " fp16 (cuBLAS)"]
    wrong = bitbench("explain", "r.jsonl", "--cell", "fp17", cwd=tmp_path)
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1
    assert "no cell 'fp17': choose from 'fp16 transformers', 'bnb-nf4 transformers'" in wrong.stderr
    assert "'fp16 graphed'" in wrong.stderr


def test_explain_and_show_agree_in_json(tmp_path):
    write_records(tmp_path, explained_h200())
    explained = json.loads(bitbench("explain", "r.jsonl", "--format", "json", cwd=tmp_path).stdout)
    shown = json.loads(bitbench("show", "r.jsonl", "--format", "json", cwd=tmp_path).stdout)
    kinds = [row["decode"] and row["decode"]["kind"] for row in explained["rows"]]
    assert kinds == [row["verdict"] for row in shown]
    assert set(kinds) == {None, "launch_bound", "sync_bound", "small_kernel_bound"}
    assert shown[0]["prefill_verdict"] == "launch_bound" and shown[1]["prefill_verdict"] is None
    assert shown[0]["gpu_busy"] == pytest.approx(2.0e-3 / shown[0]["tpot_s"])
    assert (shown[0]["gpu_busy_s"], shown[0]["num_kernels_per_step"], shown[0]["num_syncs_per_step"]) == (2e-3, 1000, 2)
    assert shown[1]["gpu_busy"] is None
    graphed = next(row for row in explained["rows"] if row["account"])
    assert graphed["engine"] == "graphed" and graphed["account"]["holds"]
    assert sum(graphed["bar"].values()) == pytest.approx(graphed["tpot_s"])


def write_records(folder: Path, records: list[Record]) -> None:
    (folder / "r.jsonl").write_text("".join(record.model_dump_json() + "\n" for record in records))


def test_quality_prints_its_report_and_show_joins_it_with_the_speeds(tmp_path):
    """On the fake engine, whose 16-bit model is itself."""
    for command in (("run", "demo", *FAKE), ("quality", "demo", "--engine", "fake", "-m", "fp16", "-m", "bnb-nf4")):
        done = bitbench(*command, "--out", "r.jsonl", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "continuations, decode path: 192 positions of 8 texts" in done.stdout
    assert "near lossless, so not ranked by KL: fp16, bnb-nf4" in " ".join(done.stdout.split())
    again = bitbench("show", "r.jsonl", "--quality", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.strip() in done.stdout
    rows = json.loads(bitbench("show", "r.jsonl", "--format", "json", cwd=tmp_path).stdout)
    assert [(row["kl_mean"], row["top1_agreement"]) for row in rows] == [(0.0, 1.0)] * 2
    assert {row["pareto"] for row in rows} <= {True, False}
    for_quality_only = tmp_path / "q.jsonl"
    lines = [line for line in (tmp_path / "r.jsonl").read_text().splitlines() if '"kind":"quality"' in line]
    for_quality_only.write_text("\n".join(lines) + "\n")
    alone = json.loads(bitbench("show", "q.jsonl", "--format", "json", cwd=tmp_path).stdout)
    assert [(row["kl_mean"], row["decode_tokens_per_s"]) for row in alone] == [(0.0, None)] * 2
    resumed = bitbench(
        "quality", "demo", "--engine", "fake", "-m", "fp16", "--out", "r.jsonl", "--resume", cwd=tmp_path
    )
    assert resumed.returncode == 0 and "fp16" in resumed.stdout
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == len(lines) + 2 * 2 + 2


def test_run_with_quality_does_not_time_what_is_broken(tmp_path):
    """The fake's cheat `mute` says nothing of what it knows when it is asked token by token."""
    arguments = ("run", "demo", *FAKE, "--quality", "--out", "r.jsonl")
    done = bitbench(*arguments, cwd=tmp_path, script={"bnb-nf4": {"cheat": "mute"}})
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(bitbench("show", "r.jsonl", "--format", "json", cwd=tmp_path).stdout)
    broken, honest = sorted(rows, key=lambda row: row["method"])
    assert [(row["method"], row["status"]) for row in (broken, honest)] == [("bnb-nf4", "incorrect"), ("fp16", "ok")]
    assert "the output is broken" in broken["reason"] or "decode steps" in broken["reason"]
    assert broken["decode_tokens_per_s"] is None and honest["kl_mean"] == 0.0
    kinds = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert not [r for r in kinds if r["kind"] == "record" and r["cell"]["method"] == "bnb-nf4" and r["samples"]]


def test_help_and_show_are_quick_and_import_no_torch(tmp_path):
    bitbench("run", "demo", *FAKE, "--out", "r.jsonl", cwd=tmp_path)
    for limit_s, arguments in ((0.5, ("--help",)), (1.0, ("show", "r.jsonl")), (1.0, ("explain", "r.jsonl"))):
        times = []
        for _ in range(5):
            began = time.monotonic()
            assert bitbench(*arguments, cwd=tmp_path).returncode == 0
            times.append(time.monotonic() - began)
        assert min(times) < limit_s, times
    for command in ("show", "explain"):
        code = (
            "import sys; from bitbench.cli import main\n"
            f"try: main(['{command}', 'r.jsonl'])\n"
            "except SystemExit: pass\n"
            "assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_command_has_help_with_examples():
    for command in (
        "run",
        "quality",
        "show",
        "explain",
        "methods",
        "engines",
        "models",
        "doctor",
        "cache list",
        "cache clear",
    ):
        done = bitbench(*command.split(), "--help")
        assert done.returncode == 0
        assert "Examples" in done.stdout, command


def test_generated_pages_are_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docs.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_tuning_without_triton_ends_before_anything_is_made(monkeypatch):
    from bitbench.cli import tune

    monkeypatch.setattr(tune, "parse_device", lambda _: "cuda:0")
    monkeypatch.setattr(tune, "engine", lambda _: SimpleNamespace(supports=lambda *_: Supported(True, "")))
    monkeypatch.setattr("bitbench.decode.triton_steps.find_spec", lambda _: None)
    options = tune.Options(model="demo", methods=(), batch_sizes=(), device=None, context=256, yes=False, dry_run=False)
    with pytest.raises(ValueError, match="pip install triton"):
        tune.tune(options)
