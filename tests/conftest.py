"""Hypothesis without deadlines: the machines that run these tests are shared, and a slow example is no defect."""

from hypothesis import HealthCheck, settings

settings.register_profile("fourhabits", deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fourhabits")
