"""What every benchmark needs: processes on chosen cores, peers in environments of their own, load, figures.

A benchmark is a script beside this folder. It starts what it measures with `processes`, gets peers and tools
with `install`, drives them with `load.py` (streams) or `wrk` (requests/s), and ends with `report.finish`.
"""
