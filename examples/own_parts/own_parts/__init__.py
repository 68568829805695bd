"""Parts of your own for oodgan: a loss, a metric, a callback and a source of images."""
