"""Face parsing: which part of a face each pixel of a photo is."""
