"""Files that are whole or absent, paths, and files of older versions; start reading at `io.files`."""
