"""Measures of a trained system: FID and KID, and what each layer of the code holds."""
