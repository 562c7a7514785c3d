"""X"""
from metal.capture import Text
def missing(): return "no"
def complaints(text): return []
