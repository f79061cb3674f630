"""What pyproject.toml cannot say: two folders of the checkout become part of the package `paddlecore` in the wheel."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["paddlecore*", "paddlerec*", "paddlecv*", "paddlenlp*"]),
        "paddlecore._configs",
        "paddlecore._pretrained",
    ],
    package_dir={"paddlecore._configs": "configs", "paddlecore._pretrained": "pretrained"},
    package_data={
        "": ["py.typed"],
        "paddlecore._configs": ["**/*.yaml"],
        "paddlecore._pretrained": ["**/*.safetensors*", "**/*.json", "**/*.md"],
    },
)
