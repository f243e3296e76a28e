"""A laboratory of clusters: real nodes on hosts of their own, faults on command, one history.

``python -m tests.lab`` lists the scenarios, ``python -m tests.lab SCENARIO --seed N`` replays one.
It needs root, iproute2 and nftables: hosts are network namespaces, and the network of this machine
is not touched.
"""
