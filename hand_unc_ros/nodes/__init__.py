"""ROS 2 glue, nothing else. `rclpy` is imported here alone."""

import os

# Before NumPy is loaded: the matrices of a hand are small, and OpenBLAS wakes a thread per core for them, which on
# cores that are busy with images costs ten times what it saves.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
