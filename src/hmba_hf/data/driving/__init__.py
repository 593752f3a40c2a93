"""Driving data sets: DRAMA and BDD-X, from their raw downloads and from the files that the released code reads."""
