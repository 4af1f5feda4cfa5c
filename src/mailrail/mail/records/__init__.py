"""Read and change the records of emails: controls, erasure, retention and overviews."""
