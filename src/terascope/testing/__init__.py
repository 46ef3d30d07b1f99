"""Shipped, never imported at run time: conformance suites, fault doubles, fakes."""
