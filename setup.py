"""What pyproject.toml cannot say: one requirements list in two halves, data/ in the package."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

module, book = Path("requirements.txt").read_text().split("# --- book and tests ---")


class BuildPy(build_py):
    """Of the folders that only lend files to the package, takes no scripts along."""

    def find_package_modules(self, package, package_dir):
        if package.startswith("jlebm_core.shipped"):
            return []
        return super().find_package_modules(package, package_dir)


SHIPPED = {"jlebm_core.shipped": "data", "jlebm_core.shipped.benchmarks": "benchmarks"}

setup(
    cmdclass={"build_py": BuildPy},
    install_requires=module,
    extras_require={"book": book},
    # Small weights and results travel inside an installed package; jlebm_core/paths.py finds them.
    packages=[*find_packages(include=["jlebm_core*"]), *SHIPPED],
    package_dir=SHIPPED,
    package_data={
        "jlebm_core": ["py.typed", "**/*.js", "**/*.css", "**/*.c"],
        "jlebm_core.shipped": ["checkpoints/**/*", "results/**/*"],
        "jlebm_core.shipped.benchmarks": ["results.json"],
    },
    include_package_data=False,  # else data/cache and data/runs could slip in
)
