"""Depth teachers: frozen networks that label photographs with relative inverse depth.

base            what a teacher is; kinds, plug-ins, `load_teacher`
preprocessing   size rules, mean and std
cards           what a weight file does not say about itself
hf              `hf:NAME_OR_FOLDER`, depth-estimation models of transformers
onnx            `onnx:FILE`, any ONNX network with a card
"""

from __future__ import annotations

from pipeline.teachers.base import (
    DeviceTeacher,
    OutOfMemory,
    Provenance,
    Teacher,
    TeacherError,
    known_kinds,
    load_teacher,
    register_kind,
)

__all__ = [
    "DeviceTeacher",
    "OutOfMemory",
    "Provenance",
    "Teacher",
    "TeacherError",
    "known_kinds",
    "load_teacher",
    "register_kind",
]
