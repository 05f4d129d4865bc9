"""An image editor executes the instructions, and the result is compared with the target."""
