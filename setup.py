"""What pyproject.toml cannot say: one requirements list in two halves, data/ in the package."""

from pathlib import Path

from setuptools import find_packages, setup

module, book = Path("requirements.txt").read_text().split("# --- book and tests ---")

setup(
    install_requires=module,
    extras_require={"book": book},
    # Small weights and results travel inside an installed package; jlebm_core/paths.py finds them.
    packages=[*find_packages(include=["jlebm_core*"]), "jlebm_core.shipped"],
    package_dir={"jlebm_core.shipped": "data"},
    package_data={
        "jlebm_core": ["py.typed", "**/*.js", "**/*.css", "**/*.c"],
        "jlebm_core.shipped": ["checkpoints/**/*", "results/**/*"],
    },
    include_package_data=False,  # else data/cache and data/runs could slip in
)
