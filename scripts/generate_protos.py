"""Generate the Python stubs of every Trillium proto, with their type stubs.

    python scripts/generate_protos.py            # write them into the tree
    python scripts/generate_protos.py --check    # exit 1 and name them if any is out of date

With them goes `trillium/descriptors.binpb`: the descriptors with the comments of the protos, which
server reflection answers with.

The stubs land next to the package that their proto names (`trillium.predictor.v1` becomes
`trillium/predictor/v1/`), so that protoc's own absolute imports hold from a bare checkout, an
editable install and a wheel alike. The generators are pinned in pyproject.toml, and not at their
newest: generated code needs a runtime at least as new as its generator.

The Open Inference Protocol (`protos/inference/`) is everybody's: each client of it registers the
same names, and the second one to come is refused. Our messages of it go into `trillium/oip/` and
live in a descriptor pool of their own, so that they are in nobody's way.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi", "descriptors.binpb")


FOREIGN = PROTOS / "inference"
FOREIGN_AT = "trillium/oip"
"""Where the messages of `FOREIGN` are imported from, and the path that their descriptors name."""
SHARED_POOL = "_descriptor_pool.Default()"
OWN_POOL = "_descriptor_pool.DescriptorPool()"


def proto_files() -> list[Path]:
    """Our own protos; the vendored google ones have packages of their own on PyPI."""
    return sorted((PROTOS / "trillium").rglob("*.proto"))


def foreign_proto_files() -> list[Path]:
    """Protos of names that are not ours alone."""
    return sorted(FOREIGN.rglob("*.proto"))


def generate(destination: Path) -> None:
    """Write the stubs and descriptors of every proto below `destination`."""
    with_services = [path for path in proto_files() if "\nservice " in path.read_text()]
    for files in (proto_files(), foreign_proto_files()):
        _protoc(files, f"--python_out={destination}", f"--mypy_out=quiet:{destination}")
    for path in foreign_proto_files():
        _move_into_own_pool(destination / FOREIGN_AT / f"{path.stem}_pb2.py")
    _protoc(
        [*proto_files(), *foreign_proto_files()],
        f"--descriptor_set_out={destination / 'trillium' / 'descriptors.binpb'}",
        "--include_source_info",
    )
    _protoc(
        with_services,
        f"--grpc_python_out={destination}",
        f"--mypy_grpc_out=quiet:{destination}",
    )


def _move_into_own_pool(module: Path) -> None:
    text = module.read_text()
    if text.count(SHARED_POOL) != 1:
        raise SystemExit(f"{module.name} does not name {SHARED_POOL} once: see OWN_POOL")
    module.write_text(text.replace(SHARED_POOL, OWN_POOL))


def _protoc(files: Sequence[Path], *outputs: str) -> None:
    well_known = resources.files("grpc_tools") / "_proto"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    status = protoc.main(
        [
            "protoc",
            f"-I{FOREIGN_AT}={FOREIGN}",
            f"-I{PROTOS}",
            f"-I{well_known}",
            *outputs,
            *(str(path) for path in files),
        ]
    )
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")


def _stubs(root: Path) -> set[Path]:
    found = {path for pattern in GENERATED for path in (root / "trillium").rglob(pattern)}
    return {path.relative_to(root) for path in found}


def out_of_date(fresh: Path) -> list[Path]:
    """Stubs in the tree that are missing, changed or left over, compared with `fresh`."""
    wanted, present = _stubs(fresh), _stubs(ROOT)
    changed = {
        path
        for path in wanted & present
        if not filecmp.cmp(fresh / path, ROOT / path, shallow=False)
    }
    return sorted((wanted ^ present) | changed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; answers the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="only compare, write nothing")
    check = parser.parse_args(arguments).check
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        stale = out_of_date(fresh)
        if check:
            for path in stale:
                print(f"out of date: {path}", file=sys.stderr)
            if stale:
                print("run: make protos", file=sys.stderr)
            return 1 if stale else 0
        for path in stale:
            target = ROOT / path
            if (fresh / path).exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(fresh / path, target)
            else:
                target.unlink()
            print(f"updated: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
