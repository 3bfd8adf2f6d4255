"""The one part of the build that is not Python: the fused kernel, a C++ library behind a plain C interface.

It is optional: where it cannot be compiled, bitline installs without it and says so when asked for it.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError


class BuildKernel(build_ext):
    """Builds the kernel; where that fails, none is left of an earlier build."""

    def run(self) -> None:
        for extension in self.extensions:
            Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        """With OpenMP, so that the kernel shares torch's threads; without it where the compiler has none."""
        flags = list(ext.extra_compile_args), list(ext.extra_link_args)
        try:
            ext.extra_compile_args, ext.extra_link_args = [*flags[0], "-fopenmp"], [*flags[1], "-fopenmp"]
            super().build_extension(ext)
        except CompileError:
            ext.extra_compile_args, ext.extra_link_args = flags
            super().build_extension(ext)


setup(
    cmdclass={"build_ext": BuildKernel},
    ext_modules=[
        Extension(
            "bitline.macro.fused._kernel",
            ["src/bitline/macro/fused/kernel.cpp"],
            depends=sorted(str(part) for part in Path("src/bitline/macro/fused/kernel").glob("*.h")),
            language="c++",
            optional=True,
            extra_compile_args=[
                "-O2",
                "-ftree-vectorize",
                "-g0",
                "-std=c++17",
                "-ffp-contract=off",
                "-fno-math-errno",
                "-Wno-psabi",
                "-pthread",
            ],
            extra_link_args=["-pthread"],
        )
    ],
)
