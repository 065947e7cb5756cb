"""ROS 2 glue, nothing else. `rclpy` is imported here alone."""
