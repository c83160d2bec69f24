"""Sweeps on SLURM and Ray: existing engines start the jobs; sweep.json, table and run folders are as everywhere.

Layer 5; submitit and ray are extras, and imported when a sweep is launched.
"""
