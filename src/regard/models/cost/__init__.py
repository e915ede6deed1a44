"""What networks cost: counted for one image, measured for a batch, and compared with and without attention."""
