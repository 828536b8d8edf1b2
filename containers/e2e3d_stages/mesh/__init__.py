"""The mesh: the surface that Gaussians are dense at, as triangles."""
