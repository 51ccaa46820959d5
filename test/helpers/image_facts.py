"""What the Dockerfile and the requirements files say of the image."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = re.compile(r"^ARG BASE_IMAGE=\S+/pytorch:([0-9.]+)-cuda([0-9.]+)-cudnn9-runtime$", re.M)


def base() -> tuple[str, str, str]:
    """torch, CUDA and Python of the Dockerfile's base image; of its comment, too."""
    text = (ROOT / "Dockerfile").read_text()
    tag = BASE.search(text)
    comment = re.search(r"^# PyTorch ([0-9.]+), CUDA ([0-9.]+), Python ([0-9.]+)\. ", text, re.M)
    assert tag is not None and comment is not None and tag.groups() == comment.groups()[:2]
    return comment[1], comment[2], comment[3]


def pins(name: str) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return dict(line.split("==") for line in lines if "==" in line)
