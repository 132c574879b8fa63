"""Measures of a trained system: FID and its kin, and what each layer of the code holds."""
