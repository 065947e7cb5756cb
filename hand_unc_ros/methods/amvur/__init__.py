"""AMVUR: one view to a mesh with a variance of every vertex coordinate, by attention, and its texture."""
