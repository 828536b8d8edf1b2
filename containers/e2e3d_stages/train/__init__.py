"""Gaussian splatting: a posed photo set becomes a scene of 3D Gaussians."""
