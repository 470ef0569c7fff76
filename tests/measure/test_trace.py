"""Reading traces: launches found by correlation, stacks by time and thread, unions."""

import pytest

from bitbench.measure.attribution import operator_times, roles_of_work
from bitbench.measure.trace import ProfilerRefused, read, record, union_s
from tests.measure.traces import TraceWriter


def test_work_is_attributed_by_its_launch_not_by_when_it_ran():
    writer = TraceWriter()
    writer.label("model", 0, 100)
    writer.label("norm", 10, 20)
    writer.label("projections", 30, 50)
    writer.host("aten::linear", 31, 45)
    writer.launch("same_kernel", 15, 500, 5)
    writer.launch("same_kernel", 40, 600, 5)
    writer.launch("argmax", 150, 700, 5)
    writer.host("aten::argmax", 149, 155)
    writer.work("orphan", 800, 5, None)
    trace = read(writer.events, 1.0)
    assert [w.name for w in trace.work] == ["same_kernel", "same_kernel", "argmax", "orphan"]
    assert roles_of_work(trace) == ["elementwise", "projections", "sampling", "unattributed"]


def test_a_launch_on_another_thread_is_not_inside_this_threads_modules():
    writer = TraceWriter()
    writer.label("projections", 0, 100)
    writer.work("k", 50, 1, writer.runtime("cudaLaunchKernel", 50, tid=8))
    assert roles_of_work(read(writer.events, 1.0)) == ["unattributed"]


def test_all_kernels_of_a_graph_share_one_launch():
    writer = TraceWriter()
    launch = writer.runtime("cudaGraphLaunch", 10)
    writer.work("a", 20, 1, launch)
    writer.work("b", 22, 1, launch)
    trace = read(writer.events, 1.0)
    assert {w.launch.name for w in trace.work} == {"cudaGraphLaunch"}


def test_union_counts_overlap_once():
    writer = TraceWriter()
    writer.work("a", 0, 10, None)
    writer.work("b", 5, 10, None)
    writer.work("c", 6, 2, None)
    writer.work("copy", 100, 10, None, cat="gpu_memcpy")
    assert union_s(read(writer.events, 1.0).work) == pytest.approx(25e-6)


def test_an_operators_own_time_leaves_out_those_it_calls():
    writer = TraceWriter()
    writer.label("projections", 0, 100)
    writer.host("aten::linear", 10, 50)
    writer.host("aten::mm", 20, 45)
    times = operator_times(read(writer.events, 1.0))
    assert [(name, role) for name, role, _ in times] == [("aten::linear", "projections"), ("aten::mm", "projections")]
    assert [seconds for *_, seconds in times] == pytest.approx([15e-6, 25e-6])


def test_a_gpu_on_which_nothing_is_seen_means_that_profiling_is_not_permitted(monkeypatch):
    from torch.profiler import ProfilerActivity

    monkeypatch.setattr(ProfilerActivity, "CUDA", ProfilerActivity.CPU, raising=False)
    with pytest.raises(ProfilerRefused, match=r"saw nothing on the GPU.*container"):
        record(lambda: None, "cuda:0", operators=False)


def test_a_profiler_that_fails_gives_its_reason(monkeypatch):
    def broken(**_):
        raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES\nmore")

    monkeypatch.setattr("torch.profiler.profile", broken)
    with pytest.raises(ProfilerRefused, match=r"failed: CUPTI_ERROR_INSUFFICIENT_PRIVILEGES$"):
        record(lambda: None, "cpu", operators=True)
