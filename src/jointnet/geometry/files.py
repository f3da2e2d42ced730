"""Meshes and point clouds as files: .glb (textured) and .ply."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jointnet.errors import OutputError
from jointnet.geometry.mesh import Mesh

SUFFIXES = (".glb", ".ply")


def check_mesh_path(path: Path) -> None:
    """Raises: OutputError for a suffix that is not one of SUFFIXES."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"got output file {str(path)!r}; expected one that ends in {' or '.join(SUFFIXES)}")


@dataclass(frozen=True)
class MeshFile:
    """A mesh that knows how to write itself, for sets of files."""

    mesh: Mesh

    def write(self, path: Path) -> None:
        """Raises: OutputError."""
        write_mesh(self.mesh, path)


def write_mesh(mesh: Mesh, path: Path) -> Path:
    """Write .glb: the mesh with its picture as texture, unlit by nothing but the viewer's light; .ply: a coloured point cloud with normals.

    The file appears whole or not at all. Raises: OutputError for another suffix, a mesh without faces as .glb, or a place that cannot be
    written.
    """
    import trimesh

    check_mesh_path(path)
    if path.suffix.lower() == ".glb":
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
    else:
        count = mesh.picture.shape[0] * mesh.picture.shape[1]
        keep = np.arange(len(mesh.points)).reshape(mesh.picture.shape[0], -1)[:, : mesh.picture.shape[1]].reshape(-1)
        cloud = trimesh.Trimesh(
            vertices=mesh.points[keep],
            vertex_normals=mesh.normals[keep],
            vertex_colors=mesh.picture.reshape(count, 3),
            process=False,
        )
        content = cloud.export(file_type="ply", vertex_normal=True)
    assert isinstance(content, bytes), "both formats are binary"
    unfinished = path.with_name(f".{path.name}")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}; choose another place with -o") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return path
