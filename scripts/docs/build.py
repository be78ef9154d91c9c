"""Build the documentation as a website that works offline, into build/docs/html.

    python scripts/docs/build.py

The pages are the Markdown files, the comments of the protos, and the docstrings of `trillium` and
`trillium.training`. A warning of Sphinx, a link inside the site that leads nowhere, and anything
that a page would load from elsewhere fail it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from urllib.parse import unquote, urlsplit

from google.protobuf import descriptor_pb2 as pb

import trillium
import trillium.training

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "docs"
SOURCE, HTML = BUILD / "source", BUILD / "html"

COPIED = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", ".env"),
    *("docs", "notebooks"),
)
_PROTO_LINK = re.compile(r"\]\((?:\.\./)?protos/[^)]*\)")
"""A link to the protos, which have a page here."""
_SECTION = re.compile(r"^## (.+)\n((?:\n?- .*)+)", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#]+\.md)\)")
_LABELS = {1: "optional ", 2: "", 3: "repeated "}


def write_source() -> None:
    """The pages, with a front page that lists them."""
    shutil.rmtree(BUILD, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, SOURCE / name)
    (SOURCE / "protos.md").write_text("\n".join(protos_page()))
    (SOURCE / "reference.md").write_text("\n".join(python_page()))
    readme = (ROOT / "README.md").read_text()
    (SOURCE / "index.md").write_text(readme + "\n" + "\n".join(contents()))
    for page in SOURCE.rglob("*.md"):
        to_root = "../" * (len(page.relative_to(SOURCE).parts) - 1)
        text = _PROTO_LINK.sub(f"]({to_root}protos.md)", page.read_text())
        page.write_text(text.replace("](../README.md", "](../index.md"))


def contents() -> Iterator[str]:
    """The tables of contents, which the index of the documentation has as sections."""
    index = (ROOT / "docs" / "README.md").read_text()
    sections = {title: _LINK.findall(listed) for title, listed in _SECTION.findall(index)}
    pages = {
        title: [path.removeprefix("../") if path.startswith("../") else f"docs/{path}"
                for path in paths]
        for title, paths in sections.items()
    }  # fmt: skip
    pages["Reference"] = ["reference.md", "protos.md", "docs/README.md"]
    for title, paths in pages.items():
        yield from ("```{toctree}", ":hidden:", f":caption: {title}", "", *paths, "```", "")
    design = sorted((ROOT / "docs" / "design").glob("*.md"))
    listed = [path.name for path in design if path.name != "README.md"]
    page = SOURCE / "docs" / "design" / "README.md"
    page.write_text(
        page.read_text() + "\n".join(("\n```{toctree}", ":hidden:", "", *listed, "```"))
    )


def python_page() -> Iterator[str]:
    """The reference of the Python API."""
    yield from ("# Python", "")
    for title, module in (("trillium", trillium), ("trillium.training", trillium.training)):
        yield from (f"## {title}", "", "```{eval-rst}")
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, type):
                kind = "exception" if issubclass(value, BaseException) else "class"
                yield from (f".. auto{kind}:: {title}.{name}", "")
            elif callable(value):
                yield from (f".. autofunction:: {title}.{name}", "")
        yield from ("```", "")


def protos_page() -> Iterator[str]:
    """The reference of every service and message, from the comments of the protos."""
    raw = (resources.files("trillium") / "descriptors.binpb").read_bytes()
    yield from ("# Protos", "", "Every service and message, as the `.proto` files describe them.")
    for file in pb.FileDescriptorSet.FromString(raw).file:
        comments = {
            tuple(each.path): each.leading_comments.strip() or each.trailing_comments.strip()
            for each in file.source_code_info.location
        }
        yield from ("", f"## {file.package}: `{Path(file.name).name}`", "", comments.get((12,), ""))
        for index, service in enumerate(file.service):
            yield from ("", f"### service {service.name}", "", comments.get((6, index), ""))
            for place, rpc in enumerate(service.method):
                ways = (
                    (rpc.client_streaming, rpc.input_type),
                    (rpc.server_streaming, rpc.output_type),
                )
                took, gave = (f"{'stream ' * flag}{_short(kind)}" for flag, kind in ways)
                yield from ("", f"#### {service.name}.{rpc.name}", "")
                yield from (f"`rpc {rpc.name}({took}) returns ({gave})`", "")
                yield comments.get((6, index, 2, place), "")
        for index, message in enumerate(file.message_type):
            yield from _message(message, message.name, (4, index), comments)
        for index, enum in enumerate(file.enum_type):
            yield from _enum(enum, enum.name, (5, index), comments)


def _message(
    message: pb.DescriptorProto,
    name: str,
    path: tuple[int, ...],
    comments: dict[tuple[int, ...], str],
) -> Iterator[str]:
    if message.options.map_entry:
        return
    yield from ("", f"### {name}", "", comments.get(path, ""), "")
    for index, field in enumerate(message.field):
        kind = _short(field.type_name) or pb.FieldDescriptorProto.Type.Name(field.type)[5:].lower()
        label = _LABELS[field.label] if field.label == 3 or field.proto3_optional else ""
        note = comments.get((*path, 2, index), "").replace("\n", "\n  ")
        yield f"- `{label}{kind} {field.name} = {field.number}`{': ' if note else ''}{note}"
    for index, nested in enumerate(message.nested_type):
        yield from _message(nested, f"{name}.{nested.name}", (*path, 3, index), comments)
    for index, enum in enumerate(message.enum_type):
        yield from _enum(enum, f"{name}.{enum.name}", (*path, 4, index), comments)


def _enum(
    enum: pb.EnumDescriptorProto,
    name: str,
    path: tuple[int, ...],
    comments: dict[tuple[int, ...], str],
) -> Iterator[str]:
    yield from ("", f"### {name}", "", comments.get(path, ""), "")
    for index, value in enumerate(enum.value):
        note = comments.get((*path, 2, index), "").replace("\n", "\n  ")
        yield f"- `{value.name} = {value.number}`{': ' if note else ''}{note}"


def _short(type_name: str) -> str:
    return type_name.rpartition(".")[2]


class _Page(HTMLParser):
    """What a page links to, what it loads, and where it can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Called for each element."""
        found = {key: value for key, value in attrs if value is not None}
        self.anchors.update(found[key] for key in ("id", "name") if key in found)
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in ("script", "img", "link", "iframe"):
            self.loaded += [found[key] for key in ("src", "href") if key in found]


def faults(html: Path) -> Iterator[str]:
    """Links inside the site that lead nowhere, and what its pages would load from elsewhere."""
    pages = {path: _Page(path) for path in sorted(html.rglob("*.html"))}
    for path, page in pages.items():
        where = path.relative_to(html)
        for url in (*page.links, *page.loaded):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                if url in page.loaded:
                    yield f"{where} loads {url}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                yield f"{where} links to {url}, which is not there"
            elif parts.fragment and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{where} links to {url}, which has no such place"


def main() -> int:
    """Build and check; the answer is the exit status."""
    write_source()
    sphinx = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    done = subprocess.run([*sphinx, "-c", str(HERE), str(SOURCE), str(HTML)], check=False)
    if done.returncode:
        return done.returncode
    found = list(faults(HTML))
    print("\n".join(found) or f"{HTML.relative_to(ROOT)}/index.html", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
