"""Images: their grids, reading and checking them, masks."""
