"""Builds the extension `editcaption_mega.kernels._C` from csrc/, with whatever compilers the machine has.

- A C++ compiler gives the CPU variant: one set of inner loops per instruction set, chosen at run time, so the build of
  one machine serves another. OpenMP is used where the compiler has it.
- nvcc on the PATH (or under CUDA_HOME) adds the CUDA variant, for the architectures in EDITCAPTION_CUDA_ARCHS (default
  "80;90;100+PTX"; empty leaves CUDA out). When nvcc fails, the build says so and goes on without it.
- No compiler: the package installs without the extension and says so once, at first use.
- EDITCAPTION_SANITIZE=1 builds the CPU variant with AddressSanitizer and UBSan (`make sanitize` runs the tests on it).
"""

import glob
import os
import platform
import shlex
import shutil
import subprocess
import tempfile

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

ROWS = "csrc/log_probs_rows.cpp"
CUDA = "csrc/log_probs.cu"
DEFAULT_CUDA_ARCHS = "80;90;100+PTX"
# (name, flags to try in order, macro that tells log_probs_cpu.cpp the variant exists)
X86_VARIANTS = (
    ("baseline", (["-march=x86-64-v2"], ["-msse4.2"], []), None),
    ("avx2", (["-mavx2", "-mfma"],), "ECM_HAVE_AVX2"),
    (
        "avx512",
        (["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mprefer-vector-width=512"],),
        "ECM_HAVE_AVX512",
    ),
)
PORTABLE_VARIANTS = (("baseline", ([],), None),)
BUILD_ERRORS = (CCompilerError, ExecError, PlatformError, subprocess.CalledProcessError, OSError)


def find_nvcc() -> str | None:
    """The CUDA compiler's path: under CUDA_HOME when that is set, else on the PATH."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=os.path.join(home, "bin")) if home else shutil.which("nvcc")


def gencode_flags(archs: str) -> list[str]:
    """nvcc's flags for a list like "80;90;100+PTX" (dots are allowed: "9.0")."""
    flags = []
    for entry in archs.replace(",", ";").split(";"):
        number, plus, suffix = entry.strip().replace(".", "").partition("+")
        if not number.rstrip("af").isdigit() or (plus and suffix.upper() != "PTX"):
            raise SystemExit(f'EDITCAPTION_CUDA_ARCHS: found {archs!r}, expected a list such as "80;90;100+PTX"')
        codes = [f"sm_{number}"] + ([f"compute_{number}"] if plus else [])
        flags += [f"-gencode=arch=compute_{number},code={code}" for code in codes]
    return flags


def cuda_library_folders(nvcc: str) -> list[str]:
    """The linker's -L flags for the CUDA runtime, as nvcc itself states them (it may be a link or a wrapper)."""
    with tempfile.NamedTemporaryFile(suffix=".cu") as empty:
        told = subprocess.run([nvcc, "-dryrun", "-c", empty.name], check=True, capture_output=True, text=True).stderr
    line = next((line for line in told.splitlines() if "LIBRARIES=" in line), "")
    return shlex.split(line.partition("LIBRARIES=")[2])


class BuildKernels(build_ext):
    """build_ext with one object per instruction set, optional OpenMP and optional CUDA."""

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build(ext)
        except BUILD_ERRORS as error:
            print(f"editcaption_mega: the extension was not built ({error}); PyTorch will be used", flush=True)
            self.missing = True

    def copy_extensions_to_source(self) -> None:
        if not getattr(self, "missing", False):
            super().copy_extensions_to_source()

    def get_outputs(self) -> list[str]:
        return [] if getattr(self, "missing", False) else super().get_outputs()

    def _build(self, ext: Extension) -> None:
        import pybind11

        compiler = self.compiler
        self._folder = os.path.join(self.build_temp, "kernels")
        includes = [*self.compiler.include_dirs, "csrc", pybind11.get_include()]
        common = ["-std=c++17", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"]
        sanitize = os.environ.get("EDITCAPTION_SANITIZE", "") not in ("", "0")
        if sanitize:
            common += ["-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
            common += ["-fno-sanitize-recover=undefined"]
        if not self._works(common):
            raise CCompilerError("no C++17 compiler that works: install g++ or clang++, or set CXX")
        # Without -fno-trapping-math g++ keeps comparisons as branches below AVX-512 and most loops stay scalar. It
        # gives up the floating-point exception flags, which nobody reads; NaN and infinity keep their meaning.
        simd = [flag for flag in ("-fopenmp-simd", "-fno-trapping-math") if self._works([flag])]
        openmp = ["-fopenmp"] if self._works(["-fopenmp"], link=["-fopenmp"]) else []

        rows, macros, built = [], [], []
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        for name, choices, macro in X86_VARIANTS if x86 else PORTABLE_VARIANTS:
            flags = next((choice for choice in choices if self._works(choice)), None)
            if flags is not None:
                rows.append((name, flags))
                macros += [(macro, "1")] if macro else []
                built.append(name)

        def compile_one(source: str, flags: list[str], definitions: list, folder: str) -> list[str]:
            return compiler.compile(
                [source],
                output_dir=os.path.join(self._folder, folder),
                macros=macros + definitions,
                include_dirs=includes,
                extra_postargs=common + flags,
            )

        cuda_objects, libraries, archs = [], [], os.environ.get("EDITCAPTION_CUDA_ARCHS", DEFAULT_CUDA_ARCHS)
        nvcc = find_nvcc() if archs and not sanitize else None
        if nvcc:
            try:
                cuda_objects = [self._nvcc(nvcc, CUDA, archs, includes)]
                libraries = [*cuda_library_folders(nvcc), "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
                built.append(f"cuda ({archs})")
                macros += [("ECM_WITH_CUDA", "1"), ("ECM_CUDA_ARCHITECTURES", f'"{archs}"')]
            except BUILD_ERRORS as error:
                print(f"editcaption_mega: no CUDA variant, {nvcc} failed: {error}", flush=True)
        objects = list(cuda_objects)
        for name, flags in rows:
            objects += compile_one(ROWS, simd + flags, [("ECM_ISA", name)], name)
        for source in ext.sources:
            if source != ROWS:
                objects += compile_one(source, openmp, [], "common")

        target = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        link = openmp + libraries + (["-fsanitize=address,undefined"] if sanitize else [])
        compiler.link_shared_object(objects, target, extra_postargs=link, target_lang="c++")
        threads = "with OpenMP" if openmp else "without OpenMP: one thread"
        print(f"editcaption_mega: built {ext.name}: {', '.join(built)} ({threads})", flush=True)

    def _nvcc(self, nvcc: str, source: str, archs: str, includes: list[str]) -> str:
        target = os.path.join(self._folder, "cuda", os.path.basename(source) + ".o")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        command = [nvcc, "-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", "--threads", "0"]
        command += [*gencode_flags(archs), *(f"-I{folder}" for folder in includes)]
        command += ["-DECM_WITH_CUDA=1", "-c", source, "-o", target]
        print(" ".join(command), flush=True)
        subprocess.run(command, check=True)
        return target

    def _works(self, flags: list[str], link: list[str] | None = None) -> bool:
        """Whether the compiler takes these flags (and the linker `link`), tried on an empty program."""
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "probe.cpp")
            with open(source, "w") as file:
                file.write("int probe() { return 0; }\n")
            try:
                objects = self.compiler.compile([source], output_dir=folder, extra_postargs=[*flags, "-Werror"])
                if link is not None:
                    self.compiler.link_shared_object(objects, os.path.join(folder, "probe.so"), extra_postargs=link)
            except BUILD_ERRORS:
                return False
        return True


setup(
    ext_modules=[
        Extension(
            "editcaption_mega.kernels._C",
            sources=["csrc/bindings.cpp", "csrc/log_probs_cpu.cpp", ROWS],
            depends=sorted(glob.glob("csrc/*.h") + glob.glob("csrc/*.cu")),
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
