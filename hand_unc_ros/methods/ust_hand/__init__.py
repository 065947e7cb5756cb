"""UST-Hand: Han et al. 2026, An Uncertainty-aware Spatiotemporal Point Cloud Interaction Network (arXiv:2605.17742)."""
