"""Parts of gpu_suite.py. They need torch and NumPy; every other library is asked for where it is used."""
