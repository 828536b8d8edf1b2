"""Structure from motion: where each photo was taken, and the points that the photos share."""
