"""Builds the extension `editcaption_mega.kernels._C` from csrc/, with whatever compilers the machine has.

- A C++ compiler gives the CPU variant: one set of inner loops per instruction set, chosen at run time, so the build of
  one machine serves another. OpenMP is used where the compiler has it.
- nvcc on the PATH (or under CUDA_HOME) adds the CUDA variant, for the architectures in EDITCAPTION_CUDA_ARCHS (default
  "80;90;100+PTX"; empty leaves CUDA out). Those that this nvcc does not know are left out, and named. When nvcc fails,
  the build says so and goes on without it.
- ninja compiles in parallel (MAX_JOBS at a time), and only what changed; without it everything is compiled in turn.
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
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CCompilerError, ExecError, PlatformError

ROWS = ("csrc/log_probs_rows.cpp", "csrc/elementwise_rows.cpp")  # compiled once for each variant
CUDA = ("csrc/log_probs.cu", "csrc/experts.cu", "csrc/elementwise.cu")
DEFAULT_CUDA_ARCHS = "80;90;100+PTX"
# (name, flags to try in order, macro that tells csrc/instruction_sets.h the variant exists)
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


class Architecture(NamedTuple):
    """A kind of GPU to build for: `number` as in sm_90; ptx: also code that newer GPUs compile for themselves."""

    number: str
    ptx: bool

    def __str__(self) -> str:
        return self.number + ("+PTX" if self.ptx else "")

    def flag(self) -> str:
        codes = [f"sm_{self.number}"] + ([f"compute_{self.number}"] if self.ptx else [])
        return f"-gencode=arch=compute_{self.number},code=[{','.join(codes)}]"


def wanted_architectures(archs: str) -> list[Architecture]:
    """A list like "80;90;100+PTX" (dots are allowed: "9.0")."""
    wanted = []
    for entry in archs.replace(",", ";").split(";"):
        number, plus, suffix = entry.strip().replace(".", "").partition("+")
        if not number.rstrip("af").isdigit() or (plus and suffix.upper() != "PTX"):
            raise SystemExit(f'EDITCAPTION_CUDA_ARCHS: found {archs!r}, expected a list such as "80;90;100+PTX"')
        wanted.append(Architecture(number, bool(plus)))
    return wanted


def known_architectures(nvcc: str, wanted: list[Architecture]) -> tuple[list[Architecture], list[Architecture]]:
    """(those that this nvcc can build for, the others). When PTX was asked for with one of the others, the newest that
    stays gets it, so that newer GPUs are still served. An nvcc that cannot say what it knows is taken to know all."""
    try:
        listed = subprocess.run([nvcc, "--list-gpu-code"], check=True, capture_output=True, text=True).stdout.split()
    except BUILD_ERRORS:
        return wanted, []
    known = [arch for arch in wanted if f"sm_{arch.number}" in listed]
    others = [arch for arch in wanted if arch not in known]
    if known and any(arch.ptx for arch in others) and not any(arch.ptx for arch in known):
        known[-1] = known[-1]._replace(ptx=True)
    return known, others


def cuda_library_folders(nvcc: str) -> list[str]:
    """The linker's -L flags for the CUDA runtime, as nvcc itself states them (it may be a link or a wrapper)."""
    with tempfile.NamedTemporaryFile(suffix=".cu") as empty:
        output = subprocess.run([nvcc, "-dryrun", "-c", empty.name], check=True, capture_output=True, text=True).stderr
    line = next((line for line in output.splitlines() if "LIBRARIES=" in line), "")
    return shlex.split(line.partition("LIBRARIES=")[2])


def nvcc_command(nvcc: str, archs: list[Architecture], includes: list[str]) -> list[str]:
    flags = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", "--threads", "0"]
    return [nvcc, *flags, *(arch.flag() for arch in archs), *includes, "-DECM_WITH_CUDA=1"]


class Step(NamedTuple):
    """One compilation. The command also writes `target`.d, the headers that the source includes."""

    source: str
    target: str
    command: list[str]


def find_ninja() -> str | None:
    try:
        import ninja
    except ImportError:
        return shutil.which("ninja")
    return os.path.join(ninja.BIN_DIR, "ninja")


def run_steps(folder: str, steps: list[Step]) -> None:
    """Compile what changed with ninja, or without it everything, one after another."""
    program = find_ninja()
    if program is None:
        for step in steps:
            print(shlex.join(step.command), flush=True)
            subprocess.run(step.command, check=True)
        return
    lines = [
        f"builddir = {ninja_path(folder)}",
        "rule compile",
        "  command = $command",
        "  deps = gcc",
        "  depfile = $out.d",
    ]
    for step in steps:
        command = shlex.join(step.command).replace("$", "$$")
        lines += [f"build {ninja_path(step.target)}: compile {ninja_path(step.source)}", f"  command = {command}"]
    file = os.path.join(folder, "build.ninja")
    with open(file, "w") as out:
        out.write("\n".join(lines) + "\n")
    jobs = os.environ.get("MAX_JOBS", "")
    subprocess.run([program, "-f", file, *(["-j", jobs] if jobs else [])], check=True)


def ninja_path(path: str) -> str:
    return path.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


class BuildPackage(build_py):
    """build_py that puts configs/ into the package; a clone, and an editable install of one, uses configs/ itself."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._configs():
                self.mkpath(os.path.dirname(target))
                self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, *(target for _, target in self._configs())]

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *(source for source, _ in self._configs())]

    def _configs(self) -> list[tuple[str, str]]:
        files = [path for path in glob.glob("configs/**", recursive=True) if os.path.isfile(path)]
        return [(path, os.path.join(self.build_lib, "editcaption_mega", path)) for path in sorted(files)]


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

        if self.compiler.compiler_type != "unix":
            raise CCompilerError(
                f"the build knows g++ and clang++, not a compiler of type {self.compiler.compiler_type}"
            )
        self._folder = os.path.join(self.build_temp, "kernels")
        includes = [f"-I{folder}" for folder in (*self.compiler.include_dirs, "csrc", pybind11.get_include())]
        common = ["-std=c++17", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"]
        sanitize = os.environ.get("EDITCAPTION_SANITIZE", "") not in ("", "0")
        sanitizers = ["-fsanitize=address,undefined"] if sanitize else []
        if sanitize:
            common += ["-g", "-fno-omit-frame-pointer", *sanitizers, "-fno-sanitize-recover=undefined"]
        if not self._works(common):
            raise CCompilerError("no C++17 compiler that works: install g++ or clang++, or set CXX")
        openmp = ["-fopenmp"] if self._works(["-fopenmp"], link=["-fopenmp"]) else []
        variants = self._instruction_sets()
        macros = [f"-D{macro}=1" for _, _, macro in variants if macro]
        nvcc, archs = (None, []) if sanitize else self._cuda()

        def compile_all(nvcc: str | None) -> list[str]:
            cxx = [*self.compiler.compiler_so_cxx, *includes, *common, *macros]
            steps = [
                self._step(source, name, [*cxx, *flags, f"-DECM_ISA={name}"])
                for source in ROWS for name, flags, _ in variants
            ]  # fmt: skip
            cuda = []
            if nvcc:
                steps += [self._step(source, "cuda", nvcc_command(nvcc, archs, includes)) for source in CUDA]
                names = ";".join(map(str, archs))
                cuda = ["-DECM_WITH_CUDA=1", f'-DECM_CUDA_ARCHITECTURES="{names}"']
            for source in ext.sources:
                if source not in ROWS:
                    steps.append(self._step(source, "common", [*cxx, *openmp, *cuda]))
            run_steps(self._folder, steps)
            return [step.target for step in steps]

        libraries = []
        if nvcc:
            try:
                libraries = [*cuda_library_folders(nvcc), "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
                objects = compile_all(nvcc)
            except BUILD_ERRORS as error:
                print(f"editcaption_mega: no CUDA variant, the build with {nvcc} failed: {error}", flush=True)
                nvcc, libraries = None, []
        if not nvcc:
            objects = compile_all(None)
        target = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        link = openmp + libraries + sanitizers
        self.compiler.link_shared_object(objects, target, extra_postargs=link, target_lang="c++")
        names = [name for name, _, _ in variants] + ([f"cuda ({';'.join(map(str, archs))})"] if nvcc else [])
        threads = "with OpenMP" if openmp else "without OpenMP: one thread"
        print(f"editcaption_mega: built {ext.name}: {', '.join(names)} ({threads})", flush=True)

    def _instruction_sets(self) -> list[tuple[str, list[str], str | None]]:
        """(name, flags, macro) of each variant of the inner loops that this compiler can build."""
        # Without -fno-trapping-math g++ keeps comparisons as branches below AVX-512 and most loops stay scalar. It
        # gives up the floating-point exception flags, which nobody reads; NaN and infinity keep their meaning.
        simd = [flag for flag in ("-fopenmp-simd", "-fno-trapping-math") if self._works([flag])]
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        variants = []
        for name, choices, macro in X86_VARIANTS if x86 else PORTABLE_VARIANTS:
            flags = next((choice for choice in choices if self._works(choice)), None)
            if flags is not None:
                variants.append((name, simd + flags, macro))
        return variants

    def _cuda(self) -> tuple[str | None, list[Architecture]]:
        """(nvcc and what to build for), or (None, []) where there is no nvcc or nothing that it could build for."""
        archs = os.environ.get("EDITCAPTION_CUDA_ARCHS", DEFAULT_CUDA_ARCHS)
        nvcc = find_nvcc() if archs else None
        if not nvcc:
            return None, []
        known, others = known_architectures(nvcc, wanted_architectures(archs))
        if others:
            names = ", ".join(f"sm_{arch.number}" for arch in others)
            print(
                f"editcaption_mega: {nvcc} does not know {names}: left out; a newer CUDA toolkit has them", flush=True
            )
        if not known:
            print("editcaption_mega: no CUDA variant, because nothing is left to build it for", flush=True)
        return (nvcc, known) if known else (None, [])

    def _step(self, source: str, variant: str, command: list[str]) -> Step:
        target = os.path.join(self._folder, variant, os.path.basename(source) + ".o")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        return Step(source, target, [*command, "-MD", "-MF", f"{target}.d", "-c", source, "-o", target])

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
            sources=[*sorted(glob.glob("csrc/bindings*.cpp")), *sorted(glob.glob("csrc/*_cpu.cpp")), *ROWS],
            depends=sorted(glob.glob("csrc/*.h") + glob.glob("csrc/*.cu*")),
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildKernels, "build_py": BuildPackage},
)
