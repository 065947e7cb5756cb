"""Correlation-aware aleatoric uncertainty in its monocular setting: one view to 21 joints and their covariance."""
