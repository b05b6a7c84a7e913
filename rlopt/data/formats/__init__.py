"""The file formats that data sets and demonstrations are read from and written to."""
