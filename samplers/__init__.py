"""Optuna samplers that search genomes."""
