"""Variants x seeds: which difference is real?"""
