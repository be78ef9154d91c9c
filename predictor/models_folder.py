"""The artifacts that a predictor reads itself."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path

from trillium.errors import ModelNotFound
from trillium.model import declared
from trillium.model.declared import DeclaredFacts


@dataclass(frozen=True, slots=True)
class ModelsFolder:
    """Where artifacts may come from, and how large they may be."""

    path: Path | None
    """Holds `<name>.onnx`; None if the predictor reads none itself."""
    max_bytes: int

    @property
    def names(self) -> list[str]:
        """The models that can be loaded by name, sorted."""
        return [] if self.path is None else sorted(each.stem for each in self.path.glob("*.onnx"))

    async def read(self, name: str) -> tuple[bytes, str, DeclaredFacts]:
        """The artifact of that name, its SHA-256, and the facts in the file next to it.

        Raises ModelNotFound, which lists the models that exist, and ModelRejected.
        """
        if self.path is None:
            text = f"no model {name!r}: the predictor reads no artifacts itself (--models-dir)"
            raise ModelNotFound(f"{text}; send its chunks")
        path = self.path / f"{name}.onnx"
        if not path.is_file():
            names = ", ".join(self.names) or "none"
            text = f"no model {name!r} in the predictor's models directory"
            raise ModelNotFound(f"{text}; available: {names}")
        return await asyncio.to_thread(read_artifact, path, self.max_bytes)


def read_artifact(path: Path, max_bytes: int) -> tuple[bytes, str, DeclaredFacts]:
    """An artifact, its SHA-256, and the facts in the file next to it.

    Raises ModelNotFound, ModelRejected.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ModelNotFound(
                f"{path} is too large: expected at most {max_bytes} bytes, got {size}"
            )
        artifact = path.read_bytes()
    except OSError as error:
        raise ModelNotFound(f"cannot read the model {path}: {error.strerror}") from error
    return artifact, hashlib.sha256(artifact).hexdigest(), declared.next_to(path)
