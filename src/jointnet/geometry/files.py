"""Meshes and point clouds as files: .glb (textured) and .ply."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from jointnet.errors import OutputError
from jointnet.files.atomic import write_bytes
from jointnet.files.marks import MARK, marked
from jointnet.files.result_set import filling
from jointnet.geometry.mesh import Mesh
from jointnet.geometry.suffixes import check_mesh_path

_UINT32, _FLOAT32, _VERTICES, _INDICES = 5125, 5126, 34962, 34963
"""glTF's numbers of types and of what a buffer holds."""


@dataclass(frozen=True)
class MeshFile:
    """A mesh as one of the files of a result (a ``files.result_set.Writable``)."""

    mesh: Mesh

    def write(self, path: Path) -> None:
        """Write .glb or .ply, by the suffix. Raises: OSError, OutputError."""
        path.write_bytes(_content(self.mesh, path))


def write_mesh(mesh: Mesh, path: str | Path) -> Path:
    """Write .glb: the mesh with its picture as texture; .ply: a coloured point cloud with normals.

    The file appears whole or not at all, in the place of one of its name; its folder is created. The content holds a mark
    (``files.marks``), by which ``jointnet mesh`` replaces its own files only.
    Raises: OutputError for another suffix, a mesh without faces as .glb, or a place that cannot be written.
    """
    path = Path(path)
    content = _content(mesh, path)
    try:
        with filling(path.parent):
            write_bytes(path, content)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}; choose another place with -o") from error
    return path


def _content(mesh: Mesh, path: Path) -> bytes:
    """Return the file's content, by the suffix of ``path``. Raises: OutputError for another suffix, or no faces for a .glb."""
    check_mesh_path(path)
    return marked(_textured_mesh(mesh) if path.suffix.lower() == ".glb" else _point_cloud(mesh))


def _textured_mesh(mesh: Mesh) -> bytes:
    """Return the .glb: one mesh, the picture its base colour. Source: glTF 2.0, Sec. 4.4. Raises: OutputError without faces."""
    if not len(mesh.faces):
        raise OutputError("got a mesh whose triangles are all cut at depth edges; raise the edge threshold or write a .ply")
    is_used = np.zeros(len(mesh.points), bool)
    is_used[mesh.faces] = True
    used, faces = np.flatnonzero(is_used), (np.cumsum(is_used) - 1)[mesh.faces]
    points, normals = (values[used].astype("<f4") for values in (mesh.points, mesh.normals))
    uv = (mesh.uv[used] * (1, -1) + (0, 1)).astype("<f4")  # (0, 0) is the picture's upper left corner there
    picture = BytesIO()
    Image.fromarray(mesh.picture).save(picture, format="PNG")
    parts = [faces.reshape(-1).astype("<u4").tobytes(), points.tobytes(), normals.tobytes(), uv.tobytes(), picture.getvalue()]
    views, start = [], 0
    for part, target in zip(parts, (_INDICES, _VERTICES, _VERTICES, _VERTICES, None), strict=True):
        views.append({"buffer": 0, "byteOffset": start, "byteLength": len(part), **({"target": target} if target else {})})
        start += _padded(len(part))
    bounds = {"min": points.min(0).tolist(), "max": points.max(0).tolist()}
    kinds = [
        ("SCALAR", _UINT32, faces.size, {}),
        ("VEC3", _FLOAT32, len(used), bounds),
        *((k, _FLOAT32, len(used), {}) for k in ("VEC3", "VEC2")),
    ]
    content = {
        "asset": {"version": "2.0", "generator": "jointnet", "extras": {"origin": MARK.decode()}},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "scene"}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 1, "NORMAL": 2, "TEXCOORD_0": 3}, "indices": 0, "material": 0}]}],
        "materials": [
            {
                "name": "picture",
                "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0},
            }
        ],
        "textures": [{"source": 0}],
        "images": [{"bufferView": 4, "mimeType": "image/png"}],
        "accessors": [
            {"bufferView": view, "componentType": component, "type": kind, "count": int(count), **more}
            for view, (kind, component, count, more) in enumerate(kinds)
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": start}],
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    chunks = _chunk(b"JSON", text, b" ") + _chunk(b"BIN\0", b"".join(part.ljust(_padded(len(part)), b"\0") for part in parts), b"\0")
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _padded(length: int) -> int:
    """Return the next multiple of 4 bytes, at which every part of a .glb begins."""
    return -(-length // 4) * 4


def _chunk(kind: bytes, content: bytes, filler: bytes) -> bytes:
    content = content.ljust(_padded(len(content)), filler)
    return struct.pack("<I4s", len(content), kind) + content


def _point_cloud(mesh: Mesh) -> bytes:
    """Return the .ply, one point a pixel, in the binary form."""
    height, width = mesh.picture.shape[:2]
    keep = np.arange(len(mesh.points)).reshape(height, -1)[:, :width].reshape(-1)
    names = ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue", "alpha"]
    rows = np.empty(len(keep), [(name, "<f4" if index < 6 else "u1") for index, name in enumerate(names)])
    values = [*mesh.points[keep].T, *mesh.normals[keep].T, *mesh.picture.reshape(-1, 3).T, 255]
    for name, value in zip(names, values, strict=True):
        rows[name] = value
    properties = "".join(f"property {'float' if index < 6 else 'uchar'} {name}\n" for index, name in enumerate(names))
    header = f"ply\nformat binary_little_endian 1.0\ncomment {MARK.decode()}\nelement vertex {len(keep)}\n{properties}end_header\n"
    return header.encode() + rows.tobytes()
