"""What tests of different parts share."""
