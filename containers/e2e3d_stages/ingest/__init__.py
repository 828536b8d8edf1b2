"""Photos of any origin become an image set: upright, resized, with what their EXIF says kept in a record."""
