"""How programs start, end and share a machine. Knows nothing of ROS."""
