"""From maps to space: projections, disparity to depth, meshes and their files."""
