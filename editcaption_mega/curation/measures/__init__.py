"""What is measured of a pair's pictures, without any model that writes."""
