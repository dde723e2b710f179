"""The student: a small classifier on the CPU that is distilled from labelled windows and ships with the project."""
