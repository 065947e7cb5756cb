"""The parameter table, and what is built from it, without ROS."""
