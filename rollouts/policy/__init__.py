"""Policies, populations of controllers, and batched actors; start reading at `policy.policies`."""
