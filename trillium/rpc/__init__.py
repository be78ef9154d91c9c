"""The gRPC kit that all servers share.

A service's handlers know messages and a small `Call`; `methods` turns them into endpoints of bytes
with errors, limits and logs taken care of; a front (`front`) carries bytes to endpoints. Servers
are made in `front` and channels in `channels`, and nowhere else.
"""
