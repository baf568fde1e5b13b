"""Features of pictures: networks trained by others, whose weights come with a package or from a file."""
