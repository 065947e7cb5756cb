"""A 2D landmark network in each view, fused by geometry."""
