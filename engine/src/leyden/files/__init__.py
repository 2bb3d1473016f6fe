"""Files of datasets: reading, decoding, digests and download."""
