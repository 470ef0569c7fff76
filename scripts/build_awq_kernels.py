"""Compile gptqmodel's CUDA kernels ahead of time, for a GPU machine that can't install or compile.

gptqmodel builds them at first use with nvcc, which takes minutes. This needs nvcc, the unpacked source distribution of
gptqmodel and the headers of the torch that the GPU machine has (its wheel, unpacked), and no GPU. The flags are those
that gptqmodel itself gives (`default_jit_cuda_cflags` in its utils/cpp.py) and torch's cpp_extension adds. Name the
results in BITBENCH_OPS_LIBRARIES, separated by `:`, and bitbench loads them before the model.

    python scripts/build_awq_kernels.py gptqmodel-7.6.0 --torch unpacked/torch --include cuda/include --out ops
"""

import argparse
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

AWQ_SOURCES = (
    "torch_bind.cpp",
    "quantization/gemm_cuda_gen.cu",
    "quantization/gemv_cuda.cu",
    "gemm_fast_cuda_entry.cu",
    "gemv_fast_cuda_entry.cu",
)
MARLIN_SOURCES = (
    "marlin_torch_fp16.cpp",
    "gptq_marlin_fp16.cu",
    "gptq_marlin_repack.cu",
    "awq_marlin_repack.cu",
    "kernel_fp16_*.cu",
)
COMMON = ("-O3", "-std=c++17", "-DENABLE_BF16", "-D_GLIBCXX_USE_CXX11_ABI=1", "-DTORCH_API_INCLUDE_EXTENSION_H")
CUDA = [
    "-D__CUDA_NO_HALF_OPERATORS__",
    "-D__CUDA_NO_HALF_CONVERSIONS__",
    "-D__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-D__CUDA_NO_HALF2_OPERATORS__",
    "--expt-relaxed-constexpr",
    "-Xptxas",
    "-O3,-dlcm=ca",
    "-lineinfo",
    "-Xfatbin",
    "-compress-all",
    "-diag-suppress=179,39,177",
    "-static-global-template-stub=false",
]


def compile_one(source: Path, target: Path, flags: list[str], arch: str) -> Path:
    """One object file. Raises CalledProcessError when the compiler fails."""
    cuda = [*CUDA, f"-gencode=arch=compute_{arch},code=sm_{arch}"] if source.suffix == ".cu" else []
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["nvcc", "-Xcompiler", "-fPIC", *flags, *cuda, "-c", str(source), "-o", str(target)], check=True)
    return target


def build(name: str, folder: Path, sources: tuple[str, ...], arguments: argparse.Namespace) -> Path:
    """One library of torch operators from the sources under `folder`."""
    headers = [arguments.torch / "include", arguments.torch / "include/torch/csrc/api/include"]
    headers += [folder, *arguments.include, Path(sysconfig.get_paths()["include"])]
    flags = [*COMMON, f"-DTORCH_EXTENSION_NAME={name}", *(f"-I{path.resolve()}" for path in headers)]
    files = [path for pattern in sources for path in sorted(folder.glob(pattern))]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = [
            pool.submit(compile_one, path, arguments.out / "objects" / name / f"{path.name}.o", flags, arguments.arch)
            for path in files
        ]
        objects = [job.result() for job in jobs]
    library = arguments.out / f"{name}.so"
    libraries = ["-lc10", "-lc10_cuda", "-ltorch", "-ltorch_cpu", "-ltorch_cuda"]
    where = f"-L{(arguments.torch / 'lib').resolve()}"
    subprocess.run(["nvcc", "-shared", *map(str, objects), where, *libraries, "-o", str(library)], check=True)
    return library


def main() -> None:
    """Build both libraries and print their paths as BITBENCH_OPS_LIBRARIES wants them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gptqmodel", type=Path, help="the unpacked source distribution")
    parser.add_argument("--torch", type=Path, required=True, help="folder torch of the GPU machine's torch wheel")
    parser.add_argument("--include", type=Path, action="append", default=[], help="CUDA headers nvcc doesn't bring")
    parser.add_argument("--arch", default="90", help="compute capability without the dot (default 90)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    sources = arguments.gptqmodel / "gptqmodel_ext"
    generator = sources / "marlin/generate_kernels.py"
    subprocess.run([sys.executable, str(generator.resolve())], cwd=generator.parent, check=True)
    libraries = [
        build("gptqmodel_awq_ops", sources / "awq", AWQ_SOURCES, arguments),
        build("gptqmodel_marlin_fp16_ops", sources / "marlin", MARLIN_SOURCES, arguments),
    ]
    print(":".join(str(path) for path in libraries))


if __name__ == "__main__":
    main()
