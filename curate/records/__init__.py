"""The base every stage stands on: errors, settings, manifests, atomic parts, schemas. Imports nothing heavy when loaded."""
