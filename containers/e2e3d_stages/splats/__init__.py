"""Gaussians, cameras, pictures and SOG files: what training, compression and evaluation share."""
