"""Which folders become which packages; everything else stands in pyproject.toml.

kernels/ stands beside micrognm/ and is imported as micrognm.kernels. It has no __init__.py, and is never installed as a
top-level package: that name belongs to another project on PyPI.
"""

from setuptools import find_namespace_packages, setup

KERNELS = ["micrognm.kernels"] + [f"micrognm.kernels.{name}" for name in find_namespace_packages("kernels")]

setup(
    packages=find_namespace_packages(include=["micrognm", "micrognm.*"]) + KERNELS,
    package_dir={"micrognm": "micrognm", "micrognm.kernels": "kernels"},
    package_data={name: ["*.cu", "*.cuh", "*.h", "*.md"] for name in KERNELS},
)
