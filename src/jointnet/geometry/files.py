"""Meshes and point clouds as files: .glb (textured) and .ply."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jointnet.errors import OutputError
from jointnet.files.atomic import write_bytes
from jointnet.files.result_set import filling
from jointnet.geometry.mesh import Mesh
from jointnet.geometry.suffixes import check_mesh_path


@dataclass(frozen=True)
class MeshFile:
    """A mesh as one of the files of a result (a ``files.result_set.Writable``)."""

    mesh: Mesh

    def write(self, path: Path) -> None:
        """Write .glb or .ply, by the suffix. Raises: OSError, OutputError."""
        path.write_bytes(_content(self.mesh, path))


def write_mesh(mesh: Mesh, path: str | Path) -> Path:
    """Write .glb: the mesh with its picture as texture; .ply: a coloured point cloud with normals.

    The file appears whole or not at all; its folder is created.
    Raises: OutputError for another suffix, a mesh without faces as .glb, or a place that cannot be written.
    """
    path = Path(path)
    content = _content(mesh, path)
    try:
        with filling(path.parent):
            write_bytes(path, content)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}; choose another place with -o") from error
    return path


def _content(mesh: Mesh, path: Path) -> bytes:
    """Return the file's content, by the suffix of ``path``. Raises: OutputError for another suffix, or no faces for a .glb."""
    check_mesh_path(path)
    return _textured_mesh(mesh) if path.suffix.lower() == ".glb" else _point_cloud(mesh)


def _textured_mesh(mesh: Mesh) -> bytes:
    """Return the .glb. Raises: OutputError without faces."""
    import trimesh

    if not len(mesh.faces):
        raise OutputError("got a mesh whose triangles are all cut at depth edges; raise the edge threshold or write a .ply")
    used, faces = np.unique(mesh.faces, return_inverse=True)
    material = trimesh.visual.material.PBRMaterial(
        name="picture", baseColorTexture=Image.fromarray(mesh.picture), metallicFactor=0.0, roughnessFactor=1.0
    )
    content = trimesh.Trimesh(
        vertices=mesh.points[used],
        faces=faces.reshape(-1, 3),
        vertex_normals=mesh.normals[used],
        visual=trimesh.visual.TextureVisuals(uv=mesh.uv[used], material=material),
        process=False,
    ).export(file_type="glb", include_normals=True)
    assert isinstance(content, bytes), "the format is binary"
    return content


def _point_cloud(mesh: Mesh) -> bytes:
    """Return the .ply, one point a pixel."""
    import trimesh

    height, width = mesh.picture.shape[:2]
    keep = np.arange(len(mesh.points)).reshape(height, -1)[:, :width].reshape(-1)
    content = trimesh.Trimesh(
        vertices=mesh.points[keep],
        vertex_normals=mesh.normals[keep],
        vertex_colors=mesh.picture.reshape(height * width, 3),
        process=False,
    ).export(file_type="ply", vertex_normal=True)
    assert isinstance(content, bytes), "the format is binary"
    return content
