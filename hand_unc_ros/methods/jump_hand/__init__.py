"""JUMP-Hand: 2D Gaussians in each view, triangulated and refined by a decoder over all views."""
