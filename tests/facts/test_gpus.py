import pytest

from bitbench.facts.gpus import find, gpus


@pytest.mark.parametrize(
    ("nvml_name", "name"),
    [
        ("NVIDIA H200", "H200-SXM"),
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM-40GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA L4", "L4"),
        ("nvidia l40s", "L40S"),
        ("RTX-5090", "RTX-5090"),
    ],
)
def test_finds_the_card_the_driver_names(nvml_name: str, name: str) -> None:
    found = find(nvml_name)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "other",
    ["NVIDIA A10G", "NVIDIA L40", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA H200 NVL",
     "NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "NVIDIA GH200 480GB", ""],
)  # fmt: skip
def test_does_not_take_a_variant_for_the_card(other: str) -> None:
    assert find(other) is None


def test_units_are_si() -> None:
    h200 = find("NVIDIA H200")
    assert h200 is not None
    assert h200.bandwidth_bytes_per_s == 4.8e12
    assert h200.measured_read_bytes_per_s == 4.307e12
    assert h200.memory_bytes == 141_000_000_000
    assert h200.l2_bytes == 60 * 2**20  # torch.cuda.get_device_properties: L2_cache_size
    assert h200.fp16_dense_flop_per_s == 989e12


def test_absent_is_none() -> None:
    v100 = find("V100-SXM")
    assert v100 is not None
    assert v100.int8_dense_op_per_s is None
    assert v100.fp8_dense_flop_per_s is None
    assert v100.measured_read_bytes_per_s is None


def test_rows_are_plausible_and_names_are_unique() -> None:
    table = gpus()
    assert len(table) >= 13
    for gpu in table:
        assert gpu.measured_read_bytes_per_s is None or gpu.measured_read_bytes_per_s < gpu.bandwidth_bytes_per_s
        assert gpu.fp16_dense_flop_per_s > 10 * gpu.bandwidth_bytes_per_s
    known = [name for gpu in table for name in (gpu.name, *gpu.nvml_names)]
    assert len(known) == len(set(known))
