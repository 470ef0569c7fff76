"""A step's kernels are separated from a prefill's, timed in one pass and given their roles by another."""

from contextlib import contextmanager

import pytest

from bitbench.engines.base import Matrices
from bitbench.engines.graphed import GraphedModel
from bitbench.engines.transformers import TransformersEngine
from bitbench.measure import profile
from bitbench.measure.profile import Piece, added, with_roles
from bitbench.measure.trace import ProfilerRefused, read
from bitbench.methods.registry import parse_method
from tests.engines.tiny import checkpoint, prompt_ids, write_tiny
from tests.measure.traces import TraceWriter

# name, module role, operator, device microseconds
PREFILL = (("embed", "embedding", "aten::embedding", 3), ("gemm", "projections", "aten::mm", 50))
STEP = (
    ("rms", "norm", "aten::mul", 2),
    ("gemv", "projections", "aten::mm", 10),
    ("gemv", "lm_head", "aten::mm", 20),
    ("argmax", None, "aten::argmax", 1),
)


class OneGpu:
    """A model whose kernels the test knows. `captured`: outside of `annotated`, a step is one graph launch."""

    def __init__(self, captured: bool, other_names: bool = False) -> None:
        self.captured, self.other_names = captured, other_names
        self.marked, self.writer = False, TraceWriter()

    def generate(self, ids, output_len, on_token):
        self._host, self._device = 0.0, 10_000.0
        for piece in PREFILL:
            self._launch(*piece)
        self.writer.runtime("cudaStreamSynchronize", self._host)
        for _ in range(output_len - 1):
            replayed = self.captured and not self.marked
            launch = self.writer.runtime("cudaGraphLaunch", self._host) if replayed else None
            for name, module, operator, us in STEP:
                if replayed:
                    shown = f"triton_poi_fused_{name}_0" if self.other_names else name
                    self.writer.work(shown, self._device, us, launch)
                    self._device += us + 1
                else:
                    self._launch(name, module, operator, us)
            if not replayed:
                self.writer.runtime("cudaStreamSynchronize", self._host)

    def _launch(self, name, module, operator, us):
        at, self._host = self._host, self._host + 10
        if self.marked:
            if module:
                self.writer.label(module, at, at + 9)
            self.writer.host(operator, at + 1, at + 8)
        self.writer.launch(name, at + 2, self._device, us)
        self._device += us + 1

    def synchronize(self):
        self.writer.runtime("cudaDeviceSynchronize", self._host)

    @contextmanager
    def annotated(self):
        self.marked = True
        yield
        self.marked = False

    def matrices(self):
        return Matrices(layer_elements=1000, head_elements=500, head_bytes=1000)

    def weights_bytes(self):
        return 3100

    def unread_embedding_bytes(self):
        return 0

    def kv_bytes_per_token(self):
        return 8


@pytest.fixture
def profiled(monkeypatch):
    def profile_of(model, batch=1):
        def record(run, device, operators):
            model.writer = TraceWriter()
            run()
            assert operators == model.marked
            return read(model.writer.events, wall_s=1.0 if len(model.writer.events) < 12 else 1.8)

        monkeypatch.setattr(profile, "record", record)
        return profile.take(model, "cuda:0", [[1] * 40] * batch)

    return profile_of


@pytest.mark.parametrize("captured", [False, True])
def test_a_step_has_its_own_kernels_and_roles(profiled, captured):
    decode, prefill = profiled(OneGpu(captured), batch=2)
    assert decode.num_kernels == 4
    assert decode.busy_s == pytest.approx(33e-6)
    assert {r.role: pytest.approx(r.busy_s * 1e6) for r in decode.roles} == {
        "lm_head": 20,
        "projections": 10,
        "elementwise": 2,
        "sampling": 1,
    }
    assert decode.syncs == ({} if captured else {"stream": 1})
    assert decode.num_syncs == (0 if captured else 1)
    assert decode.wall_s == pytest.approx(0.1)
    assert [(k.name, k.role) for k in decode.kernels[:2]] == [("gemv", "lm_head"), ("gemv", "projections")]
    assert {r.role: r.bytes_read for r in decode.roles if r.bytes_read} == {"projections": 2100, "lm_head": 1000}
    assert decode.bytes_read == 3100 + 8 * 44 * 2
    assert decode.flops == 2 * 2 * 1500
    assert prefill.num_kernels == 2
    assert prefill.busy_s == pytest.approx(53e-6)
    assert prefill.syncs == {"stream": 1}
    assert prefill.flops == 2 * 2 * (40 * 1000 + 500)


def test_what_a_compiler_wrote_has_the_role_of_what_it_fused(profiled):
    decode, _ = profiled(OneGpu(captured=True, other_names=True))
    assert decode.unattributed == 0
    assert {r.role for r in decode.roles} == {"elementwise", "sampling"}


def test_a_refused_profiler_leaves_its_reason(monkeypatch):
    def record(*_, **__):
        raise ProfilerRefused("not permitted")

    monkeypatch.setattr(profile, "record", record)
    for stage in profile.take(OneGpu(False), "cuda:0", [[1, 2]]):
        assert (stage.source, stage.note, stage.num_syncs) == ("none", "not permitted", None)
    assert profile.kernel_names(OneGpu(False), "cuda:0", [[1, 2]]) == ()


def test_added_finds_the_steps_between_a_common_begin_and_end():
    assert added(["a", "b", "z"], ["a", "b", "s", "t", "s", "t", "z"]) == (2, 6)
    assert added(["a"], ["a", "a", "a"]) == (1, 3)
    assert added(["a", "b"], ["a", "b"]) == (2, 2)


def test_pieces_of_one_name_have_its_roles_in_turn_and_unknown_names_none():
    marked = [("x", "projections"), ("x", "lm_head"), ("y", "attention")]
    names = ["x", "new", "x", "y", "x", "x", "y"]
    roles = [p.role for p in with_roles([Piece(name, 1.0) for name in names], marked)]
    assert roles == ["projections", "unattributed", "lm_head", "attention", "projections", "lm_head", "attention"]


@pytest.mark.parametrize("kind", ["transformers", "graphed"])
@pytest.mark.parametrize("method", ["fp16", "bnb-int8", "bnb-nf4"])
def test_a_real_model_on_a_cpu(tmp_path, method, kind):
    model = TransformersEngine().load(checkpoint(write_tiny(tmp_path)), parse_method(method), "cpu", False)
    if kind == "graphed":
        model = GraphedModel(model._model, None, "cpu")
    before = model.generate(prompt_ids(12), 8, None)
    for stage in profile.take(model, "cpu", prompt_ids(12)):
        roles = {r.role: r for r in stage.roles}
        assert stage.source == "operators"
        assert {"projections", "attention", "elementwise", "lm_head"} <= set(roles)
        assert ("quantize" in roles) == (method == "bnb-int8")
        assert stage.unattributed == 0
        assert stage.busy_s == pytest.approx(sum(r.busy_s for r in stage.roles))
        assert all(r.busy_s > 0 for r in stage.roles)
        assert stage.num_syncs is None
    assert model.generate(prompt_ids(12), 8, None) == before, "profiling left something behind"
