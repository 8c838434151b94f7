"""Judges: what turns a product, two creatives and a market into a logit. Fitting them is `training/`'s work."""
