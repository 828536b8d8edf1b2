"""The earth's ellipsoid, on which GPS tells latitude, longitude and height (WGS 84, NGA.STND.0036)."""

from __future__ import annotations

# Half the long axis in metres, and the square of the eccentricity.
A = 6378137.0
E2 = 6.69437999014e-3
